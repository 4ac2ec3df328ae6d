//! The oracle and the server under test side by side, for tests that say themselves what to send. It must not hide a
//! difference: every outcome of [`both`] was compared.

use std::path::Path;

use tonic::transport::Channel;

use crate::call::{Call, Outcome, Reply};
use crate::compare::{Identity, anonymous, difference};
use crate::process::{Kind, Member};
use crate::raw;

/// A member that the test started, with a connection and its identifiers.
#[derive(Debug)]
pub struct Half {
    pub member: Member,
    pub channel: Channel,
    pub identity: Identity,
}

impl Half {
    /// Starts a member with etcd's flags.
    ///
    /// # Panics
    /// When it does not start or has no status.
    pub async fn start(kind: Kind, binary: &Path, flags: &[&str]) -> Half {
        let member = Member::start(kind, binary, flags).expect("the member must start");
        let channel = raw::channel(member.url());
        let mut half = Half { member, channel, identity: Identity::default() };
        half.identify().await;
        half
    }

    /// Connects anew and learns the identifiers, as is needed after a restart.
    ///
    /// # Panics
    /// When the member has no status.
    pub async fn identify(&mut self) {
        self.channel = raw::channel(self.member.url());
        let status = Call::Status.send(&self.channel).await;
        let Ok(Reply::Status(status)) = status else { panic!("no status: {status:?}") };
        let header = status.header.expect("a status has a header");
        self.identity =
            Identity { cluster_id: header.cluster_id, member_id: header.member_id, raft_term: header.raft_term };
    }

    /// Sends one request and takes the identifiers out of the outcome.
    pub async fn send(&self, call: &Call) -> Outcome {
        anonymous(call.send(&self.channel).await, self.identity)
    }

    /// The store's revision.
    ///
    /// # Panics
    /// When a range fails.
    pub async fn revision(&self) -> i64 {
        let range = kvorum_api::etcdserverpb::RangeRequest { key: "a".into(), count_only: true, ..Default::default() };
        let reply = self.send(&Call::Range(range)).await.expect("a range succeeds");
        reply.revision().expect("a range has a revision")
    }
}

/// Sends one request to both and gives the outcome they agree on.
///
/// # Panics
/// When they do not agree.
pub async fn both(left: &Half, right: &Half, call: &Call) -> Outcome {
    let (one, other) = tokio::join!(left.send(call), right.send(call));
    assert_eq!(difference(call, &one, &other), None, "{call:?}\netcd: {one:?}\nunder test: {other:?}");
    one
}
