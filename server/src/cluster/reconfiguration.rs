//! Changes of members: what is checked before one is proposed, the proposal itself, and what one member tells another
//! when it passes a promotion on to the leader. What is checked when a change is applied stands in `store`.
//!
//! Pure functions; whoever calls them looks at clock and connections.

use kvorum_api::{EtcdError, raftpb};
use kvorum_store::{Member, Membership};
use serde::Serialize;

use crate::ids;
use crate::urls::Url;

/// Connections count once they have been up for longer than this.
pub const HEALTHY_MILLISECONDS_MIN: u64 = 5_000;

/// The part of the leader's log that a learner must hold to be promoted.
const LEARNER_READY_MIN: f64 = 0.9;

/// A peer's page that promotes a member, followed by its id in decimal; asked with POST.
pub const PROMOTE_PATH: &str = "/members/promote/";

/// The connections of this member to the others.
pub struct Connections<F> {
    pub own_id: u64,
    /// For how long the connection to a member has been up without a break, in milliseconds; `None` while it is not.
    pub up_milliseconds: F,
}

impl<F: Fn(u64) -> Option<u64>> Connections<F> {
    /// Voters that this member is, or has been connected to for long enough.
    fn healthy(&self, membership: &Membership) -> usize {
        let up = |id| (self.up_milliseconds)(id).is_some_and(|time| time > HEALTHY_MILLISECONDS_MIN);
        membership.voters().filter(|member| member.id == self.own_id || up(member.id)).count()
    }

    /// Whether this member sees a majority of the voters. Linked to health checks and strict changes.
    pub fn sees_majority(&self, membership: &Membership) -> bool {
        self.healthy(membership) >= majority(membership.voters().count())
    }
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Started voters, those that have told their names.
fn started<'a>(voters: impl Iterator<Item = &'a Member>) -> (usize, usize) {
    voters.fold((0, 0), |(started, all), member| (started + usize::from(!member.name.is_empty()), all + 1))
}

/// `MemberAdd` under `--strict-reconfig-check`. The new member counts as one that is down.
pub fn check_add<F: Fn(u64) -> Option<u64>>(
    membership: &Membership,
    learner: bool,
    connections: &Connections<F>,
) -> Result<(), EtcdError> {
    let (started, voters) = started(membership.voters());
    // The only member of a restored cluster may always take another in.
    let restoring = started == 1 && voters == 1;
    if !learner && !restoring && started < majority(voters + 1) {
        return Err(EtcdError::MemberNotEnoughStarted);
    }
    if voters != 1 && connections.healthy(membership) < majority(voters + 1) {
        return Err(EtcdError::Unhealthy);
    }
    Ok(())
}

/// `MemberRemove` under `--strict-reconfig-check`. A learner may always go.
pub fn check_remove<F: Fn(u64) -> Option<u64>>(
    membership: &Membership,
    id: u64,
    connections: &Connections<F>,
) -> Result<(), EtcdError> {
    if membership.members.get(&id).is_some_and(|member| member.is_learner) {
        return Ok(());
    }
    let (started, left) = started(membership.voters().filter(|member| member.id != id));
    if started < majority(left) {
        return Err(EtcdError::MemberNotEnoughStarted);
    }
    // Who is down is no part of the quorum at work.
    if id != connections.own_id && (connections.up_milliseconds)(id).is_none() {
        return Ok(());
    }
    let voters = membership.voters().count();
    // One less is healthy afterwards; of the others there must be a majority.
    if connections.healthy(membership) < 2 + voters.saturating_sub(1) / 2 {
        return Err(EtcdError::Unhealthy);
    }
    Ok(())
}

/// `MemberPromote` under `--strict-reconfig-check`, after [`check_learner_ready`]. The learner counts as started.
pub fn check_promote(membership: &Membership) -> Result<(), EtcdError> {
    let (started, voters) = started(membership.voters());
    if started + 1 < majority(voters + 1) {
        return Err(EtcdError::MemberNotEnoughStarted);
    }
    Ok(())
}

/// Whether a learner holds enough of the log to be promoted; asked with every `MemberPromote`, after this member has
/// applied what is committed. `progress` is raft's, as pairs of member and last index known to be on its disk; only the
/// leader has it, and from any other member the request must be passed on to the leader (`NotLeader`).
pub fn check_learner_ready(progress: Option<&[(u64, u64)]>, leader: u64, id: u64) -> Result<(), EtcdError> {
    let progress = progress.ok_or(EtcdError::NotLeader)?;
    let matched = |of: u64| progress.iter().find(|(member, _)| *member == of).map(|(_, matched)| *matched);
    let learner = matched(id).ok_or(EtcdError::MemberNotFound)?;
    let leader = matched(leader).unwrap_or(0);
    #[allow(clippy::cast_precision_loss, reason = "a part of a log, as etcd reckons it")]
    let part = learner as f64 / leader as f64;
    // An empty log on both sides is no number, and ready.
    if part < LEARNER_READY_MIN { Err(EtcdError::LearnerNotReady) } else { Ok(()) }
}

/// The member that a `MemberAdd` asks for, with the id it gets from its URLs and the time.
pub fn new_member(peer_urls: &[String], learner: bool, unix_seconds: i64) -> Result<Member, EtcdError> {
    let mut urls = peer_urls.iter().map(|url| Url::parse(url)).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if urls.is_empty() {
        return Err(EtcdError::MemberBadURLs);
    }
    urls.sort();
    let peer_urls: Vec<String> = urls.iter().map(Url::to_string).collect();
    let id = ids::member_id(&peer_urls, "", Some(unix_seconds));
    Ok(Member { id, peer_urls, is_learner: learner, ..Member::default() })
}

/// The change that adds a member. Its own id, as that of all of these, is the request's and set by who proposes it.
pub fn add_change(member: &Member) -> raftpb::ConfChange {
    use raftpb::ConfChangeType::{ConfChangeAddLearnerNode, ConfChangeAddNode};
    let kind = if member.is_learner { ConfChangeAddLearnerNode } else { ConfChangeAddNode };
    change(kind, member.id, Some(member.to_json()))
}

pub fn remove_change(id: u64) -> raftpb::ConfChange {
    change(raftpb::ConfChangeType::ConfChangeRemoveNode, id, None)
}

/// The change that gives a member other peer URLs. etcd does not look at the URLs, nor whether there are any.
pub fn update_change(id: u64, peer_urls: &[String]) -> raftpb::ConfChange {
    let member = Member { id, peer_urls: peer_urls.to_vec(), ..Member::default() };
    change(raftpb::ConfChangeType::ConfChangeUpdateNode, id, Some(member.to_json()))
}

pub fn promote_change(id: u64) -> raftpb::ConfChange {
    #[derive(Serialize)]
    struct Context {
        id: u64,
        #[serde(rename = "peerURLs")]
        peer_urls: Option<()>,
        #[serde(rename = "isPromote")]
        is_promote: bool,
    }
    let context = serde_json::to_vec(&Context { id, peer_urls: None, is_promote: true });
    let context = context.expect("plain fields always serialize");
    change(raftpb::ConfChangeType::ConfChangeAddNode, id, Some(context))
}

fn change(kind: raftpb::ConfChangeType, id: u64, context: Option<Vec<u8>>) -> raftpb::ConfChange {
    raftpb::ConfChange { id: None, r#type: Some(kind as i32), node_id: Some(id), context: context.map(Into::into) }
}

/// etcd's own texts for what it says to members; to clients it says those of [`EtcdError`].
const NOT_FOUND: &str = "membership: ID not found";
const NOT_LEARNER: &str = "membership: can only promote a learner member";

/// How a leader answers a member that passed a promotion on to it: status and body of the page. A success is 200 with the
/// members as JSON and a newline.
pub fn promotion_refused_page(error: EtcdError) -> (u16, String) {
    match error {
        EtcdError::MemberNotFound => (404, format!("{NOT_FOUND}\n")),
        EtcdError::MemberNotLearner => (412, format!("{NOT_LEARNER}\n")),
        EtcdError::LearnerNotReady => (412, format!("{}\n", EtcdError::LearnerNotReady.text())),
        _ => (500, r#"{"message":"Internal Server Error"}"#.to_owned()),
    }
}

/// What a member reads from such a page: an answer for the client, or why to ask once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promotion {
    Done(Vec<Member>),
    /// The client's answer.
    Refused(EtcdError),
    /// Not the leader's last word (it may just have lost its place): ask again until the request's time is up.
    Unknown(String),
}

pub fn read_promotion_page(status: u16, body: &[u8]) -> Promotion {
    let text = String::from_utf8_lossy(body);
    match status {
        200 => match kvorum_store::members_from_json(body) {
            Ok(members) => Promotion::Done(members),
            Err(error) => Promotion::Unknown(error),
        },
        404 => Promotion::Refused(EtcdError::MemberNotFound),
        412 if text.contains(EtcdError::LearnerNotReady.text()) => Promotion::Refused(EtcdError::LearnerNotReady),
        412 if text.contains(NOT_LEARNER) => Promotion::Refused(EtcdError::MemberNotLearner),
        _ => Promotion::Unknown(format!("member promote: unknown error({text})")),
    }
}

#[cfg(test)]
mod tests;
