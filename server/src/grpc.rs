//! gRPC over the `h2` crate: five-byte message frames, statuses, and the responders that unary calls and streams answer
//! through. It knows no service.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response};
use kvorum_api::{Code, EtcdError};

use crate::held::{Held, HeldBytes};
use crate::metrics::GrpcMethod;
use crate::payload::Payload;
use crate::urls::quote;

/// Length of the prefix of a gRPC message: a compression flag and four bytes of length.
pub const PREFIX_LENGTH: usize = 5;

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS_OK: HeaderValue = HeaderValue::from_static("0");
const EMPTY: HeaderValue = HeaderValue::from_static("");
const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";

/// How a call ended when it did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: std::borrow::Cow<'static, str>,
}

impl Status {
    pub fn new(code: Code, message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// A service or method that does not exist, or that this version does not have yet; the text is grpc-go's.
    pub fn unimplemented(path: &str) -> Self {
        match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
            Some((service, method)) if GrpcMethod::has_service(service) => {
                Self::new(Code::Unimplemented, format!("unknown method {method} for service {service}"))
            }
            Some((service, _)) => Self::new(Code::Unimplemented, format!("unknown service {service}")),
            None => Self::new(Code::Unimplemented, format!("malformed method name: {path:?}")),
        }
    }

    pub fn deadline_exceeded() -> Self {
        Self::new(Code::DeadlineExceeded, "context deadline exceeded")
    }
}

impl From<EtcdError> for Status {
    fn from(error: EtcdError) -> Self {
        match error {
            // Its row is the clients'; etcd's servers let grpc-go say this one.
            EtcdError::DeadlineExceeded => Self::deadline_exceeded(),
            error => Self::new(error.code(), error.text()),
        }
    }
}

/// A reply under construction: the prefix is reserved, the message is appended.
pub fn begin_frame(capacity: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(PREFIX_LENGTH + capacity);
    frame.extend_from_slice(&[0; PREFIX_LENGTH]);
    frame
}

/// Fills in the length that `begin_frame` left open.
pub fn finish_frame(frame: Vec<u8>) -> Bytes {
    let message_bytes = frame.len() - PREFIX_LENGTH;
    finish_head(frame, message_bytes)
}

/// The same for a frame whose message goes on in further pieces, `message_bytes` in all.
pub fn finish_head(mut frame: Vec<u8>, message_bytes: usize) -> Bytes {
    let length = u32::try_from(message_bytes).expect("a reply is far below 4 GiB");
    frame[1..PREFIX_LENGTH].copy_from_slice(&length.to_be_bytes());
    Bytes::from(frame)
}

/// A message as a frame of its own.
pub fn frame_of(message: &impl prost::Message) -> Bytes {
    let mut frame = begin_frame(message.encoded_len());
    message.encode_raw(&mut frame);
    finish_frame(frame)
}

/// The content type of the answer to a request of this one, if it is one of gRPC's. A subtype is echoed, and otherwise
/// ignored as grpc-go does with one that names no codec: messages are protobuf.
pub fn answer_content_type(request: &HeaderValue) -> Option<HeaderValue> {
    match request.as_bytes().strip_prefix(CONTENT_TYPE.as_bytes())? {
        b"" | b"+" | b";" => Some(CONTENT_TYPE),
        [b'+' | b';', subtype @ ..] => HeaderValue::from_bytes(&[b"application/grpc+", subtype].concat()).ok(),
        _ => None,
    }
}

/// The answering half of a unary call.
pub struct Responder {
    respond: h2::server::SendResponse<Payload>,
    content_type: HeaderValue,
    held: Rc<Held>,
}

impl Responder {
    /// With plain `application/grpc` for `None`; the reply counts for `held`.
    pub fn new(respond: h2::server::SendResponse<Payload>, content_type: Option<HeaderValue>, held: &Rc<Held>) -> Self {
        Self { respond, content_type: content_type.unwrap_or(CONTENT_TYPE), held: Rc::clone(held) }
    }

    /// Whether the client has left so much unread that it gets no further large reply.
    pub fn is_full(&self) -> bool {
        self.held.is_full()
    }

    fn head(&self) -> Response<()> {
        let mut response = Response::new(());
        response.headers_mut().insert(http::header::CONTENT_TYPE, self.content_type.clone());
        response
    }

    /// Sends a framed message and status 0. A peer that went away is no error: nobody is left to tell.
    pub fn reply(mut self, frame: Bytes) {
        let Ok(mut stream) = self.respond.send_response(self.head(), false) else { return };
        if stream.send_data(Payload::new(frame, &self.held), false).is_ok() {
            drop(stream.send_trailers(ok_trailers()));
        }
    }

    /// The same for a framed message in several pieces.
    pub fn reply_pieces(mut self, pieces: Vec<Bytes>) {
        let Ok(mut stream) = self.respond.send_response(self.head(), false) else { return };
        if pieces.into_iter().all(|piece| stream.send_data(Payload::new(piece, &self.held), false).is_ok()) {
            drop(stream.send_trailers(ok_trailers()));
        }
    }

    pub fn fail(self, status: &Status) {
        self.abort(http::StatusCode::OK, status);
    }

    /// Refuses what is not quite gRPC, so that HTTP sees it too.
    pub fn abort(mut self, http_status: http::StatusCode, status: &Status) {
        let mut response = self.head();
        *response.status_mut() = http_status;
        append_status(response.headers_mut(), status);
        drop(self.respond.send_response(response, true));
    }

    /// Turns the call into a stream of replies.
    pub fn stream(mut self) -> Option<StreamResponder> {
        let stream = self.respond.send_response(self.head(), false).ok()?;
        Some(StreamResponder { stream, held: self.held })
    }
}

/// The answering half of a streaming call.
pub struct StreamResponder {
    stream: SendStream<Payload>,
    held: Rc<Held>,
}

impl StreamResponder {
    /// Sends one or more whole frames, waiting for the peer's flow control. False once the peer is gone.
    pub async fn send(&mut self, mut frames: Bytes) -> bool {
        while frames.has_remaining() {
            self.stream.reserve_capacity(frames.len());
            let capacity = poll_fn(|context| self.stream.poll_capacity(context)).await;
            let Some(Ok(capacity)) = capacity else { return false };
            let chunk = frames.split_to(capacity.min(frames.len()));
            if !chunk.is_empty() && self.stream.send_data(Payload::new(chunk, &self.held), false).is_err() {
                return false;
            }
        }
        true
    }

    pub fn finish(mut self, result: Result<(), Status>) {
        let trailers = match result {
            Ok(()) => ok_trailers(),
            Err(status) => {
                let mut trailers = HeaderMap::with_capacity(2);
                append_status(&mut trailers, &status);
                trailers
            }
        };
        drop(self.stream.send_trailers(trailers));
    }

    /// Breaks the stream off: what was sent must not be taken for a whole reply.
    pub fn reset(mut self) {
        self.stream.send_reset(h2::Reason::INTERNAL_ERROR);
    }

    pub fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(context).map(drop)
    }
}

fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, STATUS_OK);
    trailers.insert(GRPC_MESSAGE, EMPTY);
    trailers
}

fn append_status(headers: &mut HeaderMap, status: &Status) {
    headers.insert(GRPC_STATUS, HeaderValue::from(status.code as i32));
    let message = HeaderValue::from_str(&percent_encode(&status.message)).unwrap_or(EMPTY);
    headers.insert(GRPC_MESSAGE, message);
}

/// grpc-message keeps printable ASCII except `%`; the rest is percent-encoded UTF-8.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Takes length-prefixed messages out of bytes that come in pieces.
pub struct MessageFrames {
    buffer: BytesMut,
    /// A chunk that is exactly what was asked for is handed out without a copy.
    chunk: Bytes,
    message_bytes_max: usize,
    /// What the request said of compression; `None` for identity.
    encoding: Option<HeaderValue>,
    unary: bool,
}

/// Reads length-prefixed messages from a request body.
pub struct MessageReader {
    body: RecvStream,
    frames: MessageFrames,
    ended: bool,
    /// What waits here for the rest of its message.
    held: HeldBytes,
}

impl MessageReader {
    /// `encoding` is the request's `grpc-encoding`. What a message has so far counts for `held`.
    pub fn new(
        body: RecvStream,
        message_bytes_max: usize,
        encoding: Option<&HeaderValue>,
        unary: bool,
        held: &Rc<Held>,
    ) -> Self {
        let frames = MessageFrames::new(message_bytes_max, encoding, unary);
        Self { body, frames, ended: false, held: HeldBytes::new(held, 0) }
    }

    /// The next message, `None` at the end of the body.
    pub fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        let polled = self.poll_whole(context);
        let waiting = self.frames.waiting_bytes();
        self.held.set(waiting);
        match polled {
            Poll::Pending if self.held.of().is_full() && waiting > 0 => {
                self.frames.give_up();
                self.held.set(0);
                Poll::Ready(Some(Err(EtcdError::RequestTooManyRequests.into())))
            }
            polled => polled,
        }
    }

    fn poll_whole(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            match self.frames.take_message() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            if self.ended {
                return Poll::Ready(self.frames.end());
            }
            match self.body.poll_data(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(data))) => {
                    // Returning the window as soon as the bytes are here keeps one big message from stalling itself;
                    // what may pile up is bounded by the message limit above and the stream's window.
                    drop(self.body.flow_control().release_capacity(data.len()));
                    self.frames.push(data);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.ended = true;
                    self.frames.clear();
                    return Poll::Ready(Some(Err(Status::new(Code::Canceled, format!("context canceled: {error}")))));
                }
                Poll::Ready(None) => self.ended = true,
            }
        }
    }

    /// The body has ended, so that no frame of it is to come.
    pub fn is_at_end(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    /// Waits for the end of a body whose message is there. More of it is not taken: what it says is not wanted.
    pub fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.is_at_end() {
            match std::task::ready!(self.body.poll_data(context)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(_) => return Poll::Ready(()),
                None => self.ended = true,
            }
        }
        Poll::Ready(())
    }
}

impl MessageFrames {
    /// `encoding` is the request's `grpc-encoding`.
    pub fn new(message_bytes_max: usize, encoding: Option<&HeaderValue>, unary: bool) -> Self {
        let encoding = encoding.filter(|encoding| !matches!(encoding.as_bytes(), b"" | b"identity")).cloned();
        Self { buffer: BytesMut::new(), chunk: Bytes::new(), message_bytes_max, encoding, unary }
    }

    /// Takes a piece. Call [`Self::take_message`] until it has no more before the next one.
    pub fn push(&mut self, data: Bytes) {
        if self.chunk.is_empty() && self.buffer.is_empty() {
            self.chunk = data;
            return;
        }
        self.buffer.extend_from_slice(&std::mem::take(&mut self.chunk));
        self.buffer.extend_from_slice(&data);
    }

    /// What has come of a message whose rest is missing.
    fn waiting_bytes(&self) -> usize {
        self.chunk.len() + self.buffer.len()
    }

    fn clear(&mut self) {
        self.chunk = Bytes::new();
        self.buffer.clear();
    }

    /// Forgets what waits, and gives its memory back.
    fn give_up(&mut self) {
        (self.chunk, self.buffer) = (Bytes::new(), BytesMut::new());
    }

    /// What the end of the body means: nothing, or that a message broke off.
    pub fn end(&mut self) -> Option<Result<Bytes, Status>> {
        let left = self.waiting_bytes();
        self.clear();
        // As grpc-go, which tells apart where a unary request broke off.
        let status = match left {
            0..PREFIX_LENGTH if self.unary => Status::new(Code::Unknown, "EOF"),
            0 => return None,
            _ if self.unary => Status::new(Code::Unknown, "unexpected EOF"),
            _ => Status::new(Code::Internal, "unexpected EOF"),
        };
        Some(Err(status))
    }

    /// The next message that is whole.
    pub fn take_message(&mut self) -> Result<Option<Bytes>, Status> {
        let available: &[u8] = if self.chunk.is_empty() { &self.buffer } else { &self.chunk };
        let Some((prefix, rest)) = available.split_first_chunk::<PREFIX_LENGTH>() else { return Ok(None) };
        if prefix[0] > 1 {
            let text = format!("grpc: received unexpected payload format {}", prefix[0]);
            return Err(Status::new(Code::Internal, text));
        }
        if let Some(encoding) = &self.encoding
            && (prefix[0] == 1 || encoding != "gzip")
        {
            let name = String::from_utf8_lossy(encoding.as_bytes());
            let text = format!("grpc: Decompressor is not installed for grpc-encoding \"{name}\"");
            return Err(Status::new(Code::Unimplemented, text));
        }
        if prefix[0] == 1 {
            let text = "grpc: compressed flag set with identity or empty encoding";
            return Err(Status::new(Code::Internal, text));
        }
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > self.message_bytes_max {
            let max = self.message_bytes_max;
            let text = format!("grpc: received message larger than max ({length} vs. {max})");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        if rest.len() < length {
            return Ok(None);
        }
        if self.chunk.is_empty() {
            self.buffer.advance(PREFIX_LENGTH);
            return Ok(Some(self.buffer.split_to(length).freeze()));
        }
        self.chunk.advance(PREFIX_LENGTH);
        Ok(Some(self.chunk.split_to(length)))
    }
}

/// Reads `grpc-timeout`: at most eight digits and a unit. The error is grpc-go's text.
pub fn parse_timeout(value: &HeaderValue) -> Result<Duration, String> {
    let text = String::from_utf8_lossy(value.as_bytes());
    let quoted = quote(&text);
    if text.len() < 2 {
        return Err(format!("transport: timeout string is too short: {quoted}"));
    }
    if text.len() > 9 {
        return Err(format!("transport: timeout string is too long: {quoted}"));
    }
    let unit_nanoseconds: u64 = match text.as_bytes()[text.len() - 1] {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return Err(format!("transport: timeout unit is not recognized: {quoted}")),
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("strconv.ParseUint: parsing {}: invalid syntax", quote(digits)));
    }
    let amount: u64 = digits.parse().expect("one to eight digits are a number");
    // The longest that Go can say, some 292 years.
    let nanoseconds_max = i64::MAX.unsigned_abs();
    Ok(Duration::from_nanos(amount.saturating_mul(unit_nanoseconds).min(nanoseconds_max)))
}

const NO_PROTOBUF: &str = "proto: cannot parse invalid wire-format data";
const NO_TEXT: &str = "string field contains invalid UTF-8";

/// Decodes the request of a unary call. The text of a failure is grpc-go's.
pub fn decode<M: prost::Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| malformed(&error))
}

/// What [`decode`] says to a message that is none.
pub fn malformed(error: &prost::DecodeError) -> Status {
    malformed_as("grpc: error unmarshalling request", error)
}

/// Decodes a message of a stream.
pub fn decode_streamed<M: prost::Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| malformed_as("grpc: failed to unmarshal the received message", &error))
}

fn malformed_as(what: &str, error: &prost::DecodeError) -> Status {
    // The decoder says which only in words.
    let reason = if error.to_string().ends_with("data is not UTF-8 encoded") { NO_TEXT } else { NO_PROTOBUF };
    Status::new(Code::Internal, format!("{what}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_percent_encoded() {
        assert_eq!(percent_encode("etcdserver: key is not provided"), "etcdserver: key is not provided");
        assert_eq!(percent_encode("50% ü\n"), "50%25 %C3%BC%0A");
    }

    #[test]
    fn timeouts_have_eight_digits_and_a_unit() {
        let parse = |text: &'static str| parse_timeout(&HeaderValue::from_static(text));
        assert_eq!(parse("5S"), Ok(Duration::from_secs(5)));
        assert_eq!(parse("4999m"), Ok(Duration::from_millis(4999)));
        assert_eq!(parse("0n"), Ok(Duration::ZERO));
        assert_eq!(parse("99999999H"), Ok(Duration::from_nanos(9_223_372_036_854_775_807)));
        for (text, error) in [
            ("123456789S", "transport: timeout string is too long: \"123456789S\""),
            ("S", "transport: timeout string is too short: \"S\""),
            ("", "transport: timeout string is too short: \"\""),
            ("5x", "transport: timeout unit is not recognized: \"5x\""),
            ("+5S", "strconv.ParseUint: parsing \"+5\": invalid syntax"),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()));
        }
    }

    #[test]
    fn unknown_methods_are_named_as_grpc_go_names_them() {
        let status = Status::unimplemented("/etcdserverpb.Auth/AuthEnable");
        assert_eq!(status.message, "unknown method AuthEnable for service etcdserverpb.Auth");
        assert_eq!(Status::unimplemented("/a/b/c").message, "unknown service a/b");
        assert_eq!(Status::unimplemented("/a").message, "malformed method name: \"/a\"");
    }
}
