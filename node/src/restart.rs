//! What a member starts from, put together from its log and its backend. The server and the simulator restart through
//! this one path. Log and backend that do not belong together are an error, never a guess.

use kvorum_api::raftpb;
use kvorum_store::Restored;

use crate::consensus::{HardState, LogEntry, Start};
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

/// Decides it. The error text says what does not fit.
pub fn restart(log: RecoveredLog, restored: &Restored) -> Result<Restart, String> {
    let RecoveredLog { hard_state, snapshot, conf_state, entries } = log;
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
    let entries = entries.into_iter().map(log_entry).collect::<Result<_, _>>()?;
    Ok(Restart::From(Start::Restart { hard_state, conf_state, snapshot, entries, applied }))
}

fn log_entry(entry: raftpb::Entry) -> Result<LogEntry, String> {
    let index = entry.index.unwrap_or(0);
    let kind = raftpb::EntryType::try_from(entry.r#type.unwrap_or(0))
        .map_err(|error| format!("entry {index} of the write-ahead log: {error}"))?;
    Ok(LogEntry { kind, term: entry.term.unwrap_or(0), index, data: entry.data.unwrap_or_default() })
}
