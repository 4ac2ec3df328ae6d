//! How the runner's thread and the load threads agree on when to record and when to stop. It never blocks a load thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Shared by all loads of one measurement.
pub struct Control {
    recording: AtomicBool,
    stop: watch::Sender<bool>,
    failure: Mutex<Option<String>>,
    failed: Condvar,
}

impl Default for Control {
    fn default() -> Self {
        Control {
            recording: AtomicBool::new(false),
            stop: watch::Sender::new(false),
            failure: Mutex::new(None),
            failed: Condvar::new(),
        }
    }
}

impl Control {
    pub fn recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed)
    }

    pub fn record(&self, on: bool) {
        self.recording.store(on, Ordering::Relaxed);
    }

    pub fn stop(&self) {
        self.record(false);
        self.stop.send_replace(true);
    }

    /// Returns once `stop` was called.
    pub async fn stopped(&self) {
        self.stop.subscribe().wait_for(|stop| *stop).await.expect("the sender lives as long as self");
    }

    /// Keeps the first failure and wakes the runner.
    pub fn fail(&self, error: &str) {
        self.failure().get_or_insert_with(|| error.to_owned());
        self.failed.notify_all();
    }

    /// Waits for `time`, or fails as soon as a load does.
    pub fn wait(&self, time: Duration) -> Result<(), String> {
        let (failure, _) = self
            .failed
            .wait_timeout_while(self.failure(), time, |failure| failure.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        failure.clone().map_or(Ok(()), Err)
    }

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
