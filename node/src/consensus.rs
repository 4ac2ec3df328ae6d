//! Drives the `raft` crate. Its types and its panics end here: entries go in and out in etcd's form, message shapes that
//! it cannot take are refused before it sees them, and its election timeouts come from our seed.

use std::collections::VecDeque;

use bytes::Bytes;
use kvorum_api::raftpb;
use prost::Message as _;
use raft::eraftpb::{self, ConfChangeType, Entry, EntryType, Message, MessageType};
use raft::{RawNode, StateRole};

use crate::bootstrap::{BOOTSTRAP_TERM, BootstrapMember, bootstrap_entries};
use crate::limits::{APPEND_MESSAGE_BYTES_MAX, APPEND_MESSAGES_INFLIGHT_MAX, APPLY_STEP_BYTES_MAX};
use crate::log_window::LogWindow;

/// A log entry in etcd's form: what stands in the WAL and on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    pub kind: raftpb::EntryType,
    pub term: u64,
    pub index: u64,
    pub data: Bytes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

/// What must be on disk before raft hears of `number` through [`Consensus::handle_persisted`].
#[derive(Debug)]
pub struct Persist {
    pub number: u64,
    pub entries: Vec<LogEntry>,
    pub hard_state: Option<HardState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
}

/// The answer to a request for a read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadIndex {
    /// Reads may be served once this index is applied.
    At(u64),
    /// There is no leader, or it has not committed an entry of its term yet.
    NotYet,
}

#[derive(Clone, Debug)]
pub struct ConsensusConfig {
    pub member_id: u64,
    /// Length of an election timeout in ticks; a tick is a heartbeat interval.
    pub election_ticks: usize,
    pub pre_vote: bool,
    pub seed: u64,
}

/// Where the log begins.
pub enum Start {
    /// A new cluster: nothing is on disk yet.
    Bootstrap { members: Vec<BootstrapMember> },
    /// What the WAL and the backend remember.
    Restart {
        hard_state: HardState,
        conf_state: raftpb::ConfState,
        /// Index and term of the snapshot the WAL was opened at.
        snapshot: (u64, u64),
        entries: Vec<LogEntry>,
        /// The last index the backend holds; entries after it are applied again.
        applied: u64,
    },
}

pub struct Consensus {
    raw: RawNode<LogWindow>,
    committed: VecDeque<Entry>,
    written: HardState,
    /// Entries of a bootstrap that were not persisted yet.
    bootstrap: Option<Persist>,
    election_timeout_ticks: usize,
    last_reset: (u64, StateRole),
    random: SplitMix,
    election_ticks: usize,
    applied: u64,
}

/// The number under which bootstrap entries are persisted; raft's own numbers begin at 1.
const BOOTSTRAP_NUMBER: u64 = 0;

impl Consensus {
    pub fn new(config: &ConsensusConfig, start: Start) -> Result<Self, String> {
        let parts = start.into_parts();
        let bootstrap = parts.bootstrap.then(|| Persist {
            number: BOOTSTRAP_NUMBER,
            entries: parts.entries.clone(),
            hard_state: Some(parts.hard_state),
        });
        let window = LogWindow::new(
            to_raft_hard_state(parts.hard_state),
            to_raft_conf_state(&parts.conf_state),
            parts.snapshot,
            parts.entries.iter().map(to_raft_entry).collect(),
        );
        let raft_config = raft::Config {
            id: config.member_id,
            election_tick: config.election_ticks,
            heartbeat_tick: 1,
            applied: parts.applied,
            max_size_per_msg: APPEND_MESSAGE_BYTES_MAX,
            max_inflight_msgs: APPEND_MESSAGES_INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: config.pre_vote,
            batch_append: true,
            max_committed_size_per_ready: APPLY_STEP_BYTES_MAX,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, window, &logger).map_err(|error| format!("raft: {error}"))?;
        let last_reset = (raw.raft.term, raw.raft.state);
        let mut consensus = Self {
            raw,
            committed: VecDeque::new(),
            written: if parts.bootstrap { HardState::default() } else { parts.hard_state },
            bootstrap,
            election_timeout_ticks: 0,
            last_reset,
            random: SplitMix(config.seed),
            election_ticks: config.election_ticks,
            applied: parts.applied,
        };
        consensus.draw_election_timeout();
        Ok(consensus)
    }

    /// Appends requests to the log in one message. False when this member is not the leader.
    pub fn propose(&mut self, requests: impl Iterator<Item = Bytes>) -> bool {
        if self.role() != Role::Leader {
            return false;
        }
        let entries: Vec<Entry> = requests.map(|data| Entry { data, ..Entry::default() }).collect();
        if entries.is_empty() {
            return true;
        }
        let mut message = Message { from: self.raw.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(entries.into());
        self.raw.step(message).is_ok()
    }

    /// One heartbeat interval has passed.
    pub fn tick(&mut self) {
        self.raw.tick();
        self.keep_our_election_timeout();
    }

    /// Starts an election now, as the only voter does after its start instead of waiting for the timeout.
    pub fn campaign(&mut self) {
        // A refused campaign is no error: the election timeout tries again.
        if self.raw.campaign().is_err() {
            return;
        }
        self.keep_our_election_timeout();
    }

    /// Whether this member is the cluster's only voter.
    pub fn is_single_voter(&self) -> bool {
        self.raw.raft.prs().is_singleton() && self.raw.raft.promotable()
    }

    /// What must be persisted next, if anything. Committed entries found on the way wait in [`Self::next_committed`].
    pub fn poll_persist(&mut self) -> Option<Persist> {
        if let Some(persist) = self.bootstrap.take() {
            return Some(persist);
        }
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            let number = ready.number();
            self.committed.extend(ready.take_committed_entries());
            let entries: Vec<LogEntry> = ready.entries().iter().map(from_raft_entry).collect();
            self.raw.mut_store().append(ready.entries());
            // A single member has nobody to write to. Messages to peers come with the peer protocol.
            drop(ready.take_messages());
            drop(ready.take_persisted_messages());
            self.raw.advance_append_async(ready);
            let hard_state = self.hard_state();
            // A commit index alone is not worth a write: it is found again, and goes out with the next entries.
            let vote_changed = (hard_state.term, hard_state.vote) != (self.written.term, self.written.vote);
            if entries.is_empty() && !vote_changed {
                self.raw.on_persist_ready(number);
                continue;
            }
            let hard_state = self.take_unwritten_hard_state();
            return Some(Persist { number, entries, hard_state });
        }
        None
    }

    /// The hard state if it changed since it was last handed out; at a clean stop it is written without entries.
    pub fn take_unwritten_hard_state(&mut self) -> Option<HardState> {
        let hard_state = self.hard_state();
        if hard_state == self.written {
            return None;
        }
        self.written = hard_state;
        Some(hard_state)
    }

    /// The write with this number, and all before it, are durable.
    pub fn handle_persisted(&mut self, number: u64) {
        if number != BOOTSTRAP_NUMBER {
            self.raw.on_persist_ready(number);
            self.keep_our_election_timeout();
        }
    }

    /// The next committed entry to apply. Once applied, [`Self::handle_applied`] must be told.
    pub fn next_committed(&mut self) -> Option<LogEntry> {
        self.committed.pop_front().map(|entry| from_raft_entry(&entry))
    }

    /// Entries up to `index` are applied.
    pub fn handle_applied(&mut self, index: u64) {
        if index > self.applied {
            self.applied = index;
            self.raw.advance_apply_to(index);
            self.raw.mut_store().trim(index);
        }
    }

    /// Asks for an index at which a linearizable read may be served. A single voter is answered at once.
    pub fn read_index(&mut self, context: u64) -> ReadIndex {
        let entry = Entry { data: Bytes::copy_from_slice(&context.to_be_bytes()), ..Entry::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgReadIndex);
        message.set_entries(vec![entry].into());
        if self.role() != Role::Leader || self.raw.step(message).is_err() {
            return ReadIndex::NotYet;
        }
        match self.raw.raft.read_states.pop() {
            Some(state) => ReadIndex::At(state.index),
            None => ReadIndex::NotYet,
        }
    }

    /// Applies a configuration change to raft and returns the configuration that follows. `None` applies it as a
    /// no-op: etcd's validation refused it, or it is an UpdateNode, which raft does not know.
    pub fn apply_conf_change(&mut self, change: Option<&raftpb::ConfChange>) -> Result<raftpb::ConfState, String> {
        let translated = change.and_then(translate_conf_change).unwrap_or_default();
        if translated.node_id == 0 {
            return Ok(self.conf_state());
        }
        let state = self.raw.apply_conf_change(&translated).map_err(|error| format!("raft: {error}"))?;
        Ok(from_raft_conf_state(&state))
    }

    pub fn conf_state(&self) -> raftpb::ConfState {
        from_raft_conf_state(&self.raw.raft.prs().conf().to_conf_state())
    }

    pub fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower => Role::Follower,
        }
    }

    /// The leader's member id, 0 while there is none.
    pub fn leader(&self) -> u64 {
        self.raw.raft.leader_id
    }

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub fn commit_index(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    pub fn applied_index(&self) -> u64 {
        self.applied
    }

    fn hard_state(&self) -> HardState {
        let state = self.raw.raft.hard_state();
        HardState { term: state.term, vote: state.vote, commit: state.commit }
    }

    /// raft draws a timeout of its own whenever it resets, that is when its term or role changed; ours replaces it.
    fn keep_our_election_timeout(&mut self) {
        let reset = (self.raw.raft.term, self.raw.raft.state);
        if reset != self.last_reset {
            self.last_reset = reset;
            self.draw_election_timeout();
        } else if self.raw.raft.randomized_election_timeout() != self.election_timeout_ticks {
            self.raw.raft.set_randomized_election_timeout(self.election_timeout_ticks);
        }
    }

    fn draw_election_timeout(&mut self) {
        let spread = self.random.next() % self.election_ticks as u64;
        self.election_timeout_ticks = self.election_ticks + usize::try_from(spread).expect("less than election_ticks");
        self.raw.raft.set_randomized_election_timeout(self.election_timeout_ticks);
    }
}

struct StartParts {
    bootstrap: bool,
    hard_state: HardState,
    conf_state: raftpb::ConfState,
    snapshot: (u64, u64),
    entries: Vec<LogEntry>,
    applied: u64,
}

impl Start {
    fn into_parts(self) -> StartParts {
        match self {
            Self::Bootstrap { members } => {
                let entries = bootstrap_entries(&members);
                let mut voters: Vec<u64> = members.iter().map(|member| member.id).collect();
                voters.sort_unstable();
                StartParts {
                    bootstrap: true,
                    // etcd's bootstrap counts the entries as committed and lets the members vote before they are
                    // applied; the entries themselves stay in the log for members that join later.
                    hard_state: HardState { term: BOOTSTRAP_TERM, vote: 0, commit: entries.len() as u64 },
                    conf_state: raftpb::ConfState { voters, ..raftpb::ConfState::default() },
                    snapshot: (0, 0),
                    entries,
                    applied: 0,
                }
            }
            Self::Restart { hard_state, conf_state, snapshot, entries, applied } => {
                let last = entries.last().map_or(snapshot.0, |entry| entry.index);
                // The commit index is written lazily; what the backend holds was committed.
                let commit = hard_state.commit.max(applied).min(last);
                StartParts {
                    bootstrap: false,
                    hard_state: HardState { commit, ..hard_state },
                    conf_state,
                    snapshot,
                    entries,
                    applied: applied.min(last),
                }
            }
        }
    }
}

/// etcd's change in the raft crate's terms, whose enum has other numbers; `None` for UpdateNode and unknown kinds.
fn translate_conf_change(change: &raftpb::ConfChange) -> Option<eraftpb::ConfChange> {
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

fn to_raft_entry(entry: &LogEntry) -> Entry {
    let mut converted = Entry { term: entry.term, index: entry.index, data: entry.data.clone(), ..Entry::default() };
    converted.set_entry_type(match entry.kind {
        raftpb::EntryType::EntryNormal => EntryType::EntryNormal,
        raftpb::EntryType::EntryConfChange => EntryType::EntryConfChange,
        raftpb::EntryType::EntryConfChangeV2 => EntryType::EntryConfChangeV2,
    });
    converted
}

fn from_raft_entry(entry: &Entry) -> LogEntry {
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

fn to_raft_hard_state(state: HardState) -> eraftpb::HardState {
    eraftpb::HardState { term: state.term, vote: state.vote, commit: state.commit, ..Default::default() }
}

fn to_raft_conf_state(state: &raftpb::ConfState) -> eraftpb::ConfState {
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

fn from_raft_conf_state(state: &eraftpb::ConfState) -> raftpb::ConfState {
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

/// A small generator (splitmix64) for election timeouts: same seed, same trace.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests;
