//! A socket that gathers writes and remembers when it last received something. h2 hands every larger DATA frame to the
//! system by itself; here frames pile up while the connection's task runs, and one system call sends them at the end
//! of its turn.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes gathered before writes are passed to the system.
const GATHERED_BYTES_MAX: usize = 256 * 1024;

/// Anything bytes go both ways over.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// When the peer was last heard.
#[derive(Debug)]
pub struct Hearing {
    began: Instant,
    /// Milliseconds after `began`, plus one; 0 before anything was heard.
    last_milliseconds: AtomicU64,
    first: Notify,
}

impl Hearing {
    pub fn new() -> Self {
        Self { began: Instant::now(), last_milliseconds: AtomicU64::new(0), first: Notify::new() }
    }

    fn note(&self) {
        let milliseconds = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        if self.last_milliseconds.swap(milliseconds, Ordering::Relaxed) == 0 {
            self.first.notify_waiters();
        }
    }

    /// The last time something was received, or when the connection began.
    pub fn last(&self) -> Instant {
        let milliseconds = self.last_milliseconds.load(Ordering::Relaxed).saturating_sub(1);
        self.began + std::time::Duration::from_millis(milliseconds)
    }

    /// Ends once anything was received.
    pub async fn first(&self) {
        let mut notified = std::pin::pin!(self.first.notified());
        notified.as_mut().enable();
        if self.last_milliseconds.load(Ordering::Relaxed) == 0 {
            notified.await;
        }
    }
}

/// The half that h2 owns. Flushing it does nothing: [`Flusher::poll_flush`] does.
pub struct GatheringSocket {
    state: Arc<Mutex<State>>,
    hearing: Arc<Hearing>,
}

/// The half that the connection's task keeps, to send what was gathered.
pub struct Flusher(Arc<Mutex<State>>);

struct State {
    stream: Box<dyn Duplex>,
    gathered: Vec<u8>,
    sent: usize,
    /// The stream (TLS) may hold bytes that it was given.
    unflushed: bool,
}

/// Wraps a stream.
pub fn gather(stream: Box<dyn Duplex>, hearing: Arc<Hearing>) -> (GatheringSocket, Flusher) {
    let state = Arc::new(Mutex::new(State { stream, gathered: Vec::new(), sent: 0, unflushed: false }));
    (GatheringSocket { state: Arc::clone(&state), hearing }, Flusher(state))
}

impl Flusher {
    /// Sends what was gathered. Pending while the socket takes no more; the rest goes out when it does.
    pub fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_send(context)
    }
}

impl State {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.gathered[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
            self.unflushed = true;
        }
        self.gathered.clear();
        self.sent = 0;
        if self.gathered.capacity() > GATHERED_BYTES_MAX * 2 {
            self.gathered.shrink_to(GATHERED_BYTES_MAX);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for GatheringSocket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let polled = Pin::new(&mut self.state.lock().stream).poll_read(context, buffer);
        if buffer.filled().len() > filled {
            self.hearing.note();
        }
        polled
    }
}

impl AsyncWrite for GatheringSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state.lock();
        if state.gathered.len() >= GATHERED_BYTES_MAX {
            ready!(state.poll_send(context))?;
        }
        let mut count = 0;
        for slice in slices {
            state.gathered.extend_from_slice(slice);
            count += slice.len();
        }
        Poll::Ready(Ok(count))
    }

    /// With vectored writes h2 passes payloads by reference, so that each byte is copied once, into the buffer here.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        ready!(state.poll_send(context))?;
        Pin::new(&mut state.stream).poll_shutdown(context)
    }
}
