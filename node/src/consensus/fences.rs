//! What a message from a peer must look like before the raft crate may see it. The crate stops the process on shapes
//! that a damaged or foreign peer can send; here they are refused with a reason instead, and nothing else happens.

use kvorum_api::raftpb;
use raft::eraftpb::MessageType;

use super::convert::{decode_conf_change, to_raft_message_type};

/// Terms and indexes beyond this are nobody's: they grow by one, and raft adds to them without looking.
const POSITION_MAX: u64 = i64::MAX as u64;

/// What the fences need to know of the log.
pub(super) trait LogView {
    fn last_index(&self) -> u64;
    fn committed(&self) -> u64;
    /// The term this member is in.
    fn current_term(&self) -> u64;
    fn is_leader(&self) -> bool;
    /// `None` where the log no longer reaches.
    fn term(&self, index: u64) -> Option<u64>;
}

pub(super) fn check(message: &raftpb::Message, log: &impl LogView) -> Result<MessageType, String> {
    let number = message.r#type.unwrap_or(0);
    let kind = to_raft_message_type(number).ok_or_else(|| format!("a message of type {number} is not for members"))?;
    if message.from.unwrap_or(0) == 0 {
        return Err(format!("{kind:?} without a sender"));
    }
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    let positions = [message.term, message.log_term, message.index, message.commit, message.reject_hint];
    let of_snapshot = metadata.map_or([None; 2], |metadata| [metadata.index, metadata.term]);
    if positions.iter().chain(&of_snapshot).flatten().any(|position| *position > POSITION_MAX) {
        return Err(format!("{kind:?} with a term or an index beyond all that are used"));
    }
    let sent_in = message.term.unwrap_or(0);
    // What is passed on to the leader carries no term, everything else does; raft stops where it has to send the answer.
    let is_passed_on = matches!(kind, MessageType::MsgPropose | MessageType::MsgReadIndex);
    if is_passed_on != (sent_in == 0) {
        return Err(format!("{kind:?} of term {sent_in}"));
    }
    match kind {
        // Of a leader whose term is over: raft tells it so and looks at nothing else.
        MessageType::MsgAppend | MessageType::MsgHeartbeat if sent_in < log.current_term() => {}
        // For a leader that this member was before it lost the end of its log: raft passes it over.
        MessageType::MsgAppendResponse if !log.is_leader() || sent_in < log.current_term() => {}
        MessageType::MsgPropose => check_proposal(&message.entries)?,
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if message.entries.len() != 1 => {
            return Err(format!("{kind:?} with {} entries instead of one", message.entries.len()));
        }
        MessageType::MsgAppend => check_append(message, log)?,
        MessageType::MsgAppendResponse => {
            let index = message.index.unwrap_or(0);
            if !message.reject.unwrap_or(false) && index > log.last_index() {
                return Err(format!("a peer acknowledges entry {index}, ours end at {}", log.last_index()));
            }
        }
        MessageType::MsgHeartbeat => {
            let commit = message.commit.unwrap_or(0);
            if commit > log.last_index() {
                return Err(format!(
                    "the leader counts on entry {commit} here, but the log ends at {}: was it corrupted, truncated, or lost?",
                    log.last_index()
                ));
            }
        }
        MessageType::MsgSnapshot => check_snapshot(message.snapshot.as_ref(), log)?,
        _ => {}
    }
    Ok(kind)
}

fn check_proposal(entries: &[raftpb::Entry]) -> Result<(), String> {
    if entries.is_empty() {
        return Err("a proposal without entries".to_owned());
    }
    for entry in entries {
        match raftpb::EntryType::try_from(entry.r#type.unwrap_or(0)) {
            Ok(raftpb::EntryType::EntryNormal) => {}
            Ok(raftpb::EntryType::EntryConfChange) => {
                decode_conf_change(entry.data.as_ref().unwrap_or(&bytes::Bytes::new()))?;
            }
            _ => return Err("a proposal of a kind that etcd 3.7 does not write".to_owned()),
        }
    }
    Ok(())
}

fn check_append(message: &raftpb::Message, log: &impl LogView) -> Result<(), String> {
    let mut term = message.log_term.unwrap_or(0);
    let mut index = message.index.unwrap_or(0);
    // raft takes an index that its log does not reach for one of term 0, and would append behind the gap.
    if (index == 0) != (term == 0) {
        return Err(format!("an append after entry {index} of term {term}"));
    }
    for entry in &message.entries {
        let (entry_index, entry_term) = (entry.index.unwrap_or(0), entry.term.unwrap_or(0));
        if Some(entry_index) != index.checked_add(1)
            || entry_term < term.max(1)
            || entry_term > message.term.unwrap_or(0)
        {
            return Err(format!(
                "an append with entry {entry_index} of term {entry_term} after entry {index} of term {term}"
            ));
        }
        if raftpb::EntryType::try_from(entry.r#type.unwrap_or(0)).is_err() {
            return Err(format!("entry {entry_index} is of an unknown kind"));
        }
        if entry_index <= log.committed() && log.term(entry_index).is_some_and(|known| known != entry_term) {
            return Err(format!(
                "entry {entry_index} of term {entry_term} would replace a committed one of term {}",
                log.term(entry_index).unwrap_or(0)
            ));
        }
        (index, term) = (entry_index, entry_term);
    }
    Ok(())
}

fn check_snapshot(snapshot: Option<&raftpb::Snapshot>, log: &impl LogView) -> Result<(), String> {
    let metadata = snapshot.and_then(|snapshot| snapshot.metadata.as_ref()).ok_or("a snapshot without metadata")?;
    let (index, term) = (metadata.index.unwrap_or(0), metadata.term.unwrap_or(0));
    if index == 0 || term == 0 {
        return Err("a snapshot without a position".to_owned());
    }
    // Raft takes one of the last committed entry, if only its term is another.
    if index <= log.committed() && log.term(index).is_some_and(|known| known != term) {
        return Err(format!("a snapshot at entry {index} of term {term}, which is committed with another"));
    }
    let state = metadata.conf_state.as_ref().ok_or("a snapshot without a configuration")?;
    if !state.voters_outgoing.is_empty() || !state.learners_next.is_empty() || state.auto_leave() {
        return Err("a snapshot in a joint configuration, which etcd does not use".to_owned());
    }
    let mut ids: Vec<u64> = state.voters.iter().chain(&state.learners).copied().collect();
    ids.sort_unstable();
    let distinct = ids.windows(2).all(|pair| pair[0] != pair[1]);
    if state.voters.is_empty() || !distinct || ids[0] == 0 {
        return Err("a snapshot whose configuration is not one".to_owned());
    }
    Ok(())
}
