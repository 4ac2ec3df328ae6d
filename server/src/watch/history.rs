//! What Watch asks of the store's past. Implementations run the reads elsewhere: a connection thread never waits for one.

use std::future::Future;
use std::pin::Pin;

use kvorum_store::{EventBatch, KvBytes, Revision};

/// A read under way. It need not be `Send`: it is awaited on the thread that asked.
pub type HistoryFuture<T> = Pin<Box<dyn Future<Output = Result<T, HistoryFailure>>>>;

/// Whole batches from the store's past.
#[derive(Debug)]
pub struct HistoryWindow {
    /// Every batch from the revision asked for up to, and without, `next`; in order.
    pub batches: Vec<EventBatch>,
    /// The first revision not covered; the current revision plus one when all was read. Always above the revision asked for
    /// when that revision has been published.
    pub next: i64,
}

/// The value of a key before a change.
#[derive(Clone, Debug)]
pub struct PreviousRequest {
    /// The event's encoded `KeyValue`; it begins with the key (`kvorum_store::event::key_of`).
    pub kv: KvBytes,
    /// The event's main revision; what counts is the value at the revision before.
    pub revision: i64,
    /// Where that value lies, if the event said so.
    pub stored: Option<Revision>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryFailure {
    /// The history asked for begins below this compacted revision.
    Compacted(i64),
    /// The backend could not be read.
    Backend(String),
}

/// The store's past, read off the connection threads.
pub trait HistorySource {
    /// Batches from revision `from` on, at most `revisions_max` of them and of a bounded size, at least one if there is
    /// one. Everything that was published before the call must be visible. `from` equal to the compacted revision is
    /// answered, as in etcd: compaction keeps all that happened at its revision. Of the events' `previous`, only
    /// `Previous::Known` counts.
    fn history(&self, from: i64, revisions_max: usize) -> HistoryFuture<HistoryWindow>;

    /// One answer per request, in their order; `None` if there was no value or the revision before the event lies below the
    /// compacted one, even if the value is still there: etcd then sends the event without it.
    fn previous_values(&self, requests: Vec<PreviousRequest>) -> HistoryFuture<Vec<Option<KvBytes>>>;
}
