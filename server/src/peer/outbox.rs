//! Messages on their way to one member: bounded queues, and the stream that empties one of them into a response's body.
//!
//! The body asks for messages when the socket takes bytes, so a slow member fills its queue and nothing else.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use kvorum_api::raftpb::Message;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::Interval;

use super::framing::{Encoder, StreamKind};
use super::status::PeerStatus;
use super::{READ_TIMEOUT, Shared};
use crate::ids::to_hex;
use crate::limits::{PEER_QUEUE_BYTES_MAX, PEER_QUEUE_MESSAGES_MAX, PEER_WRITE_BYTES};

/// A queue with a bound on messages and one on bytes.
pub struct Queue {
    messages: VecDeque<(usize, Message)>,
    bytes: usize,
    messages_max: usize,
}

impl Queue {
    pub fn new(messages_max: usize) -> Queue {
        Queue { messages: VecDeque::new(), bytes: 0, messages_max }
    }

    /// False: it is full, and the message is gone.
    pub fn push(&mut self, message: Message) -> bool {
        let length = message.encoded_len();
        let full = self.messages.len() >= self.messages_max || self.bytes.saturating_add(length) > PEER_QUEUE_BYTES_MAX;
        if full && !self.messages.is_empty() {
            return false;
        }
        self.bytes += length;
        self.messages.push_back((length, message));
        true
    }

    pub fn pop(&mut self) -> Option<Message> {
        let (length, message) = self.messages.pop_front()?;
        self.bytes -= length;
        Some(message)
    }

    /// How many there were.
    pub fn clear(&mut self) -> usize {
        self.bytes = 0;
        std::mem::take(&mut self.messages).len()
    }
}

/// What became of a message.
#[derive(Debug)]
pub enum Offer {
    Taken,
    /// Nobody reads this stream: the message comes back.
    Detached(Box<Message>),
    Full,
}

/// The queue of one stream. It takes messages while a connection reads it; a newer connection replaces the older.
pub struct Outbox {
    kind: StreamKind,
    state: Mutex<OutboxState>,
}

struct OutboxState {
    queue: Queue,
    /// Which connection reads, if one does.
    reader: Option<u64>,
    connections: u64,
    waker: Option<Waker>,
}

impl OutboxState {
    /// Ends the connection that reads. Gives how many messages are lost, or `None` if there was no reader.
    fn detach(&mut self) -> Option<usize> {
        self.reader.take()?;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Some(self.queue.clear())
    }
}

impl Outbox {
    pub fn new(kind: StreamKind) -> Outbox {
        let queue = Queue::new(PEER_QUEUE_MESSAGES_MAX);
        Outbox { kind, state: Mutex::new(OutboxState { queue, reader: None, connections: 0, waker: None }) }
    }

    pub fn offer(&self, message: Message) -> Offer {
        let mut state = self.state.lock();
        if state.reader.is_none() {
            return Offer::Detached(Box::new(message));
        }
        if !state.queue.push(message) {
            return Offer::Full;
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        Offer::Taken
    }

    #[cfg(test)]
    pub fn is_attached(&self) -> bool {
        self.state.lock().reader.is_some()
    }

    /// Ends the stream, if there is one.
    pub fn close(&self) {
        self.state.lock().detach();
    }

    /// Lets a new connection read. Messages that the one before did not take are lost, as in etcd.
    pub fn attach(self: &Arc<Self>, shared: &Arc<Shared>, member_id: u64, status: &Arc<PeerStatus>) -> OutgoingStream {
        let (connection, replaced) = {
            let mut state = self.state.lock();
            let replaced = state.detach();
            state.connections += 1;
            state.reader = Some(state.connections);
            (state.connections, replaced)
        };
        let stream = OutgoingStream {
            outbox: Arc::clone(self),
            shared: Arc::clone(shared),
            status: Arc::clone(status),
            member_id,
            connection,
            encoder: Encoder::new(self.kind),
            heartbeat: tokio::time::interval(READ_TIMEOUT / 3),
        };
        if let Some(lost) = replaced {
            stream.report_lost(lost);
            stream.log("closed TCP streaming connection with remote peer");
        }
        status.activate();
        tracing::info!(
            stream_writer_type = self.kind.name(),
            local_member_id = to_hex(shared.config.member_id).as_str(),
            remote_peer_id = status.hex(),
            "established TCP streaming connection with remote peer"
        );
        stream
    }
}

/// The body of an answered stream request: encodes what is queued for as long as the connection lives.
pub struct OutgoingStream {
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
    status: Arc<PeerStatus>,
    member_id: u64,
    connection: u64,
    encoder: Encoder,
    heartbeat: Interval,
}

impl OutgoingStream {
    fn report_lost(&self, messages: usize) {
        if messages > 0 {
            self.status.metrics.sent_failures.add(messages as u64);
            self.shared.reports.unreachable(self.member_id);
        }
    }

    fn log(&self, message: &str) {
        tracing::warn!(
            stream_writer_type = self.outbox.kind.name(),
            local_member_id = to_hex(self.shared.config.member_id).as_str(),
            remote_peer_id = self.status.hex(),
            "{message}"
        );
    }
}

impl Body for OutgoingStream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut buffer = BytesMut::new();
        let mut messages = Vec::new();
        {
            let mut state = self.outbox.state.lock();
            if state.reader != Some(self.connection) {
                return Poll::Ready(None);
            }
            let mut bytes = 0;
            while bytes < PEER_WRITE_BYTES
                && let Some((length, _)) = state.queue.messages.front()
                && (bytes == 0 || bytes + length <= PEER_WRITE_BYTES)
            {
                bytes += length;
                messages.extend(state.queue.pop());
            }
            if messages.is_empty() {
                state.waker = Some(context.waker().clone());
            }
        }
        for message in &messages {
            self.encoder.encode(message, &mut buffer);
        }
        if self.heartbeat.poll_tick(context).is_ready() && messages.is_empty() {
            self.encoder.heartbeat(&mut buffer);
        }
        if buffer.is_empty() {
            return Poll::Pending;
        }
        self.status.metrics.sent_bytes.add(buffer.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(buffer.freeze()))))
    }
}

impl Drop for OutgoingStream {
    /// The connection ended: by the other side, by a failed write, or because a newer one took its place.
    fn drop(&mut self) {
        let lost = {
            let mut state = self.outbox.state.lock();
            if state.reader != Some(self.connection) {
                return;
            }
            state.detach().unwrap_or_default()
        };
        self.status.deactivate(self.outbox.kind.name(), "write", "the connection was closed");
        self.report_lost(lost.max(1));
        self.log("lost TCP streaming connection with remote peer");
    }
}
