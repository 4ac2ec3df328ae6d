//! Questions to other members over their peer port. Plain functions: they need no running transport, only a tokio
//! runtime with its network and timer. Each ends within its deadline, and understands status codes as etcd does. Connections
//! wait for the next question of the same dialer, but no question that must not be asked twice goes over one that waited.

use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use kvorum_api::etcdserverpb::{
    HashKvResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    ResponseHeader,
};
use kvorum_api::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use prost::Message as _;

use super::answers::{self, HashKvJson, HashKvQuestion};
use super::contract::{HASH_COMPACTED, HASH_FUTURE, LeaseRefusal};
use super::http_client::{Connection, collect, request};
use super::identity::{self, CLUSTER_ID, CLUSTER_ID_MISMATCH};
use super::kept::{QuestionConnection, is_end};
use super::timed::Dialer;
use crate::cluster::reconfiguration::{Promotion, read_promotion_page};
use crate::cluster::versions::Versions;
use crate::cluster::{DOWNGRADE_ENABLED_PATH, MEMBERS_PATH, PeerMembers, Peers, VERSION_PATH, parse_bool};
use crate::limits::PEER_ANSWER_BYTES_MAX;
use crate::urls::Url;

/// A member did not answer, or not in a way that means something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The deadline passed.
    Timeout,
    /// No connection, or a broken one.
    Unreachable(String),
    /// An answer that says nothing.
    Unclear(String),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => formatter.write_str("context deadline exceeded"),
            Self::Unreachable(reason) | Self::Unclear(reason) => formatter.write_str(reason),
        }
    }
}

impl std::error::Error for Unanswered {}

/// Why a question about a lease has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseUnanswered {
    /// The leader refused.
    Refused(LeaseRefusal),
    Unanswered(Unanswered),
}

/// Why there is no hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashUnanswered {
    Compacted,
    FutureRevision,
    ClusterIdMismatch,
    Unanswered(Unanswered),
}

impl fmt::Display for HashUnanswered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compacted => formatter.write_str(HASH_COMPACTED),
            Self::FutureRevision => formatter.write_str(HASH_FUTURE),
            Self::ClusterIdMismatch => formatter.write_str(CLUSTER_ID_MISMATCH),
            Self::Unanswered(unanswered) => unanswered.fmt(formatter),
        }
    }
}

/// `/members`. A list without members is an answer: the caller decides what it means.
pub async fn members_of(dialer: &Dialer, url: &Url, deadline: Duration) -> Result<PeerMembers, Unanswered> {
    let answer = ask(dialer, url, Question::get(MEMBERS_PATH), deadline).await?;
    // etcd does not look at the status either: what is no list of members is no answer.
    let cluster_id = identity::text(&answer.headers, &CLUSTER_ID).unwrap_or_default();
    PeerMembers::read(cluster_id, &answer.body).map_err(Unanswered::Unclear)
}

/// `/version`.
pub async fn version_of(dialer: &Dialer, url: &Url, deadline: Duration) -> Result<Versions, Unanswered> {
    let answer = ask(dialer, url, Question::get(VERSION_PATH), deadline).await?;
    Versions::from_json(&answer.body).map_err(Unanswered::Unclear)
}

/// `/downgrade/enabled`.
pub async fn downgrade_enabled(dialer: &Dialer, url: &Url, deadline: Duration) -> Result<bool, Unanswered> {
    let answer = ask(dialer, url, Question::get(DOWNGRADE_ENABLED_PATH), deadline).await?;
    parse_bool(&String::from_utf8_lossy(&answer.body)).map_err(Unanswered::Unclear)
}

/// Asks members over the network for what a cluster is formed and its version agreed on with.
#[derive(Clone, Default)]
pub struct HttpPeers(pub Dialer);

impl Peers for HttpPeers {
    async fn members_of(&self, url: &str, timeout: Duration) -> Result<PeerMembers, String> {
        members_of(&self.0, &parse(url)?, timeout).await.map_err(|unanswered| unanswered.to_string())
    }

    async fn versions_of(&self, url: &str, timeout: Duration) -> Result<Versions, String> {
        version_of(&self.0, &parse(url)?, timeout).await.map_err(|unanswered| unanswered.to_string())
    }

    async fn downgrade_enabled_of(&self, url: &str, timeout: Duration) -> Result<bool, String> {
        downgrade_enabled(&self.0, &parse(url)?, timeout).await.map_err(|unanswered| unanswered.to_string())
    }
}

fn parse(url: &str) -> Result<Url, String> {
    Url::parse(url).map_err(|error| error.to_string())
}

/// Renews a lease at the leader, asking its URLs one after another; gives the time to live in seconds. The deadline is
/// for each URL. Stops at the first answer, which may be a refusal, except that a member which did not apply its entries
/// in time, or did not answer, leads to the next URL.
pub async fn renew_lease(
    dialer: &Dialer,
    urls: &[Url],
    lease_id: i64,
    deadline: Duration,
) -> Result<i64, LeaseUnanswered> {
    let body = LeaseKeepAliveRequest { id: lease_id }.encode_to_vec();
    let bytes = ask_lease(dialer, urls, answers::LEASES, body.into(), deadline).await?;
    let response =
        LeaseKeepAliveResponse::decode(bytes).map_err(|error| LeaseUnanswered::Unanswered(unclear(error)))?;
    if response.id != lease_id {
        return Err(LeaseUnanswered::Unanswered(unclear("lease: renew id mismatch")));
    }
    Ok(response.ttl)
}

/// The remaining time of a lease, from the leader; URLs and deadline as for [`renew_lease`].
pub async fn lease_times(
    dialer: &Dialer,
    urls: &[Url],
    request: LeaseTimeToLiveRequest,
    deadline: Duration,
) -> Result<LeaseTimeToLiveResponse, LeaseUnanswered> {
    let body = LeaseInternalRequest { lease_time_to_live_request: Some(request) }.encode_to_vec();
    let bytes = ask_lease(dialer, urls, answers::LEASES_INTERNAL, body.into(), deadline).await?;
    let response = LeaseInternalResponse::decode(bytes).map_err(|error| LeaseUnanswered::Unanswered(unclear(error)))?;
    let times = response.lease_time_to_live_response.filter(|times| times.id == request.id);
    times.ok_or_else(|| LeaseUnanswered::Unanswered(unclear("lease: TTL id mismatch")))
}

/// Asks the leader to make a learner a voting member. `token` is the client's.
pub async fn promote(
    dialer: &Dialer,
    url: &Url,
    member_id: u64,
    token: Option<&str>,
    deadline: Duration,
) -> Result<Promotion, Unanswered> {
    let path = format!("{}{member_id}", answers::PROMOTE_PREFIX);
    let mut question = Question { method: Method::POST, repeatable: false, ..Question::get(&path) };
    if let Some(Ok(token)) = token.map(HeaderValue::from_str) {
        question.headers.insert(AUTHORIZATION, token);
    }
    let answer = ask(dialer, url, question, deadline).await?;
    Ok(read_promotion_page(answer.status.as_u16(), &answer.body))
}

/// The hash of another member's store at a revision.
pub async fn hash_kv(
    dialer: &Dialer,
    url: &Url,
    cluster_id: u64,
    revision: i64,
    deadline: Duration,
) -> Result<HashKvResponse, HashUnanswered> {
    let body = serde_json::to_vec(&HashKvQuestion { revision }).expect("a number always serializes");
    let mut question = Question { body: body.into(), ..Question::get(answers::HASH_KV) };
    question.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    question.headers.insert(CLUSTER_ID, identity::hex_value(cluster_id));
    let answer = ask(dialer, url, question, deadline).await.map_err(HashUnanswered::Unanswered)?;
    let text = answer.text();
    match answer.status {
        StatusCode::OK => {}
        StatusCode::BAD_REQUEST if text.contains(HASH_COMPACTED) => return Err(HashUnanswered::Compacted),
        StatusCode::BAD_REQUEST if text.contains(HASH_FUTURE) => return Err(HashUnanswered::FutureRevision),
        StatusCode::PRECONDITION_FAILED if text.contains(CLUSTER_ID_MISMATCH) => {
            return Err(HashUnanswered::ClusterIdMismatch);
        }
        _ => return Err(HashUnanswered::Unanswered(Unanswered::Unclear(format!("unknown error: {text}")))),
    }
    let json: HashKvJson =
        serde_json::from_slice(&answer.body).map_err(|error| HashUnanswered::Unanswered(unclear(error)))?;
    Ok(HashKvResponse {
        header: json.header.map(|header| ResponseHeader {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            revision: header.revision,
            raft_term: header.raft_term,
        }),
        hash: json.hash,
        compact_revision: json.compact_revision,
        hash_revision: json.hash_revision,
    })
}

async fn ask_lease(
    dialer: &Dialer,
    urls: &[Url],
    path: &str,
    body: Bytes,
    deadline: Duration,
) -> Result<Bytes, LeaseUnanswered> {
    let mut last = LeaseUnanswered::Unanswered(Unanswered::Unreachable("no URLs".to_owned()));
    for url in urls {
        let mut question = Question { method: Method::POST, body: body.clone(), ..Question::get(path) };
        question.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
        last = match ask(dialer, url, question, deadline).await {
            Err(unanswered) => LeaseUnanswered::Unanswered(unanswered),
            Ok(answer) => match answer.status {
                StatusCode::OK => return Ok(answer.body),
                StatusCode::NOT_FOUND => return Err(LeaseUnanswered::Refused(LeaseRefusal::NotFound)),
                StatusCode::REQUEST_TIMEOUT => LeaseUnanswered::Refused(LeaseRefusal::Timeout),
                _ => {
                    let text = format!("lease: unknown error({})", answer.text());
                    LeaseUnanswered::Refused(LeaseRefusal::Other(text))
                }
            },
        };
    }
    Err(last)
}

struct Question<'a> {
    method: Method,
    path: &'a str,
    headers: HeaderMap,
    body: Bytes,
    /// Whether it may be asked again where nobody knows whether it was heard: then it may go over a connection that was kept.
    repeatable: bool,
}

impl<'a> Question<'a> {
    fn get(path: &'a str) -> Question<'a> {
        Question { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new(), repeatable: true }
    }

    fn request(&self, url: &Url) -> io::Result<Request<Full<Bytes>>> {
        let mut request = request(self.method.clone(), url, self.path, Full::new(self.body.clone()))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answered {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }
}

async fn ask(dialer: &Dialer, url: &Url, question: Question<'_>, deadline: Duration) -> Result<Answered, Unanswered> {
    match tokio::time::timeout(deadline, exchange(dialer, url, &question, deadline)).await {
        Err(_) => Err(Unanswered::Timeout),
        Ok(Err(error)) => Err(Unanswered::Unreachable(format!("{url}{}: {error}", question.path))),
        Ok(Ok(answered)) => Ok(answered),
    }
}

/// Over a connection that was kept, if there is one, and over a new one if it turns out to be closed before it answered.
async fn exchange(dialer: &Dialer, url: &Url, question: &Question<'_>, deadline: Duration) -> io::Result<Answered> {
    let request = question.request(url)?;
    let kept = if question.repeatable { dialer.kept.take(url) } else { None };
    if let Some(mut connection) = kept {
        match connection.send(request.clone()).await {
            Err(error) if is_end(&error) => {}
            Err(error) => return Err(error),
            Ok(response) => return finish(dialer, url, connection, response, deadline).await,
        }
    }
    let mut connection = Connection::dial(dialer, url, deadline, deadline).await?;
    let response = connection.send(request).await?;
    finish(dialer, url, connection, response, deadline).await
}

/// Reads the rest of an answer, and keeps the connection for the next question.
async fn finish(
    dialer: &Dialer,
    url: &Url,
    connection: QuestionConnection,
    response: Response<Incoming>,
    deadline: Duration,
) -> io::Result<Answered> {
    let (head, mut body) = response.into_parts();
    let body = collect(&mut body, PEER_ANSWER_BYTES_MAX, deadline).await;
    let body = body.map_err(|error| io::Error::other(error.to_string()))?;
    dialer.kept.keep(url, connection);
    Ok(Answered { status: head.status, headers: head.headers, body })
}

fn unclear(error: impl fmt::Display) -> Unanswered {
    Unanswered::Unclear(error.to_string())
}
