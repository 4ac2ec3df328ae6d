//! How much memory and time it takes to write a large store to a bbolt file and to take that file in again:
//!
//! ```sh
//! cargo run --release -p kvorum-disk --example exchange -- <folder> <GiB> <value bytes>
//! ```
//!
//! It fills a store in the folder, which must be empty, and removes it at the end.

use std::path::PathBuf;
use std::time::Instant;

use kvorum_disk::bolt::{BoltFile, snapshot};
use kvorum_disk::{LmdbBackend, LmdbOptions, RealFileSystem};
use kvorum_store::{Backend, CommitBatch, Operation, Revision};

const COMMIT_BYTES: usize = 16 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("a folder is needed")?);
    let gibibytes: f64 = arguments.next().map_or(Ok(2.0), |text| text.parse())?;
    let value_bytes: usize = arguments.next().map_or(Ok(65_536), |text| text.parse())?;
    let options = LmdbOptions { unsafe_no_fsync: true };
    let backend = LmdbBackend::open(&folder.join("backend"), options)?;
    let total = (gibibytes * f64::from(1 << 30)) as usize;
    fill(&backend, total, value_bytes)?;
    println!("store: {} MiB", backend.size_in_use_bytes() >> 20);

    let target = folder.join("db");
    let growth = measured("write the file", || backend.generation().write_bolt(&target, true))?;
    println!("  {} MiB", growth.file_bytes >> 20);
    let file = BoltFile::open(&RealFileSystem, &target)?;
    let prepared = measured("take it in", || backend.prepare(&file))?;
    measured("sum it up", || snapshot::status(&file))?;
    backend.switch(prepared)?.remove()?;
    drop(backend);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn fill(backend: &LmdbBackend, total: usize, value_bytes: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut operations = Vec::new();
    let mut main = 1;
    for _ in 0..total / value_bytes {
        main += 1;
        let value = kvorum_api::mvccpb::KeyValue {
            key: format!("key-{main:012}").into(),
            value: vec![main as u8; value_bytes].into(),
            ..Default::default()
        };
        let value = prost::Message::encode_to_vec(&value).into();
        operations.push(Operation::AppendRevision { revision: Revision::new(main, 0), tombstone: false, value });
        if operations.len() * value_bytes >= COMMIT_BYTES {
            backend.commit(&CommitBatch { sequence: 0, operations: std::mem::take(&mut operations) })?;
        }
    }
    backend.commit(&CommitBatch { sequence: 0, operations })?;
    Ok(())
}

/// Prints how long it took and how far the process's resident memory rose above where it was.
fn measured<T, E>(what: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // Resets the peak.
    drop(std::fs::write("/proc/self/clear_refs", "5"));
    let before = status_mebibytes("VmRSS:");
    let began = Instant::now();
    let result = work();
    let (seconds, peak) = (began.elapsed().as_secs_f64(), status_mebibytes("VmHWM:"));
    println!("{what}: {seconds:.1} s, resident memory {before:.0} MiB, at most {:.0} MiB more", peak - before);
    result
}

fn status_mebibytes(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
    kibibytes.unwrap_or(f64::NAN) / 1024.0
}
