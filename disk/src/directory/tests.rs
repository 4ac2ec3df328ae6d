//! Out to etcd's directory and back again, with a crash at every step, and what is refused.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_api::raftpb::EntryType;
use kvorum_store::backend::{Backend, Bucket, CommitBatch, Operation};
use kvorum_store::keyspace::meta;
use kvorum_store::revision::Revision;
use rustix::fs::{FlockOperation, flock};

use super::*;
use crate::lmdb::{LmdbBackend, LmdbOptions};
use crate::wal::{HardState, Wal, WalEntry, WalMetadata, WalOptions, WalSnapshot};
use crate::{RealFileSystem, SnapDirectory, SnapshotFile};

const METADATA: WalMetadata = WalMetadata { node_id: 7, cluster_id: 8 };

/// A member of ours that was stopped: nine entries, of which the backend has `applied`, and a snapshot at the fourth.
fn member(data: &Path, applied: u64) -> Places {
    let places = Places::new(data, None);
    let snap = SnapDirectory::open(Arc::new(RealFileSystem), &places.snapshots()).unwrap();
    let voters = kvorum_api::raftpb::ConfState { voters: vec![7], ..Default::default() };
    let mut log = Wal::create(Arc::new(RealFileSystem), &places.wal, METADATA, WalOptions::default()).unwrap();
    for index in 1..=9 {
        let entry = WalEntry { entry_type: EntryType::EntryNormal, term: 2, index, data: b"data" };
        log.append(&[entry], Some(&HardState { term: 2, vote: 7, commit: index.min(5) })).unwrap();
        if index == 5 {
            snap.save(&SnapshotFile { index: 4, term: 2, ..SnapshotFile::default() }).unwrap();
            log.save_snapshot(&WalSnapshot { index: 4, term: 2, conf_state: Some(voters.clone()) }).unwrap();
        }
    }
    log.sync().unwrap();
    let backend = LmdbBackend::open(&places.backend(), LmdbOptions::default()).unwrap();
    let put = |key: &[u8], value: &[u8]| Operation::Put { bucket: Bucket::Meta, key: key.into(), value: value.into() };
    let mut operations = vec![
        put(meta::CONSISTENT_INDEX, &applied.to_be_bytes()),
        put(meta::TERM, &2_u64.to_be_bytes()),
        put(meta::CONF_STATE, b"{\"voters\":[7]}"),
        put(meta::STORAGE_VERSION, b"3.7.0"),
    ];
    for main in 2..300 {
        let value = vec![b'v'; 500].into();
        operations.push(Operation::AppendRevision { revision: Revision::new(main, 0), tombstone: false, value });
    }
    backend.commit(&CommitBatch { sequence: 1, operations }).unwrap();
    places
}

/// The same, written out.
fn etcd_member(folder: &Path, applied: u64) -> (PathBuf, Places) {
    let data = folder.join("ours");
    let places = member(&data, applied);
    let target = folder.join("etcd");
    let exported = export(&data, &places, &target).unwrap();
    assert_eq!((exported.consistent_index, exported.term), (applied, 2));
    fs::remove_dir_all(data).unwrap();
    (target.clone(), Places::new(&target, None))
}

fn request<'a>(places: &'a Places, progress: &'a mut dyn FnMut(TakeOverStep)) -> TakeOver<'a> {
    TakeOver {
        places,
        options: LmdbOptions::default(),
        check_entry: &|_| Ok(()),
        conf_state_json: &|conf_state| format!("{{\"voters\":{:?}}}", conf_state.voters).into_bytes(),
        check_store: &|_| Ok(()),
        progress,
    }
}

fn copy_tree(source: &Path, target: &Path) {
    fs::create_dir_all(target).unwrap();
    for entry in fs::read_dir(source).unwrap().map(Result::unwrap) {
        let target = target.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Everything that the backend holds.
fn content(backend: &LmdbBackend) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("content.db");
    backend.generation().write_bolt(&path, false).unwrap();
    fs::read(path).unwrap()
}

/// What a start does with a directory: it ends as ours, whatever it was.
fn start(places: &Places) -> Vec<u8> {
    match find(places).unwrap() {
        Found::Nothing => {}
        Found::Etcd => take_over(request(places, &mut |_| {})).unwrap(),
        Found::TakenOver => finish(places).unwrap(),
    }
    assert_eq!(find(places).unwrap(), Found::Nothing);
    assert!(!places.database().exists());
    let content = content(&LmdbBackend::open(&places.backend(), LmdbOptions::default()).unwrap());
    let names: Vec<_> = fs::read_dir(&places.member).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "backend, log and snapshots: {names:?}");
    content
}

#[test]
fn there_and_back_again_with_a_crash_at_every_step() {
    let folder = tempfile::tempdir().unwrap();
    let (data, places) = etcd_member(folder.path(), 7);
    let known = crate::wal::valid_snapshot_entries(&RealFileSystem, &places.wal).unwrap();
    assert_eq!(known.last().unwrap().index, 4);
    let from = known.last().unwrap().clone();
    let opened = Wal::open(Arc::new(RealFileSystem), &places.wal, &from, WalOptions::default()).unwrap();
    // What the database holds was committed, and the log says so.
    assert_eq!(opened.1.hard_state, HardState { term: 2, vote: 7, commit: 7 });
    assert_eq!((opened.1.metadata, opened.1.entries.len()), (METADATA, 5));
    drop(opened);

    let expected = fs::read(places.database()).unwrap();
    let mut crashes = Vec::new();
    let mut steps = Vec::new();
    assert_eq!(find(&places).unwrap(), Found::Etcd);
    let mut crash = |step: TakeOverStep| {
        let copy = folder.path().join(format!("crash-{}", crashes.len()));
        copy_tree(&data, &copy);
        crashes.push(copy);
        steps.push(step);
    };
    take_over(request(&places, &mut crash)).unwrap();
    assert!(matches!(steps[0], TakeOverStep::Begun { .. }), "{steps:?}");
    assert_eq!(steps[1..], [TakeOverStep::Prepared, TakeOverStep::Switched, TakeOverStep::Removed]);
    for crash in crashes {
        assert!(start(&Places::new(&crash, None)) == expected, "{}", crash.display());
    }
    assert!(start(&places) == expected);
    // Half of an environment, and one whose database is removed but not the mark.
    let half = folder.path().join("half");
    let (_, half_places) = etcd_member(&half, 7);
    fs::create_dir(half_places.member.join("backend.1.tmp")).unwrap();
    fs::write(half_places.member.join("backend.1.tmp/data.mdb"), b"half").unwrap();
    start(&half_places);
    fs::write(half_places.member.join("backend.1/taken-over"), b"").unwrap();
    start(&half_places);
}

#[test]
fn the_database_of_a_received_snapshot_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (_, places) = etcd_member(folder.path(), 4);
    let received = places.snapshots().join("0000000000000004.snap.db");
    fs::rename(places.database(), &received).unwrap();
    // etcd's own stands before the snapshot.
    let (_, older) = etcd_member(&folder.path().join("older"), 3);
    fs::copy(older.database(), places.database()).unwrap();
    let expected = fs::read(&received).unwrap();
    assert!(start(&places) == expected);
    assert!(!received.exists());
    let error = take_over(request(&older, &mut |_| {})).unwrap_err().to_string();
    assert!(error.contains("0000000000000004.snap.db) is missing"), "{error}");
}

/// Tries to take over what `spoil` made of a good directory. Nothing may change.
fn refused(spoil: impl FnOnce(&Places)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (data, places) = etcd_member(folder.path(), 7);
    spoil(&places);
    let before = folder.path().join("before");
    copy_tree(&data, &before);
    let error = find(&places)
        .and_then(|found| match found {
            Found::Etcd => take_over(request(&places, &mut |_| {})),
            other => panic!("{other:?}"),
        })
        .unwrap_err();
    assert!(!Path::new(&places.backend()).exists());
    for folder in ["wal", "snap"] {
        let (now, then) = (data.join("member").join(folder), before.join("member").join(folder));
        if !then.exists() {
            continue;
        }
        for entry in fs::read_dir(then).unwrap().map(Result::unwrap) {
            assert!(fs::read(entry.path()).unwrap() == fs::read(now.join(entry.file_name())).unwrap());
        }
    }
    error.to_string()
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Replaces a database by one with this storage version, or none, and at this entry.
fn with_version(path: &Path, version: Option<&str>, index: u64) {
    with_meta(path, version, index, false);
}

/// As etcd 3.5 leaves one of 3.4 whose members did not change since, if it `has_term`.
fn with_meta(path: &Path, version: Option<&str>, index: u64, has_term: bool) {
    let mut writer = crate::bolt::BoltWriter::create(&RealFileSystem, path).unwrap();
    writer.begin_bucket(b"meta", 0).unwrap();
    writer.put(meta::CONSISTENT_INDEX, &index.to_be_bytes()).unwrap();
    if let Some(version) = version {
        writer.put(meta::STORAGE_VERSION, version.as_bytes()).unwrap();
    }
    if has_term {
        writer.put(meta::TERM, &2_u64.to_be_bytes()).unwrap();
    }
    writer.end_bucket().unwrap();
    writer.finish(true).unwrap();
}

#[test]
fn what_cannot_be_taken_over_is_named_and_left_alone() {
    let contains = |error: String, parts: &[&str]| {
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    };
    let truncated = refused(|places| change(&places.database(), |bytes| bytes.truncate(20_000)));
    contains(truncated, &["snap/db", "is damaged", "snapshot"]);
    let flipped = refused(|places| change(&places.database(), |bytes| bytes[5 * 4096] ^= 0x40));
    contains(flipped, &["snap/db", "is damaged"]);
    let foreign = refused(|places| fs::write(places.database(), vec![b'x'; 70_000]).unwrap());
    contains(foreign, &["snap/db"]);
    contains(
        refused(|places| with_version(&places.database(), Some("3.8.0"), 7)),
        &["snap/db", "\"3.8.0\"", "migrate"],
    );
    contains(refused(|places| with_version(&places.database(), None, 7)), &["snap/db", "3.4 or older", "etcd 3.5"]);
    contains(refused(|places| with_version(&places.database(), Some("3.6.0"), 70)), &["wal", "do not belong together"]);
    contains(
        refused(|places| fs::remove_dir_all(&places.wal).unwrap()),
        &["snap/db", "no write-ahead log", "--wal-dir"],
    );
    let log = refused(|places| {
        let segment = fs::read_dir(&places.wal).unwrap().next().unwrap().unwrap().path();
        change(&segment, |bytes| bytes[0x70] ^= 1);
    });
    contains(log, &["write-ahead log", ".wal"]);
    let mut held = None;
    let running = refused(|places| {
        let file = fs::File::open(places.database()).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        held = Some(file);
    });
    contains(running, &["snap/db", "stop the etcd"]);
    drop(held);
}

/// etcd 3.5 stores who the members are only once they change.
#[test]
fn members_that_the_database_does_not_tell_are_those_of_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let (_, places) = etcd_member(folder.path(), 7);
    let snap = SnapDirectory::open(Arc::new(RealFileSystem), &places.snapshots()).unwrap();
    let voters = kvorum_api::raftpb::ConfState { voters: vec![7, 9], ..Default::default() };
    snap.save(&SnapshotFile { index: 4, term: 2, conf_state: voters, ..SnapshotFile::default() }).unwrap();
    with_meta(&places.database(), None, 7, true);
    start(&places);
    let backend = LmdbBackend::open(&places.backend(), LmdbOptions::default()).unwrap();
    let mut stored = Vec::new();
    backend
        .read(&mut |transaction| {
            transaction.fetch(Bucket::Meta, meta::CONF_STATE, &mut |value| stored = value.to_vec()).map(drop)
        })
        .unwrap();
    assert_eq!(String::from_utf8(stored).unwrap(), "{\"voters\":[7, 9]}");

    let unknown = refused(|places| {
        with_meta(&places.database(), None, 7, true);
        for entry in fs::read_dir(places.snapshots()).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().ends_with(".snap") {
                change(&entry.path(), |bytes| bytes[9] ^= 1);
            }
        }
    });
    assert!(unknown.contains("snap/db") && unknown.contains("saved a snapshot"), "{unknown}");
}

#[test]
fn an_entry_or_a_store_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (_, places) = etcd_member(folder.path(), 7);
    let mut seen = Vec::new();
    let seen_entries = std::cell::RefCell::new(&mut seen);
    let check = |entry: &kvorum_api::raftpb::Entry| {
        seen_entries.borrow_mut().push(entry.index());
        if entry.index() == 9 { Err("upgrade first".to_owned()) } else { Ok(()) }
    };
    let mut progress = |_| {};
    let error = take_over(TakeOver { check_entry: &check, ..request(&places, &mut progress) }).unwrap_err().to_string();
    assert!(error.ends_with("entry 9: upgrade first"), "{error}");
    assert_eq!(seen, [8, 9]);
    let check_store = |_: &crate::Generation| Err("no store".to_owned());
    let mut progress = |_| {};
    let error = take_over(TakeOver { check_store: &check_store, ..request(&places, &mut progress) }).unwrap_err();
    assert!(error.to_string().contains("snap/db: no store"), "{error}");
    assert_eq!(find(&places).unwrap(), Found::Etcd);
    assert_eq!(fs::read_dir(&places.member).unwrap().count(), 2, "nothing is left");
}

#[test]
fn two_databases_are_not_chosen_between() {
    let folder = tempfile::tempdir().unwrap();
    let (_, places) = etcd_member(folder.path(), 7);
    let database = fs::read(places.database()).unwrap();
    start(&places);
    fs::write(places.database(), database).unwrap();
    let error = find(&places).unwrap_err().to_string();
    assert!(error.contains("snap/db") && error.contains("move away"), "{error}");
}

#[test]
fn a_directory_is_written_out_only_to_an_empty_place() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ours");
    let places = member(&data, 7);
    let target = folder.path().join("there");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("file"), b"mine").unwrap();
    let error = export(&data, &places, &target).unwrap_err().to_string();
    assert!(error.contains("there: it is not empty"), "{error}");
    fs::remove_file(target.join("file")).unwrap();
    // A crash left something of an earlier attempt.
    fs::create_dir(folder.path().join("there.tmp")).unwrap();
    export(&data, &places, &target).unwrap();
    assert!(!folder.path().join("there.tmp").exists());
    let held = fs::File::open(&data).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let error = export(&data, &places, &folder.path().join("other")).unwrap_err().to_string();
    assert!(error.contains("stop the Kvorum"), "{error}");
    drop(held);
    let error = export(&target, &Places::new(&target, None), &folder.path().join("other")).unwrap_err().to_string();
    assert!(error.contains("no database of Kvorum's"), "{error}");
    assert!(!folder.path().join("other").exists());
}
