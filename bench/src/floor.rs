//! `kvorum-bench floor`: a tonic server that answers with messages of the usual sizes and does nothing else. It shows
//! what any server on this stack costs before its first own instruction; it stores nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kvorum_api::etcdserverpb::kv_server::{Kv, KvServer};
use kvorum_api::etcdserverpb::lease_server::{Lease, LeaseServer};
use kvorum_api::etcdserverpb::response_op::Response as OneResponse;
use kvorum_api::etcdserverpb::*;
use kvorum_api::mvccpb::KeyValue;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::requests::{RANGE_VALUE_BYTES, VALUE_BYTES, key, range_name, value};
use crate::server::READY_LINE;

const WORKERS: usize = 2;

/// Runs the command with the arguments after its name, until the process is ended.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let [flag, address] = arguments else { return Err(crate::USAGE.to_owned()) };
    if flag != "--listen" {
        return Err(crate::USAGE.to_owned());
    }
    let address: SocketAddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| format!("runtime: {error}"))?;
    runtime.block_on(async {
        let incoming = TcpIncoming::bind(address).map_err(|error| format!("{address}: {error}"))?;
        eprintln!("{READY_LINE}");
        serve(incoming).await
    })
}

async fn serve(incoming: TcpIncoming) -> Result<(), String> {
    let floor = Floor::default();
    Server::builder()
        .add_service(KvServer::new(floor.clone()))
        .add_service(LeaseServer::new(floor))
        .serve_with_incoming(incoming.with_nodelay(Some(true)))
        .await
        .map_err(|error| format!("serve: {error}"))
}

/// The replies, and nothing else.
#[derive(Clone)]
struct Floor {
    one: KeyValue,
    /// What a range over `range/COUNT/` returns, made at the first such request.
    ranges: Arc<Mutex<HashMap<u64, Arc<Vec<KeyValue>>>>>,
}

impl Default for Floor {
    fn default() -> Self {
        Floor { one: pair(key("read/", 0), value(VALUE_BYTES, 0)), ranges: Arc::default() }
    }
}

fn pair(key: Bytes, value: Bytes) -> KeyValue {
    KeyValue { key, value, create_revision: 2, mod_revision: 2, version: 1, lease: 0 }
}

/// Identifiers as long as real ones.
fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: 14841639068965178418,
        member_id: 10276657743932975437,
        revision: 1_000_000,
        raft_term: 2,
    })
}

impl Floor {
    fn range_of(&self, count: u64) -> Vec<KeyValue> {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let made = ranges.entry(count).or_insert_with(|| {
            let name = range_name(count);
            Arc::new((0..count).map(|number| pair(key(&name, number), value(RANGE_VALUE_BYTES, number))).collect())
        });
        let made = made.clone();
        drop(ranges);
        made.as_ref().clone()
    }
}

type Streamed<Message> = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

fn absent<Reply>() -> Result<Response<Reply>, Status> {
    Err(Status::unimplemented("the floor does not answer this"))
}

#[tonic::async_trait]
impl Kv for Floor {
    type RangeStreamStream = Streamed<RangeStreamResponse>;

    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        let kvs = if request.range_end.is_empty() {
            vec![self.one.clone()]
        } else {
            let name = std::str::from_utf8(&request.key).unwrap_or_default();
            let count = name.split('/').nth(1).and_then(|count| count.parse().ok());
            self.range_of(count.ok_or_else(|| Status::invalid_argument("not a range of the bench"))?)
        };
        let count = i64::try_from(kvs.len()).expect("the replies are small");
        Ok(Response::new(RangeResponse { header: header(), kvs, more: false, count }))
    }

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        absent()
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Ok(Response::new(PutResponse { header: header(), prev_kv: None }))
    }

    async fn delete_range(&self, _: Request<DeleteRangeRequest>) -> Result<Response<DeleteRangeResponse>, Status> {
        absent()
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let put =
            PutResponse { header: Some(ResponseHeader { revision: 1_000_000, ..Default::default() }), prev_kv: None };
        let responses = vec![ResponseOp { response: Some(OneResponse::ResponsePut(put)) }];
        Ok(Response::new(TxnResponse { header: header(), succeeded: true, responses }))
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        absent()
    }
}

#[tonic::async_trait]
impl Lease for Floor {
    type LeaseKeepAliveStream = Streamed<LeaseKeepAliveResponse>;

    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let ttl = request.into_inner().ttl;
        Ok(Response::new(LeaseGrantResponse { header: header(), id: i64::MAX, ttl, error: String::new() }))
    }

    async fn lease_revoke(&self, _: Request<LeaseRevokeRequest>) -> Result<Response<LeaseRevokeResponse>, Status> {
        absent()
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let replies = request.into_inner().map(|request| {
            request.map(|request| LeaseKeepAliveResponse { header: header(), id: request.id, ttl: 600 })
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn lease_time_to_live(
        &self,
        _: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        absent()
    }

    async fn lease_leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        absent()
    }
}

/// The floor is also the server on which the load generator itself is tested.
#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::Control;
    use crate::load::{Load, Tally};
    use crate::requests::{self, RANGE, WATCH};
    use crate::wire;

    /// Runs `load` against a floor until it ends; all of it counts.
    fn run(load: Load) -> Result<Tally, String> {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let entered = runtime.enter();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = incoming.local_addr().expect("it is bound");
        drop(entered);
        runtime.spawn(serve(incoming));
        let control = Arc::new(Control::default());
        control.record(true);
        let outcome = load.spawn(address, &control).join().expect("the load does not panic");
        runtime.shutdown_background();
        outcome
    }

    #[test]
    fn every_request_is_answered_once() {
        let tally = run(requests::fill("test/", 5_000, VALUE_BYTES)).expect("the floor takes puts");
        assert_eq!(tally.count, 5_000);
    }

    #[test]
    fn replies_of_many_frames_arrive() {
        let tally = run(requests::each(RANGE, 60, |_| requests::range_body(1000))).expect("the floor has ranges");
        assert_eq!(tally.count, 60);
    }

    #[test]
    fn a_refused_call_ends_the_load_with_its_status() {
        let outcome = run(requests::each(WATCH, 10, |_| requests::put_body(Bytes::new(), Bytes::new())));
        assert!(outcome.is_err_and(|error| error.contains("grpc-status 12")), "the floor has no watch");
        let wrong_range = requests::each(RANGE, 1, |_| {
            wire::frame(&RangeRequest { key: "no/number".into(), range_end: "~".into(), ..Default::default() })
        });
        let outcome = run(wrong_range);
        assert_eq!(outcome.err(), Some("grpc-status 3: not a range of the bench".to_owned()));
    }
}
