//! The member as the comparisons see it: its store, its peers over the network, its log.

use std::sync::Arc;
use std::time::Duration;

use kvorum_api::etcdserverpb::alarm_request::AlarmAction;
use kvorum_api::etcdserverpb::{AlarmRequest, AlarmType, InternalRaftRequest};
use kvorum_store::{FinishedHash, HashKv, Member};

use super::{PeerHash, View};
use crate::core::Core;
use crate::peer::questions::{self, HashUnanswered, Unanswered};
use crate::urls::Url;

pub struct CoreView {
    core: Arc<Core>,
    /// How long one URL of a member may take for its hash.
    deadline: Duration,
}

impl CoreView {
    pub fn new(core: &Arc<Core>, deadline: Duration) -> Self {
        Self { core: Arc::clone(core), deadline }
    }
}

impl View for CoreView {
    fn member_id(&self) -> u64 {
        self.core.config.member_id
    }

    fn is_leader(&self) -> bool {
        self.core.leader() == self.core.config.member_id
    }

    fn peers(&self) -> Vec<Member> {
        let own_id = self.member_id();
        self.core.reader.members().members.values().filter(|member| member.id != own_id).cloned().collect()
    }

    fn finished_hashes(&self) -> Vec<FinishedHash> {
        self.core.reader.finished_hashes()
    }

    async fn own_hash(&self, revision: i64) -> Result<HashKv, String> {
        let reader = self.core.reader.clone();
        let hashed = tokio::task::spawn_blocking(move || reader.hash_kv(revision)).await;
        hashed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Asks its URLs one after another, until one answers.
    async fn peer_hash(&self, peer: &Member, revision: i64) -> Result<PeerHash, HashUnanswered> {
        let mut last = HashUnanswered::Unanswered(Unanswered::Unreachable("no URLs".to_owned()));
        for url in &peer.peer_urls {
            let Ok(url) = Url::parse(url) else { continue };
            let cluster_id = self.core.config.cluster_id;
            match questions::hash_kv(&self.core.dialer, &url, cluster_id, revision, self.deadline).await {
                Ok(answer) => {
                    let revision = answer.header.map_or(0, |header| header.revision);
                    return Ok(PeerHash { hash: answer.hash, compact_revision: answer.compact_revision, revision });
                }
                Err(unanswered) => last = unanswered,
            }
        }
        Err(last)
    }

    async fn linearize(&self) -> Result<(), String> {
        self.core.linearize().await.map_err(|error| error.text().to_owned())
    }

    /// An alarm that is raised already needs no further entry.
    async fn raise(&self, member_id: u64) {
        let kind = AlarmType::Corrupt as i32;
        let raised = self.core.reader.alarms();
        if raised.iter().any(|alarm| alarm.alarm == kind && alarm.member_id == member_id) {
            return;
        }
        let alarm = AlarmRequest { action: AlarmAction::Activate as i32, member_id, alarm: kind };
        let request = InternalRaftRequest { alarm: Some(alarm), ..InternalRaftRequest::default() };
        if let Err(error) = self.core.propose(request).await {
            tracing::warn!(error = %error, "failed to raise alarm");
        }
    }
}
