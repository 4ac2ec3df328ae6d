//! Transactions that write: compare everything first, check everything that could fail second, write third.
//!
//! etcd compares nested transactions too before the first write, and so does this: the outcome of all compares is a path
//! through the tree, and only the operations on that path are checked and executed.

use bytes::Bytes;
use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::index::{Interval, Stamp};
use super::range::Walk;
use super::write::WriteSession;
use crate::backend::BackendError;
use crate::keyspace::key_value::KeyValueParts;
use crate::reply::{OpReply, Reply, TxnReply};
use crate::revision::KvBytes;

/// Why a request of the key space was not carried out. Nothing was changed then, unless the backend failed.
#[derive(Debug)]
pub(crate) enum Refused {
    Etcd(EtcdError),
    Backend(BackendError),
}

impl From<EtcdError> for Refused {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error)
    }
}

impl From<BackendError> for Refused {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

/// Which branches a transaction and, in order, its nested transactions take.
type Path = [bool];

impl WriteSession<'_> {
    pub(crate) fn put_request(&mut self, request: &PutRequest) -> Result<Reply, Refused> {
        self.check_put(request)?;
        self.execute_put(request)
    }

    pub(crate) fn delete_request(&mut self, request: &DeleteRangeRequest) -> Result<Reply, Refused> {
        let interval = Interval::new(&request.key, &request.range_end);
        let overwritten = self.delete(&interval);
        let deleted = overwritten.len() as i64;
        let previous = match request.prev_kv {
            true => overwritten.iter().map(|old| self.value_of(old)).collect::<Result<_, _>>()?,
            false => Vec::new(),
        };
        Ok(Reply::DeleteRange { deleted, previous })
    }

    pub(crate) fn txn_request(&mut self, request: &TxnRequest) -> Result<Reply, Refused> {
        let mut path = Vec::new();
        self.compare(request, &mut path)?;
        self.check_txn(request, &mut path.as_slice())?;
        let mut reply = self.execute_txn(request, &mut path.as_slice())?;
        reply.revision = self.revision();
        Ok(Reply::Txn(reply))
    }

    pub(crate) fn range_request(&mut self, request: &RangeRequest) -> Result<Reply, Refused> {
        self.check_range(request)?;
        self.execute_range(request)
    }

    fn compare(&self, request: &TxnRequest, path: &mut Vec<bool>) -> Result<(), Refused> {
        let mut succeeded = true;
        for compare in &request.compare {
            if !self.compare_interval(compare)? {
                succeeded = false;
                break;
            }
        }
        path.push(succeeded);
        for op in branch(request, succeeded) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.compare(nested, path)?;
            }
        }
        Ok(())
    }

    fn compare_interval(&self, compare: &Compare) -> Result<bool, BackendError> {
        let interval = Interval::new(&compare.key, &compare.range_end);
        let mut any = false;
        for entry in self.index.range(&interval) {
            let stamp = &entry.latest();
            if stamp.is_tombstone() {
                continue;
            }
            any = true;
            let holds = match compares_value(compare) {
                false => holds_for_stamp(compare, stamp),
                true => match entry.value() {
                    Some(value) => holds_for_value(compare, value),
                    None => holds_for_value(compare, &self.shared.fetch_known(stamp.revision)?),
                },
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(any || holds_for_missing(compare))
    }

    /// What etcd checks along the path before the first write.
    fn check_txn(&self, request: &TxnRequest, path: &mut &Path) -> Result<(), Refused> {
        let succeeded = next_branch(path);
        for op in branch(request, succeeded) {
            match &op.request {
                Some(Request::RequestRange(range)) => self.check_txn_range(range)?,
                Some(Request::RequestPut(put)) => self.check_put(put)?,
                Some(Request::RequestTxn(nested)) => self.check_txn(nested, path)?,
                Some(Request::RequestDeleteRange(_)) | None => {}
            }
        }
        Ok(())
    }

    fn check_txn_range(&self, request: &RangeRequest) -> Result<(), EtcdError> {
        check_txn_revision(request.revision, self.begin_revision(), self.shared.compact_revision())
    }

    fn check_range(&self, request: &RangeRequest) -> Result<(), Refused> {
        let compact_revision = self.shared.compact_revision();
        match super::range::resolve_revision(request.revision, self.begin_revision(), compact_revision) {
            Ok(_) => Ok(()),
            Err(error) => Err(Refused::Etcd(error.etcd().expect("only revisions were checked"))),
        }
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), EtcdError> {
        if request.lease != 0 && !self.shared.leases.read().contains(request.lease) {
            return Err(EtcdError::LeaseNotFound);
        }
        let needs_previous = request.ignore_value || request.ignore_lease;
        let exists = || self.index.entry(&request.key).is_some_and(|entry| entry.is_live());
        if needs_previous && !exists() {
            return Err(EtcdError::KeyNotFound);
        }
        Ok(())
    }

    fn execute_txn(&mut self, request: &TxnRequest, path: &mut &Path) -> Result<TxnReply, Refused> {
        let succeeded = next_branch(path);
        let ops = branch(request, succeeded);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            let (revision, reply) = match &op.request {
                Some(Request::RequestRange(range)) => (self.revision(), self.execute_range(range)?),
                Some(Request::RequestPut(put)) => {
                    let reply = self.execute_put(put)?;
                    (self.revision(), reply)
                }
                Some(Request::RequestDeleteRange(delete)) => {
                    let reply = self.delete_request(delete)?;
                    (self.revision(), reply)
                }
                Some(Request::RequestTxn(nested)) => (0, Reply::Txn(self.execute_txn(nested, path)?)),
                None => (0, Reply::Empty),
            };
            responses.push(OpReply { revision, reply });
        }
        Ok(TxnReply { succeeded, responses, revision: 0 })
    }

    fn execute_range(&mut self, request: &RangeRequest) -> Result<Reply, Refused> {
        let current = self.revision();
        let at = if request.revision <= 0 { current } else { request.revision };
        Ok(Reply::Range(Walk::new(request, at, current).run(&self.index, self.shared)?))
    }

    fn execute_put(&mut self, request: &PutRequest) -> Result<Reply, Refused> {
        if !request.ignore_value && !request.ignore_lease {
            let overwritten = self.put(&request.key, &request.value, request.lease);
            let previous = match overwritten {
                Some(old) if request.prev_kv => Some(self.value_of(&old)?),
                _ => None,
            };
            return Ok(Reply::Put { previous });
        }
        // It was checked that the key exists, but an earlier operation of the same transaction may have deleted it by a
        // range that etcd's overlap check does not see. etcd panics there; here the key starts anew.
        let previous = self.current(&request.key)?;
        let parts = previous.as_deref().and_then(KeyValueParts::parse).unwrap_or_default();
        let value = if request.ignore_value { parts.value } else { &request.value };
        let lease = if request.ignore_lease { parts.lease } else { request.lease };
        self.put(&request.key, value, lease);
        Ok(Reply::Put { previous: previous.filter(|_| request.prev_kv) })
    }
}

fn next_branch(path: &mut &Path) -> bool {
    let (first, rest) = path.split_first().expect("compare() visited the same transactions");
    *path = rest;
    *first
}

pub(crate) fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

/// etcd's check of a range inside a transaction; unlike outside of one, a negative revision can be "compacted".
pub(crate) fn check_txn_revision(requested: i64, current: i64, compact_revision: i64) -> Result<(), EtcdError> {
    match requested {
        0 => Ok(()),
        requested if requested > current => Err(EtcdError::FutureRev),
        requested if requested < compact_revision => Err(EtcdError::Compacted),
        _ => Ok(()),
    }
}

/// Whether the compare needs more than the index knows.
pub(crate) fn compares_value(compare: &Compare) -> bool {
    compare.target == CompareTarget::Value as i32 || compare.target == CompareTarget::Lease as i32
}

/// A compare of version, create or mod revision. An unknown target compares equal, as in etcd.
pub(crate) fn holds_for_stamp(compare: &Compare, stamp: &Stamp) -> bool {
    let parts = KeyValueParts {
        create_revision: stamp.create_revision,
        mod_revision: stamp.revision.main,
        version: stamp.version,
        ..KeyValueParts::default()
    };
    holds(compare, &parts)
}

pub(crate) fn holds_for_value(compare: &Compare, value: &KvBytes) -> bool {
    holds(compare, &KeyValueParts::parse(value).unwrap_or_default())
}

/// A missing key has version, revisions and lease 0; its value equals nothing and is not unequal to anything either.
pub(crate) fn holds_for_missing(compare: &Compare) -> bool {
    compare.target != CompareTarget::Value as i32 && holds(compare, &KeyValueParts::default())
}

fn holds(compare: &Compare, kv: &KeyValueParts<'_>) -> bool {
    let wanted = compare.target_union.as_ref();
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let wanted: &[u8] = match wanted {
                Some(TargetUnion::Value(value)) => value,
                _ => &Bytes::new(),
            };
            kv.value.cmp(wanted)
        }
        Ok(CompareTarget::Create) => kv.create_revision.cmp(match wanted {
            Some(TargetUnion::CreateRevision(revision)) => revision,
            _ => &0,
        }),
        Ok(CompareTarget::Mod) => kv.mod_revision.cmp(match wanted {
            Some(TargetUnion::ModRevision(revision)) => revision,
            _ => &0,
        }),
        Ok(CompareTarget::Version) => kv.version.cmp(match wanted {
            Some(TargetUnion::Version(version)) => version,
            _ => &0,
        }),
        Ok(CompareTarget::Lease) => kv.lease.cmp(match wanted {
            Some(TargetUnion::Lease(lease)) => lease,
            _ => &0,
        }),
        Err(_) => std::cmp::Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}
