//! A session: a lease that is kept alive, to hang locks, elections and presence on (Go's `concurrency.Session`). When the
//! lease is lost, everything that stands on the session is lost with it; [`Session::lost`] says when.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use kvorum_client::recipes::session::Session;
//!
//! let session = Session::new(&client, 10).await?;
//! client.put("workers/1", "here").with_lease(session.lease()).await?;
//! session.close().await?;
//! assert!(client.get("workers/1").await?.kvs.is_empty());
//! # Ok(()) }); }
//! ```

use crate::client::Client;
use crate::error::Result;
use crate::lease::{LeaseEnd, LeaseGuard};
use crate::response::LeaseId;

/// The time of a session's lease in Go's `concurrency`, in seconds.
pub const DEFAULT_TTL_SECONDS: i64 = 60;

/// A lease that is kept alive and revoked when the session is closed or dropped.
#[must_use = "a session ends when it is dropped"]
pub struct Session {
    client: Client,
    guard: LeaseGuard,
}

impl Session {
    /// Begins a session whose lease lasts so many seconds after contact was lost.
    ///
    /// # Errors
    /// What granting a lease may fail with.
    pub async fn new(client: &Client, ttl_seconds: i64) -> Result<Self> {
        let guard = client.lease().hold(ttl_seconds).revoke_on_drop().await?;
        Ok(Self { client: client.clone(), guard })
    }

    /// The client it was begun with.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The lease; keys attached to it end with the session.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.guard.id()
    }

    /// Ends when the session is lost, and says why.
    pub async fn lost(&self) -> LeaseEnd {
        self.guard.lost().await
    }

    /// Whether the session is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.guard.is_lost()
    }

    /// Ends the session and waits for it.
    ///
    /// # Errors
    /// What revoking a lease may fail with; the session is over anyway.
    pub async fn close(self) -> Result<()> {
        self.guard.revoke().await
    }

    /// Stops keeping the lease alive without revoking it (Go's `Orphan`), and gives it.
    pub fn orphan(self) -> LeaseId {
        self.guard.release()
    }
}
