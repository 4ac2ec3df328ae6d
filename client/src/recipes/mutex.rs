//! A lock over the cluster, held by a session (Go's `concurrency.Mutex`, with the same keys). It orders those who wait by
//! when they came.
//!
//! A lock of this kind is advice: a holder that was away for longer than its session lasts may believe that it still
//! holds it. What must not be done twice goes into a transaction that compares [`MutexGuard::is_owner`].
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use kvorum_client::Put;
//! use kvorum_client::recipes::{mutex::Mutex, session::Session};
//!
//! let session = Session::new(&client, 10).await?;
//! let lock = Mutex::new(&session, "locks/report").lock().await?;
//! let outcome = client.txn().when([lock.is_owner()]).then(Put::new("report", "done")).await?;
//! assert!(outcome.succeeded, "the lock was lost");
//! lock.unlock().await?;
//! # Ok(()) }); }
//! ```

use bytes::Bytes;

use super::session::Session;
use super::waiting::{Place, Remover, take_place, wait_for_turn};
use crate::error::{Error, Result};
use crate::kv::Compare;
use crate::response::{Header as _, ResponseHeader};

/// A lock by its name. One session has one place in its line: locking it twice with one session succeeds at once.
pub struct Mutex<'a> {
    session: &'a Session,
    prefix: String,
}

impl<'a> Mutex<'a> {
    /// A lock whose keys begin with `name` and a slash.
    #[must_use]
    pub fn new(session: &'a Session, name: &str) -> Self {
        Self { session, prefix: format!("{name}/") }
    }

    /// Waits until the lock is had, however long that takes. Dropping the future gives the place in the line up.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LeaseLost`] when the session is lost meanwhile, and what reading and watching may fail with.
    pub async fn lock(&self) -> Result<MutexGuard<'a>> {
        let (mut guard, head_is_own) = self.take_place().await?;
        if head_is_own {
            return Ok(guard);
        }
        let client = self.session.client();
        let turn = wait_for_turn(client, &self.prefix, guard.place.revision);
        tokio::select! {
            turn = turn => turn?,
            end = self.session.lost() => return Err(end.into()),
        };
        // The session may have ended while it waited, and the place with it.
        let own = client.get(&guard.place.key).await?;
        guard.place.header = own.header();
        if own.kvs.is_empty() {
            return Err(Error::lease_lost("the session ended while it waited for the lock"));
        }
        guard.remover.arm();
        Ok(guard)
    }

    /// The lock if nobody else has it or waits for it, and None otherwise (Go's `ErrLocked`).
    ///
    /// # Errors
    /// What a transaction may fail with.
    pub async fn try_lock(&self) -> Result<Option<MutexGuard<'a>>> {
        let (guard, head_is_own) = self.take_place().await?;
        if head_is_own {
            return Ok(Some(guard));
        }
        guard.unlock().await?;
        Ok(None)
    }

    async fn take_place(&self) -> Result<(MutexGuard<'a>, bool)> {
        let session = self.session;
        let (place, mut remover) = take_place(session.client(), &self.prefix, session.lease(), Bytes::new()).await?;
        let head_is_own = place.head.as_ref().is_none_or(|head| head.create_revision == place.revision);
        if head_is_own {
            remover.arm();
        }
        Ok((MutexGuard { session, remover, place }, head_is_own))
    }
}

/// A lock that is held until this is dropped, which unlocks in the background.
#[must_use = "a lock is released when its guard is dropped"]
pub struct MutexGuard<'a> {
    session: &'a Session,
    place: Place,
    remover: Remover,
}

impl MutexGuard<'_> {
    /// The key that stands for the lock.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.place.key
    }

    /// The revision at which the place in the line was taken: it grows from holder to holder, and so can fence.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.place.revision
    }

    /// The header of the answer that said the lock is had.
    #[must_use]
    pub fn header(&self) -> ResponseHeader {
        self.place.header
    }

    /// Holds in a transaction as long as the lock is held.
    #[must_use]
    pub fn is_owner(&self) -> Compare {
        Compare::create_revision(&self.place.key).equals(self.place.revision)
    }

    /// Ends when the session, and the lock with it, is lost.
    pub async fn lost(&self) -> crate::lease::LeaseEnd {
        self.session.lost().await
    }

    /// Unlocks and waits for it.
    ///
    /// # Errors
    /// What a deletion may fail with; the lock then ends with the session at the latest.
    pub async fn unlock(self) -> Result<()> {
        self.remover.remove().await
    }
}
