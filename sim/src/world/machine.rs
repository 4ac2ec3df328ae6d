//! One member's machine: a disk, a backend, clocks, and the process that runs on it now and then. Starting takes the same
//! way as the server: log, backend, and what is in the log after what the backend holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use kvorum_api::raftpb;
use kvorum_disk::wal::{HardState as WalHardState, Wal, WalMetadata, WalOptions, WalSnapshot};
use kvorum_disk::{FileSystem, SnapDirectory, create_durable_directories, file::SimulatedFileSystem, incoming};
use kvorum_node::bootstrap::BootstrapMember;
use kvorum_node::member::Member;
use kvorum_node::{
    Consensus, ConsensusConfig, HardState, LeaseTimers, LogEntry, MemberConfig, Persist, RecoveredLog, RequestIds,
    Restart, Start, restart,
};
use kvorum_store::backend::{Backend, Bucket};
use kvorum_store::memory::MemoryBackend;
use kvorum_store::{Reader, Restored, StoreConfig, Writer};

use super::Waiter;

pub const TICK_MILLISECONDS: u64 = 100;
pub const ELECTION_TICKS: usize = 10;
pub const ELECTION_MILLISECONDS: u64 = TICK_MILLISECONDS * ELECTION_TICKS as u64;
const REQUEST_TIMEOUT_MILLISECONDS: u64 = 5_000 + 2 * ELECTION_MILLISECONDS;
const CLUSTER_ID: u64 = 77;
pub const LOG_FOLDER: &str = "/member/wal";
const SNAPSHOT_FOLDER: &str = "/member/snap";

/// Databases on their way in and out.
pub const DATABASE_FOLDER: &str = "/member/database";

pub struct Machine {
    pub id: u64,
    pub disk: SimulatedFileSystem,
    pub backend: Arc<MemoryBackend>,
    /// Snapshots that peers sent, by index, until raft wants one of them.
    pub staged: BTreeMap<u64, Arc<MemoryBackend>>,
    /// The backend was received from a peer, and the log may not know of it yet.
    pub has_received_mark: bool,
    /// How much faster than the world its clock runs, in millionths.
    pub drift: i64,
    /// How far its calendar is off, in milliseconds.
    pub calendar_offset: i64,
    pub start: u64,
    pub running: Option<Running>,
    /// It does not found the cluster but joins it.
    pub joins: bool,
    /// It was removed from the cluster, and stopped for good.
    pub is_gone: bool,
    pub paused_until: u64,
    pub founders: Vec<BootstrapMember>,
    pub value_budget_bytes: u64,
    pub window_entries: usize,
    /// Small, so that segments are cut and purged within a run.
    pub segment_bytes: u64,
    /// Log segments and snapshot files that a purge leaves.
    pub files_kept: usize,
    pub checkpoint_interval: Option<u64>,
    /// While no process runs, its port refuses connections from this time on.
    pub refuses_from: u64,
    pub forgets_tail: bool,
}

/// A write that was handed to the disk and is not synced.
pub struct Writing {
    pub last: u64,
    pub must_sync: bool,
    /// The snapshot among it, which the store takes once the log has it.
    pub snapshot: Option<u64>,
}

pub struct Running {
    pub member: Member<Waiter>,
    pub reader: Reader,
    pub wal: Wal,
    pub snap: SnapDirectory,
    /// World time of the start.
    pub started: u64,
    /// What the log holds, as far as this process knows.
    pub log: BTreeMap<u64, LogEntry>,
    /// Index and term that the log begins after.
    pub log_begins: (u64, u64),
    pub writing: Option<Writing>,
    pub is_committing: bool,
    /// Rises when the store is replaced.
    pub generation: u64,
    pub snapshot_newest: u64,
    pub checked_commit: u64,
    pub checked_applied: u64,
    pub is_fetching: bool,
    /// Members that it was told have ended, and has not heard of since.
    pub gone: BTreeSet<u64>,
    pub sync_delay_max: u64,
}

impl Machine {
    /// Milliseconds since its process started, by its own clock.
    pub fn local_time(&self, now: u64) -> u64 {
        let Some(running) = &self.running else { return 0 };
        let elapsed = i128::from(now - running.started);
        u64::try_from(elapsed * (1_000_000 + i128::from(self.drift)) / 1_000_000).expect("time goes on")
    }

    /// Starts the process from what disk and backend hold.
    pub fn boot(&mut self, now: u64, seed: u64) -> Result<(), String> {
        self.start += 1;
        let file_system: Arc<dyn FileSystem> = Arc::new(self.disk.clone());
        let snap = SnapDirectory::open(Arc::clone(&file_system), Path::new(SNAPSHOT_FOLDER)).map_err(text)?;
        let databases = Path::new(DATABASE_FOLDER);
        create_durable_directories(&*file_system, databases).map_err(text)?;
        incoming::remove_incomplete(&*file_system, databases).map_err(text)?;
        let mut found = self.open_log(&file_system, &snap)?;
        self.staged.clear();
        let (writer, reader, restored) = self.open_store()?;
        if self.has_received_mark {
            record_received(&mut found, &restored)?;
            self.has_received_mark = false;
        }
        let snapshot_newest = found.recovered.as_ref().map_or(0, |log| log.snapshot.0);
        let (start, log, log_begins) = self.start_of(found.recovered, &restored)?;
        let checked_commit = log_begins.0;
        let consensus_config =
            ConsensusConfig { member_id: self.id, election_ticks: ELECTION_TICKS, pre_vote: true, seed };
        let mut consensus = Consensus::new(&consensus_config, start)?;
        consensus.limit_log_window(self.window_entries);
        let calendar = (1_700_000_000_000 + i128::from(now) + i128::from(self.calendar_offset)).max(0);
        let ids = Arc::new(RequestIds::new(self.id, u64::try_from(calendar).expect("not negative")));
        let config = MemberConfig {
            election_timeout_milliseconds: ELECTION_MILLISECONDS,
            request_timeout_milliseconds: REQUEST_TIMEOUT_MILLISECONDS,
        };
        let leases = lease_timers(self.checkpoint_interval, &restored);
        self.running = Some(Running {
            member: Member::new(consensus, writer, leases, ids, config),
            reader,
            wal: found.wal,
            snap,
            started: now,
            log,
            log_begins,
            writing: None,
            is_committing: false,
            generation: 0,
            snapshot_newest,
            checked_commit,
            checked_applied: 0,
            is_fetching: false,
            gone: BTreeSet::new(),
            sync_delay_max: 4,
        });
        Ok(())
    }

    fn open_log(&mut self, file_system: &Arc<dyn FileSystem>, snap: &SnapDirectory) -> Result<FoundLog, String> {
        let options = WalOptions { segment_size_bytes: self.segment_bytes, ..WalOptions::default() };
        let directory = Path::new(LOG_FOLDER);
        if !Wal::exists(&**file_system, directory).map_err(text)? {
            let metadata = WalMetadata { node_id: self.id, cluster_id: CLUSTER_ID };
            let wal = Wal::create(Arc::clone(file_system), directory, metadata, options).map_err(text)?;
            return Ok(FoundLog { wal, recovered: None });
        }
        let mut reopened = kvorum_disk::reopen(file_system, directory, snap, options).map_err(text)?;
        if self.forgets_tail {
            reopened.recovered.entries.pop();
        }
        let state = reopened.recovered.hard_state;
        let recovered = RecoveredLog {
            hard_state: HardState { term: state.term, vote: state.vote, commit: state.commit },
            snapshot: reopened.snapshot,
            conf_state: reopened.conf_state,
            entries: reopened.recovered.entries,
        };
        Ok(FoundLog { wal: reopened.wal, recovered: Some(recovered) })
    }

    pub fn open_store(&self) -> Result<(Writer, Reader, Restored), String> {
        let config = StoreConfig {
            member_id: self.id,
            value_budget_bytes: self.value_budget_bytes,
            quota_bytes: None,
            lease_ttl_seconds_min: 2,
            lease_checkpoint_persist: true,
            learners_max: 1,
        };
        let backend: Arc<dyn Backend> = Arc::<MemoryBackend>::clone(&self.backend);
        kvorum_store::open(config, backend).map_err(text)
    }

    fn start_of(
        &self,
        recovered: Option<RecoveredLog>,
        restored: &Restored,
    ) -> Result<(Start, BTreeMap<u64, LogEntry>, (u64, u64)), String> {
        let anew = || match self.joins {
            false => Start::Bootstrap { members: self.founders.clone() },
            true => Start::empty(),
        };
        let Some(recovered) = recovered else { return Ok((anew(), BTreeMap::new(), (0, 0))) };
        let state = recovered.hard_state;
        match restart(recovered, restored)? {
            Restart::From(start) => {
                let Start::Restart { entries, snapshot, .. } = &start else { unreachable!("it is a restart") };
                let log = entries.iter().map(|entry| (entry.index, entry.clone())).collect();
                let begins = *snapshot;
                Ok((start, log, begins))
            }
            // One that joins has written no more than a term and a vote.
            Restart::FoundAgain if self.joins => {
                let start = Start::Restart {
                    hard_state: state,
                    conf_state: raftpb::ConfState::default(),
                    snapshot: (0, 0),
                    entries: Vec::new(),
                    applied: 0,
                };
                Ok((start, BTreeMap::new(), (0, 0)))
            }
            Restart::FoundAgain => Ok((anew(), BTreeMap::new(), (0, 0))),
        }
    }
}

struct FoundLog {
    wal: Wal,
    recovered: Option<RecoveredLog>,
}

/// As the server does: a received backend took the store's place, and the stop came before the log knew.
fn record_received(found: &mut FoundLog, restored: &Restored) -> Result<(), String> {
    let Some(log) = &mut found.recovered else { return Ok(()) };
    let Some((position, state)) = log.begin_behind(restored)? else { return Ok(()) };
    let record = WalSnapshot { index: position.index, term: position.term, conf_state: Some(position.conf_state) };
    found.wal.save_snapshot(&record).map_err(text)?;
    let state = WalHardState { term: state.term, vote: state.vote, commit: state.commit };
    found.wal.append(&[], Some(&state)).map_err(text)?;
    found.wal.sync().map(drop).map_err(text)
}

impl Running {
    /// What the log holds from now on, told before it is durable.
    pub fn note_persist(&mut self, persist: &Persist) {
        if let Some(position) = &persist.snapshot {
            self.log.clear();
            self.log_begins = (position.index, position.term);
            self.checked_commit = self.checked_commit.max(position.index);
        }
        if let Some(first) = persist.entries.first() {
            drop(self.log.split_off(&first.index));
        }
        self.log.extend(persist.entries.iter().map(|entry| (entry.index, entry.clone())));
    }

    pub fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.log_begins.0 { Some(self.log_begins.1) } else { self.log.get(&index).map(|entry| entry.term) }
    }
}

pub fn lease_timers(checkpoint_interval: Option<u64>, restored: &Restored) -> LeaseTimers {
    let mut leases = LeaseTimers::new(checkpoint_interval);
    for lease in &restored.leases {
        leases.insert(0, lease.id, lease.ttl_seconds, lease.remaining_ttl_seconds);
    }
    leases
}

/// What the backend holds up to.
pub fn consistent_index(backend: &MemoryBackend) -> u64 {
    number(backend, b"consistent_index")
}

pub fn consistent_term(backend: &MemoryBackend) -> u64 {
    number(backend, b"term")
}

pub fn stored_conf_state(backend: &MemoryBackend) -> Option<raftpb::ConfState> {
    let (_, json) = backend.records(Bucket::Meta).into_iter().find(|(key, _)| key == b"confState")?;
    kvorum_node::member::conf_state_from_json(&json).ok()
}

fn number(backend: &MemoryBackend, key: &[u8]) -> u64 {
    let found = backend.records(Bucket::Meta).into_iter().find(|(name, _)| name == key);
    found.and_then(|(_, value)| value.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
