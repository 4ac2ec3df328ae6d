//! Drives the `raft` crate. Its types and its panics end here: entries and messages go in and out in etcd's form, shapes
//! that it cannot take are refused before it sees them, and its election timeouts come from our seed.

mod convert;
mod fences;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kvorum_api::raftpb;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};

pub use self::convert::decode_conf_change;
use self::convert::{
    from_raft_conf_state, from_raft_entry, from_raft_message, to_raft_conf_state, to_raft_entry, to_raft_hard_state,
    to_raft_message, translate_conf_change,
};
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

impl LogEntry {
    /// An entry as the write-ahead log holds it. What is absent counts as zero, as in etcd.
    ///
    /// # Errors
    /// Its kind is none of etcd's.
    pub fn from_message(entry: raftpb::Entry) -> Result<Self, String> {
        let index = entry.index.unwrap_or(0);
        let kind = raftpb::EntryType::try_from(entry.r#type.unwrap_or(0))
            .map_err(|error| format!("entry {index} of the write-ahead log: {error}"))?;
        Ok(Self { kind, term: entry.term.unwrap_or(0), index, data: entry.data.unwrap_or_default() })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

/// What must be on disk before raft hears of `number` through [`Consensus::handle_persisted`]. Several may be under way;
/// they are written in their order.
#[derive(Debug)]
pub struct Persist {
    pub number: u64,
    /// A snapshot from the leader takes the place of the whole log and store; it comes before the entries.
    pub snapshot: Option<SnapshotPosition>,
    pub entries: Vec<LogEntry>,
    pub hard_state: Option<HardState>,
}

/// What a snapshot says of the log it replaces.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotPosition {
    pub index: u64,
    pub term: u64,
    pub conf_state: raftpb::ConfState,
}

/// What the leader knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    pub member_id: u64,
    /// The last entry it is known to have.
    pub matched: u64,
    pub is_learner: bool,
    pub is_recently_active: bool,
    /// It is being sent a snapshot.
    pub in_snapshot: bool,
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
    /// The answer comes from a quorum, through [`Consensus::take_read_states`], or not at all.
    Asked,
    /// There is no leader, or it has not committed an entry of its term yet.
    NotYet,
}

/// A quorum confirmed the leader: reads that asked with `context` may be served once `index` is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    pub context: u64,
    pub index: u64,
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
    /// Term and vote that are known to be on disk.
    durable: (u64, u64),
    /// Entries of a bootstrap that were not persisted yet.
    bootstrap: Option<Persist>,
    /// What raft produced and was not told to be persisted yet, in order.
    unpersisted: VecDeque<Unpersisted>,
    outbox: Vec<raftpb::Message>,
    read_states: Vec<ReadState>,
    election_timeout_ticks: usize,
    last_reset: (u64, StateRole),
    random: SplitMix,
    election_ticks: usize,
    applied: u64,
    /// The commit index that this leader told the others of in messages of its own.
    told_commit: u64,
}

/// Messages that may leave once everything up to `number` is on disk.
struct Unpersisted {
    number: u64,
    /// Nothing of its own is to be written: it is done as soon as all before it is.
    is_empty: bool,
    /// Term and vote that become durable with it.
    vote: (u64, u64),
    snapshot: Option<u64>,
    messages: Vec<Message>,
}

/// The number under which bootstrap entries are persisted; raft's own numbers begin at 1.
const BOOTSTRAP_NUMBER: u64 = 0;

impl Consensus {
    pub fn new(config: &ConsensusConfig, start: Start) -> Result<Self, String> {
        let parts = start.into_parts();
        let bootstrap = parts.bootstrap.then(|| Persist {
            number: BOOTSTRAP_NUMBER,
            snapshot: None,
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
            durable: (parts.hard_state.term, parts.hard_state.vote),
            bootstrap,
            unpersisted: VecDeque::new(),
            outbox: Vec::new(),
            read_states: Vec::new(),
            election_timeout_ticks: 0,
            last_reset,
            random: SplitMix(config.seed),
            election_ticks: config.election_ticks,
            applied: parts.applied,
            told_commit: 0,
        };
        consensus.raw.raft.skip_bcast_commit(true);
        consensus.raw.mut_store().trim(parts.applied);
        consensus.draw_election_timeout();
        Ok(consensus)
    }

    /// Appends requests to the log in one message, or sends them to the leader. False when neither can be done now:
    /// there is no leader, or it is handing over.
    pub fn propose(&mut self, requests: impl Iterator<Item = Bytes>) -> bool {
        let entries: Vec<Entry> = requests.map(|data| Entry { data, ..Entry::default() }).collect();
        entries.is_empty() || self.propose_entries(entries)
    }

    /// Proposes the encoded `ConfChange`, in etcd's encoding. False when it cannot be proposed now.
    pub fn propose_conf_change(&mut self, data: Bytes) -> bool {
        if decode_conf_change(&data).is_err() {
            return false;
        }
        let mut entry = Entry { data, ..Entry::default() };
        entry.set_entry_type(convert::to_raft_kind(raftpb::EntryType::EntryConfChange));
        self.propose_entries(vec![entry])
    }

    fn propose_entries(&mut self, entries: Vec<Entry>) -> bool {
        let mut message = Message { from: self.raw.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(entries.into());
        self.step_proposal(message)
    }

    /// The raft crate parses configuration changes that a leader takes into its log, and refuses those whose kind its own
    /// enum does not have. It makes nothing of what it parses, so it gets a stand-in to parse; the log and the messages
    /// that it made of it get etcd's bytes back.
    fn step_proposal(&mut self, mut message: Message) -> bool {
        let is_change = |entry: &Entry| entry.get_entry_type() == EntryType::EntryConfChange;
        if self.role() != Role::Leader || !message.entries.iter().any(is_change) {
            return self.raw.step(message).is_ok();
        }
        let first = self.last_index() + 1;
        let mut changes = BTreeMap::new();
        for (entry, index) in message.mut_entries().iter_mut().zip(first..) {
            if is_change(entry) {
                changes.insert(index, std::mem::take(&mut entry.data));
            }
        }
        if self.raw.step(message).is_err() {
            return false;
        }
        let restore = |entry: &mut Entry| {
            if is_change(entry)
                && let Some(data) = changes.get(&entry.index)
            {
                entry.data = data.clone();
            }
        };
        let unstable = &mut self.raw.raft.raft_log.unstable;
        unstable.entries.iter_mut().for_each(restore);
        unstable.entries_size = unstable.entries.iter().map(raft::util::entry_approximate_size).sum();
        for message in &mut self.raw.raft.msgs {
            message.mut_entries().iter_mut().for_each(restore);
        }
        true
    }

    /// Takes a message from a peer.
    ///
    /// # Errors
    /// The message is not one that a peer may send, and why; it is dropped, nothing changed.
    pub fn handle_message(&mut self, message: raftpb::Message) -> Result<(), String> {
        let kind = fences::check(&message, &self.raw)?;
        // Of an honest peer these can only be late, and any message may get lost.
        if self.comes_at_the_wrong_time(kind) {
            return Ok(());
        }
        if kind == MessageType::MsgReadIndex && self.is_confirmed_by_asking(message.from.unwrap_or(0)) {
            self.answer_read_index(message);
            return Ok(());
        }
        let message = to_raft_message(message, kind);
        // What raft itself refuses (a stale term, a peer it does not know) is nothing to report.
        match kind {
            MessageType::MsgPropose => drop(self.step_proposal(message)),
            _ => drop(self.raw.step(message)),
        }
        self.keep_our_election_timeout();
        Ok(())
    }

    /// Whether the question for a read index confirms this leader by itself: if the two that take part are a quorum. Who
    /// asked held this member for the leader at that moment, so it had voted in no later term before, and nor had this
    /// one. So no later leader existed before the question, nor a write of such a leader that the reads would have to
    /// see. (A question carries no term; the asker's is never later than that of the leader it names.) A round of heartbeats
    /// would say no more.
    fn is_confirmed_by_asking(&self, asker: u64) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Leader
            && asker != raft.id
            && raft.commit_to_current_term()
            && raft.prs().has_quorum(&[raft.id, asker].into_iter().collect())
    }

    fn answer_read_index(&mut self, question: raftpb::Message) {
        self.outbox.push(raftpb::Message {
            to: question.from,
            entries: question.entries,
            ..from_raft_message(Message {
                msg_type: MessageType::MsgReadIndexResp,
                from: self.raw.raft.id,
                term: self.term(),
                index: self.commit_index(),
                ..Message::default()
            })
        });
    }

    /// The others learn of a commit from the next append. A message for it alone goes out once nothing is on its way any
    /// more: as long as something is, its own commit is near, and tells of this one too.
    fn tell_commit(&mut self) {
        let raft = &mut self.raw.raft;
        let committed = raft.raft_log.committed;
        if raft.state == StateRole::Leader && committed > self.told_commit && committed == raft.raft_log.last_index() {
            self.told_commit = committed;
            raft.bcast_append();
        }
    }

    /// A message to the peer did not leave.
    pub fn report_unreachable(&mut self, member_id: u64) {
        self.raw.report_unreachable(member_id);
    }

    /// The peer is known to have ended: nothing listens where it did. If it led, there is nobody whose time as a leader has
    /// to be waited out: as if nothing had been heard of it for an election timeout, this member votes for others, and
    /// stands itself after what its seed adds to the timeout. Raft is safe at any timing, so a mistake costs an election
    /// that the others refuse.
    pub fn report_gone(&mut self, member_id: u64) {
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Follower && member_id != 0 && raft.leader_id == member_id {
            raft.election_elapsed = raft.election_elapsed.max(self.election_ticks);
        }
    }

    /// The snapshot for the peer was taken in by it, or was lost on the way.
    pub fn report_snapshot(&mut self, member_id: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(member_id, status);
    }

    /// Asks the leader to hand over to `member_id`; it happens once that member has the whole log, or never.
    pub fn transfer_leader(&mut self, member_id: u64) {
        self.raw.transfer_leader(member_id);
    }

    /// One heartbeat interval has passed.
    pub fn tick(&mut self) {
        if self.must_not_stand_yet() {
            return;
        }
        self.raw.tick();
        self.keep_our_election_timeout();
    }

    /// Starts an election now, as the only voter does after its start instead of waiting for the timeout.
    pub fn campaign(&mut self) {
        // A refused campaign is no error: the election timeout tries again.
        if self.must_not_stand_yet() || self.raw.campaign().is_err() {
            return;
        }
        self.keep_our_election_timeout();
    }

    /// The raft crate stops on these. A candidate that wins leads at once, and the log of a new leader must be on disk: it asks
    /// for votes only when it is, but the only voter needs to ask nobody. A follower passes a transfer on as it came, with its
    /// term.
    fn comes_at_the_wrong_time(&self, kind: MessageType) -> bool {
        match kind {
            MessageType::MsgTimeoutNow | MessageType::MsgRequestPreVoteResponse => {
                self.would_win_too_early() || self.is_restoring()
            }
            MessageType::MsgRequestVoteResponse => {
                self.raw.raft.state == StateRole::Candidate && !self.is_log_persisted()
            }
            MessageType::MsgTransferLeader => self.role() != Role::Leader,
            _ => false,
        }
    }

    /// Nor may it stand for election by itself then, or while a snapshot is being written: it would look at the entries that
    /// are not applied, whose place the snapshot has taken.
    fn must_not_stand_yet(&self) -> bool {
        self.role() != Role::Leader && (self.would_win_too_early() || self.is_restoring())
    }

    fn would_win_too_early(&self) -> bool {
        self.raw.raft.prs().is_singleton() && !self.is_log_persisted()
    }

    fn is_log_persisted(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        log.persisted == log.last_index()
    }

    /// A snapshot is on its way to the disk.
    fn is_restoring(&self) -> bool {
        self.unpersisted.iter().any(|unpersisted| unpersisted.snapshot.is_some())
    }

    /// Whether this member is the cluster's only voter.
    pub fn is_single_voter(&self) -> bool {
        self.raw.raft.prs().is_singleton() && self.raw.raft.promotable()
    }

    /// What must be persisted next, if anything. Committed entries found on the way wait in [`Self::next_committed`],
    /// messages in [`Self::take_messages`].
    pub fn poll_persist(&mut self) -> Option<Persist> {
        if let Some(persist) = self.bootstrap.take() {
            return Some(persist);
        }
        self.tell_commit();
        while self.raw.has_ready() {
            if let Some(persist) = self.next_ready() {
                return Some(persist);
            }
        }
        None
    }

    fn next_ready(&mut self) -> Option<Persist> {
        let mut ready = self.raw.ready();
        let number = ready.number();
        self.committed.extend(ready.take_committed_entries());
        self.read_states.extend(ready.take_read_states().into_iter().filter_map(from_raft_read_state));
        let entries: Vec<LogEntry> = ready.entries().iter().map(from_raft_entry).collect();
        let snapshot = (!ready.snapshot().is_empty()).then(|| {
            let metadata = ready.snapshot().get_metadata();
            let state = metadata.get_conf_state().clone();
            self.raw.mut_store().restore((metadata.index, metadata.term), state.clone());
            SnapshotPosition { index: metadata.index, term: metadata.term, conf_state: from_raft_conf_state(&state) }
        });
        self.raw.mut_store().append(ready.entries());
        // Only a leader's messages come here: they may leave before its own write is done.
        self.outbox.extend(ready.take_messages().into_iter().map(from_raft_message));
        let (now, later): (Vec<Message>, Vec<Message>) =
            ready.take_persisted_messages().into_iter().partition(|message| self.may_leave_at_once(message));
        self.outbox.extend(now.into_iter().map(from_raft_message));
        self.raw.advance_append_async(ready);
        let hard_state = self.hard_state();
        let vote = (hard_state.term, hard_state.vote);
        // A commit index alone is not worth a write: it is found again, and goes out with the next entries.
        let vote_changed = vote != (self.written.term, self.written.vote);
        let is_empty = entries.is_empty() && !vote_changed && snapshot.is_none();
        self.unpersisted.push_back(Unpersisted {
            number,
            is_empty,
            vote,
            snapshot: snapshot.as_ref().map(|position| position.index),
            messages: later,
        });
        if is_empty {
            self.release_persisted(None);
            return None;
        }
        let hard_state = self.take_unwritten_hard_state();
        Some(Persist { number, snapshot, entries, hard_state })
    }

    /// Most of what a follower says promises something that must be on disk. A heartbeat's answer and what is passed on
    /// to the leader promise no more than the term; a pre-vote promises nothing. These do not wait for a slow disk.
    fn may_leave_at_once(&self, message: &Message) -> bool {
        match message.get_msg_type() {
            MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgTransferLeader => true,
            MessageType::MsgHeartbeatResponse | MessageType::MsgPropose | MessageType::MsgReadIndex => {
                self.durable.0 == self.raw.raft.term
            }
            _ => false,
        }
    }

    /// Messages to peers that may leave now.
    pub fn take_messages(&mut self) -> Vec<raftpb::Message> {
        std::mem::take(&mut self.outbox)
    }

    /// Read indexes that a quorum has confirmed.
    pub fn take_read_states(&mut self) -> Vec<ReadState> {
        std::mem::take(&mut self.read_states)
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

    /// The write with this number, and all before it, are durable. If it held a snapshot, the store must hold it too.
    pub fn handle_persisted(&mut self, number: u64) {
        if number == BOOTSTRAP_NUMBER {
            return;
        }
        self.release_persisted(Some(number));
        self.keep_our_election_timeout();
    }

    fn release_persisted(&mut self, number: Option<u64>) {
        let mut last = None;
        let mut restored = None;
        while let Some(front) = self.unpersisted.front() {
            if !front.is_empty && number.is_none_or(|number| front.number > number) {
                break;
            }
            let done = self.unpersisted.pop_front().expect("it is in front");
            self.outbox.extend(done.messages.into_iter().map(from_raft_message));
            self.durable = done.vote;
            restored = done.snapshot.or(restored);
            last = Some(done.number);
        }
        let Some(last) = last else { return };
        self.raw.on_persist_ready(last);
        if let Some(index) = restored {
            self.applied = index;
            self.raw.advance_apply_to(index);
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

    /// The write-ahead log no longer holds entries before `first`.
    pub fn release_log_before(&mut self, first: u64) {
        self.raw.mut_store().release_before(first);
    }

    /// Entries that are applied go to no peer any more: who lacks one gets a snapshot.
    pub fn release_applied_log(&mut self) {
        self.raw.mut_store().release_applied();
    }

    /// Keeps at most this many applied entries in memory (`--snapshot-catchup-entries`), if their bytes allow it. A peer
    /// that lacks older ones gets them from the write-ahead log, or a database if that was purged.
    pub fn limit_log_window(&mut self, entries_max: usize) {
        self.raw.mut_store().limit(entries_max);
    }

    /// A range of entries, no longer in memory, that a slow peer needs: from the first, up to but without the second.
    pub fn wanted_entries(&self) -> Option<(u64, u64)> {
        self.raw.store().wanted()
    }

    /// Entries from `low` on, as many as were read; none if the write-ahead log does not hold them any more.
    pub fn provide_entries(&mut self, low: u64, entries: &[LogEntry]) {
        let entries = entries.iter().map(to_raft_entry).collect();
        for context in self.raw.mut_store().provide(low, entries) {
            self.raw.on_entries_fetched(context);
        }
    }

    /// Asks for an index at which a linearizable read may be served. A single voter is answered at once; otherwise
    /// `context` comes back with the index.
    pub fn read_index(&mut self, context: u64) -> ReadIndex {
        if self.leader() == 0 {
            return ReadIndex::NotYet;
        }
        let entry = Entry { data: Bytes::copy_from_slice(&context.to_be_bytes()), ..Entry::default() };
        let mut message = Message { from: self.raw.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgReadIndex);
        message.set_entries(vec![entry].into());
        if self.raw.step(message).is_err() {
            return ReadIndex::NotYet;
        }
        match self.raw.raft.read_states.pop() {
            Some(state) if self.is_single_voter() => ReadIndex::At(state.index),
            Some(state) => {
                self.raw.raft.read_states.push(state);
                ReadIndex::Asked
            }
            None if self.is_single_voter() => ReadIndex::NotYet,
            None => ReadIndex::Asked,
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
        self.step_down_if_removed();
        self.keep_our_election_timeout();
        let state = from_raft_conf_state(&state);
        self.raw.mut_store().set_conf_state(to_raft_conf_state(&state));
        Ok(state)
    }

    /// The raft crate lets a leader that is no member any more lead on, and then panics at the next answer to it. That the
    /// removal is committed stands in messages that are on their way already.
    fn step_down_if_removed(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && raft.prs().get(raft.id).is_none() {
            raft.become_follower(raft.term, raft::INVALID_ID);
        }
    }

    pub fn conf_state(&self) -> raftpb::ConfState {
        from_raft_conf_state(&self.raw.raft.prs().conf().to_conf_state())
    }

    /// What the leader knows of every member, itself included, by rising id; empty on others.
    pub fn progress(&self) -> Vec<PeerProgress> {
        if self.role() != Role::Leader {
            return Vec::new();
        }
        let own = self.raw.raft.id;
        let learners = self.raw.raft.prs().conf().learners();
        let mut all: Vec<PeerProgress> = self
            .raw
            .raft
            .prs()
            .iter()
            .map(|(id, progress)| PeerProgress {
                member_id: *id,
                matched: progress.matched,
                is_learner: learners.contains(id),
                is_recently_active: *id == own || progress.recent_active,
                in_snapshot: progress.state == ProgressState::Snapshot,
            })
            .collect();
        all.sort_unstable_by_key(|progress| progress.member_id);
        all
    }

    pub fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower => Role::Follower,
        }
    }

    /// This member's id.
    pub fn id(&self) -> u64 {
        self.raw.raft.id
    }

    /// The leader's member id, 0 while there is none.
    pub fn leader(&self) -> u64 {
        self.raw.raft.leader_id
    }

    /// The member that leadership is being handed to, 0 if none.
    pub fn transferee(&self) -> u64 {
        self.raw.raft.lead_transferee.unwrap_or(0)
    }

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub fn commit_index(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    pub fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
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

impl Start {
    /// A member that joins a cluster: everything comes from the others.
    pub fn empty() -> Self {
        Self::Restart {
            hard_state: HardState::default(),
            conf_state: raftpb::ConfState::default(),
            snapshot: (0, 0),
            entries: Vec::new(),
            applied: 0,
        }
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

fn from_raft_read_state(state: raft::ReadState) -> Option<ReadState> {
    let context = u64::from_be_bytes(state.request_ctx.as_slice().try_into().ok()?);
    Some(ReadState { context, index: state.index })
}

impl fences::LogView for RawNode<LogWindow> {
    fn last_index(&self) -> u64 {
        self.raft.raft_log.last_index()
    }

    fn committed(&self) -> u64 {
        self.raft.raft_log.committed
    }

    fn current_term(&self) -> u64 {
        self.raft.term
    }

    fn is_leader(&self) -> bool {
        self.raft.state == StateRole::Leader
    }

    /// raft says 0 for an entry that its log no longer holds.
    fn term(&self, index: u64) -> Option<u64> {
        self.raft.raft_log.term(index).ok().filter(|term| *term != 0)
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
