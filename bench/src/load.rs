//! The closed loop: connections x streams, each stream sends its next request when its reply has come. One thread per
//! load, one task per connection. It never retries: the first error ends the load, since a load with errors measures
//! something else.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{Connection, ResponseFuture, SendRequest};
use tokio::task::{JoinSet, LocalSet};

use crate::control::Control;
use crate::histogram::Histogram;
use crate::wire::{self, Socket};

/// Where the requests of one connection come from.
pub trait Source {
    /// The next request of `stream` with its gRPC prefix; `None` ends the stream's loop.
    fn request(&mut self, stream: usize) -> Option<Bytes>;

    /// Whether `reply` is to be called; it costs a copy.
    fn wants_replies(&self) -> bool {
        false
    }

    /// The reply to the last request of `stream`, with its gRPC prefix.
    fn reply(&mut self, _stream: usize, _message: Bytes) -> Result<(), String> {
        Ok(())
    }
}

/// One closed loop.
pub struct Load {
    /// The gRPC method, such as `/etcdserverpb.KV/Put`.
    pub path: &'static str,
    pub connections: usize,
    /// Calls under way on each connection.
    pub streams: usize,
    /// Makes the source of the connection of that number.
    pub source: Box<dyn Fn(usize) -> Box<dyn Source> + Send>,
}

/// What came back while recording.
#[derive(Default, Clone)]
pub struct Tally {
    pub latency: Histogram,
    /// Replies, or whatever the case counts.
    pub count: u64,
}

impl Load {
    /// Starts the load on a thread of its own. It ends when `control` says stop, when all sources are exhausted, or with
    /// the first error, which it also reports to `control`.
    pub fn spawn(self, address: SocketAddr, control: &Arc<Control>) -> JoinHandle<Result<Tally, String>> {
        spawn_thread(control, move |control, tally| async move {
            let mut connections = JoinSet::new();
            for number in 0..self.connections {
                let source = (self.source)(number);
                let loop_over = Loop::new(source, self.streams, self.path, address);
                connections.spawn_local(loop_over.run(address, control.clone(), tally.clone()));
            }
            while let Some(ended) = connections.join_next().await {
                ended.map_err(|error| error.to_string())??;
            }
            Ok(())
        })
    }
}

/// Runs `work` on a thread with its own runtime until it ends or `control` says stop, and returns what was tallied.
pub fn spawn_thread<Work, Running>(control: &Arc<Control>, work: Work) -> JoinHandle<Result<Tally, String>>
where
    Work: FnOnce(Arc<Control>, Rc<RefCell<Tally>>) -> Running + Send + 'static,
    Running: Future<Output = Result<(), String>>,
{
    let control = control.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("load runtime: {error}"))?;
        let tally = Rc::new(RefCell::new(Tally::default()));
        let work = work(control.clone(), tally.clone());
        let outcome = LocalSet::new().block_on(&runtime, async {
            tokio::select! {
                biased;
                () = control.stopped() => Ok(()),
                outcome = work => outcome,
            }
        });
        if let Err(error) = &outcome {
            control.fail(error);
        }
        let tally = tally.borrow().clone();
        outcome.map(|()| tally)
    })
}

/// The calls of one connection. All are polled after the connection was: whatever can wake a call has then arrived, so
/// calls need no wakers of their own.
struct Loop {
    source: Box<dyn Source>,
    calls: Vec<Call>,
    head: http::Request<()>,
}

enum Call {
    Idle,
    Head { reply: ResponseFuture, started: Instant },
    Body { body: RecvStream, started: Instant, message: BytesMut },
    Exhausted,
}

impl Loop {
    fn new(source: Box<dyn Source>, streams: usize, path: &str, address: SocketAddr) -> Self {
        let calls = std::iter::repeat_with(|| Call::Idle).take(streams).collect();
        Loop { source, calls, head: wire::call_head(address, path) }
    }

    async fn run(
        mut self,
        address: SocketAddr,
        control: Arc<Control>,
        tally: Rc<RefCell<Tally>>,
    ) -> Result<(), String> {
        let (mut sender, mut connection) = wire::connect(address).await?;
        poll_fn(|context| self.turn(context, &mut sender, &mut connection, &control, &tally)).await
    }

    /// One turn: let bytes in and out, then take replies and send the next requests, until nothing moves.
    fn turn(
        &mut self,
        context: &mut Context<'_>,
        sender: &mut SendRequest<Bytes>,
        connection: &mut Connection<Socket, Bytes>,
        control: &Control,
        tally: &RefCell<Tally>,
    ) -> Poll<Result<(), String>> {
        loop {
            match Pin::new(&mut *connection).poll(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => return Poll::Ready(Err("the server closed the connection".to_owned())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(format!("connection: {error}"))),
            }
            let now = Instant::now();
            let recording = control.recording();
            let mut tally = tally.borrow_mut();
            let (mut moved, mut live) = (false, false);
            for stream in 0..self.calls.len() {
                while self.advance(stream, now, sender, |started| {
                    if recording {
                        tally.latency.record(now - started);
                        tally.count += 1;
                    }
                })? {
                    moved = true;
                }
                live |= !matches!(self.calls[stream], Call::Exhausted);
            }
            if !live {
                return Poll::Ready(Ok(()));
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Moves one call a step further; false when it waits or has ended.
    fn advance(
        &mut self,
        stream: usize,
        now: Instant,
        sender: &mut SendRequest<Bytes>,
        finished: impl FnOnce(Instant),
    ) -> Result<bool, String> {
        let context = &mut Context::from_waker(Waker::noop());
        let call = &mut self.calls[stream];
        match call {
            Call::Exhausted => return Ok(false),
            Call::Idle => {
                match sender.poll_ready(context) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(ready) => ready.map_err(|error| format!("open a call: {error}"))?,
                }
                let Some(body) = self.source.request(stream) else {
                    *call = Call::Exhausted;
                    return Ok(true);
                };
                let sent = sender.send_request(self.head.clone(), false);
                let (reply, mut sending) = sent.map_err(|error| format!("open a call: {error}"))?;
                sending.send_data(body, true).map_err(|error| format!("send a request: {error}"))?;
                *call = Call::Head { reply, started: now };
            }
            Call::Head { reply, started } => {
                let Poll::Ready(head) = Pin::new(reply).poll(context) else { return Ok(false) };
                let (head, body) = head.map_err(|error| format!("reply: {error}"))?.into_parts();
                if head.headers.contains_key("grpc-status") {
                    wire::check_status(&head.headers)?;
                }
                *call = Call::Body { body, started: *started, message: BytesMut::new() };
            }
            Call::Body { body, started, message } => {
                match body.poll_data(context) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(Some(data)) => {
                        let data = data.map_err(|error| format!("reply: {error}"))?;
                        if self.source.wants_replies() {
                            message.extend_from_slice(&data);
                        }
                        return Ok(true);
                    }
                    Poll::Ready(None) => {}
                }
                let Poll::Ready(trailers) = body.poll_trailers(context) else { return Ok(false) };
                let trailers = trailers.map_err(|error| format!("trailers: {error}"))?;
                wire::check_status(&trailers.ok_or("reply without trailers")?)?;
                finished(*started);
                if self.source.wants_replies() {
                    let message = std::mem::take(message).freeze();
                    self.source.reply(stream, message)?;
                }
                *call = Call::Idle;
            }
        }
        Ok(true)
    }
}
