//! A connection whose writes fail when the other side takes nothing for too long, and the one place where connections to
//! other members are made.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use kvorum_net::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::tls::{IncomingTls, OutgoingTls, TlsOptions};
use crate::urls::{Scheme, Url};

/// A connection with another member.
pub type PeerStream = Timed<Stream>;

/// Connects to members. Clones share what was read from files.
#[derive(Clone)]
pub struct Dialer(Arc<OutgoingTls>);

impl Dialer {
    /// With these options for URLs with https. An error if their files are of no use.
    pub fn new(options: TlsOptions) -> Result<Self, String> {
        Ok(Self(Arc::new(OutgoingTls::new(options)?)))
    }

    /// Connects to the member behind a URL.
    pub(super) async fn connect(
        &self,
        url: &Url,
        dial_timeout: Duration,
        write_timeout: Duration,
    ) -> io::Result<PeerStream> {
        let port = url.port();
        let port = port.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{url}: no such port")))?;
        let secure = match url.scheme() {
            Scheme::Http => false,
            Scheme::Https => true,
            Scheme::Unix | Scheme::Unixs => {
                let text = format!("{url}: members are dialed by http and https only");
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        };
        let connecting = TcpStream::connect((url.host(), port));
        let socket = tokio::time::timeout(dial_timeout, connecting).await.map_err(|_| timed_out("dial"))??;
        socket.set_nodelay(true)?;
        let stream = if secure { self.0.connect(socket, url.host()).await? } else { Stream::Plain(socket) };
        Ok(Timed::new(stream, write_timeout))
    }
}

impl Default for Dialer {
    /// No certificate of its own, and the system's authorities.
    fn default() -> Self {
        Self::new(TlsOptions::default()).expect("without files there is nothing to go wrong before something is dialed")
    }
}

/// Makes an accepted connection ready; `None` if it is refused, which the log says.
pub async fn accepted(socket: TcpStream, tls: Option<&IncomingTls>, write_timeout: Duration) -> Option<PeerStream> {
    socket.set_nodelay(true).ok()?;
    let stream = match tls {
        None => Stream::Plain(socket),
        Some(tls) => tls.accept(socket).await?.stream,
    };
    Some(Timed::new(stream, write_timeout))
}

fn timed_out(action: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{action}: i/o timeout"))
}

/// A stream with a limit on how long one write may wait.
pub struct Timed<S> {
    stream: S,
    write_timeout: Duration,
    /// Runs while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    pub fn new(stream: S, write_timeout: Duration) -> Timed<S> {
        Timed { stream, write_timeout, deadline: None }
    }

    fn limit<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.deadline = None;
            return polled;
        }
        let until = Instant::now() + self.write_timeout;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(timed_out("write"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.limit(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.limit(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limit(context, polled)
    }
}
