//! etcd's data directory: taken over where it lies, and written back elsewhere. Log and `.snap` files are of one format, so
//! the database is all that changes.
//!
//! Both directions build something new beside what is there and give it its name when it is whole and durable: that
//! rename is the change. What cannot be read is refused before anything was changed, with the file's name and what to do.
//! What an entry of the log means is the caller's to judge.

mod export;
mod take_over;

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::bolt::BoltError;
use crate::wal::WalOpenError;
use crate::{DiskError, ExchangeError};

pub use export::export;
pub use take_over::{Found, TakeOver, TakeOverStep, find, finish, take_over};

/// Where a member's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// `<data-dir>/member`.
    pub member: PathBuf,
    /// `<data-dir>/member/wal`, unless the operator keeps the log elsewhere.
    pub wal: PathBuf,
}

impl Places {
    /// Of a data folder, with the log where it belongs unless it is somewhere else.
    pub fn new(data_directory: &Path, wal_directory: Option<&Path>) -> Self {
        let member = data_directory.join("member");
        let wal = wal_directory.map_or_else(|| member.join("wal"), Path::to_path_buf);
        Self { member, wal }
    }

    pub fn snapshots(&self) -> PathBuf {
        self.member.join("snap")
    }

    /// etcd's database.
    pub fn database(&self) -> PathBuf {
        self.snapshots().join("db")
    }

    /// Our backend.
    pub fn backend(&self) -> PathBuf {
        self.member.join("backend")
    }
}

/// A directory could not be taken over or written out. Nothing that was there has changed.
#[derive(Debug)]
pub enum DirectoryError {
    Disk(DiskError),
    Database(ExchangeError),
    Log(WalOpenError),
    /// It is not what it should be; the text says what to do.
    Refused {
        path: PathBuf,
        reason: String,
    },
}

impl DirectoryError {
    fn refused(path: &Path, reason: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), reason: reason.into() }
    }
}

impl From<DiskError> for DirectoryError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl From<ExchangeError> for DirectoryError {
    fn from(error: ExchangeError) -> Self {
        Self::Database(error)
    }
}

impl From<BoltError> for DirectoryError {
    fn from(error: BoltError) -> Self {
        Self::Database(error.into())
    }
}

impl From<kvorum_store::BackendError> for DirectoryError {
    fn from(error: kvorum_store::BackendError) -> Self {
        Self::Database(error.into())
    }
}

impl From<WalOpenError> for DirectoryError {
    fn from(error: WalOpenError) -> Self {
        Self::Log(error)
    }
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(formatter, "{error}"),
            Self::Database(error) => {
                write!(formatter, "{error}; take the member's database from a snapshot, or join it to its cluster anew")
            }
            Self::Log(error) if error.is_damage() => {
                write!(
                    formatter,
                    "write-ahead log: {error}; restore a snapshot, or join the member to its cluster anew"
                )
            }
            Self::Log(error) => write!(formatter, "write-ahead log: {error}"),
            Self::Refused { path, reason } => write!(formatter, "{}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for DirectoryError {}

/// Takes the lock that bbolt takes on a database, and Kvorum on a data folder, for as long as the file is held.
fn lock(path: &Path, holder: &str) -> Result<std::fs::File, DirectoryError> {
    let file = std::fs::File::open(path).map_err(DiskError::at("open", path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(DirectoryError::refused(path, format!("in use: stop the {holder} that runs on it first")))
        }
        Err(error) => Err(DiskError::new("lock", path, error.into()).into()),
    }
}

#[cfg(test)]
mod tests;
