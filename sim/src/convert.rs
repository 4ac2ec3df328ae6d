//! Between what clients record and what the store speaks.

use kvorum_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvorum_api::etcdserverpb::request_op::Request as OpRequest;
use kvorum_api::etcdserverpb::{
    Compare as StoreCompare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
};
use kvorum_api::mvccpb;
use kvorum_store::EventKind;
use prost::Message;

use crate::history::{Compare, Event, Interval, KeyValue, Relation, Reply, Request, Target};

/// The request as it goes through the log; `None` for what does not.
pub fn to_entry(request: &Request) -> Option<InternalRaftRequest> {
    let mut entry = InternalRaftRequest::default();
    match request {
        Request::Put { .. } => entry.put = to_put(request),
        Request::Delete(interval) => entry.delete_range = Some(to_delete(interval)),
        Request::Txn { compares, success, failure } => {
            entry.txn = Some(TxnRequest {
                compare: compares.iter().map(to_compare).collect(),
                success: success.iter().map(to_op).collect(),
                failure: failure.iter().map(to_op).collect(),
            });
        }
        Request::LeaseGrant { id, ttl_seconds } => {
            entry.lease_grant = Some(LeaseGrantRequest { id: *id, ttl: *ttl_seconds });
        }
        Request::LeaseRevoke { id } => entry.lease_revoke = Some(LeaseRevokeRequest { id: *id }),
        Request::Range { .. } | Request::LeaseKeepAlive { .. } => return None,
    }
    Some(entry)
}

fn to_put(request: &Request) -> Option<PutRequest> {
    let Request::Put { key, value, lease } = request else { return None };
    Some(PutRequest { key: key.clone(), value: value.clone(), lease: *lease, ..PutRequest::default() })
}

fn to_delete(interval: &Interval) -> DeleteRangeRequest {
    let Interval { key, range_end } = interval.clone();
    DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() }
}

pub fn to_range(interval: &Interval, revision: i64) -> RangeRequest {
    let Interval { key, range_end } = interval.clone();
    RangeRequest { key, range_end, revision, ..RangeRequest::default() }
}

fn to_op(request: &Request) -> RequestOp {
    let request = match request {
        Request::Put { .. } => to_put(request).map(OpRequest::RequestPut),
        Request::Delete(interval) => Some(OpRequest::RequestDeleteRange(to_delete(interval))),
        Request::Range { interval, revision, .. } => Some(OpRequest::RequestRange(to_range(interval, *revision))),
        _ => None,
    };
    RequestOp { request }
}

fn to_compare(compare: &Compare) -> StoreCompare {
    let result = match compare.relation {
        Relation::Equal => CompareResult::Equal,
        Relation::NotEqual => CompareResult::NotEqual,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
    };
    let (target, union) = match &compare.target {
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(value.clone())),
        Target::Version(version) => (CompareTarget::Version, TargetUnion::Version(*version)),
        Target::CreateRevision(revision) => (CompareTarget::Create, TargetUnion::CreateRevision(*revision)),
        Target::ModRevision(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(*revision)),
    };
    StoreCompare {
        result: result as i32,
        target: target as i32,
        key: compare.key.clone(),
        target_union: Some(union),
        ..StoreCompare::default()
    }
}

/// What the store answered; `None` for answers that clients here never ask for.
pub fn from_reply(reply: &kvorum_store::Reply) -> Option<Reply> {
    Some(match reply {
        kvorum_store::Reply::Put { .. } => Reply::Put,
        kvorum_store::Reply::DeleteRange { deleted, .. } => Reply::Delete { deleted: *deleted },
        kvorum_store::Reply::Range(range) => Reply::Range { kvs: from_kvs(&range.kvs) },
        kvorum_store::Reply::Txn(txn) => Reply::Txn {
            succeeded: txn.succeeded,
            replies: txn.responses.iter().map(|response| from_reply(&response.reply)).collect::<Option<_>>()?,
        },
        kvorum_store::Reply::LeaseGrant { ttl_seconds, .. } => Reply::LeaseGrant { ttl_seconds: *ttl_seconds },
        kvorum_store::Reply::LeaseRevoke => Reply::LeaseRevoke,
        _ => return None,
    })
}

/// Keys as a range reply holds them, already encoded.
pub fn from_kvs(encoded: &[u8]) -> Vec<KeyValue> {
    let decoded = RangeResponse::decode(encoded).expect("the store encodes its own replies");
    decoded.kvs.into_iter().map(from_kv).collect()
}

pub fn from_kv(kv: mvccpb::KeyValue) -> KeyValue {
    let mvccpb::KeyValue { key, value, create_revision, mod_revision, version, lease } = kv;
    KeyValue { key, value, create_revision, mod_revision, version, lease }
}

pub fn from_event(event: &kvorum_store::Event) -> Event {
    let kv = mvccpb::KeyValue::decode(&event.kv[..]).expect("the store encodes its own events");
    match event.kind {
        EventKind::Put => Event::Put(from_kv(kv)),
        EventKind::Delete => Event::Delete { key: kv.key, mod_revision: kv.mod_revision },
    }
}
