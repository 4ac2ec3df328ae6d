//! Who works while a cluster is moved: writers that also read, watchers, and holders of leases, each with a client of its own
//! as users have them. They write down what they were told; the judgement is the caller's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvorum_client::{Client, EventType, Watch};
use tokio::task::JoinHandle;

/// All keys lie below it, and the users of the clients may do nothing elsewhere.
pub const PREFIX: &str = "moved/";

/// Written last, so that watchers know when they have everything.
pub const END: &str = "moved/end";

/// Keys of each writer.
const KEYS: usize = 50;

/// One in so many writes deletes.
const DELETE_EVERY: usize = 11;

/// Leases that nobody renews, and that must be there in the end all the same.
pub const PARKED_SECONDS: i64 = 3_600;

/// How long a watcher may lag behind what it must have seen in the end.
const CATCH_UP: Duration = Duration::from_secs(60);

/// What a watch told, or what it must have told: a revision, whether the key was put, key and value.
pub type Told = (i64, bool, Bytes, Bytes);

/// What happened while the cluster was in one state. All clients count into the same one.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub writes: u64,
    pub reads: u64,
    /// By what the client was told. Nothing is asked for twice but by the client library itself.
    pub failed: BTreeMap<String, u64>,
    /// Of those that failed, the writes that may have been carried out.
    pub in_doubt: u64,
    /// The longest time in which no write succeeded, of whichever writer.
    pub longest_pause: Duration,
    /// The slowest request that succeeded.
    pub slowest: Duration,
}

impl Counts {
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// What the clients share.
pub struct Shared {
    tally: Mutex<Tally>,
    /// Answers and losses that must not be, in words.
    wrong: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

/// One count for each state. A request counts where it began: one that fails may do so seconds later.
struct Tally {
    counts: Vec<Counts>,
    /// When a write succeeded last.
    last: Instant,
}

impl Tally {
    fn current(&mut self) -> &mut Counts {
        self.counts.last_mut().expect("begun with one")
    }
}

impl Shared {
    pub fn new() -> Arc<Shared> {
        let tally = Mutex::new(Tally { counts: vec![Counts::default()], last: Instant::now() });
        Arc::new(Shared { tally, wrong: Mutex::default(), is_over: AtomicBool::new(false) })
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the next count, and gives its number.
    pub fn turn(&self) -> usize {
        let mut tally = self.tally();
        let pause = tally.last.elapsed();
        let counts = tally.current();
        counts.longest_pause = counts.longest_pause.max(pause);
        tally.counts.push(Counts::default());
        tally.counts.len() - 1
    }

    /// A count, whole once everybody who worked has ended.
    pub fn counts(&self, number: usize) -> Counts {
        self.tally().counts[number].clone()
    }

    /// A request begins.
    fn begin(&self) -> Begun {
        Begun { count: self.tally().counts.len() - 1, at: Instant::now() }
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub fn say_wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    pub fn take_wrong(&self) -> Vec<String> {
        std::mem::take(&mut self.wrong.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(&self, is_write: bool, begun: Begun, failure: Option<&kvorum_client::Error>) {
        let mut tally = self.tally();
        let counts = &mut tally.counts[begun.count];
        if is_write {
            counts.writes += 1
        } else {
            counts.reads += 1
        }
        match failure {
            Some(error) => {
                *counts.failed.entry(format!("{:?}: {}", error.kind(), error.text())).or_default() += 1;
                counts.in_doubt += u64::from(is_write && error.maybe_applied());
            }
            None => {
                counts.slowest = counts.slowest.max(begun.at.elapsed());
                if is_write {
                    let pause = tally.last.elapsed();
                    let counts = tally.current();
                    counts.longest_pause = counts.longest_pause.max(pause);
                    tally.last = Instant::now();
                }
            }
        }
    }
}

/// A request under way.
#[derive(Clone, Copy)]
struct Begun {
    count: usize,
    at: Instant,
}

/// What a writer knows of one of its keys.
#[derive(Clone, Default)]
struct Known {
    /// Of the last write that was acknowledged.
    revision: i64,
    value: Option<Bytes>,
    is_in_doubt: bool,
}

/// Writes its keys one after the other and reads them again. Gives the writes that were acknowledged.
pub async fn write(number: usize, client: Client, shared: Arc<Shared>, pause: Duration) -> Vec<Told> {
    let mut keys = vec![Known::default(); KEYS];
    let mut acknowledged = Vec::new();
    for count in 0.. {
        if shared.is_over() {
            break;
        }
        let known = &mut keys[count % KEYS];
        let key = Bytes::from(format!("{PREFIX}{number}/{}", count % KEYS));
        let value = Bytes::from(format!("{number}-{count}"));
        let is_put = count % DELETE_EVERY != DELETE_EVERY - 1;
        let begun = shared.begin();
        let written = if is_put {
            client.put(key.clone(), value.clone()).await.map(|answer| answer.header)
        } else {
            client.delete(key.clone()).await.map(|answer| answer.header)
        };
        shared.count(true, begun, written.as_ref().err());
        match written {
            Ok(header) => {
                let revision = header.unwrap_or_default().revision;
                let is_event = is_put || known.value.is_some() && !known.is_in_doubt;
                if is_event {
                    acknowledged.push((
                        revision,
                        is_put,
                        key.clone(),
                        if is_put { value.clone() } else { Bytes::new() },
                    ));
                }
                *known = Known { revision, value: is_put.then_some(value), is_in_doubt: false };
            }
            Err(error) => known.is_in_doubt |= error.maybe_applied(),
        }
        read(&client, &shared, &key, known).await;
        tokio::time::sleep(pause).await;
    }
    acknowledged
}

/// A linearizable read gives what was acknowledged last, or something later that is in doubt.
async fn read(client: &Client, shared: &Shared, key: &Bytes, known: &Known) {
    let begun = shared.begin();
    let answer = client.get(key.clone()).await;
    shared.count(false, begun, answer.as_ref().err());
    let Ok(answer) = answer else { return };
    let found = answer.kvs.first();
    let is_right = match (found, &known.value) {
        _ if known.is_in_doubt => found.is_none_or(|kv| kv.mod_revision >= known.revision),
        (Some(kv), Some(value)) => kv.value == *value && kv.mod_revision == known.revision,
        (found, value) => found.is_none() && value.is_none(),
    };
    if !is_right {
        shared.say_wrong(format!("{key:?} was {:?} at {}, and read as {found:?}", known.value, known.revision));
    }
}

/// Follows everything from `first` on, until it has seen the write of [`END`].
pub async fn watch(client: Client, shared: Arc<Shared>, first: i64) -> Vec<Told> {
    let mut told = Vec::new();
    let mut watch = begin(&client, &shared, first).await;
    let mut over = None;
    loop {
        let next = tokio::time::timeout(Duration::from_millis(200), watch.next()).await;
        if shared.is_over() && over.get_or_insert_with(Instant::now).elapsed() > CATCH_UP {
            shared.say_wrong(format!("a watch never came to its end; it has {} events", told.len()));
            return told;
        }
        match next {
            Err(_) => {}
            Ok(Some(Ok(response))) => {
                for event in response.events {
                    let kv = event.kv.clone().unwrap_or_default();
                    if kv.key == END {
                        return told;
                    }
                    told.push((kv.mod_revision, event.r#type() == EventType::Put, kv.key, kv.value));
                }
            }
            Ok(ended) => {
                // The library goes on by itself: whoever sees an end has lost something, or could have.
                shared.say_wrong(format!("a watch ended: {ended:?}"));
                let next = told.last().map_or(first, |(revision, ..)| revision + 1);
                watch = begin(&client, &shared, next).await;
            }
        }
    }
}

async fn begin(client: &Client, shared: &Shared, first: i64) -> Watch {
    loop {
        match client.watch(PREFIX).prefix().from_revision(first).await {
            Ok(watch) => return watch,
            Err(error) => {
                shared.say_wrong(format!("a watch could not be made: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Holds a lease of so many seconds with a key, and says so if it is lost.
pub fn hold(number: usize, seconds: i64, client: Client, shared: Arc<Shared>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let guard = client.lease().hold(seconds).await.expect("a lease is granted in quiet times");
        let key = format!("{PREFIX}held/{number}");
        client.put(key, "here").with_lease(guard.id()).await.expect("a key is put in quiet times");
        let end = tokio::select! {
            end = guard.lost() => end,
            () = async { while !shared.is_over() { tokio::time::sleep(Duration::from_millis(100)).await } } => return,
        };
        shared.say_wrong(format!("lease {number} was lost: {end}"));
    })
}

/// How many of the keys are there whose leases are held, by a linearizable read.
pub async fn held(client: &Client) -> Result<usize, kvorum_client::Error> {
    let answer = client.get(format!("{PREFIX}held/")).prefix().await?;
    Ok(answer.kvs.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_where_it_began() {
        let shared = Shared::new();
        let begun = shared.begin();
        assert_eq!(shared.turn(), 1);
        shared.count(true, begun, None);
        shared.count(false, shared.begin(), None);
        let counts = [0, 1].map(|number| shared.counts(number));
        assert_eq!(counts.map(|counts| (counts.writes, counts.reads)), [(1, 0), (0, 1)]);
    }
}
