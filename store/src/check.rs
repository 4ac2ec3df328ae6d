//! What etcd's gRPC layer refuses before anything is proposed, and what a request costs of the quota. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::{
    DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// What a key costs beside its key and value.
const KEY_COST_BYTES: u64 = 256;

/// What a lease costs.
pub(crate) const LEASE_COST_BYTES: u64 = 64;

pub fn check_range(request: &RangeRequest) -> Result<(), EtcdError> {
    check_key(&request.key)?;
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(EtcdError::InvalidSortOption);
    }
    Ok(())
}

pub fn check_put(request: &PutRequest) -> Result<(), EtcdError> {
    check_key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(EtcdError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(EtcdError::LeaseProvided);
    }
    Ok(())
}

pub fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), EtcdError> {
    check_key(&request.key)
}

/// Checks operations and their number, nested ones against what their parents left, then that no key is written twice.
pub fn check_txn(request: &TxnRequest, max_txn_ops: usize) -> Result<(), EtcdError> {
    check_ops(request, max_txn_ops)?;
    for branch in [&request.success, &request.failure] {
        Written::collect(branch)?;
    }
    Ok(())
}

/// Whether the transaction can do without the log. One with nested transactions cannot, whatever is in them.
pub fn is_read_only(request: &TxnRequest) -> bool {
    all_ranges(request, |_| true)
}

/// Whether the transaction asks for no more than local state.
pub fn is_serializable_txn(request: &TxnRequest) -> bool {
    all_ranges(request, |range| range.serializable)
}

/// What a request costs of the quota, in bytes; 0 for one that stores nothing.
pub fn quota_cost(request: &InternalRaftRequest) -> u64 {
    if let Some(put) = &request.put {
        put_cost(put)
    } else if let Some(txn) = &request.txn {
        txn_cost(txn)
    } else if request.lease_grant.is_some() {
        LEASE_COST_BYTES
    } else {
        0
    }
}

pub(crate) fn put_cost(request: &PutRequest) -> u64 {
    KEY_COST_BYTES + request.key.len() as u64 + request.value.len() as u64
}

/// The dearer branch, nested ones counted.
pub(crate) fn txn_cost(request: &TxnRequest) -> u64 {
    let cost = |ops: &[RequestOp]| -> u64 {
        let costs = ops.iter().map(|op| match &op.request {
            Some(Request::RequestPut(put)) => put_cost(put),
            Some(Request::RequestTxn(txn)) => txn_cost(txn),
            _ => 0,
        });
        costs.sum()
    };
    cost(&request.success).max(cost(&request.failure))
}

fn check_key(key: &[u8]) -> Result<(), EtcdError> {
    if key.is_empty() { Err(EtcdError::EmptyKey) } else { Ok(()) }
}

fn check_ops(request: &TxnRequest, max_txn_ops: usize) -> Result<(), EtcdError> {
    let count = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = max_txn_ops.checked_sub(count) else { return Err(EtcdError::TooManyOps) };
    for compare in &request.compare {
        check_key(&compare.key)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(range)?,
            Some(Request::RequestPut(put)) => check_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete_range(delete)?,
            Some(Request::RequestTxn(txn)) => check_ops(txn, left)?,
            None => return Err(EtcdError::KeyNotFound),
        }
    }
    Ok(())
}

fn all_ranges(request: &TxnRequest, accept: impl Fn(&RangeRequest) -> bool) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => accept(range),
        _ => false,
    })
}

/// The keys and intervals that a branch writes, nested transactions included.
///
/// etcd takes an interval as it stands here, where the `range_end` "\0" is an end before every key: deletions "from key"
/// collide with nothing, and so it stays.
#[derive(Default)]
struct Written<'a> {
    puts: BTreeSet<&'a [u8]>,
    deleted_keys: BTreeSet<&'a [u8]>,
    /// Disjoint intervals, by their beginning.
    deleted_intervals: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Written<'a> {
    fn collect(ops: &'a [RequestOp]) -> Result<Self, EtcdError> {
        let mut written = Self::default();
        for op in ops {
            if let Some(Request::RequestDeleteRange(delete)) = &op.request {
                written.delete(&delete.key, &delete.range_end);
            }
        }
        for op in ops {
            if let Some(Request::RequestTxn(txn)) = &op.request {
                written.add_nested(Self::collect(&txn.success)?, Self::collect(&txn.failure)?)?;
            }
        }
        for op in ops {
            if let Some(Request::RequestPut(put)) = &op.request {
                written.check_not_deleted(&put.key)?;
                if !written.puts.insert(&put.key) {
                    return Err(EtcdError::DuplicateKey);
                }
            }
        }
        Ok(written)
    }

    /// Only one of the two branches happens, so they may write the same key.
    fn add_nested(&mut self, success: Self, failure: Self) -> Result<(), EtcdError> {
        for key in success.puts.union(&failure.puts) {
            self.check_not_deleted(key)?;
            if self.puts.contains(key) {
                return Err(EtcdError::DuplicateKey);
            }
        }
        for nested in [success, failure] {
            self.puts.extend(nested.puts);
            self.deleted_keys.extend(nested.deleted_keys);
            for (begin, end) in nested.deleted_intervals {
                self.delete_interval(begin, end);
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: &'a [u8], range_end: &'a [u8]) {
        if range_end.is_empty() {
            self.deleted_keys.insert(key);
        } else if key < range_end {
            self.delete_interval(key, range_end);
        }
    }

    /// Merges the interval with those it touches.
    fn delete_interval(&mut self, mut begin: &'a [u8], mut end: &'a [u8]) {
        if let Some((&before, &before_end)) = self.deleted_intervals.range(..=begin).next_back()
            && before_end >= begin
        {
            begin = before;
            end = end.max(before_end);
        }
        let touching = |intervals: &BTreeMap<&'a [u8], &'a [u8]>, end: &[u8]| {
            let within = (Bound::Included(begin), Bound::Included(end));
            intervals.range::<[u8], _>(within).next().map(|(&after, &after_end)| (after, after_end))
        };
        while let Some((after, after_end)) = touching(&self.deleted_intervals, end) {
            end = end.max(after_end);
            self.deleted_intervals.remove(after);
        }
        self.deleted_intervals.insert(begin, end);
    }

    fn check_not_deleted(&self, key: &[u8]) -> Result<(), EtcdError> {
        let upto_key = (Bound::Unbounded, Bound::Included(key));
        let interval = self.deleted_intervals.range::<[u8], _>(upto_key).next_back();
        if self.deleted_keys.contains(key) || interval.is_some_and(|(_, end)| key < *end) {
            return Err(EtcdError::DuplicateKey);
        }
        Ok(())
    }
}

/// The set field of a request, for messages.
pub(crate) fn field_name(request: &InternalRaftRequest) -> &'static str {
    macro_rules! first_set {
        ($($field:ident),* $(,)?) => {
            $(if request.$field.is_some() { return stringify!($field); })*
        };
    }
    first_set!(
        cluster_version_set,
        cluster_member_attr_set,
        downgrade_info_set,
        downgrade_version_test,
        range,
        put,
        delete_range,
        txn,
        compaction,
        lease_grant,
        lease_revoke,
        lease_checkpoint,
        alarm,
        authenticate,
        auth_enable,
        auth_disable,
        auth_status,
        auth_user_add,
        auth_user_delete,
        auth_user_change_password,
        auth_user_grant_role,
        auth_user_get,
        auth_user_revoke_role,
        auth_role_add,
        auth_role_grant_permission,
        auth_role_get,
        auth_role_revoke_permission,
        auth_role_delete,
        auth_user_list,
        auth_role_list,
    );
    "(none)"
}
