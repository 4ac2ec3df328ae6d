//! Why a file in bbolt's format could not be read or written.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::DiskError;

#[derive(Clone, Debug)]
pub enum BoltError {
    Disk(DiskError),
    /// The file is not what it should be, first noticed in this page.
    Malformed {
        path: PathBuf,
        page: u64,
        reason: String,
    },
    /// The checksum behind a snapshot is absent or another one.
    Checksum {
        path: PathBuf,
        reason: &'static str,
    },
    /// The caller asked for something that the format cannot hold: keys out of order, empty or too long.
    Unwritable {
        path: PathBuf,
        reason: String,
    },
}

impl BoltError {
    pub(super) fn malformed(path: &Path, page: u64, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), page, reason: reason.into() }
    }

    pub(super) fn unwritable(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unwritable { path: path.to_owned(), reason: reason.into() }
    }
}

impl From<DiskError> for BoltError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl fmt::Display for BoltError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(formatter, "{error}"),
            Self::Malformed { path, page, reason } => {
                write!(formatter, "{} is damaged: page {page}: {reason}", path.display())
            }
            Self::Checksum { path, reason } => write!(formatter, "{}: {reason}", path.display()),
            Self::Unwritable { path, reason } => write!(formatter, "cannot write {}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for BoltError {}
