//! Every bound of the server, with what happens when it is reached.

use std::time::Duration;

/// A batch of at most this many proposals is written by the connection thread that gathered it; a larger one goes to the
/// raft thread, so that the connection thread can gather on (measured: put-path variants).
pub const INLINE_PROPOSALS_MAX: usize = 128;

/// Connection threads write batches themselves while one sync takes less than this; on slower disks all go to the raft
/// thread, so that reads do not wait behind the disk.
pub const INLINE_SYNC_MICROSECONDS_MAX: u64 = 500;

/// Proposals waiting for the raft thread; beyond it requests are refused with "too many requests".
pub const PROPOSAL_QUEUE_MAX: usize = 100_000;

/// Applied operations that wait for the backend; beyond it requests are refused with "too many requests".
pub const BACKEND_BACKLOG_OPERATIONS_MAX: usize = 1_000_000;

/// Bytes gathered in front of a socket before writes are passed to the system.
pub const SOCKET_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// A range reply is encoded in pieces of about this size; other requests of the thread run in between.
pub const RANGE_SLICE_BYTES: usize = 64 * 1024;

/// A range reply with at least this many bytes of keys is sent in the pieces it was encoded in; a smaller one is copied
/// into one frame.
pub const SPLIT_REPLY_BYTES_MIN: usize = 16 * 1024;

/// What gRPC adds to `--max-request-bytes` for the limit of a received message, as in etcd.
pub const GRPC_OVERHEAD_BYTES: u64 = 512 * 1024;

/// Window of one HTTP/2 stream for request bodies.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// Window of one HTTP/2 connection for request bodies.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Header list of one request.
pub const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;

/// Header block of one request, compressed and with the heads of its frames, where its authority is looked at. A longer
/// one goes to h2 as it is, or ends a connection whose authorities are repaired.
pub const HEADER_BLOCK_BYTES_MAX: usize = HEADER_LIST_BYTES_MAX as usize;

/// Bytes read at once from a connection whose authorities are repaired, and bytes ready for h2 that it must take before
/// more are looked at.
pub const REPAIR_PIECE_BYTES: usize = 16 * 1024;

/// Threads per connection thread that read the backend for requests whose values are not in memory.
pub const READER_THREADS_PER_WORKER: usize = 2;

/// How long connections may take to finish at a stop.
pub const STOP_GRACE_MILLISECONDS: u64 = 500;

/// How long the client of a unary call may take to end its request after its message; then the stream is reset when it is
/// answered.
pub const REQUEST_END_SECONDS_MAX: u64 = 10;

/// How long a client that was told to go may take to close its connection; grpc-go waits as long.
pub const GO_AWAY_MILLISECONDS: u64 = 1000;

/// Pause after a connection could not be accepted, mostly for want of descriptors.
pub const ACCEPT_PAUSE_MILLISECONDS: u64 = 100;

/// Keys whose values' lengths are added up before other requests of the thread have their turn.
pub const MEASURE_SLICE_KEYS: usize = 2_000;

/// Messages waiting for one stream to a peer, as in etcd; beyond it they are dropped and raft is told.
pub const PEER_QUEUE_MESSAGES_MAX: usize = 4096;

/// Bytes of messages waiting for one stream to a peer, or for its pipeline; beyond it messages are dropped and raft is
/// told. One message is always taken.
pub const PEER_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Messages waiting for a peer's pipeline, as in etcd; beyond it they are dropped and raft is told.
pub const PEER_PIPELINE_MESSAGES_MAX: usize = 64;

/// Requests of a peer's pipeline that are under way at once, as in etcd.
pub const PEER_PIPELINE_CONNECTIONS: usize = 4;

/// Bytes of a stream that are encoded before the socket takes them; a message that is longer goes alone.
pub const PEER_WRITE_BYTES: usize = 256 * 1024;

/// One message or entry from a peer, as in etcd; a longer one ends its connection.
pub const PEER_MESSAGE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// The message in front of a received database, as in etcd; a longer one is refused.
pub const PEER_SNAPSHOT_MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Pieces of a received database that wait for the disk; while there are so many, nothing is read from the socket.
pub const PEER_SNAPSHOT_PIECES_MAX: usize = 8;

/// A database is sent in pieces of this size.
pub const PEER_SNAPSHOT_PIECE_BYTES: usize = 256 * 1024;

/// The body of a question about a lease, as in etcd; a longer one is refused.
pub const PEER_LEASE_REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The body of any other question to this member; a longer one is refused.
pub const PEER_REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The answer of another member to a question (keys of a lease are the longest), as in etcd; a longer one is an error.
pub const PEER_ANSWER_BYTES_MAX: usize = 100 * 1024 * 1024;

/// Connections that wait for further questions to one URL of a member; a further one is closed.
pub const PEER_IDLE_CONNECTIONS_MAX: usize = 4;

/// URLs of members to which connections wait; while there are so many, those to others are closed after their question.
pub const PEER_IDLE_URLS_MAX: usize = 256;

/// How long a connection waits for a further question. Our own peer port closes one after 5 seconds, etcd's after minutes.
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections accepted on the peer ports; beyond it new ones are closed.
pub const PEER_CONNECTIONS_MAX: usize = 1024;

/// Members that introduced themselves and that this one does not know yet; beyond it they are not remembered.
pub const PEER_REMOTES_MAX: usize = 64;

/// Threads of the transport for files and names.
pub const PEER_BLOCKING_THREADS_MAX: usize = 4;

/// Copies of the database that are written or sent to operators at once; a further one waits for its turn.
pub const DATABASE_COPIES_MAX: usize = 4;

/// Blob of one message of a snapshot, as in etcd.
pub const SNAPSHOT_BLOB_BYTES: usize = 32 * 1024;

/// Bytes of a database that are read at once while it is sent.
pub const DATABASE_READ_BYTES: usize = 8 * SNAPSHOT_BLOB_BYTES;

/// Pieces of [`DATABASE_READ_BYTES`] that wait for the client; the reading waits when there are so many.
pub const DATABASE_PIECES_MAX: usize = 4;

/// Simple tokens that a member remembers. While there are so many, nobody logs in there.
pub const SIMPLE_TOKENS_MAX: usize = 1_000_000;

/// Tokens that a connection thread remembers to be good; beyond it the thread forgets them all, and asks again.
pub const PROVEN_TOKENS_MAX: usize = 8192;

/// Logins and password changes that wait for a thread; a further one is refused. At etcd's default cost a thread takes
/// about twenty a second.
pub const PASSWORD_QUEUE_MAX: usize = 64;

/// JSON Web Tokens that wait to be checked or signed; a further one is refused. A thread checks some ten thousand a second.
pub const SIGNATURE_QUEUE_MAX: usize = 1024;

/// One thread for passwords for so many cores, and at least one.
pub const PASSWORD_THREADS_PER_CORE_DIVISOR: usize = 2;

/// Lines a second about refused logins and tokens; of further ones the log says how many there were.
pub const REFUSAL_LINES_PER_SECOND_MAX: u32 = 10;

/// Times a login is begun anew because users, roles or permissions changed meanwhile.
pub const LOGIN_ATTEMPTS_MAX: usize = 16;

/// Replies of several slices that one connection thread puts together or measures at a time; others wait their turn.
pub const LONG_RANGES_PER_THREAD: usize = 4;

/// Keys and values copied in one slice of a shrink: a fraction of a millisecond, for which a commit may have to wait.
pub const SHRINK_SLICE_BYTES: usize = 128 * 1024;

/// A shrink writes out what it has copied whenever it is this much: a sync of the log waits for it (1.6 ms for 4 MiB, as
/// measured, and 0.4 ms for this).
pub const SHRINK_WRITE_BYTES: u64 = 256 * 1024;

/// Shortest pause between slices of a shrink.
pub const SHRINK_PAUSE_MIN: Duration = Duration::from_micros(1_500);

/// Longest pause between slices of a shrink, while syncs of the log take longer than before it.
pub const SHRINK_PAUSE_MAX: Duration = Duration::from_millis(24);

/// Space of a removed database that is given back in one piece: the file system discards it in its next commit, for which
/// a sync of the log waits.
pub const FREED_SLICE_BYTES: u64 = 1024 * 1024;

/// Pause between such pieces.
pub const FREED_PAUSE: Duration = Duration::from_millis(2);

/// How long a removed database's last readers are waited for.
pub const FREED_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of proposals waiting for the raft thread; beyond it requests are refused with "too many requests". The last one
/// that fits may be of any size.
pub const PROPOSAL_QUEUE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Calls under way on one connection, also where `--max-concurrent-streams` says more; one more is refused as HTTP/2 has
/// it, before anybody looks at it. etcd says no number, and so do we, but an open stream costs memory.
pub const CONNECTION_STREAMS_MAX: u32 = 65_536;

/// Descriptors kept for files and for members (etcd's `reservedInternalFDNum`): without them the log could not go on.
/// A process that may not have more does not start.
pub const RESERVED_DESCRIPTORS: usize = 150;

/// One in so many of the other descriptors is for connections on the peer ports, up to [`PEER_CONNECTIONS_MAX`].
pub const PEER_DESCRIPTORS_DIVISOR: usize = 4;

/// Streams that h2 resets because of what a client did wrong (CVE-2025-8671); beyond them the connection is told to go away.
pub const ERROR_RESETS_MAX: usize = 1024;

/// Streams that a client reset before we saw them (CVE-2023-44487); beyond them the connection is told to go away. Honest
/// clients come near it when a machine stood still: all calls whose time was over meanwhile arrive together with their ends.
pub const PENDING_RESETS_MAX: usize = 256;

/// Proposals that wait for the log thread; beyond one of them requests are refused with "too many requests". A program that
/// embeds a member may set other numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposalLimits {
    pub count: usize,
    pub bytes: usize,
}

impl Default for ProposalLimits {
    fn default() -> Self {
        Self { count: PROPOSAL_QUEUE_MAX, bytes: PROPOSAL_QUEUE_BYTES_MAX }
    }
}

/// What strangers may do with connections before they are let go. A program that embeds a member may set other numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// How long a client may take to show which protocol it speaks, and in HTTP/2 to send its settings.
    pub preface_time: Duration,
    /// How long the head of a request to the pages may take, and how long an open connection may wait for the next one.
    /// etcd allows five minutes.
    pub page_head_time: Duration,
    /// The same on the peer port. etcd allows a whole request five minutes, and every read five seconds.
    pub peer_head_time: Duration,
    /// Connections of clients; while there are so many, no more are accepted. `None`: by the descriptors that the process
    /// may have, as in etcd.
    pub client_connections: Option<usize>,
    pub held: HeldLimits,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            preface_time: Duration::from_secs(10),
            page_head_time: Duration::from_secs(30),
            peer_head_time: Duration::from_secs(5),
            client_connections: None,
            held: HeldLimits::default(),
        }
    }
}

/// Bytes of replies that clients do not take and of messages that they do not end. When they are reached, further calls of
/// the connection are refused with "too many requests".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLimits {
    pub connection_bytes: usize,
    /// Of all connections of a thread. Above it, connections with more than `connection_bytes_floor` count as full.
    pub thread_bytes: usize,
    pub connection_bytes_floor: usize,
}

impl Default for HeldLimits {
    fn default() -> Self {
        Self {
            // One reply that is put together as a whole may be some hundred megabytes, and its connection has other calls.
            connection_bytes: 512 * 1024 * 1024,
            thread_bytes: 1024 * 1024 * 1024,
            connection_bytes_floor: 4 * 1024 * 1024,
        }
    }
}
