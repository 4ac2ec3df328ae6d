//! The checks before a proposal that scenarios cannot express: limits, depth, cost.

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::*;
use kvorum_store::{check_txn, is_read_only, is_serializable_txn, quota_cost};
use proptest::prelude::*;

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: &str) -> RequestOp {
    op(Request::RequestPut(PutRequest { key: key.to_owned().into(), value: "12".into(), ..Default::default() }))
}

fn delete(key: &str, range_end: &str) -> RequestOp {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    op(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false }))
}

fn range(serializable: bool) -> RequestOp {
    op(Request::RequestRange(RangeRequest { key: "a".into(), serializable, ..Default::default() }))
}

fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare: Vec::new(), success, failure }
}

fn nested(success: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(txn(success, Vec::new())))
}

#[test]
fn operations_are_counted_along_the_deepest_path() {
    let ops = |count: usize| (0..count).map(|number| put(&format!("k{number}"))).collect::<Vec<_>>();
    assert_eq!(check_txn(&txn(ops(128), ops(128)), 128), Ok(()));
    assert_eq!(check_txn(&txn(ops(129), vec![]), 128), Err(EtcdError::TooManyOps));
    assert_eq!(check_txn(&txn(vec![], ops(129)), 128), Err(EtcdError::TooManyOps));
    let compare = vec![Compare { key: "a".into(), ..Compare::default() }; 3];
    assert_eq!(
        check_txn(&TxnRequest { compare: compare.clone(), ..Default::default() }, 2),
        Err(EtcdError::TooManyOps)
    );
    assert_eq!(check_txn(&TxnRequest { compare, ..Default::default() }, 3), Ok(()));
    assert_eq!(check_txn(&txn(vec![nested(vec![nested(ops(2))])], vec![]), 4), Ok(()));
    assert_eq!(check_txn(&txn(vec![nested(vec![nested(ops(2))])], vec![]), 3), Err(EtcdError::TooManyOps));
}

#[test]
fn read_only_and_serializable() {
    assert!(is_read_only(&txn(vec![], vec![])) && is_serializable_txn(&txn(vec![], vec![])));
    assert!(is_read_only(&txn(vec![range(true)], vec![range(false)])));
    assert!(!is_serializable_txn(&txn(vec![range(true)], vec![range(false)])));
    assert!(is_serializable_txn(&txn(vec![range(true)], vec![range(true)])));
    assert!(!is_read_only(&txn(vec![range(true)], vec![delete("a", "")])));
    assert!(!is_read_only(&txn(vec![nested(vec![range(true)])], vec![])));
}

/// Also named for etcd's fix: puts within nested transactions once cost nothing.
#[test]
fn etcd_3_7_1_cost_of_nested_transactions() {
    let cost = |txn| quota_cost(&InternalRaftRequest { txn: Some(txn), ..Default::default() });
    assert_eq!(cost(txn(vec![put("abc")], vec![])), 261);
    assert_eq!(cost(txn(vec![put("a")], vec![put("b"), nested(vec![put("c")])])), 2 * 259);
    assert_eq!(cost(txn(vec![range(true), delete("a", "b")], vec![])), 0);
    let lease_grant = Some(LeaseGrantRequest::default());
    assert_eq!(quota_cost(&InternalRaftRequest { lease_grant, ..Default::default() }), 64);
    assert_eq!(quota_cost(&InternalRaftRequest::default()), 0);
}

proptest! {
    /// Against every pair, one by one.
    #[test]
    fn overlaps_are_found(
        puts in prop::collection::vec("[a-f]{1,2}", 0..4),
        deletes in prop::collection::vec(("[a-f]{1,2}", prop_oneof![Just(String::new()), "[a-f]{1,2}"]), 0..6),
        deletes_nested in prop::collection::vec(("[a-f]{1,2}", "[a-f]{1,2}"), 0..3),
    ) {
        let covers = |(from, end): &(String, String), key: &String| {
            if end.is_empty() { key == from } else { from <= key && key < end }
        };
        let twice = (1..puts.len()).any(|position| puts[..position].contains(&puts[position]));
        let deleted = puts.iter().any(|key| deletes.iter().chain(&deletes_nested).any(|range| covers(range, key)));
        let ops = |deletes: &[(String, String)]| deletes.iter().map(|(key, end)| delete(key, end)).collect::<Vec<_>>();
        let mut all: Vec<RequestOp> = puts.iter().map(|key| put(key)).collect();
        all.extend(ops(&deletes));
        all.push(nested(ops(&deletes_nested)));
        let expected = if twice || deleted { Err(EtcdError::DuplicateKey) } else { Ok(()) };
        prop_assert_eq!(check_txn(&txn(all, vec![]), 128), expected);
    }
}
