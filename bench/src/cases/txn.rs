//! Transactions as Kubernetes writes: if the key's mod revision is the one I know, put a new value of 256 bytes. Each of
//! 10 x 50 streams has a key of its own, so every comparison holds, and every reply is decoded for the next revision; a
//! comparison that fails ends the run.

use bytes::Bytes;
use kvorum_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::{Compare, PutRequest, RequestOp, TxnRequest, TxnResponse};
use prost::Message;

use super::Case;
use crate::load::{Load, Source};
use crate::requests::{self, TXN, VALUE_BYTES};
use crate::wire;

const CONNECTIONS: usize = 10;
const STREAMS: usize = 50;

pub const CASE: Case = Case {
    name: "txn",
    about: "txn (compare mod revision, put), 10 x 50",
    floor: true,
    run: |trial| {
        let server = trial.start()?;
        let source = |connection| -> Box<dyn Source> { Box::new(CompareAndPut::new(connection)) };
        let load = Load {
            path: TXN,
            connections: CONNECTIONS,
            streams: STREAMS,
            source: Box::new(source),
            tls: None,
            token: None,
        };
        Ok(vec![trial.measure(&server, vec![load])?.row(CASE.about, 0)])
    },
};

/// A transaction that puts `value` if the mod revision of `key` compares as `result` with `revision`.
pub fn compare_and_put(key: Bytes, result: CompareResult, revision: i64, value: Bytes) -> Bytes {
    let compare = Compare {
        result: result.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    };
    let put = Request::RequestPut(PutRequest { key, value, ..Default::default() });
    let success = vec![RequestOp { request: Some(put) }];
    wire::frame(&TxnRequest { compare: vec![compare], success, failure: Vec::new() })
}

/// The streams' keys, and the mod revision of each; 0 before its first put.
struct CompareAndPut {
    keys: Vec<Bytes>,
    revisions: Vec<i64>,
    value: Bytes,
}

impl CompareAndPut {
    fn new(connection: usize) -> Self {
        let keys = (0..STREAMS).map(|stream| requests::key("txn/", (connection * STREAMS + stream) as u64)).collect();
        CompareAndPut { keys, revisions: vec![0; STREAMS], value: requests::value(VALUE_BYTES, 1) }
    }
}

impl Source for CompareAndPut {
    fn request(&mut self, stream: usize) -> Option<Bytes> {
        let (key, revision) = (self.keys[stream].clone(), self.revisions[stream]);
        Some(compare_and_put(key, CompareResult::Equal, revision, self.value.clone()))
    }

    fn wants_replies(&self) -> bool {
        true
    }

    fn reply(&mut self, stream: usize, message: &[u8]) -> Result<(), String> {
        let reply = message.get(wire::PREFIX_BYTES..).ok_or("empty reply")?;
        let reply = TxnResponse::decode(reply).map_err(|error| format!("TxnResponse: {error}"))?;
        if !reply.succeeded {
            return Err("a comparison failed on a key that nobody else writes".to_owned());
        }
        self.revisions[stream] = reply.header.ok_or("reply without header")?.revision;
        Ok(())
    }
}
