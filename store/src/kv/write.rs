//! Puts and deletions: what changes the key space.
//!
//! All changes of one entry happen within one [`WriteSession`]. It holds the index lock, and readers go by the revision
//! published at its end, so they see all of it or nothing.

use std::sync::Arc;

use parking_lot::RwLockWriteGuard;

use super::index::{Index, Interval, Overwritten, Stamp};
use crate::backend::{BackendError, Operation};
use crate::event::{Event, EventBatch, EventKind, Previous};
use crate::keyspace::key_value::KeyValueParts;
use crate::revision::{KvBytes, Revision};
use crate::shared::Shared;

/// Keys deleted before waiting readers get a turn.
const DELETE_STEP_KEYS: usize = 128;

/// Applied changes that wait for the next commit.
pub(crate) struct Uncommitted {
    pub(crate) operations: Vec<Operation>,
    /// The number the next commit will have.
    pub(crate) sequence: u64,
    scratch: Vec<u8>,
}

impl Uncommitted {
    pub(crate) fn new() -> Self {
        Self { operations: Vec::new(), sequence: 1, scratch: Vec::new() }
    }
}

pub(crate) struct WriteSession<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) index: RwLockWriteGuard<'a, Index>,
    uncommitted: &'a mut Uncommitted,
    /// The revision before this session; its changes are all at the next.
    begin: i64,
    changes: i64,
    events: Vec<Event>,
}

impl<'a> WriteSession<'a> {
    pub(crate) fn begin(shared: &'a Shared, uncommitted: &'a mut Uncommitted) -> Self {
        let index = shared.index.write();
        let begin = shared.revision();
        Self { shared, index, uncommitted, begin, changes: 0, events: Vec::new() }
    }

    /// The revision before the session.
    pub(crate) fn begin_revision(&self) -> i64 {
        self.begin
    }

    /// The store's revision if the session ended now.
    pub(crate) fn revision(&self) -> i64 {
        if self.changes == 0 { self.begin } else { self.begin + 1 }
    }

    fn next_revision(&mut self) -> Revision {
        let revision = Revision::new(self.begin + 1, self.changes);
        self.changes += 1;
        revision
    }

    /// Stores a value. Returns what was there before.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> Option<Overwritten> {
        let revision = self.next_revision();
        // A lease that is gone (its number kept by ignore_lease) is written but nothing can be attached to it.
        let attached = if lease != 0 && self.shared.leases.read().contains(lease) { lease } else { 0 };
        let scratch = &mut self.uncommitted.scratch;
        let (kv, overwritten) = self.index.put(key, revision, attached, |stamp: &Stamp| {
            let parts = KeyValueParts {
                key,
                create_revision: stamp.create_revision,
                mod_revision: revision.main,
                version: stamp.version,
                value,
                lease,
            };
            encode(&parts, scratch)
        });
        let old_lease = overwritten.as_ref().map_or(0, |old| old.lease);
        if old_lease != attached {
            let mut leases = self.shared.leases.write();
            if old_lease != 0 {
                leases.detach(old_lease, key);
            }
            if attached != 0 {
                leases.attach(attached, key);
            }
        }
        self.append(revision, false, kv.clone());
        let created = overwritten.is_none();
        let previous = previous_of(overwritten.as_ref());
        if self.events.is_empty() {
            // Most sessions make one change.
            self.events.reserve_exact(1);
        }
        self.events.push(Event { kind: EventKind::Put, revision, kv, created, previous });
        overwritten
    }

    /// Deletes all keys of the interval; returns what they held, in key order.
    pub(crate) fn delete(&mut self, interval: &Interval<'_>) -> Vec<Overwritten> {
        if interval.is_single() {
            return self.delete_key(interval.from).into_iter().collect();
        }
        let live = self.index.range(interval).filter(|entry| entry.is_live());
        let keys: Vec<Box<[u8]>> = live.map(|entry| entry.key().into()).collect();
        let mut deleted = Vec::with_capacity(keys.len());
        for (position, key) in keys.iter().enumerate() {
            if position % DELETE_STEP_KEYS == DELETE_STEP_KEYS - 1 {
                RwLockWriteGuard::bump(&mut self.index);
            }
            deleted.extend(self.delete_key(key));
        }
        deleted
    }

    pub(crate) fn delete_key(&mut self, key: &[u8]) -> Option<Overwritten> {
        let revision = Revision::new(self.begin + 1, self.changes);
        let scratch = &mut self.uncommitted.scratch;
        let (stored, overwritten) = self.index.delete(key, revision, || {
            let stored = KeyValueParts { key, ..KeyValueParts::default() };
            encode(&stored, scratch)
        })?;
        self.changes += 1;
        if overwritten.lease != 0 {
            self.shared.leases.write().detach(overwritten.lease, key);
        }
        self.append(revision, true, stored);
        let told = KeyValueParts { key, mod_revision: revision.main, ..KeyValueParts::default() };
        let kv = encode(&told, &mut self.uncommitted.scratch);
        let previous = previous_of(Some(&overwritten));
        self.events.push(Event { kind: EventKind::Delete, revision, kv, created: false, previous });
        Some(overwritten)
    }

    /// The current value of a key that exists.
    pub(crate) fn current(&self, key: &[u8]) -> Result<Option<KvBytes>, BackendError> {
        let Some(entry) = self.index.entry(key) else { return Ok(None) };
        if !entry.is_live() {
            return Ok(None);
        }
        match entry.value() {
            Some(value) => Ok(Some(value.clone())),
            None => self.shared.fetch_known(entry.latest().revision).map(Some),
        }
    }

    /// The value that a write replaced.
    pub(crate) fn value_of(&self, overwritten: &Overwritten) -> Result<KvBytes, BackendError> {
        match &overwritten.value {
            Some(value) => Ok(value.clone()),
            None => self.shared.fetch_known(overwritten.stamp.revision),
        }
    }

    /// Makes the changes visible.
    pub(crate) fn finish(self, events: &mut Vec<EventBatch>) {
        if self.changes > 0 {
            let revision = self.begin + 1;
            self.shared.publish_revision(revision);
            events.push(EventBatch { revision, events: self.events });
        }
    }

    fn append(&mut self, revision: Revision, tombstone: bool, value: KvBytes) {
        self.shared.overlay.write().push(revision, tombstone, value.clone(), self.uncommitted.sequence);
        self.uncommitted.operations.push(Operation::AppendRevision { revision, tombstone, value });
    }
}

fn encode(parts: &KeyValueParts<'_>, scratch: &mut Vec<u8>) -> KvBytes {
    scratch.clear();
    parts.encode(scratch);
    Arc::from(scratch.as_slice())
}

fn previous_of(overwritten: Option<&Overwritten>) -> Previous {
    match overwritten {
        None => Previous::None,
        Some(Overwritten { value: Some(value), .. }) => Previous::Known(value.clone()),
        Some(old) => Previous::Stored(old.stamp.revision),
    }
}
