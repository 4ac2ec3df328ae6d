//! A socket that gathers writes. h2 hands every DATA frame above a few hundred bytes to the system by itself; here
//! frames pile up in a buffer while the connection's task runs, and one system call sends them at the end of its turn
//! (measured: it doubles the throughput of small replies). What it reads passes [`crate::authority`] first, for as long
//! as that has something to do, and both directions are shown to [`crate::pings`].

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvorum_net::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::authority::RepairedReader;
use crate::limits::{GO_AWAY_MILLISECONDS, SOCKET_BUFFER_BYTES_MAX};
use crate::payload;
use crate::pings::PingWatch;

/// Segments of one system call; what is more goes with the next.
const SEND_SLICES_MAX: usize = 64;

/// The half that h2 owns. Flushing it does nothing: [`Flusher::poll_flush`] does.
pub struct GatheringSocket(Rc<RefCell<State>>);

/// The half that the connection's task keeps, to send what was gathered.
pub struct Flusher(Rc<RefCell<State>>);

struct State {
    stream: Stream,
    /// TLS may hold bytes that it was given.
    unflushed: bool,
    /// In front of reading until the connection needs no repair, which for nearly all is the first header block.
    repaired: Option<Box<RepairedReader>>,
    pings: PingWatch,
    /// Copies, in order.
    gathered: Vec<u8>,
    /// Large pieces, each with how much of `gathered` goes before it.
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
    /// Of both together.
    sent: usize,
}

/// Wraps a stream.
pub fn gather(stream: Stream, pings: PingWatch) -> (GatheringSocket, Flusher) {
    let repaired = Some(Box::new(RepairedReader::new()));
    let state = Rc::new(RefCell::new(State {
        stream,
        unflushed: false,
        repaired,
        pings,
        gathered: Vec::new(),
        shared: Vec::new(),
        shared_bytes: 0,
        sent: 0,
    }));
    (GatheringSocket(Rc::clone(&state)), Flusher(state))
}

impl Flusher {
    /// Sends what was gathered. Pending while the socket takes no more; the rest goes out when it does.
    pub fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(context)
    }

    /// When something was last read.
    pub fn last_read(&self) -> Instant {
        self.0.borrow().pings.last_read()
    }

    /// Judges pings that were read; `has_calls` says whether calls are under way. False if the client sends too many.
    pub fn judge_pings(&self, has_calls: impl FnOnce() -> bool) -> bool {
        let pings = &mut self.0.borrow_mut().pings;
        !pings.is_waiting() || pings.judge(has_calls())
    }

    /// Tells the client that it pinged too often, as the last that it hears. Then it has a while to go by itself, since
    /// closing a socket with unread input could cost it that frame.
    pub async fn say_go_away(&self) {
        {
            let state = &mut *self.0.borrow_mut();
            // h2 hands whole frames over, so this is a boundary between two.
            state.gathered.extend_from_slice(&state.pings.go_away());
        }
        let gone = poll_fn(|context| self.0.borrow_mut().poll_gone(context));
        // However it ends, the connection does.
        drop(tokio::time::timeout(Duration::from_millis(GO_AWAY_MILLISECONDS), gone).await);
    }
}

impl State {
    /// Sends what was gathered and ignores what comes, until the peer closes.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        loop {
            let mut ignored = [0; 1024];
            let mut buffer = ReadBuf::new(&mut ignored);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.waiting_bytes() {
            let count = ready!(match self.shared.is_empty() {
                true => Pin::new(&mut self.stream).poll_write(context, &self.gathered[self.sent..]),
                false => {
                    let mut slices = [io::IoSlice::new(&[]); SEND_SLICES_MAX];
                    let used = slices_from(&self.gathered, &self.shared, self.sent, &mut slices);
                    Pin::new(&mut self.stream).poll_write_vectored(context, &slices[..used])
                }
            })?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
            self.unflushed = true;
        }
        self.gathered.clear();
        self.shared.clear();
        self.shared_bytes = 0;
        self.sent = 0;
        if self.gathered.capacity() > SOCKET_BUFFER_BYTES_MAX * 2 {
            self.gathered.shrink_to(SOCKET_BUFFER_BYTES_MAX);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes taken from h2 since everything was sent.
    fn waiting_bytes(&self) -> usize {
        self.gathered.len() + self.shared_bytes
    }

    fn gather(&mut self, bytes: &[u8]) {
        self.pings.written(bytes);
        match payload::claim(bytes) {
            Some(piece) => {
                self.shared_bytes += piece.len();
                self.shared.push((self.gathered.len(), piece));
            }
            None => self.gathered.extend_from_slice(bytes),
        }
    }
}

/// What is to be sent next, behind the first `sent` bytes: fills `slices` as far as they go and says how many are in use.
fn slices_from<'a>(
    gathered: &'a [u8],
    shared: &'a [(usize, Bytes)],
    sent: usize,
    slices: &mut [io::IoSlice<'a>],
) -> usize {
    let (mut skip, mut used, mut from) = (sent, 0, 0);
    let mut add = |bytes: &'a [u8]| {
        if skip >= bytes.len() {
            skip -= bytes.len();
        } else if used < slices.len() {
            slices[used] = io::IoSlice::new(&bytes[skip..]);
            (skip, used) = (0, used + 1);
        }
    };
    for (position, piece) in shared {
        add(&gathered[from..*position]);
        add(piece);
        from = *position;
    }
    add(&gathered[from..]);
    used
}

impl AsyncRead for GatheringSocket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        let State { stream, repaired, pings, .. } = &mut *state;
        let before = buffer.filled().len();
        let polled = match repaired {
            None => Pin::new(stream).poll_read(context, buffer),
            Some(reader) => {
                let polled = reader.poll_read(Pin::new(stream), context, buffer);
                if reader.is_done() {
                    *repaired = None;
                }
                polled
            }
        };
        if polled.is_ready() {
            pings.read(&buffer.filled()[before..], Instant::now());
        }
        polled
    }
}

impl AsyncWrite for GatheringSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        if state.waiting_bytes() >= SOCKET_BUFFER_BYTES_MAX {
            ready!(state.poll_send(context))?;
        }
        state.gather(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        if state.waiting_bytes() >= SOCKET_BUFFER_BYTES_MAX {
            ready!(state.poll_send(context))?;
        }
        let mut count = 0;
        for slice in slices {
            state.gather(slice);
            count += slice.len();
        }
        Poll::Ready(Ok(count))
    }

    /// With vectored writes h2 passes payloads by reference: small ones are copied once, into the buffer here, and large
    /// ones not at all.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        ready!(state.poll_send(context))?;
        Pin::new(&mut state.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However little each call sends, the bytes go out in order, each once.
        #[test]
        fn everything_is_sent_in_order(
            parts in proptest::collection::vec((any::<bool>(), 0..50usize), 0..12),
            pieces in proptest::collection::vec(1..70usize, 1..10),
            slices_max in 1..5usize,
        ) {
            let (mut gathered, mut shared, mut whole) = (Vec::new(), Vec::new(), Vec::new());
            for (is_shared, length) in parts {
                let bytes: Vec<u8> = (whole.len()..whole.len() + length).map(|byte| byte as u8).collect();
                whole.extend_from_slice(&bytes);
                match is_shared {
                    true => shared.push((gathered.len(), Bytes::from(bytes))),
                    false => gathered.extend_from_slice(&bytes),
                }
            }
            let mut sent = Vec::new();
            for piece in pieces.iter().cycle() {
                let mut slices = vec![io::IoSlice::new(&[]); slices_max];
                let used = slices_from(&gathered, &shared, sent.len(), &mut slices);
                prop_assert_eq!(used == 0, sent.len() == whole.len());
                if used == 0 {
                    break;
                }
                let next: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
                sent.extend_from_slice(&next[..next.len().min(*piece)]);
            }
            prop_assert_eq!(sent, whole);
        }
    }
}
