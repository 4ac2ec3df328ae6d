//! Joins the member to its peers: what raft wants sent goes to the transport, what the transport hears goes to raft, and
//! what other members ask is answered from here. It decides nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kvorum_api::etcdserverpb::{HashKvResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use kvorum_api::{EtcdError, raftpb};
use kvorum_disk::{FileSystem, Wal, wal};
use kvorum_node::limits::LOG_FETCH_BYTES_MAX;
use kvorum_node::{LogEntry, SnapshotPosition};
use kvorum_store::{Member, ReadError};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use crate::auth::matrix;
use crate::auth::{Credentials, Identity};
use crate::cluster::versions::Versions;
use crate::core::{Core, Peers};
use crate::metrics::{GrpcMethod, PeerMetrics};
use crate::peer::contract::{HASH_COMPACTED, HASH_FUTURE};
use crate::peer::{Answer, LeaseRefusal, PeerAnswers, PeerEvents, PeerTransport};
use crate::services::header;
use crate::snapshots::Snapshots;
use crate::{ETCD_VERSION, STORAGE_VERSION};
use crate::{changes, leases};

/// How long a removed member goes on, so that the others hear of the removal's commit; as in etcd.
const REMOVED_GRACE: Duration = Duration::from_secs(1);

/// What there is between a member and its peers.
pub struct Links {
    me: Weak<Links>,
    core: Weak<Core>,
    /// `None` before the start and after the stop: the transport holds the links.
    transport: RwLock<Option<PeerTransport>>,
    file_system: Arc<dyn FileSystem>,
    wal_directory: PathBuf,
    /// Peers the transport knows, with their URLs.
    known: Mutex<BTreeMap<u64, Vec<String>>>,
    fetching: AtomicBool,
    removed: AtomicBool,
    snapshots: Snapshots,
}

impl Links {
    pub fn new(
        core: &Arc<Core>,
        file_system: Arc<dyn FileSystem>,
        wal_directory: PathBuf,
        snapshots: Snapshots,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            core: Arc::downgrade(core),
            transport: RwLock::new(None),
            file_system,
            wal_directory,
            known: Mutex::default(),
            fetching: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            snapshots,
        })
    }

    /// The transport starts after the links, since it hears at once. `introduced` are members that a joining one knows of
    /// before its log tells it.
    pub fn set_transport(&self, transport: PeerTransport, introduced: &[Member]) {
        let own = self.core.upgrade().map_or(0, |core| core.config.member_id);
        for member in introduced.iter().filter(|member| member.id != own) {
            if let Err(reason) = transport.add_peer(member.id, &member.peer_urls) {
                tracing::warn!(reason = %reason, "an introduced member's peer URLs are of no use");
            }
            self.known.lock().insert(member.id, member.peer_urls.clone());
        }
        *self.transport.write() = Some(transport);
        self.reconcile();
    }

    pub fn transport(&self) -> Option<PeerTransport> {
        self.transport.read().clone()
    }

    /// Ends all traffic with other members, for good.
    pub fn close(&self) {
        let transport = self.transport.write().take();
        if let Some(transport) = transport {
            transport.stop();
        }
    }

    /// Makes the transport's peers those of the membership.
    fn reconcile(&self) {
        let (Some(core), Some(transport)) = (self.core.upgrade(), self.transport()) else { return };
        let own = core.config.member_id;
        let membership = core.reader.members();
        let mut known = self.known.lock();
        // Members that were introduced and that the log has not come to yet stay.
        let gone: Vec<u64> = known.keys().filter(|id| membership.removed.contains(id)).copied().collect();
        for id in gone {
            known.remove(&id);
            transport.remove_peer(id);
        }
        for (id, member) in membership.members.iter().filter(|(id, _)| **id != own) {
            let done = match known.get(id) {
                Some(urls) if *urls == member.peer_urls => continue,
                Some(_) => transport.update_peer(*id, &member.peer_urls),
                None => transport.add_peer(*id, &member.peer_urls),
            };
            if let Err(reason) = done {
                tracing::warn!(member_id = %crate::ids::to_hex(*id), reason = %reason, "a member's peer URLs are of no use");
            }
            known.insert(*id, member.peer_urls.clone());
        }
        drop(known);
        if membership.removed.contains(&own) {
            self.stop_removed(&core);
        }
    }

    /// This member was removed for good: it says so and stops, a little later, so that the others have its last words.
    fn stop_removed(&self, core: &Arc<Core>) {
        if self.removed.swap(true, Ordering::AcqRel) {
            return;
        }
        let core = Arc::clone(core);
        let body = move || {
            std::thread::sleep(REMOVED_GRACE);
            tracing::warn!(error = "the member has been permanently removed from the cluster", "server error");
            tracing::warn!("data-dir used by this member must be removed");
            core.stop();
        };
        if std::thread::Builder::new().name("removed".to_owned()).spawn(body).is_err() {
            tracing::warn!("data-dir used by this member must be removed");
        }
    }

    /// Reads entries for a slow peer, once at a time: raft asks again for what is still missing.
    fn fetch(&self, core: &Core, low: u64, high: u64) {
        let read = wal::read_entries(&*self.file_system, &self.wal_directory, low, high, LOG_FETCH_BYTES_MAX);
        let read = read.map_err(|error| error.to_string());
        let entries = read.and_then(|entries| entries.into_iter().map(LogEntry::from_message).collect());
        let entries: Vec<LogEntry> = entries.unwrap_or_else(|error| {
            tracing::warn!(error, low, high, "cannot read older entries of the write-ahead log");
            Vec::new()
        });
        // Raft may ask for the next ones as soon as these are handed in.
        self.fetching.store(false, Ordering::Release);
        core.turn(|member, _, _| member.consensus_mut().provide_entries(low, &entries));
    }
}

impl Peers for Links {
    fn send(&self, messages: Vec<raftpb::Message>) {
        if let Some(transport) = self.transport() {
            transport.send(messages);
        }
    }

    fn send_snapshot(&self, mut message: raftpb::Message) {
        let (Some(core), Some(links)) = (self.core.upgrade(), self.me.upgrade()) else { return };
        let to = message.to.unwrap_or(0);
        let report = Arc::clone(&core);
        let body = move || match (links.snapshots.export(&core, &mut message), links.transport()) {
            (Ok(source), Some(transport)) => transport.send_snapshot(message, source),
            (exported, _) => {
                if let Err(reason) = exported {
                    tracing::warn!(reason = %reason, to = %crate::ids::to_hex(to), "failed to send database snapshot");
                }
                core.turn(|member, _, _| member.consensus_mut().report_snapshot(to, false));
            }
        };
        if std::thread::Builder::new().name("snapshot-sender".to_owned()).spawn(body).is_err() {
            report.turn(|member, _, _| member.consensus_mut().report_snapshot(to, false));
        }
    }

    fn fetch_entries(&self, low: u64, high: u64) {
        let (Some(core), Some(links)) = (self.core.upgrade(), self.me.upgrade()) else { return };
        if self.fetching.swap(true, Ordering::AcqRel) {
            return;
        }
        let body = move || links.fetch(&core, low, high);
        if std::thread::Builder::new().name("log-reader".to_owned()).spawn(body).is_err() {
            self.fetching.store(false, Ordering::Release);
        }
    }

    fn install_snapshot(&self, log: &mut Wal, position: &SnapshotPosition) -> Result<(), String> {
        let core = self.core.upgrade().ok_or("the member stops")?;
        self.snapshots.install(&core, log, position)
    }

    fn snapshot_installed(&self) -> Result<(), String> {
        self.snapshots.forget_mark()?;
        self.reconcile();
        Ok(())
    }

    fn membership_changed(&self) {
        self.reconcile();
    }

    fn up_milliseconds(&self, member_id: u64) -> Option<u64> {
        let since = self.transport()?.active_since(member_id)?;
        Some(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn metrics(&self) -> Vec<Arc<PeerMetrics>> {
        self.transport().map(|transport| transport.metrics()).unwrap_or_default()
    }
}

impl PeerEvents for Links {
    fn receive(&self, messages: Vec<raftpb::Message>) {
        if let Some(core) = self.core.upgrade() {
            core.receive(messages);
        }
    }

    fn receive_snapshot(&self, message: raftpb::Message, database: PathBuf) -> Answer<Result<(), String>> {
        let (sender, receiver) = oneshot::channel();
        if let (Some(core), Some(links)) = (self.core.upgrade(), self.me.upgrade()) {
            let body = move || {
                let imported = links.snapshots.import(&core, message, &database);
                if let Err(error) = links.file_system.remove_file(&database) {
                    tracing::warn!(path = %database.display(), error = %error, "failed to remove a received database");
                }
                // A sender that gave up asks again if it still has to.
                sender.send(imported).ok();
            };
            // Without the thread the sender is dropped, which says so.
            drop(std::thread::Builder::new().name("snapshot-receiver".to_owned()).spawn(body));
        }
        Box::pin(async { receiver.await.unwrap_or_else(|_| Err("the member stops".to_owned())) })
    }

    fn is_removed(&self, member_id: u64) -> bool {
        self.core.upgrade().is_some_and(|core| core.reader.members().removed.contains(&member_id))
    }

    fn unreachable(&self, member_id: u64) {
        if let Some(core) = self.core.upgrade() {
            core.turn(|member, _, _| member.consensus_mut().report_unreachable(member_id));
        }
    }

    fn gone(&self, member_id: u64) {
        if let Some(core) = self.core.upgrade()
            && core.leader() == member_id
        {
            core.turn(|member, _, _| member.consensus_mut().report_gone(member_id));
        }
    }

    fn snapshot_sent(&self, member_id: u64, ok: bool) {
        if let Some(core) = self.core.upgrade() {
            core.turn(|member, _, _| member.consensus_mut().report_snapshot(member_id, ok));
        }
    }

    fn removed_by_peer(&self) {
        if let Some(core) = self.core.upgrade() {
            self.stop_removed(&core);
        }
    }
}

impl PeerAnswers for Links {
    fn members(&self) -> Vec<Member> {
        self.core.upgrade().map(|core| core.reader.members().members.values().cloned().collect()).unwrap_or_default()
    }

    fn versions(&self) -> Versions {
        let cluster = self.core.upgrade().and_then(|core| core.reader.cluster_version());
        Versions {
            server: ETCD_VERSION.to_owned(),
            cluster: cluster.unwrap_or_else(|| "not_decided".to_owned()),
            storage: STORAGE_VERSION.to_owned(),
        }
    }

    fn renew_lease(&self, lease_id: i64) -> Answer<Result<i64, LeaseRefusal>> {
        let core = self.core.upgrade();
        Box::pin(async move {
            let core = core.ok_or(LeaseRefusal::Timeout)?;
            leases::renew_as_leader(&core, lease_id).await.map_err(lease_refusal)?.ok_or(LeaseRefusal::NotFound)
        })
    }

    fn lease_times(&self, request: LeaseTimeToLiveRequest) -> Answer<Result<LeaseTimeToLiveResponse, LeaseRefusal>> {
        let core = self.core.upgrade();
        Box::pin(async move {
            let core = core.ok_or(LeaseRefusal::Timeout)?;
            leases::times_as_leader(&core, &request).await.map_err(lease_refusal)?.ok_or(LeaseRefusal::NotFound)
        })
    }

    /// As for a client: another member passes its client's token on, and is not trusted beyond that, as in etcd.
    fn promote(&self, member_id: u64, token: Option<String>) -> Answer<Result<Vec<Member>, EtcdError>> {
        let core = self.core.upgrade();
        Box::pin(async move {
            let core = core.ok_or(EtcdError::Stopped)?;
            if core.reader.auth_generation() != 0 {
                let credentials = Credentials::of_token(token.as_deref());
                let identity = core.authenticator.identify(&core, &credentials).await?;
                let caller = identity.as_ref().map(Identity::caller);
                matrix::check_door(&core.reader.auth(), GrpcMethod::MemberPromote, caller, &[])?;
            }
            changes::promote_here(&core, member_id).await
        })
    }

    fn hash_kv(&self, revision: i64) -> Answer<Result<HashKvResponse, String>> {
        let core = self.core.upgrade();
        Box::pin(async move {
            let core = core.ok_or_else(|| EtcdError::Stopped.text().to_owned())?;
            let reader = core.reader.clone();
            let hashed = tokio::task::spawn_blocking(move || reader.hash_kv(revision)).await;
            let hashed = hashed.map_err(|error| error.to_string())?.map_err(|error| hash_refusal(&error))?;
            Ok(HashKvResponse {
                header: header(&core, hashed.revision),
                hash: hashed.hash,
                compact_revision: hashed.compact_revision,
                hash_revision: hashed.hash_revision,
            })
        })
    }

    fn downgrade_enabled(&self) -> Answer<Result<bool, String>> {
        let core = self.core.upgrade();
        Box::pin(async move {
            let core = core.ok_or_else(|| EtcdError::Stopped.text().to_owned())?;
            core.linearize().await.map_err(|error| error.text().to_owned())?;
            Ok(core.reader.members().downgrade.enabled)
        })
    }
}

fn lease_refusal(error: EtcdError) -> LeaseRefusal {
    match error {
        EtcdError::NoLeader | EtcdError::LeaderChanged => LeaseRefusal::NotPrimary,
        EtcdError::Timeout => LeaseRefusal::Timeout,
        other => LeaseRefusal::Other(other.text().to_owned()),
    }
}

fn hash_refusal(error: &ReadError) -> String {
    match error.etcd() {
        Some(EtcdError::Compacted) => HASH_COMPACTED.to_owned(),
        Some(EtcdError::FutureRev) => HASH_FUTURE.to_owned(),
        _ => error.to_string(),
    }
}
