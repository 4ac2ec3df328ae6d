//! HTTP/1.1 requests to other members, over connections that are made for one use or kept by their owner.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use super::timed::Dialer;
use crate::urls::Url;

/// Ends a task with its owner.
pub struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    pub fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An open connection to a member; ends when dropped.
pub struct Connection<B> {
    sender: SendRequest<B>,
    _driver: AbortOnDrop,
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub async fn dial(
        dialer: &Dialer,
        url: &Url,
        dial_timeout: Duration,
        write_timeout: Duration,
    ) -> io::Result<Connection<B>> {
        let stream = dialer.connect(url, dial_timeout, write_timeout).await?;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(io::Error::other)?;
        let driver = AbortOnDrop::spawn(async move {
            // The requests on it say what went wrong.
            drop(connection.await);
        });
        Ok(Connection { sender, _driver: driver })
    }

    /// Whether another request may go over it.
    pub fn is_usable(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(&mut self, request: Request<B>) -> io::Result<Response<Incoming>> {
        self.sender.ready().await.map_err(io_error)?;
        self.sender.send_request(request).await.map_err(io_error)
    }
}

/// A request for `path` of the member behind `url`.
pub fn request<B>(method: Method, url: &Url, path: &str, body: B) -> io::Result<Request<B>> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(io::Error::other)?;
    let host = HeaderValue::from_str(&url.host_port()).map_err(io::Error::other)?;
    request.headers_mut().insert(http::header::HOST, host);
    request.headers_mut().insert(http::header::USER_AGENT, HeaderValue::from_static("kvorum"));
    Ok(request)
}

/// Reads a body to its end. An error if it is longer than `bytes_max`, or if nothing comes for `piece_timeout`.
pub async fn collect(body: &mut Incoming, bytes_max: usize, piece_timeout: Duration) -> Result<Bytes, BodyError> {
    let mut collected = BytesMut::new();
    while let Some(frame) = next_piece(body, piece_timeout).await.map_err(BodyError::Broken)? {
        if collected.len() + frame.len() > bytes_max {
            return Err(BodyError::TooLong);
        }
        collected.extend_from_slice(&frame);
    }
    Ok(collected.freeze())
}

/// The next bytes of a body, or `None` at its end.
pub async fn next_piece(body: &mut Incoming, timeout: Duration) -> io::Result<Option<Bytes>> {
    loop {
        let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "read: i/o timeout");
        let Some(frame) = tokio::time::timeout(timeout, body.frame()).await.map_err(silent)? else { return Ok(None) };
        // What is no data are trailers, which nobody sends.
        if let Ok(data) = frame.map_err(io_error)?.into_data() {
            return Ok(Some(data));
        }
    }
}

/// Why a body was not read.
#[derive(Debug)]
pub enum BodyError {
    TooLong,
    Broken(io::Error),
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong => formatter.write_str("body too large"),
            Self::Broken(error) => error.fmt(formatter),
        }
    }
}

/// hyper's error with its cause, which says what happened. An end where more was to come is `UnexpectedEof`.
pub fn io_error(error: hyper::Error) -> io::Error {
    let kind = if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        io::ErrorKind::UnexpectedEof
    } else {
        io::ErrorKind::Other
    };
    let cause = std::error::Error::source(&error);
    let kind = cause.and_then(|cause| cause.downcast_ref::<io::Error>()).map_or(kind, io::Error::kind);
    let text = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    io::Error::new(kind, text)
}
