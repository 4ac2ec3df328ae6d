//! Watch: from a change in the store to frames on the streams of those who asked for it.
//!
//! A member has one [`WatchPublisher`] and on every connection thread one [`WatchHub`]. The apply path publishes each batch
//! of events once; every thread matches the batch against its own watchers and appends ready gRPC frames to their streams'
//! outboxes. Nothing of a connection is shared between threads.
//!
//! A watcher is *synced* when it was given everything that the hub has seen; otherwise it reads history, through a
//! [`HistorySource`], until it is. Whatever goes wrong for a synced watcher (its stream is not read, the thread falls behind,
//! a value for `prev_kv` is not in memory) has the same remedy: it becomes unsynced at the revision it needs next. So no
//! event is lost or repeated, and nothing waits for a slow client: not the apply path, not its neighbours.
//!
//! Watch never reads the backend on a connection thread and never holds a lock of the store.

mod catch_up;
mod encode;
mod history;
mod hub;
mod outbox;
mod publisher;
mod state;
mod stream;
#[cfg(test)]
mod tests;

pub use history::{HistoryFailure, HistoryFuture, HistorySource, HistoryWindow, PreviousRequest};
pub use hub::WatchHub;
pub use outbox::{Outbox, OutboxReceiver};
pub use publisher::{WatchPublisher, WatchStatistics};
pub use stream::{StreamEnd, reason, serve_stream};

use std::sync::Arc;
use std::time::Duration;

/// What the responses' headers say beside the revision.
pub trait HeaderSource {
    fn cluster_id(&self) -> u64;
    fn member_id(&self) -> u64;
    /// The term now; it may change between two responses.
    fn raft_term(&self) -> u64;
}

/// Who may watch what.
pub trait WatchPermits {
    /// Another number after each change of what users may do; 0 while everybody may do everything.
    fn generation(&self) -> u64;
    /// Whether a user may read these keys now. A watcher of before authentication has none.
    fn permits(&self, user: Option<&str>, key: &[u8], range_end: &[u8]) -> bool;
}

/// Says whether a stream may create a watcher for these keys, and whose it is then; else the reason that it is canceled with.
pub type WatchGate = dyn Fn(&[u8], &[u8]) -> Result<Option<Arc<str>>, String>;

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct WatchConfig {
    /// How often an idle watcher that asked for it hears of the store's revision; up to a tenth more, by chance, per stream.
    pub progress_interval: Duration,
    /// Responses of this encoded size or more are split for watchers that asked for fragments: the largest request plus
    /// [`FRAGMENT_OVERHEAD_BYTES`].
    pub fragment_bytes: usize,
    pub limits: WatchLimits,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            progress_interval: Duration::from_secs(600),
            fragment_bytes: 1_572_864 + FRAGMENT_OVERHEAD_BYTES,
            limits: WatchLimits::default(),
        }
    }
}

/// What etcd adds to the largest request before it splits a response (its `grpcOverheadBytes`).
pub const FRAGMENT_OVERHEAD_BYTES: usize = 512 * 1024;

/// The least progress interval etcd accepts; shorter ones are raised to it.
pub const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Every bound of Watch, and what happens when it is reached.
#[derive(Clone, Debug)]
pub struct WatchLimits {
    /// Bytes waiting in one stream's outbox. At or above it the stream's watchers become unsynced at their next event, and
    /// its requests are not read. One response more than this may wait.
    pub outbox_bytes: usize,
    /// Responses waiting in one stream's outbox; as above.
    pub outbox_messages: usize,
    /// Bytes waiting in all outboxes of a thread. Above it, streams with more than `outbox_bytes_floor` count as full.
    pub thread_bytes: usize,
    pub outbox_bytes_floor: usize,
    /// Watches of one stream, and of all streams of a thread; one more is canceled as it is created, with "too many
    /// requests". etcd has no such bound.
    pub stream_watches: usize,
    pub thread_watchers: usize,
    /// A chunk handed to the connection is closed when it reaches this size.
    pub chunk_bytes: usize,
    /// Batches waiting for a thread. Beyond it they are dropped, and the thread's watchers read history instead.
    pub queue_batches: usize,
    /// Bytes of events that a thread's waiting batches keep in memory; as above.
    pub queue_bytes: usize,
    /// Revisions in one history read, and so at most in one response. etcd's `watchBatchMaxRevs` is 1000; a thread that
    /// encodes as many at once keeps its other requests waiting for half a millisecond.
    pub history_revisions: usize,
    /// Events given to watchers before the thread turns to its other work.
    pub deliveries_per_turn: usize,
    /// Bytes appended to outboxes before the thread turns to its other work.
    pub bytes_per_turn: usize,
    /// Watchers moved between unsynced and synced before the thread turns to its other work.
    pub moves_per_turn: usize,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self {
            outbox_bytes: 1024 * 1024,
            outbox_messages: 8192,
            thread_bytes: 256 * 1024 * 1024,
            outbox_bytes_floor: 16 * 1024,
            stream_watches: 1_000_000,
            thread_watchers: 4_000_000,
            chunk_bytes: 32 * 1024,
            queue_batches: 16_384,
            queue_bytes: 16 * 1024 * 1024,
            history_revisions: 250,
            deliveries_per_turn: 16_384,
            bytes_per_turn: 2 * 1024 * 1024,
            moves_per_turn: 4096,
        }
    }
}
