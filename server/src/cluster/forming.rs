//! What a member's first start leads to: a new cluster, or one that exists; with etcd's checks, in its order, and its
//! reasons. After the first start the log knows, and `--initial-*` have no meaning.
//!
//! Decides only: it writes nothing, and asks others through [`Peers`] and [`Resolve`].

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use kvorum_store::Member;

use super::addresses::{Resolve, same_places};
use super::versions::{self, Answer};
use super::{PeerMembers, Peers};
use crate::config::{ClusterState, Config};
use crate::ids;
use crate::urls::{self, Url, quote};

/// How long one peer may take to list the members of its cluster to one that joins.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one peer may take to say whether this member is at work already.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(1);

/// Who this member is, and who the others are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forming {
    /// Founds a cluster together with all others of `members`. The log begins with one `ConfChangeAddNode` for each.
    New {
        cluster_id: u64,
        member_id: u64,
        /// Sorted by id.
        members: Vec<Member>,
    },
    /// Joins a cluster that has taken it in already. The log begins empty: all comes from the others.
    Join {
        cluster_id: u64,
        member_id: u64,
        /// As the flags name them, with the ids that the cluster gave them; sorted by id.
        members: Vec<Member>,
        /// As the cluster described itself, this member included: whom to talk to before the log says who is who.
        remotes: Vec<Member>,
    },
    /// Was started before: ids are those of its log's metadata, members those of its backend.
    Restart { cluster_id: u64, member_id: u64 },
}

/// Why a member cannot start as told. `Display` is etcd's reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormingError(String);

impl fmt::Display for FormingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for FormingError {}

fn refuse<T>(reason: impl Into<String>) -> Result<T, FormingError> {
    Err(FormingError(reason.into()))
}

/// The ids of a log that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    pub cluster_id: u64,
    pub member_id: u64,
}

/// Decides. `logged` is what the write-ahead log says, if there is one; nobody is asked then.
pub async fn form(
    config: &Config,
    logged: Option<Logged>,
    peers: &impl Peers,
    resolver: &impl Resolve,
) -> Result<Forming, FormingError> {
    let forming = match (logged, config.initial_cluster_state) {
        (Some(Logged { cluster_id, member_id }), _) => Forming::Restart { cluster_id, member_id },
        (None, ClusterState::New) => found(config, peers, resolver).await?,
        (None, ClusterState::Existing) => join(config, peers, resolver).await?,
    };
    // Of a restarted member, `check_learners` is asked again once its backend is open.
    check_learners(0, config.max_learners)?;
    Ok(forming)
}

/// A member does not start while its cluster has more learners than `--max-learners`.
pub fn check_learners(learners: usize, max_learners: i64) -> Result<(), FormingError> {
    if i64::try_from(learners).unwrap_or(i64::MAX) > max_learners {
        return refuse("membership: too many learner members in cluster");
    }
    Ok(())
}

async fn found(config: &Config, peers: &impl Peers, resolver: &impl Resolve) -> Result<Forming, FormingError> {
    let founding = founding(config, resolver)?;
    let own = founding.own(&config.name)?;
    if is_at_work(config, &founding, own.id, peers).await {
        return refuse(format!("member {:x} has already been bootstrapped", own.id));
    }
    let ids: Vec<u64> = founding.members.iter().map(|member| member.id).collect();
    Ok(Forming::New { cluster_id: ids::cluster_id(&ids), member_id: own.id, members: founding.members })
}

/// The members of the flags.
pub struct Founding {
    /// Sorted by id.
    pub members: Vec<Member>,
}

impl Founding {
    fn own(&self, name: &str) -> Result<&Member, FormingError> {
        self.members.iter().find(|member| member.name == name).ok_or_else(|| no_local_member(name))
    }

    /// Peer URLs of the others, sorted.
    fn remote_urls(&self, name: &str) -> Vec<String> {
        let others = self.members.iter().filter(|member| member.name != name);
        let mut urls: Vec<String> = others.flat_map(|member| member.peer_urls.iter().cloned()).collect();
        urls.sort();
        urls
    }
}

/// The checks of a founding that need no peer, and the ids that follow from the flags.
pub fn founding(config: &Config, resolver: &impl Resolve) -> Result<Founding, FormingError> {
    let members = named_members(config)?;
    let Some((_, own_urls)) = members.iter().find(|(name, _)| *name == config.name) else {
        return Err(no_local_member(&config.name));
    };
    match_advertised(&config.name, &config.initial_advertise_peer_urls, own_urls, resolver)?;
    check_duplicates(&members)?;
    with_ids(config, &members)
}

fn no_local_member(name: &str) -> FormingError {
    FormingError(format!("couldn't find local name {} in the initial cluster configuration", quote(name)))
}

fn named_members(config: &Config) -> Result<Vec<(String, Vec<Url>)>, FormingError> {
    config.founding_members().map_err(|error| FormingError(error.to_string()))
}

fn with_ids(config: &Config, members: &[(String, Vec<Url>)]) -> Result<Founding, FormingError> {
    let mut founding: Vec<Member> = members
        .iter()
        .map(|(name, urls)| {
            let peer_urls: Vec<String> = urls.iter().map(Url::to_string).collect();
            let id = ids::member_id(&peer_urls, &config.initial_cluster_token, None);
            Member { id, name: name.clone(), peer_urls, ..Member::default() }
        })
        .collect();
    founding.sort_by_key(|member| member.id);
    if let Some(pair) = founding.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return refuse(format!("member exists with identical ID {:x}", pair[1].id));
    }
    if founding.first().is_some_and(|member| member.id == 0) {
        return refuse("cannot use 0 as member id");
    }
    Ok(Founding { members: founding })
}

fn check_duplicates(members: &[(String, Vec<Url>)]) -> Result<(), FormingError> {
    let mut seen = BTreeSet::new();
    if members.iter().flat_map(|(_, urls)| urls).all(|url| seen.insert(url.as_str())) {
        return Ok(());
    }
    refuse(format!("initial cluster {} has duplicate url", written_cluster(members)))
}

/// Members as etcd writes `--initial-cluster`: pairs of name and URL, sorted.
fn written_cluster(members: &[(String, Vec<Url>)]) -> String {
    let mut pairs: Vec<String> =
        members.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}"))).collect();
    pairs.sort();
    pairs.join(",")
}

/// The URLs a member advertises must be those the initial cluster gives it, by text or by the addresses behind them.
fn match_advertised(
    name: &str,
    advertised: &[Url],
    named: &[Url],
    resolver: &impl Resolve,
) -> Result<(), FormingError> {
    let mut advertised = advertised.to_vec();
    advertised.sort();
    let texts = |urls: &[Url]| urls.iter().map(Url::to_string).collect::<Vec<_>>();
    let Err(reason) = same_places(&texts(&advertised), &texts(named), resolver) else { return Ok(()) };
    let written = urls::join(&advertised);
    let missing: Vec<String> =
        named.iter().filter(|url| !advertised.contains(url)).map(|url| format!("{name}={url}")).collect();
    if !missing.is_empty() {
        let missing = missing.join(",");
        return refuse(format!(
            "--initial-cluster has {missing} but missing from --initial-advertise-peer-urls={written} ({reason})"
        ));
    }
    let extra: Vec<Url> = advertised.iter().filter(|url| !named.contains(url)).cloned().collect();
    let cluster = written_cluster(&[(name.to_owned(), advertised)]);
    if !extra.is_empty() {
        let extra = urls::join(&extra);
        return refuse(format!(
            "--initial-advertise-peer-urls has {extra} but missing from --initial-cluster={cluster}"
        ));
    }
    refuse(format!("failed to resolve {written} to match --initial-cluster={cluster} ({reason})"))
}

/// Whether the others know this member as one that has told its client URLs. Then its data were lost: started anew it
/// would vote twice. Others that do not answer are no reason to wait: they may not have been started yet.
async fn is_at_work(config: &Config, founding: &Founding, id: u64, peers: &impl Peers) -> bool {
    let urls = founding.remote_urls(&config.name);
    match members_of_first(&urls, BOOTSTRAP_TIMEOUT, peers, false).await {
        Ok(cluster) => cluster.members.iter().any(|member| member.id == id && !member.client_urls.is_empty()),
        Err(_) => false,
    }
}

/// Asks one URL after the other; the first that answers decides.
async fn members_of_first(
    urls: &[String],
    timeout: Duration,
    peers: &impl Peers,
    logged: bool,
) -> Result<PeerMembers, &'static str> {
    for url in urls {
        match peers.members_of(url, timeout).await {
            Ok(answer) if answer.members.is_empty() => {
                return Err("failed to get raft cluster member(s) from the given URLs");
            }
            Ok(answer) => return Ok(answer),
            Err(error) if logged => {
                tracing::warn!(address = %format!("{url}{}", super::MEMBERS_PATH), error = %error, "failed to get cluster response");
            }
            Err(_) => {}
        }
    }
    Err("could not retrieve cluster information from the given URLs")
}

async fn join(config: &Config, peers: &impl Peers, resolver: &impl Resolve) -> Result<Forming, FormingError> {
    let members = named_members(config)?;
    if !members.iter().any(|(name, _)| *name == config.name) {
        return Err(no_local_member(&config.name));
    }
    check_duplicates(&members)?;
    let mut local = with_ids(config, &members)?;
    let urls = local.remote_urls(&config.name);
    let mut existing = members_of_first(&urls, JOIN_TIMEOUT, peers, true)
        .await
        .map_err(|reason| FormingError(format!("cannot fetch cluster info from peer urls: {reason}")))?;
    existing.members.sort_by_key(|member| member.id);
    if let Err(reason) = take_ids(&mut local, &existing.members, resolver) {
        return refuse(format!("error validating peerURLs {existing}: {reason}"));
    }
    let member_id = local.own(&config.name)?.id;
    if !is_compatible(&local.members, member_id, config.request_timeout(), peers).await {
        return refuse("incompatible with current running cluster");
    }
    check_learners(existing.members.iter().filter(|member| member.is_learner).count(), config.max_learners)?;
    Ok(Forming::Join { cluster_id: existing.cluster_id, member_id, members: local.members, remotes: existing.members })
}

/// Gives the members of the flags the ids that the cluster knows them by, found by their URLs. Both are sorted by id.
fn take_ids(local: &mut Founding, existing: &[Member], resolver: &impl Resolve) -> Result<(), String> {
    if local.members.len() != existing.len() {
        return Err("member count is unequal".to_owned());
    }
    for known in existing {
        let mut last = String::new();
        let found =
            local.members.iter_mut().find(|member| match same_places(&known.peer_urls, &member.peer_urls, resolver) {
                Ok(()) => true,
                Err(reason) => {
                    last = reason;
                    false
                }
            });
        match found {
            Some(member) => member.id = known.id,
            None => {
                let urls = known.peer_urls.join(" ");
                return Err(format!(
                    "PeerURLs: no match found for existing member ({:x}, [{urls}]), last resolver error ({last})",
                    known.id
                ));
            }
        }
    }
    local.members.sort_by_key(|member| member.id);
    local.members.dedup_by_key(|member| member.id);
    Ok(())
}

/// Whether this release may be a member of the cluster, by what the others say of its version.
async fn is_compatible(members: &[Member], own: u64, timeout: Duration, peers: &impl Peers) -> bool {
    let mut answers = Vec::new();
    for member in members.iter().filter(|member| member.id != own) {
        answers.push(Answer { member_id: member.id, versions: versions::ask(member, timeout, peers).await });
    }
    let mut downgrading = false;
    for member in members.iter().filter(|member| member.id != own) {
        if let Some(enabled) = versions::ask_downgrade_enabled(member, timeout, peers).await {
            downgrading = enabled;
            break;
        }
    }
    versions::is_compatible(&answers, &versions::allowed_range(downgrading))
}

/// Ticks that a member which was just started may skip, so that it need not wait a whole election timeout: all but one
/// if it is alone; all but two once more than one other member has connected, if `--initial-election-tick-advance`
/// allows it. etcd looks every 50 ms, for up to 5 s.
pub fn ticks_to_skip(members: usize, active_peers: usize, election_ticks: u64, allowed: bool) -> Option<u64> {
    match members {
        1 => Some(election_ticks.saturating_sub(1)),
        _ if allowed && active_peers > 1 => Some(election_ticks.saturating_sub(2)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
