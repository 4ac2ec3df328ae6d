//! The key index: for every key its revisions, and the current value while the budget allows.
//!
//! A key's revisions are kept flat and in order, each with what cannot be derived from its neighbours after a compaction
//! (create revision, version); version 0 marks a tombstone. etcd groups them into generations; the answers are the same.
//! Example: put at 2, put at 3, delete at 5, put at 7 is `2 v1, 3 v2, 5 v0, 7 v1`.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;

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

#[derive(Debug)]
pub(crate) struct KeyEntry {
    pub(crate) latest: Stamp,
    /// The encoded `KeyValue` of `latest`, if it is a put and the budget allowed.
    pub(crate) value: Option<KvBytes>,
    /// The lease the key is attached to now, 0 for none.
    pub(crate) lease: i64,
    /// All earlier revisions in rising order. Most keys have none, so the entry pays for a pointer only.
    #[allow(clippy::box_collection)]
    older: Option<Box<Vec<Stamp>>>,
}

impl KeyEntry {
    fn new(latest: Stamp) -> Self {
        Self { latest, value: None, lease: 0, older: None }
    }

    /// The put that was current at `at`, if the key existed then.
    #[inline]
    pub(crate) fn live_at(&self, at: i64) -> Option<&Stamp> {
        self.stamp_at(at).filter(|stamp| !stamp.is_tombstone())
    }

    /// The last revision with `main <= at`, tombstone or not.
    #[inline]
    pub(crate) fn stamp_at(&self, at: i64) -> Option<&Stamp> {
        if self.latest.revision.main <= at {
            return Some(&self.latest);
        }
        let older = self.older.as_deref()?;
        let end = older.partition_point(|stamp| stamp.revision.main <= at);
        older[..end].last()
    }

    /// The last revision before `revision`, tombstone or not.
    pub(crate) fn stamp_before(&self, revision: Revision) -> Option<&Stamp> {
        if self.latest.revision < revision {
            return Some(&self.latest);
        }
        let older = self.older.as_deref()?;
        let end = older.partition_point(|stamp| stamp.revision < revision);
        older[..end].last()
    }

    pub(crate) fn knows(&self, revision: Revision) -> bool {
        self.latest.revision == revision
            || self
                .older
                .as_deref()
                .is_some_and(|older| older.binary_search_by_key(&revision, |stamp| stamp.revision).is_ok())
    }

    fn push(&mut self, stamp: Stamp) {
        assert!(self.latest.revision < stamp.revision, "revisions of a key rise");
        self.older.get_or_insert_default().push(self.latest);
        self.latest = stamp;
    }

    /// Forgets what a compaction at `at` makes unreachable, oldest first and at most `limit` revisions, handing each to
    /// `forget`. What remains of the past is the put that was current at `at`, or a tombstone exactly at `at`, which etcd
    /// keeps.
    fn compact(&mut self, at: i64, limit: usize, forget: &mut dyn FnMut(&Stamp)) -> Compacted {
        let unreachable = |stamp: &Stamp| stamp.is_tombstone() && stamp.revision.main < at;
        let older = self.older.as_deref().map_or(&[][..], Vec::as_slice);
        let latest_is_past = self.latest.revision.main <= at;
        let forgotten = if latest_is_past {
            older.len()
        } else {
            let past = older.partition_point(|stamp| stamp.revision.main <= at);
            let keep_one = past > 0 && !unreachable(&older[past - 1]);
            past - usize::from(keep_one)
        };
        self.forget_oldest(forgotten.min(limit), forget);
        if forgotten > limit {
            Compacted::Partly
        } else if latest_is_past && unreachable(&self.latest) {
            forget(&self.latest);
            Compacted::Away
        } else {
            Compacted::Whole(forgotten)
        }
    }

    fn forget_oldest(&mut self, count: usize, forget: &mut dyn FnMut(&Stamp)) {
        let Some(older) = self.older.as_deref_mut() else { return };
        older.drain(..count).for_each(|stamp| forget(&stamp));
        if older.is_empty() {
            self.older = None;
        } else if older.capacity() > 4 * older.len() {
            older.shrink_to_fit();
        }
    }
}

/// How far a key was compacted.
enum Compacted {
    /// This many revisions were forgotten.
    Whole(usize),
    /// There are more to forget.
    Partly,
    /// Nothing is left of the key.
    Away,
}

/// What a write found in the index.
pub(crate) struct Overwritten {
    pub(crate) stamp: Stamp,
    pub(crate) value: Option<KvBytes>,
    pub(crate) lease: i64,
}

#[derive(Debug)]
pub(crate) struct Index {
    keys: BTreeMap<Box<[u8]>, KeyEntry>,
    /// Keys that exist at the latest revision.
    live_keys: u64,
    value_bytes: u64,
    value_bytes_max: u64,
}

impl Index {
    pub(crate) fn new(value_bytes_max: u64) -> Self {
        Self { keys: BTreeMap::new(), live_keys: 0, value_bytes: 0, value_bytes_max }
    }

    pub(crate) fn live_keys(&self) -> u64 {
        self.live_keys
    }

    pub(crate) fn value_bytes(&self) -> u64 {
        self.value_bytes
    }

    #[inline]
    pub(crate) fn entry(&self, key: &[u8]) -> Option<&KeyEntry> {
        self.keys.get(key)
    }

    /// The keys of an interval in order; an interval that ends before it begins is empty.
    pub(crate) fn range<'a>(&'a self, interval: &Interval<'_>) -> Entries<'a> {
        match interval.bounds() {
            Some(bounds) => Entries(Some(self.keys.range::<[u8], _>(bounds))),
            None => Entries(None),
        }
    }

    /// A put: `encode` gets the new create revision, version and what was there before. Returns the encoded value and
    /// what it replaced, if the key existed.
    pub(crate) fn put(
        &mut self,
        key: &[u8],
        revision: Revision,
        lease: i64,
        encode: impl FnOnce(&Stamp) -> KvBytes,
    ) -> (KvBytes, Option<Overwritten>) {
        let Some(entry) = self.keys.get_mut(key) else {
            let stamp = Stamp { revision, create_revision: revision.main, version: 1 };
            let value = encode(&stamp);
            let mut entry = KeyEntry::new(stamp);
            entry.lease = lease;
            entry.value = charge(&mut self.value_bytes, self.value_bytes_max, &value);
            self.keys.insert(key.into(), entry);
            self.live_keys += 1;
            return (value, None);
        };
        let previous = entry.latest;
        let existed = !previous.is_tombstone();
        let create_revision = if existed { previous.create_revision } else { revision.main };
        let stamp = Stamp { revision, create_revision, version: previous.version + 1 };
        let value = encode(&stamp);
        let old_value = entry.value.take();
        self.value_bytes -= old_value.as_ref().map_or(0, |old| old.len() as u64);
        let old_lease = std::mem::replace(&mut entry.lease, lease);
        entry.push(stamp);
        entry.value = charge(&mut self.value_bytes, self.value_bytes_max, &value);
        if !existed {
            self.live_keys += 1;
        }
        let overwritten = existed.then_some(Overwritten { stamp: previous, value: old_value, lease: old_lease });
        (value, overwritten)
    }

    /// Deletes a key that exists; `None` if it does not.
    pub(crate) fn delete(&mut self, key: &[u8], revision: Revision) -> Option<Overwritten> {
        let entry = self.keys.get_mut(key)?;
        let previous = entry.latest;
        if previous.is_tombstone() {
            return None;
        }
        let value = entry.value.take();
        self.value_bytes -= value.as_ref().map_or(0, |old| old.len() as u64);
        let lease = std::mem::take(&mut entry.lease);
        entry.push(Stamp::tombstone(revision));
        self.live_keys -= 1;
        Some(Overwritten { stamp: previous, value, lease })
    }

    /// Compacts from `from` on, looking at about `limit` keys and forgotten revisions. Returns the key to go on with.
    pub(crate) fn compact(
        &mut self,
        from: &[u8],
        limit: usize,
        at: i64,
        forget: &mut dyn FnMut(&Stamp),
    ) -> Option<Box<[u8]>> {
        let mut emptied = Vec::new();
        let mut next = None;
        let mut effort = 0;
        let bounds = (Bound::Included(from), Bound::Unbounded);
        for (key, entry) in self.keys.range_mut::<[u8], _>(bounds) {
            if effort >= limit {
                next = Some(key.clone());
                break;
            }
            effort += 1;
            match entry.compact(at, limit, forget) {
                Compacted::Whole(forgotten) => effort += forgotten,
                Compacted::Partly => {
                    next = Some(key.clone());
                    break;
                }
                Compacted::Away => emptied.push(key.clone()),
            }
        }
        for key in emptied {
            self.keys.remove(&key);
        }
        next
    }

    /// Builds the index from revisions; `order` has their positions by key and, for one key, by revision.
    pub(crate) fn from_sorted(mut restored: Vec<RestoredRevision>, order: &[usize], value_bytes_max: u64) -> Self {
        let mut entries: Vec<(Box<[u8]>, KeyEntry)> = Vec::with_capacity(restored.len());
        for &position in order {
            let RestoredRevision { key, stamp, value, lease } = &mut restored[position];
            let revision =
                RestoredRevision { key: std::mem::take(key), stamp: *stamp, value: value.take(), lease: *lease };
            match entries.last_mut() {
                Some((key, entry)) if *key == revision.key => {
                    entry.push(revision.stamp);
                    entry.value = revision.value;
                    entry.lease = revision.lease;
                }
                _ => {
                    let entry =
                        KeyEntry { latest: revision.stamp, value: revision.value, lease: revision.lease, older: None };
                    entries.push((revision.key, entry));
                }
            }
        }
        let mut index = Self::new(value_bytes_max);
        for (_, entry) in &entries {
            index.live_keys += u64::from(!entry.latest.is_tombstone());
            index.value_bytes += entry.value.as_ref().map_or(0, |value| value.len() as u64);
        }
        index.keys = BTreeMap::from_iter(entries);
        index
    }

    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = (&[u8], &mut KeyEntry)> {
        self.keys.iter_mut().map(|(key, entry)| (&**key, entry))
    }
}

/// Keeps the value if there is room for it.
fn charge(value_bytes: &mut u64, value_bytes_max: u64, value: &KvBytes) -> Option<KvBytes> {
    let total = *value_bytes + value.len() as u64;
    (total <= value_bytes_max).then(|| {
        *value_bytes = total;
        value.clone()
    })
}

/// A stored revision, read back.
pub(crate) struct RestoredRevision {
    pub(crate) key: Box<[u8]>,
    pub(crate) stamp: Stamp,
    pub(crate) value: Option<KvBytes>,
    pub(crate) lease: i64,
}

/// Keys with `from <= key`, up to the end that etcd's `range_end` names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval<'a> {
    pub(crate) from: &'a [u8],
    pub(crate) end: IntervalEnd<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntervalEnd<'a> {
    /// Only the key itself: `range_end` is absent.
    Single,
    Before(&'a [u8]),
    /// `range_end` is one zero byte.
    Open,
}

impl<'a> Interval<'a> {
    pub(crate) fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        let end = match range_end {
            [] => IntervalEnd::Single,
            [0] => IntervalEnd::Open,
            end => IntervalEnd::Before(end),
        };
        Self { from: key, end }
    }

    pub(crate) fn is_single(&self) -> bool {
        self.end == IntervalEnd::Single
    }

    fn bounds(&self) -> Option<(Bound<&'a [u8]>, Bound<&'a [u8]>)> {
        let from = Bound::Included(self.from);
        match self.end {
            IntervalEnd::Single => Some((from, Bound::Included(self.from))),
            IntervalEnd::Open => Some((from, Bound::Unbounded)),
            IntervalEnd::Before(end) => (self.from < end).then_some((from, Bound::Excluded(end))),
        }
    }
}

pub(crate) struct Entries<'a>(Option<btree_map::Range<'a, Box<[u8]>, KeyEntry>>);

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], &'a KeyEntry);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.as_mut()?.next().map(|(key, entry)| (&**key, entry))
    }
}
