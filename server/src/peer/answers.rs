//! The pages of the peer port that are not raft's: members, versions, leases, hashes, promotions.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use kvorum_api::etcdserverpb::{HashKvResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use kvorum_api::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use kvorum_store::{Member, members_to_json};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::contract::LeaseRefusal;
use super::http_client::{BodyError, collect};
use super::identity::{self, CLUSTER_ID, CLUSTER_ID_MISMATCH};
use super::serve::{Reply, answer, failure, with_cluster_id, wrong_method};
use super::{READ_TIMEOUT, Shared};
use crate::cluster::reconfiguration::promotion_refused_page;
use crate::cluster::{DOWNGRADE_ENABLED_PATH, MEMBERS_PATH, VERSION_PATH};
use crate::ids::to_hex;
use crate::limits::{PEER_LEASE_REQUEST_BYTES_MAX, PEER_REQUEST_BYTES_MAX};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/protobuf";

pub const PROMOTE_PREFIX: &str = "/members/promote/";
pub const HASH_KV: &str = "/members/hashkv";
pub const LEASES: &str = "/leases";
pub const LEASES_INTERNAL: &str = "/leases/internal";

/// What is asked of `/members/hashkv`.
#[derive(Serialize, Deserialize)]
pub struct HashKvQuestion {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: i64,
}

/// What it answers. Numbers that are 0 are left out, as Go does.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HashKvJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderJson>,
    #[serde(skip_serializing_if = "is_zero")]
    pub hash: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub compact_revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub hash_revision: i64,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HeaderJson {
    #[serde(skip_serializing_if = "is_zero")]
    pub cluster_id: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub member_id: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub raft_term: u64,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

pub(crate) async fn respond(shared: &Arc<Shared>, request: &mut Request<Incoming>, path: &str) -> Reply {
    match path {
        MEMBERS_PATH => members_page(shared, request.method()),
        HASH_KV => hash_kv_page(shared, request).await,
        LEASES | LEASES_INTERNAL => lease_page(shared, request, path).await,
        DOWNGRADE_ENABLED_PATH => downgrade_page(shared, request.method()).await,
        VERSION_PATH if request.method() != Method::GET => wrong_method(Some("GET")),
        VERSION_PATH => answer(StatusCode::OK, JSON, json(&shared.answers.versions())),
        _ => match path.strip_prefix(PROMOTE_PREFIX) {
            Some(member) => promote_page(shared, request, member).await,
            None => failure(StatusCode::NOT_FOUND, "404 page not found"),
        },
    }
}

fn members_page(shared: &Shared, method: &Method) -> Reply {
    if method != Method::GET {
        return wrong_method(Some("GET"));
    }
    with_cluster_id(shared, answer(StatusCode::OK, JSON, members_json(&shared.answers.members())))
}

/// With the newline that Go's encoder ends with.
fn members_json(members: &[Member]) -> Vec<u8> {
    let mut text = members_to_json(members);
    text.push(b'\n');
    text
}

async fn promote_page(shared: &Shared, request: &Request<Incoming>, member: &str) -> Reply {
    if request.method() != Method::POST {
        return wrong_method(Some("POST"));
    }
    let decimal = member.bytes().all(|byte| byte.is_ascii_digit());
    let Some(id) = decimal.then(|| member.parse::<u64>().ok()).flatten() else {
        let text = format!("member {member} not found in cluster");
        return with_cluster_id(shared, failure(StatusCode::NOT_FOUND, &text));
    };
    let token = request.headers().get(AUTHORIZATION).and_then(|token| token.to_str().ok()).map(str::to_owned);
    let reply = match shared.answers.promote(id, token).await {
        Ok(members) => answer(StatusCode::OK, JSON, members_json(&members)),
        Err(error) => {
            tracing::warn!(member_id = to_hex(id).as_str(), error = error.text(), "failed to promote a member");
            let (status, text) = promotion_refused_page(error);
            let status = StatusCode::from_u16(status).expect("a status between 100 and 999");
            if status.is_server_error() { answer(status, JSON, text) } else { failure(status, text.trim_end()) }
        }
    };
    with_cluster_id(shared, reply)
}

async fn hash_kv_page(shared: &Shared, request: &mut Request<Incoming>) -> Reply {
    if request.method() != Method::GET {
        return wrong_method(Some("GET"));
    }
    let cluster = identity::text(request.headers(), &CLUSTER_ID).unwrap_or_default();
    if !cluster.is_empty() && cluster != to_hex(shared.config.cluster_id) {
        return failure(StatusCode::PRECONDITION_FAILED, CLUSTER_ID_MISMATCH);
    }
    let Ok(body) = collect(request.body_mut(), PEER_REQUEST_BYTES_MAX, READ_TIMEOUT).await else {
        return failure(StatusCode::BAD_REQUEST, "error reading body");
    };
    let Ok(question) = serde_json::from_slice::<HashKvQuestion>(&body) else {
        return failure(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    match shared.answers.hash_kv(question.revision).await {
        Ok(response) => with_cluster_id(shared, answer(StatusCode::OK, JSON, json(&hash_kv_json(&response)))),
        Err(text) => {
            tracing::warn!(requested_revision = question.revision, error = text, "failed to get hashKV");
            failure(StatusCode::BAD_REQUEST, &text)
        }
    }
}

fn hash_kv_json(response: &HashKvResponse) -> HashKvJson {
    HashKvJson {
        header: response.header.as_ref().map(|header| HeaderJson {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            revision: header.revision,
            raft_term: header.raft_term,
        }),
        hash: response.hash,
        compact_revision: response.compact_revision,
        hash_revision: response.hash_revision,
    }
}

async fn lease_page(shared: &Shared, request: &mut Request<Incoming>, path: &str) -> Reply {
    if request.method() != Method::POST {
        return wrong_method(None);
    }
    let body = match collect(request.body_mut(), PEER_LEASE_REQUEST_BYTES_MAX, READ_TIMEOUT).await {
        Ok(body) => body,
        Err(BodyError::TooLong) => return failure(StatusCode::PAYLOAD_TOO_LARGE, "request body too large"),
        Err(BodyError::Broken(_)) => return failure(StatusCode::BAD_REQUEST, "error reading body"),
    };
    let unreadable = || failure(StatusCode::BAD_REQUEST, "error unmarshalling request");
    let answered = if path == LEASES {
        let Ok(request) = LeaseKeepAliveRequest::decode(body) else { return unreadable() };
        let renewed = shared.answers.renew_lease(request.id).await;
        renewed.map(|ttl| LeaseKeepAliveResponse { id: request.id, ttl, ..Default::default() }.encode_to_vec())
    } else {
        let Ok(request) = LeaseInternalRequest::decode(body) else { return unreadable() };
        // etcd's handler fails on a request without one, which ends the connection.
        let Some(request) = request.lease_time_to_live_request else { return unreadable() };
        let times = shared.answers.lease_times(request).await;
        times.map(|response| LeaseInternalResponse { lease_time_to_live_response: Some(response) }.encode_to_vec())
    };
    match answered {
        Ok(bytes) => answer(StatusCode::OK, PROTOBUF, bytes),
        Err(refusal) => {
            let status = match refusal {
                LeaseRefusal::NotFound => StatusCode::NOT_FOUND,
                LeaseRefusal::Timeout => StatusCode::REQUEST_TIMEOUT,
                LeaseRefusal::NotPrimary if path == LEASES_INTERNAL => StatusCode::INTERNAL_SERVER_ERROR,
                LeaseRefusal::NotPrimary | LeaseRefusal::Other(_) => StatusCode::BAD_REQUEST,
            };
            failure(status, &refusal.to_string())
        }
    }
}

async fn downgrade_page(shared: &Shared, method: &Method) -> Reply {
    if method != Method::GET {
        return wrong_method(Some("GET"));
    }
    let reply = match shared.answers.downgrade_enabled().await {
        Ok(enabled) => answer(StatusCode::OK, "text/plain", enabled.to_string()),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed linearized read: {error}")),
    };
    with_cluster_id(shared, reply)
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain fields always serialize")
}
