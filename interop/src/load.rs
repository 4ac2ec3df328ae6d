//! Keeps a cluster busy from several tasks, each request at another member: puts, transactions, deletes, reads, leases,
//! compactions. Each task owns its keys, so it knows what a linearizable read must give, whichever member it asks. It
//! must not take an unknown outcome for either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kvorum_api::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;
use tonic::Code;
use tonic::transport::Channel;

use crate::call::{Call, Outcome, Reply};
use crate::random::Random;

/// Tasks at work at the same time.
const TASKS: usize = 12;

/// Keys of each.
const KEYS: usize = 16;

/// Revisions that a compaction leaves.
const HISTORY: i64 = 200;

/// Seconds that leases last which are meant to expire, and those that are not.
const SHORT_TTL_SECONDS: i64 = 2;
const LONG_TTL_SECONDS: i64 = 3_000;

/// How long after the last operation leases may still have to end; a leader change begins their time anew.
const EXPIRY: Duration = Duration::from_secs(30);

/// What is asked for, and of whom.
#[derive(Debug)]
pub struct Load {
    /// Whom to ask; may change meanwhile.
    pub channels: Mutex<Vec<Channel>>,
    /// Ends it early.
    pub stop: AtomicBool,
    /// Whether members may be without a leader or gone: outcomes may be unknown.
    pub tolerant: bool,
    pub seed: u64,
    pub operations: u64,
    /// Time between two operations of a task.
    pub pause: Duration,
    begun: AtomicU64,
    revision: AtomicI64,
    compacted: AtomicI64,
    tally: Mutex<Tally>,
}

/// How often what was done, and what failed.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub done: BTreeMap<&'static str, u64>,
    pub failed: BTreeMap<String, u64>,
}

impl Tally {
    fn count(&mut self, what: &'static str, outcome: &Outcome) {
        match outcome {
            Ok(_) => *self.done.entry(what).or_default() += 1,
            Err(failure) => {
                *self.failed.entry(format!("{what}: {:?} {}", failure.code, failure.message)).or_default() += 1;
            }
        }
    }
}

impl Load {
    /// An impatient load on a cluster that is well.
    pub fn new(channels: Vec<Channel>, seed: u64, operations: u64) -> Load {
        Load {
            channels: Mutex::new(channels),
            stop: AtomicBool::new(false),
            tolerant: false,
            seed,
            operations,
            pause: Duration::ZERO,
            begun: AtomicU64::new(0),
            revision: AtomicI64::new(0),
            compacted: AtomicI64::new(0),
            tally: Mutex::default(),
        }
    }

    /// Runs to the end, and waits until the leases that were to expire are gone.
    ///
    /// # Panics
    /// When an answer is wrong.
    pub async fn run(self: &Arc<Load>) -> Tally {
        let tasks: Vec<_> = (0..TASKS)
            .map(|number| {
                let load = Arc::clone(self);
                tokio::spawn(async move { Task::new(load, number).run().await })
            })
            .collect();
        let mut short = BTreeSet::new();
        for task in tasks {
            short.extend(task.await.expect("no wrong answer"));
        }
        self.wait_for_expiry(&short).await;
        self.tally.lock().expect("no panic").clone()
    }

    async fn wait_for_expiry(&self, short: &BTreeSet<i64>) {
        let channel = self.channels.lock().expect("no panic")[0].clone();
        let began = std::time::Instant::now();
        loop {
            if let Ok(Reply::LeaseLeases(there)) = Call::LeaseLeases.send(&channel).await {
                let left = there.leases.iter().filter(|lease| short.contains(&lease.id)).count();
                if left == 0 {
                    return;
                }
                assert!(began.elapsed() < EXPIRY, "{left} of {} leases do not expire", short.len());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What a task knows of a key.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    Absent,
    Value(Bytes),
    /// An outcome is open.
    Unknown,
}

struct Task {
    load: Arc<Load>,
    number: usize,
    random: Random,
    keys: Vec<Known>,
    written: u64,
    /// Leases that last.
    long: Vec<i64>,
    short: Vec<i64>,
}

impl Task {
    fn new(load: Arc<Load>, number: usize) -> Task {
        let random = Random::new(load.seed.wrapping_mul(1_000).wrapping_add(number as u64));
        Task { load, number, random, keys: vec![Known::Absent; KEYS], written: 0, long: Vec::new(), short: Vec::new() }
    }

    /// Gives the leases that are to expire.
    async fn run(mut self) -> Vec<i64> {
        // A load before this one may have left keys of the same names.
        for index in 0..KEYS {
            self.keys[index] = Known::Unknown;
        }
        while !self.load.stop.load(Ordering::Relaxed) {
            if self.load.begun.fetch_add(1, Ordering::Relaxed) >= self.load.operations {
                break;
            }
            self.act().await;
            if !self.load.pause.is_zero() {
                tokio::time::sleep(self.load.pause).await;
            }
        }
        for index in 0..KEYS {
            self.read(index).await;
        }
        self.short
    }

    async fn act(&mut self) {
        let index = self.random.below(KEYS);
        match self.random.below(100) {
            0..40 => self.put(index).await,
            40..52 => self.transact(index).await,
            52..60 => self.delete(index).await,
            60..80 => self.read(index).await,
            80..85 => self.grant().await,
            85..90 => self.put_leased().await,
            90..96 => self.keep_alive().await,
            96..98 => self.revoke().await,
            _ => self.compact().await,
        }
    }

    fn key(&self, index: usize) -> Bytes {
        format!("task{}/{index:02}", self.number).into()
    }

    fn next_value(&mut self) -> Bytes {
        self.written += 1;
        let filling = "x".repeat(self.random.below(300));
        format!("{} {} {filling}", self.load.seed, self.written).into()
    }

    /// Sends to any member. `None` is an unknown outcome, which only a tolerant load may have.
    async fn send(&mut self, what: &'static str, call: Call) -> Option<Outcome> {
        let channel = {
            let channels = self.load.channels.lock().expect("no panic");
            self.random.pick(&channels)
        };
        let outcome = call.send(&channel).await;
        self.load.tally.lock().expect("no panic").count(what, &outcome);
        match &outcome {
            Ok(reply) => drop(self.load.revision.fetch_max(reply.revision().unwrap_or(0), Ordering::Relaxed)),
            Err(failure) if matches!(failure.code, Code::NotFound | Code::OutOfRange) => {}
            Err(failure) => {
                assert!(self.load.tolerant, "{what}: {failure:?}");
                return None;
            }
        }
        Some(outcome)
    }

    async fn put(&mut self, index: usize) {
        let value = self.next_value();
        let request = pb::PutRequest { key: self.key(index), value: value.clone(), ..Default::default() };
        self.keys[index] = Known::Unknown;
        if self.send("put", Call::Put(request)).await.is_some() {
            self.keys[index] = Known::Value(value);
        }
    }

    async fn delete(&mut self, index: usize) {
        let end = (index + self.random.below(3)).min(KEYS);
        let (key, range_end) = (self.key(index), self.key(end));
        let known = self.keys[index..end].iter().filter(|known| matches!(known, Known::Value(_))).count();
        let unknown = self.keys[index..end].contains(&Known::Unknown);
        let request = pb::DeleteRangeRequest { key, range_end, prev_kv: self.random.chance(50) };
        if end <= index {
            return;
        }
        self.keys[index..end].fill(Known::Unknown);
        if let Some(outcome) = self.send("delete", Call::DeleteRange(request)).await {
            let Ok(Reply::DeleteRange(reply)) = outcome else { panic!("delete: {outcome:?}") };
            assert!(unknown || reply.deleted == known as i64, "{} deleted of {known}", reply.deleted);
            self.keys[index..end].fill(Known::Absent);
        }
    }

    /// If the key is what it was last, it and another are written and a third is deleted; else nothing is.
    async fn transact(&mut self, index: usize) {
        let [other, third] = [(index + 1) % KEYS, (index + 2) % KEYS];
        let before = self.keys[index].clone();
        let expected = if let Known::Value(value) = &before { value.clone() } else { Bytes::new() };
        let (first, second) = (self.next_value(), self.next_value());
        let compare = pb::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Value as i32,
            key: self.key(index),
            range_end: Bytes::new(),
            target_union: Some(TargetUnion::Value(expected)),
        };
        let put = |key, value| Request::RequestPut(pb::PutRequest { key, value, ..Default::default() });
        let delete = pb::DeleteRangeRequest { key: self.key(third), ..Default::default() };
        let range = pb::RangeRequest { key: self.key(other), ..Default::default() };
        let success = [
            put(self.key(index), first.clone()),
            put(self.key(other), second.clone()),
            Request::RequestDeleteRange(delete),
            Request::RequestRange(range),
        ];
        let success = success.map(|request| pb::RequestOp { request: Some(request) }).to_vec();
        let request = pb::TxnRequest { compare: vec![compare], success, failure: Vec::new() };
        let saved = [other, third].map(|index| self.keys[index].clone());
        for index in [index, other, third] {
            self.keys[index] = Known::Unknown;
        }
        let Some(outcome) = self.send("transaction", Call::Txn(request)).await else { return };
        let Ok(Reply::Txn(reply)) = outcome else { panic!("transaction: {outcome:?}") };
        match before {
            Known::Value(_) => assert!(reply.succeeded, "{index}: the value is as written"),
            Known::Absent => assert!(!reply.succeeded, "{index}: no value equals an absent one"),
            Known::Unknown => {}
        }
        if reply.succeeded {
            let read = reply.responses.last().and_then(|response| response.response.clone());
            let Some(Response::ResponseRange(read)) = read else { panic!("{reply:?}") };
            assert_eq!(read.kvs[0].value, second, "a transaction reads its own write");
            self.keys[index] = Known::Value(first);
            self.keys[other] = Known::Value(second);
            self.keys[third] = Known::Absent;
        } else {
            self.keys[index] = before;
            [self.keys[other], self.keys[third]] = saved;
        }
    }

    /// A linearizable read gives the last write, whoever took it.
    async fn read(&mut self, index: usize) {
        let request = pb::RangeRequest { key: self.key(index), ..Default::default() };
        let Some(outcome) = self.send("read", Call::Range(request)).await else { return };
        let Ok(Reply::Range(reply)) = outcome else { panic!("read: {outcome:?}") };
        let found = reply.kvs.first().map_or(Known::Absent, |kv| Known::Value(kv.value.clone()));
        match &self.keys[index] {
            // A write whose outcome is open may still come.
            Known::Unknown => {}
            known => assert_eq!(found, *known, "key {index} of task {}", self.number),
        }
    }

    async fn grant(&mut self) {
        let is_short = self.random.chance(50);
        let ttl = if is_short { SHORT_TTL_SECONDS } else { LONG_TTL_SECONDS };
        let id = if self.random.chance(50) { 0 } else { self.random.between(1, i64::MAX) };
        let Some(Ok(Reply::LeaseGrant(reply))) =
            self.send("grant", Call::LeaseGrant(pb::LeaseGrantRequest { ttl, id })).await
        else {
            return;
        };
        assert!(reply.ttl == ttl, "{reply:?}");
        if is_short { self.short.push(reply.id) } else { self.long.push(reply.id) }
    }

    /// Attaches a key; a short lease may be gone.
    async fn put_leased(&mut self) {
        let leases: Vec<i64> = self.long.iter().chain(self.short.last()).copied().collect();
        if leases.is_empty() {
            return;
        }
        let lease = self.random.pick(&leases);
        let key = format!("leased{}/{}", self.number, self.random.below(KEYS)).into();
        let value = self.next_value();
        self.send("put with lease", Call::Put(pb::PutRequest { key, value, lease, ..Default::default() })).await;
    }

    async fn keep_alive(&mut self) {
        let leases: Vec<i64> = self.long.iter().chain(self.short.last()).copied().collect();
        if leases.is_empty() {
            return;
        }
        let id = self.random.pick(&leases);
        let Some(Ok(Reply::LeaseKeepAlive(Some(reply)))) =
            self.send("keepalive", Call::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id })).await
        else {
            return;
        };
        if self.long.contains(&id) {
            assert_eq!(reply.ttl, LONG_TTL_SECONDS, "a lease that lasts is renewed");
        }
    }

    async fn revoke(&mut self) {
        if self.long.len() > 2 {
            let id = self.long.remove(0);
            self.send("revoke", Call::LeaseRevoke(pb::LeaseRevokeRequest { id })).await;
        }
    }

    async fn compact(&mut self) {
        let revision = self.load.revision.load(Ordering::Relaxed) - HISTORY;
        if revision > 0 && self.load.compacted.fetch_max(revision, Ordering::Relaxed) < revision {
            let request = pb::CompactionRequest { revision, physical: self.random.chance(30) };
            self.send("compaction", Call::Compact(request)).await;
        }
    }
}
