//! Times the log and the backend on a real folder, and leaves a data directory that etcd's tools can read:
//! `cargo run --release -p kvorum-disk --example measure -- FOLDER`. The folder must not exist.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_api::raftpb::{ConfState, EntryType};
use kvorum_disk::wal::purge;
use kvorum_disk::{
    FileSystem, HardState, LmdbBackend, LmdbOptions, RealFileSystem, SnapDirectory, SnapshotFile, Wal, WalEntry,
    WalMetadata, WalOptions, WalSnapshot,
};
use kvorum_store::backend::{Backend, CommitBatch, Operation};
use kvorum_store::revision::Revision;

const ENTRY_BYTES: usize = 300;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("name a folder that does not exist")?;
    let folder = Path::new(&folder);
    log(folder)?;
    backend(folder)
}

fn log(folder: &Path) -> Result<(), Box<dyn Error>> {
    let files: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
    let directory = folder.join("member/wal");
    let snapshots = SnapDirectory::open(files.clone(), &folder.join("member/snap"))?;
    let metadata = WalMetadata { node_id: 1, cluster_id: 2 };
    let mut wal = Wal::create(files.clone(), &directory, metadata, WalOptions::default())?;
    let data = vec![0x55; ENTRY_BYTES];
    let mut index = 0;
    for (entries, batches) in [(1usize, 3000u64), (10, 2000), (100, 2000), (1, 3000), (100, 6000)] {
        let mut appending = Duration::ZERO;
        let mut turns = Vec::new();
        let mut batch = Vec::with_capacity(entries);
        let begin = Instant::now();
        for _ in 0..batches {
            let turn = Instant::now();
            batch.clear();
            for _ in 0..entries {
                index += 1;
                batch.push(WalEntry { entry_type: EntryType::EntryNormal, term: 1, index, data: &data });
            }
            wal.append(&batch, Some(&HardState { term: 1, vote: 1, commit: index - 1 }))?;
            appending += turn.elapsed();
            wal.sync()?;
            turns.push(turn.elapsed());
        }
        let total = begin.elapsed();
        turns.sort();
        let count = batches * entries as u64;
        println!(
            "wal: {entries:>3} entries a batch: {:>7.0} entries/s, turn p50 {:?} p99 {:?} max {:?}, append {:?} an entry",
            count as f64 / total.as_secs_f64(),
            turns[turns.len() / 2],
            turns[turns.len() * 99 / 100],
            turns[turns.len() - 1],
            appending / count as u32,
        );
        let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
        snapshots.save(&SnapshotFile {
            index: index - 1,
            term: 1,
            conf_state: conf_state.clone(),
            ..Default::default()
        })?;
        wal.save_snapshot(&WalSnapshot { index: index - 1, term: 1, conf_state: Some(conf_state) })?;
        wal.release_to(index - 1);
        for path in purge(&*files, &directory, 2)? {
            println!("wal: purged {}", path.display());
        }
    }
    let statistics = wal.statistics();
    println!("wal: {statistics:?}");
    drop(wal);
    let begin = Instant::now();
    let from = WalSnapshot { index: index - 1, term: 1, conf_state: None };
    let (_, recovered) = Wal::open(files, &directory, &from, WalOptions::default())?;
    println!("wal: opened in {:?}, {} entries", begin.elapsed(), recovered.entries.len());
    Ok(())
}

fn backend(folder: &Path) -> Result<(), Box<dyn Error>> {
    let backend = LmdbBackend::open(&folder.join("member/snap/kvorum.lmdb"), LmdbOptions::default())?;
    let value: Arc<[u8]> = vec![0x55; ENTRY_BYTES].into();
    let mut main = 1;
    for (operations, commits) in [(1, 300), (1000, 50), (10_000, 50)] {
        let mut turns = Vec::new();
        for _ in 0..commits {
            let mut batch = CommitBatch::default();
            for _ in 0..operations {
                main += 1;
                let (revision, value) = (Revision::new(main, 0), value.clone());
                batch.operations.push(Operation::AppendRevision { revision, tombstone: false, value });
            }
            let begin = Instant::now();
            backend.commit(&batch)?;
            turns.push(begin.elapsed());
        }
        turns.sort();
        println!(
            "lmdb: {operations} operations a commit: p50 {:?} p99 {:?}",
            turns[turns.len() / 2],
            turns[turns.len() * 99 / 100]
        );
    }
    println!("lmdb: {} bytes, {} in use", backend.size_bytes(), backend.size_in_use_bytes());
    Ok(())
}
