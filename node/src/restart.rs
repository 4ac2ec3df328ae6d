//! What a member starts from, put together from its log and its backend. The server and the simulator restart through
//! this one path. Log and backend that do not belong together are an error, never a guess.

use kvorum_api::raftpb;
use kvorum_store::Restored;

use crate::consensus::{HardState, LogEntry, SnapshotPosition, Start};
use crate::member::conf_state_from_json;

/// What the write-ahead log remembered.
pub struct RecoveredLog {
    pub hard_state: HardState,
    /// Index and term of the snapshot it was read from; zeros without one.
    pub snapshot: (u64, u64),
    /// The configuration at that snapshot.
    pub conf_state: raftpb::ConfState,
    /// The entries after it.
    pub entries: Vec<raftpb::Entry>,
}

/// How a member that was here before goes on.
pub enum Restart {
    From(Start),
    /// Its first start did not finish. The founding entries and the state that commits them are written as one batch,
    /// before anything else, and they are not whole on the disk: so nothing was ever acknowledged, and what there is of
    /// them is to be written over.
    FoundAgain,
}

impl RecoveredLog {
    /// The backend was received from the leader and took the old one's place, and the log may not know of it yet: then it
    /// begins anew behind what the backend holds. Returns the position that is to be recorded in the log before anything
    /// else, with the hard state that goes with it.
    pub fn begin_behind(&mut self, restored: &Restored) -> Result<Option<(SnapshotPosition, HardState)>, String> {
        let (index, term) = (restored.consistent_index, restored.consistent_term);
        let entry = self.entries.iter().find(|entry| entry.index == Some(index));
        let known = if index == self.snapshot.0 { Some(self.snapshot.1) } else { entry.and_then(|entry| entry.term) };
        if known == Some(term) || index < self.snapshot.0 {
            return Ok(None);
        }
        let json = restored.conf_state.as_deref().ok_or("the received backend has no configuration")?;
        let conf_state = conf_state_from_json(json).map_err(|error| format!("backend: {error}"))?;
        self.snapshot = (index, term);
        self.conf_state = conf_state.clone();
        self.entries.clear();
        self.hard_state.commit = self.hard_state.commit.max(index);
        self.hard_state.term = self.hard_state.term.max(term);
        Ok(Some((SnapshotPosition { index, term, conf_state }, self.hard_state)))
    }
}

/// Decides it. The error text says what does not fit.
pub fn restart(log: RecoveredLog, restored: &Restored) -> Result<Restart, String> {
    let RecoveredLog { hard_state, snapshot, conf_state, mut entries } = log;
    // What stood in the log when a snapshot took its place is of older terms, and no longer part of it.
    if let Some(stale) = entries.iter().position(|entry| entry.term.unwrap_or(0) < snapshot.1) {
        entries.truncate(stale);
    }
    let last = entries.last().map_or(snapshot.0, |entry| entry.index.unwrap_or(0));
    let applied = restored.consistent_index;
    if applied > last || applied < snapshot.0 {
        return Err(format!(
            "the backend holds entries up to {applied}, the write-ahead log those from {} to {last}: they do not belong \
             together",
            snapshot.0
        ));
    }
    if applied == 0 && snapshot.0 == 0 && hard_state.commit == 0 {
        return Ok(Restart::FoundAgain);
    }
    let conf_state = match &restored.conf_state {
        Some(json) => conf_state_from_json(json).map_err(|error| format!("backend: {error}"))?,
        None => conf_state,
    };
    let entries = entries.into_iter().map(LogEntry::from_message).collect::<Result<_, _>>()?;
    Ok(Restart::From(Start::Restart { hard_state, conf_state, snapshot, entries, applied }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> raftpb::Entry {
        raftpb::Entry { index: Some(index), term: Some(term), ..raftpb::Entry::default() }
    }

    fn log(entries: Vec<raftpb::Entry>) -> RecoveredLog {
        RecoveredLog {
            hard_state: HardState { term: 3, vote: 1, commit: 2 },
            snapshot: (0, 0),
            conf_state: raftpb::ConfState::default(),
            entries,
        }
    }

    fn restored(consistent_index: u64, consistent_term: u64) -> Restored {
        Restored {
            consistent_index,
            consistent_term,
            conf_state: Some(br#"{"voters":[1,2],"auto_leave":false}"#.to_vec()),
            leases: Vec::new(),
            compaction_pending: false,
        }
    }

    #[test]
    fn a_received_backend_begins_the_log_anew() {
        let mut behind = log(vec![entry(1, 1), entry(2, 1)]);
        let (position, hard_state) = behind.begin_behind(&restored(9, 3)).expect("whole").expect("the log ends before");
        assert_eq!((position.index, position.term, position.conf_state.voters), (9, 3, vec![1, 2]));
        assert_eq!(hard_state, HardState { term: 3, vote: 1, commit: 9 });
        assert!(matches!(restart(behind, &restored(9, 3)), Ok(Restart::From(_))));

        let mut conflicting = log(vec![entry(1, 1), entry(2, 1), entry(3, 2)]);
        assert!(conflicting.begin_behind(&restored(3, 3)).expect("whole").is_some(), "another leader's entry");
        let mut known = log(vec![entry(1, 1), entry(2, 1), entry(3, 2)]);
        assert_eq!(known.begin_behind(&restored(3, 2)).expect("whole"), None);
        assert!(restart(log(vec![entry(1, 1)]), &restored(9, 3)).is_err(), "without the mark it is a mistake");
    }

    #[test]
    fn entries_from_before_a_snapshot_are_not_taken_up_again() {
        let stale = RecoveredLog { snapshot: (9, 3), ..log(vec![entry(10, 2), entry(11, 2)]) };
        let Ok(Restart::From(Start::Restart { entries, .. })) = restart(stale, &restored(9, 3)) else {
            panic!("a log that fits")
        };
        assert!(entries.is_empty());
    }
}
