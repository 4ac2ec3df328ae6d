//! The member behind its locks: who proposes, who writes the log, who is told.
//!
//! Two locks, always taken in this order. `log` belongs to whoever drives: it takes proposals into raft, writes and syncs
//! the WAL, applies what became committed. `state` guards raft, store and timers, and is held only between disk calls,
//! so reads never wait for the disk. A connection thread drives its own small batches while syncs are quick; everything
//! else is driven by the log thread. The raft thread moves raft's clock, and what peers send is taken on the thread that
//! reads it; neither ever touches the disk, so that no heartbeat waits for it.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvorum_api::etcdserverpb::alarm_request::AlarmAction;
use kvorum_api::etcdserverpb::{AlarmType, InternalRaftRequest};
use kvorum_api::{EtcdError, raftpb};
use kvorum_disk::wal::{HardState as WalHardState, WalEntry};
use kvorum_disk::{DiskError, Wal};
use kvorum_node::lease_timers::Renewal;
use kvorum_node::member::{Member, Outcome, Proposal, Turn};
use kvorum_node::{Persist, RequestIds, SnapshotPosition};
use kvorum_store::{Caller, Header, Reader};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot, watch};

use crate::auth::{Authenticator, Identity};
use crate::database::Databases;
use crate::ids::to_hex;
use crate::limits::{
    BACKEND_BACKLOG_OPERATIONS_MAX, INLINE_PROPOSALS_MAX, INLINE_SYNC_MICROSECONDS_MAX, ProposalLimits,
};
use crate::mailbox::{Mail, Mailbox, SlotKey};
use crate::metrics::{Metrics, PeerMetrics};
use crate::peer::Dialer;
use crate::shrinking::Shrinking;
use crate::space::{self, Space};
use crate::watch::WatchPublisher;

/// How often a physical compaction that waits looks again by itself.
const COMPACTION_CHECK: Duration = Duration::from_millis(100);

/// Who waits for a proposal.
#[derive(Debug)]
pub enum Waiter {
    /// A unary call of a connection thread.
    Slot { worker: usize, key: SlotKey },
    /// Anybody else.
    Channel(oneshot::Sender<Outcome>),
    /// A linearizable read.
    Read(oneshot::Sender<Result<(), EtcdError>>),
    /// Linearizable reads of a connection thread.
    Reads { worker: usize, batch: usize },
    /// Nobody: the member asked by itself.
    Nobody,
}

/// What the member is told at start and never changes.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    pub member_id: u64,
    pub cluster_id: u64,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub request_timeout: Duration,
    pub strict_reconfig_check: bool,
    pub max_request_bytes: usize,
    pub max_txn_ops: usize,
    pub proposals: ProposalLimits,
    pub quota_bytes: Option<u64>,
    pub backend_batch_limit: usize,
    /// Name, stage and state of each feature gate.
    pub feature_gates: Vec<(&'static str, &'static str, bool)>,
    /// Time between comparisons of all data, and of compactions; `None`: never.
    pub corrupt_check_interval: Option<Duration>,
    pub compact_hash_check_interval: Option<Duration>,
    /// Time between looks at a running downgrade; `None`: never.
    pub downgrade_check_interval: Option<Duration>,
}

/// What a core is made of.
pub struct CoreParts {
    pub member: Member<Waiter>,
    pub reader: Reader,
    pub wal: Wal,
    pub ids: Arc<RequestIds>,
    pub publisher: WatchPublisher,
    pub metrics: Arc<Metrics>,
    pub databases: Databases,
    pub dialer: Dialer,
    pub authenticator: Authenticator,
}

pub struct Core {
    pub config: CoreConfig,
    pub reader: Reader,
    pub ids: Arc<RequestIds>,
    pub publisher: WatchPublisher,
    pub metrics: Arc<Metrics>,
    pub databases: Databases,
    /// How questions to other members are asked.
    pub dialer: Dialer,
    pub authenticator: Authenticator,
    pub shrinking: Shrinking,
    pub space: Space,
    state: Mutex<Member<Waiter>>,
    log: Mutex<Wal>,
    queue: Mutex<Queue>,
    queue_filled: Condvar,
    queue_length: AtomicUsize,
    queue_bytes: AtomicUsize,
    /// The raft thread sleeps on it, until the next tick or a stop.
    clock: Wanted,
    peers: OnceLock<Arc<dyn Peers>>,
    mailboxes: Vec<Arc<Mailbox>>,
    started: Instant,
    term: AtomicU64,
    leader: AtomicU64,
    /// When the present leader was first seen.
    leader_elected_milliseconds: AtomicU64,
    /// When the last leader was lost.
    leader_lost_milliseconds: AtomicU64,
    commit_index: AtomicU64,
    sync_microseconds: AtomicU64,
    backlog_operations: AtomicUsize,
    backend_size_bytes: AtomicU64,
    backend_in_use_bytes: AtomicU64,
    stopping: AtomicBool,
    is_learner: AtomicBool,
    /// Whether a linearizable read may find that it needs nobody else; whether it does is raft's to say.
    is_alone: AtomicBool,
    compactions_scheduled: AtomicU64,
    compactions_finished: AtomicU64,
    backend_commits: AtomicU64,
    snapshot_forced: AtomicBool,
    failure: OnceLock<String>,
    /// Held while a commit is taken and made, and while another database takes the store's place.
    pub commit_gate: Mutex<()>,
    /// Tells async tasks of a stop.
    stopped: watch::Sender<bool>,
    leaving: watch::Sender<bool>,
    /// A stop waits for the last answers: nothing more is proposed.
    takes_nothing: AtomicBool,
    /// The leader's id, 0 while there is none.
    leader_seen: watch::Sender<u64>,
    /// Whether clients are served, and who waits for it.
    ready: Mutex<bool>,
    became_ready: Condvar,
    /// Tells renewals that wait for a revocation.
    pub leases_changed: Notify,
    backend_wanted: Wanted,
    /// Tells those who wait for a commit of the backend.
    backend_committed: Notify,
    pub compaction_wanted: Wanted,
    /// Tells physical compactions that steps were made durable.
    compaction_progress: Notify,
    #[cfg(test)]
    pub planted: crate::planted::Planted,
}

/// What waits for the raft thread.
#[derive(Default)]
struct Queue {
    proposals: Vec<Proposal<Waiter>>,
    /// Raft wants something written that nobody is writing yet.
    persists: bool,
    /// The log thread took its last look.
    closed: bool,
}

/// How the member reaches its peers.
pub trait Peers: Send + Sync {
    /// Must not block: what cannot be taken is dropped, and reported as unreachable later.
    fn send(&self, messages: Vec<raftpb::Message>);

    /// A peer needs a snapshot: the message says where the log stood when that was found.
    fn send_snapshot(&self, message: raftpb::Message);

    /// Entries that are no longer in memory are needed: from the first, up to but without the second.
    fn fetch_entries(&self, low: u64, high: u64);

    /// A snapshot from the leader takes the place of store and log. The caller holds the log and not the state.
    fn install_snapshot(&self, log: &mut Wal, position: &SnapshotPosition) -> Result<(), String>;

    /// What [`Self::install_snapshot`] began is durable in the log.
    fn snapshot_installed(&self) -> Result<(), String>;

    /// Members came, went or moved.
    fn membership_changed(&self);

    /// For how long there has been a working connection with the member; `None` while there is none.
    fn up_milliseconds(&self, member_id: u64) -> Option<u64>;

    /// What went to and came from each of them.
    fn metrics(&self) -> Vec<Arc<PeerMetrics>>;
}

/// Whether the one who steps holds the log and writes what raft wants written.
enum Drives {
    Yes,
    No,
}

/// A flag that a thread sleeps on.
#[derive(Default)]
pub struct Wanted {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl Wanted {
    pub fn set(&self) {
        *self.flag.lock() = true;
        self.changed.notify_one();
    }

    /// Waits until it is set or the time is over, and clears it. Says whether it was set.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut flag = self.flag.lock();
        if !*flag {
            self.changed.wait_for(&mut flag, timeout);
        }
        std::mem::take(&mut *flag)
    }
}

/// See [`Core::guard`].
pub struct PanicGuard<'a>(&'a Core);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(format!("thread {:?} panicked", std::thread::current().name().unwrap_or_default()));
        }
    }
}

impl Core {
    pub fn new(config: CoreConfig, parts: CoreParts, workers: usize) -> Self {
        let CoreParts { member, reader, wal, ids, publisher, metrics, databases, dialer, authenticator } = parts;
        let space = Space::of(&reader.alarms(), config.member_id);
        Self {
            config,
            reader,
            ids,
            publisher,
            metrics,
            databases,
            dialer,
            authenticator,
            shrinking: Shrinking::default(),
            space,
            state: Mutex::new(member),
            log: Mutex::new(wal),
            queue: Mutex::default(),
            queue_filled: Condvar::new(),
            queue_length: AtomicUsize::new(0),
            queue_bytes: AtomicUsize::new(0),
            clock: Wanted::default(),
            peers: OnceLock::new(),
            mailboxes: (0..workers).map(|_| Arc::default()).collect(),
            started: Instant::now(),
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            leader_elected_milliseconds: AtomicU64::new(0),
            leader_lost_milliseconds: AtomicU64::new(0),
            commit_index: AtomicU64::new(0),
            sync_microseconds: AtomicU64::new(0),
            backlog_operations: AtomicUsize::new(0),
            backend_size_bytes: AtomicU64::new(0),
            backend_in_use_bytes: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            is_learner: AtomicBool::new(false),
            is_alone: AtomicBool::new(true),
            compactions_scheduled: AtomicU64::new(0),
            compactions_finished: AtomicU64::new(0),
            backend_commits: AtomicU64::new(0),
            snapshot_forced: AtomicBool::new(false),
            failure: OnceLock::new(),
            commit_gate: Mutex::new(()),
            stopped: watch::Sender::new(false),
            leaving: watch::Sender::new(false),
            takes_nothing: AtomicBool::new(false),
            leader_seen: watch::Sender::new(0),
            ready: Mutex::new(false),
            became_ready: Condvar::new(),
            leases_changed: Notify::new(),
            backend_wanted: Wanted::default(),
            backend_committed: Notify::new(),
            compaction_wanted: Wanted::default(),
            compaction_progress: Notify::new(),
            #[cfg(test)]
            planted: crate::planted::Planted::default(),
        }
    }

    /// Milliseconds since the member started: the clock of lease timers.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("an uptime fits into 64 bits")
    }

    pub fn header(&self, revision: i64) -> Header {
        Header {
            cluster_id: self.config.cluster_id,
            member_id: self.config.member_id,
            revision,
            raft_term: self.term(),
        }
    }

    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    pub fn leader(&self) -> u64 {
        self.leader.load(Ordering::Relaxed)
    }

    pub fn commit_index(&self) -> u64 {
        self.commit_index.load(Ordering::Relaxed)
    }

    pub fn backend_size_bytes(&self) -> u64 {
        self.backend_size_bytes.load(Ordering::Relaxed)
    }

    pub fn backend_in_use_bytes(&self) -> u64 {
        self.backend_in_use_bytes.load(Ordering::Relaxed)
    }

    pub fn mailbox(&self, worker: usize) -> &Arc<Mailbox> {
        &self.mailboxes[worker]
    }

    /// Short access to raft, store and timers. Never to be held across a disk call or an await.
    pub fn state(&self) -> MutexGuard<'_, Member<Waiter>> {
        self.state.lock()
    }

    pub fn log(&self) -> MutexGuard<'_, Wal> {
        self.log.lock()
    }

    /// Whether more proposals may be taken now.
    pub fn refusal(&self) -> Option<EtcdError> {
        if self.is_stopping() {
            return Some(EtcdError::Stopped);
        }
        if self.takes_nothing.load(Ordering::Acquire) {
            // Of the errors that a client may get at a stop, this one says that nothing was proposed.
            return Some(EtcdError::NoLeader);
        }
        let full = self.queue_length.load(Ordering::Relaxed) > self.config.proposals.count
            || self.queue_bytes.load(Ordering::Relaxed) > self.config.proposals.bytes
            || self.backlog_operations.load(Ordering::Relaxed) > BACKEND_BACKLOG_OPERATIONS_MAX;
        full.then_some(EtcdError::RequestTooManyRequests)
    }

    /// Whether `cost` bytes more fit below the quota, by the bytes in use. What costs nothing always fits: deletes are
    /// the way out of a full store.
    pub fn has_room(&self, cost: u64) -> bool {
        let fits = |quota| self.backend_in_use_bytes().saturating_add(cost) < quota;
        let has_room = cost == 0 || self.config.quota_bytes.is_none_or(fits);
        if !has_room {
            self.space.note_refused(cost);
        }
        has_room
    }

    /// Joins the member to its peers, once, before its threads start.
    pub fn set_peers(&self, peers: Arc<dyn Peers>) {
        self.note_membership();
        assert!(self.peers.set(peers).is_ok(), "peers are set once");
    }

    /// Whether this member has no vote yet.
    pub fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Relaxed)
    }

    fn note_membership(&self) {
        let membership = self.reader.members();
        let learner = membership.members.get(&self.config.member_id).is_some_and(|member| member.is_learner);
        self.is_learner.store(learner, Ordering::Relaxed);
    }

    pub fn peer_up_milliseconds(&self, member_id: u64) -> Option<u64> {
        self.peers.get()?.up_milliseconds(member_id)
    }

    pub fn peer_metrics(&self) -> Vec<Arc<PeerMetrics>> {
        self.peers.get().map(|peers| peers.metrics()).unwrap_or_default()
    }

    /// What a request is told that began at `began` (see [`Self::now`]) and whose time is over, as etcd tells it: whether
    /// a leader was lost meanwhile, or the connection to it, or neither. What never found a leader was never proposed:
    /// only its time is over.
    pub fn timeout_error(&self, began: u64) -> EtcdError {
        if self.leader() == 0 && self.leader_lost_milliseconds.load(Ordering::Relaxed) <= began {
            return EtcdError::DeadlineExceeded;
        }
        let elected = self.leader_elected_milliseconds.load(Ordering::Relaxed);
        let two_timeouts = 2 * u64::try_from(self.config.election_timeout.as_millis()).unwrap_or(u64::MAX / 2);
        if began > elected.saturating_sub(two_timeouts) && began < elected {
            return EtcdError::TimeoutDueToLeaderFail;
        }
        let Some(peers) = self.peers.get() else { return EtcdError::Timeout };
        let up_since = |id| peers.up_milliseconds(id).is_some_and(|up| up >= self.now().saturating_sub(began));
        let connected = match self.leader() {
            0 => true,
            leader if leader == self.config.member_id => {
                let members = self.reader.members();
                let voters = members.voters().count();
                let up = members.voters().filter(|member| member.id == leader || up_since(member.id)).count();
                up > voters / 2
            }
            leader => up_since(leader),
        };
        if connected { EtcdError::Timeout } else { EtcdError::TimeoutDueToConnectionLost }
    }

    /// Whether a linearizable read may be served right now. A single member answers itself at once.
    pub fn is_linearized(&self) -> bool {
        self.is_alone.load(Ordering::Relaxed) && self.state.lock().is_linearized()
    }

    /// Asks for a linearizable read; the waiter hears when it may be served.
    pub fn read(&self, waiter: Waiter) {
        let mut waiter = Some(waiter);
        if !self.is_stopping() {
            self.turn(|member, now, _| waiter.take().into_iter().for_each(|waiter| member.read(now, waiter)));
        }
        // A member that failed takes none.
        if let Some(waiter) = waiter {
            self.deliver(Turn { reads: vec![(waiter, Err(EtcdError::Stopped))], ..Turn::default() }, None);
        }
    }

    /// Waits until a linearizable read may be served.
    pub async fn linearize(&self) -> Result<(), EtcdError> {
        let (sender, receiver) = oneshot::channel();
        self.read(Waiter::Read(sender));
        match receiver.await {
            Ok(confirmed) => confirmed,
            Err(_) => Err(EtcdError::Stopped),
        }
    }

    /// Proposes and waits. Nobody asks for it: what needs a permission is refused when it is applied.
    pub async fn propose(&self, request: InternalRaftRequest) -> Result<kvorum_store::Applied, EtcdError> {
        self.propose_for(None, request).await
    }

    /// Proposes for a user, and waits.
    pub async fn propose_for(
        &self,
        identity: Option<&Identity>,
        request: InternalRaftRequest,
    ) -> Result<kvorum_store::Applied, EtcdError> {
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        let caller = identity.map_or(Caller::NOBODY, Identity::caller);
        let (id, data) = self.state.lock().number_for(caller, request);
        if data.len() > self.config.max_request_bytes {
            return Err(EtcdError::RequestTooLarge);
        }
        self.submit(id, data).await
    }

    /// Proposes an encoded request that is not to be refused for load, and waits.
    pub async fn submit(&self, id: u64, data: Bytes) -> Result<kvorum_store::Applied, EtcdError> {
        let (sender, receiver) = oneshot::channel();
        self.enqueue(std::iter::once(Proposal { id, data, waiter: Waiter::Channel(sender) }));
        let began = self.now();
        match tokio::time::timeout(self.config.request_timeout, receiver).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(EtcdError::Stopped),
            Err(_) => Err(self.timeout_error(began)),
        }
    }

    /// Leaves proposals to the log thread; those that come too late for it are answered with the stop.
    pub fn enqueue(&self, proposals: impl Iterator<Item = Proposal<Waiter>>) {
        let mut queue = self.queue.lock();
        if queue.closed {
            drop(queue);
            return self.refuse(proposals.map(|proposal| proposal.waiter), EtcdError::NoLeader);
        }
        let known = queue.proposals.len();
        queue.proposals.extend(proposals);
        let bytes: usize = queue.proposals[known..].iter().map(|proposal| proposal.data.len()).sum();
        self.queue_length.store(queue.proposals.len(), Ordering::Relaxed);
        self.queue_bytes.fetch_add(bytes, Ordering::Relaxed);
        drop(queue);
        self.queue_filled.notify_one();
    }

    fn refuse(&self, waiters: impl Iterator<Item = Waiter>, error: EtcdError) {
        let mut turn = Turn::default();
        turn.replies.extend(waiters.map(|waiter| (waiter, Err(error))));
        self.deliver(turn, None);
    }

    /// Commits a small batch on the calling connection thread if the disk is quick and nobody else is driving. Returns
    /// false, with the batch untouched, if the log thread should do it. Replies for `worker` go to `own`. What another
    /// member is to take into its log leaves at once, and waits for no disk here.
    pub fn drive_inline(
        &self,
        proposals: &mut Vec<Proposal<Waiter>>,
        worker: usize,
        own: &mut Vec<(SlotKey, Outcome)>,
    ) -> bool {
        if self.leader() != self.config.member_id {
            self.turn(|member, now, turn| member.propose(now, proposals.drain(..), turn));
            let refused = proposals.drain(..).map(|proposal| proposal.waiter);
            self.refuse(refused, EtcdError::NoLeader);
            return true;
        }
        if proposals.len() > INLINE_PROPOSALS_MAX
            || self.sync_microseconds.load(Ordering::Relaxed) > INLINE_SYNC_MICROSECONDS_MAX
        {
            return false;
        }
        let Some(mut log) = self.log.try_lock() else { return false };
        let turn = self.drive(&mut log, proposals);
        drop(log);
        self.deliver(turn, Some((worker, own)));
        true
    }

    /// Runs raft until nothing is left to persist or apply. The caller holds the log. Every proposal is taken or answered:
    /// a member that failed takes none.
    fn drive(&self, log: &mut Wal, proposals: &mut Vec<Proposal<Waiter>>) -> Turn<Waiter> {
        let _guard = self.guard();
        let mut turn = Turn::default();
        if let Err(failure) = self.drive_into(&mut turn, log, proposals) {
            self.fail(failure);
        }
        let refused = proposals.drain(..).map(|proposal| (proposal.waiter, Err(EtcdError::Stopped)));
        turn.replies.extend(refused);
        turn
    }

    fn drive_into(
        &self,
        turn: &mut Turn<Waiter>,
        log: &mut Wal,
        proposals: &mut Vec<Proposal<Waiter>>,
    ) -> Result<(), String> {
        let mut persisted = None;
        loop {
            let persists = self.step(turn, |member, now, turn| {
                if let Some(number) = persisted.take() {
                    member.handle_persisted(number);
                }
                if !proposals.is_empty() {
                    member.propose(now, proposals.drain(..), turn);
                }
                Drives::Yes
            })?;
            // What peers are to have leaves before the disk is touched.
            self.send(turn);
            let Some(last) = persists.last() else { return Ok(()) };
            persisted = Some(last.number);
            self.write(log, &persists)?;
        }
    }

    /// What happens between two disk calls, under the state's lock. Events are published here, so that every thread
    /// sees them in the order of revisions. One that drives gets what is to be written; else the log thread is told.
    fn step(
        &self,
        turn: &mut Turn<Waiter>,
        act: impl FnOnce(&mut Member<Waiter>, u64, &mut Turn<Waiter>) -> Drives,
    ) -> Result<Vec<Persist>, String> {
        // Also where the caller's own panic would end no more than a connection.
        let _guard = self.guard();
        let mut state = self.state.lock();
        if self.failure.get().is_some() {
            return Ok(Vec::new());
        }
        let now = self.now();
        let drives = act(&mut state, now, turn);
        state.poll(now, turn).map_err(|failure| failure.to_string())?;
        let consensus = state.consensus();
        self.term.store(consensus.term(), Ordering::Relaxed);
        self.leader.store(consensus.leader(), Ordering::Relaxed);
        self.commit_index.store(consensus.commit_index(), Ordering::Relaxed);
        self.is_alone.store(consensus.is_single_voter(), Ordering::Relaxed);
        let wanted_entries = consensus.wanted_entries();
        if !turn.tokens.is_empty() {
            self.authenticator.note(now, std::mem::take(&mut turn.tokens));
        }
        if turn.auth_changed {
            self.publisher.permissions_changed();
        }
        if !turn.events.is_empty() {
            self.publisher.publish(Arc::from(std::mem::take(&mut turn.events)));
        }
        let backlog = state.writer().pending_operations();
        self.backlog_operations.store(backlog, Ordering::Relaxed);
        let persists = match drives {
            Drives::Yes => state.take_persists(),
            Drives::No => Vec::new(),
        };
        let must_write = state.has_persists();
        drop(state);
        if must_write {
            self.queue.lock().persists = true;
            self.queue_filled.notify_one();
        }
        if let (Some((low, high)), Some(peers)) = (wanted_entries, self.peers.get()) {
            peers.fetch_entries(low, high);
        }
        if backlog >= self.config.backend_batch_limit {
            self.backend_wanted.set();
        }
        Ok(persists)
    }

    /// Lets `act` do something to the member that touches no disk, and does what follows from it.
    pub fn turn(&self, act: impl FnOnce(&mut Member<Waiter>, u64, &mut Turn<Waiter>)) {
        let mut turn = Turn::default();
        let stepped = self.step(&mut turn, |member, now, turn| {
            act(member, now, turn);
            Drives::No
        });
        if let Err(failure) = stepped {
            self.fail(failure);
        }
        self.deliver(turn, None);
    }

    /// Messages to peers, as soon as they may leave.
    fn send(&self, turn: &mut Turn<Waiter>) {
        let Some(peers) = self.peers.get() else { return };
        if !turn.messages.is_empty() {
            peers.send(std::mem::take(&mut turn.messages));
        }
        for message in turn.snapshots.drain(..) {
            peers.send_snapshot(message);
        }
    }

    fn write(&self, log: &mut Wal, persists: &[Persist]) -> Result<(), String> {
        let mut must_sync = false;
        for persist in persists {
            if let Some(position) = &persist.snapshot {
                let peers = self.peers.get().ok_or("a snapshot without peers")?;
                peers.install_snapshot(log, position)?;
            }
            must_sync |= Self::append(log, persist).map_err(|error| format!("write-ahead log: {error}"))?;
        }
        if must_sync {
            let took = log.sync().map_err(|error| format!("write-ahead log: {error}"))?;
            self.metrics.wal_fsync_seconds.observe_duration(took);
            self.note_sync(took);
        }
        if let (true, Some(peers)) = (persists.iter().any(|persist| persist.snapshot.is_some()), self.peers.get()) {
            self.note_membership();
            peers.snapshot_installed()?;
        }
        Ok(())
    }

    fn append(log: &mut Wal, persist: &Persist) -> Result<bool, DiskError> {
        let entries: Vec<WalEntry<'_>> = persist
            .entries
            .iter()
            .map(|entry| WalEntry { entry_type: entry.kind, term: entry.term, index: entry.index, data: &entry.data })
            .collect();
        let hard_state = persist.hard_state.map(to_wal_hard_state);
        Ok(log.append(&entries, hard_state.as_ref())?.must_sync)
    }

    /// A moving average of sync times, which decides whether connection threads may write.
    fn note_sync(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let before = self.sync_microseconds.load(Ordering::Relaxed);
        self.sync_microseconds.store((before * 15 + took) / 16, Ordering::Relaxed);
    }

    /// What a sync of the log takes, lately.
    pub fn sync_time(&self) -> Duration {
        Duration::from_micros(self.sync_microseconds.load(Ordering::Relaxed))
    }

    /// Hands out replies: to the caller's own thread directly, to others through their mailboxes, once per turn.
    fn deliver(&self, mut turn: Turn<Waiter>, mut own: Option<(usize, &mut Vec<(SlotKey, Outcome)>)>) {
        self.send(&mut turn);
        for reason in &turn.refused {
            tracing::warn!(reason = %reason, "refused a message of a peer");
        }
        if turn.compaction_scheduled {
            self.schedule_compaction();
        }
        let mut mail: Vec<Mail> = Vec::new();
        for (waiter, outcome) in turn.replies {
            match waiter {
                Waiter::Slot { worker, key } => match &mut own {
                    Some((own_worker, replies)) if *own_worker == worker => replies.push((key, outcome)),
                    _ => {
                        mail.resize_with(self.mailboxes.len(), Mail::default);
                        mail[worker].replies.push((key, outcome));
                    }
                },
                // A receiver that went away no longer wants the answer.
                Waiter::Channel(sender) => drop(sender.send(outcome)),
                Waiter::Read(_) | Waiter::Reads { .. } => unreachable!("a read is answered among the reads"),
                Waiter::Nobody => {}
            }
        }
        for (waiter, confirmed) in turn.reads {
            match waiter {
                // A receiver that went away no longer wants to read.
                Waiter::Read(sender) => drop(sender.send(confirmed)),
                Waiter::Reads { worker, batch } => {
                    mail.resize_with(self.mailboxes.len(), Mail::default);
                    mail[worker].reads.push((batch, confirmed));
                }
                _ => unreachable!("only reads wait among the reads"),
            }
        }
        for (worker, mail) in mail.into_iter().enumerate() {
            if !mail.is_empty() {
                self.mailboxes[worker].put(mail);
            }
        }
        if turn.snapshot_forced {
            self.snapshot_forced.store(true, Ordering::Release);
            self.want_backend_commit();
        }
        if turn.leases_changed {
            self.leases_changed.notify_waiters();
        }
        if turn.leader_changed {
            self.note_leader_change();
        }
        if turn.membership_changed {
            self.note_membership();
            if let Some(peers) = self.peers.get() {
                peers.membership_changed();
            }
        }
        for alarm in &turn.alarms_raised {
            self.space.note_raised(alarm, self.config.member_id, self.now());
        }
        for (alarms, what) in [(&turn.alarms_raised, "raised"), (&turn.alarms_lifted, "disarmed")] {
            for alarm in alarms {
                let kind = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
                tracing::warn!(member_id = %to_hex(alarm.member_id), alarm = kind, "an alarm was {what}");
            }
        }
        if turn.space_exceeded {
            let (id, data) = self.state.lock().number(self.no_space_request());
            self.enqueue(std::iter::once(Proposal { id, data, waiter: Waiter::Nobody }));
        }
    }

    /// Raises the NOSPACE alarm for this member.
    pub fn no_space_request(&self) -> InternalRaftRequest {
        self.space.note_asked(self.now());
        space::alarm_request(self, AlarmAction::Activate)
    }

    /// Runs raft to rest on the calling thread: at start, before anything else runs, and at a stop.
    pub fn settle(&self, requests: impl Iterator<Item = Bytes>) {
        let mut log = self.log.lock();
        let mut proposals: Vec<Proposal<Waiter>> =
            requests.map(|data| Proposal { id: 0, data, waiter: Waiter::Nobody }).collect();
        let turn = self.drive(&mut log, &mut proposals);
        drop(log);
        self.deliver(turn, None);
    }

    /// Says who leads now, to the log and to whoever waits for it.
    fn note_leader_change(&self) {
        let (leader, term) = (self.leader(), self.term());
        if leader == 0 {
            self.leader_lost_milliseconds.store(self.now(), Ordering::Relaxed);
            tracing::info!(term, "the cluster has no leader");
        } else {
            self.leader_elected_milliseconds.store(self.now(), Ordering::Relaxed);
            self.metrics.leader_changes_seen_total.increment();
            tracing::info!(leader = %to_hex(leader), term, "elected leader");
        }
        self.leader_seen.send_replace(leader);
    }

    /// Takes messages from a peer, in their order; never waits for the disk.
    pub fn receive(&self, messages: Vec<raftpb::Message>) {
        if self.is_stopping() {
            return;
        }
        self.turn(|member, _, turn| {
            for message in messages {
                member.handle_message(message, turn);
            }
        });
    }

    /// The raft thread: raft's clock. Nothing here waits for the disk.
    pub fn run_raft_thread(&self) {
        let mut next_tick = Instant::now() + self.config.heartbeat_interval;
        while !self.is_stopping() {
            #[cfg(test)]
            self.planted.strike(crate::planted::Place::RaftThread);
            self.clock.wait(next_tick.saturating_duration_since(Instant::now()));
            if Instant::now() < next_tick {
                continue;
            }
            next_tick = (next_tick + self.config.heartbeat_interval).max(Instant::now());
            // The clock rounds down: a renewal late in one millisecond would end a fraction early in its last one.
            self.turn(|member, now, turn| member.handle_tick(now.saturating_sub(1), turn));
        }
    }

    /// The log thread: every batch that connection threads did not commit themselves, and what raft itself wants written.
    pub fn run_log_thread(&self) {
        let mut batch = Vec::new();
        while !self.is_stopping() {
            self.wait_for_proposals();
            #[cfg(test)]
            self.planted.strike(crate::planted::Place::LogThread);
            let mut log = self.log.lock();
            {
                let mut queue = self.queue.lock();
                std::mem::swap(&mut batch, &mut queue.proposals);
                queue.persists = false;
                self.queue_length.store(0, Ordering::Relaxed);
                self.queue_bytes.store(0, Ordering::Relaxed);
            }
            let turn = self.drive(&mut log, &mut batch);
            drop(log);
            self.deliver(turn, None);
        }
        self.finish_log();
    }

    fn wait_for_proposals(&self) {
        let mut queue = self.queue.lock();
        while queue.proposals.is_empty() && !queue.persists && !self.is_stopping() {
            self.queue_filled.wait(&mut queue);
        }
    }

    /// The last act of the log thread: what was taken is finished, the rest is told that the server stops.
    fn finish_log(&self) {
        self.settle(std::iter::empty());
        let mut log = self.log.lock();
        let hard_state = self.state.lock().take_unwritten_hard_state();
        if let (Some(hard_state), None) = (hard_state, self.failure.get()) {
            let written = log.append(&[], Some(&to_wal_hard_state(hard_state))).and_then(|_| log.sync());
            if let Err(error) = written {
                self.fail(format!("write-ahead log: {error}"));
            }
        }
        drop(log);
        let waiting = std::mem::replace(&mut *self.queue.lock(), Queue { closed: true, ..Queue::default() });
        let (pending, held) = {
            let mut member = self.state.lock();
            (member.take_pending(), member.take_held())
        };
        self.refuse(pending.into_iter(), EtcdError::Stopped);
        // These were never proposed. Of the errors that a client may get then, this one says so.
        let waiting = waiting.proposals.into_iter().map(|proposal| proposal.waiter);
        self.refuse(waiting.chain(held), EtcdError::NoLeader);
        let reads = self.state.lock().take_reads();
        let reads = reads.into_iter().map(|waiter| (waiter, Err(EtcdError::Stopped))).collect();
        self.deliver(Turn { reads, ..Turn::default() }, None);
    }

    /// Sleeps until a backend commit is due, or wanted earlier.
    pub fn wait_for_backend_work(&self, interval: Duration) {
        self.backend_wanted.wait(interval);
    }

    /// Whether the next commit must come with a snapshot, and forgets it.
    pub fn take_snapshot_forced(&self) -> bool {
        self.snapshot_forced.swap(false, Ordering::AcqRel)
    }

    pub fn want_backend_commit(&self) {
        self.backend_wanted.set();
    }

    pub fn note_backend_size(&self, size_bytes: u64, in_use_bytes: u64) {
        self.backend_size_bytes.store(size_bytes, Ordering::Relaxed);
        self.backend_in_use_bytes.store(in_use_bytes, Ordering::Relaxed);
    }

    /// Waits until the compactions scheduled so far are done and what they removed is durable.
    pub async fn wait_for_compaction(&self) {
        let scheduled = self.compactions_scheduled();
        while !self.is_stopping() && self.compactions_finished() < scheduled {
            // A missed notification costs one interval, no more.
            let progress = self.compaction_progress.notified();
            drop(tokio::time::timeout(COMPACTION_CHECK, progress).await);
        }
    }

    pub fn compactions_scheduled(&self) -> u64 {
        self.compactions_scheduled.load(Ordering::Acquire)
    }

    pub fn compactions_finished(&self) -> u64 {
        self.compactions_finished.load(Ordering::Acquire)
    }

    /// The first `count` compactions are done.
    pub fn finish_compactions(&self, count: u64) {
        self.compactions_finished.store(count, Ordering::Release);
        self.compaction_progress.notify_waiters();
    }

    /// A compaction is due: one was applied, or one was under way at the last stop.
    pub fn schedule_compaction(&self) {
        self.compactions_scheduled.fetch_add(1, Ordering::AcqRel);
        self.compaction_wanted.set();
    }

    pub fn note_backend_commit(&self) {
        self.backend_commits.fetch_add(1, Ordering::AcqRel);
        self.backend_committed.notify_waiters();
    }

    /// As [`Self::wait_for_backend_commit`], on a thread that may sleep; false at a stop.
    pub fn wait_for_backend_commit_blocking(&self) -> bool {
        let wanted = self.backend_commits() + 2;
        while self.backend_commits() < wanted {
            if self.is_stopping() {
                return false;
            }
            self.want_backend_commit();
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Waits until the backend has everything that was applied before.
    pub async fn wait_for_backend_commit(&self) {
        // The next one to end may have begun before.
        let wanted = self.backend_commits() + 2;
        while !self.is_stopping() && self.backend_commits() < wanted {
            let mut committed = std::pin::pin!(self.backend_committed.notified());
            committed.as_mut().enable();
            self.want_backend_commit();
            // One that ended before the notification was enabled costs one interval, no more.
            drop(tokio::time::timeout(COMPACTION_CHECK, committed).await);
        }
    }

    pub fn backend_commits(&self) -> u64 {
        self.backend_commits.load(Ordering::Acquire)
    }

    pub fn renew_lease(&self, id: i64) -> Renewal {
        let now = self.now();
        self.state.lock().renew_lease(now, id)
    }

    /// Stops the member because it cannot go on; the first reason counts.
    pub fn fail(&self, reason: String) {
        tracing::error!(error = %reason, "the member stops");
        if self.failure.set(reason).is_ok() {
            self.stop();
        }
    }

    /// Stops the member if the thread or task that keeps the guard panics: without it the others would wait for ever, or go
    /// on from what it left half done. Whoever is within raft, store or log keeps one. Tasks of single connections have none
    /// beside: their panic ends the connection.
    pub fn guard(&self) -> PanicGuard<'_> {
        PanicGuard(self)
    }

    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Clients are served from now on.
    pub fn set_ready(&self) {
        *self.ready.lock() = true;
        self.became_ready.notify_all();
    }

    /// Waits until clients are served; false if the member stops before.
    pub fn wait_until_ready(&self) -> bool {
        let mut ready = self.ready.lock();
        while !*ready && !self.is_stopping() {
            self.became_ready.wait(&mut ready);
        }
        *ready
    }

    /// The leader's id as it changes, 0 while there is none.
    pub fn watch_leader(&self) -> watch::Receiver<u64> {
        self.leader_seen.subscribe()
    }

    /// Becomes true when connections should take no further requests, some time before a stop that is asked for.
    pub fn watch_leaving(&self) -> watch::Receiver<bool> {
        self.leaving.subscribe()
    }

    /// Lets clients go elsewhere; what they have asked for is still answered.
    pub fn leave(&self) {
        self.leaving.send_replace(true);
    }

    /// Refuses proposals from now on.
    pub fn take_nothing(&self) {
        self.takes_nothing.store(true, Ordering::Release);
    }

    /// Proposals that have no answer yet.
    pub fn unanswered(&self) -> usize {
        let queued = self.queue.lock().proposals.len();
        queued + self.state.lock().pending_proposals()
    }

    /// Becomes true at a stop.
    pub fn watch_stop(&self) -> watch::Receiver<bool> {
        self.stopped.subscribe()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        drop(self.queue.lock());
        self.queue_filled.notify_all();
        self.clock.set();
        self.backend_wanted.set();
        self.compaction_wanted.set();
        self.leaving.send_replace(true);
        self.stopped.send_replace(true);
        drop(self.ready.lock());
        self.became_ready.notify_all();
    }
}

fn to_wal_hard_state(state: kvorum_node::HardState) -> WalHardState {
    WalHardState { term: state.term, vote: state.vote, commit: state.commit }
}
