//! Leases as far as they are replicated: which exist, their TTLs, the keys attached to them.
//!
//! There are no deadlines here: when a lease is due is the leader's memory, and expiry comes back as a `LeaseRevoke`
//! entry.

use std::collections::{BTreeMap, BTreeSet};

/// etcd's bound on a granted TTL.
pub(crate) const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// What is known of one lease without its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// As granted.
    pub ttl_seconds: i64,
    /// As last checkpointed; 0 if it was not, or was renewed since.
    pub remaining_ttl_seconds: i64,
}

#[derive(Debug)]
pub(crate) struct LeaseState {
    pub(crate) info: LeaseInfo,
    /// Sorted, so that a revocation deletes them in the same order on every member.
    pub(crate) keys: BTreeSet<Box<[u8]>>,
}

#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<i64, LeaseState>,
}

impl Leases {
    pub(crate) fn contains(&self, id: i64) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(crate) fn insert(&mut self, id: i64, info: LeaseInfo) {
        self.by_id.insert(id, LeaseState { info, keys: BTreeSet::new() });
    }

    pub(crate) fn remove(&mut self, id: i64) -> Option<LeaseState> {
        self.by_id.remove(&id)
    }

    pub(crate) fn state(&self, id: i64) -> Option<&LeaseState> {
        self.by_id.get(&id)
    }

    pub(crate) fn state_mut(&mut self, id: i64) -> Option<&mut LeaseState> {
        self.by_id.get_mut(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn ids(&self) -> Vec<i64> {
        self.by_id.keys().copied().collect()
    }

    /// False if there is no such lease.
    pub(crate) fn attach(&mut self, id: i64, key: &[u8]) -> bool {
        let Some(lease) = self.by_id.get_mut(&id) else { return false };
        lease.keys.insert(key.into());
        true
    }

    pub(crate) fn detach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.remove(key);
        }
    }
}
