//! A cluster of several members: how a member founds or joins it ([`forming`]), which version it agrees on
//! ([`versions`]), and when its members may be changed ([`reconfiguration`]). All rules and texts are etcd's.
//!
//! Nothing here opens a connection or reads a clock: peers are asked through [`Peers`], and times are arguments.

pub mod addresses;
pub mod forced;
pub mod forming;
pub mod monitor;
pub mod reconfiguration;
pub mod versions;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use kvorum_store::{Member, members_from_json};

use versions::Versions;

/// The header in which a peer names its cluster.
pub const CLUSTER_ID_HEADER: &str = "X-Etcd-Cluster-ID";

/// A peer's page with its members.
pub const MEMBERS_PATH: &str = "/members";

/// A peer's page with its versions.
pub const VERSION_PATH: &str = "/version";

/// A peer's page that says whether the cluster is being downgraded.
pub const DOWNGRADE_ENABLED_PATH: &str = "/downgrade/enabled";

/// How other members are asked. `url` is one of their peer URLs, without a path; redirects are not followed. An error
/// says for the log why there was no answer.
pub trait Peers {
    /// GET [`MEMBERS_PATH`], read with [`PeerMembers::read`].
    fn members_of(&self, url: &str, timeout: Duration) -> impl Future<Output = Result<PeerMembers, String>>;

    /// GET [`VERSION_PATH`], read with [`Versions::from_json`].
    fn versions_of(&self, url: &str, timeout: Duration) -> impl Future<Output = Result<Versions, String>>;

    /// GET [`DOWNGRADE_ENABLED_PATH`], read with [`parse_bool`].
    fn downgrade_enabled_of(&self, url: &str, timeout: Duration) -> impl Future<Output = Result<bool, String>>;
}

/// What a peer answers about its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMembers {
    pub cluster_id: u64,
    pub members: Vec<Member>,
}

impl PeerMembers {
    /// Reads an answer: the value of [`CLUSTER_ID_HEADER`] and the body.
    pub fn read(cluster_id: &str, body: &[u8]) -> Result<Self, String> {
        let members = members_from_json(body)?;
        let cluster_id = u64::from_str_radix(cluster_id, 16)
            .map_err(|error| format!("{CLUSTER_ID_HEADER} {cluster_id:?}: {error}"))?;
        Ok(Self { cluster_id, members })
    }
}

/// Shown as etcd shows its `RaftCluster` in errors.
impl fmt::Display for PeerMembers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<String> = self
            .members
            .iter()
            .map(|member| {
                format!(
                    "&{{ID:{:x} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} ClientURLs:[{}]}}}}",
                    member.id,
                    member.peer_urls.join(" "),
                    member.is_learner,
                    member.name,
                    member.client_urls.join(" ")
                )
            })
            .collect();
        write!(formatter, "{{ClusterID:{:x} Members:[{}] RemovedMemberIDs:[]}}", self.cluster_id, members.join(" "))
    }
}

/// The texts Go takes for a truth value.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("parsing {text:?}: invalid syntax")),
    }
}

#[cfg(test)]
pub(crate) mod scripted;
