//! The log as raft sees it. Its tail is in memory, bounded in number and bytes; what is older is read from the write-ahead
//! log by somebody else, when a slow peer needs it, and handed in with [`LogWindow::provide`].

use std::cell::RefCell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::limits::{LOG_FETCHES_WAITING_MAX, LOG_WINDOW_BYTES_MAX, LOG_WINDOW_ENTRIES_MAX};

pub(crate) struct LogWindow {
    initial: RaftState,
    /// Index and term of the entry right before the window.
    before: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: usize,
    entries_max: usize,
    /// The first entry that the write-ahead log still holds.
    first_available: u64,
    /// Where each term begins, from the entry before `first_available` on: (index, term), rising.
    terms: Vec<(u64, u64)>,
    /// What a snapshot for a peer would cover now.
    applied: u64,
    conf_state: ConfState,
    older: RefCell<Older>,
}

/// Entries before the window that raft asked for.
#[derive(Default)]
struct Older {
    wanted: Vec<(u64, GetEntriesContext)>,
    /// The last ones that were handed in.
    provided: Vec<Entry>,
}

impl LogWindow {
    pub(crate) fn new(hard_state: HardState, conf_state: ConfState, before: (u64, u64), entries: Vec<Entry>) -> Self {
        let mut window = Self {
            initial: RaftState::new(hard_state, conf_state.clone()),
            before,
            entries: VecDeque::new(),
            bytes: 0,
            entries_max: LOG_WINDOW_ENTRIES_MAX,
            first_available: before.0 + 1,
            terms: vec![before],
            applied: before.0,
            conf_state,
            older: RefCell::default(),
        };
        window.append(&entries);
        window
    }

    /// Appends what raft is about to persist. An entry whose index is already there replaces it and all that follow:
    /// a new leader overwrote them.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.before.0, "an applied entry is never replaced");
        assert!(first.index <= self.last() + 1, "the log has no gap");
        while self.last() >= first.index {
            let dropped = self.entries.pop_back().expect("last() counted it");
            self.bytes -= entry_bytes(&dropped);
        }
        while self.terms.len() > 1 && self.terms.last().is_some_and(|(index, _)| *index >= first.index) {
            self.terms.pop();
        }
        for entry in entries {
            self.bytes += entry_bytes(entry);
            if self.terms.last().is_none_or(|(_, term)| *term != entry.term) {
                self.terms.push((entry.index, entry.term));
            }
            self.entries.push_back(entry.clone());
        }
    }

    /// Entries up to `applied` are applied; drops them from memory while the window is over its bounds.
    pub(crate) fn trim(&mut self, applied: u64) {
        self.applied = self.applied.max(applied);
        while self.entries.len() > self.entries_max || self.bytes > LOG_WINDOW_BYTES_MAX {
            match self.entries.front() {
                Some(entry) if entry.index <= applied => {
                    self.before = (entry.index, entry.term);
                    self.bytes -= entry_bytes(entry);
                    self.entries.pop_front();
                }
                _ => return,
            }
        }
    }

    /// Whoever has less than what is applied here gets a snapshot from now on.
    pub(crate) fn release_applied(&mut self) {
        while let Some(entry) = self.entries.front().filter(|entry| entry.index <= self.applied) {
            self.before = (entry.index, entry.term);
            self.bytes -= entry_bytes(entry);
            self.entries.pop_front();
        }
        self.release_before(self.before.0 + 1);
    }

    /// The write-ahead log no longer holds what is before `first`.
    pub(crate) fn release_before(&mut self, first: u64) {
        let first = first.min(self.before.0 + 1);
        if first <= self.first_available {
            return;
        }
        let term = self.term_of(first - 1).expect("inside the known terms");
        let later = self.terms.partition_point(|(index, _)| *index < first);
        self.terms.drain(..later);
        self.terms.insert(0, (first - 1, term));
        self.first_available = first;
    }

    /// Keeps so many entries in memory instead of [`LOG_WINDOW_ENTRIES_MAX`].
    pub(crate) fn limit(&mut self, entries_max: usize) {
        self.entries_max = entries_max;
    }

    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// The log begins anew after a snapshot that a peer sent.
    pub(crate) fn restore(&mut self, snapshot: (u64, u64), conf_state: ConfState) {
        self.before = snapshot;
        self.entries.clear();
        self.bytes = 0;
        self.first_available = snapshot.0 + 1;
        self.terms = vec![snapshot];
        self.applied = snapshot.0;
        self.conf_state = conf_state;
        self.older.get_mut().provided.clear();
    }

    /// The range of older entries that raft waits for, if any: from the first wanted one to the window.
    pub(crate) fn wanted(&self) -> Option<(u64, u64)> {
        let low = self.older.borrow().wanted.iter().map(|(low, _)| *low).min()?;
        Some((low, self.before.0 + 1))
    }

    /// Takes in what was read for [`Self::wanted`]; nothing, if the write-ahead log does not hold it any more. The
    /// returned contexts go back to raft.
    pub(crate) fn provide(&mut self, low: u64, entries: Vec<Entry>) -> Vec<GetEntriesContext> {
        let known: Vec<Entry> =
            entries.into_iter().take_while(|entry| self.term_of(entry.index) == Some(entry.term)).collect();
        if known.is_empty() {
            self.release_before((low + 1).max(self.first_available));
        }
        let older = self.older.get_mut();
        older.provided = known;
        let waiting = std::mem::take(&mut older.wanted);
        waiting.into_iter().map(|(_, context)| context).collect()
    }

    fn older_entries(
        &self,
        low: u64,
        high: u64,
        max_size: u64,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first_available {
            return Err(StorageError::Compacted.into());
        }
        let mut older = self.older.borrow_mut();
        if let Some(first) = older.provided.first().map(|entry| entry.index)
            && low >= first
            && low < first + older.provided.len() as u64
        {
            let skip = usize::try_from(low - first).expect("inside the vector");
            return Ok(bounded(older.provided[skip..].iter().take_while(|entry| entry.index < high), max_size));
        }
        if !context.can_async() || older.wanted.len() >= LOG_FETCHES_WAITING_MAX {
            return Err(StorageError::Compacted.into());
        }
        older.wanted.push((low, context));
        Err(StorageError::LogTemporarilyUnavailable.into())
    }

    fn term_of(&self, index: u64) -> Option<u64> {
        if index + 1 < self.first_available || index > self.last() {
            return None;
        }
        let later = self.terms.partition_point(|(begins, _)| *begins <= index);
        Some(self.terms[later.checked_sub(1)?].1)
    }

    fn last(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }

    fn position(&self, index: u64) -> usize {
        usize::try_from(index - self.before.0 - 1).expect("the window fits into memory")
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + size_of::<Entry>()
}

/// The first entry, and as many more as fit.
fn bounded<'a>(entries: impl Iterator<Item = &'a Entry>, max_size: u64) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut size = 0u64;
    for entry in entries {
        size = size.saturating_add(entry_bytes(entry) as u64);
        if size > max_size && !found.is_empty() {
            break;
        }
        found.push(entry.clone());
    }
    found
}

impl Storage for LogWindow {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let max_size = max_size.into().unwrap_or(u64::MAX);
        if low <= self.before.0 {
            return self.older_entries(low, high, max_size, context);
        }
        assert!(high <= self.last() + 1, "raft asks only for what it appended");
        Ok(bounded(self.entries.range(self.position(low)..self.position(high)), max_size))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term_of(index) {
            Some(term) => Ok(term),
            None if index > self.last() => Err(StorageError::Unavailable.into()),
            None => Err(StorageError::Compacted.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first_available)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Where a snapshot stands if it is taken now. Its contents, and a position that may be later, are put in by whoever
    /// sends it.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let Some(term) = self.term_of(self.applied).filter(|_| self.applied >= request_index.max(1)) else {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = self.applied;
        snapshot.mut_metadata().term = term;
        snapshot.mut_metadata().set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_can_be_released() {
        let entries = (1..=4).map(|index| entry(index, 1)).collect();
        let mut window = LogWindow::new(HardState::default(), ConfState::default(), (0, 0), entries);
        window.trim(3);
        assert_eq!(window.first_index(), Ok(1));
        window.release_applied();
        assert_eq!((window.first_index(), window.last_index()), (Ok(4), Ok(4)));
        assert_eq!(window.term(3), Ok(1));
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 100].into(), ..Entry::default() }
    }

    fn empty() -> LogWindow {
        LogWindow::new(HardState::default(), ConfState::default(), (0, 0), Vec::new())
    }

    #[test]
    fn a_new_leader_replaces_the_tail_and_trim_keeps_what_is_not_applied() {
        let mut window = empty();
        window.append(&[entry(1, 1), entry(2, 1), entry(3, 1)]);
        window.append(&[entry(2, 2)]);
        assert_eq!(window.last_index().expect("in memory"), 2);
        assert_eq!(window.term(1).expect("present"), 1);
        assert_eq!(window.term(2).expect("present"), 2);
        let many: Vec<Entry> = (3..=LOG_WINDOW_ENTRIES_MAX as u64 + 50).map(|index| entry(index, 2)).collect();
        window.append(&many);
        window.trim(10);
        assert_eq!(window.before.0, 10);
        window.trim(u64::MAX);
        assert_eq!(window.before.0, 50);
        assert_eq!(window.first_index().expect("still in the write-ahead log"), 1);
        assert_eq!(window.term(1).expect("terms outlive their entries"), 1);
    }

    #[test]
    fn older_entries_are_asked_for_once_and_served_when_they_come() {
        let mut window = empty();
        let all: Vec<Entry> = (1..=LOG_WINDOW_ENTRIES_MAX as u64 + 100).map(|index| entry(index, 3)).collect();
        window.append(&all);
        window.trim(u64::MAX);
        let asked = window.entries(5, 200, None, GetEntriesContext::empty(true));
        assert_eq!(asked, Err(StorageError::LogTemporarilyUnavailable.into()));
        assert_eq!(window.wanted(), Some((5, 101)));
        let contexts = window.provide(5, all[4..80].to_vec());
        assert_eq!(contexts.len(), 1);
        assert_eq!(window.wanted(), None);
        let served = window.entries(5, 200, None, GetEntriesContext::empty(true)).expect("handed in");
        assert_eq!((served[0].index, served.len()), (5, 76));
        // Of another term than the log had at that place: an overwritten version, which is not served.
        window.entries(90, 101, None, GetEntriesContext::empty(true)).expect_err("not in memory");
        window.provide(90, vec![entry(90, 2)]);
        assert_eq!(window.first_index().expect("known"), 91);
        assert_eq!(window.term(90).expect("the entry before the first one"), 3);
        assert_eq!(window.entries(90, 101, None, GetEntriesContext::empty(true)), Err(StorageError::Compacted.into()));
    }

    #[test]
    fn a_snapshot_stands_where_the_store_stands() {
        let mut window = empty();
        assert!(window.snapshot(0, 2).is_err());
        window.append(&[entry(1, 1), entry(2, 4)]);
        window.trim(2);
        let snapshot = window.snapshot(0, 2).expect("something is applied");
        assert_eq!((snapshot.get_metadata().index, snapshot.get_metadata().term), (2, 4));
        window.restore((9, 5), ConfState::default());
        assert_eq!((window.first_index().expect("known"), window.last_index().expect("known")), (10, 9));
        assert_eq!(window.term(9).expect("the snapshot's own"), 5);
    }
}
