//! The threads behind a member: the backend's commits and snapshots, the steps of compactions, automatic compaction.
//! Each ends at a stop; none ever holds the member's locks across a disk call of its own but the log's, for the snapshot
//! record.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::{CompactionRequest, InternalRaftRequest};
use kvorum_api::raftpb::ConfState;
use kvorum_disk::snap::{SnapDirectory, SnapshotFile};
use kvorum_disk::wal::{self, WalSnapshot};
use kvorum_disk::{FileSystem, LmdbBackend};
use kvorum_node::member::Proposal;
use kvorum_store::{Backend, BackendError, CompactionStep, Membership, Position, membership_v2_json};

use crate::auto_compaction::AutoCompactor;
use crate::config::AutoCompaction;
use crate::core::{Core, Waiter};
use crate::start::FolderLock;

/// Writes what was applied into the backend, and snapshots of the log's position.
pub struct BackendThread {
    pub core: Arc<Core>,
    pub backend: Arc<LmdbBackend>,
    pub interval: Duration,
    pub snapshots: SnapshotPolicy,
    /// Set once nothing more will be applied: the next commit is the last.
    pub last: Arc<AtomicBool>,
    /// Given up when the thread ends: nothing writes into the folder after it.
    pub folder_lock: FolderLock,
}

/// When and where `.snap` files are written, and what is kept of them and of the log.
pub struct SnapshotPolicy {
    pub directory: SnapDirectory,
    pub file_system: Arc<dyn FileSystem>,
    pub wal_directory: PathBuf,
    /// Entries between two snapshots.
    pub count: u64,
    pub snapshots_max: usize,
    pub wals_max: usize,
    /// Index of the newest snapshot.
    pub newest: u64,
}

impl BackendThread {
    pub fn run(mut self) {
        loop {
            let last = self.last.load(Ordering::Acquire);
            if !last {
                self.core.wait_for_backend_work(self.interval);
            }
            if let Err(reason) = self.commit() {
                self.core.fail(reason);
                return;
            }
            if last {
                return;
            }
        }
    }

    fn commit(&mut self) -> Result<(), String> {
        let core = Arc::clone(&self.core);
        let gate = core.commit_gate.lock();
        let is_forced = self.core.take_snapshot_forced();
        // The members change under the same lock, so these are those of the position.
        let (batch, position, conf_state, members) = {
            let mut state = self.core.state();
            let batch = state.writer().take_commit();
            (batch, state.writer().applied(), state.consensus().conf_state(), self.core.reader.members())
        };
        let Some(batch) = batch else {
            self.core.note_backend_commit();
            drop(gate);
            // What forced the snapshot may have been committed before it was told.
            return if is_forced { self.snapshot(position, conf_state, &members) } else { Ok(()) };
        };
        let began = Instant::now();
        self.backend.commit(&batch).map_err(|error| error.to_string())?;
        self.core.metrics.backend_commit_seconds.observe_duration(began.elapsed());
        self.core.reader.committed(batch.sequence);
        let in_use = self.backend.size_in_use_bytes();
        self.core.note_backend_size(self.backend.size_bytes(), in_use);
        self.core.state().writer().set_backend_size(in_use);
        self.core.note_backend_commit();
        drop(gate);
        if is_forced || position.index >= self.snapshots.newest + self.snapshots.count {
            self.snapshot(position, conf_state, &members)?;
        }
        Ok(())
    }

    /// The backend holds everything up to `position`; the log before it is no longer needed.
    fn snapshot(&mut self, position: Position, conf_state: ConfState, members: &Membership) -> Result<(), String> {
        let file = SnapshotFile {
            index: position.index,
            term: position.term,
            conf_state: conf_state.clone(),
            data: membership_v2_json(members).into(),
        };
        self.snapshots.directory.save(&file).map_err(|error| error.to_string())?;
        let record = WalSnapshot { index: position.index, term: position.term, conf_state: Some(conf_state) };
        {
            let mut log = self.core.log();
            log.save_snapshot(&record).map_err(|error| format!("write-ahead log: {error}"))?;
            log.release_to(position.index);
        }
        self.snapshots.newest = position.index;
        tracing::info!(snapshot_index = position.index, "saved snapshot");
        self.purge();
        Ok(())
    }

    /// A file that cannot be removed is tried again after the next snapshot.
    fn purge(&self) {
        let policy = &self.snapshots;
        let segments = wal::purge(&*policy.file_system, &policy.wal_directory, policy.wals_max);
        let files = policy.directory.purge(policy.snapshots_max);
        for result in [segments, files] {
            match result {
                Ok(removed) => {
                    for path in removed {
                        tracing::info!(path = %path.display(), "purged");
                    }
                }
                Err(error) => tracing::warn!(error = %error, "failed to purge files"),
            }
        }
        if let Ok(first) = wal::first_index(&*policy.file_system, &policy.wal_directory) {
            self.core.turn(|member, _, _| member.consensus_mut().release_log_before(first));
        }
    }
}

/// Steps of a compaction wait while more operations than this are on their way to the backend.
const COMPACTION_BACKLOG_OPERATIONS_MAX: usize = 20_000;

/// Steps that leave nothing for the backend to do take a fraction of a millisecond; this many of them have one pause.
const QUICK_STEPS_PER_PAUSE: u32 = 4;

/// An operator's batch is done in this many steps, each with its part of the pause: the member's lock is held for a step.
const STEPS_PER_BATCH: usize = 8;

/// How long the compaction thread sleeps when nothing tells it of work.
const COMPACTION_IDLE: Duration = Duration::from_secs(60);

/// Runs scheduled compactions in steps, with pauses in which others have the store.
pub fn run_compactions(core: &Core, batch_limit: usize, pause: Duration) {
    let (batch_limit, pause) = (batch_limit.div_ceil(STEPS_PER_BATCH), pause / STEPS_PER_BATCH as u32);
    loop {
        core.compaction_wanted.wait(COMPACTION_IDLE);
        if core.is_stopping() {
            return;
        }
        #[cfg(test)]
        core.planted.strike(crate::planted::Place::CompactionThread);
        let scheduled = core.compactions_scheduled();
        let began = Instant::now();
        let mut pauses = 0u32;
        loop {
            if let Err(error) = hash_for_compaction(core, batch_limit, pause) {
                return core.fail(error.to_string());
            }
            if core.is_stopping() {
                return;
            }
            let step = core.state().writer().compaction_step(batch_limit);
            match step {
                Ok(CompactionStep::Finished) => break,
                Ok(CompactionStep::Quick) => {
                    std::thread::sleep(pause / QUICK_STEPS_PER_PAUSE);
                    continue;
                }
                Ok(CompactionStep::Removed | CompactionStep::Blocked) => {}
                Err(error) => return core.fail(error.to_string()),
            }
            loop {
                std::thread::sleep(pause);
                pauses += 1;
                if core.is_stopping() {
                    return;
                }
                if core.state().writer().pending_operations() <= COMPACTION_BACKLOG_OPERATIONS_MAX {
                    break;
                }
            }
        }
        // Two commits later everything that was removed is durable.
        let commits = core.backend_commits();
        while core.backend_commits() < commits + 2 && !core.is_stopping() {
            core.want_backend_commit();
            std::thread::sleep(Duration::from_millis(1));
        }
        if scheduled > core.compactions_finished() {
            core.finish_compactions(scheduled);
            let milliseconds = began.elapsed().as_secs_f64() * 1_000.0;
            core.metrics.compaction_total_milliseconds.observe(milliseconds);
            tracing::info!(
                compact_revision = core.reader.compact_revision(),
                took_milliseconds = milliseconds,
                pauses,
                "finished scheduled compaction"
            );
        }
    }
}

/// Computes the hash that a compaction begins with, if one does. Nothing is locked while the backend is read, so pages
/// that are not in memory hold nobody up.
fn hash_for_compaction(core: &Core, batch_limit: usize, pause: Duration) -> Result<(), BackendError> {
    let job = core.state().writer().take_hash_job();
    let Some(mut job) = job else { return Ok(()) };
    while job.step(batch_limit)? {
        std::thread::sleep(pause / QUICK_STEPS_PER_PAUSE);
        if core.is_stopping() {
            return Ok(());
        }
    }
    core.state().writer().finish_hash_job(&job);
    Ok(())
}

/// Compacts by itself while it leads, as `--auto-compaction-mode` and `--auto-compaction-retention` say, until the stop.
pub fn run_auto_compaction(core: &Core, mode: AutoCompaction) {
    let began = Instant::now();
    let Some(mut compactor) = AutoCompactor::new(mode, core.reader.revision()) else { return };
    while sleep_unless_stopped(core, compactor.interval()) {
        if core.leader() != core.config.member_id {
            compactor.pass(core.reader.revision());
        } else if let Some(target) = compactor.due(began.elapsed(), core.reader.revision())
            && compact(core, target)
        {
            compactor.completed(began.elapsed(), target);
        }
    }
}

/// Proposes a compaction and waits. True when it is done, by us or by somebody before us.
fn compact(core: &Core, revision: i64) -> bool {
    tracing::info!(revision, "starting auto compaction");
    let request = InternalRaftRequest {
        compaction: Some(CompactionRequest { revision, physical: false }),
        ..InternalRaftRequest::default()
    };
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let (id, data) = core.state().number(request);
    core.enqueue(std::iter::once(Proposal { id, data, waiter: Waiter::Channel(sender) }));
    match receiver.blocking_recv() {
        Ok(Ok(_) | Err(EtcdError::Compacted)) => {
            tracing::info!(revision, "completed auto compaction");
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(revision, error = %error, "failed auto compaction");
            false
        }
        Err(_) => false,
    }
}

/// False when the stop came first.
fn sleep_unless_stopped(core: &Core, time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        if core.is_stopping() {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(STOP_CHECK));
    }
}

/// How often sleeping threads look whether the member stops.
const STOP_CHECK: Duration = Duration::from_millis(100);
