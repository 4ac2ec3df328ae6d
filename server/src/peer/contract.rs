//! What the transport asks of the member it works for: where received messages go, and the answers to what other
//! members ask over the peer port. Nothing here does anything.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::{HashKvResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use kvorum_api::raftpb;
use kvorum_store::Member;

use crate::cluster::versions::Versions;

/// What the transport tells the member. Called on the `peers` thread, never while the transport holds a lock, and never
/// from within a call into the transport. None of these may block.
pub trait PeerEvents: Send + Sync + 'static {
    /// Messages that came in together, in their order: from a member that is not removed, and meant for this one.
    fn receive(&self, messages: Vec<raftpb::Message>);

    /// A `MsgSnap`, with its database: a complete file in the snapshot folder, `<16 hexadecimal digits of the
    /// index>.snap.db`, durable.
    ///
    /// Answers when the database is the store, or why it is not; the sender waits for it. The file is the member's.
    fn receive_snapshot(&self, message: raftpb::Message, database: PathBuf) -> Answer<Result<(), String>>;

    /// Whether the member was removed from the cluster for good.
    fn is_removed(&self, member_id: u64) -> bool;

    /// Messages to the member were lost (raft's `ReportUnreachable`).
    fn unreachable(&self, member_id: u64);

    /// The member's process ended: both its streams did, and nothing listens at any of its URLs. Comes again for as long as
    /// it is so.
    fn gone(&self, member_id: u64);

    /// How sending a snapshot ended (raft's `ReportSnapshot`).
    fn snapshot_sent(&self, member_id: u64, ok: bool);

    /// A peer says that this member was removed from the cluster. It should stop. May come more than once.
    fn removed_by_peer(&self);
}

/// An answer that takes its time.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the transport asks of the member to answer other members. Called on the `peers` thread; must not block, but the
/// answers may take their time.
pub trait PeerAnswers: Send + Sync + 'static {
    /// The members as applied so far, by id (`/members`).
    fn members(&self) -> Vec<Member>;

    /// `/version`.
    fn versions(&self) -> Versions;

    /// Renews a lease as the leader, after waiting until all that is committed is applied; gives its time to live in
    /// seconds (`/leases`).
    fn renew_lease(&self, lease_id: i64) -> Answer<Result<i64, LeaseRefusal>>;

    /// The remaining time of a lease, and its keys if asked for; as the leader (`/leases/internal`).
    fn lease_times(&self, request: LeaseTimeToLiveRequest) -> Answer<Result<LeaseTimeToLiveResponse, LeaseRefusal>>;

    /// Makes a learner a voting member, as the leader; gives the members after it (`/members/promote/`). `token` is the
    /// client's.
    fn promote(&self, member_id: u64, token: Option<String>) -> Answer<Result<Vec<Member>, EtcdError>>;

    /// The hash of the store at a revision, 0 for the current one; the error is etcd's text ([`HASH_COMPACTED`],
    /// [`HASH_FUTURE`]).
    fn hash_kv(&self, revision: i64) -> Answer<Result<HashKvResponse, String>>;

    /// Whether a downgrade is under way, after a linearizable wait; the error is the text of the failed wait.
    fn downgrade_enabled(&self) -> Answer<Result<bool, String>>;
}

/// The error text of [`PeerAnswers::hash_kv`] for a revision that was compacted.
pub const HASH_COMPACTED: &str = "mvcc: required revision has been compacted";

/// The error text of [`PeerAnswers::hash_kv`] for a revision that is still to come.
pub const HASH_FUTURE: &str = "mvcc: required revision is a future revision";

/// Why a lease was not renewed or looked up. `Display` is etcd's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseRefusal {
    /// No such lease.
    NotFound,
    /// This member's entries were not applied up to the commit index in time.
    Timeout,
    /// Leadership moved meanwhile.
    NotPrimary,
    Other(String),
}

impl std::fmt::Display for LeaseRefusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::NotFound => "lease not found",
            Self::Timeout => "waiting for node to catch up its applied index has timed out",
            Self::NotPrimary => "not a primary lessor",
            Self::Other(text) => text,
        })
    }
}
