//! Where other threads leave replies for the calls of a connection thread: one wake-up per batch, not per reply.

use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use kvorum_api::EtcdError;
use kvorum_node::member::Outcome;
use parking_lot::Mutex;

/// Names a waiting call: its place, and the request id that must still stand there when the reply comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotKey {
    pub slot: usize,
    pub request_id: u64,
}

/// What other threads leave for a connection thread.
#[derive(Default)]
pub struct Mail {
    pub replies: Vec<(SlotKey, Outcome)>,
    /// Batches of linearizable reads, by their number.
    pub reads: Vec<(usize, Result<(), EtcdError>)>,
}

impl Mail {
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty() && self.reads.is_empty()
    }
}

#[derive(Default)]
pub struct Mailbox {
    mail: Mutex<Mail>,
    waker: AtomicWaker,
}

impl Mailbox {
    pub fn put(&self, mail: Mail) {
        let mut waiting = self.mail.lock();
        let first = waiting.is_empty();
        if first {
            *waiting = mail;
        } else {
            waiting.replies.extend(mail.replies);
            waiting.reads.extend(mail.reads);
        }
        drop(waiting);
        if first {
            self.waker.wake();
        }
    }

    /// Takes everything there is; pending while there is nothing.
    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<Mail> {
        self.waker.register(context.waker());
        let mail = std::mem::take(&mut *self.mail.lock());
        if mail.is_empty() { Poll::Pending } else { Poll::Ready(mail) }
    }
}
