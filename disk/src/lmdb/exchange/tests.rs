//! Out of the backend, into another, and changing generations with a crash at every place.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use kvorum_store::backend::{Backend, Bucket, CommitBatch, Operation};
use kvorum_store::revision::Revision;

use super::{ExchangeError, Exported};
use crate::RealFileSystem;
use crate::bolt::{BoltError, BoltFile, BoltWriter, Walk};
use crate::lmdb::{LmdbBackend, LmdbOptions};
use kvorum_store::Membership;

fn open(folder: &Path) -> LmdbBackend {
    LmdbBackend::open(&folder.join("backend"), LmdbOptions::default()).unwrap()
}

fn put(bucket: Bucket, key: &[u8], value: &[u8]) -> Operation {
    Operation::Put { bucket, key: key.into(), value: value.into() }
}

fn fill(backend: &LmdbBackend, mark: &str) {
    let mut operations = vec![
        put(Bucket::Meta, b"consistent_index", &17_u64.to_be_bytes()),
        put(Bucket::Meta, b"term", &3_u64.to_be_bytes()),
        put(Bucket::Meta, b"confState", b"{\"voters\":[1]}"),
        put(Bucket::Meta, b"storageVersion", b"3.7.0"),
        put(Bucket::Cluster, b"clusterVersion", mark.as_bytes()),
    ];
    for main in 2..3_000 {
        let length = if main % 300 == 0 { 50_000 } else { 40 };
        operations.push(Operation::AppendRevision {
            revision: Revision::new(main, 0),
            tombstone: main % 9 == 0,
            value: vec![b'v'; length].into(),
        });
    }
    backend.commit(&CommitBatch { sequence: 1, operations }).unwrap();
}

fn mark(backend: &LmdbBackend) -> String {
    let mut found = String::new();
    let read = backend.read(&mut |transaction| {
        transaction.fetch(Bucket::Cluster, b"clusterVersion", &mut |value| {
            found = String::from_utf8(value.to_vec()).unwrap();
        })?;
        Ok(())
    });
    read.unwrap();
    found
}

fn count(backend: &LmdbBackend, bucket: Bucket) -> usize {
    let mut count = 0;
    let read = backend.read(&mut |transaction| {
        transaction.scan(bucket, &[], None, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })
    });
    read.unwrap();
    count
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A file with buckets of all kinds: ours, unknown ones before, between and behind them, and one within another.
fn foreign_file(folder: &Path, mark: &str) -> PathBuf {
    let path = folder.join("foreign.db");
    let mut writer = BoltWriter::create(&RealFileSystem, &path).unwrap();
    for bucket in ["aaa", "alarm", "auth", "cluster", "key", "leasf", "meta", "zzz"] {
        writer.begin_bucket(bucket.as_bytes(), 4 * u64::from(bucket == "zzz")).unwrap();
        match bucket {
            "cluster" => writer.put(b"clusterVersion", mark.as_bytes()).unwrap(),
            "key" => {
                for main in 2..500 {
                    writer.put(&Revision::new(main, 0).to_key(), &vec![7; 30 * main as usize]).unwrap();
                }
            }
            "leasf" => {
                writer.put(&[1; 20_000], b"a key longer than any of LMDB's").unwrap();
                writer.begin_bucket(&[2], 77).unwrap();
                writer.put(b"inner", &[]).unwrap();
                writer.end_bucket().unwrap();
                writer.put(&[3], b"behind").unwrap();
            }
            _ => {}
        }
        writer.end_bucket().unwrap();
    }
    writer.finish(true).unwrap();
    path
}

fn steps(path: &Path) -> Vec<String> {
    let mut steps = Vec::new();
    let walked = BoltFile::open(&RealFileSystem, path).unwrap().walk(true, |step| {
        steps.push(match step {
            Walk::Begin { name, sequence } => format!("{} {sequence}", String::from_utf8_lossy(name)),
            Walk::Entry { key, value } => format!("  {key:02x?} = {value:02x?}"),
            Walk::End => "end".to_owned(),
        });
        Ok::<(), BoltError>(())
    });
    walked.unwrap();
    steps
}

/// A new member publishes itself again and again while a large database is written out for it.
#[test]
fn members_are_those_of_the_database_that_is_written_out() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(folder.path());
    fill(&backend, "one");
    let changes = std::cell::Cell::new(0);
    let (_file, exported) = backend
        .generation()
        .write_bolt_unnamed(folder.path(), &|| {
            changes.set(changes.get() + 1);
            let version = put(Bucket::Cluster, b"clusterVersion", format!("{}", changes.get()).as_bytes());
            if changes.get() < 10 {
                backend.commit(&CommitBatch { sequence: 2, operations: vec![version] }).unwrap();
            }
            false
        })
        .unwrap();
    assert!(changes.get() > 10 && mark(&backend) == "9");
    assert_eq!(exported.membership.cluster_version.as_deref(), Some("one"));
}

#[test]
fn what_is_written_out_comes_back_in() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(folder.path());
    fill(&backend, "one");
    let path = folder.path().join("out.db");
    let exported = backend.generation().write_bolt(&path, true).unwrap();
    let expected = Exported {
        file_bytes: fs::metadata(&path).unwrap().len(),
        consistent_index: 17,
        term: 3,
        conf_state: Some(b"{\"voters\":[1]}".to_vec()),
        storage_version: "3.7.0".to_owned(),
        membership: Membership { cluster_version: Some("one".to_owned()), ..Membership::default() },
    };
    assert_eq!(exported, expected);
    let file = BoltFile::open(&RealFileSystem, &path).unwrap();
    let retired = backend.switch(backend.prepare(&file).unwrap()).unwrap();
    let old = retired.generation().clone();
    drop(retired.remove().unwrap());
    assert_eq!(count(&backend, Bucket::Key), 2_998);
    assert_eq!(names(folder.path()), ["backend.1", "out.db"]);
    // A reader of the old one goes on, though its folder is gone.
    let mut seen = 0;
    let read = old.read(&mut |transaction| {
        transaction.scan(Bucket::Key, &[], None, &mut |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        })
    });
    read.unwrap();
    assert_eq!(seen, 2_998);
    drop(old);
    let again = folder.path().join("again.db");
    backend.generation().write_bolt(&again, false).unwrap();
    assert!(fs::read(&path).unwrap() == fs::read(&again).unwrap(), "the same bytes");
}

#[test]
fn unknown_buckets_survive() {
    let folder = tempfile::tempdir().unwrap();
    let source = foreign_file(folder.path(), "foreign");
    let backend = open(folder.path());
    let file = BoltFile::open(&RealFileSystem, &source).unwrap();
    backend.switch(backend.prepare(&file).unwrap()).unwrap().remove().unwrap();
    assert_eq!(mark(&backend), "foreign");
    let target = folder.path().join("out.db");
    backend.generation().write_bolt(&target, false).unwrap();
    let expected = steps(&source);
    // Our ten buckets are always there.
    let mut written = steps(&target);
    for name in ["authRoles", "authUsers", "lease", "members", "members_removed"] {
        let begin = written.iter().position(|step| *step == format!("{name} 0")).unwrap();
        assert_eq!(written.drain(begin..begin + 2).nth(1).unwrap(), "end");
    }
    assert!(expected == written, "the same in the same order");
}

#[test]
fn what_cannot_be_kept_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(folder.path());
    fill(&backend, "one");
    let path = folder.path().join("bad.db");
    let cases: [fn(&mut BoltWriter); 2] = [
        |writer| {
            writer.begin_bucket(b"auth", 0).unwrap();
            writer.put(&[1; 3_000], b"").unwrap();
        },
        |writer| {
            writer.begin_bucket(b"key", 0).unwrap();
            writer.begin_bucket(b"within", 0).unwrap();
        },
    ];
    for case in cases {
        let mut writer = BoltWriter::create(&RealFileSystem, &path).unwrap();
        case(&mut writer);
        writer.finish(false).unwrap();
        let error = backend.prepare(&BoltFile::open(&RealFileSystem, &path).unwrap()).err().unwrap();
        assert!(matches!(error, ExchangeError::Unstorable(_)), "{error}");
    }
    let mut damaged = fs::read(foreign_file(folder.path(), "x")).unwrap();
    let page = damaged.len() / 4096 / 2;
    damaged[page * 4096..page * 4096 + 16].fill(0xff);
    fs::write(&path, damaged).unwrap();
    let error = backend.prepare(&BoltFile::open(&RealFileSystem, &path).unwrap()).err().unwrap();
    assert!(matches!(error, ExchangeError::File(BoltError::Malformed { .. })), "{error}");
    assert_eq!(names(folder.path()), ["backend", "bad.db", "foreign.db"]);
    assert_eq!(mark(&backend), "one");
}

#[test]
fn a_crash_at_any_place_of_a_change_leaves_the_old_or_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let source = foreign_file(folder.path(), "new");
    let file = BoltFile::open(&RealFileSystem, &source).unwrap();
    let member = folder.path().join("member");
    let backend = open(&member);
    fill(&backend, "old");

    // Before the rename.
    let prepared = backend.prepare(&file).unwrap();
    let temporary = prepared.temporary.clone();
    drop(prepared);
    fs::create_dir(&temporary).unwrap();
    fs::write(temporary.join("data.mdb"), b"half of it").unwrap();
    drop(backend);
    assert_eq!(names(&member), ["backend", "backend.1.tmp"]);
    let backend = open(&member);
    assert_eq!((mark(&backend), names(&member)), ("old".to_owned(), vec!["backend".to_owned()]));

    // Behind the rename, with the old one still there.
    let prepared = backend.prepare(&file).unwrap();
    // What a crash leaves: this process gives the environment up under its temporary name.
    fs::rename(&prepared.temporary, member.join("backend.1")).unwrap();
    drop(prepared);
    drop(backend);
    assert_eq!(names(&member), ["backend", "backend.1"]);
    let backend = open(&member);
    assert_eq!((mark(&backend), names(&member)), ("new".to_owned(), vec!["backend.1".to_owned()]));

    // Twice in one life, and writable afterwards.
    for number in [2, 3] {
        backend.switch(backend.prepare(&file).unwrap()).unwrap().remove().unwrap();
        assert_eq!(names(&member), [format!("backend.{number}")]);
    }
    backend.commit(&CommitBatch { sequence: 2, operations: vec![put(Bucket::Auth, b"k", b"v")] }).unwrap();
    drop(backend);
    assert_eq!(count(&open(&member), Bucket::Auth), 1);

    // Names that only look like ours are left alone.
    for name in ["backend.03", "backend.x", "backend.x.tmp", "backend2"] {
        fs::create_dir(member.join(name)).unwrap();
    }
    assert_eq!(mark(&open(&member)), "new");
    assert_eq!(names(&member), ["backend.03", "backend.3", "backend.x", "backend.x.tmp", "backend2"]);
}
