//! What a log entry does: the one place that changes replicated state, on every member, leader included.
//!
//! Every field of `InternalRaftRequest` is applied as etcd 3.7 applies it. An entry that cannot be applied is an
//! [`ApplyFailure`], never skipped. Order of gates as etcd's chain of appliers: corrupt, no space, permissions, quota, then the
//! request.

use std::sync::Arc;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::alarm_request::AlarmAction;
use kvorum_api::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, InternalRaftRequest,
    LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, TxnRequest,
};
use kvorum_api::membershippb::{ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest};

use crate::auth::{Access, AuthState, Caller, TokenChange};
use crate::backend::{Bucket, CommitBatch, Operation};
use crate::check;
use crate::error::{ApplyError, ApplyFailure};
use crate::event::EventBatch;
use crate::keyspace::{alarm as alarm_record, cluster, lease as lease_record, members, meta};
use crate::kv::compaction::{CompactionStep, Compactions, HashJob};
use crate::kv::txn::Refused;
use crate::kv::write::{Uncommitted, WriteSession};
use crate::lease::{LEASE_TTL_SECONDS_MAX, LeaseInfo};
use crate::member::{Downgrade, MemberChange};
use crate::open::StoreConfig;
use crate::reader::Reader;
use crate::reply::Reply;
use crate::shared::Shared;
use crate::version::{CLUSTER_VERSION_MAX, FIRST_STORAGE_VERSION, Version};

/// The place of an entry in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub index: u64,
    pub term: u64,
}

/// What happened to leases; the keeper of deadlines listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    Granted {
        id: i64,
        ttl_seconds: i64,
    },
    Revoked {
        id: i64,
    },
    /// 0 clears an earlier checkpoint.
    Checkpointed {
        id: i64,
        remaining_ttl_seconds: i64,
    },
}

/// What should happen outside because of applied entries. Apply appends; the caller drains.
#[derive(Debug, Default)]
pub struct Effects {
    pub events: Vec<EventBatch>,
    pub leases: Vec<LeaseChange>,
    /// Call [`Writer::compaction_step`] until it says there is no more.
    pub compaction_scheduled: bool,
    pub alarms_raised: Vec<AlarmMember>,
    pub alarms_lifted: Vec<AlarmMember>,
    /// The quota is exceeded and no NOSPACE alarm is raised: this member should propose one.
    pub space_exceeded: bool,
    /// The cluster version was set to this; a caller that is older must stop.
    pub cluster_version: Option<String>,
    /// The cluster version went down: take a snapshot now, so that the log a downgraded member starts from holds no
    /// entry of the newer version.
    pub snapshot_forced: bool,
    /// Members or their attributes changed.
    pub membership_changed: bool,
    /// Users, roles or permissions changed: what they allowed before is to be looked at again.
    pub auth_changed: bool,
    pub tokens: Vec<TokenChange>,
}

/// A request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub reply: Reply,
    /// The store's revision after it, for the reply's header.
    pub revision: i64,
}

/// The only one that changes the store. Not shared: the thread that applies entries owns it.
pub struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: StoreConfig,
    pub(crate) uncommitted: Uncommitted,
    pub(crate) compactions: Compactions,
    pub(crate) applied: Position,
    /// The position that the last commit carried.
    pub(crate) taken: Position,
    pub(crate) storage_version: Option<String>,
    pub(crate) size_in_use_bytes: u64,
}

impl Writer {
    /// Applies one entry. The outer error stops the member; the inner one is etcd's answer to the requester.
    pub fn apply(
        &mut self,
        position: Position,
        request: &InternalRaftRequest,
        effects: &mut Effects,
    ) -> Result<Result<Applied, ApplyError>, ApplyFailure> {
        let fail = |field, reason: String| ApplyFailure { index: position.index, field, reason };
        let result = match self.dispatch(position, request, effects) {
            Ok(reply) => Ok(Applied { reply, revision: self.shared.revision() }),
            Err(Stopped::Refused(Refused::Etcd(error))) => Err(error),
            Err(Stopped::Refused(Refused::Backend(error))) => {
                return Err(fail(check::field_name(request), error.to_string()));
            }
            Err(Stopped::Unsupported(reason)) => return Err(fail(check::field_name(request), reason)),
        };
        self.advance(position);
        Ok(result)
    }

    /// Applies the empty entry a leader begins its term with.
    pub fn apply_empty(&mut self, position: Position) {
        self.advance(position);
    }

    /// The store's revision; 1 when nothing was ever written.
    pub fn revision(&self) -> i64 {
        self.shared.revision()
    }

    /// The auth revision; `None` while authentication is disabled.
    pub fn auth_revision(&self) -> Option<u64> {
        (self.shared.auth_generation() != 0).then(|| self.shared.auth().revision())
    }

    /// Whether a committed change may still be made. If not, it must be applied to raft as a no-op.
    pub fn check_member_change(&self, change: &MemberChange) -> Result<(), ApplyError> {
        self.shared.membership.read().check(change, self.config.learners_max)
    }

    /// Applies a configuration change and remembers the conf state it led to. A change that fails the check changes
    /// nothing but the applied index.
    pub fn apply_member_change(
        &mut self,
        position: Position,
        change: MemberChange,
        conf_state_json: Vec<u8>,
    ) -> Result<(), ApplyError> {
        let checked = self.check_member_change(&change);
        if checked.is_ok() {
            let id = change.id();
            let mut membership = (**self.shared.membership.read()).clone();
            match membership.make(change).map(members::value) {
                Some(value) => self.set(Bucket::Members, members::key(id), Some(value)),
                None => {
                    self.set(Bucket::Members, members::key(id), None);
                    self.set(Bucket::MembersRemoved, members::key(id), Some(members::REMOVED.into()));
                }
            }
            *self.shared.membership.write() = Arc::new(membership);
            self.set(Bucket::Meta, meta::CONF_STATE.into(), Some(conf_state_json.into()));
        }
        self.advance(position);
        checked
    }

    /// All changes since the last call, with the position they lead up to. `None` if there are none.
    pub fn take_commit(&mut self) -> Option<CommitBatch> {
        if self.uncommitted.operations.is_empty() && self.taken == self.applied {
            return None;
        }
        if self.applied.index > 0 {
            self.set(Bucket::Meta, meta::CONSISTENT_INDEX.into(), Some(meta::number(self.applied.index)));
            if self.applied.term > 0 {
                self.set(Bucket::Meta, meta::TERM.into(), Some(meta::number(self.applied.term)));
            }
        }
        self.taken = self.applied;
        let batch = CommitBatch {
            sequence: self.uncommitted.sequence,
            operations: std::mem::take(&mut self.uncommitted.operations),
        };
        self.uncommitted.sequence += 1;
        Some(batch)
    }

    /// How many operations the next commit holds so far.
    pub fn pending_operations(&self) -> usize {
        self.uncommitted.operations.len()
    }

    /// One step of a scheduled compaction, looking at about `limit` revisions or keys. Leave time between steps. The hash
    /// that a compaction begins with is among its steps, unless it was taken with [`Self::take_hash_job`].
    ///
    /// # Errors
    /// When the backend cannot be read: the member stops.
    pub fn compaction_step(&mut self, limit: usize) -> Result<CompactionStep, crate::backend::BackendError> {
        let (step, finished) = self.compactions.step(limit.max(1), &self.shared, &mut self.uncommitted)?;
        if let Some(revision) = finished {
            self.set(Bucket::Meta, meta::FINISHED_COMPACTION.into(), Some(meta::compaction(revision)));
        }
        Ok(step)
    }

    /// The hash that the scheduled compaction begins with, to be computed without holding the writer. No step goes on
    /// until [`Self::finish_hash_job`].
    pub fn take_hash_job(&mut self) -> Option<HashJob> {
        self.compactions.take_hash_job()
    }

    /// Hands back a job whose last step said that there is no more.
    pub fn finish_hash_job(&mut self, job: &HashJob) {
        self.compactions.finish_hash(job);
    }

    /// The revision that was last compacted to, physically.
    pub fn finished_compaction(&self) -> Option<i64> {
        self.compactions.finished
    }

    /// For the quota; called after each commit.
    pub fn set_backend_size(&mut self, in_use_bytes: u64) {
        self.size_in_use_bytes = in_use_bytes;
    }

    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> Position {
        self.applied
    }

    fn advance(&mut self, position: Position) {
        assert!(
            position.index > self.applied.index,
            "entry {} was applied after entry {}",
            position.index,
            self.applied.index
        );
        self.applied = position;
        self.shared.publish_applied_index(position.index);
    }

    fn dispatch(
        &mut self,
        position: Position,
        request: &InternalRaftRequest,
        effects: &mut Effects,
    ) -> Result<Reply, Stopped> {
        let header = request.header.as_ref();
        let caller =
            header.map_or(Caller::NOBODY, |header| Caller { user: &header.username, revision: header.auth_revision });
        if let Some(version) = &request.cluster_version_set {
            return self.set_cluster_version(version, effects);
        }
        if let Some(attributes) = &request.cluster_member_attr_set {
            return self.set_member_attributes(attributes, effects);
        }
        if let Some(downgrade) = &request.downgrade_info_set {
            return Ok(self.set_downgrade(downgrade));
        }
        if request.downgrade_version_test.is_some() {
            // etcd's own tests put it into logs; it does nothing.
            return Ok(Reply::Empty);
        }
        if let Some(range) = &request.range {
            self.check_corrupt()?;
            self.check_permission(|auth| auth.check_keys(caller, Access::Read, &range.key, &range.range_end))?;
            return Ok(self.session().range_request(range)?);
        }
        if let Some(put) = &request.put {
            return self.put(caller, put, effects);
        }
        if let Some(delete) = &request.delete_range {
            return self.delete_range(caller, delete, effects);
        }
        if let Some(txn) = &request.txn {
            return self.txn(caller, txn, effects);
        }
        if let Some(compaction) = &request.compaction {
            return self.compact(compaction, effects);
        }
        if let Some(grant) = &request.lease_grant {
            return self.grant(grant, effects);
        }
        if let Some(revoke) = &request.lease_revoke {
            return self.revoke(caller, revoke, effects);
        }
        if let Some(checkpoint) = &request.lease_checkpoint {
            return Ok(self.checkpoint(checkpoint, effects));
        }
        if let Some(alarm) = &request.alarm {
            return Ok(Reply::Alarm(self.alarm(alarm, effects)));
        }
        self.auth_request(position, request, caller, effects)
            .unwrap_or_else(|| Err(Stopped::Unsupported("this version cannot apply it".to_owned())))
    }

    fn session(&mut self) -> WriteSession<'_> {
        WriteSession::begin(&self.shared, &mut self.uncommitted)
    }

    fn put(&mut self, caller: Caller<'_>, request: &PutRequest, effects: &mut Effects) -> Result<Reply, Stopped> {
        let cost = check::put_cost(request);
        self.check_gates(cost)?;
        self.check_permission(|auth| auth.check_put(caller, &self.shared.leases.read(), request))?;
        let mut session = self.session();
        let reply = session.put_request(request)?;
        session.finish(&mut effects.events);
        self.check_quota(cost, effects)?;
        Ok(reply)
    }

    fn delete_range(
        &mut self,
        caller: Caller<'_>,
        request: &DeleteRangeRequest,
        effects: &mut Effects,
    ) -> Result<Reply, Stopped> {
        self.check_corrupt()?;
        self.check_permission(|auth| auth.check_delete(caller, request))?;
        let mut session = self.session();
        let reply = session.delete_request(request)?;
        session.finish(&mut effects.events);
        Ok(reply)
    }

    fn txn(&mut self, caller: Caller<'_>, request: &TxnRequest, effects: &mut Effects) -> Result<Reply, Stopped> {
        let cost = check::txn_cost(request);
        self.check_gates(cost)?;
        self.check_permission(|auth| auth.check_txn(caller, &self.shared.leases.read(), request))?;
        let mut session = self.session();
        let reply = session.txn_request(request)?;
        session.finish(&mut effects.events);
        self.check_quota(cost, effects)?;
        Ok(reply)
    }

    fn compact(&mut self, request: &CompactionRequest, effects: &mut Effects) -> Result<Reply, Stopped> {
        self.check_corrupt()?;
        {
            // Readers take revision and compact revision together under this lock.
            let _index = self.shared.index.write();
            let previous = self.shared.compact_revision();
            if request.revision <= previous {
                return Err(EtcdError::Compacted.into());
            }
            if request.revision > self.shared.revision() {
                return Err(EtcdError::FutureRev.into());
            }
            self.compactions.schedule(request.revision, previous, &self.shared);
            self.shared.publish_compact_revision(request.revision);
        }
        self.set(Bucket::Meta, meta::SCHEDULED_COMPACTION.into(), Some(meta::compaction(request.revision)));
        effects.compaction_scheduled = true;
        Ok(Reply::Compaction)
    }

    fn grant(&mut self, request: &LeaseGrantRequest, effects: &mut Effects) -> Result<Reply, Stopped> {
        self.check_gates(check::LEASE_COST_BYTES)?;
        if request.id == 0 {
            // The proposer chooses an id before; etcd answers this error to an entry without one.
            return Err(EtcdError::LeaseNotFound.into());
        }
        if request.ttl > LEASE_TTL_SECONDS_MAX {
            return Err(EtcdError::LeaseTTLTooLarge.into());
        }
        let ttl_seconds = request.ttl.max(self.config.lease_ttl_seconds_min);
        {
            let mut leases = self.shared.leases.write();
            if leases.contains(request.id) {
                return Err(EtcdError::LeaseExist.into());
            }
            leases.insert(request.id, LeaseInfo { ttl_seconds, remaining_ttl_seconds: 0 });
        }
        let value = lease_record::value(request.id, ttl_seconds, 0);
        self.set(Bucket::Lease, lease_record::key(request.id), Some(value));
        effects.leases.push(LeaseChange::Granted { id: request.id, ttl_seconds });
        self.check_quota(check::LEASE_COST_BYTES, effects)?;
        Ok(Reply::LeaseGrant { id: request.id, ttl_seconds })
    }

    /// Deletes the lease's keys in sorted order at one revision.
    fn revoke(
        &mut self,
        caller: Caller<'_>,
        request: &LeaseRevokeRequest,
        effects: &mut Effects,
    ) -> Result<Reply, Stopped> {
        self.check_corrupt()?;
        let leases = &self.shared.leases;
        self.check_permission(|auth| auth.check_lease(caller, Access::Write, &leases.read(), request.id))?;
        let lease = self.shared.leases.write().remove(request.id).ok_or(EtcdError::LeaseNotFound)?;
        let mut session = self.session();
        for key in &lease.keys {
            session.delete_key(key);
        }
        session.finish(&mut effects.events);
        self.set(Bucket::Lease, lease_record::key(request.id), None);
        effects.leases.push(LeaseChange::Revoked { id: request.id });
        Ok(Reply::LeaseRevoke)
    }

    fn checkpoint(&mut self, request: &LeaseCheckpointRequest, effects: &mut Effects) -> Reply {
        let persist = self.persists_checkpoints();
        for checkpoint in &request.checkpoints {
            let remaining_ttl_seconds = checkpoint.remaining_ttl;
            let ttl_seconds = {
                let mut leases = self.shared.leases.write();
                let Some(lease) = leases.state_mut(checkpoint.id) else { continue };
                lease.info.remaining_ttl_seconds = remaining_ttl_seconds;
                lease.info.ttl_seconds
            };
            if persist {
                let value = lease_record::value(checkpoint.id, ttl_seconds, remaining_ttl_seconds);
                self.set(Bucket::Lease, lease_record::key(checkpoint.id), Some(value));
            }
            effects.leases.push(LeaseChange::Checkpointed { id: checkpoint.id, remaining_ttl_seconds });
        }
        Reply::LeaseCheckpoint
    }

    /// A cluster of version 3.6 or later always persists them.
    fn persists_checkpoints(&self) -> bool {
        let membership = self.shared.membership.read().clone();
        let version = membership.cluster_version.as_deref().and_then(|text| text.parse::<Version>().ok());
        self.config.lease_checkpoint_persist || version.is_some_and(|version| version >= Version::of(3, 6))
    }

    fn alarm(&mut self, request: &AlarmRequest, effects: &mut Effects) -> Vec<AlarmMember> {
        let alarm = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.shared.alarms.read().list(request.alarm),
            Ok(AlarmAction::Activate) if request.alarm != AlarmType::None as i32 => {
                if self.shared.alarms.write().raise(alarm) {
                    self.set(Bucket::Alarm, alarm_record::key(&alarm), Some(Box::default()));
                    effects.alarms_raised.push(alarm);
                }
                vec![alarm]
            }
            Ok(AlarmAction::Deactivate) => {
                if !self.shared.alarms.write().lift(alarm) {
                    return Vec::new();
                }
                self.set(Bucket::Alarm, alarm_record::key(&alarm), None);
                effects.alarms_lifted.push(alarm);
                vec![alarm]
            }
            Ok(AlarmAction::Activate) | Err(_) => Vec::new(),
        }
    }

    fn set_cluster_version(
        &mut self,
        request: &ClusterVersionSetRequest,
        effects: &mut Effects,
    ) -> Result<Reply, Stopped> {
        let Ok(version) = request.ver.parse::<Version>() else {
            return Err(Stopped::Unsupported(format!("{:?} is not a version", request.ver)));
        };
        if version > CLUSTER_VERSION_MAX {
            let reason = "invalid downgrade; server version is lower than determined cluster version";
            return Err(Stopped::Unsupported(format!("{reason} ({version})")));
        }
        let text = version.to_string();
        let mut membership = (**self.shared.membership.read()).clone();
        let before = membership.cluster_version.replace(text.clone()).and_then(|before| before.parse::<Version>().ok());
        *self.shared.membership.write() = Arc::new(membership);
        self.set(Bucket::Cluster, cluster::CLUSTER_VERSION.into(), Some(text.as_bytes().into()));
        // etcd's monitor brings the storage version to the cluster version soon after; before 3.6 there was none.
        let storage = version.cluster().to_string();
        if version >= FIRST_STORAGE_VERSION && self.storage_version.as_ref() != Some(&storage) {
            self.set(Bucket::Meta, meta::STORAGE_VERSION.into(), Some(storage.as_bytes().into()));
            self.storage_version = Some(storage);
        }
        effects.snapshot_forced |= before.is_some_and(|before| version < before);
        effects.cluster_version = Some(text);
        Ok(Reply::Empty)
    }

    fn set_member_attributes(
        &mut self,
        request: &ClusterMemberAttrSetRequest,
        effects: &mut Effects,
    ) -> Result<Reply, Stopped> {
        let mut membership = (**self.shared.membership.read()).clone();
        let Some(member) = membership.members.get_mut(&request.member_id) else {
            if membership.removed.contains(&request.member_id) {
                return Ok(Reply::Empty);
            }
            return Err(Stopped::Unsupported(format!("member {:x} is unknown", request.member_id)));
        };
        let attributes = request.member_attributes.clone().unwrap_or_default();
        member.name = attributes.name;
        member.client_urls = attributes.client_urls;
        let value = members::value(member);
        *self.shared.membership.write() = Arc::new(membership);
        self.set(Bucket::Members, members::key(request.member_id), Some(value));
        effects.membership_changed = true;
        Ok(Reply::Empty)
    }

    fn set_downgrade(&mut self, request: &DowngradeInfoSetRequest) -> Reply {
        let target_version = if request.enabled { request.ver.clone() } else { String::new() };
        let downgrade = Downgrade { enabled: request.enabled, target_version };
        self.set(Bucket::Cluster, cluster::DOWNGRADE.into(), Some(cluster::downgrade(&downgrade)));
        let mut membership = (**self.shared.membership.read()).clone();
        membership.downgrade = downgrade;
        *self.shared.membership.write() = Arc::new(membership);
        Reply::Empty
    }

    /// One look at a number while authentication is disabled.
    #[inline]
    fn check_permission(&self, check: impl FnOnce(&AuthState) -> Result<(), EtcdError>) -> Result<(), EtcdError> {
        if self.shared.auth_generation() == 0 { Ok(()) } else { check(&self.shared.auth()) }
    }

    fn check_corrupt(&self) -> Result<(), EtcdError> {
        self.shared.alarms.read().check_corrupt()
    }

    fn check_gates(&self, cost: u64) -> Result<(), EtcdError> {
        let alarms = self.shared.alarms.read();
        alarms.check_corrupt()?;
        alarms.check_space(cost)
    }

    /// After the fact, as etcd does: what went over the quota was applied and is still answered with an error.
    fn check_quota(&self, cost: u64, effects: &mut Effects) -> Result<(), EtcdError> {
        let Some(quota_bytes) = self.config.quota_bytes else { return Ok(()) };
        if cost == 0 || self.size_in_use_bytes.saturating_add(cost) < quota_bytes {
            return Ok(());
        }
        effects.space_exceeded = !self.shared.alarms.read().is_raised(AlarmType::Nospace);
        Err(EtcdError::NoSpace)
    }

    /// A record of a small bucket; `None` deletes it.
    pub(crate) fn set(&mut self, bucket: Bucket, key: Box<[u8]>, value: Option<Box<[u8]>>) {
        let sequence = self.uncommitted.sequence;
        self.shared.records.write().set(bucket, key.clone(), value.clone(), sequence);
        self.uncommitted.operations.push(match value {
            Some(value) => Operation::Put { bucket, key, value },
            None => Operation::Delete { bucket, key },
        });
    }
}

/// Why an entry has no reply.
pub(crate) enum Stopped {
    Refused(Refused),
    /// This version cannot apply it.
    Unsupported(String),
}

impl From<Refused> for Stopped {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<EtcdError> for Stopped {
    fn from(error: EtcdError) -> Self {
        Self::Refused(Refused::Etcd(error))
    }
}
