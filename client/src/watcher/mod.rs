//! Watching keys: a stream of events that goes on over lost connections and changes of the leader, without losing or
//! repeating one, until it is dropped or the server says why it cannot.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use kvorum_client::EventExt;
//!
//! let mut watch = client.watch("fruit/").prefix().await?;
//! client.put("fruit/apple", "red").await?;
//! let response = watch.next().await.expect("a watch goes on")?;
//! assert!(response.events[0].is_create());
//! assert_eq!(response.events[0].value(), "red");
//! # Ok(()) }); }
//! ```
//!
//! All watches of a [`Watcher`] share one gRPC stream. A consumer that falls behind does not hold up the others, nor does
//! what waits for it grow: beyond [`BUFFERED_EVENTS_MAX`] events its watch is cancelled at the server, and made again from
//! where it was once the consumer has read what there is. Should the history be compacted meanwhile, it says so.
//!
//! Dropping a [`Watch`] cancels it and nothing else.

mod task;

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use kvorum_api::etcdserverpb::WatchCreateRequest;
use kvorum_api::etcdserverpb::watch_create_request::FilterType;
use tokio::sync::{mpsc, oneshot};

use crate::buffer::Buffer;
use crate::connection::{Connection, deadline_after};
use crate::error::{Error, Result};
use crate::keys::{self, IntoBytes};
use crate::recipes::namespace;
use crate::response::{Event, ResponseHeader};
use crate::streaming;
use crate::transport::{BoxFuture, Sent};

use task::{Command, Item, Task};

/// Events that wait for one consumer, at about which its watch is stopped. The answer that goes above it still fits in.
pub const BUFFERED_EVENTS_MAX: usize = 1_024;

/// Bytes of keys and values that wait for one consumer, with the same effect.
pub const BUFFERED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Watches on one gRPC stream.
#[derive(Clone)]
pub struct Watcher {
    connection: Connection,
    namespace: Option<Bytes>,
    commands: Arc<Handle>,
}

/// Ends the task with the last watcher and watch.
struct Handle {
    commands: mpsc::UnboundedSender<Command>,
}

impl Watcher {
    /// Over a connection that others may use too, with a gRPC stream of its own. It must be called within a tokio runtime;
    /// the stream is opened by the first watch.
    #[must_use]
    pub fn new(connection: &Connection) -> Self {
        // Each watch has a few commands at most, so the number of watches bounds what waits here.
        let (commands, receiver) = mpsc::unbounded_channel();
        tokio::spawn(streaming::run(connection.clone(), Task::new(), receiver));
        Self { connection: connection.clone(), namespace: None, commands: Arc::new(Handle { commands }) }
    }

    /// The same, with keys below a prefix: see [`crate::recipes::namespace`].
    #[must_use]
    pub fn in_namespace(&self, prefix: impl IntoBytes) -> Self {
        let inner = prefix.into_bytes();
        let outer = self.namespace.as_deref().unwrap_or_default();
        Self { namespace: Some([outer, &inner].concat().into()), ..self.clone() }
    }

    pub(crate) fn with_connection(&self, connection: Connection) -> Self {
        Self { connection, ..self.clone() }
    }

    /// Watches a key, or with [`WatchRequest::prefix`] and the like several. `.await` waits until the server watches.
    pub fn watch(&self, key: impl IntoBytes) -> WatchRequest {
        let request = WatchCreateRequest { key: key.into_bytes(), fragment: true, ..WatchCreateRequest::default() };
        WatchRequest { watcher: self.clone(), request }
    }

    /// Asks the server to say how far it is: once all watches of the stream have caught up, each of them gets a
    /// [`WatchResponse`] without events. Needs etcd 3.4.
    pub fn request_progress(&self) {
        // The task lives as long as this sender.
        drop(self.commands.commands.send(Command::Progress));
    }
}

/// A watch to be made. `.await` makes it.
#[derive(Clone)]
#[must_use = "a watch is not made until it is awaited"]
pub struct WatchRequest {
    watcher: Watcher,
    request: WatchCreateRequest,
}

impl WatchRequest {
    keys::range_methods!();

    /// Begins with the events of this revision instead of those that come.
    pub fn from_revision(mut self, revision: i64) -> Self {
        self.request.start_revision = revision;
        self
    }

    /// Every event tells what the key held before, unless that is compacted.
    pub fn with_previous(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// The server says now and then how far it is when nothing happens: a [`WatchResponse`] without events.
    pub fn with_progress(mut self) -> Self {
        self.request.progress_notify = true;
        self
    }

    /// Leaves out puts.
    pub fn without_puts(mut self) -> Self {
        self.request.filters.push(FilterType::Noput.into());
        self
    }

    /// Leaves out deletions.
    pub fn without_deletes(mut self) -> Self {
        self.request.filters.push(FilterType::Nodelete.into());
        self
    }
}

impl IntoFuture for WatchRequest {
    type Output = Result<Watch, WatchError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let WatchRequest { watcher, mut request } = self;
            if let Some(prefix) = &watcher.namespace {
                namespace::enter(prefix, &mut request.key, &mut request.range_end);
            }
            let buffer = Buffer::new();
            let (created, creation) = oneshot::channel();
            let number = task::next_number();
            let deadline = deadline_after(watcher.connection.timeout());
            let mut watch = Watch {
                number,
                handle: watcher.commands,
                buffer: buffer.clone(),
                namespace: watcher.namespace,
                created: ResponseHeader::default(),
            };
            let commands = &watch.handle.commands;
            let sent = commands.send(Command::Create { number, request, buffer, created });
            sent.map_err(|_| WatchError::Failed(gone()))?;
            match tokio::time::timeout_at(deadline, creation).await {
                Ok(Ok(outcome)) => watch.created = outcome?,
                Ok(Err(_)) => return Err(WatchError::Failed(gone())),
                Err(_) => {
                    let text = "the watch was not created in time";
                    return Err(WatchError::Failed(Error::deadline(text, Sent::Refused)));
                }
            }
            Ok(watch)
        })
    }
}

fn gone() -> Error {
    Error::configuration("the runtime that watched has ended")
}

/// A watch that goes on: a [`Stream`] of [`WatchResponse`]s that ends after an error and never otherwise.
#[must_use = "a watch that is dropped is cancelled"]
pub struct Watch {
    number: u64,
    handle: Arc<Handle>,
    buffer: Buffer<Item>,
    namespace: Option<Bytes>,
    created: ResponseHeader,
}

impl Watch {
    /// The next answer; None after an error.
    pub async fn next(&mut self) -> Option<Result<WatchResponse, WatchError>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The header of the answer that confirmed the watch. Without [`WatchRequest::from_revision`], the events of all later
    /// revisions come.
    #[must_use]
    pub fn created(&self) -> ResponseHeader {
        self.created
    }
}

impl Stream for Watch {
    type Item = Result<WatchResponse, WatchError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(taken) = ready!(self.buffer.poll_take(context)) else { return Poll::Ready(None) };
        if taken.was_parked {
            drop(self.handle.commands.send(Command::Resume(self.number)));
        }
        let mut item = taken.item;
        if let (Some(prefix), Ok(response)) = (&self.namespace, &mut item) {
            for event in &mut response.events {
                event.kv.iter_mut().chain(&mut event.prev_kv).for_each(|kv| namespace::leave(prefix, kv));
            }
        }
        Poll::Ready(Some(item))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.handle.commands.send(Command::Cancel(self.number)));
    }
}

/// Events, or word of progress.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WatchResponse {
    /// `revision` of an answer without events is how far the watch has come: every event up to it was delivered before.
    /// With events it is the store's, and the watch has come as far as the last of them.
    pub header: ResponseHeader,
    /// Events in order. All of one revision come in one answer, however large it is.
    pub events: Vec<Event>,
}

impl WatchResponse {
    /// Whether this only says how far the watch has come.
    #[must_use]
    pub fn is_progress(&self) -> bool {
        self.events.is_empty()
    }
}

/// Why a watch ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum WatchError {
    /// The history it needed is gone: read the keys anew and watch from behind what was read.
    Compacted {
        /// The revision the history was compacted to; what is behind it can be watched.
        revision: i64,
        /// Of the answer that said so.
        header: ResponseHeader,
    },
    /// The server cancelled it, and says why.
    Cancelled(Error),
    /// It could not be made, or not be made again.
    Failed(Error),
}

impl WatchError {
    /// The error below; None for a compaction, which has its revision.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Compacted { .. } => None,
            Self::Cancelled(error) | Self::Failed(error) => Some(error),
        }
    }
}

impl fmt::Display for WatchError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compacted { revision, .. } => {
                write!(formatter, "the history before revision {revision} is compacted")
            }
            Self::Cancelled(error) => write!(formatter, "the watch was cancelled: {error}"),
            Self::Failed(error) => write!(formatter, "cannot watch: {error}"),
        }
    }
}

impl std::error::Error for WatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error().map(|error| error as _)
    }
}

impl From<WatchError> for Error {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Compacted { .. } => Error::from_text(crate::EtcdError::Compacted.text()),
            WatchError::Cancelled(error) | WatchError::Failed(error) => error,
        }
    }
}
