//! One HTTP/2 connection: its task, its pings, and the calls on it. A call that is dropped resets its own stream and
//! nothing else. It never connects again: the pool does.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, Reason, RecvStream, SendStream};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect::dial;
use super::endpoint::Endpoint;
use super::framing::{Frame, Unframer, http_failure, request, status};
use super::io::{Flusher, GatheringSocket, Hearing, gather};
use super::{CallHead, Failure, ReceiveHalf, SendHalf, Sent};
use crate::config::{Config, KEEPALIVE_TIME_MIN};
use crate::error::Code;

/// Window of one stream: what a slow reader of a large answer lets pile up.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Window of a connection, above that of several streams, so that one slow reader does not stop the others.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// A stream takes a message when it may send this much; the rest of a longer one waits inside h2.
const SEND_CAPACITY_BYTES: usize = 1024;

/// A connection that lives, or lived.
pub struct Link {
    endpoint: Arc<Endpoint>,
    sender: SendRequest<Frame>,
    life: Arc<Life>,
    message_bytes_max: usize,
}

/// What the connection's task, its calls and the pool share.
struct Life {
    hearing: Arc<Hearing>,
    calls: AtomicUsize,
    /// No new call may begin: the peer goes away, or the connection ended.
    retired: AtomicBool,
    retirement: Notify,
    /// What the task is asked for: [`ABANDON`], [`PROBE`].
    wishes: AtomicU8,
    task: AtomicWaker,
    /// When the ping under way was sent.
    pinged: Mutex<Option<Instant>>,
    /// A ping was not answered within the time of a probe, as of this moment.
    silent_since: Mutex<Option<Instant>>,
    /// What the connection ended with, such as the alert of a peer that takes no certificate of ours.
    reason: OnceLock<String>,
}

/// Drop the connection.
const ABANDON: u8 = 1;
/// Ask the peer for a sign of life.
const PROBE: u8 = 2;

impl Life {
    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.retirement.notify_waiters();
    }

    fn wish(&self, wish: u8) {
        self.wishes.fetch_or(wish, Ordering::AcqRel);
        self.task.wake();
    }
}

impl Link {
    /// Connects and waits until the peer has said something, which a black hole never does. Callers bound the time.
    pub async fn open(endpoint: &Arc<Endpoint>, config: &Config) -> Result<Link, String> {
        let stream = dial(endpoint, config).await.map_err(|error| error.to_string())?;
        let hearing = Arc::new(Hearing::new());
        let (socket, flusher) = gather(stream, Arc::clone(&hearing));
        let (sender, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake::<_, Frame>(socket)
            .await
            .map_err(|error| error.to_string())?;
        let life = Arc::new(Life {
            hearing,
            calls: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            retirement: Notify::new(),
            wishes: AtomicU8::new(0),
            task: AtomicWaker::new(),
            pinged: Mutex::default(),
            silent_since: Mutex::default(),
            reason: OnceLock::new(),
        });
        let link = Link {
            endpoint: Arc::clone(endpoint),
            sender,
            life: Arc::clone(&life),
            message_bytes_max: config.max_receive_bytes,
        };
        // Until the link is used, a caller that gives up ends the task with it.
        let mut unanswered = AbandonOnDrop(Some(Arc::clone(&life)));
        tokio::spawn(drive(connection, flusher, life, config.keepalive_time, config.keepalive_timeout));
        tokio::select! {
            () = link.life.hearing.first() => {}
            () = link.retired() => {
                let reason = link.life.reason.get().map_or(String::new(), |reason| format!(": {reason}"));
                return Err(format!("the connection ended before the peer said anything{reason}"));
            }
        }
        unanswered.0 = None;
        Ok(link)
    }

    /// Whether calls may begin.
    pub fn is_usable(&self) -> bool {
        !self.life.retired.load(Ordering::Acquire)
    }

    /// Ends once no new calls may begin.
    pub async fn retired(&self) {
        let mut notified = std::pin::pin!(self.life.retirement.notified());
        notified.as_mut().enable();
        if self.is_usable() {
            notified.await;
        }
    }

    /// Drops the connection when nothing was received on it since `began`.
    pub fn abandon_if_silent_since(&self, began: Instant) {
        if self.life.hearing.last() < began {
            self.life.retire();
            self.life.wish(ABANDON);
        }
    }

    /// When anything was received last.
    pub fn heard(&self) -> Instant {
        self.life.hearing.last()
    }

    /// Asks the peer for a sign of life, unless that was done a moment ago or pings are off.
    pub fn probe(&self) {
        self.life.wish(PROBE);
    }

    /// When the ping was sent that was not answered yet.
    pub fn pinged(&self) -> Option<Instant> {
        *self.life.pinged.lock()
    }

    /// The peer gave no sign of life in time. It is forgiven with the first byte.
    pub fn note_silence(&self) {
        *self.life.silent_since.lock() = Some(Instant::now());
    }

    /// Whether the peer gave no sign of life when it was asked last, nor since.
    pub fn is_silent(&self) -> bool {
        let mut silent_since = self.life.silent_since.lock();
        if silent_since.is_some_and(|since| self.life.hearing.last() > since) {
            *silent_since = None;
        }
        silent_since.is_some()
    }

    /// Sends one message and waits for the answer.
    pub async fn unary(&self, head: &CallHead, message: Bytes) -> Result<Bytes, Failure> {
        let (_, mut receive) = self.begin(head, Some(message)).await?;
        let answer = poll_fn(|context| receive.poll_receive(context)).await?;
        let Some(answer) = answer else {
            return Err(self.failure(Code::Internal, "the answer has no message", Sent::Maybe));
        };
        match poll_fn(|context| receive.poll_receive(context)).await? {
            None => Ok(answer),
            Some(_) => Err(self.failure(Code::Internal, "the answer has several messages", Sent::Maybe)),
        }
    }

    /// Opens a stream.
    pub async fn stream(&self, head: &CallHead) -> Result<(Box<dyn SendHalf>, Box<dyn ReceiveHalf>), Failure> {
        let (send, receive) = self.begin(head, None).await?;
        Ok((Box::new(send), Box::new(receive)))
    }

    async fn begin(&self, head: &CallHead, only: Option<Bytes>) -> Result<(Sender, Receiver), Failure> {
        let request = request(head, &self.endpoint)?;
        let mut sender = self.sender.clone();
        let gone = |error: h2::Error| {
            self.life.retire();
            self.failure(Code::Unavailable, format!("the connection is going away: {error}"), Sent::Never)
        };
        poll_fn(|context| sender.poll_ready(context)).await.map_err(gone)?;
        let (response, mut stream) = sender.send_request(request, false).map_err(gone)?;
        let call = Arc::new(CallCount::new(&self.life));
        if let Some(message) = only
            && let Err(error) = stream.send_data(Frame::new(message), true)
        {
            return Err(self.failure(Code::Unavailable, error.to_string(), Sent::Maybe));
        }
        let send = Sender { stream, closed: false, endpoint: Arc::clone(self.endpoint.name()) };
        let receive = Receiver {
            response: Some(response),
            body: None,
            unframer: Unframer::new(self.message_bytes_max),
            ended: false,
            endpoint: Arc::clone(self.endpoint.name()),
            deadline: head.deadline,
            _call: call,
        };
        Ok((send, receive))
    }

    fn failure(&self, code: Code, text: impl Into<String>, sent: Sent) -> Failure {
        Failure { code, text: text.into(), sent, endpoint: Some(Arc::clone(self.endpoint.name())) }
    }
}

struct AbandonOnDrop(Option<Arc<Life>>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        if let Some(life) = &self.0 {
            life.wish(ABANDON);
        }
    }
}

/// Counts an open call while it lives.
struct CallCount(Arc<Life>);

impl CallCount {
    fn new(life: &Arc<Life>) -> Self {
        life.calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(life))
    }
}

impl Drop for CallCount {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Sender {
    stream: SendStream<Frame>,
    closed: bool,
    endpoint: Arc<str>,
}

impl SendHalf for Sender {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            if self.stream.capacity() >= SEND_CAPACITY_BYTES {
                return Poll::Ready(Ok(()));
            }
            self.stream.reserve_capacity(SEND_CAPACITY_BYTES);
            match ready!(self.stream.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(stream_failure(&error, &self.endpoint))),
                None => {
                    let text = "the stream is closed";
                    let endpoint = Some(Arc::clone(&self.endpoint));
                    let failure =
                        Failure { code: Code::Unavailable, text: text.to_owned(), sent: Sent::Maybe, endpoint };
                    return Poll::Ready(Err(failure));
                }
            }
        }
    }

    fn send(&mut self, message: Bytes) -> Result<(), Failure> {
        let sent = self.stream.send_data(Frame::new(message), false);
        sent.map_err(|error| stream_failure(&error, &self.endpoint))
    }

    fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            // It fails when the stream has ended, and then there is nothing to say.
            drop(self.stream.send_data(Frame::empty(), true));
        }
    }
}

struct Receiver {
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    unframer: Unframer,
    ended: bool,
    endpoint: Arc<str>,
    deadline: Option<Instant>,
    _call: Arc<CallCount>,
}

impl Receiver {
    fn poll_inner(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failure>> {
        if let Some(message) = self.unframer.next()? {
            return Poll::Ready(Ok(Some(message)));
        }
        if let Some(response) = &mut self.response {
            let response = ready!(Pin::new(response).poll(context));
            self.response = None;
            let (head, body) = response.map_err(|error| stream_failure(&error, &self.endpoint))?.into_parts();
            if let Some(status) = status(&head.headers) {
                return Poll::Ready(status.map(|()| None));
            }
            if head.status != http::StatusCode::OK {
                return Poll::Ready(Err(http_failure(head.status)));
            }
            self.body = Some(body);
        }
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(None)) };
        loop {
            match ready!(body.poll_data(context)) {
                Some(Ok(piece)) => {
                    // A stream that was reset meanwhile has no window to give back.
                    drop(body.flow_control().release_capacity(piece.len()));
                    if let Some(message) = self.unframer.push(piece)? {
                        return Poll::Ready(Ok(Some(message)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(stream_failure(&error, &self.endpoint))),
                None => break,
            }
        }
        let trailers = ready!(body.poll_trailers(context)).map_err(|error| stream_failure(&error, &self.endpoint))?;
        let ended = trailers.as_ref().and_then(status).unwrap_or_else(|| {
            Err(Failure::new(Code::Unavailable, "the server ended the stream without a status", Sent::Maybe))
        });
        if ended.is_ok() && !self.unframer.is_empty() {
            let text = "the server ended the stream within a message";
            return Poll::Ready(Err(Failure::new(Code::Internal, text, Sent::Maybe)));
        }
        Poll::Ready(ended.map(|()| None))
    }
}

impl ReceiveHalf for Receiver {
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failure>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let mut polled = ready!(self.poll_inner(context));
        if let Err(failure) = &mut polled {
            failure.endpoint.get_or_insert_with(|| Arc::clone(&self.endpoint));
            // The server was told the deadline too, and may be the first to act on it: gRPC for Go resets the stream then.
            if failure.code == Code::Canceled && self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                failure.code = Code::DeadlineExceeded;
                "context deadline exceeded".clone_into(&mut failure.text);
            }
        }
        self.ended = !matches!(polled, Ok(Some(_)));
        Poll::Ready(polled)
    }
}

/// What an error of a stream that was begun says about its request.
fn stream_failure(error: &h2::Error, endpoint: &Arc<str>) -> Failure {
    let reason = error.reason();
    let (code, sent) = match reason {
        // RFC 9113, 8.7: a refused stream, and one above the last of a GOAWAY, were not processed. h2 gives a GOAWAY
        // without an error only to the latter; the others go on, or end with an error of the socket.
        Some(Reason::REFUSED_STREAM) if error.is_reset() => (Code::Unavailable, Sent::Never),
        Some(Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => (Code::Unavailable, Sent::Never),
        Some(Reason::CANCEL) if error.is_reset() => (Code::Canceled, Sent::Maybe),
        Some(Reason::ENHANCE_YOUR_CALM) if error.is_reset() => (Code::ResourceExhausted, Sent::Maybe),
        _ if error.is_reset() && error.is_remote() => (Code::Internal, Sent::Maybe),
        _ => (Code::Unavailable, Sent::Maybe),
    };
    Failure { code, text: error.to_string(), sent, endpoint: Some(Arc::clone(endpoint)) }
}

/// The connection's task: it ends with the connection.
async fn drive(
    mut connection: Connection<GatheringSocket, Frame>,
    flusher: Flusher,
    life: Arc<Life>,
    keepalive_time: Duration,
    keepalive_timeout: Duration,
) {
    let mut keepalive = Keepalive {
        ping_pong: connection.ping_pong().filter(|_| !keepalive_time.is_zero()),
        timer: Box::pin(tokio::time::sleep(keepalive_time)),
        pinged: None,
        last_pinged: None,
        time: keepalive_time,
        timeout: keepalive_timeout,
    };
    poll_fn(|context| {
        life.task.register(context.waker());
        let wishes = life.wishes.swap(0, Ordering::AcqRel);
        if wishes & PROBE != 0 {
            keepalive.probe(&life);
        }
        if wishes & ABANDON != 0 || keepalive.poll_dead(&life, context).is_ready() {
            return Poll::Ready(());
        }
        let ended = Pin::new(&mut connection).poll(context);
        if let Poll::Ready(Err(error)) = &ended {
            // Only the first reason is kept.
            let _ = life.reason.set(error.to_string());
        }
        match flusher.poll_flush(context) {
            Poll::Ready(Err(error)) => {
                let _ = life.reason.set(error.to_string());
                Poll::Ready(())
            }
            _ if ended.is_ready() => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    life.retire();
}

/// Pings a peer that is silent while calls are open, and gives it up when nothing comes back. Never without calls: servers
/// take that for an attack (etcd's `--grpc-keepalive-min-time`, gRPC's `PermitWithoutStream`).
struct Keepalive {
    ping_pong: Option<h2::PingPong>,
    timer: Pin<Box<tokio::time::Sleep>>,
    /// When the ping under way was sent.
    pinged: Option<Instant>,
    /// When any ping was sent last.
    last_pinged: Option<Instant>,
    time: Duration,
    timeout: Duration,
}

impl Keepalive {
    /// Pings now, unless the last ping was too short a time ago for a server.
    fn probe(&mut self, life: &Life) {
        let now = Instant::now();
        let too_soon = self.last_pinged.is_some_and(|last| now < last + KEEPALIVE_TIME_MIN);
        if self.pinged.is_none() && !too_soon {
            self.ping(life, now);
            self.timer.as_mut().reset(now + self.timeout);
        }
    }

    /// False when the connection is gone.
    fn ping(&mut self, life: &Life, now: Instant) -> bool {
        let is_sent = self.ping_pong.as_mut().is_some_and(|ping_pong| ping_pong.send_ping(Ping::opaque()).is_ok());
        if is_sent {
            (self.pinged, self.last_pinged) = (Some(now), Some(now));
            *life.pinged.lock() = self.pinged;
        }
        is_sent
    }

    fn poll_dead(&mut self, life: &Life, context: &mut Context<'_>) -> Poll<()> {
        // A pong only matters as something heard.
        if self.pinged.is_some() && self.poll_pong(life, context) {
            self.timer.as_mut().reset(Instant::now() + self.time);
        }
        if self.ping_pong.is_none() {
            return Poll::Pending;
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            let heard = life.hearing.last();
            let now = Instant::now();
            let next = match self.pinged {
                Some(pinged) if heard < pinged => return Poll::Ready(()),
                // Something was heard; the pong may still be behind it.
                Some(_) => now + self.time,
                None if life.calls.load(Ordering::Relaxed) == 0 => now + self.time,
                None if heard + self.time > now => heard + self.time,
                None => {
                    if !self.ping(life, now) {
                        return Poll::Ready(());
                    }
                    now + self.timeout
                }
            };
            if self.pinged.is_some_and(|pinged| heard >= pinged) {
                self.poll_pong(life, context);
            }
            self.timer.as_mut().reset(next);
        }
    }

    /// Whether the ping under way was answered.
    fn poll_pong(&mut self, life: &Life, context: &mut Context<'_>) -> bool {
        let is_answered = self.ping_pong.as_mut().is_some_and(|ping_pong| ping_pong.poll_pong(context).is_ready());
        if is_answered {
            self.pinged = None;
            *life.pinged.lock() = None;
        }
        is_answered
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A server resets every stream as one whose caller's time is over.
    async fn resetting() -> Link {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                respond.send_reset(Reason::CANCEL);
            }
        });
        let endpoint = Endpoint::parse(&url, false).unwrap();
        Link::open(&Arc::new(endpoint), &Config::new([url])).await.unwrap()
    }

    #[tokio::test]
    async fn a_stream_reset_at_its_deadline_is_late() {
        let link = resetting().await;
        let call = async |deadline| {
            let head = CallHead {
                path: "/etcdserverpb.KV/Range",
                token: None,
                require_leader: false,
                deadline,
                endpoint: None,
                may_move: false,
            };
            link.unary(&head, Bytes::new()).await.unwrap_err()
        };
        let now = Instant::now();
        assert_eq!(call(Some(now)).await.code, Code::DeadlineExceeded);
        assert_eq!(call(Some(now + Duration::from_secs(3600))).await.code, Code::Canceled);
        assert_eq!(call(None).await.code, Code::Canceled);
    }
}
