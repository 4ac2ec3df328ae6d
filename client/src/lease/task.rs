//! What the task behind a [`super::Lease`] says and hears on its stream. A lease is renewed when a third of its time has
//! passed, and taken for lost when no answer came for all of it (clientv3's `lease.go`). It must never wait for a reader.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvorum_api::etcdserverpb::LeaseKeepAliveRequest;
use tokio::time::Instant;

use super::{BUFFERED_ANSWERS_MAX, LeaseEnd};
use crate::buffer::Buffer;
use crate::connection::Connection;
use crate::error::Error;
use crate::method::{self, Method};
use crate::response::LeaseKeepAliveResponse;
use crate::streaming::Owner;

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

/// The owner of the stream of all keep-alives.
pub struct Task {
    entries: HashMap<i64, Entry>,
    /// Which lease a number keeps alive.
    numbers: HashMap<u64, i64>,
    /// When to look at a lease again; entries that are no longer true are passed over.
    times: BinaryHeap<Reverse<(Instant, i64)>>,
    outgoing: VecDeque<i64>,
    has_stream: bool,
}

impl Owner for Task {
    type Command = Command;
    type Request = LeaseKeepAliveRequest;
    type Answer = LeaseKeepAliveResponse;

    const METHOD: Method = method::LEASE_KEEP_ALIVE;

    fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Keep { number, id, buffer, lasts } => {
                if self.entries.is_empty() {
                    self.times.clear();
                }
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

    fn begin(&mut self) {
        self.has_stream = true;
        let now = Instant::now();
        let due = self.entries.iter().filter(|(_, entry)| entry.is_asked || entry.due <= now);
        let due: Vec<i64> = due.map(|(&id, _)| id).collect();
        due.into_iter().for_each(|id| self.ask(id));
    }

    fn end(&mut self) {
        self.has_stream = false;
        self.outgoing.clear();
    }

    fn has_request(&self) -> bool {
        !self.outgoing.is_empty()
    }

    fn next_request(&mut self) -> Option<LeaseKeepAliveRequest> {
        self.outgoing.pop_front().map(|id| LeaseKeepAliveRequest { id })
    }

    fn hear(&mut self, message: LeaseKeepAliveResponse, _connection: &Connection) -> Result<(), Error> {
        let Some(entry) = self.entries.get_mut(&message.id) else { return Ok(()) };
        let id = message.id;
        let Some(ttl) = u64::try_from(message.ttl).ok().filter(|&seconds| seconds > 0) else {
            self.finish(id, &LeaseEnd::NotFound);
            return Ok(());
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
        Ok(())
    }

    fn fail_all(&mut self, error: &Error) {
        for (_, entry) in self.entries.drain() {
            for buffer in entry.readers.values() {
                buffer.finish(Err(LeaseEnd::Failed(error.clone())));
            }
        }
        self.numbers.clear();
    }

    fn next_time(&self) -> Option<Instant> {
        self.times.peek().map(|Reverse((time, _))| *time)
    }

    /// Ends what is over, and asks for what is due.
    fn look(&mut self) {
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
                if self.has_stream {
                    self.ask(id);
                } else {
                    let end = entry.end;
                    self.times.push(Reverse((end, id)));
                }
            }
        }
    }
}

impl Task {
    pub fn new() -> Self {
        Self {
            entries: HashMap::new(),
            numbers: HashMap::new(),
            times: BinaryHeap::new(),
            outgoing: VecDeque::new(),
            has_stream: false,
        }
    }

    fn ask(&mut self, id: i64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.is_asked = true;
        self.outgoing.push_back(id);
        self.times.push(Reverse((entry.end, id)));
    }

    fn finish(&mut self, id: i64, end: &LeaseEnd) {
        let Some(entry) = self.entries.remove(&id) else { return };
        for (number, buffer) in entry.readers {
            self.numbers.remove(&number);
            buffer.finish(Err(end.clone()));
        }
    }
}
