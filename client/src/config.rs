//! How a client connects: clientv3's `Config`, with its defaults where they are safe and others, named here, where users
//! have been hurt by them. Nothing here connects, and nothing prints a secret.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use std::time::Duration;
//! use kvorum_client::{Client, Config};
//!
//! # let endpoints = client.endpoints();
//! // let endpoints = ["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"];
//! let config = Config::new(endpoints)
//!     .dial_timeout(Duration::from_secs(3))
//!     .request_timeout(Duration::from_secs(2))
//!     .keepalive(Duration::from_secs(10), Duration::from_secs(3))
//!     .auto_sync(Duration::from_secs(60));
//! let client = Client::connect_with(config).await?;
//! client.put("a", "1").await?;
//! # Ok(()) }); }
//! ```

use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::transport::BoxFuture;

#[cfg(feature = "tls")]
use crate::transport::{BuiltTls, Tls};

/// What clientv3 sends at most by default (`defaultMaxCallSendMsgSize`).
pub const DEFAULT_MAX_SEND_BYTES: usize = 2 * 1024 * 1024;

/// What clientv3 receives at most by default; four bytes of length allow no more anyway.
pub const DEFAULT_MAX_RECEIVE_BYTES: usize = i32::MAX as usize;

/// The shortest keepalive time: servers take more frequent pings for an attack (`--grpc-keepalive-min-time`).
pub const KEEPALIVE_TIME_MIN: Duration = Duration::from_secs(5);

/// The configuration of a [`crate::Client`].
///
/// | option | default | clientv3 |
/// |---|---|---|
/// | [`dial_timeout`](Self::dial_timeout) | 5 s | none: it waits for ever |
/// | [`request_timeout`](Self::request_timeout) | 5 s | none: the caller's context |
/// | [`keepalive`](Self::keepalive) | 10 s, 5 s, only while calls are open | off |
/// | [`auto_sync`](Self::auto_sync) | off | off |
/// | [`max_send_bytes`](Self::max_send_bytes) | 2 MiB | 2 MiB |
/// | [`max_receive_bytes`](Self::max_receive_bytes) | 2³¹−1 | 2³¹−1 |
/// | [`backoff`](Self::backoff) | 25 ms doubling to 1 s, ±10 % | 25 ms ±10 %, 100 times; connections 1 s to 120 s |
/// | [`require_leader`](Self::require_leader) | on | off |
/// | [`reject_old_cluster`](Self::reject_old_cluster) | off | off |
///
/// ```
/// use std::time::Duration;
/// use kvorum_client::Config;
///
/// let config = Config::new(["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"])
///     .dial_timeout(Duration::from_secs(3))
///     .user("reader", "the password");
/// assert!(!format!("{config:?}").contains("the password"));
/// ```
#[derive(Clone)]
pub struct Config {
    pub(crate) endpoints: Vec<String>,
    pub(crate) dial_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) keepalive_time: Duration,
    pub(crate) keepalive_timeout: Duration,
    pub(crate) auto_sync: Option<Duration>,
    pub(crate) max_send_bytes: usize,
    pub(crate) max_receive_bytes: usize,
    pub(crate) backoff_base: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) require_leader: bool,
    pub(crate) reject_old_cluster: bool,
    pub(crate) credentials: Credentials,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<BuiltTls>,
}

/// Who the client is.
#[derive(Clone, Default)]
pub(crate) enum Credentials {
    #[default]
    None,
    Password {
        user: String,
        password: String,
    },
    /// Used as it is and never refreshed, as in clientv3.
    Token(String),
    /// Asked anew whenever the server calls the last token stale.
    Source(std::sync::Arc<dyn TokenSource>),
}

/// Where tokens come from that the client cannot get by itself, JSON web tokens of your own for example.
pub trait TokenSource: Send + Sync + 'static {
    /// A fresh token. It is asked for before the first call and after every one the server refused as stale.
    fn token(&self) -> BoxFuture<'_, Result<String, Error>>;
}

impl Config {
    /// Endpoints as `host:port`, `http://host:port`, `https://host:port` or `unix:path`, and defaults for the rest.
    #[must_use]
    pub fn new<I: IntoIterator>(endpoints: I) -> Self
    where
        I::Item: Into<String>,
    {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            dial_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            keepalive_time: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            auto_sync: None,
            max_send_bytes: DEFAULT_MAX_SEND_BYTES,
            max_receive_bytes: DEFAULT_MAX_RECEIVE_BYTES,
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_secs(1),
            require_leader: true,
            reject_old_cluster: false,
            credentials: Credentials::None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// How long [`crate::Client::connect`] waits for the first endpoint that answers, and how long any connection may take.
    #[must_use]
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.dial_timeout = timeout;
        self
    }

    /// How long a call may take with everything it waits for and repeats. [`crate::Client::with_timeout`] changes it for
    /// some calls.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Pings a connection that was silent for `time` (at least [`KEEPALIVE_TIME_MIN`]) while calls are open, and gives it up
    /// when nothing comes back within `timeout`. A `time` of zero turns it off: then a watch does not notice a peer that
    /// vanished without a word.
    #[must_use]
    pub fn keepalive(mut self, time: Duration, timeout: Duration) -> Self {
        self.keepalive_time = if time.is_zero() { time } else { time.max(KEEPALIVE_TIME_MIN) };
        self.keepalive_timeout = timeout;
        self
    }

    /// Learns the members' endpoints from the cluster this often (clientv3's `AutoSyncInterval`).
    #[must_use]
    pub fn auto_sync(mut self, interval: Duration) -> Self {
        self.auto_sync = Some(interval);
        self
    }

    /// The longest request, in bytes. A longer one fails before it is sent.
    #[must_use]
    pub fn max_send_bytes(mut self, bytes: usize) -> Self {
        self.max_send_bytes = bytes;
        self
    }

    /// The longest message of an answer, in bytes.
    #[must_use]
    pub fn max_receive_bytes(mut self, bytes: usize) -> Self {
        self.max_receive_bytes = bytes;
        self
    }

    /// The first and the longest pause before trying again: calls that may be repeated, connections, and streams. It
    /// doubles each time, and each is made up to a tenth longer or shorter by chance.
    #[must_use]
    pub fn backoff(mut self, base: Duration, max: Duration) -> Self {
        self.backoff_base = base.max(Duration::from_millis(1));
        self.backoff_max = max.max(self.backoff_base);
        self
    }

    /// Whether calls that need a leader ask members without one to say so at once, and streams to end then (clientv3's
    /// `WithRequireLeader`). On by default, because it is what makes the client leave such a member. Serializable reads
    /// and maintenance never ask.
    #[must_use]
    pub fn require_leader(mut self, require: bool) -> Self {
        self.require_leader = require;
        self
    }

    /// Refuses to connect when no member is of the previous minor version or later (clientv3's `RejectOldCluster`).
    #[must_use]
    pub fn reject_old_cluster(mut self) -> Self {
        self.reject_old_cluster = true;
        self
    }

    /// Logs in with a password when first needed, and again whenever the server calls the token stale.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Credentials::Password { user: name.into(), password: password.into() };
        self
    }

    /// Sends this token. It is never refreshed.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credentials = Credentials::Token(token.into());
        self
    }

    /// Asks `source` for tokens.
    #[must_use]
    pub fn token_source(mut self, source: impl TokenSource) -> Self {
        self.credentials = Credentials::Source(std::sync::Arc::new(source));
        self
    }

    /// Speaks TLS with endpoints of scheme `https` or none.
    ///
    /// # Errors
    /// When certificates or keys cannot be used.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Result<Self, Error> {
        self.tls = Some(tls.build()?);
        Ok(self)
    }

    #[cfg(feature = "tls")]
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self)]
    pub(crate) fn has_tls(&self) -> bool {
        false
    }
}

impl Default for Config {
    /// One endpoint, `localhost:2379`.
    fn default() -> Self {
        Self::new(["localhost:2379"])
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("endpoints", &self.endpoints)
            .field("dial_timeout", &self.dial_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("keepalive_time", &self.keepalive_time)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "none",
            Self::Password { .. } => "a password",
            Self::Token(_) => "a token",
            Self::Source(_) => "a source of tokens",
        })
    }
}
