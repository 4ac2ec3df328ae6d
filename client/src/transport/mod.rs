//! How calls reach a member: a trait of two methods that carry encoded messages, and its implementation over HTTP/2.
//! It knows gRPC's framing and statuses and nothing of what a message means; it never repeats a call.
//!
//! Implement [`Transport`] to run a client inside a process, over something else than TCP, or against a fake:
//! [`crate::Connection::over`] takes it.
//!
//! It is also where layers go, as in tower: a transport that holds another and looks at what passes. This one counts calls.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use kvorum_client::transport::{BoxFuture, CallHead, Failure, Http2, ReceiveHalf, SendHalf};
//! use kvorum_client::{Client, Config, Connection, Error, Transport};
//!
//! struct Counted(Http2, Arc<AtomicU64>);
//!
//! impl Transport for Counted {
//!     fn unary(&self, head: CallHead, message: bytes::Bytes) -> BoxFuture<'static, Result<bytes::Bytes, Failure>> {
//!         self.1.fetch_add(1, Ordering::Relaxed);
//!         self.0.unary(head, message)
//!     }
//!
//!     fn stream(&self, head: CallHead) -> BoxFuture<'static, Result<(Box<dyn SendHalf>, Box<dyn ReceiveHalf>), Failure>> {
//!         self.0.stream(head)
//!     }
//!
//!     fn ready(&self) -> BoxFuture<'static, ()> {
//!         self.0.ready()
//!     }
//!
//!     fn endpoints(&self) -> Vec<String> {
//!         self.0.endpoints()
//!     }
//!
//!     fn set_endpoints(&self, endpoints: &[String]) -> Result<(), Error> {
//!         self.0.set_endpoints(endpoints)
//!     }
//! }
//!
//! let config = Config::new(client.endpoints());
//! let count = Arc::new(AtomicU64::new(0));
//! let transport = Counted(Http2::start(&config)?, Arc::clone(&count));
//! let counted = Client::over(&Connection::over(transport, config));
//! counted.put("a", "1").await?;
//! assert_eq!(count.load(Ordering::Relaxed), 1);
//! # Ok(()) }); }
//! ```

mod connect;
mod endpoint;
mod framing;
mod http2;
mod io;
mod pool;
#[cfg(feature = "tls")]
mod tls;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;

use crate::error::{Code, Error};

pub use pool::Http2;
#[cfg(feature = "tls")]
pub(crate) use tls::BuiltTls;
#[cfg(feature = "tls")]
pub use tls::Tls;

/// A future that can be sent to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything about a call besides its messages.
#[derive(Clone)]
#[non_exhaustive]
pub struct CallHead {
    /// "/package.Service/Method".
    pub path: &'static str,
    /// What goes into the header `token`. It must never be logged.
    pub token: Option<Arc<str>>,
    /// Asks the member to refuse the call, or to end the stream, while it knows no leader (header `hasleader`).
    pub require_leader: bool,
    /// When the call ends with [`Code::DeadlineExceeded`] at the latest; None for streams that last.
    pub deadline: Option<Instant>,
    /// Asks this endpoint and no other.
    pub endpoint: Option<Arc<str>>,
    /// The caller would rather ask another member than wait for one that says nothing: executing the call twice does no
    /// harm.
    pub may_move: bool,
}

/// Whether a request that failed may have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It never left, or the peer said that it did not look at it.
    Never,
    /// It reached a member, which answered that it did not execute it.
    Refused,
    /// It may have been executed.
    Maybe,
}

/// A call that did not end with status OK.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The gRPC status code.
    pub code: Code,
    /// The description that came with it.
    pub text: String,
    /// Whether the request may have been executed all the same.
    pub sent: Sent,
    /// Who answered, or was asked.
    pub endpoint: Option<Arc<str>>,
}

impl Failure {
    /// A failure without an endpoint.
    pub fn new(code: Code, text: impl Into<String>, sent: Sent) -> Self {
        Self { code, text: text.into(), sent, endpoint: None }
    }
}

/// Carries calls to some member, or to a given one.
pub trait Transport: Send + Sync + 'static {
    /// One message there, one back. Dropping the future cancels the call and disturbs no other.
    fn unary(&self, head: CallHead, message: Bytes) -> BoxFuture<'static, Result<Bytes, Failure>>;

    /// Opens a call with streams of messages. Ready once it is on its way, before anything is answered.
    fn stream(&self, head: CallHead) -> BoxFuture<'static, Result<(Box<dyn SendHalf>, Box<dyn ReceiveHalf>), Failure>>;

    /// Ends once a call could be sent at once.
    fn ready(&self) -> BoxFuture<'static, ()>;

    /// Why no endpoint is connected, for messages; empty when there is nothing to say.
    fn trouble(&self) -> String {
        String::new()
    }

    /// The endpoints in use.
    fn endpoints(&self) -> Vec<String>;

    /// How many endpoints are in use. It is asked for by every call.
    fn endpoint_count(&self) -> usize {
        self.endpoints().len()
    }

    /// Replaces the endpoints. Streams that are open on others go on.
    ///
    /// # Errors
    /// When one of them is no endpoint; then nothing changes.
    fn set_endpoints(&self, endpoints: &[String]) -> Result<(), Error>;
}

/// The half of a stream that sends. Dropping it says that no more will come.
pub trait SendHalf: Send {
    /// Ready when a message may be sent without growing a queue.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>>;

    /// Sends a message.
    fn send(&mut self, message: Bytes) -> Result<(), Failure>;

    /// Says that no more will come.
    fn close(&mut self);
}

/// The half of a stream that receives. Dropping it cancels the call.
pub trait ReceiveHalf: Send {
    /// The next message; None at the end with status OK. What it gives is never lost when a waiter is dropped.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failure>>;
}
