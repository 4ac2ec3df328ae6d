//! List, then watch: everything below a prefix, then every change of it, for as long as it is read; the way to hold a copy
//! of a part of the store. When the history that the watch needs is compacted, everything is listed anew, and the consumer
//! is told so. It keeps no copy itself.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use std::collections::BTreeMap;
//! use kvorum_client::EventExt;
//! use kvorum_client::recipes::listing::{Update, list_then_watch};
//!
//! client.put("service/a", "10.0.0.1:80").await?;
//! let mut copy = BTreeMap::new();
//! let mut updates = list_then_watch(&client, "service/");
//! while let Some(update) = updates.next().await {
//!     match update? {
//!         Update::Listed { kvs, .. } => copy = kvs.into_iter().map(|kv| (kv.key, kv.value)).collect(),
//!         Update::Changed { events, .. } => {
//!             for event in events {
//!                 let key = bytes::Bytes::copy_from_slice(event.key());
//!                 if event.is_delete() { copy.remove(&key); } else { copy.insert(key, event.value().clone()); }
//!             }
//!         }
//!         _ => {}
//!     }
//!     # if copy.len() == 1 { client.put("service/b", "10.0.0.2:80").await?; } else { break; }
//! }
//! assert_eq!(copy.len(), 2);
//! # Ok(()) }); }
//! ```

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::client::Client;
use crate::error::{EtcdError, Result};
use crate::keys::IntoBytes;
use crate::response::{Event, Header, KeyValue};
use crate::watcher::{Watch, WatchError};

/// Keys in a page of a list (Go's `mirror`).
const PAGE_KEYS: i64 = 1_000;

/// Follows all keys that begin with `prefix`.
///
/// # Errors
/// What reading and watching may fail with, but for a compaction; the stream ends after one.
pub fn list_then_watch(client: &Client, prefix: impl IntoBytes) -> Updates {
    let state = State { client: client.clone(), prefix: prefix.into_bytes(), watch: None, has_failed: false };
    Updates(stream::unfold(state, State::next).boxed())
}

/// What changed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Update {
    /// Everything there is, as of one revision. It comes first, and again after a compaction: then what was known before is
    /// void, and changes in between are not told one by one.
    Listed {
        /// The keys in their order.
        kvs: Vec<KeyValue>,
        /// What it is of.
        revision: i64,
    },
    /// What happened since, in order; all of one revision together.
    Changed {
        /// At least one.
        events: Vec<Event>,
        /// That of the last event.
        revision: i64,
    },
}

/// A [`Stream`] of [`Update`]s that ends after an error and never otherwise. Dropping it cancels its watch.
#[must_use = "a stream does nothing unless polled"]
pub struct Updates(BoxStream<'static, Result<Update>>);

impl Updates {
    /// The next update; None after an error.
    pub async fn next(&mut self) -> Option<Result<Update>> {
        self.0.next().await
    }
}

impl Stream for Updates {
    type Item = Result<Update>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

struct State {
    client: Client,
    prefix: Bytes,
    /// None when everything is to be listed.
    watch: Option<Watch>,
    has_failed: bool,
}

impl State {
    async fn next(mut self) -> Option<(Result<Update>, State)> {
        if self.has_failed {
            return None;
        }
        let update = self.step().await;
        self.has_failed = update.is_err();
        Some((update, self))
    }

    async fn step(&mut self) -> Result<Update> {
        loop {
            let Some(watch) = &mut self.watch else {
                match self.list().await {
                    Err(error) if error.is(EtcdError::Compacted) => continue,
                    listed => return listed,
                }
            };
            match watch.next().await {
                Some(Ok(response)) => {
                    // Word of progress has no events.
                    let Some(revision) = response.events.last().and_then(|event| event.kv.as_ref()) else { continue };
                    let revision = revision.mod_revision;
                    return Ok(Update::Changed { events: response.events, revision });
                }
                Some(Err(WatchError::Compacted { .. })) | None => self.watch = None,
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// Reads everything, and begins to watch behind it.
    async fn list(&mut self) -> Result<Update> {
        let mut pages = self.client.get(&self.prefix).prefix().pages(PAGE_KEYS);
        let (mut kvs, mut revision) = (Vec::new(), 0);
        while let Some(page) = pages.next().await {
            let page = page?;
            // All pages are of the first one's.
            if revision == 0 {
                revision = page.revision();
            }
            kvs.extend(page.kvs);
        }
        match self.client.watch(&self.prefix).prefix().from_revision(revision + 1).await {
            Ok(watch) => self.watch = Some(watch),
            // It was compacted meanwhile: the watch will not say so again, so the next step lists.
            Err(WatchError::Compacted { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Update::Listed { kvs, revision })
    }
}
