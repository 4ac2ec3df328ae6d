//! `Maintenance.Defragment`: the database is copied without its free pages, and the copy takes its place, while the member
//! serves. One copy at a time; whoever asks meanwhile waits for the same one. It runs on a thread of its own, in slices
//! with pauses: reads, writes and commits come first. It never holds a lock of the member's across more than one short sync.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvorum_disk::LmdbBackend;
use kvorum_disk::lmdb::{Freeing, RetiredGeneration, Shrink};
use kvorum_store::Backend;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::core::Core;
use crate::limits::{
    FREED_PATIENCE, FREED_PAUSE, FREED_SLICE_BYTES, SHRINK_PAUSE_MAX, SHRINK_PAUSE_MIN, SHRINK_SLICE_BYTES,
    SHRINK_WRITE_BYTES,
};
use crate::scheduling;

/// How it went; `None` while it goes on.
type Outcome = Option<Result<(), String>>;

/// The shrink under way, if there is one.
#[derive(Default)]
pub struct Shrinking(Mutex<Option<(watch::Receiver<Outcome>, JoinHandle<()>)>>);

impl Shrinking {
    /// Begins a shrink, or joins the one under way, and waits for its end. It goes on if the caller does not.
    pub async fn shrink(&self, core: &Arc<Core>) -> Result<(), String> {
        let mut outcome = self.join_or_begin(core)?;
        let ended = outcome.wait_for(Option::is_some).await.map_err(|_| "the shrink broke off".to_owned())?;
        ended.clone().expect("it was waited for")
    }

    fn join_or_begin(&self, core: &Arc<Core>) -> Result<watch::Receiver<Outcome>, String> {
        let mut running = self.0.lock();
        if let Some((outcome, _)) = &*running
            && outcome.borrow().is_none()
            && outcome.has_changed().is_ok()
        {
            return Ok(outcome.clone());
        }
        let (sender, outcome) = watch::channel(None);
        let shrinking = Arc::clone(core);
        let work = move || {
            scheduling::prefer_others();
            let done = run(&shrinking);
            // Its end is told when nothing of it is held any more.
            drop(shrinking);
            sender.send_replace(Some(done));
        };
        let thread = std::thread::Builder::new().name("database-shrink".to_owned()).spawn(work);
        let thread = thread.map_err(|error| format!("starting a thread: {error}"))?;
        *running = Some((outcome.clone(), thread));
        Ok(outcome)
    }

    /// Waits for the end of the one under way, at a stop.
    pub fn join(&self) {
        let running = self.0.lock().take();
        if let Some((_, thread)) = running {
            drop(thread.join());
        }
    }
}

fn run(core: &Core) -> Result<(), String> {
    let backend = core.databases.backend();
    let began = Instant::now();
    let before = backend.size_bytes();
    tracing::info!(
        path = %backend.generation().directory().display(),
        current_db_size_bytes = before,
        current_db_size_in_use_bytes = backend.size_in_use_bytes(),
        "defragmenting"
    );
    core.metrics.defrag_inflight.set(1);
    let done = copy(core, backend).and_then(|shrink| shrink.map_or(Ok(()), |shrink| switch(core, backend, shrink)));
    core.metrics.defrag_inflight.set(0);
    if let Err(reason) = done {
        tracing::warn!(error = %reason, "failed to defragment");
        return Err(reason);
    }
    core.metrics.backend_defrag_seconds.observe_duration(began.elapsed());
    let after = backend.size_bytes();
    tracing::info!(
        path = %backend.generation().directory().display(),
        current_db_size_bytes_diff = i128::from(after) - i128::from(before),
        current_db_size_bytes = after,
        current_db_size_in_use_bytes = backend.size_in_use_bytes(),
        took = ?began.elapsed(),
        "finished defragmenting directory"
    );
    Ok(())
}

/// Copies everything and writes it out. `None`: a database of the leader's took the place of the one that was copied, and
/// has no free pages.
fn copy(core: &Core, backend: &Arc<LmdbBackend>) -> Result<Option<Shrink>, String> {
    let mut shrink = Shrink::begin(backend).map_err(|error| error.to_string())?;
    let mut pace = Pace::new(core.sync_time());
    let mut unwritten_from = 0;
    loop {
        if core.is_stopping() {
            return Err("the member stops".to_owned());
        }
        if shrink.is_overtaken() {
            return Ok(None);
        }
        let began = Instant::now();
        let is_done = shrink.step(SHRINK_SLICE_BYTES).map_err(|error| error.to_string())?;
        let copied = shrink.copied_bytes();
        if copied >= unwritten_from + SHRINK_WRITE_BYTES {
            unwritten_from = copied;
            shrink.write_out().map_err(|error| error.to_string())?;
        }
        if is_done {
            // In two parts: what is left for the second, which a sync of the log may wait for, is short.
            shrink.write_out().and_then(|()| shrink.sync()).map_err(|error| error.to_string())?;
            return Ok(Some(shrink));
        }
        std::thread::sleep(pace.pause(began.elapsed(), core.sync_time()));
    }
}

/// `--bootstrap-defrag-threshold-megabytes`: shrinks a database that nobody uses yet, if that frees so much. A database that
/// cannot be shrunk is started with as it is; an error means that it is not known which one is live.
pub fn shrink_at_start(backend: &Arc<LmdbBackend>, threshold_megabytes: u64) -> Result<(), String> {
    let (size, in_use) = (backend.size_bytes(), backend.size_in_use_bytes());
    let threshold = threshold_megabytes.saturating_mul(1024 * 1024);
    // One that was just received has a mark that the start still needs, and no free pages.
    if threshold == 0 || size.saturating_sub(in_use) < threshold || backend.has_received_mark() {
        if threshold > 0 {
            tracing::info!(
                current_db_size_bytes = size,
                current_db_size_in_use_bytes = in_use,
                bootstrap_defrag_threshold_bytes = threshold,
                "Skipping defragmentation"
            );
        }
        return Ok(());
    }
    let began = Instant::now();
    let copied =
        copy_at_once(backend).and_then(|shrink| shrink.seal(backend.options()).map_err(|error| error.to_string()));
    let prepared = match copied {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::warn!(error = %error, "failed to defragment before the start");
            return Ok(());
        }
    };
    let retired = backend.switch(prepared).map_err(|error| error.to_string())?;
    if let Err(error) = retired.remove().map(drop) {
        tracing::warn!(error = %error, "failed to remove the database before the shrink; the next start does");
    }
    tracing::info!(
        current_db_size_bytes_diff = i128::from(backend.size_bytes()) - i128::from(size),
        current_db_size_bytes = backend.size_bytes(),
        current_db_size_in_use_bytes = backend.size_in_use_bytes(),
        took = ?began.elapsed(),
        "finished defragmenting directory"
    );
    Ok(())
}

fn copy_at_once(backend: &Arc<LmdbBackend>) -> Result<Shrink, String> {
    let mut shrink = Shrink::begin(backend).map_err(|error| error.to_string())?;
    while !shrink.step(SHRINK_SLICE_BYTES).map_err(|error| error.to_string())? {}
    shrink.sync().map_err(|error| error.to_string())?;
    Ok(shrink)
}

/// The moment of the change: nobody commits, and nobody else waits.
fn switch(core: &Core, backend: &Arc<LmdbBackend>, shrink: Shrink) -> Result<(), String> {
    let no_commit = core.commit_gate.lock();
    if shrink.is_overtaken() {
        return Ok(());
    }
    let prepared = shrink.seal(backend.options()).map_err(|error| error.to_string())?;
    let retired = backend.switch(prepared).map_err(|error| {
        // The disk and the memory may differ on which is the live one.
        core.fail(error.to_string());
        error.to_string()
    })?;
    let in_use = backend.size_in_use_bytes();
    core.note_backend_size(backend.size_bytes(), in_use);
    core.state().writer().set_backend_size(in_use);
    drop(no_commit);
    remove(retired, || core.is_stopping());
    Ok(())
}

/// Removes a database whose place another took, and gives its space back little by little.
pub fn remove(retired: RetiredGeneration, is_stopping: impl Fn() -> bool) {
    let mut removed = match retired.remove() {
        Ok(removed) => removed,
        Err(error) => {
            tracing::warn!(error = %error, "failed to remove a database that was replaced; the next start does");
            return;
        }
    };
    let began = Instant::now();
    while !is_stopping() {
        match removed.free(FREED_SLICE_BYTES) {
            // Whoever reads it for long gives its space back in one piece.
            Ok(Freeing::Read) if began.elapsed() >= FREED_PATIENCE => return,
            Ok(Freeing::Read | Freeing::More) => std::thread::sleep(FREED_PAUSE),
            Ok(Freeing::Done) => return,
            Err(error) => {
                tracing::warn!(error = %error, "failed to cut a database that was removed");
                return;
            }
        }
    }
}

/// How long to pause between slices: as long as the slice took, and longer while syncs of the log take longer than before
/// the copy began.
struct Pace {
    quiet: Duration,
    pause: Duration,
}

impl Pace {
    fn new(quiet: Duration) -> Self {
        Self { quiet, pause: SHRINK_PAUSE_MIN }
    }

    /// `sync_time` is the log's, lately.
    fn pause(&mut self, slice: Duration, sync_time: Duration) -> Duration {
        if sync_time > self.quiet * 3 / 2 + SHRINK_PAUSE_MIN / 8 {
            self.pause = (self.pause * 2).min(SHRINK_PAUSE_MAX);
        } else {
            self.pause = (self.pause * 7 / 8).max(SHRINK_PAUSE_MIN);
        }
        self.pause.max(slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_gives_way_to_the_log() {
        let quiet = Duration::from_micros(200);
        let mut pace = Pace::new(quiet);
        assert_eq!(pace.pause(Duration::ZERO, quiet), SHRINK_PAUSE_MIN);
        assert_eq!(pace.pause(Duration::from_secs(1), quiet), Duration::from_secs(1));
        for _ in 0..10 {
            pace.pause(Duration::ZERO, quiet * 10);
        }
        assert_eq!(pace.pause(Duration::ZERO, quiet * 10), SHRINK_PAUSE_MAX);
        for _ in 0..100 {
            pace.pause(Duration::ZERO, quiet);
        }
        assert_eq!(pace.pause(Duration::ZERO, quiet), SHRINK_PAUSE_MIN);
    }
}
