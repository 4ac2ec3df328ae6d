//! The task behind a [`super::Lease`]: one gRPC stream keeps all leases alive. A lease is renewed when a third of its time
//! has passed, and taken for lost when no answer came for all of it (clientv3's `lease.go`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use kvorum_api::etcdserverpb::LeaseKeepAliveRequest;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{BUFFERED_ANSWERS_MAX, LeaseEnd, is_final};
use crate::buffer::Buffer;
use crate::connection::{Connection, Stream};
use crate::error::{Code, Error, ErrorKind};
use crate::login::Token;
use crate::method;
use crate::response::LeaseKeepAliveResponse;

type Answers = Buffer<Result<LeaseKeepAliveResponse, LeaseEnd>>;

/// What leases ask of the task.
pub enum Command {
    /// Keep a lease alive that surely lasts so long.
    Keep { number: u64, id: i64, buffer: Answers, lasts: Duration },
    /// Nobody needs it any more.
    Drop(u64),
}

/// Tells those who keep leases alive apart.
pub fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One lease and those who keep it alive.
struct Entry {
    readers: BTreeMap<u64, Answers>,
    /// When the next request is due.
    due: Instant,
    /// When it must be taken for lost.
    end: Instant,
    /// A request is on its way on this stream.
    is_asked: bool,
}

enum End {
    Idle,
    Unused,
    Failed(Error),
}

enum Happening {
    Command(Option<Command>),
    Message(Result<Option<LeaseKeepAliveResponse>, Error>),
    Time,
}

struct Task {
    connection: Connection,
    entries: HashMap<i64, Entry>,
    /// Which lease a number keeps alive.
    numbers: HashMap<u64, i64>,
    /// When to look at a lease again; entries that are no longer true are passed over.
    times: BinaryHeap<Reverse<(Instant, i64)>>,
    outgoing: VecDeque<i64>,
    token: Token,
    has_heard: bool,
}

/// Runs until the last user is gone.
pub async fn run(connection: Connection, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut backoff = connection.backoff();
    let mut task = Task {
        connection,
        entries: HashMap::new(),
        numbers: HashMap::new(),
        times: BinaryHeap::new(),
        outgoing: VecDeque::new(),
        token: Token::default(),
        has_heard: false,
    };
    loop {
        while task.entries.is_empty() {
            task.times.clear();
            let Some(command) = commands.recv().await else { return };
            task.obey(command);
        }
        let connection = task.connection.clone();
        let opening = connection.open_stream(method::LEASE_KEEP_ALIVE, None);
        let end = match task.while_waiting(&mut commands, opening).await {
            Ok(Ok((stream, token))) => task.serve(stream, token, &mut commands).await,
            Ok(Err(error)) => End::Failed(error),
            Err(end) => end,
        };
        match end {
            End::Unused => return,
            End::Idle => {}
            End::Failed(error) if is_final(&task.connection, &error) => task.fail_all(&error),
            End::Failed(error) => {
                tracing::debug!(%error, "the lease stream broke, and is opened again");
                if std::mem::take(&mut task.has_heard) {
                    backoff.reset();
                }
                let pause = tokio::time::sleep(backoff.pause());
                if let Err(End::Unused) = task.while_waiting(&mut commands, pause).await {
                    return;
                }
            }
        }
    }
}

impl Task {
    fn fail_all(&mut self, error: &Error) {
        for (_, entry) in self.entries.drain() {
            for buffer in entry.readers.values() {
                buffer.finish(Err(LeaseEnd::Failed(error.clone())));
            }
        }
        self.numbers.clear();
    }

    async fn while_waiting<T>(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        future: impl Future<Output = T>,
    ) -> Result<T, End> {
        let mut future = std::pin::pin!(future);
        loop {
            let next = self.next_time();
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return Err(End::Unused),
                },
                done = &mut future => return Ok(done),
                () = until(next) => self.look(false),
            }
            if self.entries.is_empty() {
                return Err(End::Idle);
            }
        }
    }

    async fn serve(
        &mut self,
        mut stream: Stream,
        token: Token,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> End {
        self.token = token;
        self.outgoing.clear();
        // Whatever was asked on another stream gets no answer on this one.
        let now = Instant::now();
        let asked: Vec<i64> =
            self.entries.iter().filter(|(_, entry)| entry.is_asked || entry.due <= now).map(|(&id, _)| id).collect();
        asked.into_iter().for_each(|id| self.ask(id));
        loop {
            let next = self.next_time();
            let mut timer = std::pin::pin!(until(next));
            let happening = std::future::poll_fn(|context| match self.poll_next(&mut stream, commands, context) {
                Poll::Ready(happening) => Poll::Ready(happening),
                Poll::Pending => timer.as_mut().poll(context).map(|()| Happening::Time),
            })
            .await;
            match happening {
                Happening::Command(None) => return End::Unused,
                Happening::Command(Some(command)) => self.obey(command),
                Happening::Time => {}
                Happening::Message(Ok(Some(message))) => {
                    self.has_heard = true;
                    self.hear(message);
                }
                Happening::Message(Ok(None)) => {
                    let text = "the server ended the stream";
                    return End::Failed(Error::new(ErrorKind::Unavailable, Code::Unavailable, text));
                }
                Happening::Message(Err(error)) => {
                    if self.connection.login_may_help(&error) {
                        self.connection.invalidate(&self.token);
                    }
                    return End::Failed(error);
                }
            }
            self.look(true);
            if self.entries.is_empty() {
                return End::Idle;
            }
        }
    }

    fn poll_next(
        &mut self,
        stream: &mut Stream,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        context: &mut Context<'_>,
    ) -> Poll<Happening> {
        while !self.outgoing.is_empty() {
            match stream.send.poll_ready(context) {
                Poll::Pending => break,
                Poll::Ready(Err(failure)) => return Poll::Ready(Happening::Message(Err(failure.into()))),
                Poll::Ready(Ok(())) => {}
            }
            let id = self.outgoing.pop_front().unwrap_or_default();
            if let Err(error) = stream.send(&LeaseKeepAliveRequest { id }) {
                return Poll::Ready(Happening::Message(Err(error)));
            }
        }
        if let Poll::Ready(command) = commands.poll_recv(context) {
            return Poll::Ready(Happening::Command(command));
        }
        stream.poll_receive(context).map(Happening::Message)
    }

    fn next_time(&self) -> Option<Instant> {
        self.times.peek().map(|Reverse((time, _))| *time)
    }

    /// Ends what is over, and asks for what is due.
    fn look(&mut self, has_stream: bool) {
        let now = Instant::now();
        while let Some(&Reverse((time, id))) = self.times.peek() {
            if time > now {
                break;
            }
            self.times.pop();
            let Some(entry) = self.entries.get(&id) else { continue };
            if entry.end <= now {
                self.finish(id, &LeaseEnd::Expired);
            } else if !entry.is_asked && entry.due <= now {
                if has_stream {
                    self.ask(id);
                } else {
                    let end = entry.end;
                    self.times.push(Reverse((end, id)));
                }
            }
        }
    }

    fn ask(&mut self, id: i64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.is_asked = true;
        self.outgoing.push_back(id);
        self.times.push(Reverse((entry.end, id)));
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Keep { number, id, buffer, lasts } => {
                let now = Instant::now();
                self.numbers.insert(number, id);
                let entry = self.entries.entry(id).or_insert_with(|| Entry {
                    readers: BTreeMap::new(),
                    due: now,
                    end: now + lasts,
                    is_asked: false,
                });
                entry.readers.insert(number, buffer);
                self.times.push(Reverse((entry.due.max(now), id)));
            }
            Command::Drop(number) => {
                let Some(id) = self.numbers.remove(&number) else { return };
                let Some(entry) = self.entries.get_mut(&id) else { return };
                entry.readers.remove(&number);
                if entry.readers.is_empty() {
                    self.entries.remove(&id);
                }
            }
        }
    }

    fn hear(&mut self, message: LeaseKeepAliveResponse) {
        let Some(entry) = self.entries.get_mut(&message.id) else { return };
        let id = message.id;
        let Some(ttl) = u64::try_from(message.ttl).ok().filter(|&seconds| seconds > 0) else {
            self.finish(id, &LeaseEnd::NotFound);
            return;
        };
        let now = Instant::now();
        let ttl = Duration::from_secs(ttl);
        entry.is_asked = false;
        entry.due = now + ttl / 3;
        entry.end = now + ttl;
        for buffer in entry.readers.values() {
            buffer.push_newest(Ok(message), BUFFERED_ANSWERS_MAX, |_| false);
        }
        self.times.push(Reverse((entry.due, id)));
    }

    fn finish(&mut self, id: i64, end: &LeaseEnd) {
        let Some(entry) = self.entries.remove(&id) else { return };
        for (number, buffer) in entry.readers {
            self.numbers.remove(&number);
            buffer.finish(Err(end.clone()));
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
