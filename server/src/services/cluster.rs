//! Cluster: who the members are. Changes of membership come with clusters.

use std::rc::Rc;

use bytes::Bytes;
use kvorum_api::etcdserverpb::{Member, MemberListRequest, MemberListResponse, ResponseHeader};

use super::linearize;
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
    let header = Some(ResponseHeader {
        cluster_id: core.config.cluster_id,
        member_id: core.config.member_id,
        revision: 0,
        raft_term: core.term(),
    });
    Ok(frame_of(&MemberListResponse { header, members }))
}
