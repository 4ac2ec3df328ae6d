//! An election: of all that campaign, one leads until it resigns or its session is lost (Go's `concurrency.Election`, with
//! the same keys).
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use kvorum_client::recipes::{election::Election, session::Session};
//!
//! let session = Session::new(&client, 10).await?;
//! let election = Election::new(&client, "elections/scheduler");
//! let leadership = election.campaign(&session, "10.0.0.1:80").await?;
//! assert_eq!(election.leader().await?.unwrap().value, "10.0.0.1:80");
//! leadership.resign().await?;
//! assert!(election.leader().await?.is_none());
//! # Ok(()) }); }
//! ```

use bytes::Bytes;

use super::session::Session;
use super::waiting::{Place, Remover, take_place, wait_for_turn};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::keys::IntoBytes;
use crate::kv::{Compare, Put, SortBy};
use crate::lease::LeaseEnd;
use crate::response::{EventExt, Header, KeyValue, ResponseHeader};
use crate::watcher::{Watch, WatchError};

/// An election by its name.
#[derive(Clone)]
pub struct Election {
    client: Client,
    prefix: String,
}

impl Election {
    /// An election whose keys begin with `name` and a slash.
    #[must_use]
    pub fn new(client: &Client, name: &str) -> Self {
        Self { client: client.clone(), prefix: format!("{name}/") }
    }

    /// Waits until it leads, however long that takes, and shows `value` to those who ask for the leader. Dropping the
    /// future gives up.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LeaseLost`] when the session is lost meanwhile, and what reading and watching may fail with.
    pub async fn campaign<'a>(&self, session: &'a Session, value: impl IntoBytes) -> Result<Leadership<'a>> {
        let value = value.into_bytes();
        let (place, remover) = take_place(&self.client, &self.prefix, session.lease(), value.clone()).await?;
        let mut leadership = Leadership { session, client: self.client.clone(), place, remover };
        if leadership.place.existing.as_ref().is_some_and(|existing| existing.value != value) {
            leadership.proclaim(value).await?;
        }
        tokio::select! {
            turn = wait_for_turn(&self.client, &self.prefix, leadership.place.revision) => turn?,
            end = session.lost() => return Err(end.into()),
        };
        if self.client.get(&leadership.place.key).await?.kvs.is_empty() {
            return Err(Error::lease_lost("the session ended during the campaign"));
        }
        leadership.remover.arm();
        Ok(leadership)
    }

    /// The key and value of the leader; None when nobody leads.
    ///
    /// # Errors
    /// What reading may fail with.
    pub async fn leader(&self) -> Result<Option<KeyValue>> {
        let first = self.client.get(&self.prefix).first_by(SortBy::CreateRevision).await?;
        Ok(first.kvs.into_iter().next())
    }

    /// Who leads, from now on: each leader, and each value a leader proclaims. Values that followed quickly upon each other
    /// may be missed, the last never.
    pub fn observe(&self) -> Observation {
        Observation { election: self.clone(), following: None }
    }
}

/// Leading, until this is dropped, which resigns in the background.
#[must_use = "a leader resigns when this is dropped"]
pub struct Leadership<'a> {
    session: &'a Session,
    client: Client,
    place: Place,
    remover: Remover,
}

impl Leadership<'_> {
    /// The key that stands for the leader.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.place.key
    }

    /// The revision at which the campaign began: it grows from leader to leader, and so can fence.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.place.revision
    }

    /// Holds in a transaction as long as it leads.
    #[must_use]
    pub fn is_leader(&self) -> Compare {
        Compare::create_revision(&self.place.key).equals(self.place.revision)
    }

    /// Shows another value.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LeaseLost`] when it does not lead any more, and what a transaction may fail with.
    pub async fn proclaim(&self, value: impl IntoBytes) -> Result<()> {
        let put = Put::new(&self.place.key, value).with_lease(self.session.lease());
        let outcome = self.client.txn().when([self.is_leader()]).then(put).await?;
        if outcome.succeeded { Ok(()) } else { Err(Error::lease_lost("the session of the leader has ended")) }
    }

    /// Ends when the session, and the leadership with it, is lost.
    pub async fn lost(&self) -> LeaseEnd {
        self.session.lost().await
    }

    /// Resigns and waits for it.
    ///
    /// # Errors
    /// What a deletion may fail with; the leadership then ends with the session at the latest.
    pub async fn resign(self) -> Result<()> {
        self.remover.remove().await
    }

    /// Goes on leading without this, until the session ends.
    pub fn detach(self) {
        self.remover.keep();
    }
}

/// The leaders as they come.
pub struct Observation {
    election: Election,
    following: Option<(Watch, Bytes)>,
}

impl Observation {
    /// The next leader or value. The first is whoever leads now; without one it waits. Dropping the future loses nothing.
    ///
    /// # Errors
    /// What reading and watching may fail with. It may be called again.
    pub async fn next(&mut self) -> Result<KeyValue> {
        self.next_with_header().await.map(|(_, kv)| kv)
    }

    /// The same, with the header of the answer that brought it.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_with_header(&mut self) -> Result<(ResponseHeader, KeyValue)> {
        loop {
            if let Some((watch, key)) = &mut self.following {
                match watch.next().await {
                    Some(Ok(response)) => {
                        let header = response.header;
                        let own = response.events.into_iter().filter(|event| event.key() == &key[..]);
                        let own: Vec<_> = own.collect();
                        let is_over = own.iter().any(EventExt::is_delete);
                        let last = own.into_iter().rfind(|event| !event.is_delete()).and_then(|event| event.kv);
                        if is_over {
                            self.following = None;
                        }
                        match last {
                            Some(kv) if !is_over => return Ok((header, kv)),
                            _ => continue,
                        }
                    }
                    Some(Err(error)) => {
                        self.following = None;
                        if !matches!(error, WatchError::Compacted { .. }) {
                            return Err(error.into());
                        }
                    }
                    None => self.following = None,
                }
            }
            if let Some(found) = self.find().await? {
                return Ok(found);
            }
        }
    }

    /// Looks who leads and follows that one; None when a look must be taken again.
    async fn find(&mut self) -> Result<Option<(ResponseHeader, KeyValue)>> {
        let client = &self.election.client;
        let prefix = &self.election.prefix;
        let first = client.get(prefix).first_by(SortBy::CreateRevision).await?;
        let (header, revision) = (first.header(), first.revision());
        if let Some(kv) = first.kvs.into_iter().next() {
            let watch = client.watch(&kv.key).from_revision(revision + 1).await?;
            self.following = Some((watch, kv.key.clone()));
            return Ok(Some((header, kv)));
        }
        let mut watch = client.watch(prefix).prefix().from_revision(revision + 1).without_deletes().await?;
        // Whoever comes first leads; who that is when several come is asked anew.
        match watch.next().await {
            Some(Err(error)) if !matches!(error, WatchError::Compacted { .. }) => Err(error.into()),
            _ => Ok(None),
        }
    }
}
