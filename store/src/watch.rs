//! Who wants to know about a change: an index of watchers by key and by range, for one connection thread.
//!
//! It answers one question, "which watchers does this batch of events concern", in time that depends on the number of
//! watchers concerned and the logarithm of the number of ranges, never on the number of watchers. It knows no clock, sends
//! nothing, and remembers no events; who a watcher belongs to is the caller's affair, told apart by [`Watch::watcher`].

mod interval;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Event, EventBatch, EventKind};
use interval::{Intervals, NodeIndex};

/// Where a watched range ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// The key alone is watched.
    Single,
    /// Keys from the start up to, and without, this one. It must lie above the start.
    Before(Arc<[u8]>),
    /// All keys from the start on (`range_end` is one zero byte on the wire).
    Unbounded,
}

/// Kinds of events a watcher does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchFilters {
    pub no_put: bool,
    pub no_delete: bool,
}

impl WatchFilters {
    pub fn passes(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// What one watcher wants.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The caller's name for the watcher; the registry only hands it back.
    pub watcher: u32,
    pub key: Arc<[u8]>,
    pub end: WatchEnd,
    pub filters: WatchFilters,
    /// Batches below this revision do not concern the watcher.
    pub minimum_revision: i64,
    /// Whether the watcher wants the value before each change.
    pub wants_previous: bool,
}

/// A watcher's place in a [`Registry`]; valid until it is removed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchSlot(u32);

/// One event for one watcher. Their order is the order of sending: by watcher, then as it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivery {
    pub watcher: u32,
    /// Which of the batches added to the [`Deliveries`], as named by the caller.
    pub batch: u32,
    /// Index into that batch's events.
    pub event: u32,
}

/// What is to be sent after one or several batches were matched. Reused between batches, so that matching allocates nothing.
#[derive(Debug, Default)]
pub struct Deliveries {
    entries: Vec<Delivery>,
    needs_sort: bool,
}

impl Deliveries {
    pub fn clear(&mut self) {
        self.entries.clear();
        self.needs_sort = false;
    }

    /// Number of (watcher, event) pairs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The deliveries of one watcher each, in the order in which its events happened.
    pub fn by_watcher(&mut self) -> impl Iterator<Item = &[Delivery]> {
        if self.needs_sort {
            self.entries.sort_unstable();
            self.needs_sort = false;
        }
        self.entries.chunk_by(|left, right| left.watcher == right.watcher)
    }

    /// Every delivery, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.entries.iter()
    }
}

/// Watchers of the same key, or of the same range, form a ring through their slots: joining and leaving allocate nothing
/// and cost the same however many share the key.
#[derive(Debug)]
struct Slot {
    watch: Watch,
    next: u32,
    previous: u32,
    range: Option<NodeIndex>,
}

/// The watchers, found by what they watch.
#[derive(Debug, Default)]
pub struct Registry {
    slots: Vec<Option<Slot>>,
    /// Slots that were emptied. An entry may be out of date (used again, or cut off by `pop`) and is then passed over.
    free: Vec<u32>,
    count: usize,
    // Only looked up, never iterated: the order of a HashMap must not show.
    keys: HashMap<Arc<[u8]>, u32>,
    ranges: Intervals,
    previous_watchers: usize,
}

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether any watcher here wants previous values.
    pub fn wants_previous(&self) -> bool {
        self.previous_watchers > 0
    }

    pub fn insert(&mut self, watch: Watch) -> WatchSlot {
        let index = self.vacant_slot();
        self.count += 1;
        self.previous_watchers += usize::from(watch.wants_previous);
        let key = Arc::clone(&watch.key);
        let (range, head) = match &watch.end {
            WatchEnd::Single => (None, self.keys.get(&watch.key[..]).copied()),
            WatchEnd::Before(end) => {
                let (node, head) = self.ranges.find_or_insert(&watch.key, Some(end), index);
                (Some(node), head)
            }
            WatchEnd::Unbounded => {
                let (node, head) = self.ranges.find_or_insert(&watch.key, None, index);
                (Some(node), head)
            }
        };
        let (next, previous) = match head {
            Some(head) => (head, self.slot(head).previous),
            None => (index, index),
        };
        self.slots[index as usize] = Some(Slot { watch, next, previous, range });
        if head.is_some() {
            self.slot_mut(previous).next = index;
            self.slot_mut(next).previous = index;
        } else if range.is_none() {
            self.keys.insert(key, index);
        }
        WatchSlot(index)
    }

    /// Takes a watcher out. The slot must be one that `insert` gave and that was not removed since.
    pub fn remove(&mut self, slot: WatchSlot) -> Watch {
        let index = slot.0;
        let removed = self.slots[index as usize].take().expect("a slot is removed once");
        self.free.push(index);
        self.count -= 1;
        self.previous_watchers -= usize::from(removed.watch.wants_previous);
        if removed.next == index {
            match removed.range {
                Some(node) => self.ranges.remove(node),
                None => {
                    self.keys.remove(&removed.watch.key[..]);
                }
            }
            return removed.watch;
        }
        self.slot_mut(removed.previous).next = removed.next;
        self.slot_mut(removed.next).previous = removed.previous;
        let head = match removed.range {
            Some(node) => self.ranges.head_mut(node),
            None => self.keys.get_mut(&removed.watch.key[..]).expect("a watched key has a ring"),
        };
        if *head == index {
            *head = removed.next;
        }
        removed.watch
    }

    /// Takes any one watcher out, for moving all of them elsewhere piece by piece.
    pub fn pop(&mut self) -> Option<Watch> {
        if self.is_empty() {
            *self = Self::default();
            return None;
        }
        while self.slots.last().is_some_and(Option::is_none) {
            self.slots.pop();
        }
        let last = u32::try_from(self.slots.len() - 1).expect("slots are numbered by u32");
        Some(self.remove(WatchSlot(last)))
    }

    /// Everything in the registry, in the order of the slots.
    pub fn watches(&self) -> impl Iterator<Item = &Watch> {
        self.slots.iter().flatten().map(|slot| &slot.watch)
    }

    /// Adds to `deliveries` every event of the batch for every watcher it concerns. `batch_name` names the batch in the
    /// deliveries and must rise from call to call until `deliveries` is cleared.
    pub fn matches(&self, batch: &EventBatch, batch_name: u32, deliveries: &mut Deliveries) {
        deliveries.needs_sort |= !deliveries.is_empty() || batch.events.len() > 1;
        for (position, event) in batch.events.iter().enumerate() {
            let position = u32::try_from(position).expect("a transaction has fewer than 2^32 events");
            let key = event.key();
            if let Some(&head) = self.keys.get(key) {
                self.ring(head, batch, event, (batch_name, position), &mut deliveries.entries);
            }
            self.ranges.stab(key, |head| {
                self.ring(head, batch, event, (batch_name, position), &mut deliveries.entries);
            });
        }
    }

    fn ring(&self, head: u32, batch: &EventBatch, event: &Event, place: (u32, u32), out: &mut Vec<Delivery>) {
        let mut index = head;
        loop {
            let slot = self.slot(index);
            if batch.revision >= slot.watch.minimum_revision && slot.watch.filters.passes(event.kind) {
                out.push(Delivery { watcher: slot.watch.watcher, batch: place.0, event: place.1 });
            }
            index = slot.next;
            if index == head {
                return;
            }
        }
    }

    fn vacant_slot(&mut self) -> u32 {
        while let Some(index) = self.free.pop() {
            if self.slots.get(index as usize).is_some_and(Option::is_none) {
                return index;
            }
        }
        self.slots.push(None);
        u32::try_from(self.slots.len() - 1).expect("a thread has fewer than 2^32 watchers")
    }

    fn slot(&self, index: u32) -> &Slot {
        self.slots[index as usize].as_ref().expect("a ring joins occupied slots")
    }

    fn slot_mut(&mut self, index: u32) -> &mut Slot {
        self.slots[index as usize].as_mut().expect("a ring joins occupied slots")
    }
}
