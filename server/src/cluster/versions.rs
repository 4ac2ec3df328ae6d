//! Which versions may live together in a cluster, and which one it agrees on: pure rules over what members answer.

use std::time::Duration;

use kvorum_api::EtcdError;
use kvorum_store::version::CLUSTER_VERSION_MAX;
use kvorum_store::{Downgrade, Member, Version};
use serde::{Deserialize, Serialize};

use super::Peers;

/// The oldest cluster this release can be a member of; also what a new cluster begins with while some member has not
/// told its version.
pub const CLUSTER_VERSION_MIN: Version = Version::of(3, 0);

/// What a member says of itself on its `/version` page. The fields are in etcd's order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Versions {
    #[serde(rename = "etcdserver")]
    pub server: String,
    /// `not_decided` before the cluster has agreed on one.
    #[serde(rename = "etcdcluster")]
    pub cluster: String,
    /// Empty from members before 3.6.
    pub storage: String,
}

impl Versions {
    pub fn from_json(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|error| error.to_string())
    }

    /// What this member counts itself with: etcd gives no storage version there.
    pub fn own(cluster_version: Option<&Version>) -> Self {
        Self {
            server: crate::ETCD_VERSION.to_owned(),
            cluster: cluster_version.map_or_else(|| "not_decided".to_owned(), Version::to_string),
            storage: String::new(),
        }
    }
}

/// What a member answered; `None` if it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub member_id: u64,
    pub versions: Option<Versions>,
}

/// Asks a member at one URL after the other.
pub async fn ask(member: &Member, timeout: Duration, peers: &impl Peers) -> Option<Versions> {
    for url in &member.peer_urls {
        match peers.versions_of(url, timeout).await {
            Ok(versions) => return Some(versions),
            Err(error) => warn_unreachable(url, super::VERSION_PATH, member, &error),
        }
    }
    tracing::warn!(remote_member_id = %format!("{:x}", member.id), "failed to get version");
    None
}

/// Asks a member whether its cluster is being downgraded.
pub async fn ask_downgrade_enabled(member: &Member, timeout: Duration, peers: &impl Peers) -> Option<bool> {
    for url in &member.peer_urls {
        match peers.downgrade_enabled_of(url, timeout).await {
            Ok(enabled) => return Some(enabled),
            Err(error) => warn_unreachable(url, super::DOWNGRADE_ENABLED_PATH, member, &error),
        }
    }
    tracing::warn!(remote_member_id = %format!("{:x}", member.id), "failed to get downgrade enabled status");
    None
}

fn warn_unreachable(url: &str, path: &str, member: &Member, error: &str) {
    let (address, id) = (format!("{url}{path}"), format!("{:x}", member.id));
    tracing::warn!(address = %address, remote_member_id = %id, error = %error, "failed to reach the peer URL");
}

/// The cluster versions that this release can join: any from the oldest up to its own; one above its own, and no other,
/// while the cluster is being downgraded.
pub fn allowed_range(downgrade_enabled: bool) -> (Version, Version) {
    if downgrade_enabled {
        let above = Version::of(CLUSTER_VERSION_MAX.major, CLUSTER_VERSION_MAX.minor + 1);
        return (above.clone(), above);
    }
    (CLUSTER_VERSION_MIN, CLUSTER_VERSION_MAX)
}

/// Whether this release may join: at least one other member told a cluster version, and none told one out of range.
pub fn is_compatible(others: &[Answer], (lowest, highest): &(Version, Version)) -> bool {
    let mut told = false;
    for Answer { member_id, versions } in others {
        let Some(versions) = versions else { continue };
        let id = format!("{member_id:x}");
        let Ok(cluster) = versions.cluster.parse::<Version>() else {
            tracing::warn!(remote_member_id = %id, remote_member_cluster_version = %versions.cluster,
                "failed to parse cluster version of remote member");
            continue;
        };
        if cluster < *lowest {
            tracing::warn!(remote_member_id = %id, remote_member_cluster_version = %cluster,
                minimum_cluster_version_supported = %lowest, "cluster version of remote member is not compatible; too low");
            return false;
        }
        if cluster > *highest {
            tracing::warn!(remote_member_id = %id, remote_member_cluster_version = %cluster,
                maximum_cluster_version_supported = %highest, "cluster version of remote member is not compatible; too high");
            return false;
        }
        told = true;
    }
    told
}

/// The lowest server version among all members; `None` if one of them has not told it.
pub fn lowest_server_version(answers: &[Answer]) -> Option<Version> {
    let own: Version = crate::ETCD_VERSION.parse().expect("our own version");
    let mut lowest: Option<Version> = None;
    for Answer { member_id, versions } in answers {
        let server = &versions.as_ref()?.server;
        let Ok(version) = server.parse::<Version>() else {
            tracing::warn!(remote_member_id = %format!("{member_id:x}"), remote_member_version = %server,
                "failed to parse server version of remote member");
            return None;
        };
        if version > own {
            tracing::warn!(local_member_version = %own, remote_member_id = %format!("{member_id:x}"),
                remote_member_version = %server, "leader found higher-versioned member");
        }
        if lowest.as_ref().is_none_or(|lowest| version < *lowest) {
            lowest = Some(version);
        }
    }
    lowest
}

/// A downgrade was enabled to a version that members and cluster cannot go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidDowngradeTarget;

impl std::fmt::Display for InvalidDowngradeTarget {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("invalid downgrade target")
    }
}

impl std::error::Error for InvalidDowngradeTarget {}

/// The cluster version the leader should propose now, as `major.minor.0`; `None` to leave it as it is.
pub fn decide(
    cluster: Option<&Version>,
    downgrade: &Downgrade,
    lowest_server: Option<&Version>,
) -> Result<Option<Version>, InvalidDowngradeTarget> {
    let (cluster, lowest) = match (cluster, lowest_server) {
        (None, lowest) => return Ok(Some(lowest.map_or(CLUSTER_VERSION_MIN, Version::cluster))),
        (Some(_), None) => return Ok(None),
        (Some(cluster), Some(lowest)) => (cluster, lowest),
    };
    if downgrade.enabled {
        let target: Version = downgrade.target_version.parse().map_err(|_| InvalidDowngradeTarget)?;
        if target == *cluster {
            return Ok(None);
        }
        for from in [cluster, lowest] {
            if !is_downgrade(from, &target) {
                tracing::error!(downgrade_target = %target, from = %from, "Cannot downgrade to downgrade-target");
                return Err(InvalidDowngradeTarget);
            }
        }
        return Ok(Some(target.cluster()));
    }
    Ok((cluster < lowest && is_cluster_version_change(cluster, lowest)).then(|| lowest.cluster()))
}

/// Whether every member runs the version the cluster is being downgraded to: then the downgrade is over.
pub fn all_run(target: &Version, answers: &[Answer]) -> bool {
    answers.iter().all(|Answer { member_id, versions }| {
        let Some(versions) = versions else { return false };
        let server = versions.server.parse::<Version>().ok().map(|version| version.cluster());
        if server.as_ref() != Some(&target.cluster()) {
            tracing::warn!(remote_member_id = %format!("{member_id:x}"), current_server_version = %versions.server,
                target_version = %target, "remotes server has mismatching etcd version");
            return false;
        }
        true
    })
}

/// Down by exactly one minor version; patches do not count where it starts.
fn is_downgrade(from: &Version, to: &Version) -> bool {
    *to == Version::of(from.major, from.minor - 1)
}

fn is_cluster_version_change(from: &Version, to: &Version) -> bool {
    let (from, to) = (from.cluster(), to.cluster());
    is_downgrade(&from, &to) || (from.major == to.major && from < to)
}

/// The target of a `Downgrade` request: `major.minor` or a whole version, whose patch is dropped.
pub fn downgrade_target(text: &str) -> Result<Version, EtcdError> {
    let parsed = text.parse::<Version>().or_else(|_| format!("{text}.0").parse::<Version>());
    parsed.map(|version| version.cluster()).map_err(|_| EtcdError::WrongDowngradeVersionFormat)
}

/// Whether a downgrade may begin. Ask after a linearizable read, so that both are up to date. Also what
/// `Downgrade(VALIDATE)` answers; its reply carries [`Version::major_minor_text`] of the cluster version.
pub fn check_downgrade(cluster: Option<&Version>, downgrade: &Downgrade, target: &Version) -> Result<(), EtcdError> {
    let cluster = cluster.ok_or(EtcdError::ClusterVersionUnavailable)?;
    if !is_downgrade(cluster, target) {
        return Err(EtcdError::InvalidDowngradeTargetVersion);
    }
    if downgrade.enabled {
        return Err(EtcdError::DowngradeInProcess);
    }
    Ok(())
}

/// Whether there is a downgrade to cancel. Ask after a linearizable read. etcd logs this error and yet answers a
/// `Downgrade(CANCEL)` request with success and the cluster version; so must the service.
pub fn check_downgrade_cancel(downgrade: &Downgrade) -> Result<(), EtcdError> {
    if downgrade.enabled { Ok(()) } else { Err(EtcdError::NoInflightDowngrade) }
}

/// A member must not run in a cluster that has agreed on a version newer than its own. To be asked at a restart.
pub fn check_cluster_version(cluster: Option<&Version>) -> Result<(), String> {
    match cluster {
        Some(cluster) if *cluster > CLUSTER_VERSION_MAX => Err(format!(
            "invalid downgrade; server version is lower than determined cluster version (current-server-version {}, \
             determined-cluster-version {})",
            CLUSTER_VERSION_MAX,
            cluster.major_minor_text()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
