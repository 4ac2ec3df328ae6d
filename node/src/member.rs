//! One member: consensus, the store it drives, lease timers and the requests that wait for their entries. Everything
//! comes in through `handle_*` and `propose`, everything leaves as values; the caller decides on which thread.
//!
//! `W` is whatever the caller needs to find the waiting request again. It is handed back untouched.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use kvorum_api::etcdserverpb::{
    InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest, RequestHeader,
};
use kvorum_api::{EtcdError, raftpb};
use kvorum_store::{
    Applied, ApplyError, ApplyFailure, Effects, EventBatch, LeaseChange, MemberChange, Position, Writer, decode_request,
};
use prost::Message;
use serde::Deserialize;

use crate::consensus::{Consensus, HardState, LogEntry, Persist, ReadIndex, Role, decode_conf_change};
use crate::lease_timers::{LeaseTimers, Renewal};
use crate::limits::COMMIT_APPLY_GAP_MAX;
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

/// What a turn of applying left to do outside, in order.
#[derive(Debug)]
pub struct Turn<W> {
    pub replies: Vec<(W, Outcome)>,
    pub events: Vec<EventBatch>,
    /// A compaction was applied; its steps are due.
    pub compaction_scheduled: bool,
    /// Leases came or went: renewals that wait for a revocation look again.
    pub leases_changed: bool,
    /// A request was over quota: the alarm is to be raised for the cluster.
    pub space_exceeded: bool,
}

impl<W> Default for Turn<W> {
    fn default() -> Self {
        Self {
            replies: Vec::new(),
            events: Vec::new(),
            compaction_scheduled: false,
            leases_changed: false,
            space_exceeded: false,
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

pub struct Member<W> {
    consensus: Consensus,
    writer: Writer,
    leases: LeaseTimers,
    ids: Arc<RequestIds>,
    pending: HashMap<u64, W, BuildHasherDefault<IdHasher>>,
    election_timeout_milliseconds: u64,
    effects: Effects,
}

impl<W> Member<W> {
    pub fn new(
        consensus: Consensus,
        writer: Writer,
        leases: LeaseTimers,
        ids: Arc<RequestIds>,
        election_timeout_milliseconds: u64,
    ) -> Self {
        Self {
            consensus,
            writer,
            leases,
            ids,
            pending: HashMap::default(),
            election_timeout_milliseconds,
            effects: Effects::default(),
        }
    }

    /// Takes requests into the log, in order. Those that cannot be taken are answered in `turn` at once.
    pub fn propose(&mut self, proposals: impl ExactSizeIterator<Item = Proposal<W>>, turn: &mut Turn<W>) {
        let refusal = self.refusal();
        if let Some(error) = refusal {
            turn.replies.extend(proposals.map(|proposal| (proposal.waiter, Err(error))));
            return;
        }
        let mut entries = Vec::with_capacity(proposals.len());
        let mut ids = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            self.pending.insert(proposal.id, proposal.waiter);
            ids.push(proposal.id);
            entries.push(proposal.data);
        }
        if !self.consensus.propose(entries.into_iter()) {
            for id in ids {
                let waiter = self.pending.remove(&id).expect("inserted above");
                turn.replies.push((waiter, Err(EtcdError::LeaderChanged)));
            }
        }
    }

    fn refusal(&self) -> Option<EtcdError> {
        let gap = self.consensus.commit_index() - self.consensus.applied_index();
        if gap > COMMIT_APPLY_GAP_MAX {
            return Some(EtcdError::RequestTooManyRequests);
        }
        (self.consensus.role() != Role::Leader).then_some(EtcdError::NoLeader)
    }

    /// What must be made durable next. Entries that became committed meanwhile are applied into `turn` on the way.
    pub fn poll_persist(&mut self, now: u64, turn: &mut Turn<W>) -> Result<Option<Persist>, MemberFailure> {
        loop {
            let persist = self.consensus.poll_persist();
            let mut applied_any = false;
            while let Some(entry) = self.consensus.next_committed() {
                self.apply(now, &entry, turn)?;
                self.consensus.handle_applied(entry.index);
                applied_any = true;
            }
            if persist.is_some() || !applied_any {
                return Ok(persist);
            }
        }
    }

    pub fn handle_persisted(&mut self, number: u64) {
        self.consensus.handle_persisted(number);
    }

    /// A heartbeat interval passed. Returns requests that time itself asks for: revocations and checkpoints of leases.
    pub fn handle_tick(&mut self, now: u64) -> Vec<Bytes> {
        self.consensus.tick();
        if self.consensus.role() != Role::Leader {
            self.leases.demote();
            return Vec::new();
        }
        let mut requests: Vec<Bytes> = Vec::new();
        for id in self.leases.take_expired(now) {
            let request =
                InternalRaftRequest { lease_revoke: Some(LeaseRevokeRequest { id }), ..InternalRaftRequest::default() };
            requests.push(self.number(request).1);
        }
        let checkpoints = self.leases.take_checkpoints(now);
        if !checkpoints.is_empty() {
            requests.push(self.number(checkpoint_request(checkpoints)).1);
        }
        requests
    }

    /// Starts an election at once if nobody else could win it.
    pub fn campaign_if_alone(&mut self) {
        if self.consensus.is_single_voter() && self.consensus.role() != Role::Leader {
            self.consensus.campaign();
        }
    }

    /// Gives a request its id and encodes it.
    pub fn number(&self, mut request: InternalRaftRequest) -> (u64, Bytes) {
        let id = self.ids.next_id();
        request.header = Some(RequestHeader { id, ..RequestHeader::default() });
        (id, Bytes::from(request.encode_to_vec()))
    }

    pub fn read_index(&mut self) -> ReadIndex {
        let context = self.ids.next_id();
        self.consensus.read_index(context)
    }

    pub fn renew_lease(&mut self, now: u64, id: i64) -> Renewal {
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

    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// The last hard state, if it is not in the log yet; written at a clean stop.
    pub fn take_unwritten_hard_state(&mut self) -> Option<HardState> {
        self.consensus.take_unwritten_hard_state()
    }

    /// Gives up every request still waiting, at a stop.
    pub fn take_pending(&mut self) -> Vec<W> {
        let mut pending: Vec<(u64, W)> = self.pending.drain().collect();
        pending.sort_unstable_by_key(|(id, _)| *id);
        pending.into_iter().map(|(_, waiter)| waiter).collect()
    }

    fn apply(&mut self, now: u64, entry: &LogEntry, turn: &mut Turn<W>) -> Result<(), MemberFailure> {
        let position = Position { index: entry.index, term: entry.term };
        match entry.kind {
            raftpb::EntryType::EntryNormal if entry.data.is_empty() => {
                self.writer.apply_empty(position);
                // The first entry of a term: its leader now knows everything committed before it.
                if self.consensus.role() == Role::Leader && entry.term == self.consensus.term() {
                    self.leases.promote(now, self.election_timeout_milliseconds);
                }
                Ok(())
            }
            raftpb::EntryType::EntryNormal => self.apply_request(now, position, &entry.data, turn),
            raftpb::EntryType::EntryConfChange => self.apply_conf_change(position, &entry.data),
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
        // Told to nobody here: the metrics page and the status read them from the store.
        self.effects.alarms_raised.clear();
        self.effects.alarms_lifted.clear();
        self.effects.cluster_version = None;
        self.effects.membership_changed = false;
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

    fn apply_conf_change(&mut self, position: Position, data: &Bytes) -> Result<(), MemberFailure> {
        let change = decode_conf_change(data).map_err(|error| failure(position, error))?;
        let described = member_change(&change).map_err(|error| failure(position, error))?;
        // A change that the membership refuses is a no-op for raft too, as in etcd.
        let accepted = self.writer.check_member_change(&described).is_ok();
        let conf_state =
            self.consensus.apply_conf_change(accepted.then_some(&change)).map_err(|error| failure(position, error))?;
        let outcome = self.writer.apply_member_change(position, described, conf_state_json(&conf_state));
        assert_eq!(outcome.is_ok(), accepted, "the store and its check agree");
        Ok(())
    }
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

/// The JSON that etcd puts into a configuration change (`membership.ConfigChangeContext`).
#[derive(Deserialize, Default)]
#[serde(default)]
struct ChangeContext {
    #[serde(rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(rename = "isLearner")]
    is_learner: bool,
    #[serde(rename = "isPromote")]
    is_promote: bool,
    name: String,
}

fn member_change(change: &raftpb::ConfChange) -> Result<MemberChange, String> {
    let id = change.node_id.unwrap_or(0);
    let context: ChangeContext = match change.context.as_deref() {
        None | Some([]) => ChangeContext::default(),
        Some(json) => serde_json::from_slice(json).map_err(|error| format!("context of member {id:x}: {error}"))?,
    };
    let kind = raftpb::ConfChangeType::try_from(change.r#type.unwrap_or(0)).map_err(|error| error.to_string())?;
    Ok(match kind {
        raftpb::ConfChangeType::ConfChangeAddNode if context.is_promote => MemberChange::Promote { id },
        raftpb::ConfChangeType::ConfChangeAddNode | raftpb::ConfChangeType::ConfChangeAddLearnerNode => {
            MemberChange::Add { id, name: context.name, peer_urls: context.peer_urls, learner: context.is_learner }
        }
        raftpb::ConfChangeType::ConfChangeRemoveNode => MemberChange::Remove { id },
        raftpb::ConfChangeType::ConfChangeUpdateNode => MemberChange::Update { id, peer_urls: context.peer_urls },
    })
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

    #[test]
    fn contexts_tell_additions_from_promotions() {
        let change = |context: &'static [u8]| raftpb::ConfChange {
            node_id: Some(7),
            context: Some(Bytes::from_static(context)),
            ..raftpb::ConfChange::default()
        };
        let added = member_change(&change(br#"{"id":7,"peerURLs":["http://a:1"],"name":"x"}"#)).expect("valid");
        assert!(matches!(added, MemberChange::Add { id: 7, learner: false, .. }));
        let promoted = member_change(&change(br#"{"id":7,"isPromote":true}"#)).expect("valid");
        assert!(matches!(promoted, MemberChange::Promote { id: 7 }));
        assert!(member_change(&change(b"{")).is_err());
    }
}
