//! The copy holds what the source does, whatever is committed meanwhile, and a crash anywhere leaves the old or the new.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kvorum_store::backend::{Backend, Bucket, CommitBatch, Operation};
use kvorum_store::revision::Revision;

use super::Shrink;
use crate::lmdb::{Freeing, LmdbBackend, LmdbOptions};

const SLICE_BYTES: usize = 20_000;

/// The same numbers for the same seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

fn open(folder: &Path) -> Arc<LmdbBackend> {
    Arc::new(LmdbBackend::open(&folder.join("backend"), LmdbOptions::default()).unwrap())
}

fn put(bucket: Bucket, key: &[u8], value: &[u8]) -> Operation {
    Operation::Put { bucket, key: key.into(), value: value.into() }
}

fn append(main: i64, length: usize) -> Operation {
    Operation::AppendRevision {
        revision: Revision::new(main, 0),
        tombstone: main % 11 == 0,
        value: vec![main as u8; length].into(),
    }
}

fn remove(main: i64) -> Operation {
    Operation::RemoveRevision { revision: Revision::new(main, 0), tombstone: main % 11 == 0 }
}

fn commit(backend: &LmdbBackend, operations: Vec<Operation>) {
    backend.commit(&CommitBatch { sequence: 1, operations }).unwrap();
}

/// Mostly free pages, and a few records in buckets before and behind the history.
fn fill(backend: &LmdbBackend) {
    let mut operations: Vec<Operation> = (2..1_000).map(|main| append(main, 1_000)).collect();
    for number in 0..400_u64 {
        operations.push(put(Bucket::Lease, &number.to_be_bytes(), &[7; 100]));
        operations.push(put(Bucket::AuthUsers, &number.to_be_bytes(), &[8; 100]));
    }
    operations.push(put(Bucket::Meta, b"consistent_index", &1_u64.to_be_bytes()));
    commit(backend, operations);
    commit(backend, (2..700).map(remove).collect());
}

/// All that the live environment holds, as a file.
fn content(backend: &LmdbBackend) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("content.db");
    backend.generation().write_bolt(&path, false).unwrap();
    fs::read(path).unwrap()
}

/// What a start would find if the process ended now.
fn content_after_crash(member: &Path) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(member).unwrap().map(Result::unwrap) {
        let target = folder.path().join(entry.file_name());
        fs::create_dir(&target).unwrap();
        for file in fs::read_dir(entry.path()).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), target.join(file.file_name())).unwrap();
        }
    }
    let found = content(&open(folder.path()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "what is left over is removed");
    found
}

fn run(mut shrink: Shrink, backend: &LmdbBackend) {
    while !shrink.step(SLICE_BYTES).unwrap() {}
    shrink.write_out().unwrap();
    shrink.sync().unwrap();
    let prepared = shrink.seal(LmdbOptions::default()).unwrap();
    backend.switch(prepared).unwrap().remove().unwrap();
}

#[test]
fn a_shrink_frees_what_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(folder.path());
    fill(&backend);
    let (before, size, in_use) = (content(&backend), backend.size_bytes(), backend.size_in_use_bytes());
    run(Shrink::begin(&backend).unwrap(), &backend);
    assert!(content(&backend) == before, "the same records");
    assert!(backend.size_bytes() < size / 2, "{} of {size}", backend.size_bytes());
    assert!(backend.size_in_use_bytes() <= in_use && backend.size_in_use_bytes() > in_use / 2);
    // It is a backend like any other afterwards: durable commits, and another shrink.
    commit(&backend, vec![append(2_000, 10)]);
    assert!(content_after_crash(folder.path()) == content(&backend));
    run(Shrink::begin(&backend).unwrap(), &backend);
    let before = content(&backend);
    drop(backend);
    assert!(content(&open(folder.path())) == before);
}

#[test]
fn what_is_committed_meanwhile_is_in_the_copy() {
    for seed in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let backend = open(folder.path());
        fill(&backend);
        let mut numbers = Numbers(seed);
        let mut newest = 1_000;
        let mut change = |backend: &LmdbBackend| {
            let mut operations = Vec::new();
            for _ in 0..numbers.below(4) {
                operations.push(append(newest, numbers.below(9_000) as usize));
                newest += 1;
            }
            for _ in 0..numbers.below(10) {
                let key = numbers.below(450).to_be_bytes();
                let bucket =
                    [Bucket::Alarm, Bucket::Lease, Bucket::AuthUsers, Bucket::AuthRoles][numbers.below(4) as usize];
                operations.push(match numbers.below(3) {
                    0 => Operation::Delete { bucket, key: Box::new(key) },
                    1 => put(bucket, &key, &[numbers.below(256) as u8; 300]),
                    _ => remove(700 + numbers.below(newest as u64 - 700) as i64),
                });
            }
            operations.push(put(Bucket::Meta, b"consistent_index", &numbers.below(u64::MAX).to_be_bytes()));
            commit(backend, operations);
        };
        let mut shrink = Shrink::begin(&backend).unwrap();
        change(&backend);
        while !shrink.step(SLICE_BYTES).unwrap() {
            change(&backend);
        }
        change(&backend);
        let before = content(&backend);
        let prepared = shrink.seal(LmdbOptions::default()).unwrap();
        let retired = backend.switch(prepared).unwrap();
        assert!(content(&backend) == before, "seed {seed}");
        drop(retired.remove().unwrap());
        change(&backend);
        assert!(content_after_crash(folder.path()) == content(&backend), "seed {seed}");
    }
}

#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(folder.path());
    fill(&backend);
    let mut steps = 0;
    let mut crash = |number: u64| {
        steps += 1;
        commit(&backend, vec![append(1_000 + number as i64, 5_000), put(Bucket::Meta, b"term", &number.to_be_bytes())]);
        assert!(content_after_crash(folder.path()) == content(&backend), "step {number}");
    };
    let mut shrink = Shrink::begin(&backend).unwrap();
    crash(0);
    let mut number = 1;
    while !shrink.step(SLICE_BYTES).unwrap() {
        crash(number);
        number += 1;
        shrink.sync().unwrap();
    }
    crash(number);
    let prepared = shrink.seal(LmdbOptions::default()).unwrap();
    let expected = content(&backend);
    assert!(content_after_crash(folder.path()) == expected, "sealed");
    let retired = backend.switch(prepared).unwrap();
    assert!(content_after_crash(folder.path()) == expected, "switched");
    crash(number + 1);
    // The removal of the old one is cut off.
    fs::write(retired.generation().directory().join("data.mdb"), b"cut").unwrap();
    crash(number + 2);
    let mut removed = retired.remove().unwrap();
    crash(number + 3);
    while removed.free(64 << 10).unwrap() != Freeing::Done {
        crash(number + 4);
    }
    assert!(steps > 10, "{steps} steps");
}

#[test]
fn a_shrink_that_is_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(folder.path());
    fill(&backend);
    let mut shrink = Shrink::begin(&backend).unwrap();
    shrink.step(SLICE_BYTES).unwrap();
    assert!(Shrink::begin(&backend).is_err(), "one at a time");
    drop(shrink);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    commit(&backend, vec![append(1_000, 10)]);
    run(Shrink::begin(&backend).unwrap(), &backend);
}

#[test]
fn a_received_database_overtakes_a_shrink() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(folder.path());
    fill(&backend);
    let mut shrink = Shrink::begin(&backend).unwrap();
    shrink.step(SLICE_BYTES).unwrap();
    let file = folder.path().join("received.db");
    backend.generation().write_bolt(&file, false).unwrap();
    let prepared = backend.prepare(&crate::bolt::BoltFile::open(&crate::RealFileSystem, &file).unwrap()).unwrap();
    backend.switch(prepared).unwrap().remove().unwrap();
    commit(&backend, vec![append(1_000, 10)]);
    assert!(shrink.is_overtaken());
    while !shrink.step(SLICE_BYTES).unwrap() {}
    let expected = content(&backend);
    assert!(shrink.seal(LmdbOptions::default()).is_err());
    assert!(content(&backend) == expected);
    fs::remove_file(file).unwrap();
    assert!(content_after_crash(folder.path()) == expected);
}

#[test]
fn space_that_is_read_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(folder.path());
    fill(&backend);
    let mut shrink = Shrink::begin(&backend).unwrap();
    while !shrink.step(SLICE_BYTES).unwrap() {}
    let prepared = shrink.seal(LmdbOptions::default()).unwrap();
    let before = backend.generation();
    let mut removed = backend.switch(prepared).unwrap().remove().unwrap();
    assert_eq!(removed.free(u64::MAX).unwrap(), Freeing::Read);
    let mut found = false;
    let read = before.read(&mut |transaction| {
        transaction.fetch(Bucket::Meta, b"consistent_index", &mut |_| found = true)?;
        Ok(())
    });
    read.unwrap();
    assert!(found);
    drop(before);
    assert_eq!(removed.free(4096).unwrap(), Freeing::More);
    assert_eq!(removed.free(u64::MAX).unwrap(), Freeing::Done);
}
