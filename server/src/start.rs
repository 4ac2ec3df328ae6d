//! How a member starts: sockets first, then what the disk remembers, then raft until it leads, then its threads.

use std::fmt;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvorum_api::etcdserverpb::InternalRaftRequest;
use kvorum_api::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use kvorum_disk::{LmdbBackend, RealFileSystem, SnapDirectory};
use kvorum_store::Backend;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::info;

use crate::auth::Authenticator;
use crate::background::{self, BackendThread};
use crate::changes;
use crate::config::{AutoCompaction, Config};
use crate::core::{Core, CoreConfig, CoreParts, Peers};
use crate::corruption::{self, CoreView};
use crate::database::Databases;
use crate::descriptors;
use crate::housekeeping::Housekeeping;
use crate::links::Links;
use crate::metrics::Metrics;
use crate::opening::{Opened, checkpoint_interval, open};
use crate::peer::{PeerAnswers, PeerConfig, PeerEvents, PeerTransport};
use crate::ports::Ports;
use crate::scheduling;
use crate::snapshots::Snapshots;
use crate::tls::IncomingTls;
use crate::urls::{Scheme, Url};
use crate::watch::WatchPublisher;
use crate::worker_thread::{self, Listeners, WorkerOptions};

/// Why a member did not start. The text names the file, flag or address.
#[derive(Debug)]
pub struct StartError(pub(crate) String);

impl StartError {
    pub(crate) fn new(what: &str, error: impl fmt::Display) -> Self {
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
    client_http_urls: Vec<Url>,
    metrics_urls: Vec<Url>,
    raft: Option<JoinHandle<()>>,
    log: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    backend: Option<JoinHandle<()>>,
    last_commit: Arc<AtomicBool>,
    links: Arc<Links>,
}

/// Starts a member and returns when it serves. The configuration must be valid. A member of a cluster serves once a
/// majority of it is there: this waits for as long as that takes.
pub fn start(config: &Config) -> Result<Running, StartError> {
    let running = begin(config)?;
    running.wait_until_ready()?;
    Ok(running)
}

/// Starts a member and returns at once; it serves when [`Running::wait_until_ready`] says so.
pub fn begin(config: &Config) -> Result<Running, StartError> {
    let shares = descriptors::shares().map_err(StartError)?;
    let Ports { client_urls, client_http_urls, metrics_urls, clients, metrics, peers, dialer } = Ports::open(config)?;
    let authenticator = Authenticator::new(&config.auth_token, config.auth_token_ttl_seconds, config.bcrypt_cost)
        .map_err(|error| StartError::new("failed to create token provider", error))?;
    let opened = open(config, &dialer)?;
    let core = Arc::new(Core::new(
        core_config(config, &opened),
        CoreParts {
            member: opened.member,
            reader: opened.reader,
            wal: opened.wal,
            ids: opened.ids,
            publisher: WatchPublisher::new(opened.revision),
            metrics: Arc::new(Metrics::new()),
            databases: Databases::new(Arc::clone(&opened.backend), config.snapshot_dir()),
            dialer,
            authenticator,
        },
        worker_count(config),
    ));
    core.note_backend_size(opened.backend.size_bytes(), opened.backend.size_in_use_bytes());
    core.state().writer().set_backend_size(opened.backend.size_in_use_bytes());
    if opened.is_restart && config.feature_gates.initial_corrupt_check {
        compare_with_others(&core)?;
    }
    let snapshots = snapshots(config, &opened.backend)?;
    let file_system = Arc::clone(&opened.snapshots.file_system);
    let links = Links::new(&core, file_system, opened.snapshots.wal_directory.clone(), snapshots);
    core.set_peers(Arc::clone(&links) as Arc<dyn Peers>);
    core.settle(std::iter::empty());
    let transport = start_transport(config, &core, &links, peers, shares.peers)?;
    links.set_transport(transport, &opened.introduced);
    let is_alone = core.state().consensus().is_single_voter();
    if is_alone {
        lead(&core, config, &client_urls)?;
    }
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
        client_http_urls,
        metrics_urls,
        raft: None,
        log: None,
        workers: Vec::new(),
        others: Vec::new(),
        backend: Some(spawn(&core, "backend", move |_| backend.run())?),
        last_commit,
        links: Arc::clone(&links),
    };
    running.raft = Some(spawn(&core, "raft", |core| {
        scheduling::prefer_short_slices();
        core.run_raft_thread();
    })?);
    running.log = Some(spawn(&core, "log", |core| {
        scheduling::prefer_short_slices();
        core.run_log_thread();
    })?);
    running.start_background(config)?;
    let open = running.start_workers(config, shares.clients, metrics)?;
    let serving = Serving {
        core: Arc::clone(&core),
        listeners: clients,
        open,
        client_urls: running.client_urls.clone(),
        client_http_urls: running.client_http_urls.clone(),
    };
    let housekeeping = Housekeeping {
        core: Arc::clone(&core),
        attributes: attributes(&core, config, &running.client_urls),
        initial_ticks: (config.initial_election_tick_advance, config.election_ticks()),
        links,
    };
    if is_alone {
        serving.begin();
        running.others.push(spawn(&core, "housekeeping", move |_| housekeeping.run(None))?);
    } else {
        running.others.push(spawn(&core, "housekeeping", move |_| housekeeping.run(Some(serving)))?);
    }
    Ok(running)
}

fn core_config(config: &Config, opened: &Opened) -> CoreConfig {
    CoreConfig {
        member_id: opened.member_id,
        cluster_id: opened.cluster_id,
        heartbeat_interval: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        request_timeout: config.request_timeout(),
        strict_reconfig_check: config.strict_reconfig_check,
        max_request_bytes: clamp(config.max_request_bytes),
        max_txn_ops: clamp(config.max_txn_ops),
        proposals: config.proposal_limits,
        quota_bytes: config.quota_backend_bytes,
        backend_batch_limit: clamp(config.backend_batch_limit).max(1),
        feature_gates: config.feature_gates.listed().collect(),
        corrupt_check_interval: nonzero(config.corrupt_check_time),
        compact_hash_check_interval: nonzero(config.compact_hash_check_time)
            .filter(|_| config.feature_gates.compact_hash_check),
        downgrade_check_interval: nonzero(config.downgrade_check_time),
    }
}

fn nonzero(interval: Duration) -> Option<Duration> {
    (!interval.is_zero()).then_some(interval)
}

/// What a member that comes back owes the others, with the gate InitialCorruptCheck, before it takes part in anything. Only
/// what its backend holds is compared, as in etcd: the log is not applied yet. Blocks for as long as the others take.
fn compare_with_others(core: &Arc<Core>) -> Result<(), StartError> {
    let view = CoreView::new(core, core.config.request_timeout);
    // On a thread of its own: whoever starts a member may itself be on a runtime.
    let compared = std::thread::scope(|scope| {
        let compare = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok::<_, std::io::Error>(runtime.block_on(corruption::check_at_start(&view)))
        };
        scope.spawn(compare).join()
    });
    let failed = |error: &dyn fmt::Display| StartError::new("checkInitialHashKV failed", error);
    compared
        .map_err(|_| failed(&"the thread that asked the others panicked"))?
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))
}

fn snapshots(config: &Config, backend: &Arc<LmdbBackend>) -> Result<Snapshots, StartError> {
    let directory = SnapDirectory::open(Arc::new(RealFileSystem), &config.snapshot_dir())
        .map_err(|error| StartError::new("snapshot files", error))?;
    Ok(Snapshots {
        backend: Arc::clone(backend),
        file_system: Arc::new(RealFileSystem),
        folder: config.snapshot_dir(),
        directory,
        lease_checkpoint_interval_milliseconds: checkpoint_interval(config),
        receiving: AtomicBool::new(false),
        prepared: Mutex::new(None),
    })
}

fn start_transport(
    config: &Config,
    core: &Core,
    links: &Arc<Links>,
    listeners: Vec<(Option<Arc<IncomingTls>>, TcpListener)>,
    connections_max: usize,
) -> Result<PeerTransport, StartError> {
    let peer_config = PeerConfig {
        member_id: core.config.member_id,
        cluster_id: core.config.cluster_id,
        urls: config.initial_advertise_peer_urls.clone(),
        snapshot_folder: config.snapshot_dir(),
        file_system: Arc::new(RealFileSystem),
        dial_timeout: Duration::from_secs(1) + config.election_timeout,
        dialer: core.dialer.clone(),
        connections_max,
        head_time: config.connection_limits.peer_head_time,
    };
    let (events, answers) = (Arc::clone(links) as Arc<dyn PeerEvents>, Arc::clone(links) as Arc<dyn PeerAnswers>);
    PeerTransport::start(peer_config, listeners, events, answers)
        .map_err(|error| StartError::new("starting the peer port", error))
}

/// The client port, not answered yet.
pub(crate) struct Serving {
    core: Arc<Core>,
    listeners: Listeners,
    /// To the thread that accepts.
    open: oneshot::Sender<Listeners>,
    client_urls: Vec<Url>,
    client_http_urls: Vec<Url>,
}

impl Serving {
    /// Answers clients from now on.
    pub(crate) fn begin(self) {
        self.core.space.begin();
        // Nobody accepts any more at a stop.
        if self.core.is_stopping() || self.open.send(self.listeners).is_err() {
            return;
        }
        info!("ready to serve client requests");
        let endpoints = self.client_urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",");
        info!(
            example = %format!("etcdctl --endpoints {endpoints} put greeting hello"),
            "any etcd client can talk to this member"
        );
        let calls = if self.client_http_urls.is_empty() { "grpc+http" } else { "grpc" };
        let traffic = self.client_urls.iter().map(|url| (calls, url));
        for (traffic, url) in traffic.chain(self.client_http_urls.iter().map(|url| ("http", url))) {
            let address = url.host_port();
            if url.scheme() == Scheme::Https {
                info!(traffic, address, "serving client traffic securely");
            } else {
                info!(traffic, address, "serving client traffic insecurely; this is strongly discouraged!");
            }
        }
        self.core.set_ready();
    }
}

impl Running {
    /// Where clients connect: the first URL listened on, with the port that was found when 0 was asked for.
    pub fn client_url(&self) -> String {
        self.client_urls[0].to_string()
    }

    /// Where everything but gRPC is, if it is apart, with the ports that were found.
    pub fn client_http_urls(&self) -> Vec<String> {
        self.client_http_urls.iter().map(Url::to_string).collect()
    }

    /// Where metrics are, besides the client URLs, with the ports that were found.
    pub fn metrics_urls(&self) -> Vec<String> {
        self.metrics_urls.iter().map(Url::to_string).collect()
    }

    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Starts the connection threads. They answer on the ports of metrics from now on, and on those that are sent.
    fn start_workers(
        &mut self,
        config: &Config,
        connections_max: usize,
        metrics: Listeners,
    ) -> Result<oneshot::Sender<Listeners>, StartError> {
        let (open, later) = oneshot::channel();
        let options = WorkerOptions::from_config(config, connections_max);
        self.workers = worker_thread::start_all(&self.core, metrics, later, worker_count(config), &options)
            .map_err(|error| StartError::new("connection threads", error))?;
        for url in &self.metrics_urls {
            info!(address = %url, "serving metrics");
        }
        Ok(open)
    }

    fn start_background(&mut self, config: &Config) -> Result<(), StartError> {
        let (limit, pause) = (clamp(config.compaction_batch_limit).max(1), config.compaction_sleep_interval);
        let compactions = move |core: &Core| background::run_compactions(core, limit, pause);
        self.others.push(spawn(&self.core, "compaction", compactions)?);
        let mode = config.auto_compaction;
        if mode != AutoCompaction::Off {
            let compactions = move |core: &Core| background::run_auto_compaction(core, mode);
            self.others.push(spawn(&self.core, "auto-compaction", compactions)?);
        }
        Ok(())
    }

    /// Waits until the member serves. An error if it stopped before.
    pub fn wait_until_ready(&self) -> Result<(), StartError> {
        if self.core.wait_until_ready() {
            return Ok(());
        }
        Err(StartError(self.core.failure().unwrap_or("the member stopped before it was ready").to_owned()))
    }

    /// Waits until the member stops, and says why if it was not asked to.
    pub fn wait(&mut self) -> Result<(), String> {
        self.join();
        self.core.failure().map_or(Ok(()), |reason| Err(reason.to_owned()))
    }

    /// Finishes what was taken, makes it durable and stops. Idempotent.
    pub fn stop(&mut self) {
        self.core.leave();
        changes::hand_over(&self.core);
        changes::await_answers(&self.core);
        self.core.stop();
        self.join();
    }

    fn join(&mut self) {
        // A thread that panicked has said so; the others must still come to rest.
        if let Some(log) = self.log.take() {
            drop(log.join());
        }
        // The log thread ends only at a stop; if it ended otherwise, the rest must follow.
        self.core.stop();
        if let Some(raft) = self.raft.take() {
            drop(raft.join());
        }
        for thread in self.workers.drain(..).chain(self.others.drain(..)) {
            drop(thread.join());
        }
        self.links.close();
        self.core.shrinking.join();
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

/// A thread without which the member does not go on.
fn spawn(
    core: &Arc<Core>,
    name: &str,
    body: impl FnOnce(&Core) + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let core = Arc::clone(core);
    let guarded = move || {
        let _guard = core.guard();
        body(&core);
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(guarded)
        .map_err(|error| StartError::new("starting a thread", error))
}

pub(crate) fn clamp(value: u64) -> usize {
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

/// Keeps other members out of a data folder for as long as it is held, also those with a log elsewhere. The lock is on
/// the folder itself, so it needs no file and leaves none behind.
pub struct FolderLock {
    _folder: std::fs::File,
}

impl FolderLock {
    pub(crate) fn take(folder: &Path) -> Result<Self, StartError> {
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
    let mut requests = vec![core.state().number(attributes(core, config, client_urls)).1];
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

/// What this member tells the cluster of itself.
fn attributes(core: &Core, config: &Config, client_urls: &[Url]) -> InternalRaftRequest {
    let advertised = config.advertised_client_urls(client_urls);
    InternalRaftRequest {
        cluster_member_attr_set: Some(ClusterMemberAttrSetRequest {
            member_id: core.config.member_id,
            member_attributes: Some(Attributes {
                name: config.name.clone(),
                client_urls: advertised.iter().map(Url::to_string).collect(),
            }),
        }),
        ..InternalRaftRequest::default()
    }
}
