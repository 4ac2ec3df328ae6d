//! The bridge from the apply path to the connection threads: one bounded queue per thread.
//!
//! Publishing never waits and never fails. A thread that does not keep up loses its queued batches and is told so; its hub
//! then reads history. A thread without watchers is passed over, and learns the revision when it gets its first one.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use kvorum_store::EventBatch;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::hub::WatchHub;
use super::{HeaderSource, HistorySource, WatchConfig, WatchPermits};

/// Numbers of Watch on all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStatistics {
    pub streams: i64,
    pub watchers: i64,
    /// Watchers that are not synced.
    pub slow_watchers: i64,
    /// Events in outboxes.
    pub pending_events: i64,
    /// Events appended to outboxes since the start, counted once for each watcher.
    pub events_total: u64,
    /// Times a thread's queue ran over and its watchers were sent to history.
    pub queue_overflows_total: u64,
}

/// One thread's share of [`WatchStatistics`]. Written by that thread alone.
#[derive(Default)]
pub(super) struct ThreadCounters {
    pub(super) streams: AtomicI64,
    pub(super) watchers: AtomicI64,
    pub(super) slow_watchers: AtomicI64,
    pending_events: AtomicI64,
    events_total: AtomicU64,
    queue_overflows_total: AtomicU64,
}

impl ThreadCounters {
    pub(super) fn add_pending_events(&self, change: i64) {
        // One writer: a plain addition is enough, and cheaper than an atomic one.
        self.pending_events.store(self.pending_events.load(Ordering::Relaxed) + change, Ordering::Relaxed);
    }

    pub(super) fn add_events(&self, count: u64) {
        self.events_total.store(self.events_total.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct QueueState {
    batches: VecDeque<Arc<[EventBatch]>>,
    batch_count: usize,
    bytes: usize,
    /// Set when batches were dropped: the last revision that was.
    dropped_up_to: Option<i64>,
}

/// What waits for one thread.
pub(super) struct ThreadQueue {
    /// Whether the thread has watchers. Read without the lock: see [`WatchPublisher::publish`].
    active: AtomicBool,
    state: Mutex<QueueState>,
    pub(super) wake: Notify,
    pub(super) counters: Arc<ThreadCounters>,
    batches_max: usize,
    bytes_max: usize,
}

/// What a thread finds when it looks.
pub(super) struct Taken {
    pub(super) batches: VecDeque<Arc<[EventBatch]>>,
    pub(super) dropped_up_to: Option<i64>,
}

impl ThreadQueue {
    fn push(&self, batches: &Arc<[EventBatch]>, bytes: usize) {
        let Some(last) = batches.last() else { return };
        let mut state = self.state.lock();
        if state.dropped_up_to.is_none()
            && (state.batch_count + batches.len() > self.batches_max || state.bytes + bytes > self.bytes_max)
        {
            self.counters.queue_overflows_total.fetch_add(1, Ordering::Relaxed);
            *state = QueueState { dropped_up_to: Some(last.revision), ..QueueState::default() };
        } else if let Some(dropped) = &mut state.dropped_up_to {
            *dropped = last.revision;
        } else {
            state.batches.push_back(Arc::clone(batches));
            state.batch_count += batches.len();
            state.bytes += bytes;
        }
        drop(state);
        self.wake.notify_one();
    }

    fn skip_to(&self, revision: i64) {
        *self.state.lock() = QueueState { dropped_up_to: Some(revision), ..QueueState::default() };
        self.wake.notify_one();
    }

    /// Everything that waits, leaving the queue empty.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut state = self.state.lock();
        if state.batches.is_empty() && state.dropped_up_to.is_none() {
            return None;
        }
        let taken = std::mem::take(&mut *state);
        Some(Taken { batches: taken.batches, dropped_up_to: taken.dropped_up_to })
    }

    /// The thread has watchers from now on. After this, the revision is read.
    pub(super) fn activate(&self) {
        self.active.store(true, Ordering::SeqCst);
        *self.state.lock() = QueueState::default();
    }

    pub(super) fn deactivate(&self) {
        self.active.store(false, Ordering::SeqCst);
        *self.state.lock() = QueueState::default();
    }
}

/// What publisher and hubs share.
pub(super) struct PublisherShared {
    revision: AtomicI64,
    threads: RwLock<Vec<Arc<ThreadQueue>>>,
}

impl PublisherShared {
    pub(super) fn revision(&self) -> i64 {
        self.revision.load(Ordering::SeqCst)
    }

    pub(super) fn detach(&self, queue: &Arc<ThreadQueue>) {
        self.threads.write().retain(|other| !Arc::ptr_eq(other, queue));
    }
}

/// Where the apply path leaves what happened. Cheap to clone.
#[derive(Clone)]
pub struct WatchPublisher {
    shared: Arc<PublisherShared>,
}

impl WatchPublisher {
    /// `revision` is the store's revision; the first batch to be published is the one after it.
    pub fn new(revision: i64) -> Self {
        Self { shared: Arc::new(PublisherShared { revision: AtomicI64::new(revision), threads: RwLock::default() }) }
    }

    /// Tells every thread what happened. To be called in the order of revisions, from one caller at a time, after the
    /// store's readers see the batches and before anyone is answered because of them: then a watch created after an answer
    /// starts at that answer's revision or later.
    pub fn publish(&self, batches: Arc<[EventBatch]>) {
        let Some(last) = batches.last() else { return };
        // First the revision, then the look at `active`; a thread does it the other way round. So either the thread sees
        // this revision when it begins, or this call sees the thread. When both happen, the thread drops what it knows.
        self.shared.revision.store(last.revision, Ordering::SeqCst);
        let mut bytes = None;
        for thread in self.shared.threads.read().iter() {
            if thread.active.load(Ordering::SeqCst) {
                let bytes = *bytes.get_or_insert_with(|| weight(&batches));
                thread.push(&batches, bytes);
            }
        }
    }

    /// Users, roles or permissions changed: every thread looks at its watchers again.
    pub fn permissions_changed(&self) {
        for thread in self.shared.threads.read().iter() {
            thread.wake.notify_one();
        }
    }

    /// The store was replaced or moved on without events: every watcher continues from history up to this revision.
    pub fn skip_to(&self, revision: i64) {
        self.shared.revision.store(revision, Ordering::SeqCst);
        for thread in self.shared.threads.read().iter() {
            if thread.active.load(Ordering::SeqCst) {
                thread.skip_to(revision);
            }
        }
    }

    /// Makes the calling thread's hub. Must be called inside that thread's `LocalSet`, where the hub's tasks then run until
    /// the last handle to the hub is dropped.
    pub fn attach(
        &self,
        config: WatchConfig,
        header: Rc<dyn HeaderSource>,
        history: Rc<dyn HistorySource>,
        permits: Rc<dyn WatchPermits>,
    ) -> Rc<WatchHub> {
        let queue = Arc::new(ThreadQueue {
            active: AtomicBool::new(false),
            state: Mutex::default(),
            wake: Notify::new(),
            counters: Arc::default(),
            batches_max: config.limits.queue_batches,
            bytes_max: config.limits.queue_bytes,
        });
        self.shared.threads.write().push(Arc::clone(&queue));
        WatchHub::start(config, header, history, permits, Arc::clone(&self.shared), queue)
    }

    pub fn statistics(&self) -> WatchStatistics {
        let mut sum = WatchStatistics::default();
        for thread in self.shared.threads.read().iter() {
            let counters = &thread.counters;
            sum.streams += counters.streams.load(Ordering::Relaxed);
            sum.watchers += counters.watchers.load(Ordering::Relaxed);
            sum.slow_watchers += counters.slow_watchers.load(Ordering::Relaxed);
            sum.pending_events += counters.pending_events.load(Ordering::Relaxed);
            sum.events_total += counters.events_total.load(Ordering::Relaxed);
            sum.queue_overflows_total += counters.queue_overflows_total.load(Ordering::Relaxed);
        }
        sum
    }
}

/// Bytes of memory that a publication keeps alive.
fn weight(batches: &[EventBatch]) -> usize {
    let previous = |event: &kvorum_store::Event| match &event.previous {
        kvorum_store::Previous::Known(kv) => kv.len(),
        _ => 0,
    };
    batches
        .iter()
        .flat_map(|batch| &batch.events)
        .map(|event| event.kv.len() + previous(event) + size_of_val(event))
        .sum()
}
