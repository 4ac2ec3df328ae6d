//! Between etcd's messages and the raft crate's. The crate's enum of configuration changes has other numbers than etcd's,
//! its messages have fields that etcd does not know; neither leaves this file.

use bytes::Bytes;
use kvorum_api::raftpb;
use prost::Message as _;
use raft::eraftpb::{self, ConfChangeType, Entry, EntryType, Message, MessageType, Snapshot};

use super::{HardState, LogEntry};

/// etcd's change in the raft crate's terms; `None` for UpdateNode and unknown kinds.
pub(super) fn translate_conf_change(change: &raftpb::ConfChange) -> Option<eraftpb::ConfChange> {
    let kind = match raftpb::ConfChangeType::try_from(change.r#type.unwrap_or(0)).ok()? {
        raftpb::ConfChangeType::ConfChangeAddNode => ConfChangeType::AddNode,
        raftpb::ConfChangeType::ConfChangeRemoveNode => ConfChangeType::RemoveNode,
        raftpb::ConfChangeType::ConfChangeAddLearnerNode => ConfChangeType::AddLearnerNode,
        raftpb::ConfChangeType::ConfChangeUpdateNode => return None,
    };
    let mut translated = eraftpb::ConfChange { node_id: change.node_id.unwrap_or(0), ..Default::default() };
    translated.set_change_type(kind);
    Some(translated)
}

/// Decodes the data of a configuration change entry with our types, and refuses it unless encoding it again gives the
/// same bytes: the raft crate parses such data itself, with a parser that outside bytes must not reach.
pub fn decode_conf_change(data: &Bytes) -> Result<raftpb::ConfChange, String> {
    let change = raftpb::ConfChange::decode(data.clone()).map_err(|error| format!("configuration change: {error}"))?;
    if change.encode_to_vec() != data.as_ref() {
        return Err("configuration change: not in canonical encoding".to_owned());
    }
    Ok(change)
}

pub(super) fn to_raft_entry(entry: &LogEntry) -> Entry {
    let mut converted = Entry { term: entry.term, index: entry.index, data: entry.data.clone(), ..Entry::default() };
    converted.set_entry_type(to_raft_kind(entry.kind));
    converted
}

pub(super) fn to_raft_kind(kind: raftpb::EntryType) -> EntryType {
    match kind {
        raftpb::EntryType::EntryNormal => EntryType::EntryNormal,
        raftpb::EntryType::EntryConfChange => EntryType::EntryConfChange,
        raftpb::EntryType::EntryConfChangeV2 => EntryType::EntryConfChangeV2,
    }
}

pub(super) fn from_raft_entry(entry: &Entry) -> LogEntry {
    LogEntry {
        kind: match entry.get_entry_type() {
            EntryType::EntryNormal => raftpb::EntryType::EntryNormal,
            EntryType::EntryConfChange => raftpb::EntryType::EntryConfChange,
            EntryType::EntryConfChangeV2 => raftpb::EntryType::EntryConfChangeV2,
        },
        term: entry.term,
        index: entry.index,
        data: entry.data.clone(),
    }
}

pub(super) fn to_raft_hard_state(state: HardState) -> eraftpb::HardState {
    eraftpb::HardState { term: state.term, vote: state.vote, commit: state.commit, ..Default::default() }
}

pub(super) fn to_raft_conf_state(state: &raftpb::ConfState) -> eraftpb::ConfState {
    let mut converted = eraftpb::ConfState {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        ..Default::default()
    };
    converted.auto_leave = state.auto_leave.unwrap_or(false);
    converted
}

pub(super) fn from_raft_conf_state(state: &eraftpb::ConfState) -> raftpb::ConfState {
    // raft keeps its configuration in hash sets; the order of ids is made a function of the ids.
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    raftpb::ConfState {
        voters: sorted(&state.voters),
        learners: sorted(&state.learners),
        voters_outgoing: sorted(&state.voters_outgoing),
        learners_next: sorted(&state.learners_next),
        auto_leave: Some(state.auto_leave),
    }
}

/// A message from a peer; its shape has been checked.
pub(super) fn to_raft_message(message: raftpb::Message, kind: MessageType) -> Message {
    let mut converted = Message {
        to: message.to.unwrap_or(0),
        from: message.from.unwrap_or(0),
        term: message.term.unwrap_or(0),
        log_term: message.log_term.unwrap_or(0),
        index: message.index.unwrap_or(0),
        commit: message.commit.unwrap_or(0),
        reject: message.reject.unwrap_or(false),
        reject_hint: message.reject_hint.unwrap_or(0),
        context: message.context.unwrap_or_default(),
        ..Message::default()
    };
    converted.set_msg_type(kind);
    let entries: Vec<Entry> = message.entries.into_iter().map(to_raft_entry_from_wire).collect();
    converted.set_entries(entries.into());
    if let Some(snapshot) = message.snapshot {
        let metadata = snapshot.metadata.unwrap_or_default();
        let mut to = Snapshot { data: snapshot.data.unwrap_or_default(), ..Snapshot::default() };
        to.mut_metadata().index = metadata.index.unwrap_or(0);
        to.mut_metadata().term = metadata.term.unwrap_or(0);
        to.mut_metadata().set_conf_state(to_raft_conf_state(&metadata.conf_state.unwrap_or_default()));
        converted.set_snapshot(to);
    }
    converted
}

fn to_raft_entry_from_wire(entry: raftpb::Entry) -> Entry {
    let kind = raftpb::EntryType::try_from(entry.r#type.unwrap_or(0)).unwrap_or(raftpb::EntryType::EntryNormal);
    let mut converted = Entry {
        term: entry.term.unwrap_or(0),
        index: entry.index.unwrap_or(0),
        data: entry.data.unwrap_or_default(),
        ..Entry::default()
    };
    converted.set_entry_type(to_raft_kind(kind));
    converted
}

/// A message to a peer in etcd's form. etcd 3.6 and before always write the numbers, zeros too; so do we.
pub(super) fn from_raft_message(mut message: Message) -> raftpb::Message {
    let kind = message.get_msg_type();
    let snapshot = (kind == MessageType::MsgSnapshot).then(|| {
        let snapshot = message.take_snapshot();
        raftpb::Snapshot {
            data: Some(snapshot.data.clone()),
            metadata: Some(raftpb::SnapshotMetadata {
                conf_state: Some(from_raft_conf_state(snapshot.get_metadata().get_conf_state())),
                index: Some(snapshot.get_metadata().index),
                term: Some(snapshot.get_metadata().term),
            }),
        }
    });
    // A vote's commit index is the crate's own extension; etcd leaves it zero.
    let is_vote = matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
    raftpb::Message {
        r#type: Some(kind as i32),
        to: Some(message.to),
        from: Some(message.from),
        term: Some(message.term),
        log_term: Some(message.log_term),
        index: Some(message.index),
        commit: Some(if is_vote { 0 } else { message.commit }),
        reject: Some(message.reject),
        reject_hint: Some(message.reject_hint),
        context: (!message.context.is_empty()).then(|| message.context.clone()),
        entries: message.take_entries().into_iter().map(|entry| to_wire_entry(&entry)).collect(),
        snapshot,
        ..raftpb::Message::default()
    }
}

fn to_wire_entry(entry: &Entry) -> raftpb::Entry {
    raftpb::Entry {
        r#type: Some(from_raft_entry(entry).kind as i32),
        term: Some(entry.term),
        index: Some(entry.index),
        data: (!entry.data.is_empty()).then(|| entry.data.clone()),
    }
}

/// etcd's type of message in the raft crate's terms; `None` for those that never travel between members.
pub(super) fn to_raft_message_type(kind: i32) -> Option<MessageType> {
    use raftpb::MessageType as Wire;
    Some(match Wire::try_from(kind).ok()? {
        Wire::MsgProp => MessageType::MsgPropose,
        Wire::MsgApp => MessageType::MsgAppend,
        Wire::MsgAppResp => MessageType::MsgAppendResponse,
        Wire::MsgVote => MessageType::MsgRequestVote,
        Wire::MsgVoteResp => MessageType::MsgRequestVoteResponse,
        Wire::MsgSnap => MessageType::MsgSnapshot,
        Wire::MsgHeartbeat => MessageType::MsgHeartbeat,
        Wire::MsgHeartbeatResp => MessageType::MsgHeartbeatResponse,
        Wire::MsgTransferLeader => MessageType::MsgTransferLeader,
        Wire::MsgTimeoutNow => MessageType::MsgTimeoutNow,
        Wire::MsgReadIndex => MessageType::MsgReadIndex,
        Wire::MsgReadIndexResp => MessageType::MsgReadIndexResp,
        Wire::MsgPreVote => MessageType::MsgRequestPreVote,
        Wire::MsgPreVoteResp => MessageType::MsgRequestPreVoteResponse,
        Wire::MsgHup
        | Wire::MsgBeat
        | Wire::MsgUnreachable
        | Wire::MsgSnapStatus
        | Wire::MsgCheckQuorum
        | Wire::MsgStorageAppend
        | Wire::MsgStorageAppendResp
        | Wire::MsgStorageApply
        | Wire::MsgStorageApplyResp
        | Wire::MsgForgetLeader => return None,
    })
}
