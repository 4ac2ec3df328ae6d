//! gRPC over HTTP/2: the five bytes in front of a message, the status behind the last, the headers of a request. It
//! must take whatever a peer sends without panicking and without reserving more than has arrived.

use std::io::IoSlice;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::{CallHead, Failure, Sent};
use crate::error::Code;

/// Bytes in front of every message: a flag for compression and the length.
const PREFIX_BYTES: usize = 5;

/// Bytes reserved ahead for a message that arrives in pieces.
const RESERVE_BYTES_MAX: usize = 1024 * 1024;

/// The version of the API this client speaks (`api/version` in etcd); servers count requests by it.
const API_VERSION: &str = "3.7";

/// A message with its prefix, without copying the message.
#[derive(Debug)]
pub struct Frame {
    prefix: [u8; PREFIX_BYTES],
    prefix_sent: usize,
    message: Bytes,
}

impl Frame {
    pub fn new(message: Bytes) -> Self {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
        Self { prefix: [0, length[0], length[1], length[2], length[3]], prefix_sent: 0, message }
    }

    /// No bytes at all, to end a stream with.
    pub fn empty() -> Self {
        Self { prefix: [0; PREFIX_BYTES], prefix_sent: PREFIX_BYTES, message: Bytes::new() }
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        PREFIX_BYTES - self.prefix_sent + self.message.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.prefix_sent < PREFIX_BYTES { &self.prefix[self.prefix_sent..] } else { &self.message }
    }

    fn advance(&mut self, count: usize) {
        let of_prefix = count.min(PREFIX_BYTES - self.prefix_sent);
        self.prefix_sent += of_prefix;
        self.message.advance(count - of_prefix);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for part in [&self.prefix[self.prefix_sent..], &self.message[..]] {
            if !part.is_empty() && count < slices.len() {
                slices[count] = IoSlice::new(part);
                count += 1;
            }
        }
        count
    }
}

/// Cuts what arrives into messages.
#[derive(Debug)]
pub struct Unframer {
    gathered: BytesMut,
    message_bytes_max: usize,
}

impl Unframer {
    pub fn new(message_bytes_max: usize) -> Self {
        Self { gathered: BytesMut::new(), message_bytes_max }
    }

    /// Takes a piece. A message that arrives alone and whole is returned without being copied.
    pub fn push(&mut self, mut piece: Bytes) -> Result<Option<Bytes>, Failure> {
        if self.gathered.is_empty()
            && let Some(length) = self.length(&piece)?
            && piece.len() == PREFIX_BYTES + length
        {
            piece.advance(PREFIX_BYTES);
            return Ok(Some(piece));
        }
        if let Some(length) = self.length(&self.gathered)? {
            let missing = (PREFIX_BYTES + length).saturating_sub(self.gathered.len());
            self.gathered.reserve(missing.min(RESERVE_BYTES_MAX).max(piece.len()));
        }
        self.gathered.extend_from_slice(&piece);
        self.next()
    }

    /// A message that is there already.
    pub fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.length(&self.gathered)? {
            Some(length) if self.gathered.len() >= PREFIX_BYTES + length => {
                self.gathered.advance(PREFIX_BYTES);
                Ok(Some(self.gathered.split_to(length).freeze()))
            }
            _ => Ok(None),
        }
    }

    /// Whether nothing of a further message has arrived.
    pub fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Failure> {
        let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            let text = "grpc: received a compressed message, which was not asked for";
            return Err(Failure::new(Code::Internal, text, Sent::Maybe));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.message_bytes_max {
            let text = format!("grpc: received message larger than max ({length} vs. {})", self.message_bytes_max);
            return Err(Failure::new(Code::ResourceExhausted, text, Sent::Maybe));
        }
        Ok(Some(length))
    }
}

/// The request line and headers of a call.
pub fn request(head: &CallHead, endpoint: &Endpoint) -> Result<Request<()>, Failure> {
    let never = |text: String| Failure::new(Code::InvalidArgument, text, Sent::Never);
    let uri = endpoint.uri(head.path).map_err(|error| never(format!("{}: {error}", endpoint.name())))?;
    let mut request = Request::new(());
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = uri;
    let mut headers = template(head.require_leader, head.deadline.is_some());
    if let (Some(deadline), Some(timeout)) = (head.deadline, headers.get_mut(&TIMEOUT)) {
        let left = deadline.saturating_duration_since(Instant::now());
        *timeout = HeaderValue::from_str(&timeout_text(left)).expect("digits and a letter are a header value");
    }
    if let Some(token) = &head.token {
        let mut value = HeaderValue::from_str(token).map_err(|_| never("the token is no header value".to_owned()))?;
        value.set_sensitive(true);
        headers.insert(&TOKEN, value);
    }
    *request.headers_mut() = headers;
    Ok(request)
}

static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static TOKEN: HeaderName = HeaderName::from_static("token");
static STATUS: HeaderName = HeaderName::from_static("grpc-status");
static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The headers that are the same in every call, with a place for the timeout if there is one. To copy them is a third of the
/// work of making them.
fn template(require_leader: bool, has_timeout: bool) -> HeaderMap {
    static TEMPLATES: LazyLock<[HeaderMap; 4]> = LazyLock::new(|| {
        [(false, false), (false, true), (true, false), (true, true)].map(|(require_leader, has_timeout)| {
            let agent = concat!("kvorum-client/", env!("CARGO_PKG_VERSION"));
            let mut headers = HeaderMap::with_capacity(8);
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
            headers.insert(http::header::USER_AGENT, HeaderValue::from_static(agent));
            headers.insert("client-api-version", HeaderValue::from_static(API_VERSION));
            if require_leader {
                headers.insert("hasleader", HeaderValue::from_static("true"));
            }
            if has_timeout {
                headers.insert(&TIMEOUT, HeaderValue::from_static("0u"));
            }
            headers
        })
    });
    TEMPLATES[usize::from(require_leader) * 2 + usize::from(has_timeout)].clone()
}

/// gRPC's timeout: at most eight digits and a unit. It is rounded up by a hundredth at most, since the client keeps its
/// deadline itself: so calls of the same timeout say the same, which header compression makes one byte of.
fn timeout_text(left: Duration) -> String {
    let micros = left.as_micros().max(1);
    let step = 10_u128.pow((micros.ilog10()).saturating_sub(2)).max(1);
    let micros = micros.div_ceil(step) * step;
    match micros {
        0..=99_999_999 => format!("{micros}u"),
        100_000_000..=99_999_999_999 => format!("{}m", micros.div_ceil(1000)),
        _ => format!("{}S", (micros / 1_000_000).min(99_999_999)),
    }
}

/// The status in trailers, or in headers that end the stream; None when there is none.
pub fn status(headers: &HeaderMap) -> Option<Result<(), Failure>> {
    let number = headers.get(&STATUS)?;
    let code = number.to_str().ok().and_then(|text| text.parse::<i32>().ok());
    if code == Some(0) {
        return Some(Ok(()));
    }
    let code = code.map_or(Code::Unknown, code_of);
    let text = headers.get(&MESSAGE).map(|text| percent_decoded(text.as_bytes())).unwrap_or_default();
    Some(Err(Failure::new(code, text, Sent::Maybe)))
}

/// An answer that is no gRPC answer: gRPC's table from HTTP statuses to codes.
pub fn http_failure(status: http::StatusCode) -> Failure {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Failure::new(code, format!("unexpected HTTP status code received from server: {status}"), Sent::Maybe)
}

fn code_of(number: i32) -> Code {
    match number {
        1 => Code::Canceled,
        3 => Code::InvalidArgument,
        4 => Code::DeadlineExceeded,
        5 => Code::NotFound,
        7 => Code::PermissionDenied,
        8 => Code::ResourceExhausted,
        6 | 9 | 10 => Code::FailedPrecondition,
        11 => Code::OutOfRange,
        12 => Code::Unimplemented,
        13 => Code::Internal,
        14 => Code::Unavailable,
        15 => Code::DataLoss,
        16 => Code::Unauthenticated,
        _ => Code::Unknown,
    }
}

fn percent_decoded(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.first_chunk::<2>().and_then(|pair| {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        });
        match (first, hex) {
            (b'%', Some(byte)) => {
                text.push(byte);
                rest = &after[2..];
            }
            _ => {
                text.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn wire(messages: &[&[u8]]) -> Bytes {
        let mut bytes = BytesMut::new();
        for message in messages {
            let mut frame = Frame::new(Bytes::copy_from_slice(message));
            bytes.extend_from_slice(&frame.copy_to_bytes(frame.remaining()));
        }
        bytes.freeze()
    }

    #[test]
    fn messages_survive_any_cut() {
        let whole = wire(&[b"first", b"", b"third message"]);
        for size in 1..=whole.len() {
            let mut unframer = Unframer::new(100);
            let mut seen = Vec::new();
            for piece in whole.chunks(size) {
                let mut next = unframer.push(Bytes::copy_from_slice(piece)).unwrap();
                while let Some(message) = next {
                    seen.push(message);
                    next = unframer.next().unwrap();
                }
            }
            assert_eq!(seen, [&b"first"[..], b"", b"third message"], "pieces of {size}");
            assert!(unframer.is_empty());
        }
    }

    #[test]
    fn a_message_above_the_limit_is_refused_before_it_is_gathered() {
        let mut unframer = Unframer::new(4);
        let failure = unframer.push(wire(&[b"12345"]).slice(..5)).unwrap_err();
        assert_eq!(failure.code, Code::ResourceExhausted);
        assert!(Unframer::new(4).push(wire(&[b"1234"])).unwrap().is_some());
        assert!(Unframer::new(4).push(Bytes::from_static(&[1, 0, 0, 0, 0])).is_err());
    }

    #[test]
    fn texts_of_headers() {
        assert_eq!(percent_decoded(b"a%20b%2"), "a b%2");
        assert_eq!(percent_decoded("gr%C3%BC%C3%9Fe".as_bytes()), "gr\u{fc}\u{df}e");
        assert_eq!(timeout_text(Duration::ZERO), "1u");
        assert_eq!(timeout_text(Duration::from_secs(5)), "5000000u");
        assert_eq!(timeout_text(Duration::from_micros(4_999_873)), "5000000u");
        assert_eq!(timeout_text(Duration::from_micros(1_234)), "1240u");
        assert_eq!(timeout_text(Duration::from_secs(1000)), "1000000m");
        assert_eq!(timeout_text(Duration::MAX), "99999999S");
    }
}
