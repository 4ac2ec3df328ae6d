//! Changes an operator makes to the cluster while it runs: its members, its leader. The rules are in [`crate::cluster`];
//! here they meet the connections, the clock and the log.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvorum_api::{EtcdError, raftpb};
use kvorum_node::Role;
use kvorum_store::{Member, Version};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::cluster::reconfiguration::{self, Connections, Promotion};
use crate::cluster::{monitor, versions};
use crate::core::{Core, Waiter};
use crate::ids::to_hex;
use crate::leases::{pause, wait_for_leader};
use crate::peer::questions;

/// Adds a member, and gives it with the members there are then.
pub async fn add(core: &Core, peer_urls: &[String], learner: bool) -> Result<(Member, Vec<Member>), EtcdError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let member = reconfiguration::new_member(peer_urls, learner, now)?;
    if core.config.strict_reconfig_check {
        reconfiguration::check_add(&core.reader.members(), learner, &connections(core)).inspect_err(|error| {
            tracing::warn!(error = %error.text(), member_id = %to_hex(member.id), "rejecting member add request");
        })?;
    }
    let members = configure(core, reconfiguration::add_change(&member)).await?;
    Ok((member, members))
}

pub async fn remove(core: &Core, id: u64) -> Result<Vec<Member>, EtcdError> {
    if core.config.strict_reconfig_check {
        reconfiguration::check_remove(&core.reader.members(), id, &connections(core)).inspect_err(|error| {
            tracing::warn!(error = %error.text(), member_id = %to_hex(id), "rejecting member remove request");
        })?;
    }
    configure(core, reconfiguration::remove_change(id)).await
}

pub async fn update(core: &Core, id: u64, peer_urls: &[String]) -> Result<Vec<Member>, EtcdError> {
    configure(core, reconfiguration::update_change(id, peer_urls)).await
}

/// Makes a learner a voter. Only the leader knows whether it is ready: any other member asks it, and shows the token of
/// whoever asked here.
pub async fn promote(core: &Core, id: u64, token: Option<&str>) -> Result<Vec<Member>, EtcdError> {
    let deadline = Instant::now() + core.config.request_timeout;
    loop {
        match promote_here(core, id).await {
            Err(EtcdError::NotLeader) => {}
            answered => return answered,
        }
        let urls = wait_for_leader(core, deadline).await?;
        for url in &urls {
            let left = deadline.saturating_duration_since(Instant::now());
            match questions::promote(&core.dialer, url, id, token, left).await {
                Ok(Promotion::Done(members)) => return Ok(members),
                Ok(Promotion::Refused(error)) => return Err(error),
                Ok(Promotion::Unknown(_)) | Err(_) => {}
            }
        }
        pause(core, deadline).await?;
    }
}

/// As [`promote`], but never asks another member: fails with "not leader" on a follower.
pub async fn promote_here(core: &Core, id: u64) -> Result<Vec<Member>, EtcdError> {
    let progress: Option<Vec<(u64, u64)>> = {
        let state = core.state();
        let consensus = state.consensus();
        let pairs = || consensus.progress().iter().map(|peer| (peer.member_id, peer.matched)).collect();
        (consensus.role() == Role::Leader).then(pairs)
    };
    reconfiguration::check_learner_ready(progress.as_deref(), core.config.member_id, id)?;
    if core.config.strict_reconfig_check {
        reconfiguration::check_promote(&core.reader.members())?;
    }
    configure(core, reconfiguration::promote_change(id)).await
}

fn connections(core: &Core) -> Connections<impl Fn(u64) -> Option<u64>> {
    Connections { own_id: core.config.member_id, up_milliseconds: |id| core.peer_up_milliseconds(id) }
}

/// Puts a change of the configuration through the log.
async fn configure(core: &Core, change: raftpb::ConfChange) -> Result<Vec<Member>, EtcdError> {
    let (sender, receiver) = oneshot::channel();
    let began = core.now();
    let kind = change.r#type().as_str_name();
    let subject = change.node_id.unwrap_or(0);
    let id = core.ids.next_id();
    core.turn(|member, _, turn| member.propose_conf_change(id, change, Waiter::Channel(sender), turn));
    match tokio::time::timeout(core.config.request_timeout, receiver).await {
        Ok(Ok(outcome)) => outcome?,
        Ok(Err(_)) => return Err(EtcdError::Stopped),
        Err(_) => return Err(core.timeout_error(began)),
    };
    tracing::info!(
        raft_conf_change = kind,
        raft_conf_change_node_id = %to_hex(subject),
        "applied a configuration change through raft"
    );
    Ok(core.reader.members().members.values().cloned().collect())
}

/// Hands leadership to another voter, and returns once it leads.
pub async fn move_leader(core: &Core, target: u64) -> Result<(), EtcdError> {
    if core.leader() != core.config.member_id {
        return Err(EtcdError::NotLeader);
    }
    let membership = core.reader.members();
    if membership.members.get(&target).is_none_or(|member| member.is_learner) {
        return Err(EtcdError::BadLeaderTransferee);
    }
    let mut seen = core.watch_leader();
    let began = Instant::now();
    let (from, to) = (to_hex(core.config.member_id), to_hex(target));
    tracing::info!(current_leader_member_id = %from, transferee_member_id = %to, "leadership transfer starting");
    core.turn(|member, _, _| member.consensus_mut().transfer_leader(target));
    let deadline = began + core.config.request_timeout;
    while core.leader() != target {
        // Raft gives a transfer up by itself after an election timeout.
        if tokio::time::timeout_at(deadline, seen.changed()).await.is_err() {
            return Err(EtcdError::TimeoutLeaderTransfer);
        }
    }
    let took_milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(old_leader_member_id = %from, new_leader_member_id = %to, took_milliseconds, "leadership transfer finished");
    Ok(())
}

/// Looks whether the cluster may be downgraded to a version, and begins it if `begin`. Gives the cluster version.
pub async fn downgrade(core: &Core, target: &str, begin: bool) -> Result<Version, EtcdError> {
    let target = versions::downgrade_target(target)?;
    cluster_version(core)?;
    core.linearize().await?;
    let cluster = cluster_version(core)?;
    versions::check_downgrade(Some(&cluster), &core.reader.members().downgrade, &target)?;
    if begin {
        core.propose(monitor::begin_downgrade(&target)).await?;
    }
    cluster_version(core)
}

/// Ends a downgrade. Whatever stands in the way is no error, as in etcd: the answer is the cluster version.
pub async fn cancel_downgrade(core: &Core) -> Result<Version, EtcdError> {
    let cancel = async {
        core.linearize().await?;
        versions::check_downgrade_cancel(&core.reader.members().downgrade)?;
        core.propose(monitor::end_downgrade()).await.map(drop)
    };
    if let Err(error) = cancel.await {
        tracing::warn!(error = %error, "failed to cancel downgrade");
    }
    cluster_version(core)
}

fn cluster_version(core: &Core) -> Result<Version, EtcdError> {
    let version = core.reader.cluster_version().and_then(|version| version.parse().ok());
    version.ok_or(EtcdError::ClusterVersionUnavailable)
}

/// At a stop: hands leadership to the voter that has been connected for longest, so that nobody waits for an election.
pub fn hand_over(core: &Arc<Core>) {
    let own = core.config.member_id;
    if core.leader() != own || core.failure().is_some() {
        return;
    }
    let membership = core.reader.members();
    let voters = membership.voters().filter(|member| member.id != own);
    let connected = voters.filter_map(|member| Some((core.peer_up_milliseconds(member.id)?, member.id)));
    let Some((_, target)) = connected.max() else { return };
    tracing::info!(transferee_member_id = %to_hex(target), "leadership transfer starting");
    core.turn(|member, _, _| member.consensus_mut().transfer_leader(target));
    let deadline = std::time::Instant::now() + HAND_OVER_MAX.min(core.config.election_timeout);
    while core.leader() == own && std::time::Instant::now() < deadline {
        std::thread::sleep(HAND_OVER_CHECK);
    }
    // The others send here what they are asked for until they hear of the new leader; it is passed on.
    std::thread::sleep(PASSING_ON);
}

/// Before a stop: whoever was promised an answer gets it, as long as it comes soon. Some of what was proposed is on its way over
/// a new leader.
pub fn await_answers(core: &Arc<Core>) {
    let deadline = std::time::Instant::now() + ANSWERS_MAX;
    let wait = || {
        while core.failure().is_none() && core.unanswered() > 0 && std::time::Instant::now() < deadline {
            std::thread::sleep(HAND_OVER_CHECK);
        }
    };
    wait();
    core.take_nothing();
    // A connection thread may be about to propose what it took before.
    std::thread::sleep(HAND_OVER_CHECK);
    wait();
}

/// A stop never waits longer than this for answers; without a quorum there are none.
const ANSWERS_MAX: Duration = Duration::from_secs(1);

/// A stop never waits longer than this for another member to take over.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// How long a member that led stays for what others still send it.
const PASSING_ON: Duration = Duration::from_millis(50);

/// How often a leader that stops looks whether it still leads.
const HAND_OVER_CHECK: Duration = Duration::from_millis(2);
