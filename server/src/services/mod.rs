//! The gRPC services: which methods there are, and where each call goes. A method that is not listed answers
//! UNIMPLEMENTED.

mod cluster;
mod health;
mod kv;
mod lease;
mod maintenance;
mod range_stream;
mod snapshot;
pub mod watch;

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::{RangeRequest, ResponseHeader};

use crate::core::Core;
use crate::grpc::{MessageReader, Responder, Status};
use crate::metrics::GrpcMethod;
use crate::worker::Worker;

/// Whether a method is answered with a stream.
pub fn is_streaming(method: GrpcMethod) -> bool {
    use GrpcMethod as M;
    matches!(method, M::Watch | M::LeaseKeepAlive | M::HealthWatch | M::Snapshot | M::RangeStream)
}

/// What the headers of a call said.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub method: GrpcMethod,
    pub deadline: Option<Instant>,
    /// The metadata `hasleader: true`: fail at once while there is no leader.
    pub require_leader: bool,
}

/// Answers a unary call, now or when its entry is applied.
pub fn begin_unary(worker: &Rc<Worker>, call: Call, message: Bytes, respond: Responder) {
    worker.core.metrics.client_received_bytes_total.add(message.len() as u64);
    if let Some(error) = refusal(worker, call, &message) {
        return worker.finish(call.method, respond, Err(error.into()));
    }
    match call.method {
        GrpcMethod::Range => kv::range(worker, call, message, respond),
        GrpcMethod::Put => kv::put(worker, call, message, respond),
        GrpcMethod::DeleteRange => kv::delete_range(worker, call, message, respond),
        GrpcMethod::Txn => kv::txn(worker, call, message, respond),
        GrpcMethod::Compact => kv::compact(worker, call, message, respond),
        _ => {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                let work = answer(&worker, call, message);
                let result = match call.deadline {
                    Some(deadline) => tokio::time::timeout_at(deadline.into(), work)
                        .await
                        .unwrap_or_else(|_| Err(Status::deadline_exceeded())),
                    None => work.await,
                };
                worker.finish(call.method, respond, result);
            });
        }
    }
}

/// Why a unary call is not for this member now: it is a learner, or the client asks for a leader and there is none.
fn refusal(worker: &Rc<Worker>, call: Call, message: &Bytes) -> Option<EtcdError> {
    if worker.core.is_learner() {
        let served = match call.method {
            GrpcMethod::Status | GrpcMethod::HealthCheck | GrpcMethod::HealthList => true,
            GrpcMethod::Range => {
                crate::grpc::decode::<RangeRequest>(message.clone()).is_ok_and(|range| range.serializable)
            }
            _ => false,
        };
        if !served {
            return Some(EtcdError::NotSupportedForLearner);
        }
    }
    (call.require_leader && worker.core.leader() == 0).then_some(EtcdError::NoLeader)
}

/// Ready when a stream that asked for a leader must end: there was none for three election timeouts, as in etcd.
pub async fn leader_lost(core: &Core, call: Call) {
    if !call.require_leader {
        return std::future::pending().await;
    }
    let mut seen = core.watch_leader();
    let patience = 3 * core.config.election_timeout;
    loop {
        // The sender lives as long as the member.
        if seen.wait_for(|leader| *leader == 0).await.is_err() {
            return;
        }
        match tokio::time::timeout(patience, seen.wait_for(|leader| *leader != 0)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

async fn answer(worker: &Rc<Worker>, call: Call, message: Bytes) -> Result<Bytes, Status> {
    match call.method {
        GrpcMethod::LeaseGrant => lease::grant(worker, message).await,
        GrpcMethod::LeaseRevoke => lease::revoke(worker, message).await,
        GrpcMethod::LeaseTimeToLive => lease::time_to_live(worker, message).await,
        GrpcMethod::LeaseLeases => lease::leases(worker),
        GrpcMethod::MemberList => cluster::member_list(worker, message).await,
        GrpcMethod::MemberAdd => cluster::member_add(worker, message).await,
        GrpcMethod::MemberRemove => cluster::member_remove(worker, message).await,
        GrpcMethod::MemberUpdate => cluster::member_update(worker, message).await,
        GrpcMethod::MemberPromote => cluster::member_promote(worker, message).await,
        GrpcMethod::Alarm => maintenance::alarm(worker, message).await,
        GrpcMethod::Status => maintenance::status(worker),
        GrpcMethod::Defragment => maintenance::defragment(worker, message).await,
        GrpcMethod::MoveLeader => maintenance::move_leader(worker, message).await,
        GrpcMethod::Downgrade => maintenance::downgrade(worker, message).await,
        GrpcMethod::Hash => maintenance::hash(worker).await,
        GrpcMethod::HashKv => maintenance::hash_kv(worker, message).await,
        GrpcMethod::HealthCheck => health::check(message),
        GrpcMethod::HealthList => Ok(health::list()),
        method => Err(Status::unimplemented(method.path())),
    }
}

/// Ready when the time of a call is over.
pub async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Serves a streaming call on a task of its own.
pub fn begin_stream(worker: &Rc<Worker>, call: Call, messages: MessageReader, respond: Responder) {
    if worker.core.is_learner() && !matches!(call.method, GrpcMethod::Snapshot | GrpcMethod::HealthWatch) {
        return respond.fail(&EtcdError::NotSupportedForLearner.into());
    }
    if call.require_leader && worker.core.leader() == 0 {
        return respond.fail(&EtcdError::NoLeader.into());
    }
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        match call.method {
            GrpcMethod::Watch => watch::serve(&worker, call, messages, respond).await,
            GrpcMethod::LeaseKeepAlive => lease::keep_alive(&worker, call, messages, respond).await,
            GrpcMethod::HealthWatch => health::watch(&worker, call, messages, respond).await,
            GrpcMethod::RangeStream => range_stream::serve(&worker, call, messages, respond).await,
            GrpcMethod::Snapshot => snapshot::serve(&worker, call, messages, respond).await,
            method => respond.fail(&Status::unimplemented(method.path())),
        }
    });
}

/// The header of a response that prost encodes.
pub fn header(core: &Core, revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: core.config.cluster_id,
        member_id: core.config.member_id,
        revision,
        raft_term: core.term(),
    })
}

/// Waits until a linearizable read may be served: the leader is confirmed, and what it had committed is applied here.
pub async fn linearize(core: &Core) -> Result<(), Status> {
    if core.is_linearized() {
        return Ok(());
    }
    core.linearize().await.map_err(Status::from)
}

/// Runs a read that may touch the backend on the thread's reader pool.
async fn on_reader_pool<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Status::new(kvorum_api::Code::Internal, format!("reading the backend: {error}")))
}

fn read_status(error: &kvorum_store::ReadError) -> Status {
    match error.etcd() {
        Some(error) => error.into(),
        None => Status::new(kvorum_api::Code::Unknown, error.to_string()),
    }
}
