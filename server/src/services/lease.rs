//! Leases: grants and revocations go through the log, renewals through the leader's timers.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::{
    InternalRaftRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use kvorum_node::lease_timers::Renewal;
use kvorum_store::{Reply, quota_cost};

use super::{Call, header, linearize};
use crate::core::Core;
use crate::grpc::{MessageReader, Responder, Status, decode, decode_streamed, frame_of};
use crate::worker::Worker;

pub async fn grant(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let core = &worker.core;
    let mut grant: LeaseGrantRequest = decode(message)?;
    while grant.id == 0 {
        let id = core.ids.next_lease_id();
        if worker.reader.lease(id).is_none() {
            grant.id = id;
        }
    }
    let request = InternalRaftRequest { lease_grant: Some(grant), ..InternalRaftRequest::default() };
    if !core.has_room(quota_cost(&request)) {
        super::kv::raise_no_space(core).await;
        return Err(EtcdError::NoSpace.into());
    }
    let applied = core.propose(request).await?;
    let Reply::LeaseGrant { id, ttl_seconds } = applied.reply else {
        unreachable!("a grant is answered with a grant");
    };
    Ok(frame_of(&LeaseGrantResponse {
        header: header(core, applied.revision),
        id,
        ttl: ttl_seconds,
        error: String::new(),
    }))
}

pub async fn revoke(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let revoke: LeaseRevokeRequest = decode(message)?;
    let request = InternalRaftRequest { lease_revoke: Some(revoke), ..InternalRaftRequest::default() };
    let applied = worker.core.propose(request).await?;
    Ok(frame_of(&LeaseRevokeResponse { header: header(&worker.core, applied.revision) }))
}

/// A missing lease has TTL -1; it is no error.
pub async fn time_to_live(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let request: LeaseTimeToLiveRequest = decode(message)?;
    let core = &worker.core;
    linearize(core).await?;
    let now = core.now();
    let found = core.state().lease_time_to_live(now, request.id);
    let (granted_ttl, ttl) = found.unwrap_or((0, -1));
    let keys = match found {
        Some(_) if request.keys => worker.reader.lease_keys(request.id).into_iter().map(Bytes::from).collect(),
        _ => Vec::new(),
    };
    Ok(frame_of(&LeaseTimeToLiveResponse {
        header: header(core, worker.reader.revision()),
        id: request.id,
        ttl,
        granted_ttl,
        keys,
    }))
}

pub async fn leases(worker: &Rc<Worker>) -> Result<Bytes, Status> {
    linearize(&worker.core).await?;
    let leases = worker.reader.lease_ids().into_iter().map(|id| LeaseStatus { id }).collect();
    Ok(frame_of(&LeaseLeasesResponse { header: header(&worker.core, worker.reader.revision()), leases }))
}

/// Answers each renewal in order until the client ends the stream.
pub async fn keep_alive(worker: &Rc<Worker>, call: Call, mut messages: MessageReader, respond: Responder) {
    let Some(mut stream) = respond.stream() else { return };
    let mut stop = worker.core.watch_stop();
    loop {
        let message = tokio::select! {
            message = poll_fn(|context| messages.poll_message(context)) => message,
            () = super::reached(call.deadline) => return stream.finish(Err(Status::deadline_exceeded())),
            _ = stop.wait_for(|stopping| *stopping) => return stream.finish(Err(EtcdError::Stopped.into())),
        };
        let renewed = match message {
            None => return stream.finish(Ok(())),
            Some(Err(status)) => return stream.finish(Err(status)),
            Some(Ok(message)) => renew_for(worker, message).await,
        };
        match renewed {
            Ok(frame) => {
                if !stream.send(frame).await {
                    return;
                }
            }
            Err(status) => return stream.finish(Err(status)),
        }
    }
}

async fn renew_for(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let request: LeaseKeepAliveRequest = decode_streamed(message)?;
    // The header's revision is that before the renewal: a watch that begins there misses nothing that a lapse of the
    // lease would have done.
    let header = header(&worker.core, worker.reader.revision());
    let ttl = renew(worker, request.id).await?;
    Ok(frame_of(&LeaseKeepAliveResponse { header, id: request.id, ttl }))
}

/// How long a renewal waits for a revocation before it looks again by itself.
const REVOCATION_CHECK: Duration = Duration::from_millis(100);

/// The TTL begun anew, or 0 if the lease does not exist. A lease that ran out is not revived: the renewal waits until
/// it is revoked.
async fn renew(worker: &Rc<Worker>, id: i64) -> Result<i64, Status> {
    let core = &worker.core;
    let mut waited_for_applied = false;
    loop {
        let changed = core.leases_changed.notified();
        match core.renew_lease(id) {
            Renewal::Renewed { ttl_seconds } => {
                core.metrics.lease_renewed_total.increment();
                return Ok(ttl_seconds);
            }
            // A grant that is still on its way counts.
            Renewal::NotFound if !waited_for_applied => {
                linearize(core).await?;
                waited_for_applied = true;
            }
            Renewal::NotFound => return Ok(0),
            Renewal::ClearCheckpointFirst => clear_checkpoint(core, id).await?,
            Renewal::Expired if core.is_stopping() => return Err(EtcdError::Stopped.into()),
            Renewal::Expired => drop(tokio::time::timeout(REVOCATION_CHECK, changed).await),
            Renewal::Unconfirmed => linearize(core).await?,
            Renewal::NotLeader => return Err(EtcdError::NoLeader.into()),
        }
    }
}

async fn clear_checkpoint(core: &Core, id: i64) -> Result<(), Status> {
    let (request_id, data) = core.state().clear_checkpoint(id);
    core.submit(request_id, data).await.map(drop).map_err(Status::from)
}
