//! Replies are encoded byte for byte as prost encodes the same messages.

use std::sync::Arc;

use kvorum_api::etcdserverpb::response_op::Response;
use kvorum_api::etcdserverpb::*;
use kvorum_api::mvccpb::KeyValue;
use kvorum_store::{Header, KvBytes, OpReply, RangeReply, Reply, TxnReply};
use prost::Message;

fn kv(size: usize) -> KeyValue {
    KeyValue {
        key: b"key".to_vec().into(),
        create_revision: 2,
        mod_revision: 300,
        version: 4,
        value: vec![7; size].into(),
        lease: -1,
    }
}

fn bytes(kv: &KeyValue) -> KvBytes {
    Arc::from(kv.encode_to_vec())
}

fn frames(kvs: &[KeyValue]) -> Vec<u8> {
    RangeResponse { kvs: kvs.to_vec(), ..RangeResponse::default() }.encode_to_vec()
}

fn header() -> (Header, ResponseHeader) {
    let header = Header { cluster_id: u64::MAX, member_id: 10276657743932975437, revision: 300, raft_term: 2 };
    let Header { cluster_id, member_id, revision, raft_term } = header;
    (header, ResponseHeader { cluster_id, member_id, revision, raft_term })
}

fn check(reply: &Reply, expected: &impl Message) {
    let (header, _) = header();
    let mut out = vec![0xaa];
    reply.encode(&header, &mut out);
    assert_eq!(out.remove(0), 0xaa, "it appends");
    assert_eq!(out, expected.encode_to_vec());
    assert_eq!(out.len(), reply.encoded_len(&header));
}

#[test]
fn plain_replies() {
    let header = Some(header().1);
    for size in [0, 1, 127, 128, 70_000] {
        let previous = kv(size);
        let put = Reply::Put { previous: Some(bytes(&previous)) };
        check(&put, &PutResponse { header, prev_kv: Some(previous.clone()) });
        let delete = Reply::DeleteRange { deleted: 2, previous: vec![bytes(&previous), bytes(&previous)] };
        let prev_kvs = vec![previous.clone(), previous.clone()];
        check(&delete, &DeleteRangeResponse { header, deleted: 2, prev_kvs });
        let kvs = vec![previous; 3];
        let range = RangeReply { kvs: frames(&kvs), more: true, count: 5, revision: 300 };
        check(&Reply::Range(range), &RangeResponse { header, kvs, more: true, count: 5 });
    }
    check(&Reply::Put { previous: None }, &PutResponse { header, prev_kv: None });
    check(&Reply::DeleteRange { deleted: 0, previous: vec![] }, &DeleteRangeResponse { header, ..Default::default() });
    check(&Reply::Range(RangeReply::default()), &RangeResponse { header, ..Default::default() });
    check(&Reply::Compaction, &CompactionResponse { header });
    check(&Reply::LeaseRevoke, &LeaseRevokeResponse { header });
    check(&Reply::LeaseCheckpoint, &LeaseCheckpointResponse { header });
    let grant = LeaseGrantResponse { header, id: -7, ttl: 60, ..LeaseGrantResponse::default() };
    check(&Reply::LeaseGrant { id: -7, ttl_seconds: 60 }, &grant);
    let alarms = vec![AlarmMember { member_id: 1, alarm: 1 }, AlarmMember::default()];
    check(&Reply::Alarm(alarms.clone()), &AlarmResponse { header, alarms });
}

#[test]
fn transactions() {
    let inner = |revision| Some(ResponseHeader { revision, ..ResponseHeader::default() });
    let op = |revision, reply| OpReply { revision, reply };
    let previous = kv(200);
    let kvs = vec![kv(3)];
    let range = RangeReply { kvs: frames(&kvs), more: false, count: 1, revision: 0 };
    let nested = TxnReply {
        succeeded: true,
        responses: vec![op(300, Reply::Put { previous: Some(bytes(&previous)) })],
        revision: 0,
    };
    let reply = Reply::Txn(TxnReply {
        succeeded: false,
        responses: vec![
            op(299, Reply::Range(range)),
            op(300, Reply::DeleteRange { deleted: 1, previous: vec![] }),
            op(0, Reply::Txn(nested)),
            op(0, Reply::Empty),
        ],
        revision: 300,
    });
    let response = |response| ResponseOp { response };
    let put = PutResponse { header: inner(300), prev_kv: Some(previous) };
    let nested =
        TxnResponse { header: inner(0), succeeded: true, responses: vec![response(Some(Response::ResponsePut(put)))] };
    let delete = DeleteRangeResponse { header: inner(300), deleted: 1, prev_kvs: vec![] };
    let expected = TxnResponse {
        header: Some(header().1),
        succeeded: false,
        responses: vec![
            response(Some(Response::ResponseRange(RangeResponse { header: inner(299), kvs, more: false, count: 1 }))),
            response(Some(Response::ResponseDeleteRange(delete))),
            response(Some(Response::ResponseTxn(nested))),
            response(None),
        ],
    };
    check(&reply, &expected);
    check(&Reply::Txn(TxnReply::default()), &TxnResponse { header: Some(header().1), ..Default::default() });
}
