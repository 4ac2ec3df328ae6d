//! Leases: grants and revocations go through the log, renewals through the leader's timers.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::{
    InternalRaftRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use kvorum_store::{Access, Reply, quota_cost};

use super::{Call, header};
use crate::grpc::{MessageReader, Responder, Status, decode, decode_streamed, frame_of};
use crate::leases::{renew, times};
use crate::worker::Worker;

pub async fn grant(worker: &Rc<Worker>, call: &Call, message: Bytes) -> Result<Bytes, Status> {
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
    let applied = core.propose_for(call.identity.as_ref(), request).await?;
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

pub async fn revoke(worker: &Rc<Worker>, call: &Call, message: Bytes) -> Result<Bytes, Status> {
    let revoke: LeaseRevokeRequest = decode(message)?;
    let request = InternalRaftRequest { lease_revoke: Some(revoke), ..InternalRaftRequest::default() };
    let applied = worker.core.propose_for(call.identity.as_ref(), request).await?;
    Ok(frame_of(&LeaseRevokeResponse { header: header(&worker.core, applied.revision) }))
}

/// A missing lease has TTL -1; it is no error.
pub async fn time_to_live(worker: &Rc<Worker>, call: &Call, message: Bytes) -> Result<Bytes, Status> {
    let request: LeaseTimeToLiveRequest = decode(message)?;
    let core = &worker.core;
    // A lease's keys are told to who may read them all (CVE-2023-32082).
    let checked = match worker.auth().filter(|_| request.keys) {
        Some(auth) => {
            worker.reader.check_lease_permission(&auth, call.caller(), Access::Read, request.id)?;
            Some(auth.revision())
        }
        None => None,
    };
    let found = times(core, &request).await?;
    // The answer may be another member's, with keys that came meanwhile.
    if request.keys && worker.auth().is_some_and(|auth| checked != Some(auth.revision())) {
        return Err(EtcdError::AuthOldRevision.into());
    }
    let missing = || LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..LeaseTimeToLiveResponse::default() };
    let response = found.unwrap_or_else(missing);
    // A member's answer carries its own header, also where another one looked.
    Ok(frame_of(&LeaseTimeToLiveResponse { header: header(core, worker.reader.revision()), ..response }))
}

/// What this member knows, which may be late, as in etcd. Told to who may read the keys of all leases.
pub fn leases(worker: &Rc<Worker>, call: &Call) -> Result<Bytes, Status> {
    let ids = worker.reader.lease_ids();
    if let Some(auth) = worker.auth() {
        for id in &ids {
            worker.reader.check_lease_permission(&auth, call.caller(), Access::Read, *id)?;
        }
    }
    let leases = ids.into_iter().map(|id| LeaseStatus { id }).collect();
    Ok(frame_of(&LeaseLeasesResponse { header: header(&worker.core, worker.reader.revision()), leases }))
}

/// Answers each renewal in order until the client ends the stream.
pub async fn keep_alive(worker: &Rc<Worker>, call: &Call, mut messages: MessageReader, respond: Responder) {
    let Some(mut stream) = respond.stream() else { return };
    let mut stop = worker.core.watch_stop();
    loop {
        let message = tokio::select! {
            message = poll_fn(|context| messages.poll_message(context)) => message,
            () = super::reached(call.deadline) => return stream.finish(Err(Status::deadline_exceeded())),
            () = super::leader_lost(&worker.core, call) => return stream.finish(Err(EtcdError::NoLeader.into())),
            _ = stop.wait_for(|stopping| *stopping) => return stream.finish(Err(EtcdError::Stopped.into())),
        };
        let renewed = match message {
            None => return stream.finish(Ok(())),
            Some(Err(status)) => return stream.finish(Err(status)),
            Some(Ok(message)) => renew_for(worker, call, message).await,
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

async fn renew_for(worker: &Rc<Worker>, call: &Call, message: Bytes) -> Result<Bytes, Status> {
    let request: LeaseKeepAliveRequest = decode_streamed(message)?;
    if worker.reader.auth_generation() != 0 {
        check_renewal(worker, call, request.id).await?;
    }
    // The header's revision is that before the renewal: a watch that begins there misses nothing that a lapse of the
    // lease would have done.
    let header = header(&worker.core, worker.reader.revision());
    // A lease that does not exist is answered with no time left.
    let ttl = renew(&worker.core, request.id).await?.unwrap_or(0);
    Ok(frame_of(&LeaseKeepAliveResponse { header, id: request.id, ttl }))
}

/// Who may not write all keys of a lease may not keep them alive either. Asked at each renewal, since a stream lasts.
async fn check_renewal(worker: &Rc<Worker>, call: &Call, id: i64) -> Result<(), Status> {
    let mut call = call.clone();
    let identity = worker.identify(&call.credentials).await?;
    worker.admit(&mut call, identity, &[])?;
    if let Some(auth) = worker.auth() {
        worker.reader.check_lease_permission(&auth, call.caller(), Access::Write, id)?;
    }
    Ok(())
}
