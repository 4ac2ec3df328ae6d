//! The tail of the log that raft keeps at hand: entries after the last dropped one, bounded in number and bytes.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::limits::{LOG_WINDOW_BYTES_MAX, LOG_WINDOW_ENTRIES_MAX};

pub(crate) struct LogWindow {
    initial: RaftState,
    /// Index and term of the entry right before the window.
    before: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl LogWindow {
    pub(crate) fn new(hard_state: HardState, conf_state: ConfState, before: (u64, u64), entries: Vec<Entry>) -> Self {
        let bytes = entries.iter().map(entry_bytes).sum();
        Self { initial: RaftState::new(hard_state, conf_state), before, entries: entries.into(), bytes }
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
        for entry in entries {
            self.bytes += entry_bytes(entry);
            self.entries.push_back(entry.clone());
        }
    }

    /// Drops entries up to `applied` while the window is over its bounds.
    pub(crate) fn trim(&mut self, applied: u64) {
        while self.entries.len() > LOG_WINDOW_ENTRIES_MAX || self.bytes > LOG_WINDOW_BYTES_MAX {
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

impl Storage for LogWindow {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.before.0 {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "raft asks only for what it appended");
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut found = Vec::new();
        let mut size = 0u64;
        for entry in self.entries.range(self.position(low)..self.position(high)) {
            size = size.saturating_add(entry_bytes(entry) as u64);
            if size > max_size && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        if index < self.before.0 {
            return Err(StorageError::Compacted.into());
        }
        match self.entries.get(self.position(index)) {
            Some(entry) => Ok(entry.term),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 100].into(), ..Entry::default() }
    }

    #[test]
    fn a_new_leader_replaces_the_tail_and_trim_keeps_what_is_not_applied() {
        let mut window = LogWindow::new(HardState::default(), ConfState::default(), (0, 0), Vec::new());
        window.append(&[entry(1, 1), entry(2, 1), entry(3, 1)]);
        window.append(&[entry(2, 2)]);
        assert_eq!(window.last_index().expect("in memory"), 2);
        assert_eq!(window.term(2).expect("present"), 2);
        let many: Vec<Entry> = (3..=LOG_WINDOW_ENTRIES_MAX as u64 + 50).map(|index| entry(index, 2)).collect();
        window.append(&many);
        window.trim(10);
        assert_eq!(window.first_index().expect("in memory"), 11);
        assert_eq!(window.term(10).expect("the entry before the window"), 2);
        assert!(window.term(9).is_err());
        window.trim(u64::MAX);
        assert_eq!(window.first_index().expect("in memory"), 51);
    }
}
