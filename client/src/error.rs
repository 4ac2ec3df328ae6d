//! What can go wrong with a call: one opaque type that says what happened, in etcd's words, and whether sending the
//! request again is safe. It must never hold a key's value, a password or a token.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use kvorum_client::{Code, EtcdError};
//!
//! let error = client.get("a").at_revision(1_000).await.unwrap_err();
//! assert!(error.is(EtcdError::FutureRev));
//! assert_eq!(error.code(), Code::OutOfRange);
//! assert_eq!(error.text(), "etcdserver: mvcc: required revision is a future revision");
//! assert!(!error.maybe_applied() && !error.is_safe_to_retry());
//! # Ok(()) }); }
//! ```

use std::fmt;
use std::sync::Arc;

pub use kvorum_api::{Code, EtcdError};

use crate::transport::{Failure, Sent};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// ```
/// # fn handle(error: kvorum_client::Error) {
/// use kvorum_client::{ErrorKind, EtcdError};
///
/// match error.kind() {
///     ErrorKind::Etcd(EtcdError::Compacted) => println!("that revision is gone"),
///     _ if error.maybe_applied() => println!("look before you write again: {error}"),
///     _ if error.is_safe_to_retry() => println!("try again: {error}"),
///     _ => println!("{error}"),
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    code: Code,
    text: String,
    sent: Sent,
    endpoint: Option<Arc<str>>,
}

/// What an [`Error`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A row of etcd's table, recognised by its text as every client of etcd does (`api/v3rpc/rpctypes/error.go`),
    /// whatever code it came with.
    Etcd(EtcdError),
    /// No member could be reached, or the connection broke.
    Unavailable,
    /// The deadline of the call passed.
    DeadlineExceeded,
    /// The server does not have this call.
    Unimplemented,
    /// A request or an answer is longer than the configured limit.
    TooLarge,
    /// An answer that is not what the protocol says.
    Protocol,
    /// The configuration, or an argument, cannot work; nothing was sent.
    Configuration,
    /// The lease a recipe stood on is gone.
    LeaseLost,
    /// Any other status of the server: see [`Error::code`] and [`Error::text`].
    Status,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, code: Code, text: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, code, text: text.into(), sent: Sent::Never, endpoint: None }))
    }

    pub(crate) fn configuration(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Configuration, Code::InvalidArgument, text)
    }

    pub(crate) fn lease_lost(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::LeaseLost, Code::NotFound, text)
    }

    /// An answer that cannot be decoded. The server did execute the request.
    pub(crate) fn protocol(text: impl Into<String>) -> Self {
        let mut error = Self::new(ErrorKind::Protocol, Code::Internal, text);
        error.0.sent = Sent::Maybe;
        error
    }

    pub(crate) fn deadline(text: impl Into<String>, sent: Sent) -> Self {
        let mut error = Self::new(ErrorKind::DeadlineExceeded, Code::DeadlineExceeded, text);
        error.0.sent = sent;
        error
    }

    /// A text of the server without a status, as watches are cancelled with. Some are Go's text of a whole status, "rpc
    /// error: code = PermissionDenied desc = etcdserver: permission denied" (`v3rpc/watch.go`).
    pub(crate) fn from_text(text: &str) -> Self {
        let description = text.strip_prefix("rpc error: code = ").and_then(|rest| rest.split_once(" desc = "));
        let text = description.map_or(text, |(_, description)| description);
        let mut error = Self::from(Failure::new(Code::Unknown, text, Sent::Refused));
        if let ErrorKind::Etcd(known) = error.0.kind {
            error.0.code = known.code();
        }
        error
    }

    /// What it is about.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The gRPC status code. For failures of the client itself, the one gRPC would use.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The description: etcd's exact text when the server said it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The endpoint that answered, or was asked last.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// Whether it is the given row of etcd's table.
    #[must_use]
    pub fn is(&self, error: EtcdError) -> bool {
        self.0.kind == ErrorKind::Etcd(error)
    }

    /// Whether the request may have been executed although no answer came. A write that ended so must be looked for
    /// before it is sent again: sending it blindly loses updates.
    ///
    /// False when it was surely never executed: it was not sent, or the server refused it and said so.
    #[must_use]
    pub fn maybe_applied(&self) -> bool {
        self.0.sent == Sent::Maybe
    }

    /// Whether the same request may be sent again without risk, and may succeed then: it was surely not executed, and
    /// the reason passes by itself.
    #[must_use]
    pub fn is_safe_to_retry(&self) -> bool {
        !self.maybe_applied() && self.is_transient()
    }

    /// Whether the reason may pass by itself. A read may be repeated then; a write only when [`Self::is_safe_to_retry`].
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.0.kind {
            ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => true,
            ErrorKind::Etcd(error) => {
                self.0.code == Code::Unavailable
                    || error.code() == Code::Unavailable
                    || matches!(error, EtcdError::RequestTooManyRequests | EtcdError::NotSupportedForLearner)
            }
            _ => self.0.code == Code::Unavailable,
        }
    }

    /// The token was refused: a new login may help.
    pub(crate) fn is_stale_login(&self) -> bool {
        self.is(EtcdError::InvalidAuthToken) || self.is(EtcdError::AuthOldRevision)
    }

    pub(crate) fn with_sent(mut self, sent: Sent) -> Self {
        self.0.sent = sent;
        self
    }

    pub(crate) fn prefixed(mut self, words: &str) -> Self {
        self.0.text = format!("{words}: {}", self.0.text);
        self
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Failure { code, text, sent, endpoint } = failure;
        let kind = match EtcdError::ALL.iter().find(|error| error.text() == text) {
            Some(&error) => ErrorKind::Etcd(error),
            None => match code {
                Code::Unavailable => ErrorKind::Unavailable,
                Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
                Code::Unimplemented => ErrorKind::Unimplemented,
                Code::ResourceExhausted if text.contains("message larger than max") => ErrorKind::TooLarge,
                _ => ErrorKind::Status,
            },
        };
        Self(Box::new(Inner { kind, code, text, sent, endpoint }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("code", &self.0.code)
            .field("text", &self.0.text)
            .field("maybe_applied", &self.maybe_applied())
            .field("endpoint", &self.0.endpoint)
            .finish()
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Code, text: &str, sent: Sent) -> Error {
        Failure::new(code, text, sent).into()
    }

    #[test]
    fn texts_decide_the_kind_and_the_way_decides_what_is_safe() {
        let error = failure(Code::Unavailable, "etcdserver: no leader", Sent::Refused);
        assert!(error.is(EtcdError::NoLeader) && error.is_safe_to_retry() && !error.maybe_applied());
        let error = failure(Code::Unavailable, "etcdserver: request timed out", Sent::Maybe);
        assert!(error.is(EtcdError::Timeout) && error.is_transient() && !error.is_safe_to_retry());
        // A proxy may have changed the code; the text is still etcd's.
        let error = failure(Code::Unknown, "etcdserver: mvcc: required revision has been compacted", Sent::Refused);
        assert!(error.is(EtcdError::Compacted) && !error.is_transient());
        assert_eq!(failure(Code::Unknown, "something new", Sent::Refused).kind(), ErrorKind::Status);
        let error = Error::from_text("rpc error: code = PermissionDenied desc = etcdserver: permission denied");
        assert!(error.is(EtcdError::PermissionDenied) && error.code() == Code::PermissionDenied);
    }
}
