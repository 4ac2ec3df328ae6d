//! The members of a cluster: list, add, remove, update, promote; and where a client can reach them.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! for member in client.cluster().members().await?.members {
//!     println!("{:x} {} {:?}", member.id, member.name, member.client_urls);
//! }
//! # Ok(()) }); }
//! ```

use std::future::IntoFuture;
use std::sync::Weak;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kvorum_api::etcdserverpb::{
    MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, StatusRequest,
};

use crate::connection::{Connection, Inner};
use crate::error::{Error, Result};
use crate::method;
use crate::response::{
    MemberAddResponse, MemberId, MemberListResponse, MemberPromoteResponse, MemberRemoveResponse, MemberUpdateResponse,
    StatusResponse,
};
use crate::transport::BoxFuture;

/// How long one automatic synchronisation may take (clientv3's `autoSync`).
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// The oldest minor version of major version 3 that [`crate::Config::reject_old_cluster`] takes: the one before the API's.
const OLDEST_MINOR: u64 = 6;

/// The members of a cluster.
#[derive(Clone)]
pub struct Cluster {
    connection: Connection,
}

impl Cluster {
    /// Over a connection that others may use too.
    #[must_use]
    pub fn new(connection: &Connection) -> Self {
        Self { connection: connection.clone() }
    }

    /// The members, as the leader knows them; [`MemberList::serializable`] asks any member.
    pub fn members(&self) -> MemberList {
        MemberList { connection: self.connection.clone(), linearizable: true }
    }

    /// Adds a voting member, which may be started then.
    ///
    /// # Errors
    /// [`crate::EtcdError::PeerURLExist`], [`crate::EtcdError::MemberNotEnoughStarted`], and what any call may fail with.
    pub async fn add<I: IntoIterator>(&self, peer_urls: I) -> Result<MemberAddResponse>
    where
        I::Item: Into<String>,
    {
        self.add_member(peer_urls.into_iter().map(Into::into).collect(), false).await
    }

    /// Adds a member that learns but does not vote, to be promoted once it has caught up.
    ///
    /// # Errors
    /// As [`Self::add`], and [`crate::EtcdError::TooManyLearners`].
    pub async fn add_learner<I: IntoIterator>(&self, peer_urls: I) -> Result<MemberAddResponse>
    where
        I::Item: Into<String>,
    {
        self.add_member(peer_urls.into_iter().map(Into::into).collect(), true).await
    }

    async fn add_member(&self, peer_urls: Vec<String>, is_learner: bool) -> Result<MemberAddResponse> {
        self.connection.call(method::MEMBER_ADD, &MemberAddRequest { peer_urls, is_learner }).await
    }

    /// Removes a member.
    ///
    /// # Errors
    /// [`crate::EtcdError::MemberNotFound`], and what any call may fail with.
    pub async fn remove(&self, id: impl Into<MemberId>) -> Result<MemberRemoveResponse> {
        self.connection.call(method::MEMBER_REMOVE, &MemberRemoveRequest { id: id.into().0 }).await
    }

    /// Changes a member's peer URLs.
    ///
    /// # Errors
    /// [`crate::EtcdError::MemberNotFound`], [`crate::EtcdError::PeerURLExist`], and what any call may fail with.
    pub async fn update<I: IntoIterator>(&self, id: impl Into<MemberId>, peer_urls: I) -> Result<MemberUpdateResponse>
    where
        I::Item: Into<String>,
    {
        let peer_urls = peer_urls.into_iter().map(Into::into).collect();
        self.connection.call(method::MEMBER_UPDATE, &MemberUpdateRequest { id: id.into().0, peer_urls }).await
    }

    /// Lets a learner vote.
    ///
    /// # Errors
    /// [`crate::EtcdError::LearnerNotReady`], [`crate::EtcdError::MemberNotLearner`], and what any call may fail with.
    pub async fn promote(&self, id: impl Into<MemberId>) -> Result<MemberPromoteResponse> {
        self.connection.call(method::MEMBER_PROMOTE, &MemberPromoteRequest { id: id.into().0 }).await
    }

    /// Uses the client URLs of all members as endpoints from now on: those of members that have a name, as others have not
    /// started, and are no learners. Clientv3's `Sync`.
    ///
    /// # Errors
    /// What listing members may fail with. When no URL was found, nothing changes.
    pub async fn sync_endpoints(&self) -> Result<()> {
        let members = self.members().await?.members;
        let started = members.into_iter().filter(|member| !member.name.is_empty() && !member.is_learner);
        let endpoints: Vec<String> = started.flat_map(|member| member.client_urls).collect();
        if endpoints.is_empty() { Ok(()) } else { self.connection.set_endpoints(endpoints) }
    }
}

/// A list of members. It comes from [`Cluster::members`]; `.await` asks for it.
#[derive(Clone)]
#[must_use = "a list is not asked for until it is awaited"]
pub struct MemberList {
    connection: Connection,
    linearizable: bool,
}

impl MemberList {
    /// As the member that is asked knows them: it may be behind, and need not have a leader.
    pub fn serializable(mut self) -> Self {
        self.linearizable = false;
        self
    }
}

impl IntoFuture for MemberList {
    type Output = Result<MemberListResponse>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let method = if self.linearizable { method::MEMBER_LIST } else { method::MEMBER_LIST.without_leader() };
            self.connection.call(method, &MemberListRequest { linearizable: self.linearizable }).await
        })
    }
}

/// Learns the endpoints again and again while the connection is used.
pub(crate) async fn keep_synced(connection: Weak<Inner>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(connection) = Connection::again(&connection) else { return };
        if let Err(error) = Cluster::new(&connection.with_timeout(SYNC_TIMEOUT)).sync_endpoints().await {
            tracing::warn!(%error, "cannot learn the endpoints");
        }
    }
}

/// Fails unless one endpoint is of the previous minor version at least (clientv3's `checkVersion`). All are asked at the same
/// time, so that one that never answers holds up nobody.
pub(crate) async fn reject_old(connection: &Connection) -> Result<()> {
    let ask =
        async |asked: Connection| -> Result<StatusResponse> { asked.call(method::STATUS, &StatusRequest {}).await };
    let endpoints = connection.endpoints();
    let mut asked: FuturesUnordered<_> =
        endpoints.iter().map(|endpoint| ask(connection.with_endpoint(endpoint))).collect();
    let mut newest = None;
    let mut failure = None;
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(status) => newest = newest.max(version(&status.version)),
            Err(error) => failure = Some(error),
        }
        if newest.is_some_and(|found| found >= (3, OLDEST_MINOR)) {
            return Ok(());
        }
    }
    match (newest, failure) {
        (Some((major, minor)), _) => Err(Error::configuration(format!(
            "the cluster is of version {major}.{minor}, older than 3.{OLDEST_MINOR}, and old clusters are rejected"
        ))),
        (None, Some(error)) => Err(error),
        (None, None) => Err(Error::configuration("no endpoint has a version")),
    }
}

fn version(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions() {
        assert_eq!(version("3.7.1"), Some((3, 7)));
        assert_eq!(version("3.10.0-alpha.1"), Some((3, 10)));
        assert_eq!(version("not_decided"), None);
    }
}
