//! Starting from what the backend holds: the index is rebuilt from the revisions, everything else is read. And
//! doing so again, in place, when another member sent its state.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::alarm::Alarms;
use crate::apply::{Position, Writer};
use crate::auth::AuthState;
use crate::backend::{Backend, BackendError, Bucket, ReadTransaction};
use crate::error::OpenError;
use crate::event::KEY_TAG;
use crate::keyspace::key_value::KeyValueParts;
use crate::keyspace::{alarm, auth, cluster, lease, members, meta};
use crate::kv::compaction::Compactions;
use crate::kv::hash::FinishedHashes;
use crate::kv::index::{Index, KeyEntry, Stamp};
use crate::kv::key_entry::key_alone;
use crate::kv::write::Uncommitted;
use crate::lease::{LeaseInfo, Leases};
use crate::member::Membership;
use crate::reader::Reader;
use crate::revision::Revision;
use crate::shared::Shared;

/// Revisions read in one backend transaction.
const STEP_RECORDS: usize = 10_000;

/// The store's revision before anything was written.
const FIRST_REVISION: i64 = 1;

/// What the store must know of its member's configuration. All members must agree on the lease settings.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    pub member_id: u64,
    /// Memory for the encoded current values in the index. With 0 all values are read from overlay and backend.
    pub value_budget_bytes: u64,
    /// `None`: no quota.
    pub quota_bytes: Option<u64>,
    /// A granted TTL is raised to this.
    pub lease_ttl_seconds_min: i64,
    /// Whether checkpoints are persisted in a cluster older than 3.6 (a feature gate); later ones always do.
    pub lease_checkpoint_persist: bool,
    /// Learners the cluster may have (`--max-learners`); all members should agree.
    pub learners_max: usize,
}

/// A lease as the backend remembered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredLease {
    pub id: i64,
    pub ttl_seconds: i64,
    /// 0: none stored.
    pub remaining_ttl_seconds: i64,
}

/// What the backend remembered that is not the store's alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Entries up to this index are in the backend; 0 for a new one.
    pub consistent_index: u64,
    pub consistent_term: u64,
    /// JSON as it was stored.
    pub conf_state: Option<Vec<u8>>,
    /// Sorted by id.
    pub leases: Vec<RestoredLease>,
    /// A compaction was under way: call [`Writer::compaction_step`] until it says there is no more.
    pub compaction_pending: bool,
}

/// Opens the store over a backend, which may be empty.
pub fn open(config: StoreConfig, backend: Arc<dyn Backend>) -> Result<(Writer, Reader, Restored), OpenError> {
    let loaded = Loaded::read(&config, &*backend)?;
    let shared = Arc::new(Shared::new(backend.clone(), Index::new(config.value_budget_bytes)));
    let compactions = loaded.compactions(&shared, 0);
    let applied = loaded.applied();
    let storage_version = loaded.meta.storage_version.clone();
    let restored = loaded.install(&shared);
    let mut writer = Writer {
        shared,
        config,
        uncommitted: Uncommitted::new(),
        compactions,
        applied,
        taken: applied,
        storage_version,
        size_in_use_bytes: backend.size_in_use_bytes(),
    };
    begin_auth(&mut writer);
    let reader = writer.reader();
    Ok((writer, reader, restored))
}

impl Writer {
    /// Takes over the state that another member sent, while readers look on. `received` holds it; `switch` is called once,
    /// after it was read, and must make it what the backend that this writer was opened with reads and commits to.
    ///
    /// What was applied and not committed is forgotten: the received state has it. Readers that exist go on with the new
    /// state. A read that began before and needs what the received state has compacted fails as compacted; all others give
    /// the same answer as before, since both states are of one history.
    ///
    /// What the caller must do:
    /// - see that no commit is under way, and that none that was taken before is made afterwards;
    /// - replace what it keeps of leases by [`Restored::leases`], and its backend's sizes;
    /// - call [`Self::compaction_step`] if a compaction is pending;
    /// - treat all watchers as behind, as etcd does: each goes on from the revision after the last it was told of, with
    ///   [`Reader::history`], which says when that is compacted. No event of what was skipped is published, so whoever
    ///   publishes events begins anew at the revision after [`Reader::revision`].
    ///
    /// Old and new index are in memory at the same time.
    ///
    /// # Errors
    /// Until `switch` was called nothing has changed. If `switch` fails nothing has changed here either, but that reads
    /// which need what the received state lacks may have failed as compacted; whether the member can go on is for the
    /// caller to know.
    pub fn restore(
        &mut self,
        received: &dyn Backend,
        switch: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<Restored, OpenError> {
        let received = Received::read(&self.config, received)?;
        self.install(received, switch)
    }

    /// What [`Received::read`] is to be given.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// As [`Self::restore`], of a store that was read before: this takes no longer than `switch`.
    pub fn install(
        &mut self,
        received: Received,
        switch: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<Restored, OpenError> {
        let loaded = received.0;
        let applied = loaded.applied();
        if applied.index < self.applied.index {
            return Err(OpenError::Behind { received: applied.index, applied: self.applied.index });
        }
        let compactions = loaded.compactions(&self.shared, self.compactions.epoch() + 1);
        let storage_version = loaded.meta.storage_version.clone();
        let shared = self.shared.clone();
        let restored = loaded.install_after(&shared, switch)?;
        self.compactions = compactions;
        self.storage_version = storage_version;
        self.uncommitted.operations.clear();
        self.applied = applied;
        self.taken = applied;
        self.size_in_use_bytes = shared.backend.size_in_use_bytes();
        begin_auth(self);
        Ok(restored)
    }
}

/// A store read into memory from a backend that is to become the live one. Reading takes a while and needs no writer.
pub struct Received(Loaded);

impl Received {
    pub fn read(config: &StoreConfig, backend: &dyn Backend) -> Result<Self, OpenError> {
        Ok(Self(Loaded::read(config, backend)?))
    }

    /// The last entry whose effects are in it.
    pub fn applied(&self) -> Position {
        self.0.applied()
    }
}

/// A backend's content, ready to be looked at.
struct Loaded {
    meta: Meta,
    index: Index,
    revision: i64,
    leases: Vec<RestoredLease>,
    lease_table: Leases,
    alarms: Alarms,
    membership: Membership,
    auth: AuthState,
}

impl Loaded {
    fn read(config: &StoreConfig, backend: &dyn Backend) -> Result<Self, OpenError> {
        let meta = read_meta(backend)?;
        let (mut index, last_revision) = read_index(backend, config.value_budget_bytes)?;
        let leases = read_leases(backend, config.lease_ttl_seconds_min)?;
        // What a compaction removed may have been the newest revisions.
        let revision = last_revision.max(meta.compact_revision()).max(FIRST_REVISION);
        let mut lease_table = Leases::default();
        for lease in &leases {
            let RestoredLease { id, ttl_seconds, remaining_ttl_seconds } = *lease;
            lease_table.insert(id, LeaseInfo { ttl_seconds, remaining_ttl_seconds });
        }
        for entry in index.entries_mut().filter(|entry| entry.lease() != 0) {
            if !lease_table.attach(entry.lease(), entry.key()) {
                entry.set_lease(0);
            }
        }
        let alarms = read_alarms(backend)?;
        let membership = read_membership(backend)?;
        let auth = read_auth(backend)?;
        Ok(Self { meta, index, revision, leases, lease_table, alarms, membership, auth })
    }

    fn applied(&self) -> Position {
        Position { index: self.meta.consistent_index, term: self.meta.consistent_term }
    }

    fn compactions(&self, shared: &Arc<Shared>, epoch: u64) -> Compactions {
        let Meta { scheduled_compaction: scheduled, finished_compaction: finished, .. } = self.meta;
        let mut compactions = Compactions::restored(scheduled, finished, epoch);
        if self.meta.compaction_pending() {
            let target = scheduled.expect("a compaction that is pending was scheduled");
            compactions.schedule(target, finished.unwrap_or(-1), shared);
        }
        compactions
    }

    fn install(self, shared: &Shared) -> Restored {
        self.install_after(shared, || Ok(())).expect("nothing was tried that can fail")
    }

    /// Readers see all of it or nothing: they look at index and revisions under the index lock.
    fn install_after(
        self,
        shared: &Shared,
        switch: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<Restored, BackendError> {
        let mut index = shared.index.write();
        let compact_revision = self.meta.compact_revision();
        // Before the switch: a read that misses something afterwards looks here for the reason.
        let purged_revision = shared.purged_revision();
        shared.publish_purged_revision(compact_revision.max(purged_revision));
        // Readers look into the overlay first: what leaves it must be in the backend by then.
        if let Err(error) = switch() {
            shared.publish_purged_revision(purged_revision);
            return Err(error);
        }
        let old_index = std::mem::replace(&mut *index, self.index);
        shared.overlay.write().clear();
        shared.records.write().clear();
        *shared.leases.write() = self.lease_table;
        *shared.alarms.write() = self.alarms;
        *shared.membership.write() = Arc::new(self.membership);
        shared.change_auth(|auth| *auth = self.auth);
        *shared.hashes.write() = FinishedHashes::default();
        shared.publish_compact_revision(compact_revision);
        shared.publish_revision(self.revision);
        shared.publish_applied_index(self.meta.consistent_index);
        drop(index);
        drop(old_index);
        Ok(Restored {
            consistent_index: self.meta.consistent_index,
            consistent_term: self.meta.consistent_term,
            compaction_pending: self.meta.compaction_pending(),
            conf_state: self.meta.conf_state,
            leases: self.leases,
        })
    }
}

#[derive(Default)]
struct Meta {
    consistent_index: u64,
    consistent_term: u64,
    conf_state: Option<Vec<u8>>,
    scheduled_compaction: Option<i64>,
    finished_compaction: Option<i64>,
    storage_version: Option<String>,
}

impl Meta {
    /// -1: never compacted.
    fn compact_revision(&self) -> i64 {
        self.finished_compaction.unwrap_or(-1).max(self.scheduled_compaction.unwrap_or(-1))
    }

    fn compaction_pending(&self) -> bool {
        self.scheduled_compaction.unwrap_or(-1) > self.finished_compaction.unwrap_or(-1)
    }
}

fn read_meta(backend: &dyn Backend) -> Result<Meta, OpenError> {
    let mut found = Meta::default();
    read_bucket(backend, Bucket::Meta, &mut |key, value| {
        match key {
            meta::CONSISTENT_INDEX => found.consistent_index = meta::parse_number(value)?,
            meta::TERM => found.consistent_term = meta::parse_number(value)?,
            meta::CONF_STATE => found.conf_state = Some(value.to_vec()),
            meta::SCHEDULED_COMPACTION => found.scheduled_compaction = Some(meta::parse_compaction(value)?),
            meta::FINISHED_COMPACTION => found.finished_compaction = Some(meta::parse_compaction(value)?),
            meta::STORAGE_VERSION => {
                found.storage_version = Some(String::from_utf8(value.to_vec()).map_err(|error| error.to_string())?);
            }
            // Written by a later version; kept as it is.
            _ => {}
        }
        Ok(())
    })?;
    Ok(found)
}

/// Reads all revisions in their order, sorts them by key, and builds the index in one go. Returns it with the last main
/// revision found, or 0.
fn read_index(backend: &dyn Backend, value_bytes_max: u64) -> Result<(Index, i64), OpenError> {
    let mut restored: Vec<Option<KeyEntry>> = Vec::new();
    let mut value_bytes_free = value_bytes_max;
    let mut last = Revision::default();
    let mut from = Revision::default();
    loop {
        let mut read = 0;
        let mut problem = None;
        backend.read(&mut |transaction| {
            transaction.scan(Bucket::Key, &from.to_key(), None, &mut |key, value| {
                match restore_revision(key, value, &mut value_bytes_free) {
                    Ok((revision, entry)) => {
                        last = revision;
                        restored.extend(entry.map(Some));
                    }
                    Err(reason) => {
                        problem = Some(malformed(Bucket::Key, key, reason));
                        return ControlFlow::Break(());
                    }
                }
                read += 1;
                if read < STEP_RECORDS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
        })?;
        if let Some(problem) = problem {
            return Err(problem);
        }
        if read < STEP_RECORDS {
            break;
        }
        from = Revision::new(last.main, last.sub + 1);
    }
    let order = key_order(&restored);
    Ok((Index::from_sorted(restored, &order, value_bytes_max), last.main))
}

/// The positions of the revisions in key order, those of one key in revision order. Most comparisons are decided by eight
/// bytes after what all keys have in common, without touching the keys.
fn key_order(restored: &[Option<KeyEntry>]) -> Vec<usize> {
    let key = |position: usize| restored[position].as_ref().expect("none is taken yet").key();
    if restored.is_empty() {
        return Vec::new();
    }
    let first = key(0);
    let mut common = first.len();
    for position in 0..restored.len() {
        let equal = first[..common].iter().zip(key(position)).take_while(|(a, b)| a == b);
        common = equal.count();
    }
    let digest = |key: &[u8]| {
        let mut bytes = [0; 8];
        let rest = &key[common..];
        let length = rest.len().min(8);
        bytes[..length].copy_from_slice(&rest[..length]);
        u64::from_be_bytes(bytes)
    };
    let mut order: Vec<(u64, usize)> = (0..restored.len()).map(|position| (digest(key(position)), position)).collect();
    order.sort_unstable_by(|a, b| {
        let by_key = || key(a.1).cmp(key(b.1));
        a.0.cmp(&b.0).then_with(by_key).then(a.1.cmp(&b.1))
    });
    order.into_iter().map(|(_, position)| position).collect()
}

/// Its entry is `None` for a revision without content: `snapshot restore --bump-revision` leaves one, which only says how
/// far revisions were counted.
fn restore_revision(
    key: &[u8],
    value: &[u8],
    value_bytes_free: &mut u64,
) -> Result<(Revision, Option<KeyEntry>), &'static str> {
    let (revision, tombstone) = Revision::from_key(key).ok_or("not a revision")?;
    if u32::try_from(revision.sub).is_err() {
        return Err("no transaction makes as many changes");
    }
    if value.is_empty() && !tombstone {
        return Ok((revision, None));
    }
    let parts = KeyValueParts::parse(value).ok_or("not a KeyValue")?;
    if parts.key.is_empty() {
        return Err("the KeyValue has no key");
    }
    if tombstone {
        return Ok((revision, Some(KeyEntry::new(key_alone(parts.key), false, Stamp::tombstone(revision), 0))));
    }
    let stamp = Stamp { revision, create_revision: parts.create_revision, version: parts.version };
    if stamp.is_tombstone() {
        return Err("the KeyValue has no version");
    }
    if value[0] != KEY_TAG {
        return Err("the KeyValue does not begin with its key");
    }
    let length = value.len() as u64;
    let kept = length <= *value_bytes_free;
    if kept {
        *value_bytes_free -= length;
    }
    let kv = if kept { value.into() } else { key_alone(parts.key) };
    Ok((revision, Some(KeyEntry::new(kv, kept, stamp, parts.lease))))
}

fn read_leases(backend: &dyn Backend, ttl_seconds_min: i64) -> Result<Vec<RestoredLease>, OpenError> {
    let mut leases = Vec::new();
    read_bucket(backend, Bucket::Lease, &mut |_, value| {
        let stored = lease::parse(value)?;
        leases.push(RestoredLease {
            id: stored.id,
            ttl_seconds: stored.ttl.max(ttl_seconds_min),
            remaining_ttl_seconds: stored.remaining_ttl,
        });
        Ok(())
    })?;
    leases.sort_by_key(|lease| lease.id);
    Ok(leases)
}

fn read_alarms(backend: &dyn Backend) -> Result<Alarms, OpenError> {
    let mut alarms = Alarms::default();
    read_bucket(backend, Bucket::Alarm, &mut |key, _| {
        alarms.raise(alarm::parse(key)?);
        Ok(())
    })?;
    Ok(alarms)
}

fn read_membership(backend: &dyn Backend) -> Result<Membership, OpenError> {
    let mut membership = None;
    backend.read(&mut |transaction| {
        membership = Some(membership_of(transaction));
        Ok(())
    })?;
    membership.expect("a read that succeeds was made")
}

/// The members as one transaction shows them.
///
/// # Errors
/// What is stored is malformed, or could not be read.
pub fn membership_of(transaction: &dyn ReadTransaction) -> Result<Membership, OpenError> {
    let mut membership = Membership::default();
    scan_bucket(transaction, Bucket::Members, &mut |key, value| {
        let id = members::parse_key(key)?;
        membership.members.insert(id, members::parse_value(value)?);
        Ok(())
    })?;
    scan_bucket(transaction, Bucket::MembersRemoved, &mut |key, _| {
        membership.removed.insert(members::parse_key(key)?);
        Ok(())
    })?;
    scan_bucket(transaction, Bucket::Cluster, &mut |key, value| {
        match key {
            cluster::CLUSTER_VERSION => {
                let version = String::from_utf8(value.to_vec()).map_err(|error| error.to_string())?;
                membership.cluster_version = Some(version);
            }
            cluster::DOWNGRADE => membership.downgrade = cluster::parse_downgrade(value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(membership)
}

fn read_auth(backend: &dyn Backend) -> Result<AuthState, OpenError> {
    let (mut enabled, mut revision) = (false, 0);
    read_bucket(backend, Bucket::Auth, &mut |key, value| {
        match key {
            auth::ENABLED => enabled = auth::parse_enabled(value),
            auth::REVISION => revision = meta::parse_number(value)?,
            _ => {}
        }
        Ok(())
    })?;
    let mut users = Vec::new();
    read_bucket(backend, Bucket::AuthUsers, &mut |key, value| {
        auth::parse_name(key)?;
        users.push(kvorum_api::authpb::User { name: key.to_vec().into(), ..auth::parse_user(value)? });
        Ok(())
    })?;
    let mut roles = Vec::new();
    read_bucket(backend, Bucket::AuthRoles, &mut |key, value| {
        auth::parse_name(key)?;
        roles.push(kvorum_api::authpb::Role { name: key.to_vec().into(), ..auth::parse_role(value)? });
        Ok(())
    })?;
    Ok(AuthState::restored(enabled, revision, users, roles))
}

/// etcd gives a new store auth revision 1 before the first entry.
fn begin_auth(writer: &mut Writer) {
    if writer.shared.auth().revision() == 0 {
        let revision = writer.shared.change_auth(AuthState::begin);
        writer.set(Bucket::Auth, auth::REVISION.into(), Some(meta::number(revision)));
    }
}

/// Hands every record of a small bucket to `take`, which says what is wrong with it.
fn read_bucket(
    backend: &dyn Backend,
    bucket: Bucket,
    take: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), String>,
) -> Result<(), OpenError> {
    let mut scanned = Ok(());
    backend.read(&mut |transaction| {
        scanned = scan_bucket(transaction, bucket, take);
        Ok(())
    })?;
    scanned
}

fn scan_bucket(
    transaction: &dyn ReadTransaction,
    bucket: Bucket,
    take: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), String>,
) -> Result<(), OpenError> {
    let mut problem = None;
    transaction.scan(bucket, &[], None, &mut |key, value| match take(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(reason) => {
            problem = Some(malformed(bucket, key, &reason));
            ControlFlow::Break(())
        }
    })?;
    problem.map_or(Ok(()), Err)
}

fn malformed(bucket: Bucket, key: &[u8], reason: &str) -> OpenError {
    let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
    OpenError::Malformed { bucket: bucket.name(), key, reason: reason.to_owned() }
}
