//! Cluster: who the members are. Changes of membership come with clusters.

use std::rc::Rc;

use bytes::Bytes;
use kvorum_api::etcdserverpb::{Member, MemberListRequest, MemberListResponse};

use super::{header, linearize};
use crate::grpc::{Status, decode, frame_of};
use crate::worker::Worker;

/// Responses of this service carry no revision, as in etcd.
pub async fn member_list(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let request: MemberListRequest = decode(message)?;
    let core = &worker.core;
    if request.linearizable {
        linearize(core).await?;
    }
    let membership = worker.reader.members();
    let members = membership
        .members
        .values()
        .map(|member| Member {
            id: member.id,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            is_learner: member.is_learner,
        })
        .collect();
    Ok(frame_of(&MemberListResponse { header: header(core, 0), members }))
}
