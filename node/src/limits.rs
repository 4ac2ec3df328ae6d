//! Every bound of this crate, with what happens when it is reached.

/// Entries kept in memory behind the applied index, unless a member is told otherwise; older ones are dropped from the window.
pub const LOG_WINDOW_ENTRIES_MAX: usize = 5_000;

/// Bytes of entry data kept in memory behind the applied index; older ones are dropped from the window.
pub const LOG_WINDOW_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of one append message to a peer, as in etcd.
pub const APPEND_MESSAGE_BYTES_MAX: u64 = 1024 * 1024;

/// Append messages under way to one peer, as in etcd.
pub const APPEND_MESSAGES_INFLIGHT_MAX: usize = 512;

/// Bytes of committed entries handed to apply in one step.
pub const APPLY_STEP_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Committed entries that may wait for apply before proposals are refused with "too many requests", as in etcd.
pub const COMMIT_APPLY_GAP_MAX: u64 = 5_000;

/// Expired leases proposed for revocation in one expiry check; the rest waits for the next check.
pub const LEASE_EXPIRIES_PER_CHECK_MAX: usize = 500;

/// Checkpoints in one proposal, as in etcd; the rest goes into the next one.
pub const LEASE_CHECKPOINTS_PER_PROPOSAL_MAX: usize = 1_000;

/// Requests of raft for entries that are no longer in memory and wait for the write-ahead log; beyond it a peer gets a
/// snapshot.
pub const LOG_FETCHES_WAITING_MAX: usize = 64;

/// Bytes of entries read from the write-ahead log at a time for a slow peer.
pub const LOG_FETCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Messages with what other members pass on that are kept while leadership changes hands; more are dropped, as etcd drops
/// all of them.
pub const PASSED_ON_HELD_MAX: usize = 1_000;

/// Bytes of entries in these messages; what is beyond them is dropped too.
pub const PASSED_ON_HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Requests held back while there is no leader; more are refused with "too many requests".
pub const PROPOSALS_HELD_MAX: usize = 5_000;
