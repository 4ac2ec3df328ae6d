//! What a member makes durable: log writes with a sync that takes its time, commits of the backend, snapshot records,
//! and what is lost when the power goes.

use std::path::Path;

use bytes::Bytes;
use kvorum_disk::wal::{self, HardState, WalEntry, WalSnapshot};
use kvorum_disk::{DiskError, SnapshotFile};
use kvorum_node::limits::LOG_FETCH_BYTES_MAX;
use kvorum_node::{LogEntry, Persist, Role};
use kvorum_store::backend::{Backend, Bucket, Operation};
use kvorum_store::{CommitBatch, CompactionStep};

use super::machine::{LOG_FOLDER, Running, Writing};
use super::{Commit, Event, World};
use crate::bug::Bug;
use crate::history::Violation;

/// Entries between two snapshots of a member.
const SNAPSHOT_ENTRIES: u64 = 40;

/// Entries that a member keeps behind its newest snapshot, for peers that are a little late.
const KEPT_ENTRIES: u64 = 20;

impl World {
    /// Hands the disk what raft wants written, unless it is busy.
    pub(super) fn begin_write(&mut self, machine: usize) -> Result<(), Violation> {
        let Some(running) = self.machines[machine].running.as_mut() else { return Ok(()) };
        if running.writing.is_some() || !running.member.has_persists() {
            return Ok(());
        }
        let persists = running.member.take_persists();
        let is_leader = running.member.consensus().role() == Role::Leader;
        let mut writing = Writing { last: 0, must_sync: false, snapshot: None };
        for persist in &persists {
            if let Some(position) = &persist.snapshot {
                self.install(machine, position.index)?;
                // The moment in which store and log disagree is short; it is made to count.
                if !self.is_calm && self.random.chance(150) {
                    self.lose_power(machine);
                    return Ok(());
                }
            }
            let running = self.running(machine);
            running.note_persist(persist);
            let term_before = persist.entries.first().and_then(|first| running.term_of(first.index - 1));
            self.note_entries(machine, &persist.entries, term_before.unwrap_or(0))?;
            let skip_vote = self.has(Bug::VoteNotPersisted) && persist.entries.is_empty() && persist.snapshot.is_none();
            let running = self.running(machine);
            match write(running, persist, skip_vote) {
                Ok(must_sync) => writing.must_sync |= must_sync,
                Err(error) => {
                    self.trace("disk failed", machine, error.cause.kind() as u64);
                    self.lose_power(machine);
                    return Ok(());
                }
            }
            writing.last = persist.number;
            writing.snapshot = persist.snapshot.as_ref().map(|position| position.index).or(writing.snapshot);
        }
        let start = self.machines[machine].start;
        let last = writing.last;
        let too_early = writing.snapshot.is_none()
            && (self.has(Bug::AckBeforeSync) || (is_leader && self.has(Bug::LeaderCountsItself)));
        let running = self.running(machine);
        let delay_max = if writing.must_sync { running.sync_delay_max } else { 1 };
        running.writing = Some(writing);
        let delay = self.random.below(delay_max.max(1));
        self.after(delay, Event::Synced { machine, start });
        if too_early {
            return self.act(machine, |member, _, _| member.handle_persisted(last));
        }
        Ok(())
    }

    fn note_entries(&mut self, machine: usize, entries: &[LogEntry], term_before: u64) -> Result<(), Violation> {
        let id = self.machines[machine].id;
        let mut before = term_before;
        for entry in entries {
            self.invariants.logs_match.note(id, entry.index, entry.term, super::hash_of(entry), before)?;
            before = entry.term;
        }
        Ok(())
    }

    pub(super) fn synced(&mut self, machine: usize) -> Result<(), Violation> {
        let running = self.running(machine);
        let Some(writing) = running.writing.take() else { return Ok(()) };
        if writing.must_sync
            && let Err(error) = running.wal.sync()
        {
            self.trace("sync failed", machine, error.cause.kind() as u64);
            self.lose_power(machine);
            return Ok(());
        }
        self.trace("synced", machine, writing.last);
        if writing.snapshot.is_some() {
            self.machines[machine].has_received_mark = false;
        }
        self.act(machine, |member, _, _| member.handle_persisted(writing.last))
    }

    /// Takes what was applied towards the backend; it is there some time later.
    pub(super) fn commit_due(&mut self, machine: usize, start: u64) -> Result<(), Violation> {
        let again = self.random.between(40, 250);
        self.after(again, Event::CommitDue { machine, start });
        let running = self.running(machine);
        if running.is_committing {
            return Ok(());
        }
        let Some(mut batch) = running.member.writer().take_commit() else { return Ok(()) };
        let position = running.member.writer().applied();
        let conf_state = running.member.consensus().conf_state();
        let generation = running.generation;
        running.is_committing = true;
        self.spoil(&mut batch);
        let delay = if self.random.chance(50) { self.random.below(800) } else { self.random.below(15) };
        let commit = Commit { batch, position, conf_state };
        self.after(delay, Event::Committed { machine, start, generation, commit });
        Ok(())
    }

    fn spoil(&self, batch: &mut CommitBatch) {
        let is_index = |operation: &Operation| matches!(operation, Operation::Put { bucket: Bucket::Meta, key, .. } if &**key == b"consistent_index");
        if self.has(Bug::DuplicateApply) {
            batch.operations.retain(|operation| !is_index(operation));
        }
        if self.has(Bug::SkippedEntry) {
            for operation in batch.operations.iter_mut().filter(|operation| is_index(operation)) {
                if let Operation::Put { value, .. } = operation {
                    let index = u64::from_be_bytes((&**value).try_into().expect("eight bytes"));
                    *value = Box::new((index + 1).to_be_bytes());
                }
            }
        }
    }

    pub(super) fn committed(&mut self, machine: usize, generation: u64, commit: Commit) -> Result<(), Violation> {
        if self.running(machine).generation != generation {
            // The store was replaced by a snapshot's meanwhile.
            return Ok(());
        }
        if !self.is_calm && self.random.chance(2) {
            self.trace("backend failed", machine, commit.position.index);
            self.lose_power(machine);
            return Ok(());
        }
        let position = commit.position;
        self.commit_now(machine, &commit.batch)?;
        let running = self.running(machine);
        running.is_committing = false;
        if position.index >= running.snapshot_newest + SNAPSHOT_ENTRIES {
            let saved = save_snapshot(running, &commit);
            let first_kept = position.index.saturating_sub(KEPT_ENTRIES);
            running.member.consensus_mut().release_log_before(first_kept);
            if let Err(error) = saved {
                self.trace("snapshot failed", machine, error.len() as u64);
                self.lose_power(machine);
                return Ok(());
            }
            self.trace("snapshot", machine, position.index);
            let disk = self.machines[machine].disk.clone();
            // What could not be removed is tried again after the next snapshot.
            let kept = self.machines[machine].files_kept;
            drop(wal::purge(&disk, Path::new(LOG_FOLDER), kept));
            drop(self.running(machine).snap.purge(kept));
        }
        Ok(())
    }

    pub(super) fn commit_now(&mut self, machine: usize, batch: &CommitBatch) -> Result<(), Violation> {
        let backend = self.machines[machine].backend.clone();
        backend.commit(batch).map_err(|error| Violation::new("members go on", error.to_string()))?;
        let in_use = backend.size_in_use_bytes();
        let running = self.running(machine);
        running.reader.committed(batch.sequence);
        running.member.writer().set_backend_size(in_use);
        Ok(())
    }

    pub(super) fn fetched(&mut self, machine: usize, low: u64, high: u64) -> Result<(), Violation> {
        self.running(machine).is_fetching = false;
        let disk = &self.machines[machine].disk;
        let read = wal::read_entries(disk, Path::new(LOG_FOLDER), low, high, LOG_FETCH_BYTES_MAX);
        // The log may have lost them to a purge; then the peer gets a snapshot, as it does after an error.
        let entries: Vec<LogEntry> = read
            .map_err(|error| error.to_string())
            .and_then(|entries| entries.into_iter().map(LogEntry::from_message).collect())
            .unwrap_or_default();
        self.trace("fetched", machine, entries.len() as u64);
        self.act(machine, |member, _, _| member.consensus_mut().provide_entries(low, &entries))
    }

    pub(super) fn compaction_step(&mut self, machine: usize, start: u64) -> Result<(), Violation> {
        let writer = self.running(machine).member.writer();
        let failed = |error: kvorum_store::BackendError| Violation::new("members go on", error.to_string());
        if let Some(mut job) = writer.take_hash_job() {
            while job.step(100).map_err(failed)? {}
            writer.finish_hash_job(&job);
        }
        if writer.compaction_step(5).map_err(failed)? != CompactionStep::Finished {
            self.after(7, Event::CompactionStep { machine, start });
        }
        Ok(())
    }

    /// The process ends; what it did not sync is still in the machine's memory.
    pub(super) fn kill(&mut self, machine: usize) {
        let Some(running) = self.machines[machine].running.take() else { return };
        drop(running);
        self.trace("killed", machine, 0);
        self.machines[machine].refuses_from = self.now;
        self.streams_ended(machine);
        self.forget_watchers_of(machine);
        let delay = self.random.between(100, 4_000);
        self.after(delay, Event::Restart { machine });
    }

    /// The machine loses power: of what was not synced, chance decides.
    pub(super) fn lose_power(&mut self, machine: usize) {
        if self.machines[machine].running.is_none() {
            return;
        }
        self.kill(machine);
        let seed = self.random.number();
        self.trace("power lost", machine, seed);
        // Silent until the machine is up, maybe after the process is.
        self.machines[machine].refuses_from = self.now + self.random.below(2_000);
        let left = self.machines[machine].disk.crash(seed);
        self.machines[machine].disk = left;
    }
}

fn write(running: &mut Running, persist: &Persist, skip_vote: bool) -> Result<bool, DiskError> {
    if let Some(position) = &persist.snapshot {
        let conf_state = position.conf_state.clone();
        let (index, term) = (position.index, position.term);
        let file = SnapshotFile { index, term, conf_state: conf_state.clone(), data: Bytes::new() };
        match running.snap.save(&file) {
            Ok(_) => {}
            Err(kvorum_disk::SnapError::Disk(error)) => return Err(error),
            Err(kvorum_disk::SnapError::Empty) => unreachable!("raft's snapshots have a position"),
        }
        running.wal.save_snapshot(&WalSnapshot { index, term, conf_state: Some(conf_state) })?;
        running.snapshot_newest = index;
    }
    let entries: Vec<WalEntry<'_>> = persist
        .entries
        .iter()
        .map(|entry| WalEntry { entry_type: entry.kind, term: entry.term, index: entry.index, data: &entry.data })
        .collect();
    let state = persist.hard_state.filter(|_| !skip_vote);
    let state = state.map(|state| HardState { term: state.term, vote: state.vote, commit: state.commit });
    Ok(running.wal.append(&entries, state.as_ref())?.must_sync)
}

/// As the server's backend thread does: the file, then the log's record of it, then the log may forget.
fn save_snapshot(running: &mut Running, commit: &Commit) -> Result<(), String> {
    let (index, term) = (commit.position.index, commit.position.term);
    let conf_state = commit.conf_state.clone();
    let file = SnapshotFile { index, term, conf_state: conf_state.clone(), data: Bytes::new() };
    running.snap.save(&file).map_err(|error| error.to_string())?;
    let record = WalSnapshot { index, term, conf_state: Some(conf_state) };
    running.wal.save_snapshot(&record).map_err(|error| error.to_string())?;
    running.wal.release_to(index);
    running.snapshot_newest = index;
    Ok(())
}
