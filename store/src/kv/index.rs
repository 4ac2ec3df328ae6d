//! The key index: for every key its revisions, and the current value while the budget allows.

use std::ops::Bound;

pub(crate) use super::key_entry::{KeyEntry, Stamp};

use super::key_entry::{Compacted, key_alone};
use super::key_table::{Entries, KeyTable, Verdict};
use crate::revision::{KvBytes, Revision};

/// What a write found in the index.
pub(crate) struct Overwritten {
    pub(crate) stamp: Stamp,
    pub(crate) value: Option<KvBytes>,
    pub(crate) lease: i64,
}

#[derive(Debug)]
pub(crate) struct Index {
    keys: KeyTable,
    /// Keys that exist at the latest revision.
    live_keys: u64,
    value_bytes: u64,
    value_bytes_max: u64,
}

impl Index {
    pub(crate) fn new(value_bytes_max: u64) -> Self {
        Self { keys: KeyTable::new(), live_keys: 0, value_bytes: 0, value_bytes_max }
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
    pub(crate) fn range<'a, 'e>(&'a self, interval: &Interval<'e>) -> Entries<'a, 'e> {
        let from = interval.from;
        match interval.end {
            IntervalEnd::Single => self.keys.single(from),
            IntervalEnd::Open => self.keys.range(from, Bound::Unbounded),
            IntervalEnd::Before(end) if from < end => self.keys.range(from, Bound::Excluded(end)),
            IntervalEnd::Before(_) => Entries::empty(),
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
        let Self { keys, live_keys, value_bytes, value_bytes_max } = self;
        keys.update(key, |found| {
            let Some(entry) = found else {
                let stamp = Stamp { revision, create_revision: revision.main, version: 1 };
                let value = encode(&stamp);
                let kept = charge(value_bytes, *value_bytes_max, &value);
                let holds_value = kept.is_some();
                let entry = KeyEntry::new(kept.unwrap_or_else(|| key_alone(key)), holds_value, stamp, lease);
                *live_keys += 1;
                return (Some(entry), (value, None));
            };
            let previous = entry.latest();
            let existed = !previous.is_tombstone();
            let create_revision = if existed { previous.create_revision } else { revision.main };
            let stamp = Stamp { revision, create_revision, version: previous.version + 1 };
            let value = encode(&stamp);
            *value_bytes -= entry.value_bytes();
            let kept = charge(value_bytes, *value_bytes_max, &value);
            let holds_value = kept.is_some();
            let old_value = entry.push(stamp, kept.unwrap_or_else(|| key_alone(key)), holds_value);
            let old_lease = entry.lease();
            entry.set_lease(lease);
            if !existed {
                *live_keys += 1;
            }
            let overwritten = existed.then_some(Overwritten { stamp: previous, value: old_value, lease: old_lease });
            (None, (value, overwritten))
        })
    }

    /// Deletes a key that exists; `None` if it does not. `encode` gives what is stored of the tombstone, which is returned
    /// with what it replaced.
    pub(crate) fn delete(
        &mut self,
        key: &[u8],
        revision: Revision,
        encode: impl FnOnce() -> KvBytes,
    ) -> Option<(KvBytes, Overwritten)> {
        let entry = self.keys.get_mut(key)?;
        let previous = entry.latest();
        if previous.is_tombstone() {
            return None;
        }
        self.value_bytes -= entry.value_bytes();
        let tombstone = encode();
        let value = entry.push(Stamp::tombstone(revision), tombstone.clone(), false);
        let lease = entry.lease();
        entry.set_lease(0);
        self.live_keys -= 1;
        Some((tombstone, Overwritten { stamp: previous, value, lease }))
    }

    /// Compacts from `from` on, looking at about `limit` keys and forgotten revisions. Returns the key to go on with.
    pub(crate) fn compact(
        &mut self,
        from: &[u8],
        limit: usize,
        at: i64,
        forget: &mut dyn FnMut(&Stamp),
    ) -> Option<Box<[u8]>> {
        let mut effort = 0;
        self.keys.retain_from(from, |entry| {
            if effort >= limit {
                return None;
            }
            effort += 1;
            match entry.compact(at, limit, forget) {
                Compacted::Whole(forgotten) => {
                    effort += forgotten;
                    Some(Verdict::Keep)
                }
                Compacted::Partly => None,
                Compacted::Away => Some(Verdict::Remove),
            }
        })
    }

    /// Builds the index from revisions, each as if it were its key's only one. `order` has their positions by key and, for
    /// one key, by revision.
    pub(crate) fn from_sorted(mut restored: Vec<Option<KeyEntry>>, order: &[usize], value_bytes_max: u64) -> Self {
        let mut order = order.iter();
        let mut pending: Option<KeyEntry> = None;
        let entries = std::iter::from_fn(|| {
            loop {
                let Some(position) = order.next() else { return pending.take() };
                let next = restored[*position].take().expect("a position comes once");
                match &mut pending {
                    Some(entry) if entry.key() == next.key() => entry.succeed(next),
                    _ => {
                        if let Some(complete) = pending.replace(next) {
                            return Some(complete);
                        }
                    }
                }
            }
        });
        let mut index = Self { keys: KeyTable::from_sorted(entries), ..Self::new(value_bytes_max) };
        for entry in index.keys.iter() {
            index.live_keys += u64::from(entry.is_live());
            index.value_bytes += entry.value_bytes();
        }
        index
    }

    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = &mut KeyEntry> {
        self.keys.iter_mut()
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
}
