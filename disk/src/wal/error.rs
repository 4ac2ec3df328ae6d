//! Why a log could not be opened.

use std::fmt;
use std::path::PathBuf;

use crate::DiskError;

/// What is wrong with the bytes at the place that [`WalOpenError::Corrupt`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorruptReason {
    /// The word before a record holds a length or padding that no writer leaves there.
    LengthWord,
    /// The bytes of the record are not those of a `walpb.Record`.
    Record,
    /// The record's checksum does not continue that of the records before it.
    Checksum,
    /// The content of the record is not what its type promises.
    Content,
    /// A record stands where one of its type cannot be.
    Position,
    /// The segment's metadata differ from those of the segment before.
    MetadataConflict,
    /// An entry that does not follow the entries before it.
    EntryOrder,
}

impl fmt::Display for CorruptReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::LengthWord => "the length word is damaged",
            Self::Record => "the record cannot be read",
            Self::Checksum => "crc mismatch",
            Self::Content => "the record's content cannot be read",
            Self::Position => "a record of this type cannot stand here",
            Self::MetadataConflict => "conflicting metadata found",
            Self::EntryOrder => "the entry does not follow the ones before it",
        })
    }
}

/// Why a log could not be opened or created. None of these leaves a changed log behind.
#[derive(Clone, Debug)]
pub enum WalOpenError {
    Disk(DiskError),
    /// There is no segment in the folder.
    NotFound {
        directory: PathBuf,
    },
    /// A log is to be created where there is one.
    Exists {
        directory: PathBuf,
    },
    /// Another process, or another [`Wal`](super::Wal) of this one, writes this segment.
    Locked {
        path: PathBuf,
    },
    /// Damage that is not a torn tail. `offset` is the byte where the damaged record begins.
    Corrupt {
        path: PathBuf,
        offset: u64,
        reason: CorruptReason,
    },
    /// All segments begin above this index.
    NoSegmentFor {
        directory: PathBuf,
        index: u64,
    },
    /// The numbers of the segments do not increase by one; `path` is the one after the gap.
    MissingSegment {
        path: PathBuf,
    },
    /// The log does not know the snapshot it is to be read from.
    SnapshotNotFound {
        index: u64,
        term: u64,
    },
    /// The log knows a snapshot of that index, but of another term.
    SnapshotMismatch {
        index: u64,
        term: u64,
        recorded_term: u64,
    },
}

impl WalOpenError {
    /// Whether the files are not what they should be, so that trying again does not help.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Disk(_) | Self::Exists { .. } | Self::Locked { .. })
    }
}

impl From<DiskError> for WalOpenError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl fmt::Display for WalOpenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(formatter, "wal: {error}"),
            Self::NotFound { directory } => write!(formatter, "wal: file not found in {}", directory.display()),
            Self::Exists { directory } => write!(formatter, "wal: {} holds a log already", directory.display()),
            Self::Locked { path } => write!(formatter, "wal: {} is locked by another process", path.display()),
            Self::Corrupt { path, offset, reason } => {
                write!(formatter, "wal: {reason} in file '{}' at position: {offset}", path.display())
            }
            Self::NoSegmentFor { directory, index } => write!(
                formatter,
                "wal: file not found which matches the snapshot index '{index}' in {}",
                directory.display()
            ),
            Self::MissingSegment { path } => {
                write!(formatter, "wal: file sequence numbers do not increase continuously before {}", path.display())
            }
            Self::SnapshotNotFound { index, term } => {
                write!(formatter, "wal: snapshot not found: index {index}, term {term}")
            }
            Self::SnapshotMismatch { index, term, recorded_term } => write!(
                formatter,
                "wal: snapshot mismatch: index {index} has term {recorded_term} in the log and {term} in the snapshot"
            ),
        }
    }
}

impl std::error::Error for WalOpenError {}
