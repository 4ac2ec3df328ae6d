//! etcd's peer protocol (rafthttp), both directions: how members of a cluster exchange raft's messages, snapshots and
//! the questions they have for each other. Wire-compatible with etcd 3.6 and 3.7.
//!
//! In reading order: what the member is asked and told ([`contract`]), the bytes of streams (`framing`), who a request
//! is from and whether it may speak (`identity`), the queues (`outbox`), one other member (`remote`: its URLs, stream
//! readers and pipeline; `status`, `probe`), databases (`snapshot`), the port (`serve`, `answers`), connections (`timed`,
//! `http_client`), and questions to other members ([`questions`]).
//!
//! All input and output happens on one thread, `peers`. A caller is never blocked: sending fills bounded queues. Nothing
//! here decides anything about consensus, and nothing from the network may make it panic or allocate without bound.
//!
//! The receiver of a stream dials: each member asks every other one for two streams, one for appends and one for the
//! rest, so that heartbeats never wait behind entries.

mod answers;
pub mod contract;
pub(crate) mod framing;
mod http_client;
mod identity;
mod kept;
mod outbox;
mod probe;
pub mod questions;
mod remote;
mod serve;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;
mod timed;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use http_client::Connection;
use hyper::body::Body;
use kvorum_api::raftpb;
use kvorum_disk::FileSystem;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::Notify;

pub use contract::{Answer, LeaseRefusal, PeerAnswers, PeerEvents};
pub use snapshot::SnapshotSource;
pub use timed::Dialer;

use crate::ids::to_hex;
use crate::limits::{PEER_BLOCKING_THREADS_MAX, PEER_REMOTES_MAX};
use crate::metrics::PeerMetrics;
use crate::tls::IncomingTls;
use crate::urls::{Url, parse_many};
use identity::Identity;
use remote::Remote;

/// etcd's `ConnReadTimeout`: a stream that is silent for so long is given up, and each is kept alive three times in it.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// etcd's `ConnWriteTimeout`: a socket that takes nothing for so long is given up.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two attempts to dial a stream, as in etcd.
pub const DIAL_INTERVAL: Duration = Duration::from_millis(100);

/// Who this member is and how it reaches others.
#[derive(Clone)]
pub struct PeerConfig {
    pub member_id: u64,
    pub cluster_id: u64,
    /// The advertised peer URLs, told to other members with every request.
    pub urls: Vec<Url>,
    /// Where received databases go; must exist.
    pub snapshot_folder: PathBuf,
    pub file_system: Arc<dyn FileSystem>,
    /// etcd: one second and the election timeout.
    pub dial_timeout: Duration,
    pub dialer: Dialer,
    /// Connections that others may have open here; one more is closed.
    pub connections_max: usize,
    /// How long others may take for the head of a request.
    pub head_time: Duration,
}

/// The running transport. Clones are handles to the same one; it runs until [`Self::stop`].
#[derive(Clone)]
pub struct PeerTransport {
    shared: Arc<Shared>,
}

/// What the tasks of the transport share.
pub(crate) struct Shared {
    config: PeerConfig,
    identity: Identity,
    events: Arc<dyn PeerEvents>,
    answers: Arc<dyn PeerAnswers>,
    runtime: Handle,
    members: RwLock<Members>,
    reports: Reports,
    sleepers: Sleepers,
    stop: tokio::sync::watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Members with streams, and those that are only sent to until this one learned of them.
#[derive(Default)]
struct Members {
    peers: BTreeMap<u64, Arc<Remote>>,
    remotes: BTreeMap<u64, Arc<Remote>>,
}

/// Losses found on a caller's thread, told to the member on the transport's: bounded by the number of members.
#[derive(Default)]
pub(crate) struct Reports {
    unreachable: Mutex<BTreeSet<u64>>,
    wake: Notify,
}

impl Reports {
    /// Notes that messages to the member were lost.
    pub fn unreachable(&self, member_id: u64) {
        self.unreachable.lock().insert(member_id);
        self.wake.notify_one();
    }
}

/// Streams that have something to send again. To wake a task of another thread costs a system call each time: so others
/// wake one task, which wakes the streams. Bounded by the number of streams.
#[derive(Default)]
pub(crate) struct Sleepers {
    waiting: Mutex<Vec<Waker>>,
    wake: Notify,
    /// The transport's own.
    thread: OnceLock<ThreadId>,
}

impl Sleepers {
    fn wake(&self, wakers: Vec<Waker>) {
        if wakers.is_empty() {
            return;
        }
        if self.thread.get() == Some(&std::thread::current().id()) {
            return wakers.into_iter().for_each(Waker::wake);
        }
        let mut waiting = self.waiting.lock();
        let first = waiting.is_empty();
        waiting.extend(wakers);
        drop(waiting);
        if first {
            self.wake.notify_one();
        }
    }
}

impl PeerTransport {
    /// Starts the thread `peers`, which answers on the listeners from now on; with TLS on those that have it.
    pub fn start(
        config: PeerConfig,
        listeners: Vec<(Option<Arc<IncomingTls>>, TcpListener)>,
        events: Arc<dyn PeerEvents>,
        answers: Arc<dyn PeerAnswers>,
    ) -> io::Result<PeerTransport> {
        snapshot::remove_leftovers(&*config.file_system, &config.snapshot_folder)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(PEER_BLOCKING_THREADS_MAX)
            .build()?;
        let shared = Arc::new(Shared {
            identity: Identity::of(&config),
            config,
            events,
            answers,
            runtime: runtime.handle().clone(),
            members: RwLock::default(),
            reports: Reports::default(),
            sleepers: Sleepers::default(),
            stop: tokio::sync::watch::Sender::new(false),
            thread: Mutex::new(None),
        });
        for (tls, listener) in listeners {
            listener.set_nonblocking(true)?;
            let listener = {
                let _inside = runtime.enter();
                tokio::net::TcpListener::from_std(listener)?
            };
            runtime.spawn(serve::accept(Arc::clone(&shared), tls, listener));
        }
        runtime.spawn(deliver_reports(Arc::clone(&shared)));
        runtime.spawn(wake_sleepers(Arc::clone(&shared)));
        let mut stopped = shared.stop.subscribe();
        let shared_by_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("peers".to_owned()).spawn(move || {
            let own = std::thread::current().id();
            assert!(shared_by_thread.sleepers.thread.set(own).is_ok(), "nobody else sets it");
            drop(shared_by_thread);
            crate::scheduling::prefer_short_slices();
            // The sender lives as long as the transport; its end is a stop as well.
            drop(runtime.block_on(stopped.wait_for(|stopped| *stopped)));
            // A disk call under way may finish by itself: its result is not needed.
            runtime.shutdown_background();
        })?;
        *shared.thread.lock() = Some(thread);
        Ok(PeerTransport { shared })
    }

    /// Adds a member: dials its streams, and takes messages for it. Nothing happens if it is known.
    /// An error if there is no URL, or one that is none.
    pub fn add_peer(&self, member_id: u64, urls: &[String]) -> Result<(), String> {
        let parsed = parse_urls(urls)?;
        {
            let mut members = self.shared.members.write();
            if member_id == self.shared.config.member_id || members.peers.contains_key(&member_id) {
                return Ok(());
            }
            if let Some(remote) = members.remotes.remove(&member_id) {
                remote.stop();
            }
            members.peers.insert(member_id, Remote::start_peer(&self.shared, member_id, parsed));
        }
        tracing::info!(
            local_member_id = to_hex(self.shared.config.member_id).as_str(),
            remote_peer_id = to_hex(member_id).as_str(),
            remote_peer_urls = ?urls,
            "added remote peer"
        );
        Ok(())
    }

    /// Adds a member that this one has yet to learn of: messages to it go through its pipeline, there are no streams.
    pub fn add_remote(&self, member_id: u64, urls: &[String]) -> Result<(), String> {
        self.shared.add_remote(member_id, urls)
    }

    /// New URLs of a member. Nothing happens if it is not known.
    pub fn update_peer(&self, member_id: u64, urls: &[String]) -> Result<(), String> {
        let parsed = parse_urls(urls)?;
        let Some(peer) = self.shared.peer(member_id) else { return Ok(()) };
        peer.update(parsed);
        tracing::info!(
            local_member_id = to_hex(self.shared.config.member_id).as_str(),
            updated_remote_peer_id = to_hex(member_id).as_str(),
            updated_remote_peer_urls = ?urls,
            "updated remote peer"
        );
        Ok(())
    }

    /// Ends all traffic with a member.
    pub fn remove_peer(&self, member_id: u64) {
        let removed = {
            let mut members = self.shared.members.write();
            if let Some(remote) = members.remotes.remove(&member_id) {
                remote.stop();
            }
            members.peers.remove(&member_id)
        };
        let (local, remote) = (to_hex(self.shared.config.member_id), to_hex(member_id));
        match removed {
            Some(peer) => {
                peer.stop();
                tracing::info!(
                    local_member_id = local.as_str(),
                    removed_remote_peer_id = remote.as_str(),
                    "removed remote peer"
                );
            }
            None => tracing::warn!(
                local_member_id = local.as_str(),
                removed_remote_peer_id = remote.as_str(),
                "skipped removing already removed peer"
            ),
        }
    }

    /// Ends all traffic with all members; the port still answers.
    pub fn remove_all(&self) {
        let members = std::mem::take(&mut *self.shared.members.write());
        for remote in members.peers.into_values().chain(members.remotes.into_values()) {
            remote.stop();
        }
    }

    /// Queues messages for the members in their `to` fields. Those to nobody, or to members that are not known, are
    /// dropped; those to a member whose queue is full are dropped and reported as [`PeerEvents::unreachable`].
    pub fn send(&self, messages: Vec<raftpb::Message>) {
        let mut wakers = Vec::new();
        let members = self.shared.members.read();
        for message in messages {
            let to = message.to();
            match members.peers.get(&to).or_else(|| members.remotes.get(&to)) {
                _ if to == 0 => {}
                Some(target) => target.send(message, &mut wakers),
                None => tracing::debug!(
                    r#type = message.r#type().as_str_name(),
                    unknown_target_peer_id = to_hex(to).as_str(),
                    "ignored message send request; unknown remote peer target"
                ),
            }
        }
        drop(members);
        self.shared.sleepers.wake(wakers);
    }

    /// Sends a `MsgSnap` and the database behind it. The outcome comes as [`PeerEvents::snapshot_sent`], always, unless
    /// the transport is stopped or the member removed meanwhile.
    pub fn send_snapshot(&self, message: raftpb::Message, database: SnapshotSource) {
        let peer = self.shared.peer(message.to());
        let shared = Arc::clone(&self.shared);
        self.shared.runtime.spawn(async move {
            match peer {
                Some(peer) => peer.send_snapshot(message, database).await,
                None => shared.events.snapshot_sent(message.to(), false),
            }
        });
    }

    /// Since when there is a working connection with the member.
    pub fn active_since(&self, member_id: u64) -> Option<Instant> {
        self.shared.peer(member_id)?.status.active_since()
    }

    pub fn is_active(&self, member_id: u64) -> bool {
        self.active_since(member_id).is_some()
    }

    /// How many members there is a working connection with.
    pub fn active_peers(&self) -> usize {
        self.shared.members.read().peers.values().filter(|peer| peer.status.active_since().is_some()).count()
    }

    /// What went to and came from each member.
    pub fn metrics(&self) -> Vec<Arc<PeerMetrics>> {
        self.shared.members.read().peers.values().map(|peer| Arc::clone(&peer.status.metrics)).collect()
    }

    /// Ends all traffic and the thread. What is queued is lost, as it may be at any time.
    pub fn stop(&self) {
        self.remove_all();
        self.shared.stop.send_replace(true);
        let thread = self.shared.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic there was printed by its hook; there is nothing left to stop.
            drop(thread.join());
        }
    }
}

impl Shared {
    /// Connects to a member.
    async fn dial<B>(&self, url: &Url, write_timeout: Duration) -> io::Result<Connection<B>>
    where
        B: Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Connection::dial(&self.config.dialer, url, self.config.dial_timeout, write_timeout).await
    }

    fn peer(&self, member_id: u64) -> Option<Arc<Remote>> {
        self.members.read().peers.get(&member_id).cloned()
    }

    fn add_remote(self: &Arc<Self>, member_id: u64, urls: &[String]) -> Result<(), String> {
        let parsed = parse_urls(urls)?;
        {
            let mut members = self.members.write();
            let known = members.peers.contains_key(&member_id) || members.remotes.contains_key(&member_id);
            if known || member_id == self.config.member_id || *self.stop.borrow() {
                return Ok(());
            }
            if members.remotes.len() >= PEER_REMOTES_MAX {
                return Err(format!("more than {PEER_REMOTES_MAX} unknown members introduced themselves"));
            }
            members.remotes.insert(member_id, Remote::start_remote(self, member_id, parsed));
        }
        tracing::info!(
            local_member_id = to_hex(self.config.member_id).as_str(),
            remote_peer_id = to_hex(member_id).as_str(),
            remote_peer_urls = ?urls,
            "added new remote peer"
        );
        Ok(())
    }
}

fn parse_urls(urls: &[String]) -> Result<Vec<Url>, String> {
    let parsed = parse_many(urls.iter().map(String::as_str)).map_err(|error| error.to_string())?;
    if parsed.is_empty() { Err("no valid URLs given".to_owned()) } else { Ok(parsed) }
}

async fn wake_sleepers(shared: Arc<Shared>) {
    loop {
        shared.sleepers.wake.notified().await;
        let waiting = std::mem::take(&mut *shared.sleepers.waiting.lock());
        waiting.into_iter().for_each(Waker::wake);
    }
}

async fn deliver_reports(shared: Arc<Shared>) {
    loop {
        shared.reports.wake.notified().await;
        let unreachable = std::mem::take(&mut *shared.reports.unreachable.lock());
        for member_id in unreachable {
            shared.events.unreachable(member_id);
        }
    }
}
