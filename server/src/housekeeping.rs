//! What a member does by itself over the network: tells the cluster who it is, and as the leader keeps the cluster
//! version, ends a downgrade that is done and compares what members hold; and takes back its alarm once there is space. One thread with its own runtime; it ends at a stop.

use std::sync::Arc;
use std::time::Duration;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::InternalRaftRequest;
use kvorum_store::{Downgrade, Member, Version};

use crate::cluster::forming::ticks_to_skip;
use crate::cluster::monitor::{CLUSTER_VERSION_INTERVAL, Monitor, Observer};
use crate::core::Core;
use crate::corruption::{Checks, CoreView};
use crate::links::Links;
use crate::peer::questions::HttpPeers;
use crate::space;
use crate::start::Serving;

/// How often a member that was just started looks whether others have connected, and for how long; as in etcd.
const CONNECTED_CHECK: Duration = Duration::from_millis(50);
const CONNECTED_WAIT_MAX: Duration = Duration::from_secs(5);

pub struct Housekeeping {
    pub core: Arc<Core>,
    /// Who this member is, for the others.
    pub attributes: InternalRaftRequest,
    /// Whether ticks may be skipped at the start, and how many an election timeout has.
    pub initial_ticks: (bool, u64),
    pub links: Arc<Links>,
}

impl Housekeeping {
    /// `serving` is begun once the cluster knows this member; `None` if it does already.
    pub fn run(self, serving: Option<Serving>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return self.core.fail(format!("housekeeping: {error}")),
        };
        let mut stop = self.core.watch_stop();
        runtime.block_on(async {
            tokio::select! {
                _ = stop.wait_for(|stopping| *stopping) => {}
                () = self.work(serving) => {}
            }
        });
        runtime.shutdown_background();
    }

    async fn work(&self, serving: Option<Serving>) {
        let publish = async {
            if let Some(serving) = serving {
                self.publish().await;
                serving.begin();
            }
        };
        let versions = async { tokio::join!(self.watch_versions(), self.watch_downgrades()) };
        let hashes = async { tokio::join!(self.compare_all_data(), self.compare_compactions()) };
        tokio::join!(self.advance_ticks(), publish, versions, hashes, space::keep(&self.core));
    }

    /// A member that sees the others need not wait for a whole election timeout.
    async fn advance_ticks(&self) {
        let (allowed, election_ticks) = self.initial_ticks;
        let members = self.core.reader.members().members.len();
        let until = tokio::time::Instant::now() + CONNECTED_WAIT_MAX;
        while tokio::time::Instant::now() < until && self.core.leader() == 0 {
            let active = self.links.transport().map_or(0, |transport| transport.active_peers());
            if let Some(ticks) = ticks_to_skip(members, active, election_ticks, allowed) {
                return self.core.turn(|member, _, _| {
                    if member.consensus().leader() == 0 {
                        member.skip_ticks(ticks);
                    }
                });
            }
            tokio::time::sleep(CONNECTED_CHECK).await;
        }
    }

    /// Tries until the log says who this member is, and it has applied that. A restarted member whose attributes stand there
    /// already waits only until it has caught up.
    async fn publish(&self) {
        loop {
            let published = if self.is_published() {
                self.core.linearize().await
            } else {
                // The answer may be lost with a database that takes the log's place: what it holds counts as well.
                tokio::select! {
                    proposed = self.core.propose(self.attributes.clone()) => proposed.map(drop),
                    () = self.become_published() => Ok(()),
                }
            };
            match published {
                Ok(()) => {
                    return tracing::info!(
                        local_member_id = %crate::ids::to_hex(self.core.config.member_id),
                        "published local member to cluster through raft"
                    );
                }
                Err(EtcdError::Stopped) => return,
                Err(error) => {
                    tracing::warn!(error = %error, "failed to publish local member to cluster through raft");
                    tokio::time::sleep(CONNECTED_CHECK).await;
                }
            }
        }
    }

    fn is_published(&self) -> bool {
        let Some(set) = &self.attributes.cluster_member_attr_set else { return true };
        let members = self.core.reader.members();
        let (Some(member), Some(told)) = (members.members.get(&set.member_id), &set.member_attributes) else {
            return false;
        };
        member.name == told.name && member.client_urls == told.client_urls
    }

    async fn become_published(&self) {
        while !self.is_published() {
            tokio::time::sleep(CONNECTED_CHECK).await;
        }
    }

    fn monitor(&self) -> Monitor<CoreObserver, HttpPeers> {
        let observer = CoreObserver(Arc::clone(&self.core));
        Monitor::new(observer, HttpPeers(self.core.dialer.clone()), self.core.config.request_timeout)
    }

    async fn watch_versions(&self) {
        let monitor = self.monitor();
        let mut leader = self.core.watch_leader();
        let mut version_check = tokio::time::interval(CLUSTER_VERSION_INTERVAL);
        loop {
            tokio::select! {
                _ = version_check.tick() => monitor.update_cluster_version().await,
                _ = leader.changed() => monitor.update_cluster_version().await,
            }
        }
    }

    async fn watch_downgrades(&self) {
        let Some(interval) = self.core.config.downgrade_check_interval else { return };
        let monitor = self.monitor();
        let mut downgrade_check = tokio::time::interval(interval);
        loop {
            downgrade_check.tick().await;
            monitor.finish_downgrade().await;
        }
    }

    /// Hashes of all data take their time in large stores: members may take as long as there is until the next look.
    async fn compare_all_data(&self) {
        let Some(interval) = self.core.config.corrupt_check_interval else { return };
        let deadline = self.core.config.request_timeout.max(interval / 2);
        Checks::new(CoreView::new(&self.core, deadline)).compare_all_data(interval).await;
    }

    async fn compare_compactions(&self) {
        let Some(interval) = self.core.config.compact_hash_check_interval else { return };
        let view = CoreView::new(&self.core, self.core.config.request_timeout);
        Checks::new(view).compare_compactions(interval).await;
    }
}

struct CoreObserver(Arc<Core>);

impl Observer for CoreObserver {
    fn member_id(&self) -> u64 {
        self.0.config.member_id
    }

    fn is_leader(&self) -> bool {
        self.0.leader() == self.0.config.member_id
    }

    fn members(&self) -> Vec<Member> {
        self.0.reader.members().members.values().cloned().collect()
    }

    fn cluster_version(&self) -> Option<Version> {
        self.0.reader.cluster_version().and_then(|version| version.parse().ok())
    }

    fn downgrade(&self) -> Downgrade {
        self.0.reader.members().downgrade.clone()
    }

    async fn propose(&self, request: InternalRaftRequest) -> Result<(), String> {
        self.0.propose(request).await.map(drop).map_err(|error| error.text().to_owned())
    }
}
