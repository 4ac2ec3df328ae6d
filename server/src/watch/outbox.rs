//! The responses of one stream on their way to its connection: a bounded queue of ready gRPC frames within one thread.
//!
//! Producers append and never wait; they ask [`Outbox::is_full`] first. Small frames share one buffer, so a connection that
//! comes round after many events takes them in one piece; large values are not copied at all.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use kvorum_store::KvBytes;
use tokio::sync::Notify;

use super::publisher::ThreadCounters;
use super::{WatchLimits, catch_up::CatchUpSignal};
use std::sync::Arc;

/// Values of this size or more are handed on by reference.
const SHARE_BYTES_MIN: usize = 16 * 1024;

/// gRPC's prefix: one byte "not compressed", four bytes length.
const FRAME_PREFIX_BYTES: usize = 5;

struct Chunk {
    bytes: Bytes,
    messages: usize,
    events: u64,
}

/// What a thread's outboxes have in common.
pub(super) struct OutboxShared {
    pub(super) limits: WatchLimits,
    pub(super) thread_bytes: Cell<usize>,
    pub(super) counters: Arc<ThreadCounters>,
    pub(super) catch_up: Rc<CatchUpSignal>,
}

struct OutboxState {
    shared: Rc<OutboxShared>,
    chunks: VecDeque<Chunk>,
    tail: BytesMut,
    tail_messages: usize,
    tail_events: u64,
    bytes: usize,
    messages: usize,
    receiver_waker: Option<Waker>,
    receiver_gone: bool,
    producer_gone: bool,
    /// The stream whose watchers wait for room.
    waiting_stream: Option<usize>,
    room_wanted: bool,
    signal: Rc<Notify>,
}

/// The producing half. Dropping it ends the stream of chunks after what is queued.
pub struct Outbox {
    state: Rc<RefCell<OutboxState>>,
}

/// The consuming half, for the connection. Dropping it ends the stream's service.
pub struct OutboxReceiver {
    state: Rc<RefCell<OutboxState>>,
}

pub(super) fn outbox(shared: Rc<OutboxShared>) -> (Outbox, OutboxReceiver) {
    let state = Rc::new(RefCell::new(OutboxState {
        shared,
        chunks: VecDeque::new(),
        tail: BytesMut::new(),
        tail_messages: 0,
        tail_events: 0,
        bytes: 0,
        messages: 0,
        receiver_waker: None,
        receiver_gone: false,
        producer_gone: false,
        waiting_stream: None,
        room_wanted: false,
        signal: Rc::new(Notify::new()),
    }));
    (Outbox { state: Rc::clone(&state) }, OutboxReceiver { state })
}

impl OutboxState {
    fn is_full(&self) -> bool {
        let limits = &self.shared.limits;
        self.bytes >= limits.outbox_bytes
            || self.messages >= limits.outbox_messages
            || (self.bytes >= limits.outbox_bytes_floor && self.shared.thread_bytes.get() >= limits.thread_bytes)
    }

    /// Half empty: enough room that resuming is worth a history read.
    fn is_roomy(&self) -> bool {
        let limits = &self.shared.limits;
        self.bytes <= limits.outbox_bytes / 2
            && self.messages <= limits.outbox_messages / 2
            && (self.bytes < limits.outbox_bytes_floor || self.shared.thread_bytes.get() < limits.thread_bytes)
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let chunk =
                Chunk { bytes: self.tail.split().freeze(), messages: self.tail_messages, events: self.tail_events };
            self.chunks.push_back(chunk);
            self.tail_messages = 0;
            self.tail_events = 0;
        }
    }

    fn take_chunk(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.close_tail();
        }
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.bytes.len();
        self.messages -= chunk.messages;
        let shared = Rc::clone(&self.shared);
        shared.thread_bytes.set(shared.thread_bytes.get() - chunk.bytes.len());
        shared.counters.add_pending_events(-(chunk.events as i64));
        if self.is_roomy() {
            if let Some(stream) = self.waiting_stream.take() {
                shared.catch_up.stream_has_room(stream);
            }
            if std::mem::take(&mut self.room_wanted) {
                self.signal.notify_one();
            }
        }
        Some(chunk.bytes)
    }

    /// Forgets everything queued; its memory and its place in the counters are given back.
    fn discard(&mut self) {
        self.close_tail();
        self.waiting_stream = None;
        while self.take_chunk().is_some() {}
        self.tail = BytesMut::new();
    }
}

impl Outbox {
    /// Whether producers must stop. One response may be appended whenever it is not.
    pub fn is_full(&self) -> bool {
        self.state.borrow().is_full()
    }

    /// Bytes waiting.
    pub fn len_bytes(&self) -> usize {
        self.state.borrow().bytes
    }

    pub(super) fn handle(&self) -> OutboxHandle {
        OutboxHandle { state: Rc::clone(&self.state) }
    }

    /// Returns when a response may be appended or the receiver is gone.
    pub(super) async fn room(&self) {
        let signal = Rc::clone(&self.state.borrow().signal);
        loop {
            {
                let mut state = self.state.borrow_mut();
                if !state.is_full() || state.receiver_gone {
                    return;
                }
                state.room_wanted = true;
            }
            signal.notified().await;
        }
    }

    /// Wakes whoever waits in [`Self::room`] when something else about the stream changed.
    pub(super) fn signal(&self) -> Rc<Notify> {
        Rc::clone(&self.state.borrow().signal)
    }

    pub(super) fn receiver_gone(&self) -> bool {
        self.state.borrow().receiver_gone
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        state.producer_gone = true;
        if let Some(waker) = state.receiver_waker.take() {
            waker.wake();
        }
    }
}

/// The hub's way to append to a stream's outbox.
pub(super) struct OutboxHandle {
    state: Rc<RefCell<OutboxState>>,
}

impl OutboxHandle {
    pub(super) fn is_full(&self) -> bool {
        self.state.borrow().is_full()
    }

    /// Asks for [`CatchUpSignal::stream_has_room`] once there is.
    pub(super) fn tell_when_roomy(&self, stream: usize) {
        self.state.borrow_mut().waiting_stream = Some(stream);
    }

    pub(super) fn wake_service(&self) {
        self.state.borrow().signal.notify_one();
    }

    /// Appends one gRPC frame whose message `write` produces; its length must be exactly `length`.
    pub(super) fn append(&self, length: usize, events: usize, write: impl FnOnce(&mut FrameWriter<'_>)) {
        let mut state = self.state.borrow_mut();
        if state.receiver_gone {
            return;
        }
        let total = FRAME_PREFIX_BYTES + length;
        let prefix_length = u32::try_from(length).expect("a response is below 4 GiB");
        if total < SHARE_BYTES_MIN {
            state.tail.reserve(total);
        }
        state.tail.put_u8(0);
        state.tail.put_u32(prefix_length);
        let mut writer = FrameWriter { state: &mut state, written: FRAME_PREFIX_BYTES };
        write(&mut writer);
        assert_eq!(writer.written, total, "a frame is as long as announced");
        state.bytes += total;
        state.messages += 1;
        let shared = Rc::clone(&state.shared);
        shared.thread_bytes.set(shared.thread_bytes.get() + total);
        shared.counters.add_pending_events(events as i64);
        if state.tail.is_empty() {
            // The frame ended with a shared value: it is the last chunk's.
            let last = state.chunks.back_mut().expect("the frame went somewhere");
            last.messages += 1;
            last.events += events as u64;
        } else {
            state.tail_messages += 1;
            state.tail_events += events as u64;
            if state.tail.len() >= shared.limits.chunk_bytes {
                state.close_tail();
            }
        }
        if let Some(waker) = state.receiver_waker.take() {
            waker.wake();
        }
    }
}

/// Writes the inside of one frame.
pub(super) struct FrameWriter<'a> {
    state: &'a mut OutboxState,
    written: usize,
}

impl FrameWriter<'_> {
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.state.tail.put_slice(bytes);
        self.written += bytes.len();
    }

    /// As [`Self::put`], without copying when it is large.
    pub(super) fn put_shared(&mut self, bytes: &KvBytes) {
        if bytes.len() < SHARE_BYTES_MIN {
            return self.put(bytes);
        }
        self.state.close_tail();
        let chunk = Chunk { bytes: Bytes::from_owner(Arc::clone(bytes)), messages: 0, events: 0 };
        self.state.chunks.push_back(chunk);
        self.written += bytes.len();
    }
}

impl OutboxReceiver {
    /// The next piece of the stream's body: one or several frames in one piece, or a part of one that is large. `None` after
    /// the service ended and everything was taken.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.state.borrow_mut();
        if let Some(bytes) = state.take_chunk() {
            return Poll::Ready(Some(bytes));
        }
        if state.producer_gone {
            return Poll::Ready(None);
        }
        if !state.receiver_waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.receiver_waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for OutboxReceiver {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        state.receiver_gone = true;
        state.discard();
        state.signal.notify_one();
    }
}
