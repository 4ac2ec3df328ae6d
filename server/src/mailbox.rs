//! Where other threads leave replies for the calls of a connection thread: one wake-up per batch, not per reply.

use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use kvorum_node::member::Outcome;
use parking_lot::Mutex;

/// Names a waiting call: its place, and the request id that must still stand there when the reply comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotKey {
    pub slot: usize,
    pub request_id: u64,
}

#[derive(Default)]
pub struct Mailbox {
    replies: Mutex<Vec<(SlotKey, Outcome)>>,
    waker: AtomicWaker,
}

impl Mailbox {
    pub fn put(&self, replies: Vec<(SlotKey, Outcome)>) {
        let mut waiting = self.replies.lock();
        let first = waiting.is_empty();
        if first {
            *waiting = replies;
        } else {
            waiting.extend(replies);
        }
        drop(waiting);
        if first {
            self.waker.wake();
        }
    }

    /// Takes everything there is; pending while there is nothing.
    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<Vec<(SlotKey, Outcome)>> {
        self.waker.register(context.waker());
        let replies = std::mem::take(&mut *self.replies.lock());
        if replies.is_empty() { Poll::Pending } else { Poll::Ready(replies) }
    }
}
