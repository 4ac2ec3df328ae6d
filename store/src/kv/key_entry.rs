//! What the index knows of one key: its revisions, and its current value while the budget allows.
//!
//! A key's revisions are kept flat and in order, each with what cannot be derived from its neighbours after a compaction
//! (create revision, version); version 0 marks a tombstone. etcd groups them into generations; the answers are the same.
//! Example: put at 2, put at 3, delete at 5, put at 7 is `2 v1, 3 v2, 5 v0, 7 v1`.
//!
//! There is one entry for each key of the store, so its size is what the index costs. The key is not stored beside the
//! value: it is read out of the encoded `KeyValue`, or out of one that holds nothing else.

use std::sync::Arc;

use crate::event::key_of;
use crate::keyspace::key_value::KeyValueParts;
use crate::revision::{KvBytes, Revision};

/// One revision of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) revision: Revision,
    /// Main revision of the put that began this life of the key; 0 for a tombstone.
    pub(crate) create_revision: i64,
    /// Puts in this life so far; 0 for a tombstone.
    pub(crate) version: i64,
}

impl Stamp {
    pub(crate) const fn tombstone(revision: Revision) -> Self {
        Self { revision, create_revision: 0, version: 0 }
    }

    pub(crate) const fn is_tombstone(&self) -> bool {
        self.version == 0
    }
}

/// Bits of [`KeyEntry::head_and_held`] below the head.
const HEAD_SHIFT: u32 = 8;

/// The three bytes of a key behind the first `skipped`, as a number; zeros where it has none.
#[inline]
pub(crate) fn head_of(key: &[u8], skipped: usize) -> u32 {
    let byte = |position: usize| key.get(skipped + position).map_or(0, |byte| u32::from(*byte));
    byte(0) << 16 | byte(1) << 8 | byte(2)
}

#[derive(Debug)]
pub(crate) struct KeyEntry {
    /// The encoded `KeyValue` of the latest revision, or one with nothing but the key.
    kv: KvBytes,
    main: i64,
    create_revision: i64,
    version: i64,
    sub: u32,
    /// Whether `kv` is the value, in the lowest bit. Above the lowest byte the head of the key that the table chose: most of
    /// a search reads these and not the keys, which lie elsewhere.
    head_and_held: u32,
    /// What most keys do not have, so that they pay for a pointer only.
    rest: Option<Box<Rest>>,
}

// One word more is eight megabytes for a million keys.
const _: () = assert!(size_of::<KeyEntry>() <= 56);

#[derive(Debug, Default)]
struct Rest {
    /// All earlier revisions in rising order.
    older: Vec<Stamp>,
    lease: i64,
}

impl KeyEntry {
    /// A key at its first known revision. `kv` is its encoded `KeyValue`, whole if it `holds_value`.
    ///
    /// # Panics
    /// If a single transaction made 2^32 changes.
    pub(crate) fn new(kv: KvBytes, holds_value: bool, latest: Stamp, lease: i64) -> Self {
        let head_and_held = u32::from(holds_value);
        let mut entry = Self { kv, main: 0, create_revision: 0, version: 0, sub: 0, head_and_held, rest: None };
        entry.set_latest(latest);
        entry.set_lease(lease);
        entry
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        key_of(&self.kv)
    }

    /// What [`head_of`] gave when it was set last.
    #[inline]
    pub(crate) fn head(&self) -> u32 {
        self.head_and_held >> HEAD_SHIFT
    }

    pub(crate) fn set_head(&mut self, skipped: usize) {
        self.head_and_held = head_of(self.key(), skipped) << HEAD_SHIFT | u32::from(self.holds_value());
    }

    #[inline]
    fn holds_value(&self) -> bool {
        self.head_and_held & 1 != 0
    }

    #[inline]
    pub(crate) fn latest(&self) -> Stamp {
        let revision = Revision::new(self.main, i64::from(self.sub));
        Stamp { revision, create_revision: self.create_revision, version: self.version }
    }

    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        self.version != 0
    }

    /// The encoded `KeyValue` of the latest revision, if it is a put and the budget allowed.
    #[inline]
    pub(crate) fn value(&self) -> Option<&KvBytes> {
        self.holds_value().then_some(&self.kv)
    }

    /// The value of the revision with this stamp, if it is the latest and in memory.
    #[inline]
    pub(crate) fn value_at(&self, stamp: &Stamp) -> Option<&KvBytes> {
        self.value().filter(|_| stamp.revision.main == self.main && stamp.revision.sub == i64::from(self.sub))
    }

    /// Bytes of the value in memory.
    pub(crate) fn value_bytes(&self) -> u64 {
        self.value().map_or(0, |value| value.len() as u64)
    }

    /// The lease the key is attached to now, 0 for none.
    pub(crate) fn lease(&self) -> i64 {
        self.rest.as_ref().map_or(0, |rest| rest.lease)
    }

    pub(crate) fn set_lease(&mut self, lease: i64) {
        if lease != self.lease() {
            self.rest.get_or_insert_default().lease = lease;
            self.drop_empty_rest();
        }
    }

    /// The put that was current at `at`, if the key existed then.
    #[inline]
    pub(crate) fn live_at(&self, at: i64) -> Option<Stamp> {
        self.stamp_at(at).filter(|stamp| !stamp.is_tombstone())
    }

    /// The last revision with `main <= at`, tombstone or not.
    #[inline]
    pub(crate) fn stamp_at(&self, at: i64) -> Option<Stamp> {
        if self.main <= at {
            return Some(self.latest());
        }
        let older = self.older();
        let end = older.partition_point(|stamp| stamp.revision.main <= at);
        older[..end].last().copied()
    }

    /// The last revision before `revision`, tombstone or not.
    pub(crate) fn stamp_before(&self, revision: Revision) -> Option<Stamp> {
        let latest = self.latest();
        if latest.revision < revision {
            return Some(latest);
        }
        let older = self.older();
        let end = older.partition_point(|stamp| stamp.revision < revision);
        older[..end].last().copied()
    }

    pub(crate) fn knows(&self, revision: Revision) -> bool {
        self.latest().revision == revision
            || self.older().binary_search_by_key(&revision, |stamp| stamp.revision).is_ok()
    }

    /// A further revision with its value. Returns the value that was in memory until now.
    pub(crate) fn push(&mut self, stamp: Stamp, kv: KvBytes, holds_value: bool) -> Option<KvBytes> {
        let previous = self.latest();
        assert!(previous.revision < stamp.revision, "revisions of a key rise");
        let older = &mut self.rest.get_or_insert_default().older;
        if older.len() == older.capacity() {
            // Most keys have few revisions, or many and are compacted soon.
            older.reserve_exact(1 + older.len() / 2);
        }
        older.push(previous);
        self.set_latest(stamp);
        let old = std::mem::replace(&mut self.kv, kv);
        let held = self.holds_value();
        self.head_and_held = self.head_and_held & !1 | u32::from(holds_value);
        held.then_some(old)
    }

    /// A later revision of the same key takes this one's place.
    pub(crate) fn succeed(&mut self, next: Self) {
        let (stamp, lease) = (next.latest(), next.lease());
        let holds_value = next.holds_value();
        self.push(stamp, next.kv, holds_value);
        self.set_lease(lease);
    }

    /// Forgets what a compaction at `at` makes unreachable, oldest first and at most `limit` revisions, handing each to
    /// `forget`. What remains of the past is the put that was current at `at`, or a tombstone exactly at `at`, which etcd
    /// keeps.
    pub(crate) fn compact(&mut self, at: i64, limit: usize, forget: &mut dyn FnMut(&Stamp)) -> Compacted {
        let unreachable = |stamp: &Stamp| stamp.is_tombstone() && stamp.revision.main < at;
        let older = self.older();
        let latest_is_past = self.main <= at;
        let forgotten = if latest_is_past {
            older.len()
        } else {
            let past = older.partition_point(|stamp| stamp.revision.main <= at);
            let keep_one = past > 0 && !unreachable(&older[past - 1]);
            past - usize::from(keep_one)
        };
        self.forget_oldest(forgotten.min(limit), forget);
        let latest = self.latest();
        if forgotten > limit {
            Compacted::Partly
        } else if latest_is_past && unreachable(&latest) {
            forget(&latest);
            Compacted::Away
        } else {
            Compacted::Whole(forgotten)
        }
    }

    fn older(&self) -> &[Stamp] {
        self.rest.as_ref().map_or(&[], |rest| &rest.older)
    }

    fn set_latest(&mut self, stamp: Stamp) {
        self.main = stamp.revision.main;
        self.sub = u32::try_from(stamp.revision.sub).expect("fewer than 2^32 changes in one transaction");
        self.create_revision = stamp.create_revision;
        self.version = stamp.version;
    }

    fn forget_oldest(&mut self, count: usize, forget: &mut dyn FnMut(&Stamp)) {
        let Some(rest) = self.rest.as_deref_mut() else { return };
        let older = &mut rest.older;
        older.drain(..count).for_each(|stamp| forget(&stamp));
        if older.capacity() > 4 * older.len() {
            older.shrink_to_fit();
        }
        self.drop_empty_rest();
    }

    fn drop_empty_rest(&mut self) {
        if self.rest.as_ref().is_some_and(|rest| rest.older.is_empty() && rest.lease == 0) {
            self.rest = None;
        }
    }
}

/// How far a key was compacted.
pub(crate) enum Compacted {
    /// This many revisions were forgotten.
    Whole(usize),
    /// There are more to forget.
    Partly,
    /// Nothing is left of the key.
    Away,
}

/// A `KeyValue` with nothing but the key: what is stored of a tombstone, and of a key whose value is not in memory.
pub(crate) fn key_alone(key: &[u8]) -> KvBytes {
    let parts = KeyValueParts { key, ..KeyValueParts::default() };
    let mut encoded = Vec::with_capacity(parts.encoded_len());
    parts.encode(&mut encoded);
    Arc::from(encoded)
}
