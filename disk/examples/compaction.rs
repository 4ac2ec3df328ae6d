//! Counts what the backend writes while nine tenths of a history are removed beside puts:
//! `cargo run --release -p kvorum-disk --example compaction -- FOLDER [REMOVALS-PER-COMMIT [PUTS-PER-COMMIT]]`.
//! The folder must not exist.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use kvorum_disk::{LmdbBackend, LmdbOptions};
use kvorum_store::backend::{Backend, CommitBatch, Operation};
use kvorum_store::revision::Revision;

const VALUE_BYTES: usize = 314;
const REVISIONS: i64 = 1_000_000;
const FILL_OPERATIONS: i64 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("name a folder that does not exist")?;
    let mut number = |default: i64| arguments.next().map_or(Ok(default), |text| text.parse());
    let (removals, puts) = (number(6000)?, number(100)?);
    let backend = LmdbBackend::open(Path::new(&folder), LmdbOptions::default())?;
    let mut sequence = 0;
    let mut commit = |operations: Vec<Operation>| {
        sequence += 1;
        backend.commit(&CommitBatch { sequence, operations })
    };
    for first in (2..REVISIONS + 2).step_by(FILL_OPERATIONS as usize) {
        commit((first..first + FILL_OPERATIONS).map(append).collect())?;
    }
    let (written, size) = (written_bytes()?, backend.size_bytes());
    let began = Instant::now();
    let mut next = REVISIONS + 2;
    let (mut commits, mut longest) = (0, 0.0f64);
    for first in (2..REVISIONS / 10 * 9).step_by(removals as usize) {
        let mut operations: Vec<Operation> = (next..next + puts).map(append).collect();
        next += puts;
        operations.extend((first..first + removals).map(remove));
        let commit_began = Instant::now();
        commit(operations)?;
        longest = longest.max(commit_began.elapsed().as_secs_f64());
        commits += 1;
    }
    println!(
        "{commits} commits of {removals} removals and {puts} puts: {:.1} MB written, {:.2} s, longest {:.1} ms, \
         file {:.0} MB before and {:.0} MB after, {:.0} MB in use",
        (written_bytes()? - written) as f64 / 1e6,
        began.elapsed().as_secs_f64(),
        longest * 1e3,
        size as f64 / 1e6,
        backend.size_bytes() as f64 / 1e6,
        backend.size_in_use_bytes() as f64 / 1e6,
    );
    Ok(())
}

fn append(main: i64) -> Operation {
    let revision = Revision::new(main, 0);
    Operation::AppendRevision { revision, tombstone: false, value: vec![0x55; VALUE_BYTES].into() }
}

fn remove(main: i64) -> Operation {
    Operation::RemoveRevision { revision: Revision::new(main, 0), tombstone: false }
}

fn written_bytes() -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.ok_or("no count of written bytes")?.parse()?)
}
