//! The backend on a real folder.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::Arc;

use kvorum_store::backend::{Backend, Bucket, CommitBatch, Operation};
use kvorum_store::revision::Revision;

use super::{Generation, LmdbBackend, LmdbOptions};

fn open(folder: &tempfile::TempDir) -> LmdbBackend {
    LmdbBackend::open(&folder.path().join("member/snap/kvorum.lmdb"), LmdbOptions::default()).unwrap()
}

fn commit(backend: &LmdbBackend, operations: Vec<Operation>) {
    backend.commit(&CommitBatch { sequence: 0, operations }).unwrap();
}

fn append(main: i64, tombstone: bool, value: &[u8]) -> Operation {
    Operation::AppendRevision { revision: Revision::new(main, 0), tombstone, value: value.into() }
}

fn put(bucket: Bucket, key: &[u8], value: &[u8]) -> Operation {
    Operation::Put { bucket, key: key.into(), value: value.into() }
}

fn fetch(backend: &LmdbBackend, bucket: Bucket, key: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    backend
        .read(&mut |transaction| {
            let exists = transaction.fetch(bucket, key, &mut |value| found = Some(value.to_vec()))?;
            assert_eq!(exists, found.is_some());
            Ok(())
        })
        .unwrap();
    found
}

fn scan(backend: &LmdbBackend, bucket: Bucket, from: &[u8], until: Option<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    backend
        .read(&mut |transaction| {
            transaction.scan(bucket, from, until, &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
        })
        .unwrap();
    found
}

#[test]
fn committed_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(&folder);
    commit(
        &backend,
        vec![append(2, false, b"two"), append(3, true, b"three"), put(Bucket::Meta, b"consistent_index", b"7")],
    );
    commit(&backend, vec![put(Bucket::Meta, b"consistent_index", b"8"), put(Bucket::Alarm, b"alarm", b"")]);
    drop(backend);

    let backend = open(&folder);
    assert_eq!(fetch(&backend, Bucket::Key, &Revision::new(2, 0).to_key()), Some(b"two".to_vec()));
    assert_eq!(fetch(&backend, Bucket::Key, &Revision::new(3, 0).to_key()), None);
    assert_eq!(fetch(&backend, Bucket::Key, &Revision::new(3, 0).to_tombstone_key()), Some(b"three".to_vec()));
    assert_eq!(fetch(&backend, Bucket::Meta, b"consistent_index"), Some(b"8".to_vec()));
    assert_eq!(fetch(&backend, Bucket::Alarm, b"alarm"), Some(vec![]));
    assert_eq!(fetch(&backend, Bucket::Lease, b"alarm"), None);
    assert_eq!(fetch(&backend, Bucket::Lease, b""), None);
    assert_eq!(fetch(&backend, Bucket::Lease, &[1; 10_000]), None);
}

#[test]
fn removed_is_gone_and_absent_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(&folder);
    commit(&backend, vec![append(2, false, b"two"), append(3, true, b"three"), put(Bucket::Lease, b"id", b"lease")]);
    let remove = |main, tombstone| Operation::RemoveRevision { revision: Revision::new(main, 0), tombstone };
    let delete = |key: &[u8]| Operation::Delete { bucket: Bucket::Lease, key: key.into() };
    commit(&backend, vec![remove(2, false), remove(3, true), remove(3, false), delete(b"id"), delete(b"other")]);
    assert_eq!(scan(&backend, Bucket::Key, b"", None), []);
    assert_eq!(scan(&backend, Bucket::Lease, b"", None), []);
}

#[test]
fn a_replayed_revision_goes_where_it_belongs() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(&folder);
    commit(&backend, vec![append(2, false, b"two"), append(4, false, b"four")]);
    commit(&backend, vec![append(4, false, b"four again"), append(3, false, b"three"), append(5, false, b"five")]);
    let values: Vec<_> = scan(&backend, Bucket::Key, b"", None).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, [b"two".as_slice(), b"three", b"four again", b"five"]);
}

#[test]
fn a_scan_keeps_to_its_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(&folder);
    commit(&backend, [b"a", b"b", b"c", b"d"].map(|key| put(Bucket::AuthUsers, key, key)).to_vec());
    let keys = |from: &[u8], until: Option<&[u8]>| {
        let keys: Vec<u8> = scan(&backend, Bucket::AuthUsers, from, until).into_iter().map(|(key, _)| key[0]).collect();
        String::from_utf8(keys).unwrap()
    };
    assert_eq!(keys(b"", None), "abcd");
    assert_eq!(keys(b"b", Some(b"d")), "bc");
    assert_eq!(keys(b"aa", Some(b"bb")), "b");
    assert_eq!(keys(b"c", None), "cd");
    assert_eq!(keys(b"", Some(b"")), "");
    assert_eq!(keys(b"d", Some(b"b")), "");
    assert_eq!(keys(b"b", Some(b"b")), "");

    let mut visited = 0;
    backend
        .read(&mut |transaction| {
            transaction.scan(Bucket::AuthUsers, b"", None, &mut |_, _| {
                visited += 1;
                if visited == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        })
        .unwrap();
    assert_eq!(visited, 2);
}

#[test]
fn a_reader_sees_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(&folder);
    commit(&backend, vec![put(Bucket::Meta, b"term", b"1")]);
    backend
        .read(&mut |transaction| {
            commit(&backend, vec![put(Bucket::Meta, b"term", b"2")]);
            let mut seen = Vec::new();
            transaction.fetch(Bucket::Meta, b"term", &mut |value| seen = value.to_vec())?;
            assert_eq!(seen, b"1");
            Ok(())
        })
        .unwrap();
    assert_eq!(fetch(&backend, Bucket::Meta, b"term"), Some(b"2".to_vec()));
}

#[test]
fn sizes_follow_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(&folder);
    let empty = backend.size_in_use_bytes();
    assert!(empty > 0 && empty <= 64 * 1024, "{empty}");
    commit(&backend, (2..2002).map(|main| append(main, false, &[0; 1000])).collect());
    let full = backend.size_in_use_bytes();
    assert!(full > 2_000_000 && backend.size_bytes() >= full, "{full} of {}", backend.size_bytes());
    let revision = |main| Operation::RemoveRevision { revision: Revision::new(main, 0), tombstone: false };
    commit(&backend, (2..2002).map(revision).collect());
    assert!(backend.size_in_use_bytes() < 100_000, "{}", backend.size_in_use_bytes());
    assert!(backend.size_bytes() >= full, "the file keeps its size");
    drop(backend);
    let backend = open(&folder);
    assert!(backend.size_in_use_bytes() < 100_000);
    assert!(backend.size_bytes() >= full);
}

#[test]
fn another_generation_takes_over_under_a_reader() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(&folder);
    commit(&backend, vec![put(Bucket::Meta, b"term", b"old")]);
    let next = Generation::open(&folder.path().join("next.lmdb"), LmdbOptions::default()).unwrap();
    next.commit(&CommitBatch { sequence: 1, operations: vec![put(Bucket::Meta, b"term", b"new")] }).unwrap();
    let mut next = Some(next);
    backend
        .read(&mut |transaction| {
            if let Some(next) = next.take() {
                drop(backend.replace(next));
            }
            let mut seen = Vec::new();
            transaction.fetch(Bucket::Meta, b"term", &mut |value| seen = value.to_vec())?;
            assert_eq!(seen, b"old");
            Ok(())
        })
        .unwrap();
    assert_eq!(fetch(&backend, Bucket::Meta, b"term"), Some(b"new".to_vec()));
}

#[test]
fn a_failed_commit_is_final_and_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(&folder);
    let too_long = put(Bucket::AuthUsers, &[b'u'; 10_000], b"");
    let error = backend.commit(&CommitBatch { sequence: 1, operations: vec![too_long] }).unwrap_err().to_string();
    assert!(error.contains("kvorum.lmdb/data.mdb"), "{error}");
    let later = CommitBatch { sequence: 2, operations: vec![put(Bucket::Meta, b"term", b"1")] };
    assert_eq!(backend.commit(&later).unwrap_err().to_string(), error);
    drop(backend);
    commit(&open(&folder), vec![put(Bucket::Meta, b"term", b"1")]);
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("member"), b"a file").unwrap();
    let error = LmdbBackend::open(&folder.path().join("member/snap"), LmdbOptions::default()).err().unwrap();
    assert!(error.to_string().contains("member"), "{error}");
}

#[test]
fn readers_work_beside_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Arc::new(open(&folder));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let found = scan(&backend, Bucket::Key, b"", None);
                    assert_eq!(found.len() % 10, 0, "a batch is seen whole");
                }
            });
        }
        for batch in 0..20 {
            commit(&backend, (1..=10).map(|main| append(batch * 10 + main, false, b"value")).collect());
        }
    });
}
