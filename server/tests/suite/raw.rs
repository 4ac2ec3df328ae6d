//! Requests no client library would send: HTTP/2 with any headers and any bytes, and bare sockets.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub http_status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    trailers: HeaderMap,
}

impl Answer {
    /// gRPC's code and text, from the trailers or, without a body, from the headers.
    pub fn status(&self) -> (i32, String) {
        let field = |name| self.trailers.get(name).or_else(|| self.headers.get(name));
        let code = field("grpc-status").expect("a gRPC answer").to_str().expect("text");
        let text = field("grpc-message").map_or("", |text| text.to_str().expect("text"));
        (code.parse().expect("a number"), text.to_owned())
    }
}

/// An HTTP/2 connection.
pub struct Http2 {
    sender: h2::client::SendRequest<Bytes>,
}

impl Http2 {
    pub async fn connect(address: &str) -> Self {
        let socket = TcpStream::connect(address).await.expect("the port is open");
        let (sender, connection) = h2::client::handshake(socket).await.expect("a handshake");
        tokio::spawn(async move { drop(connection.await) });
        Self { sender }
    }

    /// A POST with gRPC's headers, changed by `change`, and these bytes as its body.
    pub async fn call(
        &self,
        path: &str,
        body: impl Into<Bytes>,
        change: impl FnOnce(&mut http::Request<()>),
    ) -> Result<Answer, h2::Error> {
        let mut request = http::Request::builder()
            .method("POST")
            .uri(format!("http://member{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("tests give valid paths");
        change(&mut request);
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, false)?;
        // An answer that came before the whole body is fine.
        drop(stream.send_data(body.into(), true));
        let (head, mut body) = response.await?.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            drop(body.flow_control().release_capacity(chunk.len()));
            bytes.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        Ok(Answer { http_status: head.status.as_u16(), headers: head.headers, body: bytes.freeze(), trailers })
    }
}

/// A message behind its five-byte prefix.
pub fn frame(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).expect("tests send little").to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

/// Sends bytes, says that nothing follows, and reads what comes back until the peer closes.
pub async fn exchange(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.expect("the port is open");
    // A peer that closes early is one way to answer.
    drop(socket.write_all(bytes).await);
    drop(socket.shutdown().await);
    let mut answer = Vec::new();
    drop(socket.read_to_end(&mut answer).await);
    answer
}

/// One HTTP/1.1 request; the status line's code, the head and the body.
pub async fn http1(address: &str, method: &str, target: &str) -> (u16, String, String) {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: member\r\nConnection: close\r\n\r\n");
    let mut socket = TcpStream::connect(address).await.expect("the port is open");
    socket.write_all(request.as_bytes()).await.expect("the peer reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).expect("a status line").parse().expect("a number");
    (code, head.to_ascii_lowercase(), body.to_owned())
}
