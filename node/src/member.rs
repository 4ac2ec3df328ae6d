//! One member: consensus, the store it drives, lease timers and the requests that wait for their entries. Everything
//! comes in through `handle_*` and `propose`, everything leaves as values; the caller decides on which thread.
//!
//! `W` is whatever the caller needs to find the waiting request again. It is handed back untouched.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use kvorum_api::etcdserverpb::{
    AlarmMember, InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest, RequestHeader,
};
use kvorum_api::{EtcdError, raftpb};
use kvorum_store::{
    Applied, ApplyError, ApplyFailure, Caller, Effects, EventBatch, LeaseChange, MemberChange, Position, Reply,
    TokenChange, Writer, auth, decode_request,
};
use prost::Message;
use serde::Deserialize;

use crate::consensus::{Consensus, HardState, LogEntry, Persist, ReadIndex, Role, decode_conf_change};
use crate::lease_timers::{LeaseTimers, Renewal};
use crate::limits::{COMMIT_APPLY_GAP_MAX, PROPOSALS_HELD_MAX};
use crate::passed_on::PassedOn;
use crate::reads::Reads;
use crate::request_ids::RequestIds;

/// A request on its way into the log.
#[derive(Debug)]
pub struct Proposal<W> {
    /// The id inside `data`'s header, by which the applied entry finds its waiter.
    pub id: u64,
    /// An encoded `InternalRaftRequest`.
    pub data: Bytes,
    pub waiter: W,
}

/// What became of a request.
pub type Outcome = Result<Applied, ApplyError>;

/// What a turn left to do outside, in order.
#[derive(Debug)]
pub struct Turn<W> {
    pub replies: Vec<(W, Outcome)>,
    /// Linearizable reads: they may be served now, or not at all.
    pub reads: Vec<(W, Result<(), EtcdError>)>,
    /// To peers. They may leave at once.
    pub messages: Vec<raftpb::Message>,
    /// Snapshots that peers need: the caller puts in the contents, and the position these stand at.
    pub snapshots: Vec<raftpb::Message>,
    pub events: Vec<EventBatch>,
    /// A compaction was applied; its steps are due.
    pub compaction_scheduled: bool,
    /// Leases came or went: renewals that wait for a revocation look again.
    pub leases_changed: bool,
    /// A request was over quota: the alarm is to be raised for the cluster.
    pub space_exceeded: bool,
    /// Alarms that were not raised before, and that are raised no longer.
    pub alarms_raised: Vec<AlarmMember>,
    pub alarms_lifted: Vec<AlarmMember>,
    /// Members came, went, or changed their addresses.
    pub membership_changed: bool,
    /// The cluster went down to an older version, whose members cannot apply what is in the log so far: it must not be
    /// read again at the next start.
    pub snapshot_forced: bool,
    /// Users, roles or permissions changed: who watches is to be looked at again.
    pub auth_changed: bool,
    /// What clients may show from now on, or no longer. To be noted before anybody is answered.
    pub tokens: Vec<TokenChange>,
    /// Another leader, or none.
    pub leader_changed: bool,
    /// Messages that were refused, and why.
    pub refused: Vec<String>,
}

impl<W> Default for Turn<W> {
    fn default() -> Self {
        Self {
            replies: Vec::new(),
            reads: Vec::new(),
            messages: Vec::new(),
            snapshots: Vec::new(),
            events: Vec::new(),
            compaction_scheduled: false,
            leases_changed: false,
            space_exceeded: false,
            alarms_raised: Vec::new(),
            alarms_lifted: Vec::new(),
            membership_changed: false,
            snapshot_forced: false,
            auth_changed: false,
            tokens: Vec::new(),
            leader_changed: false,
            refused: Vec::new(),
        }
    }
}

/// Why a member cannot go on.
#[derive(Debug)]
pub enum MemberFailure {
    /// An entry this version cannot apply.
    Apply(ApplyFailure),
    /// An entry that does not decode; the log is damaged or was written by something else.
    Entry { index: u64, reason: String },
}

impl std::fmt::Display for MemberFailure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Apply(failure) => failure.fmt(formatter),
            Self::Entry { index, reason } => write!(formatter, "cannot apply entry {index}: {reason}"),
        }
    }
}

impl std::error::Error for MemberFailure {}

/// What a member is told at start.
#[derive(Clone, Copy, Debug)]
pub struct MemberConfig {
    pub election_timeout_milliseconds: u64,
    /// How long a request may wait for a leader, or a read for its confirmation.
    pub request_timeout_milliseconds: u64,
}

pub struct Member<W> {
    consensus: Consensus,
    writer: Writer,
    leases: LeaseTimers,
    ids: Arc<RequestIds>,
    pending: HashMap<u64, W, BuildHasherDefault<IdHasher>>,
    /// Requests that wait for a leader, with the time when they are given up.
    held: VecDeque<(u64, Proposal<W>)>,
    /// What other members passed on to this one while it could not take it either.
    passed_on: PassedOn,
    /// Its own removal is in its log: what it would propose now is decided when it cannot learn of it any more.
    is_leaving: bool,
    reads: Reads<W>,
    persists: Vec<Persist>,
    leader: u64,
    config: MemberConfig,
    effects: Effects,
}

impl<W> Member<W> {
    pub fn new(
        consensus: Consensus,
        writer: Writer,
        leases: LeaseTimers,
        ids: Arc<RequestIds>,
        config: MemberConfig,
    ) -> Self {
        Self {
            consensus,
            writer,
            leases,
            ids,
            pending: HashMap::default(),
            held: VecDeque::new(),
            passed_on: PassedOn::default(),
            is_leaving: false,
            reads: Reads::default(),
            persists: Vec::new(),
            leader: 0,
            config,
            effects: Effects::default(),
        }
    }

    /// Takes requests into the log, in order, or sends them to the leader, or holds them until there is one. Those that
    /// cannot be taken are answered in `turn` at once.
    pub fn propose(&mut self, now: u64, proposals: impl ExactSizeIterator<Item = Proposal<W>>, turn: &mut Turn<W>) {
        let gap = self.consensus.commit_index() - self.consensus.applied_index();
        if gap > COMMIT_APPLY_GAP_MAX || self.held.len() >= PROPOSALS_HELD_MAX {
            let refused = proposals.map(|proposal| (proposal.waiter, Err(EtcdError::RequestTooManyRequests)));
            return turn.replies.extend(refused);
        }
        if !self.can_propose() || !self.held.is_empty() {
            let deadline = now + self.config.request_timeout_milliseconds;
            return self.held.extend(proposals.map(|proposal| (deadline, proposal)));
        }
        self.propose_now(proposals, turn);
    }

    fn propose_now(&mut self, proposals: impl ExactSizeIterator<Item = Proposal<W>>, turn: &mut Turn<W>) {
        let mut entries = Vec::with_capacity(proposals.len());
        let mut ids = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            // Number 0 is nobody's.
            if proposal.id != 0 {
                self.pending.insert(proposal.id, proposal.waiter);
                ids.push(proposal.id);
            }
            entries.push(proposal.data);
        }
        if !self.consensus.propose(entries.into_iter()) {
            for id in ids {
                let waiter = self.pending.remove(&id).expect("inserted above");
                turn.replies.push((waiter, Err(EtcdError::LeaderChanged)));
            }
        }
    }

    fn can_propose(&self) -> bool {
        self.consensus.leader() != 0 && self.consensus.transferee() == 0 && !self.is_leaving
    }

    /// Proposes a change of the configuration. Its `id` finds the waiter; the outcome says whether the members, as they
    /// are when it is applied, allow it.
    pub fn propose_conf_change(&mut self, id: u64, change: raftpb::ConfChange, waiter: W, turn: &mut Turn<W>) {
        let change = raftpb::ConfChange { id: Some(id), ..change };
        if self.can_propose() && self.consensus.propose_conf_change(Bytes::from(change.encode_to_vec())) {
            self.pending.insert(id, waiter);
        } else {
            turn.replies.push((waiter, Err(EtcdError::NoLeader)));
        }
    }

    /// Takes a message from a peer.
    pub fn handle_message(&mut self, message: raftpb::Message, turn: &mut Turn<W>) {
        let from = message.from.unwrap_or(0);
        let kind = message.r#type();
        if kind == raftpb::MessageType::MsgProp && !self.can_propose() {
            return self.passed_on.hold(message);
        }
        let removes_us = kind == raftpb::MessageType::MsgApp
            && message.entries.iter().any(|entry| removes(entry, self.consensus.id()));
        match self.consensus.handle_message(message) {
            Ok(()) => self.is_leaving |= removes_us,
            Err(reason) => turn.refused.push(format!("from member {from:x}: {reason}")),
        }
    }

    /// Whether a linearizable read may be served right now: a single voter answers itself, if it has applied all it
    /// committed.
    pub fn is_linearized(&mut self) -> bool {
        if !self.consensus.is_single_voter() || self.consensus.role() != Role::Leader {
            return false;
        }
        let context = self.ids.next_id();
        matches!(self.consensus.read_index(context), ReadIndex::At(index) if self.consensus.applied_index() >= index)
    }

    /// Asks for a linearizable read; `waiter` comes back in a turn's reads.
    pub fn read(&mut self, now: u64, waiter: W) {
        self.reads.push(now + self.config.request_timeout_milliseconds, waiter);
    }

    fn begin_reads(&mut self, now: u64) {
        if self.consensus.leader() == 0 || !self.reads.wants_round() {
            return;
        }
        let context = self.ids.next_id();
        self.reads.begin(now, context);
        self.ask_for_reads(context);
    }

    fn ask_for_reads(&mut self, context: u64) {
        if let ReadIndex::At(index) = self.consensus.read_index(context) {
            self.reads.confirm(context, index);
        }
    }

    /// Applies what became committed and gathers everything there is to do outside into `turn`. What must be made
    /// durable is in [`Self::take_persists`].
    pub fn poll(&mut self, now: u64, turn: &mut Turn<W>) -> Result<(), MemberFailure> {
        self.poll_each(now, turn, |_, _, _| {})
    }

    /// The same; `applied` looks at the member after every single entry, and at what the turn holds so far. For a
    /// simulation, which compares the members entry by entry.
    pub fn poll_each(
        &mut self,
        now: u64,
        turn: &mut Turn<W>,
        mut applied: impl FnMut(&Self, &LogEntry, &Turn<W>),
    ) -> Result<(), MemberFailure> {
        loop {
            self.note_leader(turn);
            if !self.held.is_empty() && self.can_propose() {
                let held: Vec<Proposal<W>> = self.held.drain(..).map(|(_, proposal)| proposal).collect();
                self.propose_now(held.into_iter(), turn);
            }
            if !self.passed_on.is_empty() && self.can_propose() {
                for message in self.passed_on.take() {
                    self.handle_message(message, turn);
                }
            }
            self.begin_reads(now);
            let persist = self.consensus.poll_persist();
            let mut went_on = persist.is_some();
            self.persists.extend(persist);
            for state in self.consensus.take_read_states() {
                self.reads.confirm(state.context, state.index);
                went_on = true;
            }
            while let Some(entry) = self.consensus.next_committed() {
                self.apply(now, &entry, turn)?;
                self.consensus.handle_applied(entry.index);
                if std::mem::take(&mut self.effects.snapshot_forced) {
                    self.consensus.release_applied_log();
                    turn.snapshot_forced = true;
                }
                applied(self, &entry, turn);
                went_on = true;
            }
            self.reads.take_applied(self.consensus.applied_index(), |waiter| turn.reads.push((waiter, Ok(()))));
            if !went_on {
                break;
            }
        }
        for message in self.consensus.take_messages() {
            let is_snapshot = message.r#type == Some(raftpb::MessageType::MsgSnap as i32);
            if is_snapshot { turn.snapshots.push(message) } else { turn.messages.push(message) }
        }
        Ok(())
    }

    fn note_leader(&mut self, turn: &mut Turn<W>) {
        if self.consensus.role() != Role::Leader {
            self.leases.demote();
        }
        if self.leader != self.consensus.leader() {
            self.leader = self.consensus.leader();
            turn.leader_changed = true;
            // Another leader may have other entries. If it has the removal too, proposals are as good as lost, as before.
            self.is_leaving = false;
            self.reads.forget_confirmation();
            if let Some(context) = self.reads.context()
                && self.leader != 0
            {
                self.ask_for_reads(context);
            }
        }
    }

    /// Writes to be made durable, in this order; [`Self::handle_persisted`] is told of the last one.
    pub fn take_persists(&mut self) -> Vec<Persist> {
        std::mem::take(&mut self.persists)
    }

    pub fn has_persists(&self) -> bool {
        !self.persists.is_empty()
    }

    /// All writes up to this number are durable.
    pub fn handle_persisted(&mut self, number: u64) {
        self.consensus.handle_persisted(number);
    }

    /// A heartbeat interval passed: raft's clock moves, reads and requests are given up whose time is over, and the leader
    /// proposes what time itself asks for: revocations and checkpoints of leases.
    pub fn handle_tick(&mut self, now: u64, turn: &mut Turn<W>) {
        self.consensus.tick();
        self.note_leader(turn);
        self.reads.take_expired(now, |waiter| turn.reads.push((waiter, Err(EtcdError::Timeout))));
        while self.held.front().is_some_and(|(deadline, _)| *deadline <= now) {
            let (_, proposal) = self.held.pop_front().expect("looked at above");
            // It was never proposed, which etcd tells apart from a proposal whose outcome is unknown.
            turn.replies.push((proposal.waiter, Err(EtcdError::DeadlineExceeded)));
        }
        self.passed_on.drop_old(now, self.config.request_timeout_milliseconds);
        if let Some(context) = self.reads.context() {
            self.ask_for_reads(context);
        }
        // Never passed on to another leader, which knows of renewals that this member does not.
        if self.consensus.role() != Role::Leader || !self.can_propose() {
            return;
        }
        let mut requests: Vec<Bytes> = Vec::new();
        // An expired lease takes all its keys along, whoever may write them: as in etcd, root asks for it.
        let root = self.writer.auth_revision().map_or(Caller::NOBODY, |revision| Caller { user: auth::ROOT, revision });
        for id in self.leases.take_expired(now) {
            let request =
                InternalRaftRequest { lease_revoke: Some(LeaseRevokeRequest { id }), ..InternalRaftRequest::default() };
            requests.push(self.number_for(root, request).1);
        }
        let checkpoints = self.leases.take_checkpoints(now);
        if !checkpoints.is_empty() {
            requests.push(self.number(checkpoint_request(checkpoints)).1);
        }
        // Leases that could not be proposed now are due again a little later.
        self.consensus.propose(requests.into_iter());
    }

    /// Lets time pass for raft alone, at a start: an election that nobody waits for comes sooner.
    pub fn skip_ticks(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.consensus.tick();
        }
    }

    /// Starts an election at once if nobody else could win it.
    pub fn campaign_if_alone(&mut self) {
        if self.consensus.is_single_voter() && self.consensus.role() != Role::Leader {
            self.consensus.campaign();
        }
    }

    /// Gives a request its id and encodes it. It is nobody's: what needs a permission is not granted one.
    pub fn number(&self, request: InternalRaftRequest) -> (u64, Bytes) {
        self.number_for(Caller::NOBODY, request)
    }

    /// As [`Self::number`], for a user.
    pub fn number_for(&self, caller: Caller<'_>, mut request: InternalRaftRequest) -> (u64, Bytes) {
        let id = self.ids.next_id();
        request.header = Some(RequestHeader { id, username: caller.user.to_owned(), auth_revision: caller.revision });
        (id, Bytes::from(request.encode_to_vec()))
    }

    /// Begins a lease's TTL anew, at the leader. A leader that was not confirmed for half an election timeout may have
    /// a successor who does not hear of the renewal: it must be confirmed first, by a read.
    pub fn renew_lease(&mut self, now: u64, id: i64) -> Renewal {
        if self.consensus.role() == Role::Leader && !self.consensus.is_single_voter() {
            let fresh = now.saturating_sub(self.config.election_timeout_milliseconds / 2);
            if self.reads.confirmed_at().is_none_or(|at| at < fresh) {
                return Renewal::Unconfirmed;
            }
        }
        self.leases.renew(now, id)
    }

    /// The request that clears a lease's checkpoint before a renewal.
    pub fn clear_checkpoint(&self, id: i64) -> (u64, Bytes) {
        self.number(checkpoint_request(vec![LeaseCheckpoint { id, remaining_ttl: 0 }]))
    }

    /// Granted TTL and seconds left.
    pub fn lease_time_to_live(&self, now: u64, id: i64) -> Option<(i64, i64)> {
        self.leases.time_to_live(now, id)
    }

    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// For what goes straight to raft: reports of the transport, transfers, entries read from the log.
    pub fn consensus_mut(&mut self) -> &mut Consensus {
        &mut self.consensus
    }

    /// The store was replaced by a snapshot's: its leases take the place of those before.
    pub fn replace_leases(&mut self, now: u64, leases: LeaseTimers) {
        self.leases = leases;
        self.leases.demote();
        if self.consensus.role() == Role::Leader {
            self.leases.promote(now, self.config.election_timeout_milliseconds);
        }
    }

    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// The last hard state, if it is not in the log yet; written at a clean stop.
    pub fn take_unwritten_hard_state(&mut self) -> Option<HardState> {
        self.consensus.take_unwritten_hard_state()
    }

    /// Requests that wait for their entries, or for a leader.
    pub fn pending_proposals(&self) -> usize {
        self.pending.len() + self.held.len()
    }

    /// Gives up every request that was proposed and not answered, at a stop.
    pub fn take_pending(&mut self) -> Vec<W> {
        let mut pending: Vec<(u64, W)> = self.pending.drain().collect();
        pending.sort_unstable_by_key(|(id, _)| *id);
        pending.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// Gives up every request that was never proposed, at a stop.
    pub fn take_held(&mut self) -> Vec<W> {
        self.held.drain(..).map(|(_, proposal)| proposal.waiter).collect()
    }

    /// Gives up every read still waiting, at a stop.
    pub fn take_reads(&mut self) -> Vec<W> {
        self.reads.take_all()
    }

    fn apply(&mut self, now: u64, entry: &LogEntry, turn: &mut Turn<W>) -> Result<(), MemberFailure> {
        let position = Position { index: entry.index, term: entry.term };
        match entry.kind {
            raftpb::EntryType::EntryNormal if entry.data.is_empty() => {
                self.writer.apply_empty(position);
                // The first entry of a term: its leader now knows everything committed before it.
                if self.consensus.role() == Role::Leader && entry.term == self.consensus.term() {
                    self.leases.promote(now, self.config.election_timeout_milliseconds);
                    if let Some(context) = self.reads.context() {
                        self.ask_for_reads(context);
                    }
                }
                Ok(())
            }
            raftpb::EntryType::EntryNormal => self.apply_request(now, position, &entry.data, turn),
            raftpb::EntryType::EntryConfChange => self.apply_conf_change(position, &entry.data, turn),
            raftpb::EntryType::EntryConfChangeV2 => {
                Err(failure(position, "a ConfChangeV2, which etcd 3.7 does not write"))
            }
        }
    }

    fn apply_request(
        &mut self,
        now: u64,
        position: Position,
        data: &Bytes,
        turn: &mut Turn<W>,
    ) -> Result<(), MemberFailure> {
        let request = decode_request(data).map_err(|error| failure(position, error))?;
        let outcome = self.writer.apply(position, &request, &mut self.effects).map_err(MemberFailure::Apply)?;
        turn.events.append(&mut self.effects.events);
        turn.compaction_scheduled |= std::mem::take(&mut self.effects.compaction_scheduled);
        turn.space_exceeded |= std::mem::take(&mut self.effects.space_exceeded);
        turn.alarms_raised.append(&mut self.effects.alarms_raised);
        turn.alarms_lifted.append(&mut self.effects.alarms_lifted);
        self.effects.cluster_version = None;
        turn.membership_changed |= std::mem::take(&mut self.effects.membership_changed);
        turn.auth_changed |= std::mem::take(&mut self.effects.auth_changed);
        turn.tokens.append(&mut self.effects.tokens);
        for change in self.effects.leases.drain(..) {
            turn.leases_changed = true;
            match change {
                LeaseChange::Granted { id, ttl_seconds } => self.leases.insert(now, id, ttl_seconds, 0),
                LeaseChange::Revoked { id } => self.leases.remove(id),
                LeaseChange::Checkpointed { id, remaining_ttl_seconds } => {
                    self.leases.checkpoint(now, id, remaining_ttl_seconds);
                }
            }
        }
        let id = request.header.as_ref().map_or(request.id, |header| header.id);
        if let Some(waiter) = self.pending.remove(&id) {
            turn.replies.push((waiter, outcome));
        }
        Ok(())
    }

    fn apply_conf_change(&mut self, position: Position, data: &Bytes, turn: &mut Turn<W>) -> Result<(), MemberFailure> {
        let change = decode_conf_change(data).map_err(|error| failure(position, error))?;
        let described = MemberChange::from_conf_change(&change).map_err(|error| failure(position, error))?;
        // A change that the membership refuses is a no-op for raft too, as in etcd.
        let accepted = self.writer.check_member_change(&described).is_ok();
        let conf_state =
            self.consensus.apply_conf_change(accepted.then_some(&change)).map_err(|error| failure(position, error))?;
        let outcome = self.writer.apply_member_change(position, described, conf_state_json(&conf_state));
        // A removal of this member's that was refused; after one that was not, nothing follows.
        self.is_leaving &= accepted;
        assert_eq!(outcome.is_ok(), accepted, "the store and its check agree");
        turn.membership_changed |= accepted;
        if let Some(waiter) = self.pending.remove(&change.id.unwrap_or(0)) {
            let revision = self.writer.revision();
            turn.replies.push((waiter, outcome.map(|()| Applied { reply: Reply::Empty, revision })));
        }
        Ok(())
    }
}

/// Whether the entry removes the member.
fn removes(entry: &raftpb::Entry, member_id: u64) -> bool {
    entry.r#type() == raftpb::EntryType::EntryConfChange
        && decode_conf_change(entry.data.as_ref().unwrap_or(&Bytes::new())).is_ok_and(|change| {
            change.node_id == Some(member_id) && change.r#type() == raftpb::ConfChangeType::ConfChangeRemoveNode
        })
}

fn failure(position: Position, reason: impl ToString) -> MemberFailure {
    MemberFailure::Entry { index: position.index, reason: reason.to_string() }
}

fn checkpoint_request(checkpoints: Vec<LeaseCheckpoint>) -> InternalRaftRequest {
    InternalRaftRequest {
        lease_checkpoint: Some(LeaseCheckpointRequest { checkpoints }),
        ..InternalRaftRequest::default()
    }
}

/// `meta/confState` as etcd stores it: absent lists are left out, `auto_leave` is always there.
pub fn conf_state_json(state: &raftpb::ConfState) -> Vec<u8> {
    let mut json = String::from("{");
    for (name, ids) in [
        ("voters", &state.voters),
        ("learners", &state.learners),
        ("voters_outgoing", &state.voters_outgoing),
        ("learners_next", &state.learners_next),
    ] {
        if !ids.is_empty() {
            let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
            json.push_str(&format!("\"{name}\":[{}],", ids.join(",")));
        }
    }
    json.push_str(&format!("\"auto_leave\":{}}}", state.auto_leave.unwrap_or(false)));
    json.into_bytes()
}

/// Reads `meta/confState`.
pub fn conf_state_from_json(json: &[u8]) -> Result<raftpb::ConfState, String> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Stored {
        voters: Vec<u64>,
        learners: Vec<u64>,
        voters_outgoing: Vec<u64>,
        learners_next: Vec<u64>,
        auto_leave: Option<bool>,
    }
    let stored: Stored = serde_json::from_slice(json).map_err(|error| format!("confState: {error}"))?;
    Ok(raftpb::ConfState {
        voters: stored.voters,
        learners: stored.learners,
        voters_outgoing: stored.voters_outgoing,
        learners_next: stored.learners_next,
        auto_leave: Some(stored.auto_leave.unwrap_or(false)),
    })
}

/// Request ids are distinct by construction, so their low bits spread well without hashing.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("ids are hashed as u64");
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conf_state_is_etcds_json_and_comes_back() {
        let state = raftpb::ConfState { voters: vec![1, 2], auto_leave: Some(false), ..raftpb::ConfState::default() };
        let json = conf_state_json(&state);
        assert_eq!(json, br#"{"voters":[1,2],"auto_leave":false}"#);
        assert_eq!(conf_state_from_json(&json).expect("our own"), state);
    }
}
