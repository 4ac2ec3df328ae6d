//! One HTTP/2 connection: its task, its pings, and the calls on it. A call that is dropped resets its own stream and
//! nothing else. It never connects again: the pool does.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, Reason, RecvStream, SendStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect::dial;
use super::endpoint::Endpoint;
use super::framing::{Frame, Unframer, http_failure, request, status};
use super::io::{Flusher, GatheringSocket, Hearing, gather};
use super::{CallHead, Failure, ReceiveHalf, SendHalf, Sent};
use crate::config::Config;
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
    /// Asks the task to drop the connection.
    abandonment: Notify,
}

impl Life {
    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.retirement.notify_waiters();
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
            abandonment: Notify::new(),
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
            () = link.retired() => return Err("the connection ended before the peer said anything".to_owned()),
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
            self.life.abandonment.notify_one();
        }
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
            life.abandonment.notify_one();
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
        time: keepalive_time,
        timeout: keepalive_timeout,
    };
    let ended_life = Arc::clone(&life);
    let abandoned_life = Arc::clone(&life);
    let mut abandoned = std::pin::pin!(abandoned_life.abandonment.notified());
    poll_fn(|context| {
        if abandoned.as_mut().poll(context).is_ready() || keepalive.poll_dead(&life, context).is_ready() {
            return Poll::Ready(());
        }
        let ended = Pin::new(&mut connection).poll(context).is_ready();
        match flusher.poll_flush(context) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ if ended => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    ended_life.retire();
}

/// Pings a peer that is silent while calls are open, and gives it up when nothing comes back. Never without calls: servers
/// take that for an attack (etcd's `--grpc-keepalive-min-time`, gRPC's `PermitWithoutStream`).
struct Keepalive {
    ping_pong: Option<h2::PingPong>,
    timer: Pin<Box<tokio::time::Sleep>>,
    /// When the ping under way was sent.
    pinged: Option<Instant>,
    time: Duration,
    timeout: Duration,
}

impl Keepalive {
    fn poll_dead(&mut self, life: &Life, context: &mut Context<'_>) -> Poll<()> {
        let Some(ping_pong) = &mut self.ping_pong else { return Poll::Pending };
        // A pong only matters as something heard.
        if self.pinged.is_some() && ping_pong.poll_pong(context).is_ready() {
            self.pinged = None;
            self.timer.as_mut().reset(Instant::now() + self.time);
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
                None if ping_pong.send_ping(Ping::opaque()).is_err() => return Poll::Ready(()),
                None => {
                    self.pinged = Some(now);
                    now + self.timeout
                }
            };
            if self.pinged.is_some_and(|pinged| heard >= pinged) && ping_pong.poll_pong(context).is_ready() {
                self.pinged = None;
            }
            self.timer.as_mut().reset(next);
        }
    }
}
