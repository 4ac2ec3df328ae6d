//! Renewals and remaining times of leases. They are the leader's alone: it answers from its timers, every other member
//! asks it over the peer port.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::{LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use kvorum_node::Role;
use kvorum_node::lease_timers::Renewal;
use tokio::time::Instant;

use crate::core::Core;
use crate::peer::LeaseRefusal;
use crate::peer::questions::{self, LeaseUnanswered};
use crate::services::header;
use crate::urls::Url;

/// How long a renewal waits for a revocation before it looks again by itself.
const REVOCATION_CHECK: Duration = Duration::from_millis(100);

/// Pause between two attempts to reach the leader, as in etcd.
const FORWARD_PAUSE: Duration = Duration::from_millis(50);

/// The TTL begun anew, or `None` if the lease does not exist. Any member may be asked.
pub async fn renew(core: &Arc<Core>, id: i64) -> Result<Option<i64>, EtcdError> {
    let deadline = Instant::now() + core.config.request_timeout;
    loop {
        match renew_as_leader(core, id).await {
            Err(EtcdError::NoLeader) => {}
            answered => return answered,
        }
        let urls = wait_for_leader(core, deadline).await?;
        if urls.is_empty() {
            continue;
        }
        match questions::renew_lease(&core.dialer, &urls, id, left(deadline)).await {
            Ok(ttl_seconds) => return Ok(Some(ttl_seconds)),
            Err(LeaseUnanswered::Refused(LeaseRefusal::NotFound)) => return Ok(None),
            Err(_) => pause(core, deadline).await?,
        }
    }
}

/// As [`renew`], by this member's own timers; fails with "no leader" on a follower.
pub async fn renew_as_leader(core: &Core, id: i64) -> Result<Option<i64>, EtcdError> {
    let mut waited_for_applied = false;
    loop {
        let changed = core.leases_changed.notified();
        match core.renew_lease(id) {
            Renewal::Renewed { ttl_seconds } => {
                core.metrics.lease_renewed_total.increment();
                return Ok(Some(ttl_seconds));
            }
            // A grant that is still on its way counts.
            Renewal::NotFound if !waited_for_applied => {
                core.linearize().await?;
                waited_for_applied = true;
            }
            Renewal::NotFound => return Ok(None),
            Renewal::ClearCheckpointFirst => clear_checkpoint(core, id).await?,
            Renewal::Expired if core.is_stopping() => return Err(EtcdError::Stopped),
            Renewal::Expired => drop(tokio::time::timeout(REVOCATION_CHECK, changed).await),
            Renewal::Unconfirmed => core.linearize().await?,
            Renewal::NotLeader => return Err(EtcdError::NoLeader),
        }
    }
}

async fn clear_checkpoint(core: &Core, id: i64) -> Result<(), EtcdError> {
    let (request_id, data) = core.state().clear_checkpoint(id);
    core.submit(request_id, data).await.map(drop)
}

/// Granted and remaining time, and keys if asked for; `None` if the lease does not exist. Any member may be asked.
pub async fn times(
    core: &Arc<Core>,
    request: &LeaseTimeToLiveRequest,
) -> Result<Option<LeaseTimeToLiveResponse>, EtcdError> {
    let deadline = Instant::now() + core.config.request_timeout;
    loop {
        match times_as_leader(core, request).await {
            Err(EtcdError::NoLeader) => {}
            answered => return answered,
        }
        let urls = wait_for_leader(core, deadline).await?;
        if urls.is_empty() {
            continue;
        }
        match questions::lease_times(&core.dialer, &urls, *request, left(deadline)).await {
            Ok(response) => return Ok(Some(response)),
            Err(LeaseUnanswered::Refused(LeaseRefusal::NotFound)) => return Ok(None),
            Err(_) => pause(core, deadline).await?,
        }
    }
}

/// As [`times`], by this member's own timers; fails with "no leader" on a follower.
pub async fn times_as_leader(
    core: &Core,
    request: &LeaseTimeToLiveRequest,
) -> Result<Option<LeaseTimeToLiveResponse>, EtcdError> {
    if !is_leader(core) {
        return Err(EtcdError::NoLeader);
    }
    core.linearize().await?;
    let now = core.now();
    let (found, leads) = {
        let state = core.state();
        (state.lease_time_to_live(now, request.id), state.consensus().role() == Role::Leader)
    };
    if !leads {
        return Err(EtcdError::NoLeader);
    }
    let Some((granted_ttl, ttl)) = found else { return Ok(None) };
    let keys = match request.keys {
        true => core.reader.lease_keys(request.id).into_iter().map(Bytes::from).collect(),
        false => Vec::new(),
    };
    let header = header(core, core.reader.revision());
    Ok(Some(LeaseTimeToLiveResponse { header, id: request.id, ttl, granted_ttl, keys }))
}

fn is_leader(core: &Core) -> bool {
    core.leader() == core.config.member_id
}

/// The peer URLs of the leader; none if it is this member. Waits for one until the deadline.
pub async fn wait_for_leader(core: &Core, deadline: Instant) -> Result<Vec<Url>, EtcdError> {
    let mut seen = core.watch_leader();
    loop {
        let leader = core.leader();
        if leader == core.config.member_id {
            return Ok(Vec::new());
        }
        let membership = core.reader.members();
        if let Some(member) = membership.members.get(&leader) {
            let urls: Vec<Url> = member.peer_urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
            if !urls.is_empty() {
                return Ok(urls);
            }
        }
        if core.is_stopping() {
            return Err(EtcdError::Stopped);
        }
        if tokio::time::timeout_at(deadline, seen.changed()).await.is_err() {
            return Err(EtcdError::NoLeader);
        }
    }
}

/// Before the leader is asked once more.
pub async fn pause(core: &Core, deadline: Instant) -> Result<(), EtcdError> {
    if core.is_stopping() {
        return Err(EtcdError::Stopped);
    }
    if Instant::now() >= deadline {
        return Err(EtcdError::Timeout);
    }
    tokio::time::sleep(FORWARD_PAUSE).await;
    Ok(())
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
