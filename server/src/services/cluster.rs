//! Cluster: who the members are, and changes of that. Responses carry no revision, as in etcd.

use std::rc::Rc;

use bytes::Bytes;
use kvorum_api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};

use super::{Call, header, linearize};
use crate::changes;
use crate::grpc::{Status, decode, frame_of};
use crate::worker::Worker;

pub async fn member_list(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let request: MemberListRequest = decode(message)?;
    let core = &worker.core;
    if request.linearizable {
        linearize(core).await?;
    }
    let members = worker.reader.members().members.values().map(to_wire).collect();
    Ok(frame_of(&MemberListResponse { header: header(core, 0), members }))
}

pub async fn member_add(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let request: MemberAddRequest = decode(message)?;
    let (member, members) = changes::add(&worker.core, &request.peer_urls, request.is_learner).await?;
    let members = members.iter().map(to_wire).collect();
    let member = Some(to_wire(&member));
    Ok(frame_of(&MemberAddResponse { header: header(&worker.core, 0), member, members }))
}

pub async fn member_remove(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let request: MemberRemoveRequest = decode(message)?;
    let members = changes::remove(&worker.core, request.id).await?.iter().map(to_wire).collect();
    Ok(frame_of(&MemberRemoveResponse { header: header(&worker.core, 0), members }))
}

pub async fn member_update(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let request: MemberUpdateRequest = decode(message)?;
    let members = changes::update(&worker.core, request.id, &request.peer_urls).await?.iter().map(to_wire).collect();
    Ok(frame_of(&MemberUpdateResponse { header: header(&worker.core, 0), members }))
}

pub async fn member_promote(worker: &Rc<Worker>, call: &Call, message: Bytes) -> Result<Bytes, Status> {
    let request: MemberPromoteRequest = decode(message)?;
    let members =
        changes::promote(&worker.core, request.id, call.credentials.token()).await?.iter().map(to_wire).collect();
    Ok(frame_of(&MemberPromoteResponse { header: header(&worker.core, 0), members }))
}

fn to_wire(member: &kvorum_store::Member) -> Member {
    Member {
        id: member.id,
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}
