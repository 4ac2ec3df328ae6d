//! Clients: each asks for one thing after the other, now of this member and now of that one, never waits for long, and
//! writes down what it was told. They judge nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_sim::history::{Compare, Interval, Outcome, Relation, Reply, Request, Target};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use super::plant::Plant;
use super::recorder::Recorder;
use super::requests;
use crate::random::Random;

/// Few, so that clients meet.
const KEYS: usize = 6;

/// Leases live for so many seconds; etcd's least is one and a half election timeouts.
const LEASE_SECONDS: (i64, i64) = (3, 6);

/// How long a client waits for an answer, in milliseconds: now and then so briefly that answers are missed, and now and then
/// longer than a member takes to give up.
const PATIENCE_MILLISECONDS: [(usize, i64, i64); 3] = [(5, 50, 500), (25, 6_000, 9_000), (100, 1_000, 3_000)];

/// The longest pause between two requests, and after one that failed.
const PAUSE_MILLISECONDS_MAX: i64 = 25;
const FAILED_PAUSE_MILLISECONDS_MAX: i64 = 200;

/// How long a connection may take to come about.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// Padding of the largest values.
const VALUE_BYTES_MAX: usize = 2_000;

/// A channel that connects at the first call.
pub fn channel(url: &str) -> Channel {
    let endpoint = Endpoint::from_shared(url.to_owned()).expect("the harness makes valid URLs");
    endpoint.connect_timeout(CONNECT_PATIENCE).connect_lazy()
}

/// One client.
pub struct Client {
    pub number: u32,
    pub recorder: Arc<Recorder>,
    pub random: Random,
    /// One for each member.
    pub channels: Vec<Channel>,
    pub plant: Option<Plant>,
    leases: Vec<i64>,
    counter: i64,
}

impl Client {
    pub fn new(number: u32, urls: &[String], recorder: Arc<Recorder>, random: Random, plant: Option<Plant>) -> Self {
        let channels = urls.iter().map(|url| channel(url)).collect();
        Client { number, recorder, random, channels, plant, leases: Vec::new(), counter: 0 }
    }

    /// Asks until told to stop. What is under way then is waited for.
    pub async fn run(mut self, stop: watch::Receiver<bool>) {
        let mut member = self.number as usize % self.channels.len();
        while !*stop.borrow() {
            let request = self.next_request();
            let failed = self.ask(member, request).await;
            if failed || self.random.chance(20) {
                member = self.random.below(self.channels.len());
            }
            let longest = if failed { FAILED_PAUSE_MILLISECONDS_MAX } else { PAUSE_MILLISECONDS_MAX };
            let pause = self.random.between(0, longest);
            tokio::time::sleep(Duration::from_millis(pause.unsigned_abs())).await;
        }
    }

    /// Says whether no answer came of it.
    async fn ask(&mut self, member: usize, request: Request) -> bool {
        let drawn = self.random.below(100);
        let band = PATIENCE_MILLISECONDS.iter().find(|(percent, _, _)| drawn < *percent);
        let (_, shortest, longest) = band.expect("the last band has all percents");
        let patience = Duration::from_millis(self.random.between(*shortest, *longest).unsigned_abs());
        let operation = self.recorder.call(self.number, request.clone());
        let outcome = self.send(member, &request, patience).await;
        if let Outcome::Refused(_) = outcome
            && let Request::LeaseKeepAlive { id } | Request::Put { lease: id, .. } = request
        {
            self.leases.retain(|lease| *lease != id);
        }
        let failed = matches!(outcome, Outcome::NotTaken | Outcome::Unknown);
        self.recorder.answer(operation, outcome);
        failed
    }

    async fn send(&mut self, member: usize, request: &Request, patience: Duration) -> Outcome {
        let mut sent = request.clone();
        match (self.plant, &mut sent) {
            (Some(Plant::UnconfirmedReads), Request::Range { serializable, .. }) => *serializable = true,
            (Some(Plant::ForgedRenewals), Request::LeaseKeepAlive { .. }) => {
                let ttl_seconds = LEASE_SECONDS.1;
                return Outcome::Done { revision: 0, reply: Reply::LeaseKeepAlive { ttl_seconds } };
            }
            _ => {}
        }
        let answered = tokio::time::timeout(patience, requests::send(&self.channels[member], &sent)).await;
        let outcome = match answered {
            Ok(outcome) => outcome,
            Err(_) if matches!(request, Request::Range { .. }) => Outcome::NotTaken,
            Err(_) => Outcome::Unknown,
        };
        if self.plant == Some(Plant::RepeatedWrites) && outcome == Outcome::Unknown {
            let other = self.random.below(self.channels.len());
            let again = tokio::time::timeout(patience, requests::send(&self.channels[other], &sent)).await;
            return again.unwrap_or(Outcome::Unknown);
        }
        outcome
    }

    fn next_request(&mut self) -> Request {
        self.counter += 1;
        let counter = self.counter;
        let first = self.random.below(KEYS);
        let second = (first + 1 + self.random.below(KEYS - 1)) % KEYS;
        let (low, high) = (key(first.min(second)), key(first.max(second)));
        let (first, second) = (key(first), key(second));
        let lease = if self.leases.is_empty() { None } else { Some(self.random.pick(&self.leases)) };
        let read = |interval, revision, serializable| Request::Range { interval, revision, serializable };
        match self.random.below(100) {
            0..=24 => Request::Put { key: first, value: self.value(), lease: 0 },
            25..=34 => Request::Put { key: first, value: self.value(), lease: lease.unwrap_or(0) },
            35..=39 => Request::Delete(Interval::one(first)),
            40..=42 => Request::Delete(Interval { key: low, range_end: high }),
            43..=57 => self.next_txn(first, second),
            58..=64 => {
                let id = i64::from(self.number + 1) * 1_000_000 + counter;
                let ttl_seconds = self.random.between(LEASE_SECONDS.0, LEASE_SECONDS.1);
                self.leases.push(id);
                Request::LeaseGrant { id, ttl_seconds }
            }
            65..=66 if lease.is_some() => {
                let id = lease.expect("matched above");
                self.leases.retain(|lease| *lease != id);
                Request::LeaseRevoke { id }
            }
            67..=76 if lease.is_some() => Request::LeaseKeepAlive { id: lease.expect("matched above") },
            77..=81 => read(Interval::one(first), 0, true),
            82..=84 => {
                let back = self.random.between(0, 20);
                read(Interval::all(), (self.recorder.newest_revision() - back).max(1), self.random.chance(50))
            }
            85..=90 => read(Interval::all(), 0, false),
            _ => read(Interval::one(first), 0, false),
        }
    }

    fn next_txn(&mut self, first: Bytes, second: Bytes) -> Request {
        let relation = self.random.pick(&[Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less]);
        let revision = self.recorder.newest_revision();
        let value = self.value();
        let target = match self.random.below(4) {
            0 => Target::Version(self.random.between(0, 2)),
            1 => Target::CreateRevision(0),
            2 => Target::ModRevision(revision - self.random.between(0, 3)),
            _ => Target::Value(value.clone()),
        };
        let mut compares = vec![Compare { key: first.clone(), relation, target }];
        if self.random.chance(20) {
            let target = Target::Version(0);
            compares.push(Compare { key: second.clone(), relation: Relation::Greater, target });
        }
        let put = |key: &Bytes| Request::Put { key: key.clone(), value: value.clone(), lease: 0 };
        let read = Request::Range { interval: Interval::all(), revision: 0, serializable: false };
        if self.random.chance(15) {
            let one = Request::Range { interval: Interval::one(second), revision: 0, serializable: false };
            return Request::Txn { compares, success: vec![read.clone()], failure: vec![one, read] };
        }
        Request::Txn {
            compares,
            success: vec![put(&first), put(&second), read.clone()],
            failure: vec![read, Request::Delete(Interval::one(second)), put(&first)],
        }
    }

    /// A value that nobody else writes.
    fn value(&mut self) -> Bytes {
        let padding = if self.random.chance(5) { self.random.below(VALUE_BYTES_MAX) } else { 0 };
        format!("c{}-{}{:padding$}", self.number, self.counter, "").into()
    }
}

fn key(number: usize) -> Bytes {
    format!("k{number}").into()
}
