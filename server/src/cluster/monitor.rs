//! The leader's look at the versions of all members: it decides the cluster version, and ends a downgrade that is done.
//!
//! It holds no timer: its owner calls it every [`CLUSTER_VERSION_INTERVAL`] (and at the first commit of a term) and every
//! `--downgrade-check-time`.

use std::future::Future;
use std::time::Duration;

use kvorum_api::etcdserverpb::InternalRaftRequest;
use kvorum_api::membershippb::{ClusterVersionSetRequest, DowngradeInfoSetRequest};
use kvorum_store::{Downgrade, Member, Version};

use super::Peers;
use super::versions::{self, Answer, Versions};

/// Time between two looks at the cluster version.
pub const CLUSTER_VERSION_INTERVAL: Duration = Duration::from_secs(4);

/// The member that looks.
pub trait Observer {
    fn member_id(&self) -> u64;
    fn is_leader(&self) -> bool;
    /// All members, this one included.
    fn members(&self) -> Vec<Member>;
    fn cluster_version(&self) -> Option<Version>;
    fn downgrade(&self) -> Downgrade;
    /// Puts a request through the log; an error says for the log why it is not known to have happened.
    fn propose(&self, request: InternalRaftRequest) -> impl Future<Output = Result<(), String>>;
}

pub struct Monitor<O, P> {
    observer: O,
    peers: P,
    /// How long one peer may take.
    timeout: Duration,
}

impl<O: Observer, P: Peers> Monitor<O, P> {
    pub fn new(observer: O, peers: P, timeout: Duration) -> Self {
        Self { observer, peers, timeout }
    }

    /// Proposes another cluster version if the members' versions ask for one. Does nothing on a follower.
    pub async fn update_cluster_version(&self) {
        if !self.observer.is_leader() {
            return;
        }
        let answers = self.ask_all().await;
        let before = self.observer.cluster_version();
        let lowest = versions::lowest_server_version(&answers);
        let version = match versions::decide(before.as_ref(), &self.observer.downgrade(), lowest.as_ref()) {
            Ok(Some(version)) => version,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(error = %error, "Failed to monitor cluster version");
                return;
            }
        };
        let shown = version.major_minor_text();
        match &before {
            None => tracing::info!(cluster_version = %shown, "setting up initial cluster version using v3 API"),
            Some(before) => {
                tracing::info!(from = %before.major_minor_text(), to = %shown, "updating cluster version using v3 API");
            }
        }
        let set = ClusterVersionSetRequest { ver: version.to_string() };
        let request = InternalRaftRequest { cluster_version_set: Some(set), ..InternalRaftRequest::default() };
        match self.observer.propose(request).await {
            Ok(()) => tracing::info!(cluster_version = %shown, "cluster version is updated"),
            Err(error) => tracing::warn!(error = %error, "failed to update cluster version"),
        }
    }

    /// Ends a downgrade once every member runs its target. Does nothing on a follower.
    pub async fn finish_downgrade(&self) {
        if !self.observer.is_leader() {
            return;
        }
        let downgrade = self.observer.downgrade();
        let Some(target) = downgrade.enabled.then(|| downgrade.target_version.parse::<Version>().ok()).flatten() else {
            return;
        };
        if !versions::all_run(&target, &self.ask_all().await) {
            return;
        }
        tracing::info!(cluster_version = %target, "the cluster has been downgraded");
        if let Err(error) = self.observer.propose(end_downgrade()).await {
            tracing::warn!(error = %error, "failed to cancel downgrade");
        }
    }

    async fn ask_all(&self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for member in self.observer.members() {
            let versions = if member.id == self.observer.member_id() {
                Some(Versions::own(self.observer.cluster_version().as_ref()))
            } else {
                versions::ask(&member, self.timeout, &self.peers).await
            };
            answers.push(Answer { member_id: member.id, versions });
        }
        answers
    }
}

/// The request that begins a downgrade; check it first with [`versions::check_downgrade`].
pub fn begin_downgrade(target: &Version) -> InternalRaftRequest {
    let set = DowngradeInfoSetRequest { enabled: true, ver: target.to_string() };
    InternalRaftRequest { downgrade_info_set: Some(set), ..InternalRaftRequest::default() }
}

/// The request that ends one.
pub fn end_downgrade() -> InternalRaftRequest {
    let set = DowngradeInfoSetRequest { enabled: false, ver: String::new() };
    InternalRaftRequest { downgrade_info_set: Some(set), ..InternalRaftRequest::default() }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::cluster::scripted::{Answers, local, run};

    struct Scripted {
        leader: bool,
        cluster_version: Option<&'static str>,
        downgrade: Downgrade,
        proposed: RefCell<Vec<InternalRaftRequest>>,
    }

    impl Observer for &Scripted {
        fn member_id(&self) -> u64 {
            1
        }

        fn is_leader(&self) -> bool {
            self.leader
        }

        fn members(&self) -> Vec<Member> {
            (1..=3).map(|id| Member { id, peer_urls: vec![local(0), local(id as u16)], ..Member::default() }).collect()
        }

        fn cluster_version(&self) -> Option<Version> {
            self.cluster_version.map(|text| text.parse().expect("a version"))
        }

        fn downgrade(&self) -> Downgrade {
            self.downgrade.clone()
        }

        async fn propose(&self, request: InternalRaftRequest) -> Result<(), String> {
            self.proposed.borrow_mut().push(request);
            Ok(())
        }
    }

    fn proposed(
        leader: bool,
        cluster: Option<&'static str>,
        target: &str,
        servers: [&str; 2],
    ) -> Vec<InternalRaftRequest> {
        let downgrade = Downgrade { enabled: !target.is_empty(), target_version: target.to_owned() };
        let observer = Scripted { leader, cluster_version: cluster, downgrade, proposed: RefCell::default() };
        let mut answers = Answers::default();
        for (port, server) in (2..).zip(servers).filter(|(_, server)| !server.is_empty()) {
            answers.versions.insert(local(port), Versions { server: server.to_owned(), ..Versions::default() });
        }
        let monitor = Monitor::new(&observer, answers, Duration::from_secs(1));
        run(async {
            monitor.update_cluster_version().await;
            monitor.finish_downgrade().await;
        });
        observer.proposed.take()
    }

    #[test]
    fn what_a_leader_proposes() {
        let version = |text: &str| {
            let set = ClusterVersionSetRequest { ver: text.to_owned() };
            InternalRaftRequest { cluster_version_set: Some(set), ..InternalRaftRequest::default() }
        };
        assert_eq!(proposed(true, None, "", ["3.7.1", "3.6.9"]), [version("3.6.0")]);
        assert_eq!(proposed(true, None, "", ["3.7.1", ""]), [version("3.0.0")]);
        assert_eq!(proposed(true, Some("3.0.0"), "", ["3.7.1", "3.7.0"]), [version("3.7.0")]);
        assert_eq!(proposed(true, Some("3.7.0"), "3.6.0", ["3.7.1", "3.7.1"]), [version("3.6.0")]);
        assert_eq!(proposed(false, None, "3.7.0", ["3.7.1", "3.7.1"]), []);
        // Everybody runs the target: the downgrade is over. (Only a member of that release can lead then.)
        assert_eq!(proposed(true, Some("3.7.0"), "3.7.0", ["3.7.9", "3.7.1"]), [end_downgrade()]);
        assert_eq!(proposed(true, Some("3.7.0"), "3.7.0", ["3.7.9", "3.6.1"]), []);
        assert_eq!(proposed(true, Some("3.7.0"), "3.7.0", ["3.7.9", ""]), []);
    }
}
