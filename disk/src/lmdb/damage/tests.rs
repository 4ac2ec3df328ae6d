//! One bit after the other.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use kvorum_store::backend::{Backend, Bucket, CommitBatch, Operation};

use super::*;
use crate::lmdb::cut_off::tests::{append, remove};
use crate::lmdb::{DATA_FILE, LmdbBackend, LmdbOptions};

fn commit(backend: &LmdbBackend, operations: Vec<Operation>) -> Result<(), BackendError> {
    backend.commit(&CommitBatch { sequence: 0, operations })
}

/// Trees of all kinds, with long values and with lists of free pages, of which one is long.
fn filled(directory: &Path) -> Vec<u8> {
    let backend = LmdbBackend::open(directory, LmdbOptions::default()).unwrap();
    commit(&backend, (2..2_400).map(|main| append(main, if main % 50 == 0 { 9_000 } else { 300 })).collect()).unwrap();
    let put = |number: usize| Operation::Put {
        bucket: Bucket::Lease,
        key: format!("lease {number}").into_bytes().into(),
        value: vec![number as u8; 16].into(),
    };
    commit(&backend, (0..300).map(put).collect()).unwrap();
    commit(&backend, (10..2_300).filter(|main| main % 7 != 0).map(remove).collect()).unwrap();
    commit(&backend, (9_000..9_100).map(|main| append(main, 300)).collect()).unwrap();
    drop(backend);
    std::fs::read(directory.join(DATA_FILE)).unwrap()
}

/// Reads everything and writes a little: what would end the process is not let through.
fn use_all(directory: &Path) -> Result<(), BackendError> {
    let backend = LmdbBackend::open(directory, LmdbOptions { unsafe_no_fsync: true })?;
    for bucket in Bucket::ALL {
        let mut look = |key: &[u8], value: &[u8]| {
            assert!(key.len() + value.len() < 1 << 20);
            ControlFlow::Continue(())
        };
        backend.read(&mut |transaction| transaction.scan(bucket, b"", None, &mut look))?;
    }
    commit(&backend, (2_350..2_390).map(remove).chain((20_000..20_060).map(|main| append(main, 5_000))).collect())
}

/// Numbers below what is asked for, the same in every run.
fn random() -> impl FnMut(u64) -> u64 {
    let mut state = 1_u64;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

#[test]
fn a_bit_in_the_structure_is_found_and_nothing_changed() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("backend");
    let path = directory.join(DATA_FILE);
    let whole = filled(&directory);
    assert_eq!(damage(&directory).unwrap(), None);
    let page_bytes = 4096;
    let look = |at: usize, bit: u32| {
        let mut changed = whole.clone();
        changed[at] ^= 1 << bit;
        std::fs::write(&path, &changed).unwrap();
        (damage(&directory).unwrap(), changed)
    };
    let mut kinds = std::collections::BTreeMap::<u16, (u32, u32)>::new();
    for (number, page) in whole.chunks_exact(page_bytes).enumerate().skip(2) {
        let (changed, found) = kinds.entry(u16_at(page, PAGE_FLAGS_AT).unwrap()).or_default();
        // A page that does not matter is a free one, or in the middle of a long value.
        if *changed > 150 || look(number * page_bytes, 0).0.is_none() {
            continue;
        }
        for at in (0..8).chain(PAGE_FLAGS_AT..PAGE_HEADER_BYTES) {
            *changed += 1;
            let (damage, bytes) = look(number * page_bytes + at, u32::try_from(at % 3).unwrap());
            let Some(damage) = damage else {
                // What LMDB does not go by.
                use_all(&directory).unwrap();
                continue;
            };
            *found += 1;
            assert!(damage.to_string().contains("backend/data.mdb is damaged: page "), "{damage}");
            assert!(use_all(&directory).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }
    for kind in [IS_BRANCH, IS_LEAF, IS_LONG_VALUE] {
        let (changed, found) = kinds[&kind];
        assert!(changed > 20 && found > changed * 3 / 4, "{kinds:?}");
    }
}

/// A whole process would end in some of these: LMDB follows what it reads.
#[test]
fn a_bit_in_a_meta_page_is_found_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("backend");
    let path = directory.join(DATA_FILE);
    let whole = filled(&directory);
    let mut found = 0;
    for page in [0, 4096] {
        for at in (0..META_BYTES).flat_map(|at| [(at, 0), (at, 3), (at, 7)]) {
            let mut changed = whole.clone();
            changed[page + at.0] ^= 1 << at.1;
            std::fs::write(&path, &changed).unwrap();
            match use_all(&directory) {
                Err(_) => {
                    found += 1;
                    assert_eq!(std::fs::read(&path).unwrap(), changed);
                }
                Ok(()) => assert_eq!(damage(&directory).unwrap(), None),
            }
        }
    }
    assert!(found > 100, "{found}");
}

/// Whatever is committed, what LMDB leaves is never called damaged.
#[test]
fn what_lmdb_writes_is_whole() {
    let rounds = std::env::var("KVORUM_DAMAGE_ROUNDS").map_or(120, |rounds| rounds.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("backend");
    let backend = LmdbBackend::open(&directory, LmdbOptions { unsafe_no_fsync: true }).unwrap();
    let mut random = random();
    let (mut newest, mut live) = (1_i64, Vec::new());
    for round in 0..rounds {
        let mut operations = Vec::new();
        for _ in 0..random(400) {
            let length = match random(10) {
                0 => random(30_000),
                1 => 1_900 + random(300),
                _ => random(600),
            };
            match random(8) {
                0..3 if live.len() < 1_500 => {
                    newest += 1;
                    live.push(newest);
                    operations.push(append(newest, length as usize));
                }
                0..5 if !live.is_empty() => {
                    operations.push(remove(live.swap_remove(random(live.len() as u64) as usize)));
                }
                5 if random(40) == 0 => operations.extend(live.drain(..).map(remove)),
                6 => {
                    let key = format!("{:0width$}", random(900), width = random(60) as usize).into_bytes().into();
                    operations.push(Operation::Delete { bucket: Bucket::AuthUsers, key });
                }
                _ => {
                    let key = format!("{:0width$}", random(900), width = random(60) as usize).into_bytes().into();
                    let value = vec![1; length as usize].into();
                    operations.push(Operation::Put { bucket: Bucket::AuthUsers, key, value });
                }
            }
        }
        commit(&backend, operations).unwrap();
        assert_eq!(damage(&directory).unwrap(), None, "round {round}");
    }
}

/// Whatever stands in the file, looking at it ends, and what is let through can be used.
#[test]
fn bytes_of_any_kind_stop_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("backend");
    let path = directory.join(DATA_FILE);
    let whole = filled(&directory);
    let mut random = random();
    for _ in 0..400 {
        let mut changed = whole.clone();
        for _ in 0..=random(4) {
            let page = random(whole.len() as u64 / 4096);
            let at = page * 4096 + if random(2) == 0 { random(64) } else { random(4096) };
            changed[at as usize] =
                [0, 0xff, changed[at as usize].wrapping_add(1), random(256) as u8][random(4) as usize];
        }
        std::fs::write(&path, &changed).unwrap();
        drop(use_all(&directory));
    }
}
