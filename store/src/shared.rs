//! What the writer and its readers share.
//!
//! Locks are taken in this order: index, overlay, pins. None is held while the backend is read by a reader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{MappedRwLockReadGuard, Mutex, RwLock, RwLockReadGuard};

use crate::alarm::Alarms;
use crate::auth::AuthState;
use crate::backend::{Backend, BackendError, Bucket, ReadTransaction};
use crate::error::ReadError;
use crate::kv::hash::FinishedHashes;
use crate::kv::index::Index;
use crate::kv::overlay::{Overlay, RecordOverlay};
use crate::lease::Leases;
use crate::member::Membership;
use crate::revision::{KvBytes, Revision};

pub(crate) struct Shared {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) index: RwLock<Index>,
    pub(crate) overlay: RwLock<Overlay>,
    pub(crate) records: RwLock<RecordOverlay>,
    pub(crate) leases: RwLock<Leases>,
    pub(crate) alarms: RwLock<Alarms>,
    pub(crate) membership: RwLock<Arc<Membership>>,
    auth: RwLock<Arc<AuthState>>,
    /// 0 while authentication is disabled, else another number after each change.
    auth_generation: AtomicU64,
    pub(crate) hashes: RwLock<FinishedHashes>,
    pub(crate) pins: Mutex<Pins>,
    /// The last revision whose changes are all in the index.
    revision: AtomicI64,
    /// -1 before the first compaction, as in etcd.
    compact_revision: AtomicI64,
    /// Pins below this were given up on: what they need may be gone.
    purged_revision: AtomicI64,
    applied_index: AtomicU64,
}

/// Revisions that readers still need, each with the number of its holders. Bounded by the number of unfinished reads.
#[derive(Default)]
pub(crate) struct Pins {
    held: BTreeMap<i64, usize>,
}

impl Pins {
    pub(crate) fn lowest(&self) -> Option<i64> {
        self.held.keys().next().copied()
    }
}

/// Keeps a revision readable until dropped.
pub(crate) struct Pin {
    shared: Arc<Shared>,
    pub(crate) revision: i64,
}

impl Pin {
    /// Must be called under the index lock, so that no compaction passes in between.
    pub(crate) fn hold(shared: &Arc<Shared>, revision: i64) -> Self {
        *shared.pins.lock().held.entry(revision).or_default() += 1;
        Self { shared: shared.clone(), revision }
    }
}

impl Pin {
    /// Why a read at this revision failed: what it needed may be gone, with leave.
    pub(crate) fn explain(&self, error: BackendError) -> ReadError {
        if self.revision < self.shared.purged_revision() { ReadError::Compacted } else { ReadError::Backend(error) }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.shared.pins.lock();
        let count = pins.held.get_mut(&self.revision).expect("every pin is counted");
        *count -= 1;
        if *count == 0 {
            pins.held.remove(&self.revision);
        }
    }
}

impl Shared {
    pub(crate) fn new(backend: Arc<dyn Backend>, index: Index) -> Self {
        Self {
            backend,
            index: RwLock::new(index),
            overlay: RwLock::default(),
            records: RwLock::default(),
            leases: RwLock::default(),
            alarms: RwLock::default(),
            membership: RwLock::default(),
            auth: RwLock::default(),
            auth_generation: AtomicU64::new(0),
            hashes: RwLock::default(),
            pins: Mutex::default(),
            revision: AtomicI64::new(0),
            compact_revision: AtomicI64::new(-1),
            purged_revision: AtomicI64::new(-1),
            applied_index: AtomicU64::new(0),
        }
    }

    pub(crate) fn auth(&self) -> MappedRwLockReadGuard<'_, AuthState> {
        RwLockReadGuard::map(self.auth.read(), |auth| &**auth)
    }

    pub(crate) fn share_auth(&self) -> Arc<AuthState> {
        self.auth.read().clone()
    }

    pub(crate) fn auth_generation(&self) -> u64 {
        self.auth_generation.load(Ordering::Acquire)
    }

    /// Changes the users and roles under those who look at them; what somebody still holds stays as it was.
    pub(crate) fn change_auth<T>(&self, act: impl FnOnce(&mut AuthState) -> T) -> T {
        let mut auth = self.auth.write();
        let result = act(Arc::make_mut(&mut auth));
        // Never a number that stood for something else, also where it was 0 meanwhile.
        let generation = if auth.is_enabled() { next_generation() } else { 0 };
        self.auth_generation.store(generation, Ordering::Release);
        result
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(crate) fn publish_revision(&self, revision: i64) {
        self.revision.store(revision, Ordering::Release);
    }

    pub(crate) fn compact_revision(&self) -> i64 {
        self.compact_revision.load(Ordering::Acquire)
    }

    pub(crate) fn publish_compact_revision(&self, revision: i64) {
        self.compact_revision.store(revision, Ordering::Release);
    }

    pub(crate) fn purged_revision(&self) -> i64 {
        self.purged_revision.load(Ordering::Acquire)
    }

    pub(crate) fn publish_purged_revision(&self, revision: i64) {
        self.purged_revision.store(revision, Ordering::Release);
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    pub(crate) fn publish_applied_index(&self, index: u64) {
        self.applied_index.store(index, Ordering::Release);
    }

    /// The value of a revision that is not a tombstone: from the overlay, else from the backend.
    pub(crate) fn fetch(&self, revision: Revision) -> Result<Option<KvBytes>, BackendError> {
        if let Some(value) = self.overlay.read().value(revision) {
            return Ok(Some(value));
        }
        let mut found = None;
        self.backend.read(&mut |transaction| {
            found = fetch_in(transaction, revision)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// The value of a revision that the index knows.
    pub(crate) fn fetch_known(&self, revision: Revision) -> Result<KvBytes, BackendError> {
        self.fetch(revision)?.ok_or_else(|| missing(revision))
    }
}

/// Numbers of the states of authentication in this process; nothing of what is replicated depends on them.
fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// The index and the records disagree: the store is damaged.
pub(crate) fn missing(revision: Revision) -> BackendError {
    BackendError(format!("revision {}_{} is in the index but not stored", revision.main, revision.sub))
}

pub(crate) fn fetch_in(transaction: &dyn ReadTransaction, revision: Revision) -> Result<Option<KvBytes>, BackendError> {
    let mut found: Option<KvBytes> = None;
    transaction.fetch(Bucket::Key, &revision.to_key(), &mut |value| found = Some(value.into()))?;
    Ok(found)
}
