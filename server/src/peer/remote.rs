//! One other member: its URLs, whether it can be reached, and the tasks that dial its streams, post what has no stream,
//! and probe it. A member that this one has yet to learn of has the posts only.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use kvorum_api::raftpb::{Message, MessageType};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::framing::{Decoder, StreamKind};
use super::http_client::{self, Connection, collect, next_piece, request};
use super::identity::{self, CLUSTER_ID_MISMATCH, INCOMPATIBLE_VERSION};
use super::outbox::{Offer, Outbox, Queue};
use super::status::PeerStatus;
use super::{DIAL_INTERVAL, READ_TIMEOUT, Shared, SnapshotSource, WRITE_TIMEOUT, probe, snapshot};
use crate::ids::to_hex;
use crate::limits::{PEER_PIPELINE_CONNECTIONS, PEER_PIPELINE_MESSAGES_MAX, PEER_REQUEST_BYTES_MAX};
use crate::urls::Url;

/// How long a member may take to answer a posted message. etcd waits for ever, with four requests per member.
const POST_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two lines of the log about dropped messages to one member.
const DROP_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The body with which a member refuses the messages of one that was removed.
const REMOVED_TEXT: &str = "removed member";

pub(crate) struct Remote {
    member_id: u64,
    pub shared: Arc<Shared>,
    urls: Mutex<Picker>,
    pub status: Arc<PeerStatus>,
    /// `None` for a member that is not known yet.
    streams: Option<Streams>,
    pipeline: Pipeline,
    drops: Mutex<Drops>,
    /// Streams from the member that are read at present.
    streams_read: AtomicUsize,
    /// Dials that found nobody listening, one after another.
    refusals: AtomicUsize,
    tasks: Mutex<Vec<AbortHandle>>,
}

struct Streams {
    appends: Arc<Outbox>,
    messages: Arc<Outbox>,
}

struct Pipeline {
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Default)]
struct Drops {
    unsaid: u64,
    said: Option<Instant>,
}

/// Goes to the next URL when one cannot be reached.
struct Picker {
    urls: Vec<Url>,
    picked: usize,
}

impl Remote {
    pub fn start_peer(shared: &Arc<Shared>, member_id: u64, urls: Vec<Url>) -> Arc<Remote> {
        let remote = Remote::new(shared, member_id, urls, true);
        let mut tasks: Vec<AbortHandle> = Vec::new();
        for kind in StreamKind::ALL {
            tasks.push(shared.runtime.spawn(Arc::clone(&remote).read_stream(kind)).abort_handle());
        }
        tasks.push(shared.runtime.spawn(probe::run(Arc::clone(&remote))).abort_handle());
        remote.tasks.lock().extend(tasks);
        tracing::info!(remote_peer_id = remote.status.hex(), "started remote peer");
        remote
    }

    pub fn start_remote(shared: &Arc<Shared>, member_id: u64, urls: Vec<Url>) -> Arc<Remote> {
        Remote::new(shared, member_id, urls, false)
    }

    fn new(shared: &Arc<Shared>, member_id: u64, urls: Vec<Url>, with_streams: bool) -> Arc<Remote> {
        let streams = with_streams.then(|| Streams {
            appends: Arc::new(Outbox::new(StreamKind::Append)),
            messages: Arc::new(Outbox::new(StreamKind::Message)),
        });
        let remote = Arc::new(Remote {
            member_id,
            shared: Arc::clone(shared),
            urls: Mutex::new(Picker { urls, picked: 0 }),
            status: Arc::new(PeerStatus::new(member_id)),
            streams,
            pipeline: Pipeline { queue: Mutex::new(Queue::new(PEER_PIPELINE_MESSAGES_MAX)), wake: Notify::new() },
            drops: Mutex::default(),
            streams_read: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            tasks: Mutex::default(),
        });
        let workers = (0..PEER_PIPELINE_CONNECTIONS)
            .map(|_| shared.runtime.spawn(Arc::clone(&remote).post_messages()).abort_handle());
        remote.tasks.lock().extend(workers);
        remote
    }

    pub fn update(&self, urls: Vec<Url>) {
        *self.urls.lock() = Picker { urls, picked: 0 };
    }

    /// Ends the tasks and the streams. What is queued is lost.
    pub fn stop(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        if let Some(streams) = &self.streams {
            streams.appends.close();
            streams.messages.close();
        }
        self.pipeline.queue.lock().clear();
        tracing::info!(remote_peer_id = self.status.hex(), "stopped remote peer");
    }

    /// The queue that the member's request for a stream is answered from.
    pub fn outbox(&self, kind: StreamKind) -> Option<&Arc<Outbox>> {
        let streams = self.streams.as_ref()?;
        Some(match kind {
            StreamKind::Append => &streams.appends,
            StreamKind::Message => &streams.messages,
        })
    }

    /// Appends go on the stream of appends, others on the stream of messages, and what has no stream is posted. Streams
    /// that slept are put into `wakers`.
    pub fn send(&self, message: Message, wakers: &mut Vec<Waker>) {
        let kind = message.r#type();
        let mut message = message;
        if let Some(streams) = self.streams.as_ref().filter(|_| kind != MessageType::MsgSnap) {
            if kind == MessageType::MsgApp {
                match streams.appends.offer(message, wakers) {
                    Offer::Taken => return,
                    Offer::Full => return self.note_drop(kind, "streamMsgAppV2"),
                    Offer::Detached(back) => message = *back,
                }
            }
            match streams.messages.offer(message, wakers) {
                Offer::Taken => return,
                Offer::Full => return self.note_drop(kind, "streamMsg"),
                Offer::Detached(back) => message = *back,
            }
        }
        let taken = self.pipeline.queue.lock().push(message);
        if taken {
            self.pipeline.wake.notify_one();
        } else {
            self.note_drop(kind, "pipeline");
        }
    }

    fn note_drop(&self, kind: MessageType, queue: &str) {
        self.status.metrics.sent_failures.add(1);
        self.shared.reports.unreachable(self.member_id);
        let dropped = {
            let mut drops = self.drops.lock();
            drops.unsaid += 1;
            let now = Instant::now();
            if drops.said.is_some_and(|said| now.duration_since(said) < DROP_LOG_INTERVAL) {
                return;
            }
            drops.said = Some(now);
            std::mem::take(&mut drops.unsaid)
        };
        tracing::warn!(
            message_type = kind.as_str_name(),
            local_member_id = to_hex(self.shared.config.member_id).as_str(),
            remote_peer_id = self.status.hex(),
            remote_peer_name = queue,
            remote_peer_active = self.status.active_since().is_some(),
            dropped,
            "dropped internal Raft message since sending buffer is full"
        );
    }

    pub fn pick_url(&self) -> Url {
        let picker = self.urls.lock();
        picker.urls[picker.picked].clone()
    }

    pub fn url_failed(&self, url: &Url) {
        let mut picker = self.urls.lock();
        if picker.urls[picker.picked] == *url {
            picker.picked = (picker.picked + 1) % picker.urls.len();
        }
    }

    /// Dials one stream again and again, and reads it while it lasts.
    async fn read_stream(self: Arc<Self>, kind: StreamKind) {
        let local = to_hex(self.shared.config.member_id);
        let mut next_dial = Instant::now();
        loop {
            tokio::time::sleep_until(next_dial).await;
            next_dial = Instant::now() + DIAL_INTERVAL;
            let url = self.pick_url();
            let (body, _connection) = match self.dial_stream(kind, &url).await {
                Ok(dialed) => dialed,
                Err(error) => {
                    self.url_failed(&url);
                    self.status.deactivate(kind.name(), "dial", &error.to_string());
                    self.note_failed_dial(&error);
                    continue;
                }
            };
            self.refusals.store(0, Ordering::Relaxed);
            self.status.activate();
            tracing::info!(
                stream_reader_type = kind.name(),
                local_member_id = local.as_str(),
                remote_peer_id = self.status.hex(),
                "established TCP streaming connection with remote peer"
            );
            self.streams_read.fetch_add(1, Ordering::Relaxed);
            let error = self.decode_stream(kind, body).await.err();
            self.streams_read.fetch_sub(1, Ordering::Relaxed);
            let reason = error.as_ref().map_or_else(|| "EOF".to_owned(), io::Error::to_string);
            tracing::warn!(
                stream_reader_type = kind.name(),
                local_member_id = local.as_str(),
                remote_peer_id = self.status.hex(),
                error = reason,
                "lost TCP streaming connection with remote peer"
            );
            // A stream that was ended is dialed again; only one that broke means that the member cannot be reached.
            if error.is_some_and(|error| error.kind() != io::ErrorKind::UnexpectedEof) {
                self.status.deactivate(kind.name(), "read", &reason);
            }
        }
    }

    /// A machine that answers, on which nobody listens, tells that the process ended: sooner than silence does.
    fn note_failed_dial(&self, error: &io::Error) {
        if error.kind() != io::ErrorKind::ConnectionRefused {
            return self.refusals.store(0, Ordering::Relaxed);
        }
        let refusals = self.refusals.fetch_add(1, Ordering::Relaxed) + 1;
        if refusals >= self.urls.lock().urls.len() && self.streams_read.load(Ordering::Relaxed) == 0 {
            self.shared.events.gone(self.member_id);
        }
    }

    async fn dial_stream(&self, kind: StreamKind, url: &Url) -> io::Result<(Incoming, Connection<Empty<Bytes>>)> {
        let path = format!("{}{}", kind.path(), to_hex(self.shared.config.member_id));
        let mut request = request(Method::GET, url, &path, Empty::new())?;
        self.shared.identity.introduce(request.headers_mut());
        request.headers_mut().insert(identity::RAFT_TO, identity::hex_value(self.member_id));
        let mut connection = self.shared.dial(url, WRITE_TIMEOUT).await?;
        let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "read: i/o timeout");
        let response = tokio::time::timeout(READ_TIMEOUT, connection.send(request)).await.map_err(silent)??;
        let (head, mut body) = response.into_parts();
        if !identity::offers_streams(&head.headers) {
            return Err(io::Error::other("unsupported stream type"));
        }
        match head.status {
            StatusCode::OK => return Ok((body, connection)),
            StatusCode::GONE => {
                self.shared.events.removed_by_peer();
                return Err(io::Error::other("the member has been permanently removed from the cluster"));
            }
            StatusCode::NOT_FOUND => {
                let local = to_hex(self.shared.config.member_id);
                return Err(io::Error::other(format!("peer {} failed to find local node {local}", self.status.hex())));
            }
            StatusCode::PRECONDITION_FAILED => {}
            other => return Err(io::Error::other(format!("unhandled http status {}", other.as_u16()))),
        }
        let text = collect(&mut body, PEER_REQUEST_BYTES_MAX, READ_TIMEOUT).await;
        let text = text.map_err(|error| io::Error::other(error.to_string()))?;
        Err(self.precondition_failed(&text, &head.headers))
    }

    fn precondition_failed(&self, body: &[u8], headers: &http::HeaderMap) -> io::Error {
        let text = String::from_utf8_lossy(body);
        let known = [INCOMPATIBLE_VERSION, CLUSTER_ID_MISMATCH].into_iter().find(|known| text.trim_end() == *known);
        let Some(reason) = known else {
            return io::Error::other(format!("unhandled error {text:?} when precondition failed"));
        };
        tracing::warn!(
            local_member_id = to_hex(self.shared.config.member_id).as_str(),
            local_member_cluster_id = to_hex(self.shared.config.cluster_id).as_str(),
            remote_peer_id = self.status.hex(),
            remote_peer_cluster_id = identity::text(headers, &identity::CLUSTER_ID).unwrap_or_default(),
            error = reason,
            "request sent was ignored by remote peer"
        );
        io::Error::other(reason)
    }

    /// Reads to the end of the stream.
    async fn decode_stream(&self, kind: StreamKind, mut body: Incoming) -> io::Result<()> {
        let mut decoder = Decoder::new(kind, self.shared.config.member_id, self.member_id);
        while let Some(piece) = next_piece(&mut body, READ_TIMEOUT).await? {
            self.status.metrics.received_bytes.add(piece.len() as u64);
            decoder.push(&piece);
            let mut messages = Vec::new();
            let ended = loop {
                match decoder.take_message() {
                    Ok(Some(message)) if self.shared.admit(&message).is_ok() => messages.push(message),
                    Ok(Some(_)) => self.status.metrics.received_failures.add(1),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            if !messages.is_empty() {
                self.shared.events.receive(messages);
            }
            if let Some(error) = ended {
                return Err(io::Error::other(error));
            }
        }
        Ok(())
    }

    /// One of several that post messages; it keeps its connection.
    async fn post_messages(self: Arc<Self>) {
        let mut kept = None;
        loop {
            let message = self.pipeline.queue.lock().pop();
            let Some(message) = message else {
                self.pipeline.wake.notified().await;
                continue;
            };
            let is_snapshot = message.r#type() == MessageType::MsgSnap;
            let bytes = Bytes::from(message.encode_to_vec());
            drop(message);
            let url = self.pick_url();
            let length = bytes.len() as u64;
            let posted = tokio::time::timeout(POST_TIMEOUT, self.post(&mut kept, &url, bytes)).await;
            match posted.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "post: i/o timeout"))) {
                Ok(()) => {
                    self.status.activate();
                    self.status.metrics.sent_bytes.add(length);
                }
                Err(error) => {
                    kept = None;
                    self.url_failed(&url);
                    self.status.deactivate("pipeline", "write", &error.to_string());
                    self.status.metrics.sent_failures.add(1);
                    self.shared.events.unreachable(self.member_id);
                    if is_snapshot {
                        self.shared.events.snapshot_sent(self.member_id, false);
                    }
                    continue;
                }
            }
            if is_snapshot {
                self.shared.events.snapshot_sent(self.member_id, true);
            }
        }
    }

    /// Posts over the kept connection, or over a new one: the other side closes idle connections as it likes.
    async fn post(&self, kept: &mut Option<KeptConnection>, url: &Url, bytes: Bytes) -> io::Result<()> {
        if let Some(connection) = kept.take_if(|kept| kept.url == *url && kept.connection.is_usable()) {
            let mut connection = connection;
            match self.post_once(&mut connection, bytes.clone()).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                posted => {
                    *kept = posted.is_ok().then_some(connection);
                    return posted;
                }
            }
        }
        let connection = self.shared.dial(url, WRITE_TIMEOUT).await?;
        let mut connection = KeptConnection { url: url.clone(), connection };
        self.post_once(&mut connection, bytes).await?;
        *kept = Some(connection);
        Ok(())
    }

    async fn post_once(&self, kept: &mut KeptConnection, bytes: Bytes) -> io::Result<()> {
        let mut request = request(Method::POST, &kept.url, "/raft", Full::new(bytes))?;
        self.shared.identity.introduce(request.headers_mut());
        let content_type = http::HeaderValue::from_static("application/protobuf");
        request.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
        let response = kept.connection.send(request).await?;
        self.check_posted(&kept.url, response).await
    }

    /// What the answer to a posted message or database means.
    async fn check_posted(&self, url: &Url, response: http::Response<Incoming>) -> io::Result<()> {
        let (head, mut body) = response.into_parts();
        let text = collect(&mut body, PEER_REQUEST_BYTES_MAX, READ_TIMEOUT).await;
        let text = text.map_err(|error| io::Error::other(error.to_string()))?;
        match head.status {
            StatusCode::NO_CONTENT => Ok(()),
            StatusCode::PRECONDITION_FAILED => Err(self.precondition_failed(&text, &head.headers)),
            // etcd takes every 403 for this. One of them says that the message was for another member: an error in
            // somebody's URLs, of which no member should die.
            StatusCode::FORBIDDEN if String::from_utf8_lossy(&text).contains(REMOVED_TEXT) => {
                self.shared.events.removed_by_peer();
                Err(io::Error::other("the member has been permanently removed from the cluster"))
            }
            other => {
                let reason = other.canonical_reason().unwrap_or_default();
                Err(io::Error::other(format!("unexpected http status {reason} while posting to \"{url}\"")))
            }
        }
    }

    /// Sends a database behind its message, and tells raft how it went.
    pub async fn send_snapshot(&self, message: Message, database: SnapshotSource) {
        let index = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref()).map_or(0, |m| m.index());
        let bytes = database.length;
        let remote = self.status.hex();
        tracing::info!(snapshot_index = index, remote_peer_id = remote, bytes, "sending database snapshot");
        self.status.metrics.snapshots_sending.add(1);
        let begun = Instant::now();
        let url = self.pick_url();
        let sent = match snapshot::post(&self.shared, &url, &message, database).await {
            Ok(response) => self.check_posted(&url, response).await,
            Err(error) => Err(error),
        };
        self.status.metrics.snapshots_sending.add(-1);
        match sent {
            Ok(()) => {
                self.status.activate();
                self.status.metrics.sent_bytes.add(bytes);
                self.status.metrics.snapshots_sent.add(1);
                self.status.metrics.snapshot_send_seconds.observe_duration(begun.elapsed());
                tracing::info!(snapshot_index = index, remote_peer_id = remote, bytes, "sent database snapshot");
                self.shared.events.snapshot_sent(self.member_id, true);
            }
            Err(error) => {
                let error = error.to_string();
                self.url_failed(&url);
                self.status.metrics.snapshot_send_failures.add(1);
                self.status.metrics.sent_failures.add(1);
                tracing::warn!(
                    snapshot_index = index,
                    remote_peer_id = remote,
                    bytes,
                    error,
                    "failed to send database snapshot"
                );
                self.status.deactivate("sendMsgSnap", "post", &error);
                self.shared.events.unreachable(self.member_id);
                self.shared.events.snapshot_sent(self.member_id, false);
            }
        }
    }
}

struct KeptConnection {
    url: Url,
    connection: http_client::Connection<Full<Bytes>>,
}
