//! How a member starts: sockets first, then what the disk remembers, then raft until it leads, then its threads.

use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvorum_api::etcdserverpb::InternalRaftRequest;
use kvorum_api::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use kvorum_api::raftpb;
use kvorum_disk::lmdb::{LmdbBackend, LmdbOptions};
use kvorum_disk::snap::{SnapDirectory, SnapshotFile};
use kvorum_disk::wal::{self, Recovered, Wal, WalMetadata, WalOptions, WalSnapshot};
use kvorum_disk::{DiskError, FileSystem, RealFileSystem, create_durable_directories};
use kvorum_node::bootstrap::BootstrapMember;
use kvorum_node::member::{Member, conf_state_from_json};
use kvorum_node::{Consensus, ConsensusConfig, HardState, LeaseTimers, LogEntry, RequestIds, Start};
use kvorum_store::{Backend, Restored, StoreConfig};
use tracing::info;

use crate::background::{self, BackendThread, SnapshotPolicy};
use crate::config::{AutoCompaction, Bootstrap, Config};
use crate::core::{Core, CoreConfig, CoreParts};
use crate::ids::to_hex;
use crate::metrics::Metrics;
use crate::scheduling;
use crate::urls::Url;
use crate::watch::WatchPublisher;
use crate::worker_thread::{self, WorkerOptions};

/// Why a member did not start. The text names the file, flag or address.
#[derive(Debug)]
pub struct StartError(String);

impl StartError {
    fn new(what: &str, error: impl fmt::Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// A member at work. Dropping it stops it.
pub struct Running {
    core: Arc<Core>,
    client_urls: Vec<Url>,
    raft: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    backend: Option<JoinHandle<()>>,
    last_commit: Arc<AtomicBool>,
}

/// Starts a member and returns when it serves. The configuration must be valid.
pub fn start(config: &Config) -> Result<Running, StartError> {
    let listeners = listen(&config.listen_client_urls, config)?;
    let client_urls: Vec<Url> = listeners.iter().map(|(url, _)| url.clone()).collect();
    let opened = open(config)?;
    let workers = worker_count(config);
    let quota_bytes = config.quota_backend_bytes;
    let core = Arc::new(Core::new(
        CoreConfig {
            member_id: opened.member_id,
            cluster_id: opened.cluster_id,
            heartbeat_interval: config.heartbeat_interval,
            request_timeout: Duration::from_secs(5) + 2 * config.election_timeout,
            max_request_bytes: clamp(config.max_request_bytes),
            max_txn_ops: clamp(config.max_txn_ops),
            quota_bytes,
            backend_batch_limit: clamp(config.backend_batch_limit).max(1),
            feature_gates: config.feature_gates.listed().collect(),
        },
        CoreParts {
            member: opened.member,
            reader: opened.reader,
            wal: opened.wal,
            ids: opened.ids,
            publisher: WatchPublisher::new(opened.revision),
            metrics: Arc::new(Metrics::new()),
        },
        workers,
    ));
    core.note_backend_size(opened.backend.size_bytes(), opened.backend.size_in_use_bytes());
    core.state().writer().set_backend_size(opened.backend.size_in_use_bytes());
    lead(&core, config, &client_urls)?;
    if opened.compaction_pending {
        core.schedule_compaction();
    }
    let last_commit = Arc::new(AtomicBool::new(false));
    let backend = BackendThread {
        core: Arc::clone(&core),
        backend: opened.backend,
        interval: config.backend_batch_interval,
        snapshots: opened.snapshots,
        last: Arc::clone(&last_commit),
        folder_lock: opened.lock,
    };
    let mut running = Running {
        core: Arc::clone(&core),
        client_urls,
        raft: None,
        workers: Vec::new(),
        others: Vec::new(),
        backend: Some(spawn("backend", move || backend.run())?),
        last_commit,
    };
    let raft_core = Arc::clone(&core);
    running.raft = Some(spawn("raft", move || {
        scheduling::prefer_short_slices();
        raft_core.run_raft_thread();
    })?);
    let (limit, pause) = (clamp(config.compaction_batch_limit).max(1), config.compaction_sleep_interval);
    let compaction_core = Arc::clone(&core);
    running.others.push(spawn("compaction", move || background::run_compactions(&compaction_core, limit, pause))?);
    let mode = config.auto_compaction;
    if mode != AutoCompaction::Off {
        let auto_core = Arc::clone(&core);
        running.others.push(spawn("auto-compaction", move || background::run_auto_compaction(&auto_core, mode))?);
    }
    let options = WorkerOptions::from_config(config);
    let listeners = listeners.into_iter().map(|(_, listener)| listener).collect();
    running.workers = worker_thread::start_all(&core, listeners, workers, &options)
        .map_err(|error| StartError::new("connection threads", error))?;
    info!("ready to serve client requests");
    let endpoints = running.client_urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",");
    info!(
        example = %format!("etcdctl --endpoints {endpoints} put greeting hello"),
        "any etcd client can talk to this member"
    );
    for url in &running.client_urls {
        info!(address = %url.host_port(), "serving client traffic insecurely; this is strongly discouraged!");
    }
    Ok(running)
}

impl Running {
    /// Where clients connect: the first URL listened on, with the port that was found when 0 was asked for.
    pub fn client_url(&self) -> String {
        self.client_urls[0].to_string()
    }

    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Waits until the member stops, and says why if it was not asked to.
    pub fn wait(&mut self) -> Result<(), String> {
        self.join();
        self.core.failure().map_or(Ok(()), |reason| Err(reason.to_owned()))
    }

    /// Finishes what was taken, makes it durable and stops. Idempotent.
    pub fn stop(&mut self) {
        self.core.stop();
        self.join();
    }

    fn join(&mut self) {
        // A thread that panicked has said so; the others must still come to rest.
        if let Some(raft) = self.raft.take() {
            drop(raft.join());
        }
        // The raft thread ends only at a stop; if it ended otherwise, the rest must follow.
        self.core.stop();
        for thread in self.workers.drain(..).chain(self.others.drain(..)) {
            drop(thread.join());
        }
        self.last_commit.store(true, Ordering::Release);
        self.core.want_backend_commit();
        if let Some(backend) = self.backend.take() {
            drop(backend.join());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| StartError::new("starting a thread", error))
}

fn clamp(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// One connection thread for every core (measured on two cores beside the load: up to 1.6 times the throughput of one
/// thread for the same CPU per request).
fn worker_count(config: &Config) -> usize {
    match config.connection_threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        count => count,
    }
}

/// Binds every client URL. A name stands for its first IPv4 address, as in Go.
fn listen(urls: &[Url], config: &Config) -> Result<Vec<(Url, TcpListener)>, StartError> {
    urls.iter()
        .map(|url| {
            let what = format!("listen tcp {}", url.host_port());
            let addresses: Vec<SocketAddr> = (url.host().trim_matches(['[', ']']), url.port().unwrap_or(0))
                .to_socket_addrs()
                .map_err(|error| StartError::new(&what, error))?
                .collect();
            let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
            let Some(address) = address else { return Err(StartError::new(&what, "no such host")) };
            let listener = worker_thread::bind(*address, config.socket_reuse_port)
                .map_err(|error| StartError::new(&what, format!("bind: {}", system_text(&error))))?;
            let port = listener.local_addr().map_err(|error| StartError::new(&what, error))?.port();
            Ok((url.with_port(port), listener))
        })
        .collect()
}

/// The system's text for an error as etcd shows it: without its number, and in lower case.
fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Keeps other members out of a data folder for as long as it is held, also those with a log elsewhere. The lock is on
/// the folder itself, so it needs no file and leaves none behind.
pub struct FolderLock {
    _folder: std::fs::File,
}

impl FolderLock {
    fn take(folder: &Path) -> Result<Self, StartError> {
        use rustix::fs::{FlockOperation, flock};
        let failed = |error: std::io::Error| StartError::new(&format!("cannot lock {}", folder.display()), error);
        let opened = std::fs::File::open(folder).map_err(failed)?;
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _folder: opened }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(StartError(format!("the data folder {} is in use by another member", folder.display())))
            }
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// What the disk held, put together.
struct Opened {
    lock: FolderLock,
    member_id: u64,
    cluster_id: u64,
    revision: i64,
    member: Member<crate::core::Waiter>,
    reader: kvorum_store::Reader,
    wal: Wal,
    ids: Arc<RequestIds>,
    backend: Arc<LmdbBackend>,
    snapshots: SnapshotPolicy,
    compaction_pending: bool,
}

fn open(config: &Config) -> Result<Opened, StartError> {
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
    let lmdb_options = LmdbOptions { unsafe_no_fsync: config.unsafe_no_fsync };
    let backend = LmdbBackend::open(&config.member_dir().join("backend"), lmdb_options)
        .map_err(|error| StartError::new("opening the backend", error))?;
    let backend = Arc::new(backend);
    let heartbeat = config.heartbeat_interval.as_millis();
    let lease_ttl_milliseconds_min = u128::from(config.election_ticks()) * 3 / 2 * heartbeat;
    let store_config = StoreConfig {
        member_id: 0,
        value_budget_bytes: config.value_budget_bytes,
        quota_bytes: config.quota_backend_bytes,
        lease_ttl_seconds_min: i64::try_from(lease_ttl_milliseconds_min.div_ceil(1_000)).unwrap_or(i64::MAX),
        lease_checkpoint_persist: config.feature_gates.lease_checkpoint_persist,
    };
    let snap = SnapDirectory::open(Arc::clone(&file_system), &snapshot_directory)
        .map_err(|error| StartError::new("snapshot files", error))?;
    let log = if log_exists {
        reopen_log(config, &file_system, &wal_directory, &snap)?
    } else {
        found_log(config, &file_system, &wal_directory)?
    };
    let store_config = StoreConfig { member_id: log.metadata.node_id, ..store_config };
    let store_backend: Arc<dyn Backend> = Arc::clone(&backend) as Arc<dyn Backend>;
    let (writer, reader, restored) =
        kvorum_store::open(store_config, store_backend).map_err(|error| StartError::new("opening the store", error))?;
    let newest_snapshot = log.snapshot.0;
    let start = log.into_start(&restored, config)?;
    let consensus_config = ConsensusConfig {
        member_id: start.metadata.node_id,
        election_ticks: clamp(config.election_ticks()).max(2),
        pre_vote: config.pre_vote,
        seed: start.metadata.node_id ^ unix_milliseconds(),
    };
    let consensus = Consensus::new(&consensus_config, start.start).map_err(|error| StartError::new("raft", error))?;
    let ids = Arc::new(RequestIds::new(start.metadata.node_id, unix_milliseconds()));
    let checkpoint_interval = u64::try_from(config.lease_checkpoint_interval.as_millis()).unwrap_or(u64::MAX);
    let mut leases = LeaseTimers::new(config.feature_gates.lease_checkpoint.then_some(checkpoint_interval));
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
        member: Member::new(consensus, writer, leases, Arc::clone(&ids), election),
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
    })
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
    founders: Vec<BootstrapMember>,
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

fn found_log(config: &Config, file_system: &Arc<dyn FileSystem>, directory: &Path) -> Result<Log, StartError> {
    let bootstrap = config.bootstrap().map_err(|error| StartError::new("discovery failed", error))?;
    let metadata = WalMetadata { node_id: bootstrap.member_id, cluster_id: bootstrap.cluster_id };
    let wal = Wal::create(Arc::clone(file_system), directory, metadata, wal_options(config))
        .map_err(|error| StartError::new("creating the write-ahead log", error))?;
    Ok(Log {
        metadata,
        wal,
        snapshot: (0, 0),
        snapshot_conf_state: raftpb::ConfState::default(),
        recovered: None,
        founders: founders(config, bootstrap),
    })
}

fn founders(config: &Config, bootstrap: Bootstrap) -> Vec<BootstrapMember> {
    let Bootstrap { member_id, peer_urls, .. } = bootstrap;
    vec![BootstrapMember { id: member_id, name: config.name.clone(), peer_urls }]
}

fn reopen_log(
    config: &Config,
    file_system: &Arc<dyn FileSystem>,
    directory: &Path,
    snap: &SnapDirectory,
) -> Result<Log, StartError> {
    let failed = |error: &dyn fmt::Display| StartError::new("opening the write-ahead log", error);
    let known = wal::valid_snapshot_entries(&**file_system, directory).map_err(|error| failed(&error))?;
    let loaded = snap.load_newest(&known).map_err(|error| StartError::new("snapshot files", error))?;
    for (path, reason) in &loaded.broken {
        tracing::warn!(path = %path.display(), reason = %reason, "set a broken snapshot file aside");
    }
    let (from, conf_state) = newest_snapshot(loaded.snapshot, &known);
    let (wal, recovered) =
        Wal::open(Arc::clone(file_system), directory, &from, wal_options(config)).map_err(|error| failed(&error))?;
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
        snapshot: (from.index, from.term),
        snapshot_conf_state: conf_state,
        recovered: Some(recovered),
        founders: Vec::new(),
    })
}

/// Where the log is read from: the newest snapshot file, or the log's own record of a newer snapshot, whose file was
/// damaged or lost. The record says the same; and the log may not reach back to the file before, since segments are
/// purged up to the newest snapshot.
fn newest_snapshot(file: Option<SnapshotFile>, known: &[WalSnapshot]) -> (WalSnapshot, raftpb::ConfState) {
    let (from, conf_state) = match file {
        Some(file) => (WalSnapshot { index: file.index, term: file.term, conf_state: None }, file.conf_state),
        None => (WalSnapshot::default(), raftpb::ConfState::default()),
    };
    match known.iter().max_by_key(|record| record.index) {
        Some(WalSnapshot { index, term, conf_state: Some(recorded) }) if *index > from.index => {
            tracing::warn!(snapshot_index = index, "a snapshot file is missing; its record in the log takes its place");
            (WalSnapshot { index: *index, term: *term, conf_state: None }, recorded.clone())
        }
        _ => (from, conf_state),
    }
}

impl Log {
    fn into_start(mut self, restored: &Restored, config: &Config) -> Result<StartedLog, StartError> {
        let Some(recovered) = self.recovered.take() else {
            if restored.consistent_index > 0 {
                return Err(StartError(format!(
                    "the backend holds entries up to {} but there is no write-ahead log: restore the log, or start in an \
                     empty data folder",
                    restored.consistent_index
                )));
            }
            let start = Start::Bootstrap { members: self.founders };
            return Ok(StartedLog { metadata: self.metadata, wal: self.wal, start });
        };
        let last = recovered.entries.last().map_or(self.snapshot.0, |entry| entry.index.unwrap_or(0));
        let applied = restored.consistent_index;
        if applied > last || applied < self.snapshot.0 {
            return Err(StartError(format!(
                "the backend holds entries up to {applied}, the write-ahead log those from {} to {last}: they do not \
                 belong together",
                self.snapshot.0
            )));
        }
        if applied == 0 && self.snapshot.0 == 0 && recovered.hard_state.commit == 0 {
            return self.found_again(config);
        }
        let conf_state = match &restored.conf_state {
            Some(json) => conf_state_from_json(json).map_err(|error| StartError::new("backend", error))?,
            None => self.snapshot_conf_state,
        };
        let hard_state = recovered.hard_state;
        let start = Start::Restart {
            hard_state: HardState { term: hard_state.term, vote: hard_state.vote, commit: hard_state.commit },
            conf_state,
            snapshot: self.snapshot,
            entries: recovered.entries.into_iter().map(log_entry).collect::<Result<_, _>>()?,
            applied,
        };
        Ok(StartedLog { metadata: self.metadata, wal: self.wal, start })
    }

    /// The founding entries and the state that commits them are written as one batch, before anything else, and they are
    /// not whole on the disk: so nothing was ever acknowledged, and what there is of them is written over.
    fn found_again(self, config: &Config) -> Result<StartedLog, StartError> {
        let bootstrap = config.bootstrap().map_err(|error| StartError::new("discovery failed", error))?;
        let metadata = WalMetadata { node_id: bootstrap.member_id, cluster_id: bootstrap.cluster_id };
        if metadata != self.metadata {
            return Err(StartError(format!(
                "the first start did not finish, and was that of member {} in cluster {}, not of member {} in cluster {}: \
                 remove the data folder, or start with the same flags",
                to_hex(self.metadata.node_id),
                to_hex(self.metadata.cluster_id),
                to_hex(metadata.node_id),
                to_hex(metadata.cluster_id)
            )));
        }
        tracing::warn!("the first start did not finish; founding the member again");
        let start = Start::Bootstrap { members: founders(config, bootstrap) };
        Ok(StartedLog { metadata, wal: self.wal, start })
    }
}

fn log_entry(entry: raftpb::Entry) -> Result<LogEntry, StartError> {
    let index = entry.index.unwrap_or(0);
    let kind = raftpb::EntryType::try_from(entry.r#type.unwrap_or(0))
        .map_err(|error| StartError::new(&format!("entry {index} of the write-ahead log"), error))?;
    Ok(LogEntry { kind, term: entry.term.unwrap_or(0), index, data: entry.data.unwrap_or_default() })
}

/// How long the only member of a cluster may take to become its leader.
const LEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Brings raft to rest, makes this member leader, and says through the log who it is.
fn lead(core: &Core, config: &Config, client_urls: &[Url]) -> Result<(), StartError> {
    let began = Instant::now();
    core.settle(std::iter::empty());
    while core.leader() != core.config.member_id {
        if let Some(reason) = core.failure() {
            return Err(StartError(reason.to_owned()));
        }
        if began.elapsed() > LEAD_TIME_MAX {
            return Err(StartError("this member did not become leader: is it the cluster's only one?".to_owned()));
        }
        core.state().campaign_if_alone();
        core.settle(std::iter::empty());
    }
    let advertised = config.advertised_client_urls(client_urls);
    let attributes = InternalRaftRequest {
        cluster_member_attr_set: Some(ClusterMemberAttrSetRequest {
            member_id: core.config.member_id,
            member_attributes: Some(Attributes {
                name: config.name.clone(),
                client_urls: advertised.iter().map(Url::to_string).collect(),
            }),
        }),
        ..InternalRaftRequest::default()
    };
    let mut requests = vec![core.state().number(attributes).1];
    if core.reader.cluster_version().is_none() {
        let version = InternalRaftRequest {
            cluster_version_set: Some(ClusterVersionSetRequest { ver: crate::STORAGE_VERSION.to_owned() }),
            ..InternalRaftRequest::default()
        };
        requests.push(core.state().number(version).1);
    }
    core.settle(requests.into_iter());
    core.failure().map_or(Ok(()), |reason| Err(StartError(reason.to_owned())))
}
