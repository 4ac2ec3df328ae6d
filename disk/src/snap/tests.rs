//! Snapshot files on a disk that forgets.

#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use kvorum_api::raftpb::ConfState;

use super::{SnapDirectory, SnapError, SnapshotFile, decode, encode};
use crate::WalSnapshot;
use crate::file::{FileSystem, SimulatedFileSystem};

const DIRECTORY: &str = "/data/member/snap";

fn directory(disk: &SimulatedFileSystem) -> SnapDirectory {
    SnapDirectory::open(Arc::new(disk.clone()), Path::new(DIRECTORY)).unwrap()
}

fn snapshot(term: u64, index: u64) -> SnapshotFile {
    let conf_state = ConfState { voters: vec![1, 2], auto_leave: Some(false), ..ConfState::default() };
    SnapshotFile { index, term, conf_state, data: "{}".into() }
}

fn known(snapshots: &[&SnapshotFile]) -> Vec<WalSnapshot> {
    snapshots.iter().map(|known| WalSnapshot { index: known.index, term: known.term, conf_state: None }).collect()
}

#[test]
fn the_bytes_are_etcds() {
    let small = SnapshotFile { index: 10, term: 2, conf_state: ConfState::default(), data: "d".into() };
    // snappb.snapshot{crc, data}, and inside raftpb.Snapshot{data, metadata{conf_state{auto_leave}, index, term}}
    assert_eq!(encode(&small)[..1], [0x08]);
    let inner = b"\x0a\x01d\x12\x08\x0a\x02\x28\0\x10\x0a\x18\x02";
    assert!(encode(&small).ends_with(inner));
    assert_eq!(decode(&encode(&snapshot(3, 4))).unwrap(), snapshot(3, 4));
    assert_eq!(decode(b"").unwrap_err(), "empty snapshot");
}

#[test]
fn the_newest_that_the_log_knows_is_loaded() {
    let disk = SimulatedFileSystem::new();
    let files = directory(&disk);
    let (first, second, third) = (snapshot(1, 100), snapshot(2, 50), snapshot(2, 200));
    for snapshot in [&first, &third, &second] {
        files.save(snapshot).unwrap();
    }
    let load = |snapshots: &[&SnapshotFile]| files.load_newest(&known(snapshots)).unwrap().snapshot;
    assert_eq!(load(&[&first, &second, &third]), Some(third.clone()));
    assert_eq!(load(&[&first, &second]), Some(second.clone()));
    assert_eq!(load(&[]), None);
    assert!(matches!(files.save(&SnapshotFile::default()), Err(SnapError::Empty)));

    assert_eq!(files.purge(0).unwrap().len(), 0);
    assert_eq!(files.purge(2).unwrap(), [Path::new(DIRECTORY).join("0000000000000001-0000000000000064.snap")]);
    assert_eq!(load(&[&first, &second]), Some(second));
}

#[test]
fn broken_files_are_set_aside() {
    let disk = SimulatedFileSystem::new();
    let files = directory(&disk);
    files.save(&snapshot(1, 100)).unwrap();
    let path = files.save(&snapshot(1, 200)).unwrap();
    let intact = encode(&snapshot(1, 200));
    let mut harmless = 0;
    for position in 0..intact.len() * 8 {
        disk.tamper(&path, |bytes| bytes[position / 8] ^= 1 << (position % 8));
        let loaded = files.load_newest(&known(&[&snapshot(1, 100), &snapshot(1, 200)])).unwrap();
        if loaded.snapshot == Some(snapshot(1, 200)) {
            // A varint of five bytes has three bits that mean nothing.
            harmless += 1;
        } else {
            assert_eq!(loaded.snapshot, Some(snapshot(1, 100)), "bit {position}");
            assert_eq!(loaded.broken[0].0, path.with_extension("snap.broken"));
        }
        files.save(&snapshot(1, 200)).unwrap();
    }
    assert!(harmless <= 3);
}

#[test]
fn a_saved_snapshot_survives_and_a_half_one_never_shows() {
    for calls in 0..20 {
        for seed in 0..20 {
            let disk = SimulatedFileSystem::new();
            directory(&disk).save(&snapshot(1, 100)).unwrap();
            disk.power_off_at(calls);
            let saved = directory(&disk).save(&snapshot(1, 200)).is_ok();
            let disk = disk.crash(seed);
            let loaded = directory(&disk).load_newest(&known(&[&snapshot(1, 100), &snapshot(1, 200)])).unwrap();
            assert_eq!(loaded.broken, []);
            let index = loaded.snapshot.unwrap().index;
            assert!(index == 200 || (index == 100 && !saved), "call {calls}, seed {seed}");
        }
    }
}

#[test]
fn errors_name_the_file() {
    let disk = SimulatedFileSystem::new();
    let files = directory(&disk);
    disk.fail_call(2, ErrorKind::StorageFull);
    let error = files.save(&snapshot(1, 100)).unwrap_err().to_string();
    let path = "/data/member/snap/0000000000000001-0000000000000064.snap.tmp";
    assert_eq!(error, format!("snap: cannot sync {path}: simulated failure"));
    let names = |disk: &SimulatedFileSystem| disk.list(Path::new(DIRECTORY)).unwrap();
    assert_eq!(names(&disk).len(), 1);
    directory(&disk);
    assert_eq!(names(&disk).len(), 0, "what was left is removed at the next start");
    files.save(&snapshot(1, 100)).unwrap();
}
