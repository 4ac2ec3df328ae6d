//! One connection thread's Watch: its state, and the task that brings what was published to the streams.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::AbortHandle;

use super::catch_up::{self, CatchUpSignal};
use super::outbox::{Outbox, OutboxReceiver, OutboxShared, outbox};
use super::publisher::{PublisherShared, ThreadQueue};
use super::state::State;
use super::{HeaderSource, HistorySource, PROGRESS_INTERVAL_MIN, WatchConfig, WatchPermits};

/// What the hub's tasks and its streams share.
pub(super) struct Inner {
    pub(super) state: RefCell<State>,
    pub(super) catch_up: Rc<CatchUpSignal>,
    pub(super) outbox: Rc<OutboxShared>,
    pub(super) queue: Arc<ThreadQueue>,
}

/// The watchers of one thread. Neither it nor anything made from it leaves the thread.
pub struct WatchHub {
    pub(super) inner: Rc<Inner>,
    shared: Arc<PublisherShared>,
    tasks: [AbortHandle; 2],
}

impl WatchHub {
    pub(super) fn start(
        mut config: WatchConfig,
        header: Rc<dyn HeaderSource>,
        history: Rc<dyn HistorySource>,
        permits: Rc<dyn WatchPermits>,
        shared: Arc<PublisherShared>,
        queue: Arc<ThreadQueue>,
    ) -> Rc<Self> {
        config.progress_interval = config.progress_interval.max(PROGRESS_INTERVAL_MIN);
        let catch_up = Rc::new(CatchUpSignal::default());
        let outbox = Rc::new(OutboxShared {
            limits: config.limits.clone(),
            thread_bytes: std::cell::Cell::new(0),
            counters: Arc::clone(&queue.counters),
            catch_up: Rc::clone(&catch_up),
        });
        let state = State::new(config, header, permits, Arc::clone(&shared), Arc::clone(&queue), Rc::clone(&catch_up));
        let inner = Rc::new(Inner { state: RefCell::new(state), catch_up, outbox, queue });
        let pump = tokio::task::spawn_local(pump(Rc::clone(&inner))).abort_handle();
        let reader = tokio::task::spawn_local(catch_up::run(Rc::clone(&inner), history)).abort_handle();
        Rc::new(Self { inner, shared, tasks: [pump, reader] })
    }

    /// A queue for the responses of one stream; see [`super::serve_stream`].
    pub fn outbox(&self) -> (Outbox, OutboxReceiver) {
        outbox(Rc::clone(&self.inner.outbox))
    }

    /// The revision up to which this thread knows what happened.
    pub fn revision(&self) -> i64 {
        self.inner.state.borrow_mut().current_revision()
    }
}

impl Drop for WatchHub {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.detach(&self.inner.queue);
    }
}

/// Delivers what is published, in turns, so that a burst for many watchers does not hold up the thread.
async fn pump(inner: Rc<Inner>) {
    loop {
        let more = inner.state.borrow_mut().pump_turn();
        if more {
            tokio::task::yield_now().await;
        } else {
            inner.queue.wake.notified().await;
        }
    }
}
