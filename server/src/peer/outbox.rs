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
use kvorum_api::raftpb::{Message, MessageType};
use kvorum_node::limits::APPEND_MESSAGE_BYTES_MAX;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::Interval;

use super::framing::{Encoder, FRAME_HEAD_BYTES, StreamKind};
use super::status::PeerStatus;
use super::{READ_TIMEOUT, Shared};
use crate::ids::to_hex;
use crate::limits::{PEER_QUEUE_BYTES_MAX, PEER_QUEUE_MESSAGES_MAX, PEER_WRITE_BYTES};

/// What an entry inside a message has in front of it, at most: a tag and a length.
const ENTRY_HEAD_BYTES: usize = 6;

/// Appends that wait are joined up to this size, that of raft's own largest.
const JOINED_BYTES_MAX: usize = APPEND_MESSAGE_BYTES_MAX as usize;

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

    /// Lets the last message that waits say what this one says as well, if it can; otherwise gives it back. Two appends
    /// become one if the second begins where the first ends, and of two acknowledgements the higher one says it all:
    /// whoever reads them does in one step what it would have done in two, and answers once.
    pub fn join(&mut self, message: Message) -> Option<Message> {
        let Some((length, last)) = self.messages.back_mut() else { return Some(message) };
        let same_term = last.r#type == message.r#type && last.term == message.term && last.to == message.to;
        if !same_term {
            return Some(message);
        }
        match message.r#type() {
            MessageType::MsgApp if follows(last, &message) => {
                let added = message.entries.iter().map(|entry| entry.encoded_len() + ENTRY_HEAD_BYTES).sum::<usize>();
                if added > 0 && (*length + added > JOINED_BYTES_MAX || self.bytes + added > PEER_QUEUE_BYTES_MAX) {
                    return Some(message);
                }
                last.commit = last.commit.max(message.commit);
                last.entries.extend(message.entries);
                *length += added;
                self.bytes += added;
                None
            }
            MessageType::MsgAppResp if !last.reject() && !message.reject() && last.index() <= message.index() => {
                *last = message;
                None
            }
            _ => Some(message),
        }
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

/// Whether an append begins where another one ends, in the term of both.
fn follows(earlier: &Message, later: &Message) -> bool {
    let (index, term) = match earlier.entries.last() {
        Some(entry) => (entry.index(), entry.term()),
        None => (earlier.index(), earlier.log_term()),
    };
    later.index() == index && later.log_term() == term
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

    /// Queues a message. If the stream slept until there is one, it is for the caller to wake it.
    pub fn offer(&self, message: Message, wakers: &mut Vec<Waker>) -> Offer {
        let mut state = self.state.lock();
        if state.reader.is_none() {
            return Offer::Detached(Box::new(message));
        }
        let Some(message) = state.queue.join(message) else { return Offer::Taken };
        if !state.queue.push(message) {
            return Offer::Full;
        }
        wakers.extend(state.waker.take());
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
        let mut messages = Vec::new();
        let mut bytes = 0;
        {
            let mut state = self.outbox.state.lock();
            if state.reader != Some(self.connection) {
                return Poll::Ready(None);
            }
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
        let entries: usize = messages.iter().map(|message| message.entries.len()).sum();
        let mut buffer = BytesMut::with_capacity(bytes + (messages.len() + entries) * FRAME_HEAD_BYTES);
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

#[cfg(test)]
mod tests {
    use kvorum_api::raftpb::Entry;

    use super::*;

    fn append(index: u64, entries: std::ops::Range<u64>, commit: u64) -> Message {
        let entry =
            |index| Entry { index: Some(index), term: Some(3), data: Some(vec![7; 10].into()), r#type: Some(0) };
        Message {
            r#type: Some(MessageType::MsgApp.into()),
            term: Some(3),
            log_term: Some(3),
            index: Some(index),
            entries: entries.map(entry).collect(),
            commit: Some(commit),
            ..Message::default()
        }
    }

    fn acknowledgement(index: u64, reject: bool) -> Message {
        Message {
            r#type: Some(MessageType::MsgAppResp.into()),
            term: Some(3),
            index: Some(index),
            reject: Some(reject),
            ..Message::default()
        }
    }

    /// What leaves when all these wait together.
    fn waiting(messages: impl IntoIterator<Item = Message>) -> Vec<Message> {
        let mut queue = Queue::new(PEER_QUEUE_MESSAGES_MAX);
        for message in messages {
            if let Some(message) = queue.join(message) {
                assert!(queue.push(message));
            }
        }
        let counted = queue.bytes;
        let left: Vec<Message> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(queue.bytes, 0, "what was counted is what was there");
        assert!(counted >= left.iter().map(Message::encoded_len).sum::<usize>());
        left
    }

    #[test]
    fn appends_that_follow_from_each_other_leave_as_one() {
        assert_eq!(
            waiting([append(4, 5..7, 2), append(6, 7..8, 3), append(7, 8..8, 6)]),
            [append(4, 5..8, 6)],
            "entries are put together, the last commit counts"
        );
        let apart = [append(4, 5..7, 2), append(7, 8..9, 3)];
        assert_eq!(waiting(apart.clone()), apart, "there is a gap between them");
        let again = [append(4, 5..7, 2), append(4, 5..7, 2)];
        assert_eq!(waiting(again.clone()), again, "the second does not begin where the first ends");
        let later_term = [append(4, 5..7, 2), Message { term: Some(4), ..append(6, 7..8, 2) }];
        assert_eq!(waiting(later_term.clone()), later_term);
    }

    #[test]
    fn the_highest_acknowledgement_says_it_all_and_a_refusal_is_heard() {
        assert_eq!(waiting([5, 6, 9].map(|index| acknowledgement(index, false))), [acknowledgement(9, false)]);
        let refused = [acknowledgement(5, false), acknowledgement(6, true), acknowledgement(6, false)];
        assert_eq!(waiting(refused.clone()), refused);
    }

    #[test]
    fn joined_appends_stay_below_the_size_of_one() {
        let mut queue = Queue::new(PEER_QUEUE_MESSAGES_MAX);
        for index in 0..100_000 {
            if let Some(message) = queue.join(append(index, index + 1..index + 2, 0)) {
                assert!(queue.push(message));
            }
        }
        assert!(queue.messages.len() > 1);
        let longest = queue.messages.iter().map(|(_, message)| message.encoded_len()).max();
        assert!(longest.is_some_and(|bytes| bytes <= JOINED_BYTES_MAX));
    }
}
