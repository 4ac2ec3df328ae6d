//! Who belongs to the cluster, and which version it agreed on.
//!
//! Rules of etcd's `membership.RaftCluster`. Nothing here talks to a member.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_api::{EtcdError, raftpb};
use serde::Deserialize;

/// etcd's default for `--max-learners`.
pub const DEFAULT_LEARNERS_MAX: usize = 1;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    /// Empty until the member has published its attributes, except for members of a static bootstrap.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

impl Member {
    /// Reads the JSON that a configuration change carries as its context.
    pub fn from_json(context: &[u8]) -> Result<Self, String> {
        crate::keyspace::members::parse_value(context)
    }

    /// The JSON of etcd's `membership.Member`: what a configuration change carries as its context.
    pub fn to_json(&self) -> Vec<u8> {
        crate::keyspace::members::value(self).into_vec()
    }
}

/// Members as etcd lists them to its peers (`/members`), without the newline it ends the page with.
pub fn members_to_json<'a>(members: impl IntoIterator<Item = &'a Member>) -> Vec<u8> {
    crate::keyspace::members::list(members)
}

/// Reads the answer of a peer to `/members`.
pub fn members_from_json(json: &[u8]) -> Result<Vec<Member>, String> {
    crate::keyspace::members::parse_list(json)
}

/// A downgrade of the cluster that is under way, or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Downgrade {
    pub enabled: bool,
    pub target_version: String,
}

/// The members as of some entry; readers hold it while later entries change theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub members: BTreeMap<u64, Member>,
    /// Ids that may never come back.
    pub removed: BTreeSet<u64>,
    pub cluster_version: Option<String>,
    pub downgrade: Downgrade,
}

/// A committed configuration change, as far as the store remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// `name` is known (and stored) for the members of a static bootstrap only.
    Add {
        id: u64,
        name: String,
        peer_urls: Vec<String>,
        learner: bool,
    },
    Promote {
        id: u64,
    },
    Remove {
        id: u64,
    },
    Update {
        id: u64,
        peer_urls: Vec<String>,
    },
}

/// etcd's `membership.ConfigChangeContext`, as far as a change needs it. Lists may be `null`.
#[derive(Deserialize)]
struct ChangeContext {
    #[serde(default)]
    id: u64,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Option<Vec<String>>,
    #[serde(rename = "isLearner", default)]
    is_learner: bool,
    #[serde(rename = "isPromote", default)]
    is_promote: bool,
    #[serde(default)]
    name: String,
}

impl MemberChange {
    /// Reads a committed configuration change: what it does stands in its type and in the JSON of its context. An error
    /// stops the member, as in etcd.
    pub fn from_conf_change(change: &raftpb::ConfChange) -> Result<Self, String> {
        use raftpb::ConfChangeType::{ConfChangeAddLearnerNode, ConfChangeAddNode, ConfChangeRemoveNode};
        let id = change.node_id.unwrap_or(0);
        let kind = raftpb::ConfChangeType::try_from(change.r#type.unwrap_or(0)).map_err(|error| error.to_string())?;
        if kind == ConfChangeRemoveNode {
            return Ok(Self::Remove { id });
        }
        let json = change.context.as_deref().unwrap_or_default();
        let context: ChangeContext =
            serde_json::from_slice(json).map_err(|error| format!("context of the change of member {id:x}: {error}"))?;
        if context.id != id {
            return Err(format!("got different member ID: {id:x} in the change, {:x} in its context", context.id));
        }
        let peer_urls = context.peer_urls.unwrap_or_default();
        Ok(match kind {
            ConfChangeAddNode | ConfChangeAddLearnerNode if context.is_promote => Self::Promote { id },
            ConfChangeAddNode | ConfChangeAddLearnerNode => {
                Self::Add { id, name: context.name, peer_urls, learner: context.is_learner }
            }
            _ => Self::Update { id, peer_urls },
        })
    }

    pub fn id(&self) -> u64 {
        match self {
            Self::Add { id, .. } | Self::Promote { id } | Self::Remove { id } | Self::Update { id, .. } => *id,
        }
    }
}

impl Membership {
    /// etcd's `ValidateConfigurationChange`: whether the change may still be made now that it is committed.
    /// `learners_max` is `--max-learners`; members should agree on it.
    pub fn check(&self, change: &MemberChange, learners_max: usize) -> Result<(), EtcdError> {
        let id = change.id();
        if self.removed.contains(&id) {
            return Err(EtcdError::MemberNotFound);
        }
        let known = self.members.get(&id);
        match change {
            MemberChange::Add { peer_urls, learner, .. } => {
                if known.is_some() {
                    return Err(EtcdError::MemberExist);
                }
                self.check_peer_urls(peer_urls, None)?;
                if *learner && self.learners() >= learners_max {
                    return Err(EtcdError::TooManyLearners);
                }
                Ok(())
            }
            MemberChange::Promote { .. } => match known {
                None => Err(EtcdError::MemberNotFound),
                Some(member) if !member.is_learner => Err(EtcdError::MemberNotLearner),
                Some(_) => Ok(()),
            },
            MemberChange::Remove { .. } => known.map(drop).ok_or(EtcdError::MemberNotFound),
            MemberChange::Update { peer_urls, .. } => {
                known.ok_or(EtcdError::MemberNotFound)?;
                self.check_peer_urls(peer_urls, Some(id))
            }
        }
    }

    pub fn learners(&self) -> usize {
        self.members.values().filter(|member| member.is_learner).count()
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_learner)
    }

    /// Makes a checked change. Returns the member to store, or `None` if it was removed.
    pub(crate) fn make(&mut self, change: MemberChange) -> Option<&Member> {
        let id = change.id();
        match change {
            MemberChange::Add { id, name, peer_urls, learner } => {
                let member = Member { id, name, peer_urls, is_learner: learner, ..Member::default() };
                self.members.insert(id, member);
            }
            MemberChange::Promote { .. } => {
                self.members.get_mut(&id).expect("checked: it is a member").is_learner = false;
            }
            MemberChange::Remove { .. } => {
                self.members.remove(&id);
                self.removed.insert(id);
            }
            MemberChange::Update { peer_urls, .. } => {
                self.members.get_mut(&id).expect("checked: it is a member").peer_urls = peer_urls;
            }
        }
        self.members.get(&id)
    }

    fn check_peer_urls(&self, peer_urls: &[String], except: Option<u64>) -> Result<(), EtcdError> {
        let mut others = self.members.values().filter(|member| Some(member.id) != except);
        if others.any(|member| member.peer_urls.iter().any(|url| peer_urls.contains(url))) {
            return Err(EtcdError::PeerURLExist);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(id: u64, url: &str, learner: bool) -> MemberChange {
        MemberChange::Add { id, name: String::new(), peer_urls: vec![url.to_owned()], learner }
    }

    #[test]
    fn changes_are_checked_as_etcd_checks_them() {
        let mut membership = Membership::default();
        let mut change = |change: MemberChange| {
            membership.check(&change, DEFAULT_LEARNERS_MAX)?;
            membership.make(change);
            Ok(())
        };
        assert_eq!(change(add(1, "http://a", false)), Ok(()));
        assert_eq!(change(add(1, "http://b", false)), Err(EtcdError::MemberExist));
        assert_eq!(change(add(2, "http://a", false)), Err(EtcdError::PeerURLExist));
        assert_eq!(change(add(2, "http://b", true)), Ok(()));
        assert_eq!(change(add(3, "http://c", true)), Err(EtcdError::TooManyLearners));
        assert_eq!(change(MemberChange::Promote { id: 1 }), Err(EtcdError::MemberNotLearner));
        assert_eq!(change(MemberChange::Promote { id: 4 }), Err(EtcdError::MemberNotFound));
        assert_eq!(change(MemberChange::Promote { id: 2 }), Ok(()));
        let update = |id, url: &str| MemberChange::Update { id, peer_urls: vec![url.to_owned()] };
        assert_eq!(change(update(2, "http://a")), Err(EtcdError::PeerURLExist));
        assert_eq!(change(update(2, "http://b")), Ok(()));
        assert_eq!(change(update(9, "http://z")), Err(EtcdError::MemberNotFound));
        assert_eq!(change(MemberChange::Remove { id: 2 }), Ok(()));
        assert_eq!(change(MemberChange::Remove { id: 2 }), Err(EtcdError::MemberNotFound));
        assert_eq!(change(add(2, "http://b", false)), Err(EtcdError::MemberNotFound));
        assert_eq!(membership.members.len(), 1);
    }

    #[test]
    fn learners_are_limited_as_configured() {
        let mut membership = Membership::default();
        for (id, learners_max, expected) in [
            (1, 0, Err(EtcdError::TooManyLearners)),
            (1, 1, Ok(())),
            (2, 1, Err(EtcdError::TooManyLearners)),
            (2, 2, Ok(())),
        ] {
            let change = add(id, &format!("http://{id}"), true);
            assert_eq!(membership.check(&change, learners_max), expected, "{id} of {learners_max}");
            if expected.is_ok() {
                membership.make(change);
            }
        }
        assert_eq!((membership.learners(), membership.voters().count()), (2, 0));
    }

    /// The contexts are those of entries that etcd 3.7.1 wrote.
    #[test]
    fn configuration_changes_are_read_from_etcds_entries() {
        use raftpb::ConfChangeType as Kind;
        let urls = || vec!["http://a:1".to_owned()];
        let read = |kind: Kind, context: &'static str| {
            let context = (!context.is_empty()).then(|| bytes::Bytes::from_static(context.as_bytes()));
            let r#type = Some(kind as i32);
            MemberChange::from_conf_change(&raftpb::ConfChange { id: None, r#type, node_id: Some(7), context })
        };
        for (kind, context, expected) in [
            (
                Kind::ConfChangeAddNode,
                r#"{"id":7,"peerURLs":["http://a:1"],"name":"x"}"#,
                MemberChange::Add { id: 7, name: "x".to_owned(), peer_urls: urls(), learner: false },
            ),
            (
                Kind::ConfChangeAddLearnerNode,
                r#"{"id":7,"peerURLs":["http://a:1"],"isLearner":true}"#,
                MemberChange::Add { id: 7, name: String::new(), peer_urls: urls(), learner: true },
            ),
            (Kind::ConfChangeAddNode, r#"{"id":7,"peerURLs":null,"isPromote":true}"#, MemberChange::Promote { id: 7 }),
            (
                Kind::ConfChangeUpdateNode,
                r#"{"id":7,"peerURLs":["http://a:1"]}"#,
                MemberChange::Update { id: 7, peer_urls: urls() },
            ),
            (Kind::ConfChangeRemoveNode, "", MemberChange::Remove { id: 7 }),
        ] {
            assert_eq!(read(kind, context), Ok(expected));
        }
        for context in ["", "{", r#"{"id":8,"peerURLs":null}"#] {
            assert!(read(Kind::ConfChangeAddNode, context).is_err(), "{context}");
            assert!(read(Kind::ConfChangeUpdateNode, context).is_err(), "{context}");
        }
    }
}
