//! Looking at the store while it changes: cheap to clone, from any thread.

use std::sync::Arc;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::{AlarmMember, AlarmType, RangeRequest, TxnRequest};

use crate::auth::{Access, AuthState, Caller};
use crate::backend::BackendError;
use crate::error::{HistoryError, ReadError};
use crate::kv::hash::{FinishedHash, HashKv, hash_all, hash_kv};
use crate::kv::history::{History, history};
use crate::kv::range::RangeCursor;
use crate::kv::read_txn::{TxnStep, read_only_txn};
use crate::kv::usage::{SpaceUse, space_use};
use crate::lease::LeaseInfo;
use crate::member::Membership;
use crate::revision::{KvBytes, Revision};
use crate::shared::Shared;
use crate::version::{FIRST_STORAGE_VERSION, Version};

/// Revisions that leave the overlay under one hold of its lock, for which every put waits.
const FORGET_STEP_REVISIONS: usize = 256;

/// A view of the store. Methods that may read the backend say so; they are not for threads that serve connections.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// Sizes of what is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Keys that exist now.
    pub keys: u64,
    /// Bytes of current values kept in memory.
    pub value_bytes: u64,
    /// Revisions not yet committed to the backend.
    pub overlay_revisions: usize,
    pub leases: usize,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The store's revision; 1 when nothing was ever written.
    pub fn revision(&self) -> i64 {
        self.shared.revision()
    }

    /// The revision last compacted to; -1 if none was.
    pub fn compact_revision(&self) -> i64 {
        self.shared.compact_revision()
    }

    /// The index of the last applied entry.
    pub fn applied_index(&self) -> u64 {
        self.shared.applied_index()
    }

    /// Begins a range at the current revision, or the one asked for. The request must have passed
    /// [`crate::check_range`].
    #[inline]
    pub fn range(&self, request: &RangeRequest) -> Result<RangeCursor, ReadError> {
        RangeCursor::begin(&self.shared, request)
    }

    /// Evaluates a transaction for which [`crate::is_read_only`] holds, at one revision.
    pub fn read_only_txn(&self, request: &TxnRequest) -> Result<TxnStep, ReadError> {
        read_only_txn(&self.shared, request)
    }

    /// What happened from revision `from` on: at most `limit_revisions` whole revisions, and not much more than 4 MiB. May
    /// read the backend.
    pub fn history(&self, from: i64, limit_revisions: usize) -> Result<History, HistoryError> {
        history(&self.shared, from, limit_revisions)
    }

    /// The value a key had just before `revision`; `None` if it did not exist or that is compacted. May read the backend.
    pub fn value_before(&self, key: &[u8], revision: i64) -> Result<Option<KvBytes>, ReadError> {
        let found = {
            let index = self.shared.index.read();
            if revision - 1 < self.shared.compact_revision() {
                return Ok(None);
            }
            let Some(entry) = index.entry(key) else { return Ok(None) };
            let Some(stamp) = entry.live_at(revision - 1) else { return Ok(None) };
            match entry.value_at(&stamp) {
                Some(value) => return Ok(Some(value.clone())),
                None => stamp.revision,
            }
        };
        // It may be compacted away meanwhile; then it is absent.
        Ok(self.shared.fetch(found)?)
    }

    /// The `KeyValue` stored under a revision. May read the backend.
    pub fn fetch(&self, revision: Revision) -> Result<Option<KvBytes>, BackendError> {
        self.shared.fetch(revision)
    }

    /// etcd's `HashKV`; 0 stands for the current revision. Reads the whole history, in bounded transactions.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        hash_kv(&self.shared, revision)
    }

    /// What the last compactions since the start hashed, in rising order of revisions.
    pub fn finished_hashes(&self) -> Vec<FinishedHash> {
        self.shared.hashes.read().all()
    }

    /// etcd's `Maintenance.Hash` over all buckets. Reads everything.
    pub fn hash(&self) -> Result<u32, ReadError> {
        hash_all(&self.shared)
    }

    /// Which prefixes of keys use most, history included, about. Reads a bounded part of the backend.
    pub fn space_use(&self) -> Result<SpaceUse, BackendError> {
        space_use(&self.shared)
    }

    pub fn members(&self) -> Arc<Membership> {
        self.shared.membership.read().clone()
    }

    /// All raised alarms, ordered by kind and member.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.shared.alarms.read().list(AlarmType::None as i32)
    }

    /// 0 while authentication is disabled, else another number after each change of users, roles and permissions.
    #[inline]
    pub fn auth_generation(&self) -> u64 {
        self.shared.auth_generation()
    }

    pub fn auth(&self) -> Arc<AuthState> {
        self.shared.share_auth()
    }

    /// Whether the caller may ask for a transaction, which may touch the keys of leases.
    pub fn check_txn_permission(
        &self,
        auth: &AuthState,
        caller: Caller<'_>,
        txn: &TxnRequest,
    ) -> Result<(), EtcdError> {
        auth.check_txn(caller, &self.shared.leases.read(), txn)
    }

    /// Whether the caller may do something to all keys of a lease; one that does not exist has none.
    pub fn check_lease_permission(
        &self,
        auth: &AuthState,
        caller: Caller<'_>,
        access: Access,
        id: i64,
    ) -> Result<(), EtcdError> {
        auth.check_lease(caller, access, &self.shared.leases.read(), id)
    }

    pub fn cluster_version(&self) -> Option<String> {
        self.shared.membership.read().cluster_version.clone()
    }

    /// The version of etcd's that the stored form belongs to. It follows the cluster version; before 3.6 nothing of it was
    /// stored, and etcd tells 3.5.
    pub fn storage_version(&self) -> Option<String> {
        let version: Version = self.cluster_version()?.parse().ok()?;
        let stored = if version < FIRST_STORAGE_VERSION { Version::of(3, 5) } else { version.cluster() };
        Some(stored.to_string())
    }

    /// In rising order.
    pub fn lease_ids(&self) -> Vec<i64> {
        self.shared.leases.read().ids()
    }

    pub fn lease(&self, id: i64) -> Option<LeaseInfo> {
        self.shared.leases.read().state(id).map(|lease| lease.info)
    }

    /// The keys attached to a lease, sorted; empty if there is no such lease.
    pub fn lease_keys(&self, id: i64) -> Vec<Box<[u8]>> {
        let leases = self.shared.leases.read();
        leases.state(id).map(|lease| lease.keys.iter().cloned().collect()).unwrap_or_default()
    }

    /// To be called once the commit with this sequence is visible in the backend: the overlay forgets it.
    pub fn committed(&self, sequence: u64) {
        loop {
            let forgotten = self.shared.overlay.write().forget(sequence, FORGET_STEP_REVISIONS);
            if forgotten.len() < FORGET_STEP_REVISIONS {
                break;
            }
        }
        self.shared.records.write().forget(sequence);
    }

    pub fn statistics(&self) -> Statistics {
        let (keys, value_bytes) = {
            let index = self.shared.index.read();
            (index.live_keys(), index.value_bytes())
        };
        Statistics {
            keys,
            value_bytes,
            overlay_revisions: self.shared.overlay.read().len(),
            leases: self.shared.leases.read().len(),
        }
    }
}
