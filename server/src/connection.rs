//! One client connection: HTTP/2 carries gRPC, HTTP/1.1 the health and metrics pages. They are told apart by the first
//! bytes, and by the protocol that was agreed on where there is TLS below.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Ping, RecvStream};
use http::{Request, StatusCode};
use kvorum_net::stream::Stream;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::access::Access;
use crate::auth::Credentials;
use crate::grpc::{MessageReader, Responder, Status, answer_content_type, parse_timeout};
use crate::held::Held;
use crate::limits::{
    CONNECTION_STREAMS_MAX, CONNECTION_WINDOW_BYTES, ConnectionLimits, ERROR_RESETS_MAX, HEADER_LIST_BYTES_MAX,
    PENDING_RESETS_MAX, REQUEST_END_SECONDS_MAX, STREAM_WINDOW_BYTES,
};
use crate::metrics::GrpcMethod;
use crate::pages;
use crate::payload::Payload;
use crate::pings::{Keepalive, KeepaliveConfig, KeepaliveStep, PingWatch};
use crate::services::{self, Call};
use crate::socket::{Flusher, GatheringSocket, gather};
use crate::tls::{Accepted, IncomingTls};
use crate::urls::quote;
use crate::worker::Worker;
use kvorum_api::{Code, EtcdError};

/// Requests taken from one connection before others of the thread have their turn.
const ACCEPTS_PER_TURN_MAX: usize = 512;

#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    pub message_bytes_max: usize,
    pub concurrent_streams_max: u32,
    pub keepalive: KeepaliveConfig,
    pub limits: ConnectionLimits,
    /// What browsers may ask for.
    pub access: Access,
}

/// What a port answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// gRPC and all pages.
    Everything,
    /// gRPC alone: `--listen-client-urls` beside `--listen-client-http-urls`.
    Calls,
    /// All pages and no gRPC.
    Pages,
    /// The pages of `--listen-metrics-urls`.
    Metrics,
}

/// A port that clients connect to. One of `plain` and `tls` is there, or both: then the first byte decides, as in etcd.
pub struct Port {
    pub serves: Serves,
    pub plain: bool,
    pub tls: Option<Arc<IncomingTls>>,
}

/// What calls may know of their connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    pub serves: Serves,
    /// There is TLS below.
    pub is_secure: bool,
    /// The common name in the certificate of the client, which was verified. Only with `--client-cert-auth`: etcd takes
    /// names from certificates for users then, and not when `--trusted-ca-file` alone asks for them. An empty name is a
    /// user that does not exist.
    pub client_certificate_common_name: Option<Arc<str>>,
}

/// The protocols offered to clients that speak TLS.
pub const PROTOCOLS: &[&[u8]] = &[HTTP2, b"http/1.1"];
const HTTP2: &[u8] = b"h2";

/// What the first bytes of a connection say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Preface {
    Http1,
    Http2,
    Tls,
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, port: Arc<Port>, config: Rc<ConnectionConfig>) {
    // As grpc-go does: data that nobody acknowledges end the connection after the same time as pings.
    let timeout = u32::try_from(config.keepalive.timeout.as_millis()).unwrap_or(u32::MAX);
    if stream.set_nodelay(true).is_err() || rustix::net::sockopt::set_tcp_user_timeout(&stream, timeout).is_err() {
        return;
    }
    let preface = match &port.tls {
        Some(_) if !port.plain => Preface::Tls,
        _ => match tokio::time::timeout(config.limits.preface_time, preface(&stream)).await {
            Ok(Ok(preface)) => preface,
            // Nobody said anything, or the socket is gone.
            Ok(Err(_)) | Err(_) => return,
        },
    };
    #[cfg(test)]
    worker.core.planted.strike(crate::planted::Place::Connection);
    match (&port.tls, preface) {
        (Some(tls), Preface::Tls) => serve_secured(worker, tls, stream, port.serves, config).await,
        (_, preface) => {
            let info = ConnectionInfo { serves: port.serves, is_secure: false, client_certificate_common_name: None };
            let has_calls = matches!(port.serves, Serves::Everything | Serves::Calls);
            if preface == Preface::Http2 && has_calls {
                serve_http2(worker, Stream::Plain(stream), config, info.into()).await;
            } else if port.serves != Serves::Calls {
                crate::http1_connection::serve(worker, Stream::Plain(stream), config, info.into()).await;
            }
        }
    }
}

async fn serve_secured(
    worker: Rc<Worker>,
    tls: &IncomingTls,
    stream: TcpStream,
    serves: Serves,
    config: Rc<ConnectionConfig>,
) {
    let Some(Accepted { stream, protocol, certificate }) = tls.accept(stream).await else { return };
    let name = certificate.filter(|_| tls.names_users()).map(|certificate| certificate.common_name);
    let info = ConnectionInfo { serves, is_secure: true, client_certificate_common_name: name.map(Arc::from) };
    if protocol.as_deref() == Some(HTTP2) {
        serve_http2(worker, stream, config, info.into()).await;
    } else if serves != Serves::Calls {
        crate::http1_connection::serve(worker, stream, config, info.into()).await;
    }
}

/// HTTP/2 begins with "PRI", as no method of HTTP/1.1 does; TLS with the kind of its first record.
async fn preface(stream: &TcpStream) -> io::Result<Preface> {
    const HANDSHAKE_RECORD: u8 = 22;
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let mut start = [0; 3];
        let mut count = 0;
        let peeked = stream.try_io(Interest::READABLE, || {
            (count, _) = rustix::net::recv(stream, &mut start, RecvFlags::PEEK)?;
            // Too little of "PRI" to know: as if nothing were there, so that we are woken by more and not by the same.
            let unclear = (1..start.len()).contains(&count) && start[..count] == b"PRI"[..count];
            if unclear { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match peeked {
            Ok(()) if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(()) if start[0] == HANDSHAKE_RECORD => return Ok(Preface::Tls),
            Ok(()) if start == *b"PRI" => return Ok(Preface::Http2),
            Ok(()) => return Ok(Preface::Http1),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ready.is_read_closed() => {}
            Err(error) => return Err(error),
        }
    }
}

async fn serve_http2(worker: Rc<Worker>, stream: Stream, config: Rc<ConnectionConfig>, info: Rc<ConnectionInfo>) {
    let (socket, flusher) = gather(stream, PingWatch::new(config.keepalive.gap_min, Instant::now()));
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(config.concurrent_streams_max.min(CONNECTION_STREAMS_MAX))
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .handshake::<_, Payload>(socket);
    let mut handshake = pin!(tokio::time::timeout(config.limits.preface_time, handshake));
    let connection = poll_fn(|context| {
        let polled = handshake.as_mut().poll(context);
        // The settings must reach the peer even while we wait for its own.
        match flusher.poll_flush(context) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => polled.map(|result| result.ok().and_then(Result::ok)),
        }
    })
    .await;
    let Some(mut connection) = connection else { return };
    let held = Held::new(&worker.held_bytes, config.limits.held);
    let mut keepalive = Pinger::new(&mut connection, &config.keepalive);
    let mut leave = worker.core.watch_leaving();
    let mut leaving = pin!(async move {
        // An error means that the core is gone, which is a stop too.
        drop(leave.wait_for(|leaving| *leaving).await);
    });
    let mut stopping = false;
    // h2 takes the preface alone for a handshake, and would wait for the settings for ever.
    let mut settings_due = Some(Box::pin(tokio::time::sleep(config.limits.preface_time)));
    let end = poll_fn(|context| {
        if !stopping && leaving.as_mut().poll(context).is_ready() {
            stopping = true;
            connection.graceful_shutdown();
        }
        if flusher.has_frames() {
            settings_due = None;
        }
        if settings_due.as_mut().is_some_and(|due| due.as_mut().poll(context).is_ready()) {
            return Poll::Ready(End::Closed);
        }
        if keepalive.poll_dead(context, &flusher).is_ready() {
            return Poll::Ready(End::Closed);
        }
        let ended = accept(&worker, &config, &info, &held, &mut connection, context);
        if !flusher.judge_pings(|| connection.has_streams()) {
            return Poll::Ready(End::TooManyPings);
        }
        match flusher.poll_flush(context) {
            Poll::Ready(Err(_)) => Poll::Ready(End::Closed),
            _ if ended => Poll::Ready(End::Closed),
            _ => Poll::Pending,
        }
    })
    .await;
    if end == End::TooManyPings {
        flusher.say_go_away().await;
    }
}

/// How a connection ends.
#[derive(PartialEq, Eq)]
enum End {
    Closed,
    TooManyPings,
}

/// Takes requests and drives the connection; true when it ended.
fn accept(
    worker: &Rc<Worker>,
    config: &Rc<ConnectionConfig>,
    info: &Rc<ConnectionInfo>,
    held: &Rc<Held>,
    connection: &mut Connection<GatheringSocket, Payload>,
    context: &mut Context<'_>,
) -> bool {
    for _ in 0..ACCEPTS_PER_TURN_MAX {
        match connection.poll_accept(context) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok((request, respond)))) => {
                begin_call(worker, config, info, held, request, respond, context);
            }
            Poll::Ready(Some(Err(_)) | None) => return true,
        }
    }
    context.waker().wake_by_ref();
    false
}

/// Reads the request and hands it to its service; a body that came along with its headers needs no task of its own.
fn begin_call(
    worker: &Rc<Worker>,
    config: &Rc<ConnectionConfig>,
    info: &Rc<ConnectionInfo>,
    held: &Rc<Held>,
    request: Request<RecvStream>,
    respond: SendResponse<Payload>,
    context: &mut Context<'_>,
) {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    let answer_type = content_type.and_then(answer_content_type);
    let is_grpc = answer_type.is_some();
    let is_page = match info.serves {
        Serves::Everything => info.is_secure && !is_grpc,
        Serves::Calls => false,
        Serves::Pages | Serves::Metrics => true,
    };
    if is_page {
        return pages::begin(worker, info, config, held, request, respond);
    }
    let (head, body) = request.into_parts();
    let content_type = head.headers.get(http::header::CONTENT_TYPE);
    let respond = Responder::new(respond, answer_type, held);
    if !is_grpc {
        return refuse_content_type(content_type, respond);
    }
    let timeout = match head.headers.get("grpc-timeout").map(parse_timeout).transpose() {
        Ok(timeout) => timeout,
        Err(text) => {
            let status = Status::new(Code::Internal, format!("malformed grpc-timeout: {text}"));
            return respond.abort(StatusCode::BAD_REQUEST, &status);
        }
    };
    if head.method != http::Method::POST {
        let text = format!("Received a HEADERS frame with :method \"{}\" which should be POST", head.method);
        return respond.abort(StatusCode::METHOD_NOT_ALLOWED, &Status::new(Code::Internal, text));
    }
    // A query is part of a gRPC path, and no method has one.
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let Some(method) = GrpcMethod::from_path(path) else {
        return respond.fail(&Status::unimplemented(path));
    };
    if head.headers.get("client-api-version").is_some_and(|version| str::from_utf8(version.as_bytes()).is_err()) {
        return respond.fail(&EtcdError::InvalidClientAPIVersion.into());
    }
    if held.is_full() {
        return worker.finish(method, respond, Err(EtcdError::RequestTooManyRequests.into()));
    }
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let require_leader = head.headers.get("hasleader").is_some_and(|value| value == "true");
    let streaming = services::is_streaming(method);
    // A stream may outlive the time without authentication; a unary call is over before.
    let credentials = match streaming || worker.reader.auth_generation() != 0 {
        true => Credentials::of_call(&head.headers, info.client_certificate_common_name.as_ref()),
        false => Credentials::default(),
    };
    let call = Call { method, deadline, credentials, identity: None, require_leader };
    let encoding = head.headers.get("grpc-encoding");
    let mut messages = MessageReader::new(body, config.message_bytes_max, encoding, !streaming, held);
    if streaming {
        return services::begin_stream(worker, call, messages, respond);
    }
    match messages.poll_message(context) {
        Poll::Ready(message) => {
            finish_request(worker, call, message, respond);
            if !messages.is_at_end() {
                tokio::task::spawn_local(await_end(messages));
            }
        }
        Poll::Pending => {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                let message = tokio::select! {
                    message = poll_fn(|context| messages.poll_message(context)) => message,
                    () = services::reached(call.deadline) => Some(Err(Status::deadline_exceeded())),
                };
                finish_request(&worker, call, message, respond);
                await_end(messages).await;
            });
        }
    }
}

/// Keeps the stream of a unary call until its request has ended. Some clients (hyper) end it with a frame of its own, which
/// the answer may overtake. h2 would reset a stream that nobody reads when it is answered, and close the whole connection
/// for "too many internal resets" after some thousand frames for streams that it has forgotten.
async fn await_end(mut messages: MessageReader) {
    let end = poll_fn(|context| messages.poll_end(context));
    // One that never ends its request is reset, as are all that send more than one message.
    drop(tokio::time::timeout(Duration::from_secs(REQUEST_END_SECONDS_MAX), end).await);
}

fn finish_request(worker: &Rc<Worker>, call: Call, message: Option<Result<Bytes, Status>>, respond: Responder) {
    match message {
        _ if call.deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
            worker.finish(call.method, respond, Err(Status::deadline_exceeded()));
        }
        Some(Ok(message)) => services::begin_unary(worker, call, message, respond),
        Some(Err(status)) => worker.finish(call.method, respond, Err(status)),
        None => worker.finish(call.method, respond, Err(Status::new(Code::Unknown, "EOF"))),
    }
}

fn refuse_content_type(content_type: Option<&http::HeaderValue>, respond: Responder) {
    let content_type = content_type.map_or("".into(), |value| String::from_utf8_lossy(value.as_bytes()));
    let text = format!("invalid gRPC request content-type {}", quote(&content_type));
    respond.abort(StatusCode::UNSUPPORTED_MEDIA_TYPE, &Status::new(Code::InvalidArgument, text));
}

/// Pings a silent client and gives the connection up when it stays silent.
struct Pinger {
    /// h2 hands it out once.
    ping_pong: Option<h2::PingPong>,
    timer: std::pin::Pin<Box<tokio::time::Sleep>>,
    keepalive: Keepalive,
}

impl Pinger {
    fn new(connection: &mut Connection<GatheringSocket, Payload>, config: &KeepaliveConfig) -> Self {
        Self {
            ping_pong: connection.ping_pong(),
            timer: Box::pin(tokio::time::sleep(config.interval)),
            keepalive: Keepalive::new(config, Instant::now()),
        }
    }

    /// Ready when the client is gone.
    fn poll_dead(&mut self, context: &mut Context<'_>, flusher: &Flusher) -> Poll<()> {
        let Some(ping_pong) = &mut self.ping_pong else { return Poll::Pending };
        while self.timer.as_mut().poll(context).is_ready() {
            let until = match self.keepalive.step(Instant::now(), flusher.last_read()) {
                KeepaliveStep::GiveUp => return Poll::Ready(()),
                KeepaliveStep::Wait(until) => until,
                KeepaliveStep::Ping(until) => {
                    // Whatever was read counts as an answer, so the one to the ping before may still be here; if it is
                    // still to come, the peer has a ping to answer already.
                    drop(ping_pong.poll_pong(context));
                    drop(ping_pong.send_ping(Ping::opaque()));
                    until
                }
            };
            self.timer.as_mut().reset(until.into());
        }
        Poll::Pending
    }
}
