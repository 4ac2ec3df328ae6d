//! The errors of the store's operations: one type per operation, so that a caller sees only what can happen to it.

use std::fmt;

use kvorum_api::EtcdError;

use crate::backend::BackendError;

/// What the requester of an entry is told when the entry was applied but its request failed. State is then as if the
/// request had not been made, except for [`EtcdError::NoSpace`] over quota: etcd applies such a request and still fails it.
pub type ApplyError = EtcdError;

/// An entry that this version cannot apply. The member must stop: skipping it would make its state differ from the others'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyFailure {
    /// The log index of the entry.
    pub index: u64,
    /// The field of `InternalRaftRequest` that cannot be applied.
    pub field: &'static str,
    pub reason: String,
}

impl fmt::Display for ApplyFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cannot apply entry {}: {}: {}", self.index, self.field, self.reason)
    }
}

impl std::error::Error for ApplyFailure {}

/// A read that cannot be answered.
#[derive(Clone, Debug)]
pub enum ReadError {
    /// The revision lies behind the compaction.
    Compacted,
    /// The revision does not exist yet.
    FutureRevision,
    Backend(BackendError),
}

impl ReadError {
    /// What the client is told; a failing backend has no row in etcd's table.
    pub fn etcd(&self) -> Option<EtcdError> {
        match self {
            Self::Compacted => Some(EtcdError::Compacted),
            Self::FutureRevision => Some(EtcdError::FutureRev),
            Self::Backend(_) => None,
        }
    }
}

impl From<BackendError> for ReadError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compacted => formatter.write_str(EtcdError::Compacted.text()),
            Self::FutureRevision => formatter.write_str(EtcdError::FutureRev.text()),
            Self::Backend(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for ReadError {}

/// Why the history from some revision cannot be handed out.
#[derive(Clone, Debug)]
pub enum HistoryError {
    /// It begins at or before this compact revision.
    Compacted(i64),
    Backend(BackendError),
}

impl From<BackendError> for HistoryError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

impl fmt::Display for HistoryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compacted(revision) => write!(formatter, "history up to revision {revision} has been compacted"),
            Self::Backend(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for HistoryError {}

/// The backend's content cannot be taken over.
#[derive(Clone, Debug)]
pub enum OpenError {
    Backend(BackendError),
    /// A record that etcd would not have written: bucket, key in hexadecimal, what is wrong.
    Malformed {
        bucket: &'static str,
        key: String,
        reason: String,
    },
    /// A received state ends before what was applied here. Both are indexes of log entries.
    Behind {
        received: u64,
        applied: u64,
    },
}

impl From<BackendError> for OpenError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(error) => error.fmt(formatter),
            Self::Malformed { bucket, key, reason } => {
                write!(formatter, "bucket {bucket}, key {key}: {reason}")
            }
            Self::Behind { received, applied } => {
                write!(formatter, "the received state ends with entry {received}, and entry {applied} was applied")
            }
        }
    }
}

impl std::error::Error for OpenError {}
