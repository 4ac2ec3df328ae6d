//! What the six modules share: a transport, a login, the rules for repeating calls, and the time a call may take. Every
//! call of the crate goes through [`Connection::call`] or [`Connection::open`]; nothing else repeats anything.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use kvorum_api::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use prost::Message;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument;

use crate::backoff::Backoff;
use crate::config::Config;
use crate::error::{Code, Error, ErrorKind, EtcdError, Result};
use crate::login::{Login, Token};
use crate::method::{self, Method, Repeat};
use crate::transport::{CallHead, Failure, Http2, ReceiveHalf, SendHalf, Sent, Transport};

/// How often one call logs in anew. The second time covers a change of users between login and call.
const LOGINS_MAX: usize = 2;

/// How often one call waits, with growing pauses, for a member that lags behind to hear of the last login.
const TOKEN_PAUSES_MAX: usize = 5;

/// An attempt of a call that may be repeated gets at most half of the time that is left, and at least this much, so that
/// a member that never answers does not use up all of it.
const ATTEMPT_MIN: Duration = Duration::from_millis(500);

/// A connection to a cluster, cheap to clone. [`crate::Client`] is made of one; each module can also be made of it alone.
///
/// It needs no care: it connects again by itself, for ever, and spreads calls over the members that are healthy.
///
/// | calls | are sent again after |
/// |---|---|
/// | Range, Lease calls, MemberList, Alarm, Status, Hash, HashKV, MoveLeader, AuthStatus, UserGet, UserList, RoleGet, RoleList | any failure that passes (code `Unavailable`) |
/// | Put, DeleteRange, Txn, Compact, member changes, Defragment, Downgrade, changes of users and roles | failures that say it was surely not executed |
/// | any of them | a stale token, after a new login: the server refused it unseen |
///
/// "Surely not executed" means: it was not sent, the peer said so in HTTP/2 (a refused stream), or the member refused it
/// for want of a leader before looking at it.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
    timeout: Duration,
    endpoint: Option<Arc<str>>,
}

/// The shared part of a connection; its background tasks hold it weakly.
pub(crate) struct Inner {
    transport: Arc<dyn Transport>,
    login: Login,
    config: Config,
    syncer: parking_lot::Mutex<Option<AbortHandle>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(syncer) = self.syncer.get_mut() {
            syncer.abort();
        }
    }
}

impl Connection {
    /// Connects, and waits until one endpoint answers.
    ///
    /// # Errors
    /// When the configuration cannot work, or no endpoint answered within the dial timeout; the text says why for each.
    /// It must be called within a tokio runtime.
    pub async fn open(config: Config) -> Result<Self> {
        let connection = Self::lazy(config)?;
        connection.ready().await?;
        if connection.inner.config.reject_old_cluster {
            let dial_timeout = connection.inner.config.dial_timeout;
            crate::cluster::reject_old(&connection.with_timeout(dial_timeout)).await?;
        }
        Ok(connection)
    }

    /// Begins to connect and returns at once. Calls wait for a connection as long as they may take.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn lazy(config: Config) -> Result<Self> {
        let transport = Http2::start(&config)?;
        Ok(Self::over(transport, config))
    }

    /// Uses a transport of your own. Of the configuration, what concerns calls counts: timeouts, sizes, credentials.
    pub fn over(transport: impl Transport, config: Config) -> Self {
        let inner = Inner {
            transport: Arc::new(transport),
            login: Login::new(config.credentials.clone()),
            syncer: parking_lot::Mutex::default(),
            config,
        };
        let timeout = inner.config.request_timeout;
        let connection = Self { inner: Arc::new(inner), timeout, endpoint: None };
        if let Some(interval) = connection.inner.config.auto_sync {
            let syncer = tokio::spawn(crate::cluster::keep_synced(Arc::downgrade(&connection.inner), interval));
            *connection.inner.syncer.lock() = Some(syncer.abort_handle());
        }
        connection
    }

    /// The connection of what a task holds weakly; None once nobody uses it.
    pub(crate) fn again(inner: &std::sync::Weak<Inner>) -> Option<Self> {
        let inner = inner.upgrade()?;
        let timeout = inner.config.request_timeout;
        Some(Self { inner, timeout, endpoint: None })
    }

    /// Waits until an endpoint is connected.
    ///
    /// # Errors
    /// When none is within the dial timeout.
    pub async fn ready(&self) -> Result<()> {
        let dial_timeout = self.inner.config.dial_timeout;
        let ready = tokio::time::timeout(dial_timeout, self.inner.transport.ready()).await;
        ready.map_err(|_| {
            let trouble = self.inner.transport.trouble();
            Error::deadline(format!("no endpoint answered within {dial_timeout:?} ({trouble})"), Sent::Never)
        })
    }

    /// Logs in now, if the configuration has a user, instead of with the first call: to learn at once that a password is
    /// wrong.
    ///
    /// # Errors
    /// [`EtcdError::AuthFailed`], and what any call may fail with.
    pub async fn log_in(&self) -> Result<()> {
        self.token(Some(deadline_after(self.timeout))).await.map(drop)
    }

    /// The same connection, whose calls may take this long.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same connection, whose calls go to this endpoint alone.
    #[must_use]
    pub fn with_endpoint(&self, endpoint: &str) -> Self {
        Self { endpoint: Some(endpoint.into()), ..self.clone() }
    }

    /// How long a call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The endpoints in use.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.inner.transport.endpoints()
    }

    /// Replaces the endpoints.
    ///
    /// # Errors
    /// When one of them is no endpoint; then nothing changes.
    pub fn set_endpoints<I: IntoIterator>(&self, endpoints: I) -> Result<()>
    where
        I::Item: Into<String>,
    {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        self.inner.transport.set_endpoints(&endpoints)
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.inner.config.backoff_base, self.inner.config.backoff_max)
    }

    fn requires_leader(&self, method: Method) -> bool {
        method.needs_leader && self.inner.config.require_leader
    }

    /// One request, one answer, repeated by the rules until the time is over.
    pub(crate) async fn call<Q: Message, A: Message + Default>(&self, method: Method, request: &Q) -> Result<A> {
        let deadline = deadline_after(self.timeout);
        let size = request.encoded_len();
        if size > self.inner.config.max_send_bytes {
            let max = self.inner.config.max_send_bytes;
            let text = format!("trying to send message larger than max ({size} vs. {max})");
            return Err(Error::new(ErrorKind::TooLarge, Code::ResourceExhausted, text));
        }
        let message = bytes::Bytes::from(request.encode_to_vec());
        // Neither keys nor values, which are the user's.
        let span = tracing::debug_span!("call", path = method.path);
        let answer = self.exchange(method, message, deadline).instrument(span).await?;
        A::decode(answer).map_err(|error| Error::protocol(format!("{}: {error}", method.path)))
    }

    async fn exchange(&self, method: Method, message: bytes::Bytes, deadline: Instant) -> Result<bytes::Bytes> {
        let mut attempts = Attempts::new(self, method, deadline);
        loop {
            let outcome = match attempts.token().await {
                Ok(token) => {
                    let head = attempts.head(&token);
                    let outcome = self.inner.transport.unary(head, message.clone()).await;
                    outcome.map_err(|failure| (judged(failure), Some(token)))
                }
                Err(error) => Err((error, None)),
            };
            match outcome {
                Ok(answer) => return Ok(answer),
                Err((error, token)) => attempts.after(error, token.as_ref()).await?,
            }
        }
    }

    /// Opens a stream, waiting for a connection until `deadline`, or for ever. It makes one attempt.
    pub(crate) async fn open_stream(&self, method: Method, deadline: Option<Instant>) -> Result<(Stream, Token)> {
        let token = self.token(deadline).await?;
        let head = CallHead {
            path: method.path,
            token: token.text.clone(),
            require_leader: self.requires_leader(method),
            deadline: None,
            endpoint: self.endpoint.clone(),
            may_move: false,
        };
        let opening = self.inner.transport.stream(head);
        let opened = match deadline {
            Some(deadline) => timeout_at(deadline, opening).await.map_err(|_| {
                let trouble = self.inner.transport.trouble();
                Error::deadline(format!("no endpoint is connected ({trouble})"), Sent::Never)
            })?,
            None => opening.await,
        };
        let (send, receive) = opened.map_err(judged)?;
        Ok((Stream { send, receive }, token))
    }

    /// Opens a call of one request and many answers. Nothing is repeated once something was answered; before, by the rules.
    pub(crate) async fn download<Q: Message, A: Message + Default>(
        &self,
        method: Method,
        request: &Q,
    ) -> Result<(Stream, Option<A>)> {
        let deadline = deadline_after(self.timeout);
        let mut attempts = Attempts::new(self, method, deadline);
        loop {
            let (error, token) = match self.open_stream(method, Some(deadline)).await {
                Ok((mut stream, token)) => {
                    stream.send(request)?;
                    stream.send.close();
                    match timeout_at(deadline, stream.receive()).await {
                        Ok(Ok(first)) => return Ok((stream, first)),
                        Ok(Err(error)) => (error, Some(token)),
                        Err(_) => (Error::deadline("context deadline exceeded", Sent::Maybe), Some(token)),
                    }
                }
                Err(error) => (error, None),
            };
            attempts.after(error, token.as_ref()).await?;
        }
    }

    /// The server called this token stale.
    pub(crate) fn invalidate(&self, token: &Token) {
        self.inner.login.invalidate(token);
    }

    /// Whether an error means that a new login may help.
    pub(crate) fn login_may_help(&self, error: &Error) -> bool {
        let login = &self.inner.login;
        (error.is_stale_login() && login.can_refresh()) || (error.is(EtcdError::UserEmpty) && login.has_password())
    }

    async fn token(&self, deadline: Option<Instant>) -> Result<Token> {
        let authenticate = async |user: String, password: String| {
            let deadline = deadline.unwrap_or_else(|| deadline_after(self.timeout));
            self.authenticate(user, password, deadline).await
        };
        let token = self.inner.login.token(authenticate);
        match deadline {
            Some(deadline) => timeout_at(deadline, token)
                .await
                .unwrap_or_else(|_| Err(Error::deadline("the login took too long", Sent::Never))),
            None => token.await,
        }
    }

    /// None when the server has no authentication, which clientv3 does not take for an error either.
    async fn authenticate(&self, name: String, password: String, deadline: Instant) -> Result<Option<String>> {
        let message = bytes::Bytes::from(AuthenticateRequest { name, password }.encode_to_vec());
        let mut backoff = self.backoff();
        loop {
            let head = CallHead {
                path: method::AUTHENTICATE.path,
                token: None,
                require_leader: self.requires_leader(method::AUTHENTICATE),
                deadline: Some(attempt_deadline(deadline)),
                endpoint: self.endpoint.clone(),
                may_move: true,
            };
            let error = match self.inner.transport.unary(head, message.clone()).await {
                Ok(answer) => {
                    let answer = AuthenticateResponse::decode(answer);
                    let answer = answer.map_err(|error| Error::protocol(format!("Authenticate: {error}")))?;
                    return Ok(Some(answer.token));
                }
                Err(failure) => judged(failure),
            };
            if error.is(EtcdError::AuthNotEnabled) {
                return Ok(None);
            }
            let pause = backoff.pause();
            if !error.is_transient() || Instant::now() + pause >= deadline {
                // The call it was for was not sent.
                return Err(error.prefixed("login").with_sent(Sent::Never));
            }
            sleep(pause).await;
        }
    }
}

/// The end of the time a call has; far away when the sum would overflow.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
}

fn attempt_deadline(deadline: Instant) -> Instant {
    let now = Instant::now();
    let share = deadline.saturating_duration_since(now) / 2;
    deadline.min(now + share.max(ATTEMPT_MIN))
}

/// What the server's words say about whether the request was executed.
fn judged(failure: Failure) -> Error {
    let error = Error::from(failure);
    if !error.maybe_applied() {
        return error;
    }
    let refused = match error.kind() {
        // The interceptor for `hasleader` says so before any service sees the request, and nothing else says it of a write
        // (`v3rpc/interceptor.go`). A leader that went away while it waited says "leader changed".
        ErrorKind::Etcd(EtcdError::NoLeader) => true,
        ErrorKind::Etcd(other) => {
            !matches!(other.code(), Code::Unavailable | Code::Canceled | Code::DeadlineExceeded | Code::DataLoss)
        }
        ErrorKind::Unimplemented => true,
        _ => matches!(error.code(), Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument),
    };
    if refused { error.with_sent(Sent::Refused) } else { error }
}

/// The attempts of one call.
struct Attempts<'a> {
    connection: &'a Connection,
    method: Method,
    deadline: Instant,
    backoff: Backoff,
    attempts: usize,
    logins: usize,
    token_pauses: usize,
    maybe_applied: bool,
}

impl<'a> Attempts<'a> {
    fn new(connection: &'a Connection, method: Method, deadline: Instant) -> Self {
        let backoff = connection.backoff();
        Self { connection, method, deadline, backoff, attempts: 0, logins: 0, token_pauses: 0, maybe_applied: false }
    }

    async fn token(&self) -> Result<Token> {
        self.connection.token(Some(self.deadline)).await
    }

    fn head(&self, token: &Token) -> CallHead {
        let has_others = self.connection.endpoint.is_none() && self.connection.inner.transport.endpoint_count() > 1;
        let may_move = self.method.repeat == Repeat::Always && has_others;
        CallHead {
            path: self.method.path,
            token: token.text.clone(),
            require_leader: self.connection.requires_leader(self.method),
            deadline: Some(if may_move { attempt_deadline(self.deadline) } else { self.deadline }),
            endpoint: self.connection.endpoint.clone(),
            may_move,
        }
    }

    /// Waits before the next attempt, or gives the error to the caller.
    async fn after(&mut self, error: Error, token: Option<&Token>) -> Result<()> {
        self.maybe_applied |= error.maybe_applied();
        if let Some(token) = token
            && self.connection.login_may_help(&error)
        {
            if self.logins < LOGINS_MAX {
                self.logins += 1;
                self.connection.invalidate(token);
                return Ok(());
            }
            // Members learn simple tokens from the log, each in its time. Nothing was executed.
            if self.token_pauses < TOKEN_PAUSES_MAX && error.is(EtcdError::InvalidAuthToken) {
                let pause = self.backoff.pause();
                if Instant::now() + pause < self.deadline {
                    self.token_pauses += 1;
                    sleep(pause).await;
                    return Ok(());
                }
            }
        }
        let endpoints = self.connection.inner.transport.endpoint_count().max(1);
        let allowed = match self.method.repeat {
            Repeat::Always => error.is_transient(),
            Repeat::WhenNotExecuted => error.is_safe_to_retry(),
        };
        // A learner says so for ever; only another member helps.
        let helps =
            !error.is(EtcdError::NotSupportedForLearner) || (endpoints > 1 && self.connection.endpoint.is_none());
        // Each member has its chance before a pause: clientv3 waits after every quorum of attempts.
        self.attempts += 1;
        let quorum = endpoints / 2 + 1;
        let pause = if self.attempts.is_multiple_of(quorum) { self.backoff.pause() } else { Duration::ZERO };
        if token.is_none() || !allowed || !helps || Instant::now() + pause >= self.deadline {
            return Err(if self.maybe_applied { error.with_sent(Sent::Maybe) } else { error });
        }
        tracing::debug!(path = self.method.path, attempts = self.attempts, %error, "trying again");
        sleep(pause).await;
        Ok(())
    }
}

/// An open stream with typed messages.
pub(crate) struct Stream {
    pub(crate) send: Box<dyn SendHalf>,
    pub(crate) receive: Box<dyn ReceiveHalf>,
}

impl Stream {
    pub(crate) fn send<Q: Message>(&mut self, request: &Q) -> Result<()> {
        self.send.send(bytes::Bytes::from(request.encode_to_vec())).map_err(judged)
    }

    /// The next answer; None at the end. Dropping the future loses nothing.
    pub(crate) async fn receive<A: Message + Default>(&mut self) -> Result<Option<A>> {
        std::future::poll_fn(|context| self.poll_receive(context)).await
    }

    pub(crate) fn poll_receive<A: Message + Default>(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<A>>> {
        let message = std::task::ready!(self.receive.poll_receive(context)).map_err(judged)?;
        let Some(message) = message else { return Poll::Ready(Ok(None)) };
        Poll::Ready(A::decode(message).map(Some).map_err(|error| Error::protocol(error.to_string())))
    }
}
