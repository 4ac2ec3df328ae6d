//! Writes down what all clients see, with times that no two of them share. It knows no network.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvorum_sim::history::{History, Operation, Outcome, Request, Time, WatchRecord};

#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    inner: Mutex<(Time, History)>,
    /// The newest revision that anybody was told.
    newest: AtomicI64,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder { began: Instant::now(), inner: Mutex::default(), newest: AtomicI64::new(1) }
    }
}

impl Recorder {
    fn lock(&self) -> (MutexGuard<'_, (Time, History)>, Time) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Time::try_from(self.began.elapsed().as_nanos()).unwrap_or(Time::MAX);
        inner.0 = now.max(inner.0 + 1);
        let now = inner.0;
        (inner, now)
    }

    /// A request is about to be sent. Gives its position in the history.
    pub fn call(&self, client: u32, request: Request) -> usize {
        let (mut inner, call) = self.lock();
        inner.1.operations.push(Operation { client, call, end: call, request, outcome: Outcome::Unknown });
        inner.1.operations.len() - 1
    }

    /// What came of it.
    pub fn answer(&self, operation: usize, outcome: Outcome) {
        if let Outcome::Done { revision, .. } = outcome {
            self.newest.fetch_max(revision, Ordering::Relaxed);
        }
        let (mut inner, end) = self.lock();
        let operation = &mut inner.1.operations[operation];
        operation.end = end;
        operation.outcome = outcome;
    }

    /// The time of something that arrived just now.
    pub fn now(&self) -> Time {
        self.lock().1
    }

    /// A watch that is over, or whose record is.
    pub fn watched(&self, record: WatchRecord) {
        if !record.messages.is_empty() {
            self.lock().0.1.watches.push(record);
        }
    }

    pub fn newest_revision(&self) -> i64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Everything so far. What is still under way stays open.
    pub fn take(&self) -> History {
        std::mem::take(&mut self.lock().0.1)
    }
}
