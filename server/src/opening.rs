//! What a start finds on the disk, put together into a member: log, backend and snapshots of an earlier life, or the
//! beginnings of a new one, found or joined as [`crate::cluster::forming`] decides.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kvorum_api::raftpb;
use kvorum_disk::lmdb::{LmdbBackend, LmdbOptions};
use kvorum_disk::snap::SnapDirectory;
use kvorum_disk::wal::{HardState as WalHardState, Recovered, Wal, WalEntry, WalMetadata, WalOptions, WalSnapshot};
use kvorum_disk::{DiskError, FileSystem, RealFileSystem, ReopenError, Reopened, create_durable_directories};
use kvorum_node::bootstrap::BootstrapMember;
use kvorum_node::member::Member;
use kvorum_node::{
    Consensus, ConsensusConfig, HardState, LeaseTimers, MemberConfig, RecoveredLog, RequestIds, Restart, Start,
};
use kvorum_store::backend::Bucket;
use kvorum_store::keyspace::cluster::CLUSTER_VERSION;
use kvorum_store::keyspace::meta;
use kvorum_store::version::CLUSTER_VERSION_MAX;
use kvorum_store::{Backend, BackendError, Restored, StoreConfig, Version};
use tracing::info;

use crate::background::SnapshotPolicy;
use crate::cluster::addresses::SystemResolver;
use crate::cluster::forced;
use crate::cluster::forming::{self, Forming, Logged};
use crate::cluster::versions;
use crate::config::{ClusterState, Config};
use crate::ids::to_hex;
use crate::peer::Dialer;
use crate::peer::questions::HttpPeers;
use crate::shrinking;
use crate::start::{FolderLock, StartError, clamp};
use crate::take_over;
use crate::urls::quote;

/// What the disk held, put together.
pub struct Opened {
    pub lock: FolderLock,
    pub member_id: u64,
    pub cluster_id: u64,
    pub revision: i64,
    pub member: Member<crate::core::Waiter>,
    pub reader: kvorum_store::Reader,
    pub wal: Wal,
    pub ids: Arc<RequestIds>,
    pub backend: Arc<LmdbBackend>,
    pub snapshots: SnapshotPolicy,
    pub compaction_pending: bool,
    /// Whether there was a log of an earlier life.
    pub is_restart: bool,
    /// Whom a member that joins talks to before its log says who is who.
    pub introduced: Vec<kvorum_store::Member>,
}

pub fn open(config: &Config, dialer: &Dialer) -> Result<Opened, StartError> {
    let wal_directory = config.effective_wal_dir();
    let snapshot_directory = config.snapshot_dir();
    let file_system: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
    create_durable_directories(&*file_system, &config.data_dir)
        .map_err(|error| StartError::new("data folder", error))?;
    let lock = FolderLock::take(&config.data_dir)?;
    let log_exists =
        Wal::exists(&*file_system, &wal_directory).map_err(|error| StartError::new("write-ahead log", error))?;
    if !log_exists {
        create_folders(&*file_system, config).map_err(|error| StartError::new("data folder", error))?;
    }
    warn_of_permissions(&config.data_dir);
    take_over::settle(config)?;
    let lmdb_options = LmdbOptions { unsafe_no_fsync: config.unsafe_no_fsync };
    let backend = open_backend(&config.member_dir().join("backend"), lmdb_options)?;
    check_stored_versions(&*backend.generation(), &backend.generation().path()).map_err(StartError)?;
    let backend = Arc::new(backend);
    shrinking::shrink_at_start(&backend, config.bootstrap_defrag_threshold_megabytes)
        .map_err(|error| StartError::new("shrinking the backend", error))?;
    let heartbeat = config.heartbeat_interval.as_millis();
    let lease_ttl_milliseconds_min = u128::from(config.election_ticks()) * 3 / 2 * heartbeat;
    let store_config = StoreConfig {
        member_id: 0,
        value_budget_bytes: config.value_budget_bytes,
        quota_bytes: config.quota_backend_bytes,
        lease_ttl_seconds_min: i64::try_from(lease_ttl_milliseconds_min.div_ceil(1_000)).unwrap_or(i64::MAX),
        lease_checkpoint_persist: config.feature_gates.lease_checkpoint_persist,
        learners_max: usize::try_from(config.max_learners).unwrap_or(0),
    };
    let snap = SnapDirectory::open(Arc::clone(&file_system), &snapshot_directory)
        .map_err(|error| StartError::new("snapshot files", error))?;
    let mut log = if log_exists {
        reopen_log(config, &file_system, &wal_directory, &snap)?
    } else {
        found_log(config, dialer, &file_system, &wal_directory)?
    };
    let introduced = std::mem::take(&mut log.introduced);
    let store_config = StoreConfig { member_id: log.metadata.node_id, ..store_config };
    let store_backend: Arc<dyn Backend> = Arc::clone(&backend) as Arc<dyn Backend>;
    let (writer, reader, restored) =
        kvorum_store::open(store_config, store_backend).map_err(|error| StartError::new("opening the store", error))?;
    check_membership(&reader, config)?;
    let newest_snapshot = log.snapshot.0;
    let start = log.into_start(&restored, config, &backend)?;
    let consensus_config = ConsensusConfig {
        member_id: start.metadata.node_id,
        election_ticks: clamp(config.election_ticks()).max(2),
        pre_vote: config.pre_vote,
        seed: start.metadata.node_id ^ unix_milliseconds(),
    };
    let mut consensus =
        Consensus::new(&consensus_config, start.start).map_err(|error| StartError::new("raft", error))?;
    consensus.limit_log_window(clamp(config.snapshot_catchup_entries));
    let ids = Arc::new(RequestIds::new(start.metadata.node_id, unix_milliseconds()));
    let mut leases = LeaseTimers::new(checkpoint_interval(config));
    for lease in &restored.leases {
        leases.insert(0, lease.id, lease.ttl_seconds, lease.remaining_ttl_seconds);
    }
    let election = u64::try_from(config.election_timeout.as_millis()).unwrap_or(u64::MAX);
    info!(
        local_member_id = %to_hex(start.metadata.node_id),
        cluster_id = %to_hex(start.metadata.cluster_id),
        revision = reader.revision(),
        applied_index = restored.consistent_index,
        "starting local member"
    );
    Ok(Opened {
        lock,
        member_id: start.metadata.node_id,
        cluster_id: start.metadata.cluster_id,
        revision: reader.revision(),
        member: Member::new(
            consensus,
            writer,
            leases,
            Arc::clone(&ids),
            MemberConfig {
                election_timeout_milliseconds: election,
                request_timeout_milliseconds: 5_000 + 2 * election,
            },
        ),
        reader,
        wal: start.wal,
        ids,
        backend,
        snapshots: SnapshotPolicy {
            directory: snap,
            file_system,
            wal_directory,
            count: config.snapshot_count,
            snapshots_max: clamp(config.max_snapshots),
            wals_max: clamp(config.max_wals),
            newest: newest_snapshot,
        },
        compaction_pending: restored.compaction_pending,
        is_restart: log_exists,
        introduced,
    })
}

/// What this member makes is for its own user alone; a folder that was there before may be open to others (CVE-2020-15113).
/// etcd goes on as well, and warns in these words.
fn warn_of_permissions(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(metadata) = std::fs::metadata(folder) else { return };
    let mode = metadata.permissions().mode();
    if mode & 0o777 != 0o700 {
        let error = format!(
            "directory {} exist, but the permission is \"{}\". The recommended permission is \"-rwx------\" to prevent \
             possible unprivileged access to the data",
            quote(&folder.display().to_string()),
            directory_mode(mode)
        );
        tracing::warn!(error, "check file permission");
    }
}

/// A directory's mode as Go writes it: `drwxr-xr-x`, with `u`, `g` and `t` for the bits above behind the `d`.
fn directory_mode(mode: u32) -> String {
    let special = [(0o4000, 'u'), (0o2000, 'g'), (0o1000, 't')];
    let special = special.into_iter().filter(|(bit, _)| mode & bit != 0).map(|(_, letter)| letter);
    let permissions = "rwxrwxrwx".chars().enumerate();
    let permissions = permissions.map(|(place, letter)| if mode & (0o400 >> place) != 0 { letter } else { '-' });
    std::iter::once('d').chain(special).chain(permissions).collect()
}

/// Milliseconds between checkpoints of a lease; `None` if the gate LeaseCheckpoint is closed.
pub fn checkpoint_interval(config: &Config) -> Option<u64> {
    let interval = u64::try_from(config.lease_checkpoint_interval.as_millis()).unwrap_or(u64::MAX);
    config.feature_gates.lease_checkpoint.then_some(interval)
}

/// What a member that comes back must find, as etcd demands: no more learners than allowed, and a cluster that is not newer
/// than itself.
fn check_membership(reader: &kvorum_store::Reader, config: &Config) -> Result<(), StartError> {
    forming::check_learners(reader.members().learners(), config.max_learners)
        .map_err(|error| StartError(error.to_string()))?;
    let version = reader.cluster_version().and_then(|text| text.parse::<Version>().ok());
    versions::check_cluster_version(version.as_ref()).map_err(StartError)
}

/// Whether a database is of this release or an older one: asked before anything of it is changed. `path` is named in the
/// reason.
pub fn check_stored_versions(database: &dyn Backend, path: &Path) -> Result<(), String> {
    let (mut storage, mut cluster) = (None, None);
    let version = |value: &[u8]| std::str::from_utf8(value).ok().and_then(|text| text.parse::<Version>().ok());
    let read = database.read(&mut |transaction| {
        transaction.fetch(Bucket::Meta, meta::STORAGE_VERSION, &mut |value| storage = version(value))?;
        transaction.fetch(Bucket::Cluster, CLUSTER_VERSION, &mut |value| cluster = version(value))?;
        Ok(())
    });
    read.map_err(|error| error.to_string())?;
    let path = path.display();
    versions::check_cluster_version(cluster.as_ref()).map_err(|reason| {
        format!(
            "{reason}: {path} was written in a newer cluster. Start that release on it, and downgrade the cluster first"
        )
    })?;
    match storage {
        Some(storage) if storage.cluster() > CLUSTER_VERSION_MAX => Err(format!(
            "the storage version of {path} is {storage}, newer than {CLUSTER_VERSION_MAX}, the newest this release knows: start \
             the newer release on it, and downgrade the cluster first"
        )),
        _ => Ok(()),
    }
}

fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Makes the folders above log and backend, private as etcd's, and their names durable. Those that an interrupted start
/// left count as new: their names may not have reached the disk.
fn create_folders(file_system: &dyn FileSystem, config: &Config) -> Result<(), DiskError> {
    create_durable_directories(file_system, &config.snapshot_dir())?;
    let member_directory = config.member_dir();
    for directory in [config.data_dir.parent(), Some(&config.data_dir), Some(&member_directory)].into_iter().flatten() {
        match file_system.sync_directory(directory) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                // The operator made the data folder where we may not look.
            }
            result => result.map_err(DiskError::at("sync", directory))?,
        }
    }
    Ok(())
}

/// The log, and what it says of the past.
struct Log {
    metadata: WalMetadata,
    wal: Wal,
    /// Index and term of the snapshot it was opened at.
    snapshot: (u64, u64),
    snapshot_conf_state: raftpb::ConfState,
    /// `None` for a log that was made just now.
    recovered: Option<Recovered>,
    /// Who founds the cluster together; nobody if this member joins one.
    founders: Vec<BootstrapMember>,
    introduced: Vec<kvorum_store::Member>,
}

struct StartedLog {
    metadata: WalMetadata,
    wal: Wal,
    start: Start,
}

fn wal_options(config: &Config) -> WalOptions {
    WalOptions {
        segment_size_bytes: config.wal_segment_bytes,
        unsafe_no_fsync: config.unsafe_no_fsync,
        ..WalOptions::default()
    }
}

fn found_log(
    config: &Config,
    dialer: &Dialer,
    file_system: &Arc<dyn FileSystem>,
    directory: &Path,
) -> Result<Log, StartError> {
    let formed = form(config, dialer, None)?;
    let metadata = WalMetadata { node_id: formed.member_id, cluster_id: formed.cluster_id };
    let wal = Wal::create(Arc::clone(file_system), directory, metadata, wal_options(config))
        .map_err(|error| StartError::new("creating the write-ahead log", error))?;
    Ok(Log {
        metadata,
        wal,
        snapshot: (0, 0),
        snapshot_conf_state: raftpb::ConfState::default(),
        recovered: None,
        founders: formed.founders,
        introduced: formed.introduced,
    })
}

/// Who this member is, and whom it begins with.
struct Formed {
    member_id: u64,
    cluster_id: u64,
    founders: Vec<BootstrapMember>,
    introduced: Vec<kvorum_store::Member>,
}

fn founder(member: kvorum_store::Member) -> BootstrapMember {
    BootstrapMember { id: member.id, name: member.name, peer_urls: member.peer_urls }
}

/// Asks flags and peers. Blocks for as long as the peers may take.
fn form(config: &Config, dialer: &Dialer, logged: Option<Logged>) -> Result<Formed, StartError> {
    // On a thread of its own: whoever starts a member may itself be on a runtime.
    let failed = |error: &dyn std::fmt::Display| StartError::new("discovery failed", error);
    let asked = std::thread::scope(|scope| {
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let peers = HttpPeers(dialer.clone());
            Ok::<_, std::io::Error>(runtime.block_on(forming::form(config, logged, &peers, &SystemResolver)))
        };
        scope.spawn(ask).join()
    });
    let forming = asked
        .map_err(|_| failed(&"the thread that asked the others panicked"))?
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))?;
    Ok(match forming {
        Forming::New { cluster_id, member_id, members } => {
            let founders = members.into_iter().map(founder).collect();
            Formed { member_id, cluster_id, founders, introduced: Vec::new() }
        }
        Forming::Join { cluster_id, member_id, members, remotes } => {
            let introduced = members.into_iter().chain(remotes).collect();
            Formed { member_id, cluster_id, founders: Vec::new(), introduced }
        }
        Forming::Restart { cluster_id, member_id } => {
            Formed { member_id, cluster_id, founders: Vec::new(), introduced: Vec::new() }
        }
    })
}

/// What to do about files that are not what they should be.
const DAMAGED: &str = "The member cannot go on with this folder, of which nothing was changed: remove the member from its cluster \
                       and add it anew with an empty folder; if it is the only one, restore a snapshot";

fn open_backend(directory: &Path, options: LmdbOptions) -> Result<LmdbBackend, StartError> {
    let failed = |error: BackendError| {
        let text = error.to_string();
        // What LMDB calls a file that is not its own, or not whole.
        let is_damage = ["MDB_INVALID", "MDB_CORRUPTED", "MDB_VERSION_MISMATCH"].iter().any(|name| text.contains(name));
        StartError::new("opening the backend", if is_damage { format!("{text}. {DAMAGED}") } else { text })
    };
    LmdbBackend::open(directory, options).map_err(failed)
}

fn reopen_log(
    config: &Config,
    file_system: &Arc<dyn FileSystem>,
    directory: &Path,
    snap: &SnapDirectory,
) -> Result<Log, StartError> {
    let reopened =
        kvorum_disk::reopen(file_system, directory, snap, wal_options(config)).map_err(|error| match &error {
            ReopenError::Wal(cause) if cause.is_damage() => StartError(format!("{error}. {DAMAGED}")),
            _ => StartError(error.to_string()),
        })?;
    let Reopened { wal, recovered, snapshot, conf_state, broken, is_file_missing } = reopened;
    for (path, reason) in &broken {
        tracing::warn!(path = %path.display(), reason = %reason, "set a broken snapshot file aside; what it says stands \
            in the log too, and it may be removed");
    }
    if is_file_missing {
        let snapshot_index = snapshot.0;
        tracing::warn!(snapshot_index, "a snapshot file is missing; its record in the log takes its place");
    }
    if let Some(repair) = &recovered.repair {
        tracing::warn!(
            path = %repair.path.display(),
            offset = repair.offset,
            broken_copy = %repair.broken_copy.display(),
            "repaired a torn tail of the write-ahead log"
        );
    }
    Ok(Log {
        metadata: recovered.metadata,
        wal,
        snapshot,
        snapshot_conf_state: conf_state,
        recovered: Some(recovered),
        founders: Vec::new(),
        introduced: Vec::new(),
    })
}

impl Log {
    fn into_start(
        mut self,
        restored: &Restored,
        config: &Config,
        backend: &LmdbBackend,
    ) -> Result<StartedLog, StartError> {
        let Some(recovered) = self.recovered.take() else {
            if restored.consistent_index > 0 {
                return Err(StartError(format!(
                    "the backend holds entries up to {} but there is no write-ahead log: restore the log, or start in an \
                     empty data folder",
                    restored.consistent_index
                )));
            }
            let start = match self.founders.is_empty() {
                true => Start::empty(),
                false => Start::Bootstrap { members: self.founders },
            };
            return Ok(StartedLog { metadata: self.metadata, wal: self.wal, start });
        };
        let WalHardState { term, vote, commit } = recovered.hard_state;
        let mut log = RecoveredLog {
            hard_state: HardState { term, vote, commit },
            snapshot: self.snapshot,
            conf_state: std::mem::take(&mut self.snapshot_conf_state),
            entries: recovered.entries,
        };
        if backend.has_received_mark() {
            self.record_received(&mut log, restored)?;
            backend.clear_received_mark().map_err(|error| StartError::new("backend", error))?;
        }
        if config.force_new_cluster {
            self.force(&mut log, restored)?;
        }
        match kvorum_node::restart(log, restored).map_err(StartError)? {
            Restart::From(start) => Ok(StartedLog { metadata: self.metadata, wal: self.wal, start }),
            Restart::FoundAgain => self.found_again(config),
        }
    }

    /// A database of the leader's took the store's place, and the stop came before the log knew.
    fn record_received(&mut self, log: &mut RecoveredLog, restored: &Restored) -> Result<(), StartError> {
        let Some((position, hard_state)) = log.begin_behind(restored).map_err(StartError)? else { return Ok(()) };
        let record = WalSnapshot { index: position.index, term: position.term, conf_state: Some(position.conf_state) };
        let hard_state = WalHardState { term: hard_state.term, vote: hard_state.vote, commit: hard_state.commit };
        let written = self
            .wal
            .save_snapshot(&record)
            .and_then(|_| self.wal.append(&[], Some(&hard_state)))
            .and_then(|_| self.wal.sync());
        written.map_err(|error| StartError::new("write-ahead log", error))?;
        tracing::info!(snapshot_index = position.index, "Recovering from snapshot backend");
        Ok(())
    }

    /// `--force-new-cluster`: what is committed stays, and changes behind it remove all others. They are written before
    /// anything else happens.
    fn force(&mut self, log: &mut RecoveredLog, restored: &Restored) -> Result<(), StartError> {
        let members: Vec<u64> = log.conf_state.voters.iter().chain(&log.conf_state.learners).copied().collect();
        let hard_state = log.hard_state;
        let entries = std::mem::take(&mut log.entries);
        let position = (hard_state.term, hard_state.commit);
        let own = self.metadata.node_id;
        let forced = forced::force(&members, entries, position, restored.consistent_index, own).map_err(StartError)?;
        let added: Vec<WalEntry<'_>> = forced
            .added
            .iter()
            .map(|entry| WalEntry {
                entry_type: entry.r#type(),
                term: entry.term(),
                index: entry.index(),
                data: entry.data(),
            })
            .collect();
        let state = WalHardState { term: hard_state.term, vote: hard_state.vote, commit: forced.commit };
        let written = self.wal.append(&added, Some(&state)).and_then(|_| self.wal.sync());
        written.map_err(|error| StartError::new("write-ahead log", error))?;
        tracing::warn!(
            local_member_id = %to_hex(own),
            commit_index = forced.commit,
            removed_members = forced.added.len(),
            "forcing a new cluster of this member alone"
        );
        log.entries = forced.kept;
        log.entries.extend(forced.added);
        log.hard_state.commit = forced.commit;
        Ok(())
    }

    /// See [`Restart::FoundAgain`]. Flags that name another member are those of one that joins and had not heard from the
    /// others yet.
    fn found_again(self, config: &Config) -> Result<StartedLog, StartError> {
        let founding = match config.initial_cluster_state {
            ClusterState::New => forming::founding(config, &SystemResolver).ok(),
            ClusterState::Existing => None,
        };
        let members = founding.map(|founding| founding.members).unwrap_or_default();
        let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
        let founds = ids.contains(&self.metadata.node_id) && crate::ids::cluster_id(&ids) == self.metadata.cluster_id;
        let start = if founds {
            tracing::warn!("the first start did not finish; founding the member again");
            Start::Bootstrap { members: members.into_iter().map(founder).collect() }
        } else {
            Start::empty()
        };
        Ok(StartedLog { metadata: self.metadata, wal: self.wal, start })
    }
}
