//! A backend in memory, for tests and simulations: same contract, nothing durable.
//!
//! A commit can be made to lag: [`MemoryBackend::snapshot`] is what a restart at that moment would find.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::backend::{Backend, BackendError, Bucket, CommitBatch, Operation, ReadTransaction};
use crate::revision::Revision;

type Records = BTreeMap<(Bucket, Box<[u8]>), Arc<[u8]>>;

#[derive(Debug, Default)]
pub struct MemoryBackend {
    records: RwLock<Records>,
}

impl MemoryBackend {
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of what is committed.
    pub fn snapshot(&self) -> Self {
        Self { records: RwLock::new(self.records.read().clone()) }
    }

    /// Takes over what another one holds, as a received snapshot does.
    pub fn replace(&self, other: &Self) {
        let records = other.records.read().clone();
        *self.records.write() = records;
    }

    /// All records of a bucket in key order.
    pub fn records(&self, bucket: Bucket) -> Vec<(Vec<u8>, Vec<u8>)> {
        let records = self.records.read();
        let of_bucket = records.range((bucket, Box::default())..).take_while(|((of, _), _)| *of == bucket);
        of_bucket.map(|((_, key), value)| (key.to_vec(), value.to_vec())).collect()
    }

    /// Writes a record past all checks, for tests of what is found at start.
    pub fn put(&self, bucket: Bucket, key: &[u8], value: &[u8]) {
        self.records.write().insert((bucket, key.into()), value.into());
    }
}

fn revision_key(revision: Revision, tombstone: bool) -> Box<[u8]> {
    if tombstone { Box::new(revision.to_tombstone_key()) } else { Box::new(revision.to_key()) }
}

impl Backend for MemoryBackend {
    fn read(
        &self,
        action: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        // Not behind a waiting commit: a reader may hold a lock that another reader's action wants.
        let records = self.records.read_recursive();
        action(&MemoryTransaction(&records))
    }

    fn commit(&self, batch: &CommitBatch) -> Result<(), BackendError> {
        let mut records = self.records.write();
        for operation in &batch.operations {
            match operation {
                Operation::AppendRevision { revision, tombstone, value } => {
                    let key = revision_key(*revision, *tombstone);
                    let replaced = records.insert((Bucket::Key, key), value.clone());
                    assert!(replaced.is_none(), "a revision is appended once");
                }
                Operation::RemoveRevision { revision, tombstone } => {
                    records.remove(&(Bucket::Key, revision_key(*revision, *tombstone)));
                }
                Operation::Put { bucket, key, value } => {
                    records.insert((*bucket, key.clone()), value.as_ref().into());
                }
                Operation::Delete { bucket, key } => {
                    records.remove(&(*bucket, key.clone()));
                }
            }
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.size_in_use_bytes()
    }

    fn size_in_use_bytes(&self) -> u64 {
        self.records.read().iter().map(|((_, key), value)| (key.len() + value.len()) as u64).sum()
    }
}

struct MemoryTransaction<'a>(&'a Records);

impl ReadTransaction for MemoryTransaction<'_> {
    fn fetch(&self, bucket: Bucket, key: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<bool, BackendError> {
        let value = self.0.get(&(bucket, key.into()));
        if let Some(value) = value {
            receive(value);
        }
        Ok(value.is_some())
    }

    fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        until: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), BackendError> {
        let from = (Bound::Included((bucket, Box::from(from))), Bound::Unbounded);
        for ((of, key), value) in self.0.range(from) {
            if *of != bucket || until.is_some_and(|until| &**key >= until) || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
