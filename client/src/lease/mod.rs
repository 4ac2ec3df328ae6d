//! Leases: keys attached to one are deleted when it ends, and it ends unless it is kept alive.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! // Kept alive in the background for as long as `lease` lives.
//! let lease = client.lease().hold(10).revoke_on_drop().await?;
//! client.put("service/a", "10.0.0.1:80").with_lease(lease.id()).await?;
//! tokio::select! {
//!     end = lease.lost() => println!("we are out: {end}"),
//!     () = async { /* the work */ } => {}
//! }
//! lease.revoke().await?;
//! assert!(client.get("service/a").await?.kvs.is_empty());
//! # Ok(()) }); }
//! ```
//!
//! All leases of a [`Lease`] share one gRPC stream, which is opened again when it breaks. A lease that is kept alive ends
//! once, with a [`LeaseEnd`] that says why.

mod guard;
mod task;

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use kvorum_api::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};
use tokio::sync::mpsc;

use crate::buffer::Buffer;
use crate::connection::{Connection, deadline_after};
use crate::error::{Error, EtcdError, Result};
use crate::method::{self, Repeat};
use crate::response::{
    LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
};
use crate::streaming;
use crate::transport::{BoxFuture, Sent};

pub use guard::{Hold, LeaseGuard};
use task::{Command, Task};

/// Answers that wait for the reader of a [`KeepAlive`]; beyond it the oldest are dropped (clientv3: the newest).
pub const BUFFERED_ANSWERS_MAX: usize = 16;

/// Leases of a cluster.
#[derive(Clone)]
pub struct Lease {
    connection: Connection,
    handle: Arc<Handle>,
}

/// Ends the task with the last of its users.
struct Handle {
    commands: mpsc::UnboundedSender<Command>,
}

impl Lease {
    /// Over a connection that others may use too, with a gRPC stream of its own for keeping alive. It must be called within
    /// a tokio runtime; the stream is opened when first needed.
    #[must_use]
    pub fn new(connection: &Connection) -> Self {
        // Each keep-alive has two commands, so their number bounds what waits here.
        let (commands, receiver) = mpsc::unbounded_channel();
        tokio::spawn(streaming::run(connection.clone(), Task::new(), receiver));
        Self { connection: connection.clone(), handle: Arc::new(Handle { commands }) }
    }

    pub(crate) fn with_connection(&self, connection: Connection) -> Self {
        Self { connection, ..self.clone() }
    }

    /// Grants a lease that lasts so many seconds after it was kept alive last. The server may give it longer.
    pub fn grant(&self, ttl_seconds: i64) -> Grant {
        Grant { lease: self.clone(), request: LeaseGrantRequest { ttl: ttl_seconds, id: 0 } }
    }

    /// Grants a lease and keeps it alive for as long as the guard lives.
    pub fn hold(&self, ttl_seconds: i64) -> Hold {
        Hold::new(self, ttl_seconds)
    }

    /// Ends a lease, and deletes the keys attached to it.
    ///
    /// # Errors
    /// [`EtcdError::LeaseNotFound`], and what any call may fail with.
    pub async fn revoke(&self, id: impl Into<LeaseId>) -> Result<LeaseRevokeResponse> {
        self.connection.call(method::LEASE_REVOKE, &LeaseRevokeRequest { id: id.into().0 }).await
    }

    /// How long a lease has, in seconds; a `ttl` of -1 says that there is no such lease.
    pub fn time_to_live(&self, id: impl Into<LeaseId>) -> TimeToLive {
        let request = LeaseTimeToLiveRequest { id: id.into().0, keys: false };
        TimeToLive { connection: self.connection.clone(), request }
    }

    /// All leases.
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn leases(&self) -> Result<LeaseLeasesResponse> {
        self.connection.call(method::LEASE_LEASES, &LeaseLeasesRequest {}).await
    }

    /// Keeps a lease alive once.
    ///
    /// # Errors
    /// [`EtcdError::LeaseNotFound`] when it has ended, and what any call may fail with.
    pub async fn keep_alive_once(&self, id: impl Into<LeaseId>) -> Result<LeaseKeepAliveResponse> {
        let id = id.into();
        let deadline = deadline_after(self.connection.timeout());
        let attempt = async {
            let request = LeaseKeepAliveRequest { id: id.0 };
            let (_, answer) = self.connection.download(method::LEASE_KEEP_ALIVE, &request).await?;
            Ok::<Option<LeaseKeepAliveResponse>, Error>(answer)
        };
        match tokio::time::timeout_at(deadline, attempt).await {
            Ok(Ok(Some(answer))) if answer.ttl > 0 => Ok(answer),
            Ok(Ok(Some(_))) => Err(Error::from_text(EtcdError::LeaseNotFound.text())),
            Ok(Ok(None)) => Err(Error::protocol("the server ended the stream without an answer")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::deadline("context deadline exceeded", Sent::Maybe)),
        }
    }

    /// Keeps a lease alive until what is returned is dropped. Several may keep the same lease alive.
    pub fn keep_alive(&self, id: impl Into<LeaseId>) -> KeepAlive {
        // Nobody knows how long the lease has: the first answer must come within the time of a call.
        self.keep_alive_for(id.into(), self.connection.timeout())
    }

    fn keep_alive_for(&self, id: LeaseId, lasts: Duration) -> KeepAlive {
        let buffer = Buffer::new();
        let number = task::next_number();
        let command = Command::Keep { number, id: id.0, buffer: buffer.clone(), lasts };
        if self.handle.commands.send(command).is_err() {
            buffer.finish(Err(LeaseEnd::Failed(Error::configuration("the runtime that kept leases alive has ended"))));
        }
        KeepAlive { id, number, buffer, handle: Arc::clone(&self.handle) }
    }
}

/// A lease to be granted. It comes from [`Lease::grant`]; `.await` asks for it.
#[derive(Clone)]
#[must_use = "a lease is not granted until it is awaited"]
pub struct Grant {
    lease: Lease,
    request: LeaseGrantRequest,
}

impl Grant {
    /// Asks for this id, instead of one that the server chooses. [`EtcdError::LeaseExist`] when it is taken.
    pub fn with_id(mut self, id: impl Into<LeaseId>) -> Self {
        self.request.id = id.into().0;
        self
    }
}

impl IntoFuture for Grant {
    type Output = Result<LeaseGrantResponse>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            // Granted twice, a lease that nobody knows just ends; but one with an id would be found to exist.
            let repeat = if self.request.id == 0 { Repeat::Always } else { Repeat::WhenNotExecuted };
            let method = method::LEASE_GRANT.repeated(repeat);
            let response: LeaseGrantResponse = self.lease.connection.call(method, &self.request).await?;
            if response.error.is_empty() { Ok(response) } else { Err(Error::from_text(&response.error)) }
        })
    }
}

/// A question for the time a lease has. It comes from [`Lease::time_to_live`]; `.await` asks it.
#[derive(Clone)]
#[must_use = "nothing is asked until it is awaited"]
pub struct TimeToLive {
    connection: Connection,
    request: LeaseTimeToLiveRequest,
}

impl TimeToLive {
    /// Also asks for the keys attached to it.
    pub fn with_keys(mut self) -> Self {
        self.request.keys = true;
        self
    }
}

impl IntoFuture for TimeToLive {
    type Output = Result<LeaseTimeToLiveResponse>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            // A lease that is gone is an answer, not an error, since 3.1; the text is an older server's.
            self.connection.call(method::LEASE_TIME_TO_LIVE, &self.request).await
        })
    }
}

/// Keeps a lease alive, and is the [`Stream`] of the server's answers: it ends after one [`LeaseEnd`]. It need not be
/// read. Dropping it stops keeping the lease alive; the lease then lasts for the rest of its time.
#[must_use = "a lease is kept alive only as long as this lives"]
pub struct KeepAlive {
    id: LeaseId,
    number: u64,
    buffer: Buffer<Result<LeaseKeepAliveResponse, LeaseEnd>>,
    handle: Arc<Handle>,
}

impl KeepAlive {
    /// The lease.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The next answer; an error once when the lease is no longer kept alive, and None after it.
    pub async fn next(&mut self) -> Option<Result<LeaseKeepAliveResponse, LeaseEnd>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for KeepAlive {
    type Item = Result<LeaseKeepAliveResponse, LeaseEnd>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(ready!(self.buffer.poll_take(context)).map(|taken| taken.item))
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        drop(self.handle.commands.send(Command::Drop(self.number)));
    }
}

/// Why a lease is no longer kept alive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LeaseEnd {
    /// The server says that there is no such lease: it was revoked, or it ended.
    NotFound,
    /// No answer came for as long as the lease lasts: it may have ended, and must be taken for ended.
    Expired,
    /// The server refuses to keep it alive.
    Failed(Error),
}

impl fmt::Display for LeaseEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => formatter.write_str(EtcdError::LeaseNotFound.text()),
            Self::Expired => formatter.write_str("the lease could not be kept alive in time"),
            Self::Failed(error) => write!(formatter, "the lease cannot be kept alive: {error}"),
        }
    }
}

impl std::error::Error for LeaseEnd {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Failed(error) = self { Some(error) } else { None }
    }
}

impl From<LeaseEnd> for Error {
    fn from(end: LeaseEnd) -> Self {
        match end {
            LeaseEnd::Failed(error) => error,
            other => Error::lease_lost(other.to_string()),
        }
    }
}
