//! The closed loop: connections x streams, each stream sends its next request when its reply has come. One thread per
//! load, one task per connection. It never retries: the first error ends the load, since a load with errors measures
//! something else.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsConnector;

use crate::control::Control;
use crate::histogram::Histogram;
use crate::http2::{Connection, Received};

/// No request of a closed loop is longer.
const REQUEST_BYTES_MAX: usize = 4096;

/// Where the requests of one connection come from.
pub trait Source {
    /// The next request of `stream` with its gRPC prefix; `None` ends the stream's loop.
    fn request(&mut self, stream: usize) -> Option<Bytes>;

    /// Whether `reply` is to be called; it costs a copy.
    fn wants_replies(&self) -> bool {
        false
    }

    /// The reply to the last request of `stream`, with its gRPC prefix.
    fn reply(&mut self, _stream: usize, _message: &[u8]) -> Result<(), String> {
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
    /// Over TLS, if there is one.
    pub tls: Option<TlsConnector>,
    /// Shown with each request, if there is one.
    pub token: Option<String>,
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
        self.spawn_over(vec![address], control)
    }

    /// As [`Self::spawn`], with connections to each of the addresses in turn.
    pub fn spawn_over(self, addresses: Vec<SocketAddr>, control: &Arc<Control>) -> JoinHandle<Result<Tally, String>> {
        spawn_thread(control, move |control, tally| async move {
            let mut connections = JoinSet::new();
            for (number, address) in (0..self.connections).zip(addresses.iter().copied().cycle()) {
                let source = (self.source)(number);
                let calls = Loop::new(source, self.streams);
                connections.spawn_local(calls.run(
                    address,
                    self.path,
                    self.tls.clone(),
                    self.token.clone(),
                    control.clone(),
                    tally.clone(),
                ));
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
    let thread = std::thread::Builder::new().name("load".to_owned());
    let running = thread.spawn(move || {
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
    });
    running.expect("the machine can start a thread")
}

/// The calls of one connection.
struct Loop {
    source: Box<dyn Source>,
    calls: Vec<Call>,
    /// Calls that may send their next request.
    idle: Vec<usize>,
    exhausted: usize,
}

struct Call {
    started: Instant,
    reply: Vec<u8>,
}

impl Loop {
    fn new(source: Box<dyn Source>, streams: usize) -> Self {
        let call = || Call { started: Instant::now(), reply: Vec::new() };
        let calls = std::iter::repeat_with(call).take(streams).collect();
        Loop { source, calls, idle: (0..streams).rev().collect(), exhausted: 0 }
    }

    async fn run(
        mut self,
        address: SocketAddr,
        path: &str,
        tls: Option<TlsConnector>,
        token: Option<String>,
        control: Arc<Control>,
        tally: Rc<RefCell<Tally>>,
    ) -> Result<(), String> {
        let mut connection = Connection::open(address, path, tls.as_ref(), token.as_deref()).await?;
        poll_fn(|context| self.turn(context, &mut connection, &control, &tally)).await
    }

    /// Sends what can be sent and takes what has come, until the socket has nothing more.
    fn turn(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        control: &Control,
        tally: &RefCell<Tally>,
    ) -> Poll<Result<(), String>> {
        loop {
            self.send(connection)?;
            if self.exhausted == self.calls.len() {
                return Poll::Ready(Ok(()));
            }
            connection.poll_write(context)?;
            let tally = &mut *tally.borrow_mut();
            let recording = control.recording();
            let mut now = None;
            let read = connection.poll_read(context, |slot, received| {
                let call = &mut self.calls[slot];
                match received {
                    Received::Data(data) if self.source.wants_replies() => call.reply.extend_from_slice(data),
                    Received::Data(_) => {}
                    Received::End(status) => {
                        status?;
                        if recording {
                            tally.latency.record(*now.get_or_insert_with(Instant::now) - call.started);
                            tally.count += 1;
                        }
                        if self.source.wants_replies() {
                            self.source.reply(slot, &call.reply)?;
                            call.reply.clear();
                        }
                        self.idle.push(slot);
                    }
                }
                Ok(())
            });
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(outcome) => outcome?,
            }
        }
    }

    /// One request for each idle call, as far as the server's limits admit; they all start at the same moment.
    fn send(&mut self, connection: &mut Connection) -> Result<(), String> {
        let mut now = None;
        while let Some(&slot) = self.idle.last() {
            if !connection.admits(REQUEST_BYTES_MAX) {
                break;
            }
            self.idle.pop();
            match self.source.request(slot) {
                Some(body) => {
                    connection.call(slot, &body)?;
                    self.calls[slot].started = *now.get_or_insert_with(Instant::now);
                }
                None => self.exhausted += 1,
            }
        }
        Ok(())
    }
}
