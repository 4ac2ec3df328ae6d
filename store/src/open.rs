//! Starting from what the backend holds: the index is rebuilt from the revisions, everything else is read.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::apply::{Position, Writer};
use crate::backend::{Backend, BackendError, Bucket};
use crate::error::OpenError;
use crate::keyspace::key_value::KeyValueParts;
use crate::keyspace::{alarm, cluster, lease, members, meta};
use crate::kv::compaction::Compactions;
use crate::kv::index::{Index, RestoredRevision, Stamp};
use crate::kv::write::Uncommitted;
use crate::lease::LeaseInfo;
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
    let meta = read_meta(&*backend)?;
    let (mut index, last_revision) = read_index(&*backend, config.value_budget_bytes)?;
    let leases = read_leases(&*backend, config.lease_ttl_seconds_min)?;
    // What a compaction removed may have been the newest revisions.
    let finished = meta.finished_compaction.unwrap_or(-1);
    let scheduled = meta.scheduled_compaction.unwrap_or(-1);
    let revision = last_revision.max(finished).max(scheduled).max(FIRST_REVISION);
    let compaction_pending = scheduled > finished;

    let mut attached = Vec::new();
    let known: BTreeSet<i64> = leases.iter().map(|lease| lease.id).collect();
    for (key, entry) in index.entries_mut().filter(|(_, entry)| entry.lease != 0) {
        if known.contains(&entry.lease) {
            attached.push((entry.lease, key.to_vec()));
        } else {
            entry.lease = 0;
        }
    }
    let shared = Shared::new(backend.clone(), index, revision, finished.max(scheduled));
    {
        let mut table = shared.leases.write();
        for lease in &leases {
            let RestoredLease { id, ttl_seconds, remaining_ttl_seconds } = *lease;
            table.insert(id, LeaseInfo { ttl_seconds, remaining_ttl_seconds });
        }
        for (id, key) in &attached {
            table.attach(*id, key);
        }
    }
    read_alarms(&*backend, &shared)?;
    *shared.membership.write() = Arc::new(read_membership(&*backend)?);
    shared.publish_applied_index(meta.consistent_index);

    let shared = Arc::new(shared);
    let mut compactions = Compactions::restored(meta.scheduled_compaction, meta.finished_compaction);
    if compaction_pending {
        compactions.schedule(scheduled, finished, &shared);
    }
    let applied = Position { index: meta.consistent_index, term: meta.consistent_term };
    let mut writer = Writer {
        shared,
        config,
        uncommitted: Uncommitted::new(),
        compactions,
        applied,
        taken: applied,
        storage_version: meta.storage_version,
        size_in_use_bytes: backend.size_in_use_bytes(),
    };
    begin_auth(&mut writer)?;
    let reader = writer.reader();
    let restored = Restored {
        consistent_index: meta.consistent_index,
        consistent_term: meta.consistent_term,
        conf_state: meta.conf_state,
        leases,
        compaction_pending,
    };
    Ok((writer, reader, restored))
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
    let mut restored: Vec<RestoredRevision> = Vec::new();
    let mut value_bytes_free = value_bytes_max;
    let mut last = Revision::default();
    let mut from = Revision::default();
    loop {
        let mut read = 0;
        let mut problem = None;
        backend.read(&mut |transaction| {
            transaction.scan(Bucket::Key, &from.to_key(), None, &mut |key, value| {
                match restore_revision(key, value, &mut value_bytes_free) {
                    Ok(revision) => {
                        last = revision.stamp.revision;
                        restored.push(revision);
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
fn key_order(restored: &[RestoredRevision]) -> Vec<usize> {
    let Some(first) = restored.first() else { return Vec::new() };
    let mut common = first.key.len();
    for revision in restored {
        let equal = first.key[..common].iter().zip(&revision.key[..]).take_while(|(a, b)| a == b);
        common = equal.count();
    }
    let digest = |key: &[u8]| {
        let mut bytes = [0; 8];
        let rest = &key[common..];
        let length = rest.len().min(8);
        bytes[..length].copy_from_slice(&rest[..length]);
        u64::from_be_bytes(bytes)
    };
    let mut order: Vec<(u64, usize)> =
        restored.iter().enumerate().map(|(position, revision)| (digest(&revision.key), position)).collect();
    order.sort_unstable_by(|a, b| {
        let by_key = || restored[a.1].key.cmp(&restored[b.1].key);
        a.0.cmp(&b.0).then_with(by_key).then(a.1.cmp(&b.1))
    });
    order.into_iter().map(|(_, position)| position).collect()
}

fn restore_revision(key: &[u8], value: &[u8], value_bytes_free: &mut u64) -> Result<RestoredRevision, &'static str> {
    let (revision, tombstone) = Revision::from_key(key).ok_or("not a revision")?;
    let parts = KeyValueParts::parse(value).ok_or("not a KeyValue")?;
    if parts.key.is_empty() {
        return Err("the KeyValue has no key");
    }
    if tombstone {
        let stamp = Stamp::tombstone(revision);
        return Ok(RestoredRevision { key: parts.key.into(), stamp, value: None, lease: 0 });
    }
    let stamp = Stamp { revision, create_revision: parts.create_revision, version: parts.version };
    if stamp.is_tombstone() {
        return Err("the KeyValue has no version");
    }
    let length = value.len() as u64;
    let kept = length <= *value_bytes_free;
    if kept {
        *value_bytes_free -= length;
    }
    Ok(RestoredRevision { key: parts.key.into(), stamp, value: kept.then(|| value.into()), lease: parts.lease })
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

fn read_alarms(backend: &dyn Backend, shared: &Shared) -> Result<(), OpenError> {
    let mut alarms = shared.alarms.write();
    read_bucket(backend, Bucket::Alarm, &mut |key, _| {
        alarms.raise(alarm::parse(key)?);
        Ok(())
    })
}

fn read_membership(backend: &dyn Backend) -> Result<Membership, OpenError> {
    let mut membership = Membership::default();
    read_bucket(backend, Bucket::Members, &mut |key, value| {
        let id = members::parse_key(key)?;
        membership.members.insert(id, members::parse_value(value)?);
        Ok(())
    })?;
    read_bucket(backend, Bucket::MembersRemoved, &mut |key, _| {
        membership.removed.insert(members::parse_key(key)?);
        Ok(())
    })?;
    read_bucket(backend, Bucket::Cluster, &mut |key, value| {
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

/// etcd gives a new store auth revision 1 before the first entry.
fn begin_auth(writer: &mut Writer) -> Result<(), BackendError> {
    const AUTH_REVISION: &[u8] = b"authRevision";
    let mut present = false;
    writer.shared.backend.read(&mut |transaction| {
        present = transaction.fetch(Bucket::Auth, AUTH_REVISION, &mut |_| {})?;
        Ok(())
    })?;
    if !present {
        writer.set(Bucket::Auth, AUTH_REVISION.into(), Some(meta::number(1)));
    }
    Ok(())
}

/// Hands every record of a small bucket to `take`, which says what is wrong with it.
fn read_bucket(
    backend: &dyn Backend,
    bucket: Bucket,
    take: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), String>,
) -> Result<(), OpenError> {
    let mut problem = None;
    backend.read(&mut |transaction| {
        transaction.scan(bucket, &[], None, &mut |key, value| match take(key, value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(reason) => {
                problem = Some(malformed(bucket, key, &reason));
                ControlFlow::Break(())
            }
        })
    })?;
    problem.map_or(Ok(()), Err)
}

fn malformed(bucket: Bucket, key: &[u8], reason: &str) -> OpenError {
    let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
    OpenError::Malformed { bucket: bucket.name(), key, reason: reason.to_owned() }
}
