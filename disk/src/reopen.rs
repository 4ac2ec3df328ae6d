//! Opening the log of a member that was here before: which snapshot it is read from, and what follows that. The server
//! and the simulator recover through this one path. It never guesses: what does not fit together is an error.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_api::raftpb::ConfState;

use crate::wal::{self, Recovered, Wal, WalOpenError, WalOptions, WalSnapshot};
use crate::{DiskError, FileSystem, SnapDirectory, SnapshotFile};

/// The log, open for writing, and what it says of the past.
pub struct Reopened {
    pub wal: Wal,
    pub recovered: Recovered,
    /// Index and term of the snapshot it was read from; zeros without one.
    pub snapshot: (u64, u64),
    /// The configuration at that snapshot.
    pub conf_state: ConfState,
    /// Snapshot files that were set aside, with the reasons.
    pub broken: Vec<(PathBuf, String)>,
    /// The snapshot's file is missing; its record in the log took its place.
    pub is_file_missing: bool,
}

/// The log could not be opened.
#[derive(Debug)]
pub enum ReopenError {
    Wal(WalOpenError),
    Snapshots(DiskError),
}

impl fmt::Display for ReopenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wal(error) => write!(formatter, "opening the write-ahead log: {error}"),
            Self::Snapshots(error) => write!(formatter, "snapshot files: {error}"),
        }
    }
}

impl std::error::Error for ReopenError {}

/// Opens the log in `directory`, from its newest snapshot on.
pub fn reopen(
    file_system: &Arc<dyn FileSystem>,
    directory: &Path,
    snap: &SnapDirectory,
    options: WalOptions,
) -> Result<Reopened, ReopenError> {
    let known = wal::valid_snapshot_entries(&**file_system, directory).map_err(ReopenError::Wal)?;
    let loaded = snap.load_newest(&known).map_err(ReopenError::Snapshots)?;
    let (from, conf_state, is_file_missing) = newest_snapshot(loaded.snapshot, &known);
    let (wal, recovered) = Wal::open(Arc::clone(file_system), directory, &from, options).map_err(ReopenError::Wal)?;
    let snapshot = (from.index, from.term);
    Ok(Reopened { wal, recovered, snapshot, conf_state, broken: loaded.broken, is_file_missing })
}

/// Where the log is read from: the newest snapshot file, or the log's own record of a newer snapshot, whose file was
/// damaged or lost. The record says the same; and the log may not reach back to the file before, since segments are
/// purged up to the newest snapshot.
fn newest_snapshot(file: Option<SnapshotFile>, known: &[WalSnapshot]) -> (WalSnapshot, ConfState, bool) {
    let (from, conf_state) = match file {
        Some(file) => (WalSnapshot { index: file.index, term: file.term, conf_state: None }, file.conf_state),
        None => (WalSnapshot::default(), ConfState::default()),
    };
    match known.iter().max_by_key(|record| record.index) {
        Some(WalSnapshot { index, term, conf_state: Some(recorded) }) if *index > from.index => {
            (WalSnapshot { index: *index, term: *term, conf_state: None }, recorded.clone(), true)
        }
        _ => (from, conf_state, false),
    }
}
