//! What waits between a task and the consumer of its answers: bounded, so that a slow consumer holds memory for a known
//! amount and no more. The bound is the task's to keep: [`Buffer::push`] says when it is reached.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// A queue with one task that fills it and one consumer.
pub struct Buffer<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    items: VecDeque<(T, usize)>,
    weight: usize,
    waker: Option<Waker>,
    is_closed: bool,
    /// The producer stopped for want of room and waits to be told.
    is_parked: bool,
}

impl<T> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Buffer<T> {
    pub fn new() -> Self {
        let state = State { items: VecDeque::new(), weight: 0, waker: None, is_closed: false, is_parked: false };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Adds an item of a weight unless what waits already weighs `limit`; then gives it back, and the consumer will say
    /// when there is room ([`Taken::was_parked`]).
    pub fn push_or_park(&self, item: T, weight: usize, limit: usize) -> Result<(), T> {
        let waker = {
            let mut state = self.0.lock();
            if state.weight >= limit {
                state.is_parked = true;
                return Err(item);
            }
            state.weight += weight;
            state.items.push_back((item, weight));
            state.waker.take()
        };
        wake(waker);
        Ok(())
    }

    /// Adds an item that replaces the last one where `replaces` says so, and drops the oldest beyond `limit`.
    pub fn push_newest(&self, item: T, limit: usize, replaces: impl FnOnce(&T) -> bool) {
        let waker = {
            let mut state = self.0.lock();
            if state.items.back().is_some_and(|(last, weight)| *weight == 0 && replaces(last)) {
                state.items.pop_back();
            }
            state.items.push_back((item, 0));
            while state.items.len() > limit && state.items.front().is_some_and(|(_, weight)| *weight == 0) {
                state.items.pop_front();
            }
            state.waker.take()
        };
        wake(waker);
    }

    /// Adds the last item, whatever waits.
    pub fn finish(&self, item: T) {
        let waker = {
            let mut state = self.0.lock();
            if !state.is_closed {
                state.items.push_back((item, 0));
                state.is_closed = true;
            }
            state.waker.take()
        };
        wake(waker);
    }

    /// Says that nothing will come any more.
    pub fn close(&self) {
        let waker = {
            let mut state = self.0.lock();
            state.is_closed = true;
            state.waker.take()
        };
        wake(waker);
    }

    /// Takes the oldest item.
    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<Option<Taken<T>>> {
        let mut state = self.0.lock();
        match state.items.pop_front() {
            Some((item, weight)) => {
                state.weight -= weight;
                let was_parked = state.items.is_empty() && std::mem::take(&mut state.is_parked);
                Poll::Ready(Some(Taken { item, was_parked }))
            }
            None if state.is_closed => Poll::Ready(None),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// What was taken.
pub struct Taken<T> {
    pub item: T,
    /// The producer had stopped, and nothing waits any more: it should go on.
    pub was_parked: bool,
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
