//! Software transactional memory: a function reads and writes keys as if it were alone, and is executed again when it
//! was not (Go's `concurrency.STM`).
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use kvorum_client::recipes::stm::{Isolation, Stm, transact};
//!
//! client.put("accounts/a", "10").await?;
//! client.put("accounts/b", "0").await?;
//! let number = |value: Option<bytes::Bytes>| -> i64 {
//!     value.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok()).unwrap_or(0)
//! };
//! transact(&client, Isolation::SerializableSnapshot, |stm: Stm| async move {
//!     let (a, b) = (number(stm.get("accounts/a").await?), number(stm.get("accounts/b").await?));
//!     stm.put("accounts/a", (a - 3).to_string());
//!     stm.put("accounts/b", (b + 3).to_string());
//!     Ok(())
//! })
//! .await?;
//! assert_eq!(client.get("accounts/b").await?.kvs[0].value, "3");
//! # Ok(()) }); }
//! ```
//!
//! A commit whose outcome is unknown is an error ([`crate::Error::maybe_applied`]) and is never tried again blindly.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::connection::deadline_after;
use crate::error::{Error, Result};
use crate::keys::IntoBytes;
use crate::kv::{Compare, Delete, Get, Op, OpResponse, Put, TxnResponse};
use crate::response::{GetResponse, Header, LeaseId};
use crate::transport::Sent;

/// What a function is guarded against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Everything it read is of one revision and was unchanged at the commit, and nothing it writes was written since.
    #[default]
    SerializableSnapshot,
    /// Everything it read is of one revision and was unchanged at the commit.
    Serializable,
    /// Everything it read was unchanged at the commit.
    RepeatableReads,
    /// It reads what was committed, and writes whatever happened since.
    ReadCommitted,
}

/// Executes `function` until its commit meets no conflict, and gives its result with the answer to the commit. It is
/// executed one or more times, and must do nothing but read and write through what it is given.
///
/// # Errors
/// What the function returned; what reading and committing may fail with; [`crate::ErrorKind::DeadlineExceeded`] when the
/// time of a call is over and there was always a conflict.
pub async fn transact<T, F, R>(client: &Client, isolation: Isolation, function: F) -> Result<(T, TxnResponse)>
where
    F: Fn(Stm) -> R,
    R: Future<Output = Result<T>>,
{
    let deadline = deadline_after(client.connection().timeout());
    let mut backoff: Backoff = client.connection().backoff();
    let stm = Stm { client: client.clone(), isolation, state: Arc::default() };
    loop {
        let value = function(stm.clone()).await?;
        if let Some(committed) = stm.commit().await? {
            return Ok((value, committed));
        }
        let pause = backoff.pause();
        if tokio::time::Instant::now() + pause >= deadline {
            return Err(Error::deadline("the transaction met a conflict each time", Sent::Refused));
        }
        tokio::time::sleep(pause).await;
    }
}

/// The keys as a function sees them. Clones see the same.
#[derive(Clone)]
pub struct Stm {
    client: Client,
    isolation: Isolation,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    read: BTreeMap<Bytes, GetResponse>,
    written: BTreeMap<Bytes, Written>,
    /// What a commit that met a conflict read, to save reading it again.
    prefetched: BTreeMap<Bytes, GetResponse>,
    /// The revision of the first read, which the others are of.
    first_revision: Option<i64>,
}

#[derive(Clone)]
struct Written {
    /// None for a deletion.
    value: Option<Bytes>,
    lease: LeaseId,
}

impl State {
    fn note(&mut self, key: Bytes, response: GetResponse) -> GetResponse {
        self.first_revision.get_or_insert(response.revision());
        self.read.entry(key).or_insert(response).clone()
    }
}

impl Stm {
    /// The value of a key, as written here or read; None when it does not exist.
    ///
    /// # Errors
    /// What reading may fail with.
    pub async fn get(&self, key: impl IntoBytes) -> Result<Option<Bytes>> {
        let key = key.into_bytes();
        if let Some(written) = self.state.lock().written.get(&key) {
            return Ok(written.value.clone());
        }
        let response = self.read(key).await?;
        Ok(response.kvs.first().map(|kv| kv.value.clone()))
    }

    /// The revision at which a key was last changed; 0 when it does not exist.
    ///
    /// # Errors
    /// What reading may fail with.
    pub async fn mod_revision(&self, key: impl IntoBytes) -> Result<i64> {
        let response = self.read(key.into_bytes()).await?;
        Ok(response.kvs.first().map_or(0, |kv| kv.mod_revision))
    }

    /// Writes a key at the commit.
    pub fn put(&self, key: impl IntoBytes, value: impl IntoBytes) {
        self.put_with_lease(key, value, LeaseId(0));
    }

    /// Writes a key at the commit and attaches it to a lease.
    pub fn put_with_lease(&self, key: impl IntoBytes, value: impl IntoBytes, lease: impl Into<LeaseId>) {
        let written = Written { value: Some(value.into_bytes()), lease: lease.into() };
        self.state.lock().written.insert(key.into_bytes(), written);
    }

    /// Deletes a key at the commit.
    pub fn delete(&self, key: impl IntoBytes) {
        let written = Written { value: None, lease: LeaseId(0) };
        self.state.lock().written.insert(key.into_bytes(), written);
    }

    fn is_serializable(&self) -> bool {
        matches!(self.isolation, Isolation::SerializableSnapshot | Isolation::Serializable)
    }

    async fn read(&self, key: Bytes) -> Result<GetResponse> {
        let first_revision = {
            let mut state = self.state.lock();
            if let Some(response) = state.read.get(&key) {
                return Ok(response.clone());
            }
            if let Some(response) = state.prefetched.remove(&key) {
                return Ok(state.note(key, response));
            }
            state.first_revision
        };
        let get = self.client.get(&key);
        let response = match first_revision {
            Some(revision) if self.is_serializable() => get.at_revision(revision).await?,
            _ => get.await?,
        };
        Ok(self.state.lock().note(key, response))
    }

    /// None when there was a conflict; then everything is as at the beginning, but for what was read for the next time.
    async fn commit(&self) -> Result<Option<TxnResponse>> {
        let State { read, written, first_revision, .. } = std::mem::take(&mut *self.state.lock());
        let mut compares = Vec::new();
        if self.isolation != Isolation::ReadCommitted {
            compares.extend(read.iter().map(|(key, response)| {
                let revision = response.kvs.first().map_or(0, |kv| kv.mod_revision);
                Compare::mod_revision(key).equals(revision)
            }));
        }
        if self.isolation == Isolation::SerializableSnapshot {
            let behind = first_revision.map_or(i64::MAX, |revision| revision + 1);
            compares.extend(written.keys().map(|key| Compare::mod_revision(key).less_than(behind)));
        }
        let writes: Vec<Op> = written
            .into_iter()
            .map(|(key, written)| match written.value {
                Some(value) => Put::new(key, value).with_lease(written.lease).into(),
                None => Delete::new(key).into(),
            })
            .collect();
        let reads: Vec<Get> = read.keys().map(Get::new).collect();
        let outcome = self.client.txn().when(compares).then(writes).otherwise(reads).await?;
        if outcome.succeeded {
            return Ok(Some(outcome));
        }
        if self.is_serializable() {
            let revision = outcome.header.revision;
            let responses = outcome.responses.into_iter().filter_map(OpResponse::into_get);
            let mut prefetched: BTreeMap<Bytes, GetResponse> = read.into_keys().zip(responses).collect();
            // Answers inside of a transaction need not have a header.
            for response in prefetched.values_mut() {
                response.header.get_or_insert_default().revision = revision;
            }
            self.state.lock().prefetched = prefetched;
        }
        Ok(None)
    }
}
