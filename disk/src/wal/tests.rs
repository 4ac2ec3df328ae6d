//! The log against etcd's bytes, against a disk that forgets, and against damage.

#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_api::raftpb::{ConfState, Entry, EntryType};
use proptest::prelude::*;

use super::*;
use crate::file::SimulatedFileSystem;
use crate::{DiskError, File, FileSystem, OpenMode, RealFileSystem};

const METADATA: WalMetadata = WalMetadata { node_id: 0x1234_5678_9abc_def0, cluster_id: 77 };

/// The records of a member of etcd 3.7.1 that started, was elected, and stored `foo` = `bar`.
const ETCD_LOG: &str = include_str!("etcd_3_7_log.hex");

fn directory() -> PathBuf {
    PathBuf::from("/data/member/wal")
}

fn etcd_log() -> Vec<u8> {
    let digits: String = ETCD_LOG.split_whitespace().collect();
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn small_segments() -> WalOptions {
    WalOptions { segment_size_bytes: 4096, large_batch_bytes_min: 600, small_batches_min: 1, ..WalOptions::default() }
}

fn create(disk: &SimulatedFileSystem, options: WalOptions) -> Wal {
    Wal::create(Arc::new(disk.clone()), &directory(), METADATA, options).unwrap()
}

fn open(disk: &SimulatedFileSystem, options: WalOptions) -> Result<(Wal, Recovered), WalOpenError> {
    Wal::open(Arc::new(disk.clone()), &directory(), &WalSnapshot::default(), options)
}

fn entry(term: u64, index: u64, data: &[u8]) -> WalEntry<'_> {
    WalEntry { entry_type: EntryType::EntryNormal, term, index, data }
}

fn contents(recovered: &Recovered) -> Vec<(u64, u64, Vec<u8>)> {
    recovered.entries.iter().map(|entry| (entry.term(), entry.index(), entry.data().to_vec())).collect()
}

fn names(disk: &SimulatedFileSystem) -> Vec<String> {
    disk.list(&directory()).unwrap()
}

fn conf_state() -> ConfState {
    ConfState { voters: vec![1], ..ConfState::default() }
}

#[test]
fn records_are_etcds_bytes() {
    let golden = etcd_log();
    let disk = SimulatedFileSystem::new();
    install(&disk, &segment_name(0, 0), &golden);
    let (wal, recovered) = open(&disk, WalOptions::default()).unwrap();
    drop(wal);

    // etcd's second term begins after two more states; up to there both write the same.
    let vote = recovered.hard_state.vote;
    let other = SimulatedFileSystem::new();
    let mut wal =
        Wal::create(Arc::new(other.clone()), &directory(), recovered.metadata, WalOptions::default()).unwrap();
    let first = &recovered.entries[0];
    let conf_change = WalEntry {
        entry_type: EntryType::EntryConfChange,
        term: first.term(),
        index: first.index(),
        data: first.data(),
    };
    wal.append(&[conf_change], Some(&HardState { term: 1, vote: 0, commit: 1 })).unwrap();
    wal.append(&[], Some(&HardState { term: 2, vote, commit: 1 })).unwrap();
    wal.sync().unwrap();
    let written = read(&other, &directory().join(segment_name(0, 0)));
    assert_eq!(&written[..0x110], &golden[..0x110]);

    // A normal entry carries its type of zero, which etcd 3.7 leaves out and every older etcd writes.
    wal.append(&[entry(2, 2, b""), entry(2, 3, b"data")], None).unwrap();
    let written = read(&other, &directory().join(segment_name(0, 0)));
    let holds = |data: &[u8]| written.windows(data.len()).any(|window| window == data);
    assert!(holds(b"\x1a\x06\x08\0\x10\x02\x18\x02"), "without data the field is absent");
    assert!(holds(b"\x1a\x0c\x08\0\x10\x02\x18\x03\x22\x04data"));
}

/// Every kind of record, as drawn in docs/formats.md.
#[test]
fn the_drawn_bytes_are_written() {
    let disk = SimulatedFileSystem::new();
    let metadata = WalMetadata { node_id: 1, cluster_id: 2 };
    let mut wal = Wal::create(Arc::new(disk.clone()), &directory(), metadata, WalOptions::default()).unwrap();
    wal.append(&[entry(1, 1, b"data")], Some(&HardState { term: 1, vote: 1, commit: 0 })).unwrap();
    // The snapshot counts with the commit index that covers it, so that follows.
    wal.save_snapshot(&WalSnapshot { index: 1, term: 1, conf_state: Some(conf_state()) }).unwrap();
    let written = read(&disk, wal.segment_path());
    let drawn = [
        "0400000000000084 0804100000000000",
        "0e00000000000082 080110a9f6f0ac0c1a04080110020000",
        "0e00000000000082 08051099cffffd0d1a04080010000000",
        "1600000000000082 080210d7abf1cd021a0c0800100118012204646174610000",
        "1000000000000000 080310bf93d2c3041a06080110011800",
        "1400000000000084 080510a8e4b7fa021a0a080110011a040801280000000000",
        "1000000000000000 0803108ecaaceb011a06080110011801",
    ];
    let drawn: String = drawn.concat().split_whitespace().collect();
    let digits: String = written[..wal.tail as usize].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digits, drawn);
}

#[test]
fn a_log_of_etcd_is_read() {
    let disk = SimulatedFileSystem::new();
    let mut preallocated = etcd_log();
    preallocated.resize(200_000, 0);
    install(&disk, &segment_name(0, 0), &preallocated);
    let (mut wal, recovered) = open(&disk, WalOptions::default()).unwrap();
    let terms: Vec<_> = recovered.entries.iter().map(|entry| (entry.term(), entry.index())).collect();
    assert_eq!(terms, [(1, 1), (2, 2), (2, 3), (2, 4), (2, 5)]);
    assert_eq!(recovered.entries[0].r#type, Some(EntryType::EntryConfChange as i32));
    assert_eq!(recovered.entries[1].r#type, Some(EntryType::EntryNormal as i32));
    assert_eq!((recovered.hard_state.term, recovered.hard_state.commit), (2, 5));
    assert_eq!(recovered.repair, None);
    assert_eq!(recovered.metadata.node_id, recovered.hard_state.vote);

    wal.append(&[entry(2, 6, b"six")], None).unwrap();
    wal.sync().unwrap();
    drop(wal);
    let (_, again) = open(&disk, WalOptions::default()).unwrap();
    assert_eq!(again.entries[..5], recovered.entries[..]);
    assert_eq!(again.entries[5].data(), b"six");
}

#[test]
fn appended_is_recovered() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, WalOptions::default());
    let state = HardState { term: 3, vote: 9, commit: 1 };
    let appended = wal.append(&[entry(3, 1, b""), entry(3, 2, b"two"), entry(3, 3, &[7; 5000])], Some(&state)).unwrap();
    assert!(appended.must_sync);
    assert_eq!(wal.sync().unwrap().as_micros(), 100);
    assert_eq!(wal.sync().unwrap().as_micros(), 0, "nothing new to sync");
    // Entries that raft replaces are replaced, and those behind them are gone.
    wal.append(&[entry(4, 2, b"other")], None).unwrap();
    drop(wal);

    let (wal, recovered) = open(&disk, WalOptions::default()).unwrap();
    assert_eq!(contents(&recovered), [(3, 1, vec![]), (4, 2, b"other".to_vec())]);
    assert_eq!(recovered.hard_state, state);
    assert_eq!(recovered.metadata, METADATA);
    assert_eq!((wal.last_index(), wal.hard_state()), (2, state));
}

#[test]
fn only_what_raft_needs_must_be_synced() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, WalOptions::default());
    let mut must_sync =
        |entries: &[WalEntry<'_>], state: HardState| wal.append(entries, Some(&state)).unwrap().must_sync;
    let state = HardState { term: 1, vote: 0, commit: 0 };
    assert!(!must_sync(&[], HardState::default()), "an empty state is not written");
    assert!(must_sync(&[], state), "term");
    assert!(!must_sync(&[], state), "the same");
    assert!(!must_sync(&[], HardState { commit: 1, ..state }), "commit");
    assert!(must_sync(&[], HardState { vote: 1, ..state }), "vote");
    assert!(must_sync(&[entry(1, 1, b"")], HardState { vote: 1, ..state }), "entries");
}

/// Of a busy log's batches some are small; space is zeroed again when it is no longer busy.
#[test]
fn nothing_is_zeroed_while_large_batches_come() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, WalOptions::default());
    let (small, large) = (vec![1; 1000], vec![2; 100_000]);
    let mut index = 0;
    let mut append = |wal: &mut Wal, data: &[u8]| {
        index += 1;
        wal.append(&[entry(1, index, data)], None).unwrap();
        wal.sync().unwrap();
        wal.statistics().zeroed_bytes
    };
    let idle = append(&mut wal, &small);
    assert!(idle > 0);
    for _ in 0..20 {
        for data in [&large, &small, &small] {
            assert_eq!(append(&mut wal, data), idle);
        }
    }
    let busy = (2..SMALL_BATCHES_MIN - 1).map(|_| append(&mut wal, &small)).max();
    assert_eq!(busy, Some(idle));
    assert!(append(&mut wal, &small) > idle);
    drop(wal);
    let (_, recovered) = open(&disk, WalOptions::default()).unwrap();
    assert_eq!(recovered.entries.len() as u64, index);
}

#[test]
fn full_segments_are_left_and_purged() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, small_segments());
    let state = HardState { term: 1, vote: 1, commit: 40 };
    for index in 1..=40 {
        let appended = wal.append(&[entry(1, index, &[index as u8; 500])], Some(&state)).unwrap();
        assert_eq!(appended.must_sync, !names(&disk).last().unwrap().ends_with(&format!("{:016x}.wal", index + 1)));
        wal.sync().unwrap();
    }
    assert_eq!(names(&disk).len(), 6);
    assert_eq!(wal.statistics().cuts, 5);
    let first_index = parse_segment_name(&names(&disk)[3]).unwrap().1;

    assert_eq!(purge(&disk, &directory(), 2).unwrap(), Vec::<PathBuf>::new(), "all are in use");
    wal.save_snapshot(&WalSnapshot { index: first_index + 2, term: 1, conf_state: Some(conf_state()) }).unwrap();
    wal.release_to(first_index + 2);
    assert_eq!(purge(&disk, &directory(), 4).unwrap().len(), 2);
    assert_eq!(purge(&disk, &directory(), 1).unwrap().len(), 1, "from the snapshot on they are in use");
    drop(wal);

    let from = WalSnapshot { index: first_index + 2, term: 1, conf_state: None };
    let disk: Arc<dyn FileSystem> = Arc::new(disk);
    let (_, recovered) = Wal::open(disk.clone(), &directory(), &from, small_segments()).unwrap();
    let indexes: Vec<_> = recovered.entries.iter().map(Entry::index).collect();
    assert_eq!(indexes, (first_index + 3..=40).collect::<Vec<_>>());
    assert_eq!(recovered.hard_state, state);

    let known = valid_snapshot_entries(&*disk, &directory()).unwrap();
    let with_leave = ConfState { auto_leave: Some(false), ..conf_state() };
    assert_eq!(known, [WalSnapshot { conf_state: Some(with_leave), ..from.clone() }]);

    let wrong_term = WalSnapshot { term: 2, ..from };
    let error = Wal::open(disk.clone(), &directory(), &wrong_term, small_segments()).err().unwrap();
    assert!(matches!(error, WalOpenError::SnapshotMismatch { recorded_term: 1, .. }), "{error}");
    let error = Wal::open(disk, &directory(), &WalSnapshot::default(), small_segments()).err().unwrap();
    assert!(matches!(error, WalOpenError::NoSegmentFor { index: 0, .. }), "{error}");
}

#[test]
fn older_entries_are_read_while_the_log_is_written() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, small_segments());
    for index in 1..=200 {
        wal.append(&[entry(1, index, &[7; 100])], None).expect("room");
    }
    wal.append(&[entry(2, 150, &[8; 100])], None).expect("room");
    wal.sync().expect("a working disk");
    let read = |low, high, bytes| {
        let entries = read_entries(&disk, &directory(), low, high, bytes).expect("readable");
        entries.iter().map(|entry| (entry.index(), entry.term())).collect::<Vec<_>>()
    };
    assert_eq!(read(40, 43, usize::MAX), [(40, 1), (41, 1), (42, 1)]);
    assert_eq!(read(40, 100, 250).len(), 3, "the one that reaches the bound is still given");
    assert_eq!(read(148, 200, usize::MAX), [(148, 1), (149, 1), (150, 2)], "what was overwritten is gone");
    assert!(names(&disk).len() > 2, "there are several segments");
    wal.save_snapshot(&WalSnapshot { index: 149, term: 1, conf_state: Some(conf_state()) }).expect("a working disk");
    wal.release_to(149);
    purge(&disk, &directory(), 1).expect("a working disk");
    let first = first_index(&disk, &directory()).expect("segments");
    assert!(first > 40);
    assert!(read(40, 43, usize::MAX).is_empty());
    assert_eq!(read(149, 300, usize::MAX), [(149, 1), (150, 2)]);
}

#[test]
fn a_snapshot_beyond_the_commit_is_not_valid() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, WalOptions::default());
    // Without any state there is no commit to go with it.
    wal.save_snapshot(&WalSnapshot { index: 5, term: 1, conf_state: Some(conf_state()) }).unwrap();
    let known = valid_snapshot_entries(&disk, &directory()).unwrap();
    assert_eq!(known, [WalSnapshot::default()]);
}

#[test]
fn a_snapshot_brings_the_commit_it_needs_to_count() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, small_segments());
    let mut index = 0;
    // The commit index stays behind, as it does when it is written with the next entries only.
    while names(&disk).len() < 4 {
        index += 1;
        let state = HardState { term: 1, vote: 1, commit: 1 };
        wal.append(&[entry(1, index, &[1; 500])], (index == 1).then_some(&state)).unwrap();
        wal.sync().unwrap();
    }
    let snapshot = WalSnapshot { index, term: 1, conf_state: Some(conf_state()) };
    wal.save_snapshot(&snapshot).unwrap();
    wal.release_to(index);
    purge(&disk, &directory(), 1).unwrap();
    drop(wal);
    let disk = disk.crash(1);
    let known = valid_snapshot_entries(&disk, &directory()).unwrap();
    assert_eq!(known.last().map(|known| (known.index, known.term)), Some((index, 1)));
    let (_, recovered) = Wal::open(Arc::new(disk), &directory(), &snapshot, small_segments()).unwrap();
    assert_eq!(recovered.hard_state, HardState { term: 1, vote: 1, commit: index });
}

#[test]
fn a_gap_between_segments_is_refused() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, small_segments());
    for index in 1..=20 {
        wal.append(&[entry(1, index, &[1; 1000])], None).unwrap();
    }
    drop(wal);
    let name = names(&disk)[1].clone();
    disk.remove_file(&directory().join(name)).unwrap();
    assert!(matches!(open(&disk, small_segments()), Err(WalOpenError::MissingSegment { .. })));
}

#[test]
fn a_log_may_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Wal>();
}

#[test]
fn one_writer_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("member/wal");
    let disk: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
    let wal = Wal::create(disk.clone(), &path, METADATA, WalOptions::default()).unwrap();
    let open = || Wal::open(disk.clone(), &path, &WalSnapshot::default(), WalOptions::default());
    assert!(matches!(open(), Err(WalOpenError::Locked { .. })));
    assert!(matches!(
        Wal::create(disk.clone(), &path, METADATA, WalOptions::default()),
        Err(WalOpenError::Exists { .. })
    ));
    drop(wal);
    open().unwrap();
}

#[test]
fn the_real_disk_keeps_what_the_simulated_one_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("member/wal");
    let disk: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
    let mut wal = Wal::create(disk.clone(), &path, METADATA, small_segments()).unwrap();
    for index in 1..=30 {
        wal.append(&[entry(1, index, &[index as u8; 700])], Some(&HardState { term: 1, vote: 1, commit: index }))
            .unwrap();
        wal.sync().unwrap();
    }
    drop(wal);
    let (_, recovered) = Wal::open(disk, &path, &WalSnapshot::default(), small_segments()).unwrap();
    assert_eq!(recovered.entries.len(), 30);
    assert_eq!(recovered.hard_state.commit, 30);
}

#[test]
fn a_failed_sync_is_final_and_names_the_file() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, WalOptions::default());
    wal.append(&[entry(1, 1, b"one")], None).unwrap();
    disk.fail_call(0, ErrorKind::Other);
    let error = wal.sync().unwrap_err().to_string();
    assert_eq!(error, format!("cannot sync {}: simulated failure", directory().join(segment_name(0, 0)).display()));
    assert_eq!(wal.sync().unwrap_err().to_string(), error);
    assert_eq!(wal.append(&[entry(1, 2, b"two")], None).unwrap_err().to_string(), error);
    let snapshot = WalSnapshot { index: 1, term: 1, conf_state: Some(conf_state()) };
    assert_eq!(wal.save_snapshot(&snapshot).unwrap_err().to_string(), error);
}

#[test]
fn a_full_disk_is_final_until_there_is_room() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, WalOptions::default());
    disk.limit_capacity(Some(150_000));
    let mut synced = 0;
    let error = loop {
        match wal.append(&[entry(1, synced + 1, &[5; 3000])], None) {
            Ok(_) => wal.sync().unwrap(),
            Err(error) => break error,
        };
        synced += 1;
    };
    assert!(error.is_full(), "{error}");
    assert!(wal.append(&[], Some(&HardState { term: 1, vote: 1, commit: 1 })).unwrap_err().is_full());
    drop(wal);
    disk.limit_capacity(None);
    let (mut wal, recovered) = open(&disk, WalOptions::default()).unwrap();
    assert_eq!(recovered.entries.len() as u64, synced);
    wal.append(&[entry(1, synced + 1, b"room again")], None).unwrap();
    wal.sync().unwrap();
}

/// A process that was killed leaves records and names that only the system's memory holds. Who opens the log reads them,
/// acts on them, and must find them again after the machine stops.
#[test]
fn what_was_read_at_open_survives_a_crash() {
    for failing_call in 0.. {
        let disk = SimulatedFileSystem::new();
        let mut wal = create(&disk, small_segments());
        let calls_before = disk.calls();
        disk.fail_call(failing_call, ErrorKind::Other);
        let data = [7; 1000];
        for index in 1..=6 {
            if wal.append(&[entry(1, index, &data)], None).is_err() {
                break;
            }
        }
        drop(wal);
        if disk.calls() <= calls_before + failing_call {
            assert!(failing_call > 10, "a segment was cut");
            return;
        }
        let (wal, read) = open(&disk, small_segments()).unwrap();
        drop(wal);
        for seed in 0..5 {
            let after = disk.crash(seed);
            let (_wal, recovered) = open(&after, small_segments()).unwrap();
            assert_eq!(contents(&recovered).len(), contents(&read).len(), "call {failing_call}, seed {seed}");
        }
    }
}

#[test]
fn a_torn_tail_is_cut_off_and_kept_aside() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, WalOptions::default());
    wal.append(&[entry(1, 1, &[1; 300])], None).unwrap();
    let torn_at = read(&disk, wal.segment_path()).iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let torn_at = torn_at.next_multiple_of(8) as u64;
    wal.append(&[entry(1, 2, &[2; 3000])], None).unwrap();
    let path = wal.segment_path().to_owned();
    drop(wal);
    disk.tamper(&path, |bytes| bytes[1024..1536].fill(0));
    let found = read(&disk, &path);

    let (mut wal, recovered) = open(&disk, WalOptions::default()).unwrap();
    assert_eq!(contents(&recovered), [(1, 1, vec![1; 300])]);
    let repair = recovered.repair.unwrap();
    assert_eq!((repair.path, repair.offset), (path, torn_at));
    assert_eq!(read(&disk, &repair.broken_copy), found);
    wal.append(&[entry(1, 2, b"again")], None).unwrap();
    drop(wal);
    let (_, recovered) = open(&disk, WalOptions::default()).unwrap();
    assert_eq!(recovered.entries[1].data(), b"again");
    assert_eq!(recovered.repair, None);
}

/// The first sector of a torn batch may be missing while later ones are there: nothing of it may come back.
#[test]
fn leftovers_behind_the_end_are_cut_off() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, WalOptions::default());
    wal.append(&[entry(1, 1, b"one")], None).unwrap();
    let path = wal.segment_path().to_owned();
    let end = wal.tail;
    drop(wal);
    disk.tamper(&path, |bytes| {
        bytes.resize(300_000, 0);
        bytes[299_000..].fill(7);
    });
    let (_, recovered) = open(&disk, WalOptions::default()).unwrap();
    assert_eq!(contents(&recovered), [(1, 1, b"one".to_vec())]);
    assert_eq!(recovered.repair, None);
    assert_eq!(read(&disk, &path).len() as u64, end);
}

#[test]
fn a_damaged_length_does_not_hide_what_follows() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, WalOptions::default());
    let offset = wal.tail;
    wal.append(&[entry(1, 1, b"one"), entry(1, 2, b"two"), entry(1, 3, b"three")], None).unwrap();
    let path = wal.segment_path().to_owned();
    drop(wal);
    // etcd takes a length beyond the file for a torn tail and would lose all three.
    disk.tamper(&path, |bytes| bytes[offset as usize + 5] ^= 0x40);
    let error = open(&disk, WalOptions::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        format!("wal: the length word is damaged in file '{}' at position: {offset}", path.display())
    );
}

/// A length beyond the file was believed: etcd made room for it, or panicked. Here it is a torn tail or an error, and nothing
/// is made room for.
#[test]
fn cve_2020_15106_cve_2020_15112_lengths_beyond_the_file() {
    for length in [0xff, 1 << 20, 1 << 31, 1 << 40, (1 << 55) - 1, 1 << 55, 1 << 63, u64::MAX, u64::MAX >> 8] {
        for has_more in [true, false] {
            let disk = SimulatedFileSystem::new();
            let mut wal = create(&disk, WalOptions::default());
            wal.append(&[entry(1, 1, b"one")], None).unwrap();
            let offset = wal.tail as usize;
            if has_more {
                wal.append(&[entry(1, 2, b"two"), entry(1, 3, b"three")], None).unwrap();
            }
            let path = wal.segment_path().to_owned();
            drop(wal);
            disk.tamper(&path, |bytes| bytes[offset..offset + 8].copy_from_slice(&u64::to_le_bytes(length)));
            match open(&disk, WalOptions::default()) {
                Ok((_, recovered)) => assert_eq!(contents(&recovered), [(1, 1, b"one".to_vec())], "length {length:x}"),
                Err(error) => assert!(error.to_string().contains(&path.display().to_string()), "{length:x}: {error}"),
            }
        }
    }
}

/// Every bit of a small log in turn: the log is refused, or everything in it is there.
#[test]
fn no_flipped_bit_goes_unnoticed() {
    let disk = SimulatedFileSystem::new();
    let mut wal = create(&disk, small_segments());
    let state = HardState { term: 1, vote: 0x1234_5678_9abc_def0, commit: 2 };
    let change = WalEntry { entry_type: EntryType::EntryConfChange, term: 1, index: 1, data: b"conf change" };
    wal.append(&[change, entry(1, 2, b"")], Some(&state)).unwrap();
    wal.append(&[entry(1, 3, &[3; 4200])], None).unwrap();
    wal.append(&[entry(2, 4, b"four"), entry(2, 5, &[5; 700])], Some(&HardState { term: 2, ..state })).unwrap();
    wal.save_snapshot(&WalSnapshot { index: 4, term: 2, conf_state: Some(conf_state()) }).unwrap();
    wal.append(&[entry(2, 6, b"")], Some(&HardState { term: 2, commit: 5, ..state })).unwrap();
    wal.sync().unwrap();
    let end = wal.tail;
    drop(wal);
    let (wal, intact) = open(&disk, small_segments()).unwrap();
    drop(wal);

    let segments = names(&disk);
    assert_eq!(segments.len(), 2);
    let mut refused = 0;
    for (name, length) in [(&segments[0], None), (&segments[1], Some(end as usize + 600))] {
        let path = directory().join(name);
        let original = read(&disk, &path);
        for position in 0..length.unwrap_or(original.len()) * 8 {
            disk.tamper(&path, |bytes| {
                *bytes = original.clone();
                bytes[position / 8] ^= 1 << (position % 8);
            });
            match open(&disk, small_segments()) {
                Err(_) => refused += 1,
                Ok((_, found)) => {
                    assert_eq!(contents(&found), contents(&intact), "bit {position} of {name}");
                    assert_eq!(found.hard_state, intact.hard_state, "bit {position} of {name}");
                    assert_eq!(found.metadata, intact.metadata, "bit {position} of {name}");
                    assert!(length.is_some() && position as u64 / 8 >= end, "bit {position} of {name} does not matter");
                }
            }
        }
        disk.tamper(&path, |bytes| *bytes = original);
    }
    assert!(refused > 40_000);
}

/// One record of the model: what a reader must have seen if it has seen this much.
#[derive(Clone, Debug)]
enum Written {
    Entry(u64, u64, Vec<u8>),
    State(HardState),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Expected {
    entries: Vec<(u64, u64, Vec<u8>)>,
    hard_state: HardState,
}

impl Expected {
    fn add(&mut self, written: &Written) {
        match written {
            Written::Entry(term, index, data) => {
                self.entries.truncate(*index as usize - 1);
                self.entries.push((*term, *index, data.clone()));
            }
            Written::State(state) => self.hard_state = *state,
        }
    }
}

/// A batch: how many entries are replaced, the sizes of the new ones, whether a state comes along, and whether it is synced.
#[derive(Clone, Debug)]
struct Batch {
    replaced: u64,
    sizes: Vec<usize>,
    with_state: bool,
    is_synced: bool,
}

fn batch() -> impl Strategy<Value = Batch> {
    let size = prop_oneof![0..40usize, 300..1500usize, Just(0), 2000..6000usize];
    (0..3u64, prop::collection::vec(size, 0..5), any::<bool>(), any::<bool>())
        .prop_map(|(replaced, sizes, with_state, is_synced)| Batch { replaced, sizes, with_state, is_synced })
}

/// What the driver of the log knows.
#[derive(Default)]
struct Model {
    written: Vec<Written>,
    /// So many of them are durable.
    synced: usize,
    last_index: u64,
    term: u64,
}

impl Model {
    /// Appends batches until the disk fails.
    fn drive(&mut self, wal: &mut Wal, batches: &[Batch]) -> Result<(), DiskError> {
        for batch in batches {
            let step_back = batch.replaced.min(self.last_index);
            self.term += u64::from(step_back > 0 || self.term == 0);
            self.last_index -= step_back;
            let payloads: Vec<Vec<u8>> = batch
                .sizes
                .iter()
                .enumerate()
                .map(|(position, size)| vec![(self.written.len() + position) as u8; *size])
                .collect();
            let mut entries = Vec::new();
            for data in &payloads {
                self.last_index += 1;
                entries.push(entry(self.term, self.last_index, data));
                self.written.push(Written::Entry(self.term, self.last_index, data.clone()));
            }
            let state = HardState { term: self.term, vote: 1, commit: self.last_index };
            if batch.with_state {
                self.written.push(Written::State(state));
            }
            let appended = wal.append(&entries, batch.with_state.then_some(&state))?;
            if batch.is_synced {
                wal.sync()?;
                self.synced = self.written.len();
            } else if !entries.is_empty() && !appended.must_sync {
                self.synced = self.written.len();
            }
            if step_back > 0 && entries.is_empty() {
                self.last_index += step_back;
            }
        }
        Ok(())
    }

    /// What was recovered must be some beginning of what was written, and hold all that was synced.
    fn check(&self, recovered: &Recovered) -> Result<usize, String> {
        let found = Expected { entries: contents(recovered), hard_state: recovered.hard_state };
        let mut expected = Expected::default();
        let mut best = None;
        for count in 0..=self.written.len() {
            if count > 0 {
                expected.add(&self.written[count - 1]);
            }
            if count >= self.synced && expected == found {
                best = Some(count);
            }
        }
        best.ok_or_else(|| format!("no beginning of at least {} of {} records", self.synced, self.written.len()))
    }
}

/// Runs batches on a disk that dies at its `dies_at`-th call, and looks at what is left. False if it did not die.
fn crash_once(batches: &[Batch], later: &[Batch], dies_at: u64, seed: u64) -> Result<bool, TestCaseError> {
    let disk = SimulatedFileSystem::new();
    disk.power_off_at(dies_at);
    let mut model = Model::default();
    let created = Wal::create(Arc::new(disk.clone()), &directory(), METADATA, small_segments());
    let was_created = created.is_ok();
    let died = match created {
        Ok(mut wal) => model.drive(&mut wal, batches).is_err(),
        Err(_) => true,
    };

    let disk = disk.crash(seed);
    if !Wal::exists(&disk, &directory()).unwrap() {
        prop_assert!(!was_created, "a created log is there");
        create(&disk, small_segments());
        return Ok(died);
    }
    let (mut wal, recovered) =
        open(&disk, small_segments()).map_err(|error| TestCaseError::fail(format!("call {dies_at}: {error}")))?;
    let count = model.check(&recovered).map_err(|reason| TestCaseError::fail(format!("call {dies_at}: {reason}")))?;

    // The survivor goes on, and crashes again.
    let mut model = Model { written: model.written[..count].to_vec(), synced: count, ..Model::default() };
    model.last_index = recovered.entries.last().map_or(0, Entry::index);
    model.term = recovered.entries.last().map_or(0, Entry::term).max(recovered.hard_state.term) + 1;
    model.drive(&mut wal, later).unwrap();
    drop(wal);
    let disk = disk.crash(seed ^ 1);
    let (_, recovered) = open(&disk, small_segments())
        .map_err(|error| TestCaseError::fail(format!("second, call {dies_at}: {error}")))?;
    model.check(&recovered).map_err(|reason| TestCaseError::fail(format!("second, call {dies_at}: {reason}")))?;
    Ok(died)
}

/// Any call fails once, the disk goes on working, and the log is opened again: by the same machine, and after a crash.
#[test]
fn any_failing_call_is_final_and_loses_nothing_synced() {
    let batch = |sizes: &[usize], is_synced| Batch { replaced: 1, sizes: sizes.to_vec(), with_state: true, is_synced };
    let batches = [
        batch(&[10, 3000], true),
        batch(&[700], false),
        batch(&[2000, 0], true),
        batch(&[], false),
        batch(&[4000], true),
    ];
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        for call in 0.. {
            let disk = SimulatedFileSystem::new();
            let mut wal = create(&disk, small_segments());
            disk.fail_call(call, kind);
            let mut model = Model::default();
            if model.drive(&mut wal, &batches).is_ok() {
                assert!(call > 20, "all calls were tried");
                break;
            }
            assert!(wal.append(&[entry(9, 9, b"later")], None).is_err());
            drop(wal);
            let crashed = disk.crash(call);
            for disk in [disk, crashed] {
                let (_, recovered) = open(&disk, small_segments()).unwrap();
                model.check(&recovered).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_survives_a_crash_at_any_call(
        batches in prop::collection::vec(batch(), 1..12),
        later in prop::collection::vec(batch(), 0..4),
        seed in any::<u64>(),
    ) {
        let mut dies_at = 0;
        while crash_once(&batches, &later, dies_at, seed.wrapping_add(dies_at * 977))? {
            dies_at += 1;
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), keep in 0..400usize) {
        let disk = SimulatedFileSystem::new();
        let mut content = etcd_log();
        content.truncate(keep);
        content.extend(bytes);
        install(&disk, &segment_name(0, 0), &content);
        let _ = open(&disk, WalOptions::default());
    }
}

fn install(disk: &SimulatedFileSystem, name: &str, content: &[u8]) {
    disk.create_directories(&directory()).unwrap();
    let file = disk.open(&directory().join(name), OpenMode::CreateEmpty).unwrap();
    file.write_at(0, content).unwrap();
}

fn read(disk: &SimulatedFileSystem, path: &Path) -> Vec<u8> {
    let file: Box<dyn File> = disk.open(path, OpenMode::Read).unwrap();
    crate::file::read_whole(&*file).unwrap()
}
