//! One client connection: HTTP/2 carries gRPC, HTTP/1.1 the health and metrics pages, told apart by the first bytes.

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
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::auth::Credentials;
use crate::grpc::{MessageReader, Responder, Status, answer_content_type, parse_timeout};
use crate::limits::{CONNECTION_WINDOW_BYTES, HEADER_LIST_BYTES_MAX, PREFACE_SECONDS_MAX, STREAM_WINDOW_BYTES};
use crate::metrics::GrpcMethod;
use crate::payload::Payload;
use crate::pings::{Keepalive, KeepaliveConfig, KeepaliveStep, PingWatch};
use crate::services::{self, Call};
use crate::socket::{Flusher, GatheringSocket, gather};
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
    /// The user that the verified certificate of this connection names, where such names are users (`--client-cert-auth`).
    /// Set for one connection by whoever made its handshake.
    pub certificate_user: Option<Arc<str>>,
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, config: Rc<ConnectionConfig>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    match tokio::time::timeout(Duration::from_secs(PREFACE_SECONDS_MAX), speaks_http2(&stream)).await {
        Ok(Ok(true)) => serve_http2(worker, stream, config).await,
        Ok(Ok(false)) => crate::http1_connection::serve(worker, stream).await,
        // Nobody said anything, or the socket is gone.
        Ok(Err(_)) | Err(_) => {}
    }
}

/// HTTP/2 begins with "PRI"; no method of HTTP/1.1 does.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
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
            Ok(()) => return Ok(start == *b"PRI"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ready.is_read_closed() => {}
            Err(error) => return Err(error),
        }
    }
}

async fn serve_http2(worker: Rc<Worker>, stream: TcpStream, config: Rc<ConnectionConfig>) {
    // As grpc-go does: data that nobody acknowledges end the connection after the same time as pings.
    let timeout = u32::try_from(config.keepalive.timeout.as_millis()).unwrap_or(u32::MAX);
    if rustix::net::sockopt::set_tcp_user_timeout(&stream, timeout).is_err() {
        return;
    }
    let (socket, flusher) = gather(stream, PingWatch::new(config.keepalive.gap_min, Instant::now()));
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(config.concurrent_streams_max)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .handshake::<_, Payload>(socket);
    let mut handshake = pin!(tokio::time::timeout(Duration::from_secs(PREFACE_SECONDS_MAX), handshake));
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
    let mut keepalive = Pinger::new(&mut connection, &config.keepalive);
    let mut stop = worker.core.watch_stop();
    let mut stopped = pin!(async move {
        // An error means that the core is gone, which is a stop too.
        drop(stop.wait_for(|stopping| *stopping).await);
    });
    let mut stopping = false;
    let end = poll_fn(|context| {
        if !stopping && stopped.as_mut().poll(context).is_ready() {
            stopping = true;
            connection.graceful_shutdown();
        }
        if keepalive.poll_dead(context, &flusher).is_ready() {
            return Poll::Ready(End::Closed);
        }
        let ended = accept(&worker, &config, &mut connection, context);
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
    config: &ConnectionConfig,
    connection: &mut Connection<GatheringSocket, Payload>,
    context: &mut Context<'_>,
) -> bool {
    for _ in 0..ACCEPTS_PER_TURN_MAX {
        match connection.poll_accept(context) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok((request, respond)))) => begin_call(worker, config, request, respond, context),
            Poll::Ready(Some(Err(_)) | None) => return true,
        }
    }
    context.waker().wake_by_ref();
    false
}

/// Reads the request and hands it to its service; a body that came along with its headers needs no task of its own.
fn begin_call(
    worker: &Rc<Worker>,
    config: &ConnectionConfig,
    request: Request<RecvStream>,
    respond: SendResponse<Payload>,
    context: &mut Context<'_>,
) {
    let (head, body) = request.into_parts();
    let content_type = head.headers.get(http::header::CONTENT_TYPE);
    let answer_type = content_type.and_then(answer_content_type);
    let is_grpc = answer_type.is_some();
    let respond = Responder::new(respond, answer_type);
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
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let require_leader = head.headers.get("hasleader").is_some_and(|value| value == "true");
    let streaming = services::is_streaming(method);
    // A stream may outlive the time without authentication; a unary call is over before.
    let credentials = match streaming || worker.reader.auth_generation() != 0 {
        true => Credentials::of_call(&head.headers, config.certificate_user.as_ref()),
        false => Credentials::default(),
    };
    let call = Call { method, deadline, credentials, identity: None, require_leader };
    let encoding = head.headers.get("grpc-encoding");
    let mut messages = MessageReader::new(body, config.message_bytes_max, encoding, !streaming);
    if streaming {
        return services::begin_stream(worker, call, messages, respond);
    }
    match messages.poll_message(context) {
        Poll::Ready(message) => finish_request(worker, call, message, respond),
        Poll::Pending => {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                let message = tokio::select! {
                    message = poll_fn(|context| messages.poll_message(context)) => message,
                    () = services::reached(call.deadline) => Some(Err(Status::deadline_exceeded())),
                };
                finish_request(&worker, call, message, respond);
            });
        }
    }
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
