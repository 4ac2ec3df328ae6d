//! Maintenance: status, hashes and alarms.

use std::rc::Rc;

use bytes::Bytes;
use kvorum_api::Code;
use kvorum_api::etcdserverpb::downgrade_request::DowngradeAction;
use kvorum_api::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashResponse, InternalRaftRequest,
    MoveLeaderRequest, MoveLeaderResponse, StatusResponse,
};
use kvorum_store::{Caller, Reply};

use super::{Call, header, on_reader_pool, read_status};
use crate::ETCD_VERSION;
use crate::auth::Identity;
use crate::changes;
use crate::grpc::{Status, decode, frame_of};
use crate::worker::Worker;

/// Whoever may look at the whole cluster is also told which keys use most, while this member is short of space.
pub fn status(worker: &Rc<Worker>, call: &Call) -> Result<Bytes, Status> {
    let core = &worker.core;
    let membership = worker.reader.members();
    let mut errors: Vec<String> = Vec::new();
    if core.leader() == 0 {
        errors.push(kvorum_api::EtcdError::NoLeader.text().to_owned());
    }
    errors.extend(worker.reader.alarms().iter().map(alarm_text));
    let is_admin = || {
        let caller = call.identity.as_ref().map_or(Caller::NOBODY, Identity::caller);
        worker.reader.auth_generation() == 0 || worker.reader.auth().check_admin(caller).is_ok()
    };
    if let Some(largest) = core.space.largest_prefixes()
        && is_admin()
    {
        errors.push(format!("NOSPACE: key prefixes that use most: {largest}"));
    }
    Ok(frame_of(&StatusResponse {
        header: header(core, worker.reader.revision()),
        version: ETCD_VERSION.to_owned(),
        db_size: i64::try_from(core.backend_size_bytes()).unwrap_or(i64::MAX),
        leader: core.leader(),
        raft_index: core.commit_index(),
        raft_term: core.term(),
        raft_applied_index: worker.reader.applied_index(),
        errors,
        db_size_in_use: i64::try_from(core.backend_in_use_bytes()).unwrap_or(i64::MAX),
        is_learner: core.is_learner(),
        storage_version: worker.reader.storage_version().unwrap_or_default(),
        // etcd tells the flag's value, which is negative where there is no quota.
        db_size_quota: core.config.quota_bytes.map_or(-1, |quota| i64::try_from(quota).unwrap_or(i64::MAX)),
        downgrade_info: Some(DowngradeInfo {
            enabled: membership.downgrade.enabled,
            target_version: membership.downgrade.target_version.clone(),
        }),
    }))
}

/// An alarm as Go prints the message: a field that is 0 is left out, and a kind without a name is a number.
fn alarm_text(alarm: &AlarmMember) -> String {
    let kind =
        AlarmType::try_from(alarm.alarm).map_or_else(|_| alarm.alarm.to_string(), |kind| kind.as_str_name().to_owned());
    match alarm.member_id {
        0 => format!("alarm:{kind}"),
        member_id => format!("memberID:{member_id} alarm:{kind}"),
    }
}

pub async fn hash(worker: &Rc<Worker>) -> Result<Bytes, Status> {
    let reader = worker.reader.clone();
    let hash = on_reader_pool(move || reader.hash()).await?.map_err(|error| read_status(&error))?;
    Ok(frame_of(&HashResponse { header: header(&worker.core, worker.reader.revision()), hash }))
}

pub async fn hash_kv(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let request: HashKvRequest = decode(message)?;
    let reader = worker.reader.clone();
    let hashed =
        on_reader_pool(move || reader.hash_kv(request.revision)).await?.map_err(|error| read_status(&error))?;
    Ok(frame_of(&HashKvResponse {
        header: header(&worker.core, hashed.revision),
        hash: hashed.hash,
        compact_revision: hashed.compact_revision,
        hash_revision: hashed.hash_revision,
    }))
}

/// Shrinks the database of this member and answers when it is done. The response has no header, as in etcd.
pub async fn defragment(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let DefragmentRequest {} = decode(message)?;
    let core = &worker.core;
    tracing::info!("starting defragment");
    core.shrinking.shrink(core).await.map_err(|reason| Status::new(Code::Unknown, reason))?;
    tracing::info!("finished defragment");
    Ok(frame_of(&DefragmentResponse::default()))
}

/// Hands leadership over; only the leader can. The response has no header, as in etcd.
pub async fn move_leader(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let request: MoveLeaderRequest = decode(message)?;
    changes::move_leader(&worker.core, request.target_id).await?;
    Ok(frame_of(&MoveLeaderResponse::default()))
}

/// Asks about a downgrade, begins one or ends it. The response names the cluster version.
pub async fn downgrade(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let request: DowngradeRequest = decode(message)?;
    let core = &worker.core;
    let version = match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => changes::downgrade(core, &request.version, false).await?,
        Ok(DowngradeAction::Enable) => changes::downgrade(core, &request.version, true)
            .await
            .inspect_err(|error| tracing::warn!(error = %error, "reject downgrade request"))?,
        Ok(DowngradeAction::Cancel) => changes::cancel_downgrade(core).await?,
        Err(_) => return Err(Status::new(Code::Unknown, "etcdserver: unknown method")),
    };
    let header = header(core, worker.reader.revision());
    Ok(frame_of(&DowngradeResponse { header, version: version.major_minor_text() }))
}

/// Every action goes through the log, asking included, as in etcd.
pub async fn alarm(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let alarm: AlarmRequest = decode(message)?;
    let request = InternalRaftRequest { alarm: Some(alarm), ..InternalRaftRequest::default() };
    let applied = worker.core.propose(request).await?;
    let Reply::Alarm(alarms) = applied.reply else {
        unreachable!("an alarm request is answered with alarms");
    };
    Ok(frame_of(&AlarmResponse { header: header(&worker.core, applied.revision), alarms }))
}
