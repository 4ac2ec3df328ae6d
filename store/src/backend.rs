//! What the store asks of durable storage. Buckets, keys and values are etcd's, so that hashes and exports agree byte
//! for byte; how they lie on disk is the implementation's affair.

use std::fmt;
use std::ops::ControlFlow;

use crate::revision::{KvBytes, Revision};

/// etcd's buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    Alarm,
    Auth,
    AuthRoles,
    AuthUsers,
    Cluster,
    Key,
    Lease,
    Members,
    MembersRemoved,
    Meta,
}

impl Bucket {
    /// All buckets in the order of their names, which is the order etcd's bbolt file keeps.
    pub const ALL: [Self; 10] = [
        Self::Alarm,
        Self::Auth,
        Self::AuthRoles,
        Self::AuthUsers,
        Self::Cluster,
        Self::Key,
        Self::Lease,
        Self::Members,
        Self::MembersRemoved,
        Self::Meta,
    ];

    /// The bucket's name as etcd stores it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Auth => "auth",
            Self::AuthRoles => "authRoles",
            Self::AuthUsers => "authUsers",
            Self::Cluster => "cluster",
            Self::Key => "key",
            Self::Lease => "lease",
            Self::Members => "members",
            Self::MembersRemoved => "members_removed",
            Self::Meta => "meta",
        }
    }
}

/// The backend could not read or write. The member stops on a failed write; a failed read fails its request.
#[derive(Clone, Debug)]
pub struct BackendError(pub String);

impl fmt::Display for BackendError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "backend: {}", self.0)
    }
}

impl std::error::Error for BackendError {}

/// One change to be made durable.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A new revision in [`Bucket::Key`]. Within a batch these come in rising order, above every revision already stored.
    AppendRevision {
        revision: Revision,
        tombstone: bool,
        value: KvBytes,
    },
    /// Removes a compacted revision from [`Bucket::Key`]; absent ones are ignored.
    RemoveRevision {
        revision: Revision,
        tombstone: bool,
    },
    Put {
        bucket: Bucket,
        key: Box<[u8]>,
        value: Box<[u8]>,
    },
    /// Absent keys are ignored.
    Delete {
        bucket: Bucket,
        key: Box<[u8]>,
    },
}

/// Everything one durable transaction must hold: applied changes together with the consistent index that covers them.
#[derive(Clone, Debug, Default)]
pub struct CommitBatch {
    /// The overlay may forget what came with this number or a smaller one once the commit is visible to readers.
    pub sequence: u64,
    pub operations: Vec<Operation>,
}

/// A consistent view of the backend, held for a bounded time.
pub trait ReadTransaction {
    /// Hands the value to `receive` if the key exists, and says whether it does.
    fn fetch(&self, bucket: Bucket, key: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<bool, BackendError>;

    /// Visits records with `from <= key < until` in key order (`until` absent: to the bucket's end) until `visit` breaks.
    fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        until: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), BackendError>;
}

/// Durable storage. Many threads read while one commits.
pub trait Backend: Send + Sync {
    /// Runs `action` in one read transaction. It must be short: an old transaction keeps freed space from being reused.
    fn read(
        &self,
        action: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), BackendError>,
    ) -> Result<(), BackendError>;

    /// Writes the batch in one transaction and returns when it is durable and visible to new read transactions.
    /// Called by one thread at a time.
    fn commit(&self, batch: &CommitBatch) -> Result<(), BackendError>;

    /// Bytes the file takes on disk.
    fn size_bytes(&self) -> u64;

    /// Bytes of it that hold data; the rest is reused by later writes.
    fn size_in_use_bytes(&self) -> u64;
}
