//! Judges whether two outcomes of one request are equal for a client. It takes out identifiers and what etcd itself
//! leaves open, and nothing else:
//!
//! - cluster and member ids are compared with the side's own, then dropped; the raft term is compared from its start;
//! - `LeaseLeases` and the keys of `LeaseTimeToLive` are sets; the remaining time may differ by [`TTL_SLACK_SECONDS`];
//! - keys with equal sort values may come in any order (etcd's sort is not stable), and where a limit cuts such a group,
//!   any of its keys may be the ones that stay;
//! - `Status` is compared without sizes and raft indexes; `MemberList` without ids and addresses;
//! - the texts of errors that come from the gRPC library, not from etcd, are compared up to their code.

use kvorum_api::{etcdserverpb as pb, mvccpb};
use pb::range_request::{SortOrder, SortTarget};
use pb::{request_op::Request, response_op::Response};

use crate::call::{Call, Outcome, Reply};

/// How far the remaining seconds of a lease may differ: the two servers are asked at nearly the same time.
pub const TTL_SLACK_SECONDS: i64 = 10;

/// What identifies a side in its replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    pub raft_term: u64,
}

/// Takes the identifiers out of a reply. A header with other identifiers than the side's keeps them, and so differs.
pub fn anonymous(mut outcome: Outcome, identity: Identity) -> Outcome {
    if let Ok(reply) = &mut outcome {
        if let Some(header) = reply.header_mut() {
            anonymous_header(header, identity);
        }
        match reply {
            Reply::Status(status) => {
                for error in &mut status.errors {
                    // Go's text form of a message puts one space or two between fields, by the build.
                    *error = error.replace(&identity.member_id.to_string(), "0").replace("  ", " ");
                }
                let is_leader = status.leader == identity.member_id;
                let is_term = status.raft_term == identity.raft_term;
                *status = pb::StatusResponse {
                    leader: u64::from(is_leader),
                    raft_term: u64::from(is_term),
                    db_size: i64::from(status.db_size > 0),
                    db_size_in_use: i64::from(status.db_size_in_use > 0 && status.db_size_in_use <= status.db_size),
                    raft_index: u64::from(status.raft_index > 0),
                    raft_applied_index: u64::from(
                        status.raft_applied_index > 0 && status.raft_applied_index <= status.raft_index,
                    ),
                    // A member decides this some seconds after its start.
                    storage_version: String::new(),
                    ..std::mem::take(status)
                };
            }
            Reply::MemberList(list) => {
                for member in &mut list.members {
                    member.id = u64::from(member.id == identity.member_id);
                    member.peer_urls.iter_mut().chain(&mut member.client_urls).for_each(String::clear);
                }
            }
            Reply::Alarm(alarms) => {
                for alarm in &mut alarms.alarms {
                    alarm.member_id = u64::from(alarm.member_id == identity.member_id);
                }
            }
            Reply::LeaseLeases(leases) => leases.leases.sort_by_key(|lease| lease.id),
            Reply::LeaseTimeToLive(left) => left.keys.sort(),
            _ => {}
        }
    }
    outcome
}

/// Takes the identifiers out of a header, as [`anonymous`].
pub fn anonymous_header(header: &mut pb::ResponseHeader, identity: Identity) {
    if (header.cluster_id, header.member_id) == (identity.cluster_id, identity.member_id) {
        (header.cluster_id, header.member_id) = (0, 0);
    }
    header.raft_term = header.raft_term.wrapping_sub(identity.raft_term);
}

/// Why two anonymous outcomes of `call` differ for a client, or None when they do not.
pub fn difference(call: &Call, left: &Outcome, right: &Outcome) -> Option<&'static str> {
    match (left, right) {
        (Ok(left), Ok(right)) => reply_difference(call, left, right),
        (Err(left), Err(right)) if left.code != right.code => Some("the error codes differ"),
        (Err(left), Err(right)) if left.message == right.message || from_library(&left.message) => None,
        (Err(_), Err(_)) => Some("the error texts differ"),
        _ => Some("one side succeeds, the other fails"),
    }
}

/// Texts of grpc-go and of Go's protobuf; the latter changes its spaces from build to build on purpose.
fn from_library(message: &str) -> bool {
    message.starts_with("grpc: ")
}

fn reply_difference(call: &Call, left: &Reply, right: &Reply) -> Option<&'static str> {
    match (call, left, right) {
        (Call::Range(request), Reply::Range(left), Reply::Range(right)) => range_difference(request, left, right),
        (Call::Txn(request), Reply::Txn(left), Reply::Txn(right)) => txn_difference(request, left, right),
        (Call::LeaseGrant(pb::LeaseGrantRequest { id: 0, .. }), Reply::LeaseGrant(left), Reply::LeaseGrant(right)) => {
            let anonymous = |reply: &pb::LeaseGrantResponse| pb::LeaseGrantResponse {
                id: i64::from(reply.id > 0),
                ..reply.clone()
            };
            (anonymous(left) != anonymous(right)).then_some("the replies differ")
        }
        (Call::LeaseTimeToLive(_), Reply::LeaseTimeToLive(left), Reply::LeaseTimeToLive(right)) => {
            let close = left.ttl == right.ttl
                || (left.ttl >= 0 && right.ttl >= 0 && (left.ttl - right.ttl).abs() <= TTL_SLACK_SECONDS);
            let without = |reply: &pb::LeaseTimeToLiveResponse| pb::LeaseTimeToLiveResponse { ttl: 0, ..reply.clone() };
            (!close || without(left) != without(right)).then_some("the replies differ")
        }
        _ => (left != right).then_some("the replies differ"),
    }
}

fn range_difference(
    request: &pb::RangeRequest,
    left: &pb::RangeResponse,
    right: &pb::RangeResponse,
) -> Option<&'static str> {
    let without_keys = |reply: &pb::RangeResponse| pb::RangeResponse { kvs: Vec::new(), ..reply.clone() };
    if without_keys(left) != without_keys(right) {
        return Some("header, more or count differ");
    }
    if left.kvs == right.kvs || equal_up_to_ties(request, &left.kvs, &right.kvs, left.more) {
        return None;
    }
    Some("the keys differ")
}

/// Whether two sorted lists hold the same keys, with freedom only among keys of the same sort value.
fn equal_up_to_ties(
    request: &pb::RangeRequest,
    left: &[mvccpb::KeyValue],
    right: &[mvccpb::KeyValue],
    cut: bool,
) -> bool {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    if target == SortTarget::Key || left.len() != right.len() {
        return false;
    }
    // Values that were sorted by and then left out cannot group anything: then all keys are one group.
    let hidden = target == SortTarget::Value && request.keys_only;
    let value = |kv: &mvccpb::KeyValue| match target {
        SortTarget::Version => (kv.version, bytes::Bytes::new()),
        SortTarget::Create => (kv.create_revision, bytes::Bytes::new()),
        SortTarget::Mod => (kv.mod_revision, bytes::Bytes::new()),
        SortTarget::Value if !hidden => (0, kv.value.clone()),
        SortTarget::Value | SortTarget::Key => (0, bytes::Bytes::new()),
    };
    let descending = request.sort_order == SortOrder::Descend as i32;
    let in_order = |kvs: &[mvccpb::KeyValue]| {
        kvs.windows(2).all(|pair| {
            if descending { value(&pair[0]) >= value(&pair[1]) } else { value(&pair[0]) <= value(&pair[1]) }
        })
    };
    if !in_order(left) || left.iter().zip(right).any(|(left, right)| value(left) != value(right)) {
        return false;
    }
    let mut start = 0;
    while start < left.len() {
        let end = start + left[start..].iter().take_while(|kv| value(kv) == value(&left[start])).count();
        let cut_group = cut && end == left.len();
        if !cut_group && by_key(&left[start..end]) != by_key(&right[start..end]) {
            return false;
        }
        start = end;
    }
    true
}

fn by_key(kvs: &[mvccpb::KeyValue]) -> Vec<mvccpb::KeyValue> {
    let mut sorted = kvs.to_vec();
    sorted.sort_by(|one, other| one.key.cmp(&other.key));
    sorted
}

fn txn_difference(request: &pb::TxnRequest, left: &pb::TxnResponse, right: &pb::TxnResponse) -> Option<&'static str> {
    let without_responses = |reply: &pb::TxnResponse| pb::TxnResponse { responses: Vec::new(), ..reply.clone() };
    if without_responses(left) != without_responses(right) {
        return Some("header or branch differ");
    }
    if left.responses.len() != right.responses.len() {
        return Some("the numbers of responses differ");
    }
    let branch = if left.succeeded { &request.success } else { &request.failure };
    for (index, (left, right)) in left.responses.iter().zip(&right.responses).enumerate() {
        let request = branch.get(index).and_then(|operation| operation.request.as_ref());
        let different = match (request, &left.response, &right.response) {
            (
                Some(Request::RequestRange(request)),
                Some(Response::ResponseRange(left)),
                Some(Response::ResponseRange(right)),
            ) => range_difference(request, left, right),
            (
                Some(Request::RequestTxn(request)),
                Some(Response::ResponseTxn(left)),
                Some(Response::ResponseTxn(right)),
            ) => txn_difference(request, left, right),
            _ => (left != right).then_some("a response in the transaction differs"),
        };
        if different.is_some() {
            return different;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::Failure;

    const SELF: Identity = Identity { cluster_id: 7, member_id: 8, raft_term: 2 };

    fn header() -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { cluster_id: 7, member_id: 8, revision: 5, raft_term: 2 })
    }

    fn key(key: &'static str, version: i64) -> mvccpb::KeyValue {
        mvccpb::KeyValue { key: key.into(), version, create_revision: 2, mod_revision: 5, ..Default::default() }
    }

    fn range_reply(kvs: &[mvccpb::KeyValue], more: bool) -> Outcome {
        let count = kvs.len() as i64;
        anonymous(Ok(Reply::Range(pb::RangeResponse { header: header(), kvs: kvs.to_vec(), more, count })), SELF)
    }

    fn by_version() -> Call {
        Call::Range(pb::RangeRequest {
            sort_order: SortOrder::Ascend as i32,
            sort_target: SortTarget::Version as i32,
            ..Default::default()
        })
    }

    #[test]
    fn any_altered_field_of_a_reply_is_seen() {
        let original = pb::RangeResponse { header: header(), kvs: vec![key("a", 1)], more: false, count: 1 };
        let alterations: [fn(&mut pb::RangeResponse); 8] = [
            |reply| reply.count = 2,
            |reply| reply.more = true,
            |reply| reply.kvs[0].version = 2,
            |reply| reply.kvs[0].lease = 2,
            |reply| reply.kvs[0].value = "x".into(),
            |reply| reply.header.as_mut().expect("set above").revision = 6,
            |reply| reply.header.as_mut().expect("set above").member_id = 9,
            |reply| reply.header = None,
        ];
        let call = Call::Range(pb::RangeRequest::default());
        let left = anonymous(Ok(Reply::Range(original.clone())), SELF);
        assert_eq!(difference(&call, &left, &left), None);
        for alter in alterations {
            let mut altered = original.clone();
            alter(&mut altered);
            let right = anonymous(Ok(Reply::Range(altered)), SELF);
            assert!(difference(&call, &left, &right).is_some(), "{right:?}");
        }
    }

    #[test]
    fn ties_may_be_permuted_and_nothing_else() {
        let left = range_reply(&[key("a", 1), key("b", 1), key("c", 2)], false);
        let permuted = range_reply(&[key("b", 1), key("a", 1), key("c", 2)], false);
        let disordered = range_reply(&[key("a", 1), key("c", 2), key("b", 1)], false);
        let replaced = range_reply(&[key("a", 1), key("x", 1), key("c", 2)], false);
        assert_eq!(difference(&by_version(), &left, &permuted), None);
        assert!(difference(&by_version(), &left, &disordered).is_some());
        assert!(difference(&by_version(), &left, &replaced).is_some());
        let unsorted = Call::Range(pb::RangeRequest::default());
        assert!(difference(&unsorted, &left, &permuted).is_some());
    }

    #[test]
    fn a_limit_may_cut_ties_anywhere() {
        let left = range_reply(&[key("a", 1), key("b", 2)], true);
        let other_tie = range_reply(&[key("a", 1), key("c", 2)], true);
        let other_whole_group = range_reply(&[key("c", 1), key("b", 2)], true);
        assert_eq!(difference(&by_version(), &left, &other_tie), None);
        assert!(difference(&by_version(), &left, &other_whole_group).is_some());
    }

    #[test]
    fn differences_inside_transactions_are_seen() {
        let inner = |version| pb::ResponseOp {
            response: Some(Response::ResponseRange(pb::RangeResponse {
                kvs: vec![key("a", version)],
                ..Default::default()
            })),
        };
        let nested = |version| {
            let txn = pb::TxnResponse { succeeded: true, responses: vec![inner(version)], ..Default::default() };
            let responses = vec![pb::ResponseOp { response: Some(Response::ResponseTxn(txn)) }];
            Ok(Reply::Txn(pb::TxnResponse { succeeded: false, responses, ..Default::default() }))
        };
        let call = Call::Txn(pb::TxnRequest::default());
        assert_eq!(difference(&call, &nested(1), &nested(1)), None);
        assert!(difference(&call, &nested(1), &nested(2)).is_some());
    }

    #[test]
    fn errors_are_compared_by_code_and_text() {
        let call = Call::Range(pb::RangeRequest::default());
        let error = |code, message: &str| Err(Failure { code, message: message.to_owned() });
        let left = error(tonic::Code::NotFound, "etcdserver: requested lease not found");
        assert_eq!(difference(&call, &left, &left.clone()), None);
        let texts = error(tonic::Code::NotFound, "lease not found");
        let codes = error(tonic::Code::Unknown, "etcdserver: requested lease not found");
        assert!(difference(&call, &left, &texts).is_some());
        assert!(difference(&call, &left, &codes).is_some());
        assert!(difference(&call, &left, &range_reply(&[], false)).is_some());
    }
}
