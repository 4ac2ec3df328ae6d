//! The gRPC services: which methods there are, and where each call goes. A method that is not listed answers
//! UNIMPLEMENTED.

mod auth;
mod cluster;
mod health;
pub(crate) mod kv;
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
use kvorum_store::Caller;

use crate::auth::matrix::{self, Door};
use crate::auth::{Credentials, Identity};
use crate::core::Core;
use crate::grpc::{MessageReader, Responder, Status};
use crate::metrics::{GrpcCode, GrpcMethod};
use crate::worker::Worker;

/// Whether a method is answered with a stream.
pub fn is_streaming(method: GrpcMethod) -> bool {
    use GrpcMethod as M;
    matches!(method, M::Watch | M::LeaseKeepAlive | M::HealthWatch | M::Snapshot | M::RangeStream)
}

/// What the headers of a call said.
#[derive(Clone)]
pub struct Call {
    pub method: GrpcMethod,
    pub deadline: Option<Instant>,
    pub credentials: Credentials,
    /// Who it is, once that was found out; nobody while authentication is disabled.
    pub identity: Option<Identity>,
    /// The metadata `hasleader: true`: fail at once while there is no leader.
    pub require_leader: bool,
}

impl Call {
    pub fn caller(&self) -> Caller<'_> {
        self.identity.as_ref().map_or(Caller::NOBODY, Identity::caller)
    }
}

/// Answers a unary call, now or when its entry is applied.
pub fn begin_unary(worker: &Rc<Worker>, call: Call, message: Bytes, respond: Responder) {
    worker.core.metrics.client_received_bytes_total.add(message.len() as u64);
    if let Some(error) = refusal(worker, &call, &message) {
        return worker.finish(call.method, respond, Err(error.into()));
    }
    if worker.reader.auth_generation() == 0 || matrix::row(call.method).0 == Door::Open {
        return let_in(worker, call, message, respond);
    }
    match worker.identify_known(&call.credentials) {
        Some(identity) => begin_identified(worker, call, identity, message, respond),
        None => {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                let identity = worker.identify(&call.credentials).await;
                begin_identified(&worker, call, identity, message, respond);
            });
        }
    }
}

fn begin_identified(
    worker: &Rc<Worker>,
    mut call: Call,
    identity: Result<Option<Identity>, EtcdError>,
    message: Bytes,
    respond: Responder,
) {
    match identity.and_then(|identity| worker.admit(&mut call, identity, &message)) {
        Ok(()) => let_in(worker, call, message, respond),
        Err(error) => worker.finish(call.method, respond, Err(error.into())),
    }
}

fn let_in(worker: &Rc<Worker>, call: Call, message: Bytes, respond: Responder) {
    match call.method {
        GrpcMethod::Range => kv::range(worker, call, message, respond),
        GrpcMethod::Put => kv::put(worker, call, message, respond),
        GrpcMethod::DeleteRange => kv::delete_range(worker, call, message, respond),
        GrpcMethod::Txn => kv::txn(worker, call, message, respond),
        GrpcMethod::Compact => kv::compact(worker, call, message, respond),
        _ => {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                let work = answer(&worker, &call, message);
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
fn refusal(worker: &Rc<Worker>, call: &Call, message: &Bytes) -> Option<EtcdError> {
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
pub async fn leader_lost(core: &Core, call: &Call) {
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

async fn answer(worker: &Rc<Worker>, call: &Call, message: Bytes) -> Result<Bytes, Status> {
    match call.method {
        GrpcMethod::LeaseGrant => lease::grant(worker, call, message).await,
        GrpcMethod::LeaseRevoke => lease::revoke(worker, call, message).await,
        GrpcMethod::LeaseTimeToLive => lease::time_to_live(worker, call, message).await,
        GrpcMethod::LeaseLeases => lease::leases(worker, call),
        GrpcMethod::MemberList => cluster::member_list(worker, message).await,
        GrpcMethod::MemberAdd => cluster::member_add(worker, message).await,
        GrpcMethod::MemberRemove => cluster::member_remove(worker, message).await,
        GrpcMethod::MemberUpdate => cluster::member_update(worker, message).await,
        GrpcMethod::MemberPromote => cluster::member_promote(worker, call, message).await,
        GrpcMethod::Alarm => maintenance::alarm(worker, message).await,
        GrpcMethod::Status => maintenance::status(worker, call),
        GrpcMethod::Defragment => maintenance::defragment(worker, message).await,
        GrpcMethod::MoveLeader => maintenance::move_leader(worker, message).await,
        GrpcMethod::Downgrade => maintenance::downgrade(worker, message).await,
        GrpcMethod::Hash => maintenance::hash(worker).await,
        GrpcMethod::HashKv => maintenance::hash_kv(worker, message).await,
        GrpcMethod::HealthCheck => health::check(message),
        GrpcMethod::HealthList => Ok(health::list()),
        GrpcMethod::Authenticate => auth::authenticate(worker, message).await,
        GrpcMethod::UserAdd | GrpcMethod::UserChangePassword => auth::with_password(worker, call, message).await,
        GrpcMethod::AuthEnable
        | GrpcMethod::AuthDisable
        | GrpcMethod::AuthStatus
        | GrpcMethod::UserGet
        | GrpcMethod::UserList
        | GrpcMethod::UserDelete
        | GrpcMethod::UserGrantRole
        | GrpcMethod::UserRevokeRole
        | GrpcMethod::RoleAdd
        | GrpcMethod::RoleGet
        | GrpcMethod::RoleList
        | GrpcMethod::RoleDelete
        | GrpcMethod::RoleGrantPermission
        | GrpcMethod::RoleRevokePermission => auth::by_log(worker, call, message).await,
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
        let mut call = call;
        // The others ask at each message, since they last.
        if matches!(call.method, GrpcMethod::RangeStream | GrpcMethod::Snapshot)
            && let Err(error) = identify_stream(&worker, &mut call).await
        {
            let metrics = &worker.core.metrics.grpc;
            metrics.started(call.method);
            metrics.handled(call.method, GrpcCode::from_number(error.code() as i32));
            return respond.fail(&error.into());
        }
        match call.method {
            GrpcMethod::Watch => watch::serve(&worker, &call, messages, respond).await,
            GrpcMethod::LeaseKeepAlive => lease::keep_alive(&worker, &call, messages, respond).await,
            GrpcMethod::HealthWatch => health::watch(&worker, &call, messages, respond).await,
            GrpcMethod::RangeStream => range_stream::serve(&worker, &call, messages, respond).await,
            GrpcMethod::Snapshot => snapshot::serve(&worker, &call, messages, respond).await,
            method => respond.fail(&Status::unimplemented(method.path())),
        }
    });
}

/// Finds out who opened a stream, and whether it may.
async fn identify_stream(worker: &Rc<Worker>, call: &mut Call) -> Result<(), EtcdError> {
    if worker.reader.auth_generation() == 0 {
        return Ok(());
    }
    let identity = worker.identify(&call.credentials).await?;
    worker.admit(call, identity, &[])
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
