//! Who belongs to the cluster, and which version it agreed on.
//!
//! Rules of etcd's `membership.RaftCluster`. Nothing here talks to a member.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_api::EtcdError;

/// etcd's default for `--max-learners`.
const LEARNERS_MAX: usize = 1;

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

impl MemberChange {
    pub fn id(&self) -> u64 {
        match self {
            Self::Add { id, .. } | Self::Promote { id } | Self::Remove { id } | Self::Update { id, .. } => *id,
        }
    }
}

impl Membership {
    /// etcd's `ValidateConfigurationChange`: whether the change may still be made now that it is committed.
    pub fn check(&self, change: &MemberChange) -> Result<(), EtcdError> {
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
                let learners = self.members.values().filter(|member| member.is_learner).count();
                if *learner && learners >= LEARNERS_MAX {
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

/// etcd stops on a cluster version that is not a semantic version, before anything is stored.
pub(crate) fn is_semantic_version(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = 0;
    for number in core.split('.') {
        if number.is_empty() || number.parse::<u32>().is_err() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        numbers += 1;
    }
    numbers == 3
}

/// Major and minor of a semantic version.
pub(crate) fn major_minor(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
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
            membership.check(&change)?;
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
    fn versions() {
        assert!(is_semantic_version("3.7.0") && is_semantic_version("3.7.0-rc.1"));
        assert!(!is_semantic_version("3.7") && !is_semantic_version("") && !is_semantic_version("3.x.0"));
        assert_eq!(major_minor("3.7.0"), Some((3, 7)));
    }
}
