//! Waiting in line: keys below a prefix, ordered by the revision of their creation, each owner waiting for those before.
//! Every step is safe to interrupt; the owner's key is removed by whoever made it.

use bytes::Bytes;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::kv::{Compare, Delete, Get, OpResponse, Put, SortBy};
use crate::response::{EventExt, Header, KeyValue, LeaseId, ResponseHeader};
use crate::watcher::WatchError;

/// A place in the line.
#[derive(Clone, Debug)]
pub struct Place {
    pub key: String,
    /// The revision the key was created at.
    pub revision: i64,
    pub header: ResponseHeader,
    /// Who is at the head of the line, if anybody was when the place was taken.
    pub head: Option<KeyValue>,
    /// What the key held if it was there already.
    pub existing: Option<KeyValue>,
}

/// Takes a place, or finds the one that the lease has already (`concurrency/mutex.go`, `tryAcquire`). A caller that gives
/// up while the answer is on its way leaves no place behind: the request goes on without it and what it made is removed.
pub async fn take_place(client: &Client, prefix: &str, lease: LeaseId, value: Bytes) -> Result<(Place, Remover)> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let (client, prefix) = (client.clone(), prefix.to_owned());
    tokio::spawn(async move {
        let taken = request_place(&client, &prefix, lease, value).await;
        // If nobody waits any more, the remover is dropped here.
        drop(sender.send(taken.map(|place| (place.clone(), Remover::new(&client, &place)))));
    });
    receiver.await.unwrap_or_else(|_| Err(Error::configuration("the runtime has ended")))
}

async fn request_place(client: &Client, prefix: &str, lease: LeaseId, value: Bytes) -> Result<Place> {
    let key = format!("{prefix}{lease}");
    let head = Get::new(prefix).first_by(SortBy::CreateRevision);
    let outcome = client
        .txn()
        .when([Compare::create_revision(&key).equals(0)])
        .then((Put::new(&key, value).with_lease(lease), head.clone()))
        .otherwise((Get::new(&key), head))
        .await?;
    let mut responses = outcome.responses.into_iter();
    let own = responses.next();
    let head = responses.next().and_then(OpResponse::into_get).and_then(|head| head.kvs.into_iter().next());
    let existing = own.and_then(OpResponse::into_get).and_then(|own| own.kvs.into_iter().next());
    let revision = match &existing {
        Some(existing) if !outcome.succeeded => existing.create_revision,
        _ => outcome.header.revision,
    };
    Ok(Place { key, revision, header: outcome.header, head, existing })
}

/// Waits until all keys below the prefix that were created before `revision` are gone (`concurrency/key.go`).
pub async fn wait_for_turn(client: &Client, prefix: &str, revision: i64) -> Result<ResponseHeader> {
    loop {
        let before = client.get(prefix).last_by(SortBy::CreateRevision).max_create_revision(revision - 1).await?;
        let Some(last) = before.kvs.first() else { return Ok(before.header()) };
        wait_until_deleted(client, &last.key, before.revision()).await?;
    }
}

/// Waits until a key is deleted at or behind a revision.
async fn wait_until_deleted(client: &Client, key: &[u8], revision: i64) -> Result<()> {
    let mut watch = match client.watch(key).from_revision(revision).without_puts().await {
        Ok(watch) => watch,
        Err(error) => return from_watch(error),
    };
    while let Some(response) = watch.next().await {
        match response {
            Ok(response) if response.events.iter().any(EventExt::is_delete) => return Ok(()),
            Ok(_) => {}
            Err(error) => return from_watch(error),
        }
    }
    Ok(())
}

/// After a compaction the line is looked at anew.
fn from_watch(error: WatchError) -> Result<()> {
    match error {
        WatchError::Compacted { .. } => Ok(()),
        error => Err(error.into()),
    }
}

/// Deletes a key once: when told to, or when dropped. Of a place that was there before, only once it is armed.
pub struct Remover {
    client: Client,
    key: String,
    revision: i64,
    /// Whether a drop deletes.
    is_armed: bool,
    runtime: tokio::runtime::Handle,
}

impl Remover {
    pub fn new(client: &Client, place: &Place) -> Self {
        Self {
            client: client.clone(),
            key: place.key.clone(),
            revision: place.revision,
            is_armed: place.existing.is_none(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// The place is the caller's from now on.
    pub fn arm(&mut self) {
        self.is_armed = true;
    }

    pub async fn remove(mut self) -> Result<()> {
        let outcome = remove(&self.client, &self.key, self.revision).await;
        // After a failure the drop tries once more.
        self.is_armed = outcome.is_err();
        outcome
    }

    pub fn keep(mut self) {
        self.is_armed = false;
    }
}

/// Only the key that was made, not one that somebody made after it.
async fn remove(client: &Client, key: &str, revision: i64) -> Result<()> {
    let own = Compare::create_revision(key).equals(revision);
    client.txn().when([own]).then(Delete::new(key)).await.map(drop)
}

impl Drop for Remover {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let (client, key, revision) = (self.client.clone(), std::mem::take(&mut self.key), self.revision);
        self.runtime.spawn(async move {
            if let Err(error) = remove(&client, &key, revision).await {
                tracing::debug!(%error, "a place in a line was not given up; it ends with its session");
            }
        });
    }
}
