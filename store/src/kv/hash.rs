//! Hashes over what is stored, equal to etcd's: CRC-32C over keys and values in order.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::index::{Interval, IntervalEnd};
use super::records::visit_records;
use crate::backend::{BackendError, Bucket};
use crate::error::ReadError;
use crate::event::checked_key_of;
use crate::keyspace::meta;
use crate::revision::Revision;
use crate::shared::{Pin, Shared};

/// Records read in one backend transaction.
const STEP_RECORDS: usize = 1000;

/// etcd remembers the hashes of this many compactions.
const FINISHED_HASHES_MAX: usize = 10;

/// The answer of `HashKV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    pub compact_revision: i64,
    /// The revision hashed up to.
    pub hash_revision: i64,
    /// The store's revision, for the header.
    pub revision: i64,
    /// False where two healthy members may differ: after a compaction etcd hashes whatever that has not removed yet, unless
    /// some key exists at the revision.
    pub is_comparable: bool,
}

/// Hashes computed while compacting. `HashKV` at a revision that was compacted to answers with what was hashed then, over
/// what there was before.
#[derive(Debug, Default)]
pub(crate) struct FinishedHashes {
    by_revision: Vec<FinishedHash>,
}

/// What a compaction hashed before it removed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedHash {
    /// The revision compacted to.
    pub revision: i64,
    /// The revision that had been compacted to before; -1 if none was.
    pub compact_revision: i64,
    pub hash: u32,
}

impl FinishedHashes {
    pub(crate) fn add(&mut self, hash: FinishedHash) {
        self.by_revision.push(hash);
        self.by_revision.sort_by_key(|hash| hash.revision);
        if self.by_revision.len() > FINISHED_HASHES_MAX {
            self.by_revision.remove(0);
        }
    }

    /// In rising order of revisions.
    pub(crate) fn all(&self) -> Vec<FinishedHash> {
        self.by_revision.clone()
    }

    fn at(&self, revision: i64) -> Option<FinishedHash> {
        self.by_revision.iter().find(|hash| hash.revision == revision).copied()
    }
}

/// The running hash of the key bucket up to a revision.
///
/// Of what lies at or before the compact revision only revisions that are current at `keep_at` count (etcd's "keep").
/// etcd leaves the rule out when nothing is current there and hashes whatever the compaction has left so far; here that is
/// what it will leave in the end.
pub(crate) struct KeyHasher {
    crc: u32,
    compact_revision: i64,
    keep_at: i64,
}

impl KeyHasher {
    /// `anything_kept`: whether etcd's "keep" for `revision` has any element.
    pub(crate) fn new(compact_revision: i64, revision: i64, anything_kept: bool) -> Self {
        let keep_at = if anything_kept { revision } else { compact_revision };
        Self { crc: crc32c::crc32c(Bucket::Key.name().as_bytes()), compact_revision, keep_at }
    }

    pub(crate) fn add(&mut self, shared: &Shared, revision: Revision, tombstone: bool, value: &[u8]) {
        // A revision without content (see the walk at start) has an empty key in etcd, and no compaction removes it.
        // What the disk has damaged belongs to no key. It is hashed, and so found.
        if revision.main <= self.compact_revision
            && let Some(key) = checked_key_of(value)
        {
            let index = shared.index.read();
            let kept = index.entry(key).and_then(|entry| entry.live_at(self.keep_at));
            if kept.is_none_or(|stamp| stamp.revision != revision) {
                return;
            }
        }
        let key = revision.to_tombstone_key();
        let key = if tombstone { &key[..] } else { &key[..key.len() - 1] };
        self.crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, key), value);
    }

    pub(crate) fn hash(&self) -> u32 {
        self.crc
    }
}

const ALL_KEYS: Interval<'static> = Interval { from: &[], end: IntervalEnd::Open };

/// Whether any key fulfils the predicate; the index lock is let go every so often.
pub(crate) fn any_key(shared: &Shared, predicate: impl Fn(&super::index::KeyEntry) -> bool) -> bool {
    let mut next_key: Vec<u8> = Vec::new();
    loop {
        let index = shared.index.read();
        let mut resume = None;
        for (position, entry) in index.range(&Interval { from: &next_key, ..ALL_KEYS }).enumerate() {
            if predicate(entry) {
                return true;
            }
            if position == STEP_RECORDS {
                resume = Some(entry.key().to_vec());
                break;
            }
        }
        match resume {
            Some(key) => next_key = key,
            None => return false,
        }
    }
}

pub(crate) fn hash_kv(shared: &Arc<Shared>, revision: i64) -> Result<HashKv, ReadError> {
    if let Some(finished) = shared.hashes.read().at(revision) {
        return Ok(HashKv {
            hash: finished.hash,
            compact_revision: finished.compact_revision,
            hash_revision: finished.revision,
            revision: shared.revision(),
            is_comparable: true,
        });
    }
    let (pin, current, compact_revision) = {
        let _index = shared.index.read();
        let compact_revision = shared.compact_revision();
        (Pin::hold(shared, compact_revision), shared.revision(), compact_revision)
    };
    if revision > 0 && revision < compact_revision {
        return Err(ReadError::Compacted);
    }
    if revision > current {
        return Err(ReadError::FutureRevision);
    }
    // A negative revision hashes nothing in etcd: everything lies above it.
    let upto = if revision == 0 { current } else { revision };
    let anything_kept = compact_revision > 0 && any_key(shared, |entry| entry.live_at(upto).is_some());
    let mut hasher = KeyHasher::new(compact_revision, upto, anything_kept);
    let mut position = (upto > 0).then(|| Revision::new(1, 0));
    while let Some(from) = position {
        position = visit_records(shared, from, upto, STEP_RECORDS, &mut |revision, tombstone, stored| {
            hasher.add(shared, revision, tombstone, stored.bytes());
            ControlFlow::Continue(())
        })?;
        if pin.revision < shared.purged_revision() {
            return Err(ReadError::Compacted);
        }
    }
    Ok(HashKv {
        hash: hasher.hash(),
        compact_revision,
        hash_revision: upto,
        revision: current,
        is_comparable: compact_revision <= 0 || anything_kept,
    })
}

/// etcd's `Maintenance.Hash`: every bucket's name and content, but for what differs between healthy members.
pub(crate) fn hash_all(shared: &Arc<Shared>) -> Result<u32, ReadError> {
    let mut crc = 0;
    for bucket in Bucket::ALL {
        crc = crc32c::crc32c_append(crc, bucket.name().as_bytes());
        crc = match bucket {
            Bucket::Key => hash_key_bucket(shared, crc)?,
            _ => hash_small_bucket(shared, bucket, crc)?,
        };
    }
    Ok(crc)
}

/// All revisions that no compaction has removed, whether or not that removal is committed.
fn hash_key_bucket(shared: &Arc<Shared>, mut crc: u32) -> Result<u32, BackendError> {
    let (pin, compact_revision, current) = {
        let _index = shared.index.read();
        let compact_revision = shared.compact_revision();
        (Pin::hold(shared, compact_revision), compact_revision, shared.revision())
    };
    let mut position = Some(Revision::default());
    while let Some(from) = position {
        position = visit_records(shared, from, current, STEP_RECORDS, &mut |revision, tombstone, stored| {
            if revision.main <= compact_revision
                && let Some(key) = checked_key_of(stored.bytes())
            {
                let index = shared.index.read();
                if !index.entry(key).is_some_and(|entry| entry.knows(revision)) {
                    return ControlFlow::Continue(());
                }
            }
            let key = revision.to_tombstone_key();
            let key = if tombstone { &key[..] } else { &key[..key.len() - 1] };
            crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), stored.bytes());
            ControlFlow::Continue(())
        })?;
    }
    drop(pin);
    Ok(crc)
}

fn hash_small_bucket(shared: &Shared, bucket: Bucket, mut crc: u32) -> Result<u32, BackendError> {
    let mut records = shared.records.read().bucket(bucket);
    shared.backend.read(&mut |transaction| {
        transaction.scan(bucket, &[], None, &mut |key, value| {
            records.entry(key.into()).or_insert_with(|| Some(value.into()));
            ControlFlow::Continue(())
        })
    })?;
    let differs_between_members = |key: &[u8]| {
        bucket == Bucket::Meta && [meta::CONSISTENT_INDEX, meta::TERM, meta::STORAGE_VERSION].contains(&key)
    };
    for (key, value) in &records {
        if let Some(value) = value
            && !differs_between_members(key)
        {
            crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value);
        }
    }
    Ok(crc)
}
