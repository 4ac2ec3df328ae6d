//! Applied changes that the backend does not show yet.
//!
//! Readers look here first and at the backend second; an item leaves only after the commit that holds it is visible, so
//! one of the two always has it. Bounded by what the shell lets accumulate between commits.

use std::collections::{BTreeMap, VecDeque};

use crate::backend::Bucket;
use crate::revision::{KvBytes, Revision};

#[derive(Clone, Debug)]
pub(crate) struct OverlayItem {
    pub(crate) revision: Revision,
    pub(crate) tombstone: bool,
    pub(crate) value: KvBytes,
    sequence: u64,
}

/// Uncommitted revisions, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    items: VecDeque<OverlayItem>,
}

impl Overlay {
    pub(crate) fn push(&mut self, revision: Revision, tombstone: bool, value: KvBytes, sequence: u64) {
        self.items.push_back(OverlayItem { revision, tombstone, value, sequence });
    }

    pub(crate) fn value(&self, revision: Revision) -> Option<KvBytes> {
        let position = self.items.binary_search_by_key(&revision, |item| item.revision).ok()?;
        Some(self.items[position].value.clone())
    }

    /// Up to `limit` items from `from` on.
    pub(crate) fn from(&self, from: Revision, limit: usize) -> Vec<OverlayItem> {
        let start = self.items.partition_point(|item| item.revision < from);
        self.items.range(start..).take(limit).cloned().collect()
    }

    /// Takes out the oldest items that came with this sequence or a smaller one, at most `limit` of them: whoever holds the
    /// lock lets it go before they are dropped, and asks again.
    pub(crate) fn forget(&mut self, sequence: u64, limit: usize) -> Vec<OverlayItem> {
        let visible = self.items.iter().take(limit).take_while(|item| item.sequence <= sequence).count();
        self.items.drain(..visible).collect()
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }
}

/// Uncommitted records of the other buckets; `None` is a deletion.
#[derive(Debug, Default)]
pub(crate) struct RecordOverlay {
    records: BTreeMap<(Bucket, Box<[u8]>), (Option<Box<[u8]>>, u64)>,
}

impl RecordOverlay {
    pub(crate) fn set(&mut self, bucket: Bucket, key: Box<[u8]>, value: Option<Box<[u8]>>, sequence: u64) {
        self.records.insert((bucket, key), (value, sequence));
    }

    /// The records of one bucket, in key order.
    pub(crate) fn bucket(&self, bucket: Bucket) -> BTreeMap<Box<[u8]>, Option<Box<[u8]>>> {
        let from = (bucket, Box::default());
        let records = self.records.range(from..).take_while(|((of, _), _)| *of == bucket);
        records.map(|((_, key), (value, _))| (key.clone(), value.clone())).collect()
    }

    pub(crate) fn clear(&mut self) {
        self.records.clear();
    }

    pub(crate) fn forget(&mut self, sequence: u64) {
        self.records.retain(|_, (_, set_by)| *set_by > sequence);
    }
}
