//! Files of all lengths.

#![allow(clippy::unwrap_used)]

use std::fs::OpenOptions;

use kvorum_store::backend::{Backend, Bucket, CommitBatch, Operation};
use kvorum_store::revision::Revision;

use super::*;
use crate::lmdb::{LmdbBackend, LmdbOptions};

fn commit(backend: &LmdbBackend, operations: Vec<Operation>) {
    backend.commit(&CommitBatch { sequence: 0, operations }).unwrap();
}

pub(in crate::lmdb) fn append(main: i64, length: usize) -> Operation {
    Operation::AppendRevision { revision: Revision::new(main, 0), tombstone: false, value: vec![7; length].into() }
}

pub(in crate::lmdb) fn remove(main: i64) -> Operation {
    Operation::RemoveRevision { revision: Revision::new(main, 0), tombstone: false }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("backend");
    let backend = LmdbBackend::open(&directory, LmdbOptions::default()).unwrap();
    commit(&backend, (2..300).map(|main| append(main, if main % 50 == 0 { 20_000 } else { 500 })).collect());
    drop(backend);
    assert_eq!(cut_off(&directory).unwrap(), None);
    let path = directory.join(DATA_FILE);
    let whole = std::fs::read(&path).unwrap();
    let page = 4096;
    let lengths = (0..whole.len()).step_by(page).chain([1, 17, 30, 100, page + 1, page + 200, whole.len() - 1]);
    for length in lengths {
        std::fs::write(&path, &whole[..length]).unwrap();
        let found = cut_off(&directory).unwrap().unwrap_or_else(|| panic!("{length} of {}", whole.len()));
        assert_eq!(found.file_bytes, length as u64);
        assert!(found.pages_bytes > length as u64, "{found}");
        let error = LmdbBackend::open(&directory, LmdbOptions::default()).err().unwrap().to_string();
        assert!(error.contains("backend/data.mdb was cut off"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), whole[..length]);
    }
    std::fs::write(&path, b"something else altogether").unwrap();
    assert_eq!(cut_off(&directory).unwrap(), None, "what is no database is for LMDB to tell");
    std::fs::write(&path, &whole).unwrap();
    LmdbBackend::open(&directory, LmdbOptions::default()).unwrap();
}

/// Pages that were taken and given back within one commit are not written: at the file's end they are missing, and it is whole.
#[test]
fn a_file_that_lacks_free_pages_only_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("backend");
    let backend = LmdbBackend::open(&directory, LmdbOptions::default()).unwrap();
    commit(&backend, (2..2_000).map(|main| append(main, 300)).collect());
    let pages = |backend: &LmdbBackend| (backend.generation().environment.info().last_page_number as u64 + 1) * 4096;
    let mut shorter = 0;
    for round in 0..60_i64 {
        let (begin, count) = (10_000 + round * 1_000, 40 + round * 9);
        let mut operations: Vec<_> = (begin..begin + count).map(|main| append(main, 3_000)).collect();
        operations.extend((begin..begin + count - 3).map(remove));
        operations.extend((2 + round * 20..2 + round * 20 + 20).map(remove));
        if round % 2 == 0 {
            let value = vec![1; 100_000].into();
            operations.push(Operation::Put { bucket: Bucket::Meta, key: b"long"[..].into(), value });
            operations.push(Operation::Delete { bucket: Bucket::Meta, key: b"long"[..].into() });
        }
        commit(&backend, operations);
        shorter += u32::from(std::fs::metadata(directory.join(DATA_FILE)).unwrap().len() < pages(&backend));
        assert_eq!(cut_off(&directory).unwrap(), None, "round {round}");
        assert_eq!(crate::lmdb::damage(&directory).unwrap(), None, "round {round}");
    }
    assert!(shorter > 5, "{shorter} files were shorter than their pages");
    drop(backend);
    let backend = LmdbBackend::open(&directory, LmdbOptions::default()).unwrap();
    let mut bytes = 0;
    let mut add = |_: &[u8], value: &[u8]| {
        bytes += value.iter().map(|byte| usize::from(*byte)).sum::<usize>();
        std::ops::ControlFlow::Continue(())
    };
    backend.read(&mut |transaction| transaction.scan(Bucket::Key, b"", None, &mut add)).unwrap();
    assert!(bytes > 0);
    drop(backend);

    let file = OpenOptions::new().write(true).open(directory.join(DATA_FILE)).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    assert!(cut_off(&directory).unwrap().is_some());
}
