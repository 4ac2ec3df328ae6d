//! The peer port: accepts other members' connections and answers their requests as etcd does, with its texts, codes and
//! headers.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kvorum_api::raftpb::{Message, MessageType};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::framing::{EnvelopeDecoder, StreamKind};
use super::http_client::{collect, next_piece};
use super::identity::{self, CLUSTER_ID, PEER_URLS, RAFT_TO, SERVER_FROM, SERVER_VERSION};
use super::outbox::OutgoingStream;
use super::{READ_TIMEOUT, Shared, WRITE_TIMEOUT, answers, snapshot, timed};
use crate::ETCD_VERSION;
use crate::ids::to_hex;
use crate::limits::{ACCEPT_PAUSE_MILLISECONDS, PEER_MESSAGE_BYTES_MAX, PEER_SNAPSHOT_MESSAGE_BYTES_MAX};
use crate::log::format_time;
use crate::tls::IncomingTls;

const TEXT: &str = "text/plain; charset=utf-8";
const STREAM_PREFIX: &str = "/raft/stream/";

/// Why a message is not for this member; the text of a 403, etcd's where it has one.
pub(crate) enum Refusal {
    RemovedSender,
    OtherMember,
    /// A snapshot without its database, which comes by another way.
    NoDatabase,
}

impl Refusal {
    fn text(&self) -> &'static str {
        match self {
            Self::RemovedSender => "cannot process message from removed member",
            Self::OtherMember => "cannot process message to mismatch member",
            Self::NoDatabase => "cannot process snapshot without its database",
        }
    }
}

impl Shared {
    /// Whether the member takes the message.
    pub fn check(&self, message: &Message) -> Result<(), Refusal> {
        let local = || to_hex(self.config.member_id);
        if self.events.is_removed(message.from()) {
            let local = local();
            let removed = to_hex(message.from());
            tracing::warn!(
                local_member_id = local.as_str(),
                removed_member_id = removed.as_str(),
                "rejected Raft message from removed member"
            );
            return Err(Refusal::RemovedSender);
        }
        if message.to() != self.config.member_id {
            let (local, other) = (local(), to_hex(message.to()));
            tracing::warn!(
                local_member_id = local.as_str(),
                mismatch_member_id = other.as_str(),
                "rejected Raft message to mismatch member"
            );
            return Err(Refusal::OtherMember);
        }
        Ok(())
    }

    /// Whether a message that came without a database may go to the member.
    pub fn admit(&self, message: &Message) -> Result<(), Refusal> {
        self.check(message)?;
        if message.r#type() == MessageType::MsgSnap { Err(Refusal::NoDatabase) } else { Ok(()) }
    }
}

/// Accepts until the transport ends.
pub(crate) async fn accept(shared: Arc<Shared>, tls: Option<Arc<IncomingTls>>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(shared.config.connections_max));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without room the connection is closed, which its other end sees.
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                tokio::spawn(async move {
                    serve(shared, tls, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MILLISECONDS)).await;
            }
        }
    }
}

async fn serve(shared: Arc<Shared>, tls: Option<Arc<IncomingTls>>, stream: TcpStream) {
    let head_time = shared.config.head_time;
    let Some(stream) = timed::accepted(stream, tls.as_deref(), WRITE_TIMEOUT).await else { return };
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(respond(&shared, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever a peer does to its own connection ends that connection and nothing else.
    drop(connection.await);
}

/// A short answer, or a stream that lasts.
pub(crate) enum ResponseBody {
    Short(Full<Bytes>),
    Stream(OutgoingStream),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            ResponseBody::Short(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|Ok(frame): Result<_, Infallible>| Ok(frame)))
            }
            ResponseBody::Stream(stream) => Pin::new(stream).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Short(body) => body.is_end_stream(),
            ResponseBody::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Short(body) => body.size_hint(),
            ResponseBody::Stream(_) => SizeHint::default(),
        }
    }
}

pub(crate) type Reply = Response<ResponseBody>;

async fn respond(shared: &Arc<Shared>, mut request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/raft" => receive_message(shared, &mut request).await,
        "/raft/snapshot" => receive_snapshot(shared, &mut request).await,
        "/raft/probing" => {
            let now = format_time(SystemTime::now());
            answer(StatusCode::OK, TEXT, format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n"))
        }
        _ if path.starts_with(STREAM_PREFIX) => open_stream(shared, &request, &path),
        _ => answers::respond(shared, &mut request, &path).await,
    }
}

async fn receive_message(shared: &Arc<Shared>, request: &mut Request<Incoming>) -> Reply {
    if request.method() != Method::POST {
        return wrong_method(Some("POST"));
    }
    let reply = match shared.identity.check(request.headers()) {
        Ok(()) => {
            add_remote(shared, request.headers(), identity::text(request.headers(), &SERVER_FROM));
            receive_body(shared, request.body_mut()).await
        }
        Err(reason) => failure(StatusCode::PRECONDITION_FAILED, reason),
    };
    with_cluster_id(shared, reply)
}

async fn receive_body(shared: &Arc<Shared>, body: &mut Incoming) -> Reply {
    let local = to_hex(shared.config.member_id);
    let bytes = match collect(body, PEER_MESSAGE_BYTES_MAX, READ_TIMEOUT).await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(local_member_id = local.as_str(), error = %error, "failed to read Raft message");
            return failure(StatusCode::BAD_REQUEST, "error reading raft message");
        }
    };
    // Decoded from a slice, so that no part of a message keeps all of the request in memory.
    let message = match Message::decode(&bytes[..]) {
        Ok(message) => message,
        Err(error) => {
            tracing::warn!(local_member_id = local.as_str(), error = %error, "failed to unmarshal Raft message");
            return failure(StatusCode::BAD_REQUEST, "error unmarshalling raft message");
        }
    };
    if let Some(peer) = shared.peer(message.from()) {
        peer.status.metrics.received_bytes.add(bytes.len() as u64);
    }
    match shared.admit(&message) {
        Ok(()) => {
            shared.events.receive(vec![message]);
            no_content()
        }
        Err(refusal) => forbidden(&refusal),
    }
}

async fn receive_snapshot(shared: &Arc<Shared>, request: &mut Request<Incoming>) -> Reply {
    if request.method() != Method::POST {
        return wrong_method(Some("POST"));
    }
    let reply = match shared.identity.check(request.headers()) {
        Ok(()) => {
            add_remote(shared, request.headers(), identity::text(request.headers(), &SERVER_FROM));
            match receive_database(shared, request.body_mut()).await {
                Ok(()) => no_content(),
                Err(reply) => *reply,
            }
        }
        Err(reason) => failure(StatusCode::PRECONDITION_FAILED, reason),
    };
    with_cluster_id(shared, reply)
}

async fn receive_database(shared: &Arc<Shared>, body: &mut Incoming) -> Result<(), Box<Reply>> {
    let local = to_hex(shared.config.member_id);
    let (message, first) = receive_envelope(body).await.map_err(|error| {
        tracing::warn!(local_member_id = local.as_str(), error, "failed to decode Raft message");
        Box::new(failure(StatusCode::BAD_REQUEST, &format!("failed to decode raft message ({error})")))
    })?;
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    let from = to_hex(message.from());
    let (MessageType::MsgSnap, Some(metadata)) = (message.r#type(), metadata) else {
        let kind = message.r#type().as_str_name();
        tracing::warn!(
            local_member_id = local.as_str(),
            remote_snapshot_sender_id = from.as_str(),
            message_type = kind,
            "unexpected Raft message type"
        );
        return Err(Box::new(failure(StatusCode::BAD_REQUEST, "wrong raft message type")));
    };
    // etcd looks at this when it has the file; a message that will be refused should not fill the disk first.
    shared.check(&message).map_err(|refusal| Box::new(forbidden(&refusal)))?;
    let index = metadata.index();
    tracing::info!(
        local_member_id = local.as_str(),
        remote_snapshot_sender_id = from.as_str(),
        incoming_snapshot_index = index,
        incoming_snapshot_message_size_bytes = message.encoded_len(),
        "receiving database snapshot"
    );
    let peer = shared.peer(message.from());
    if let Some(peer) = &peer {
        peer.status.metrics.snapshots_receiving.add(1);
    }
    let begun = std::time::Instant::now();
    let received = snapshot::receive(shared, first, body, index).await;
    if let Some(peer) = &peer {
        let metrics = &peer.status.metrics;
        metrics.snapshots_receiving.add(-1);
        match &received {
            Ok((_, bytes)) => {
                metrics.received_bytes.add(*bytes);
                metrics.snapshots_received.increment();
                metrics.snapshot_receive_seconds.observe_duration(begun.elapsed());
            }
            Err(_) => metrics.snapshot_receive_failures.increment(),
        }
    }
    let (path, bytes) = received.map_err(|error| {
        tracing::warn!(
            local_member_id = local.as_str(),
            remote_snapshot_sender_id = from.as_str(),
            incoming_snapshot_index = index,
            error,
            "failed to save incoming database snapshot"
        );
        Box::new(failure(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to save KV snapshot ({error})")))
    })?;
    tracing::info!(
        local_member_id = local.as_str(),
        remote_snapshot_sender_id = from.as_str(),
        incoming_snapshot_index = index,
        incoming_snapshot_size_bytes = bytes,
        "received and saved database snapshot"
    );
    // The sender goes on when it is answered: what comes next fits only behind the database.
    shared.events.receive_snapshot(message, path).await.map_err(|reason| {
        tracing::warn!(
            local_member_id = local.as_str(),
            remote_snapshot_sender_id = from.as_str(),
            incoming_snapshot_index = index,
            reason,
            "did not take in a database snapshot"
        );
        Box::new(failure(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to apply KV snapshot ({reason})")))
    })
}

async fn receive_envelope(body: &mut Incoming) -> Result<(Message, bytes::BytesMut), String> {
    let mut decoder = EnvelopeDecoder::new(PEER_SNAPSHOT_MESSAGE_BYTES_MAX);
    while let Some(piece) = next_piece(body, READ_TIMEOUT).await.map_err(|error| error.to_string())? {
        if let Some(decoded) = decoder.push(&piece).map_err(|error| error.to_string())? {
            return Ok(decoded);
        }
    }
    Err("unexpected EOF".to_owned())
}

fn open_stream(shared: &Arc<Shared>, request: &Request<Incoming>, path: &str) -> Reply {
    if request.method() != Method::GET {
        return wrong_method(Some("GET"));
    }
    let mut reply = match shared.identity.check(request.headers()) {
        Ok(()) => accept_stream(shared, request.headers(), path),
        Err(reason) => failure(StatusCode::PRECONDITION_FAILED, reason),
    };
    reply.headers_mut().insert(SERVER_VERSION, HeaderValue::from_static(ETCD_VERSION));
    with_cluster_id(shared, reply)
}

fn accept_stream(shared: &Arc<Shared>, headers: &HeaderMap, path: &str) -> Reply {
    let local = to_hex(shared.config.member_id);
    let found = StreamKind::ALL.into_iter().find_map(|kind| Some((kind, path.strip_prefix(kind.path())?)));
    let Some((kind, id)) = found.filter(|(_, id)| !id.contains('/')) else {
        return failure(StatusCode::NOT_FOUND, "invalid path");
    };
    let Some(from) = identity::parse_id(id) else {
        tracing::warn!(local_member_id = local.as_str(), path = id, "failed to parse path into ID");
        return failure(StatusCode::NOT_FOUND, "invalid from");
    };
    let remote = to_hex(from);
    if shared.events.is_removed(from) {
        tracing::warn!(
            local_member_id = local.as_str(),
            remote_peer_id_from = remote.as_str(),
            "rejected stream from remote peer because it was removed"
        );
        return failure(StatusCode::GONE, "removed member");
    }
    let Some(peer) = shared.peer(from) else {
        // Either it belongs to another cluster with the same identifier, or this member has yet to learn of it.
        add_remote(shared, headers, Some(remote.as_str()));
        tracing::warn!(
            local_member_id = local.as_str(),
            remote_peer_id_from = remote.as_str(),
            cluster_id = to_hex(shared.config.cluster_id).as_str(),
            "failed to find remote peer in cluster"
        );
        return failure(StatusCode::NOT_FOUND, "error sender not found");
    };
    let meant = identity::text(headers, &RAFT_TO).unwrap_or_default();
    if meant != local {
        tracing::warn!(
            local_member_id = local.as_str(),
            remote_peer_id_header = meant,
            remote_peer_id_from = remote.as_str(),
            cluster_id = to_hex(shared.config.cluster_id).as_str(),
            "ignored streaming request; ID mismatch"
        );
        return failure(StatusCode::PRECONDITION_FAILED, "to field mismatch");
    }
    let outbox = peer.outbox(kind).expect("a member that is known has streams");
    let stream = outbox.attach(shared, from, &peer.status);
    Response::new(ResponseBody::Stream(stream))
}

/// A member that introduces itself can be answered, even if this one has yet to learn of it.
fn add_remote(shared: &Arc<Shared>, headers: &HeaderMap, from: Option<&str>) {
    let (Some(from), Some(urls)) = (from.and_then(identity::parse_id), identity::text(headers, &PEER_URLS)) else {
        return;
    };
    if urls.is_empty() {
        return;
    }
    let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
    if let Err(reason) = shared.add_remote(from, &urls) {
        tracing::warn!(remote_peer_id = to_hex(from).as_str(), error = reason, "failed to add a remote peer");
    }
}

pub(crate) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(ResponseBody::Short(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// As Go's `http.Error`: plain text, a newline behind it, and no guessing of types.
pub(crate) fn failure(status: StatusCode, text: &str) -> Reply {
    let mut response = answer(status, TEXT, format!("{text}\n"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

pub(crate) fn wrong_method(allowed: Option<&'static str>) -> Reply {
    let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    if let Some(allowed) = allowed {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    }
    response
}

pub(crate) fn with_cluster_id(shared: &Shared, mut reply: Reply) -> Reply {
    reply.headers_mut().insert(CLUSTER_ID, shared.identity.cluster_id());
    reply
}

fn no_content() -> Reply {
    let mut response = Response::new(ResponseBody::Short(Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn forbidden(refusal: &Refusal) -> Reply {
    answer(StatusCode::FORBIDDEN, "application/json", format!(r#"{{"message":"{}"}}"#, refusal.text()))
}
