//! gRPC framing, and connections of the `h2` crate for calls that stay open. It never decodes a message: bodies go out
//! as bytes encoded before, replies come back as bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Connection, SendRequest};
use http::{HeaderMap, Method, Request, Version};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Flag byte and four length bytes before each gRPC message.
pub const PREFIX_BYTES: usize = 5;

/// Receive windows so large that the client never holds a server back, as h2load does.
const WINDOW_BYTES: u32 = (1 << 31) - 1;

/// How many calls may be open before the server has said how many it allows.
const STREAMS_MAX: usize = 1024;

/// A message behind its gRPC prefix.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).expect("requests are far below 4 GiB"));
    message.encode(&mut body).expect("the buffer has room for the message");
    body.freeze()
}

/// Opens a connection. The second half must be polled for anything to move.
pub async fn connect(address: SocketAddr) -> Result<(SendRequest<Bytes>, Connection<Socket, Bytes>), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    h2::client::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_max_send_streams(STREAMS_MAX)
        .enable_push(false)
        .handshake(Socket(stream))
        .await
        .map_err(|error| format!("HTTP/2 handshake with {address}: {error}"))
}

/// The head of a call to `path`, such as `/etcdserverpb.KV/Put`, as somebody if there is a token.
pub fn call_head(address: SocketAddr, path: &str, token: Option<&str>) -> Request<()> {
    let request = Request::builder();
    let request = match token {
        Some(token) => request.header("token", token),
        None => request,
    };
    request
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("address, path and token are valid in a request")
}

/// Fails unless `trailers` say that the call went well.
pub fn check_status(trailers: &HeaderMap) -> Result<(), String> {
    match trailers.get("grpc-status").map(|status| status.as_bytes()) {
        Some(b"0") => Ok(()),
        Some(status) => {
            Err(failure(status, trailers.get("grpc-message").map(|text| text.as_bytes()).unwrap_or_default()))
        }
        None => Err("reply without grpc-status".to_owned()),
    }
}

/// The error of a call that ended with this status and this percent-encoded message.
pub fn failure(status: &[u8], message: &[u8]) -> String {
    let mut text = Vec::with_capacity(message.len());
    let mut rest = message;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let encoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%');
        text.push(encoded.unwrap_or(byte));
        rest = if encoded.is_some() { &after[2..] } else { after };
    }
    format!("grpc-status {}: {}", String::from_utf8_lossy(status), String::from_utf8_lossy(&text))
}

/// A TCP socket that says it cannot write several buffers at once. h2 then copies small frames into one buffer and sends
/// many requests with one system call, instead of one call for each frame above 256 bytes.
pub struct Socket(TcpStream);

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Cuts a stream of body bytes into gRPC messages.
#[derive(Default)]
pub struct Messages {
    pending: BytesMut,
}

impl Messages {
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole message, without its prefix.
    pub fn next(&mut self) -> Option<Bytes> {
        let prefix = self.pending.first_chunk::<PREFIX_BYTES>()?;
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if self.pending.len() < PREFIX_BYTES + length {
            return None;
        }
        let mut whole = self.pending.split_to(PREFIX_BYTES + length);
        Some(whole.split_off(PREFIX_BYTES).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::etcdserverpb::PutRequest;

    #[test]
    fn messages_come_out_whole_however_they_arrive() {
        let request = PutRequest { key: Bytes::from_static(b"key"), ..Default::default() };
        let framed = frame(&request);
        let mut messages = Messages::default();
        for _ in 0..2 {
            for byte in &framed[..framed.len() - 1] {
                messages.push(&[*byte]);
                assert!(messages.next().is_none());
            }
            messages.push(&framed[framed.len() - 1..]);
            let message = messages.next().expect("the message is complete");
            assert_eq!(PutRequest::decode(message).expect("it decodes"), request);
        }
        let mut empty = Messages::default();
        empty.push(&[0; PREFIX_BYTES]);
        assert_eq!(empty.next(), Some(Bytes::new()));
    }

    #[test]
    fn only_status_zero_is_success() {
        let mut trailers = HeaderMap::new();
        assert!(check_status(&trailers).is_err());
        trailers.insert("grpc-status", "12".parse().expect("a header value"));
        trailers.insert("grpc-message", "unknown%20method, 100%".parse().expect("a header value"));
        assert_eq!(check_status(&trailers), Err("grpc-status 12: unknown method, 100%".to_owned()));
        trailers.insert("grpc-status", "0".parse().expect("a header value"));
        assert_eq!(check_status(&trailers), Ok(()));
    }
}
