//! The keys in order, in dense chunks.
//!
//! A `BTreeMap` of entries keeps its nodes little more than half full when keys come in rising order, as they mostly do,
//! and has the key beside each entry. Here a `BTreeMap` holds chunks of up to [`CHUNK_KEYS`] entries, each under a bound
//! that none of its keys is below: the bound of the first is the empty key. A full chunk that grows at its end is left
//! full; one that grows in the middle is split.
//!
//! Keys lie with their values, and values that are written often are in no cache. So each entry has a few bytes of its
//! key, those behind what all keys of its chunk begin with: a search reads one key, and seldom more.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;

use super::key_entry::{KeyEntry, head_of};

/// Entries of a chunk at most. More make insertions in the middle dearer, fewer make more chunks.
const CHUNK_KEYS: usize = 64;

/// A chunk grows by this many entries at a time, so that a sparse one is small.
const CHUNK_GROWTH_KEYS: usize = 8;

#[derive(Debug, Default)]
struct Chunk {
    /// Sorted, with the heads behind `shared`.
    entries: Vec<KeyEntry>,
    /// Bytes that all keys begin with: no more than they have in common, and often as many.
    shared: usize,
}

#[derive(Debug)]
pub(crate) struct KeyTable {
    /// Never without the chunk of the empty bound. Only that one may be empty.
    chunks: BTreeMap<Box<[u8]>, Chunk>,
}

/// Whether an entry stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Remove,
}

impl KeyTable {
    pub(crate) fn new() -> Self {
        Self::from_sorted(std::iter::empty())
    }

    /// # Panics
    /// If the keys do not rise.
    pub(crate) fn from_sorted(entries: impl Iterator<Item = KeyEntry>) -> Self {
        let mut chunks: Vec<(Box<[u8]>, Chunk)> = vec![(Box::default(), Chunk::default())];
        for entry in entries {
            let (_, chunk) = chunks.last_mut().expect("begun with one");
            assert!(chunk.entries.last().is_none_or(|last| last.key() < entry.key()), "keys rise");
            if chunk.entries.len() == CHUNK_KEYS {
                chunk.set_heads();
                chunks.push((entry.key().into(), Chunk::default()));
            }
            let (_, chunk) = chunks.last_mut().expect("begun with one");
            chunk.grow();
            chunk.entries.push(entry);
        }
        let (_, chunk) = chunks.last_mut().expect("begun with one");
        chunk.set_heads();
        Self { chunks: BTreeMap::from_iter(chunks) }
    }

    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyEntry> {
        let chunk = self.chunk_of(key);
        let position = chunk.search(key).ok()?;
        Some(&chunk.entries[position])
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: &[u8]) -> Option<&mut KeyEntry> {
        let chunk = self.chunk_of_mut(key);
        let position = chunk.search(key).ok()?;
        Some(&mut chunk.entries[position])
    }

    /// Changes the entry of a key, or adds the one that `change` makes where there is none. One search serves both.
    ///
    /// # Panics
    /// If the entry made is another key's.
    #[inline]
    pub(crate) fn update<T>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(Option<&mut KeyEntry>) -> (Option<KeyEntry>, T),
    ) -> T {
        let chunk = self.chunk_of_mut(key);
        match chunk.search(key) {
            Ok(position) => change(Some(&mut chunk.entries[position])).1,
            Err(position) => {
                let (made, told) = change(None);
                if let Some(entry) = made {
                    assert_eq!(entry.key(), key, "an entry is added under its key");
                    if let Some(upper) = chunk.insert(position, entry) {
                        let bound = upper.entries[0].key().into();
                        self.chunks.insert(bound, upper);
                    }
                }
                told
            }
        }
    }

    /// Entries with `from <= key`, up to the end.
    pub(crate) fn range<'a, 'e>(&'a self, from: &[u8], end: Bound<&'e [u8]>) -> Entries<'a, 'e> {
        let mut chunks = self.chunks.range::<[u8], _>((Bound::Excluded(from), Bound::Unbounded));
        let first = self.chunk_of(from);
        let rest = &first.entries[first.search(from).unwrap_or_else(|position| position)..];
        let entries = up_to(rest, end);
        if entries.len() < rest.len() {
            chunks = btree_map::Range::default();
        }
        Entries { entries: entries.iter(), chunks, end }
    }

    /// The entry alone, as a range.
    pub(crate) fn single(&self, key: &[u8]) -> Entries<'_, 'static> {
        let entries = self.get(key).map_or(&[][..], std::slice::from_ref);
        Entries { entries: entries.iter(), chunks: btree_map::Range::default(), end: Bound::Unbounded }
    }

    /// Visits the entries from `from` on and removes those that are to go. `visit` ends it with `None`, and then the key of
    /// that entry is returned.
    pub(crate) fn retain_from(
        &mut self,
        from: &[u8],
        mut visit: impl FnMut(&mut KeyEntry) -> Option<Verdict>,
    ) -> Option<Box<[u8]>> {
        let mut stopped = None;
        let mut sparse = Vec::new();
        let first: Box<[u8]> = self.bound_of(from).into();
        for (bound, chunk) in self.chunks.range_mut::<[u8], _>((Bound::Included(&*first), Bound::Unbounded)) {
            let before = chunk.entries.len();
            chunk.entries.retain_mut(|entry| {
                if stopped.is_some() || entry.key() < from {
                    return true;
                }
                match visit(entry) {
                    Some(verdict) => verdict == Verdict::Keep,
                    None => {
                        stopped = Some(entry.key().into());
                        true
                    }
                }
            });
            if chunk.entries.len() < before {
                sparse.push(bound.clone());
            }
            if stopped.is_some() {
                break;
            }
        }
        for bound in sparse {
            self.join_with_next(&bound);
        }
        stopped
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut KeyEntry> {
        self.chunks.values_mut().flat_map(|chunk| &mut chunk.entries)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &KeyEntry> {
        self.chunks.values().flat_map(|chunk| &chunk.entries)
    }

    /// A chunk that lost entries gives back its room, and takes in its successor if one chunk has room for both.
    fn join_with_next(&mut self, bound: &[u8]) {
        let Some(Chunk { entries, .. }) = self.chunks.get(bound) else { return };
        let mut later = self.chunks.range::<[u8], _>((Bound::Excluded(bound), Bound::Unbounded));
        let next = later.next().filter(|(_, next)| entries.len() + next.entries.len() <= CHUNK_KEYS / 2);
        let taken = next.map(|(next, _)| next.clone()).and_then(|next| self.chunks.remove(&next));
        let chunk = self.chunks.get_mut(bound).expect("seen above");
        if let Some(taken) = taken {
            chunk.entries.extend(taken.entries);
            chunk.set_heads();
        }
        chunk.entries.shrink_to_fit();
        if chunk.entries.is_empty() && !bound.is_empty() {
            self.chunks.remove(bound);
        }
    }

    fn bound_of(&self, key: &[u8]) -> &[u8] {
        self.chunks
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .map_or(&[], |(bound, _)| bound)
    }

    #[inline]
    fn chunk_of(&self, key: &[u8]) -> &Chunk {
        let mut up_to_key = self.chunks.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        up_to_key.next_back().expect("the empty bound is below every key").1
    }

    #[inline]
    fn chunk_of_mut(&mut self, key: &[u8]) -> &mut Chunk {
        let mut up_to_key = self.chunks.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        up_to_key.next_back().expect("the empty bound is below every key").1
    }
}

impl Chunk {
    #[inline]
    fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let Self { entries, shared } = self;
        let head = head_of(key, *shared);
        // Right if the key begins as the others do, which is seen below.
        let begin = entries.partition_point(|entry| entry.head() < head);
        let alike = entries[begin..].iter().take_while(|entry| entry.head() == head).count();
        let found = entries[begin..begin + alike].binary_search_by(|entry| entry.key().cmp(key));
        match found {
            Ok(position) => Ok(begin + position),
            Err(position) => match entries.first() {
                Some(first) if !key.starts_with(&first.key()[..*shared]) => {
                    Err(if key < first.key() { 0 } else { entries.len() })
                }
                _ => Err(begin + position),
            },
        }
    }

    /// Puts an entry in its place. Gives the upper part of a chunk that had to be split.
    fn insert(&mut self, position: usize, entry: KeyEntry) -> Option<Self> {
        if self.entries.len() < CHUNK_KEYS {
            self.grow();
            self.place(position, entry);
            return None;
        }
        // At its end a full chunk stays full: keys mostly come in rising order.
        let middle = if position == CHUNK_KEYS { CHUNK_KEYS } else { CHUNK_KEYS / 2 };
        let mut upper = Self { entries: self.entries.split_off(middle), shared: 0 };
        let (half, position) = if position < middle { (&mut *self, position) } else { (&mut upper, position - middle) };
        half.entries.reserve_exact(CHUNK_GROWTH_KEYS);
        half.entries.insert(position, entry);
        upper.set_heads();
        if middle < CHUNK_KEYS {
            self.entries.shrink_to(middle + CHUNK_GROWTH_KEYS);
            self.set_heads();
        }
        Some(upper)
    }

    fn place(&mut self, position: usize, mut entry: KeyEntry) {
        entry.set_head(self.shared);
        let is_alike = self.entries.first().is_some_and(|first| entry.key().starts_with(&first.key()[..self.shared]));
        self.entries.insert(position, entry);
        if !is_alike {
            self.set_heads();
        }
    }

    fn set_heads(&mut self) {
        let (Some(first), Some(last)) = (self.entries.first(), self.entries.last()) else { return };
        self.shared = first.key().iter().zip(last.key()).take_while(|(one, other)| one == other).count();
        self.entries.iter_mut().for_each(|entry| entry.set_head(self.shared));
    }

    fn grow(&mut self) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(CHUNK_GROWTH_KEYS);
        }
    }
}

/// The entries of a chunk before the end.
fn up_to<'a>(entries: &'a [KeyEntry], end: Bound<&[u8]>) -> &'a [KeyEntry] {
    let within = |entry: &KeyEntry| match end {
        Bound::Unbounded => true,
        Bound::Included(end) => entry.key().cmp(end) != Ordering::Greater,
        Bound::Excluded(end) => entry.key() < end,
    };
    match entries.last() {
        Some(last) if !within(last) => &entries[..entries.partition_point(within)],
        _ => entries,
    }
}

/// Entries in order.
pub(crate) struct Entries<'a, 'e> {
    entries: std::slice::Iter<'a, KeyEntry>,
    /// Chunks that may have more.
    chunks: btree_map::Range<'a, Box<[u8]>, Chunk>,
    end: Bound<&'e [u8]>,
}

impl Entries<'_, '_> {
    pub(crate) fn empty() -> Self {
        Self { entries: [].iter(), chunks: btree_map::Range::default(), end: Bound::Unbounded }
    }
}

impl<'a> Iterator for Entries<'a, '_> {
    type Item = &'a KeyEntry;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Some(entry);
            }
            let (_, chunk) = self.chunks.next()?;
            let entries = up_to(&chunk.entries, self.end);
            if entries.len() < chunk.entries.len() {
                self.chunks = btree_map::Range::default();
            }
            self.entries = entries.iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::key_entry::{Stamp, key_alone};
    use crate::revision::Revision;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16),
        /// Rising keys from here on, as many.
        InsertRun(u16, u16),
        /// From here on every key whose number is not a multiple of the second goes, up to a third.
        Remove(u16, u16, u16),
    }

    fn key(number: u16) -> Vec<u8> {
        // Lengths differ, so that the order is not that of the numbers; and of some keys all that differs is a zero behind.
        let mut key = format!("{:x}", number / 2).into_bytes();
        key.extend_from_slice(&[0][..usize::from(number % 2)]);
        key
    }

    fn entry(key: &[u8]) -> KeyEntry {
        KeyEntry::new(key_alone(key), false, Stamp::tombstone(Revision::new(1, 0)), 0)
    }

    fn insert(table: &mut KeyTable, model: &mut BTreeSet<Vec<u8>>, key: &[u8]) {
        let is_new = table.update(key, |found| (found.is_none().then(|| entry(key)), found.is_none()));
        assert_eq!(is_new, model.insert(key.to_vec()));
        assert!(table.get_mut(key).is_some());
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..2000u16).prop_map(Step::Insert),
            2 => (0..2000u16, 1..300u16).prop_map(|(from, count)| Step::InsertRun(from, count)),
            2 => (0..2000u16, 2..50u16, 0..2500u16).prop_map(|(from, keep, until)| Step::Remove(from, keep, until)),
        ];
        proptest::collection::vec(step, 1..60)
    }

    fn check(table: &KeyTable, model: &BTreeSet<Vec<u8>>, from: u16, end: u16) {
        let keys: Vec<&[u8]> = table.iter().map(KeyEntry::key).collect();
        assert_eq!(keys, model.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert!(table.chunks.contains_key(&[][..]));
        for (bound, chunk) in &table.chunks {
            let Chunk { entries, shared } = chunk;
            assert!(entries.len() <= CHUNK_KEYS && entries.iter().all(|entry| entry.key() >= &**bound));
            assert!(!entries.is_empty() || bound.is_empty());
            assert!(entries.capacity() <= entries.len() + CHUNK_GROWTH_KEYS);
            for entry in entries {
                assert!(entry.key().starts_with(&entries[0].key()[..*shared]));
                assert_eq!(entry.head(), head_of(entry.key(), *shared));
            }
        }
        let (from, end) = (key(from), key(end));
        for bound in [Bound::Unbounded, Bound::Excluded(&*end), Bound::Included(&*end)] {
            let within = |key: &&Vec<u8>| match bound {
                Bound::Unbounded => true,
                Bound::Included(end) => key.as_slice() <= end,
                Bound::Excluded(end) => key.as_slice() < end,
            };
            let expected: Vec<&[u8]> =
                model.iter().filter(|key| **key >= from).filter(within).map(Vec::as_slice).collect();
            let found: Vec<&[u8]> = table.range(&from, bound).map(KeyEntry::key).collect();
            assert_eq!(found, expected);
        }
        assert_eq!(table.get(&from).map(KeyEntry::key), model.get(&from).map(Vec::as_slice));
        assert_eq!(table.single(&from).count(), usize::from(model.contains(&from)));
    }

    fn run(steps: Vec<Step>) {
        let (mut table, mut model) = (KeyTable::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Insert(number) => {
                    let key = key(number);
                    insert(&mut table, &mut model, &key);
                }
                Step::InsertRun(from, count) => {
                    for number in from..from + count {
                        let key = key(number);
                        insert(&mut table, &mut model, &key);
                    }
                }
                Step::Remove(from, keep, until) => {
                    let (from, until) = (key(from), key(until));
                    let goes = |key: &[u8]| !key.iter().map(|byte| u16::from(*byte)).sum::<u16>().is_multiple_of(keep);
                    let stopped = table.retain_from(&from, |entry| {
                        (entry.key() < &*until).then(|| if goes(entry.key()) { Verdict::Remove } else { Verdict::Keep })
                    });
                    let expected = model.iter().find(|key| **key >= from && **key >= until);
                    assert_eq!(stopped.as_deref(), expected.map(Vec::as_slice));
                    model.retain(|key| *key < from || *key >= until || !goes(key));
                }
            }
            let number = (model.len() * 7 % 2000) as u16;
            check(&table, &model, number, number + 300);
        }
        let rebuilt = KeyTable::from_sorted(model.iter().map(|key| entry(key)));
        check(&rebuilt, &model, 0, 500);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_like_a_sorted_set(steps in steps()) {
            run(steps);
        }
    }

    #[test]
    fn keys_that_come_in_order_fill_their_chunks() {
        let mut table = KeyTable::new();
        for number in 0..10_000u32 {
            let key = format!("{number:08}").into_bytes();
            table.update(&key, |_| (Some(entry(&key)), ()));
        }
        assert_eq!(table.chunks.len(), 10_000usize.div_ceil(CHUNK_KEYS));
    }
}
