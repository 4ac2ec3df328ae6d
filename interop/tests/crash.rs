//! Kills the server with SIGKILL while writers are at work, many times, and checks after each start that everything it
//! acknowledged is there, exactly once: every write at its revision with its effects, every lease with its keys; that
//! revisions have no gap; that nothing is there that nobody asked for; and that `HashKV` is what the history hashes to.
//!
//! `KVORUM_CRASH_ROUNDS` and `KVORUM_CRASH_SEED` choose how long and which moments; a moment is a number of
//! acknowledgements, so no clock is involved. What was not acknowledged may have happened once or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use kvorum_api::{etcdserverpb as pb, mvccpb};
use kvorum_interop::call::{Call, Reply};
use kvorum_interop::compare::Identity;
use kvorum_interop::history::{Effects, History};
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::random::Random;
use kvorum_interop::watching::{ARRIVAL, Seen, WatchStream};
use kvorum_interop::{raw, tools};
use pb::request_op::Request;
use tokio::sync::Notify;
use tonic::transport::Channel;

const ROUNDS: u64 = 50;
const WRITERS: usize = 8;
/// The kill comes after this many acknowledgements at most.
const ACKNOWLEDGEMENTS_MAX: usize = 300;
const LEASE_SECONDS: i64 = 100_000;

/// A request of a writer and what it does to keys if it happens. Effects of several keys are in the order of revisions.
#[derive(Clone, Debug)]
struct Write {
    call: Call,
    effects: Effects,
    lease: Option<LeaseChange>,
}

#[derive(Clone, Copy, Debug)]
enum LeaseChange {
    Granted(i64),
    Revoked(i64),
}

/// What a round's writers know when it ends.
#[derive(Debug, Default)]
struct Outcomes {
    acknowledged: Vec<(i64, Write)>,
    pending: Vec<Write>,
}

/// Counts acknowledgements and says when the moment has come.
#[derive(Debug)]
struct Trigger {
    left: AtomicUsize,
    reached: Notify,
}

impl Trigger {
    fn acknowledged(&self) {
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if before == Ok(1) {
            self.reached.notify_one();
        }
    }
}

fn put(key: &str, value: &str, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..Default::default() }
}

fn effect(put: &pb::PutRequest) -> (Bytes, Option<Bytes>) {
    (put.key.clone(), Some(put.value.clone()))
}

/// The writes of one step: unique values, so that each is recognised in the history, and keys of this writer alone.
fn writes(random: &mut Random, writer: usize, round: u64, step: usize) -> Vec<Write> {
    let unique = format!("{round}-{writer}-{step}");
    let key = |name: &str| format!("w{writer}/{name}");
    let simple = |call: Call, effects: Effects| Write { call, effects, lease: None };
    match random.below(6) {
        0..3 => {
            let put = put(&key(&random.below(20).to_string()), &unique, 0);
            vec![simple(Call::Put(put.clone()), vec![effect(&put)])]
        }
        3 => {
            let puts = [put(&key("txn-a"), &unique, 0), put(&key("txn-b"), &unique, 0), put(&key(&unique), &unique, 0)];
            let effects = puts.iter().map(effect).collect();
            let success = puts.map(|put| pb::RequestOp { request: Some(Request::RequestPut(put)) }).to_vec();
            vec![simple(Call::Txn(pb::TxnRequest { success, ..Default::default() }), effects)]
        }
        4 => {
            let put = put(&key(&unique), &unique, 0);
            let delete = pb::DeleteRangeRequest { key: put.key.clone(), ..Default::default() };
            let deleted = vec![(put.key.clone(), None)];
            vec![simple(Call::Put(put.clone()), vec![effect(&put)]), simple(Call::DeleteRange(delete), deleted)]
        }
        _ => leased(random, writer, round, step, &key(&format!("leased-{unique}"))),
    }
}

/// A lease with two keys, revoked half of the time.
fn leased(random: &mut Random, writer: usize, round: u64, step: usize, key: &str) -> Vec<Write> {
    let id = (round as i64 + 1) * 10_000_000 + writer as i64 * 100_000 + step as i64 + 1;
    let puts = [put(&format!("{key}/a"), key, id), put(&format!("{key}/b"), key, id)];
    let grant = Call::LeaseGrant(pb::LeaseGrantRequest { ttl: LEASE_SECONDS, id });
    let mut writes = vec![Write { call: grant, effects: Vec::new(), lease: Some(LeaseChange::Granted(id)) }];
    writes.extend(puts.iter().map(|put| Write {
        call: Call::Put(put.clone()),
        effects: vec![effect(put)],
        lease: None,
    }));
    if random.chance(50) {
        let call = Call::LeaseRevoke(pb::LeaseRevokeRequest { id });
        let effects = puts.iter().map(|put| (put.key.clone(), None)).collect();
        writes.push(Write { call, effects, lease: Some(LeaseChange::Revoked(id)) });
    }
    writes
}

/// Writes until the server is gone. A request that failed may have happened.
async fn write(url: String, seed: u64, writer: usize, round: u64, trigger: Arc<Trigger>) -> Outcomes {
    let channel = raw::channel(&url);
    let mut random = Random::new(seed);
    let mut outcomes = Outcomes::default();
    for step in 0.. {
        for write in writes(&mut random, writer, round, step) {
            match write.call.send(&channel).await {
                Ok(reply) => {
                    let revision = reply.revision().expect("a write's reply has a header");
                    outcomes.acknowledged.push((revision, write));
                    trigger.acknowledged();
                }
                Err(failure) => {
                    let refused =
                        failure.message.starts_with("etcdserver:") && failure.code != tonic::Code::Unavailable;
                    assert!(!refused, "a valid write was refused: {failure:?}");
                    outcomes.pending.push(write);
                    // Without this, a server that dies by itself would leave the test waiting.
                    trigger.reached.notify_one();
                    return outcomes;
                }
            }
        }
    }
    outcomes
}

/// Everything known about the store, checked against it after each start.
struct Known {
    history: History,
    leases: BTreeSet<i64>,
    compacted: i64,
}

impl Known {
    /// Reads the revisions since the last check and finds the write behind each.
    async fn follow(&mut self, channel: &Channel, outcomes: &Outcomes) {
        let current = current_revision(channel).await;
        let known = self.history.revision();
        assert!(current >= known, "the store went back from revision {known} to {current}");
        let events = events_between(channel, known + 1, current).await;
        self.history.append(&events).expect("every revision must be there, once and whole");
        assert_eq!(self.history.revision(), current);

        let mut unexplained: BTreeMap<i64, Effects> =
            (known + 1..=current).map(|revision| (revision, self.history.effects(revision))).collect();
        for (revision, write) in &outcomes.acknowledged {
            if !write.effects.is_empty() {
                let found = unexplained.remove(revision);
                assert_eq!(found.as_ref(), Some(&write.effects), "acknowledged at {revision}: {:?}", write.call);
            }
        }
        let mut pending: Vec<&Effects> = outcomes.pending.iter().map(|write| &write.effects).collect();
        for (revision, effects) in unexplained {
            let claim = pending.iter().position(|&pending| *pending == effects);
            let claim = claim.unwrap_or_else(|| panic!("nobody asked for {effects:?} at revision {revision}"));
            pending.swap_remove(claim);
        }
    }

    /// Compares state, hash and leases with the store.
    async fn check(&mut self, channel: &Channel, outcomes: &Outcomes) {
        let everything = Bytes::from_static(b"\0");
        let range = pb::RangeRequest { key: everything.clone(), range_end: everything, ..Default::default() };
        let Ok(Reply::Range(state)) = Call::Range(range).send(channel).await else { panic!("no range") };
        assert!(state.kvs == self.history.state(), "the keys are not those of the history");
        let hash = Call::HashKv(pb::HashKvRequest { revision: 0 }).send(channel).await;
        let Ok(Reply::HashKv(hash)) = hash else { panic!("no hash: {hash:?}") };
        assert_eq!(hash.compact_revision, self.compacted);
        assert_eq!(hash.hash, self.history.hash_kv(self.compacted, self.history.revision()), "the history's hash");
        self.check_leases(channel, outcomes, &state.kvs).await;
    }

    async fn check_leases(&mut self, channel: &Channel, outcomes: &Outcomes, state: &[mvccpb::KeyValue]) {
        let listed = Call::LeaseLeases.send(channel).await;
        let Ok(Reply::LeaseLeases(listed)) = listed else { panic!("no leases: {listed:?}") };
        let found: BTreeSet<i64> = listed.leases.iter().map(|lease| lease.id).collect();
        assert_eq!(found.len(), listed.leases.len(), "a lease is listed twice");
        for (_, write) in &outcomes.acknowledged {
            match write.lease {
                Some(LeaseChange::Granted(id)) => self.leases.insert(id),
                Some(LeaseChange::Revoked(id)) => self.leases.remove(&id),
                None => continue,
            };
        }
        for write in &outcomes.pending {
            match write.lease {
                Some(LeaseChange::Granted(id)) if found.contains(&id) => self.leases.insert(id),
                Some(LeaseChange::Revoked(id)) if !found.contains(&id) => self.leases.remove(&id),
                _ => continue,
            };
        }
        assert_eq!(found, self.leases, "the leases are not those that were granted and not revoked");
        // The newest leases are the ones a crash could have touched.
        for &id in self.leases.iter().rev().take(WRITERS) {
            let left = Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys: true }).send(channel).await;
            let Ok(Reply::LeaseTimeToLive(mut left)) = left else { panic!("no time to live: {left:?}") };
            assert_eq!(left.granted_ttl, LEASE_SECONDS);
            left.keys.sort();
            let attached: Vec<Bytes> = state.iter().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect();
            assert_eq!(left.keys, attached, "the keys of lease {id}");
        }
    }
}

async fn current_revision(channel: &Channel) -> i64 {
    let range = Call::Range(pb::RangeRequest { key: "a".into(), count_only: true, ..Default::default() });
    range.send(channel).await.expect("a range succeeds").revision().expect("a range has a revision")
}

async fn events_between(channel: &Channel, start_revision: i64, last: i64) -> Vec<mvccpb::Event> {
    if start_revision > last {
        return Vec::new();
    }
    let stream = WatchStream::open(channel, Identity::default());
    let everything = Bytes::from_static(b"\0");
    let (key, range_end) = (everything.clone(), everything);
    stream.create(pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() }).await;
    let complete = |seen: &Seen| {
        let last_event = seen.events.get(&0).and_then(|events| events.last());
        last_event.and_then(|event| event.kv.as_ref()).is_some_and(|kv| kv.mod_revision >= last)
    };
    assert!(stream.wait(ARRIVAL, complete).await, "the watch must reach {last}: {:?}", stream.seen());
    let mut seen = stream.seen();
    assert!(seen.faults.is_empty(), "{:?}", seen.faults);
    seen.events.remove(&0).unwrap_or_default()
}

/// Compacts somewhere below what was checked, while the writers are at work; the kill may come first.
async fn compact(url: String, revision: i64, physical: bool) -> Option<i64> {
    let request = Call::Compact(pb::CompactionRequest { revision, physical });
    request.send(&raw::channel(&url)).await.is_ok().then_some(revision)
}

async fn round(member: &mut Member, random: &mut Random, known: &mut Known, number: u64) {
    let acknowledgements = 1 + random.below(ACKNOWLEDGEMENTS_MAX);
    let trigger = Arc::new(Trigger { left: AtomicUsize::new(acknowledgements), reached: Notify::new() });
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (url, trigger) = (member.url().to_owned(), Arc::clone(&trigger));
            tokio::spawn(write(url, random.bits(), writer, number, trigger))
        })
        .collect();
    let low = known.compacted.max(0) + 1;
    let compaction = (random.chance(40) && low <= known.history.revision()).then(|| {
        let revision = random.between(low, known.history.revision());
        (revision, tokio::spawn(compact(member.url().to_owned(), revision, random.chance(30))))
    });
    trigger.reached.notified().await;
    member.kill();

    let mut outcomes = Outcomes::default();
    for writer in writers {
        let of_writer = writer.await.expect("a writer ends when the server is gone");
        outcomes.acknowledged.extend(of_writer.acknowledged);
        outcomes.pending.extend(of_writer.pending);
    }
    member.restart().expect("the server must start after it was killed");
    let channel = raw::channel(member.url());
    if let Some((revision, compaction)) = compaction {
        let acknowledged = compaction.await.expect("a compaction ends when the server is gone").is_some();
        let hash = Call::HashKv(pb::HashKvRequest { revision: 0 }).send(&channel).await;
        let Ok(Reply::HashKv(hash)) = hash else { panic!("no hash: {hash:?}") };
        if acknowledged || hash.compact_revision == revision {
            known.compacted = revision;
        }
    }
    known.follow(&channel, &outcomes).await;
    known.check(&channel, &outcomes).await;
    let (acknowledged, revision) = (outcomes.acknowledged.len(), known.history.revision());
    println!("round {number}: {acknowledged} acknowledged, revision {revision}, compacted {}", known.compacted);
}

#[tokio::test]
async fn nothing_acknowledged_is_lost() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("KVORUM_CRASH_SEED").unwrap_or(1);
    println!("KVORUM_CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    let mut member = Member::start(Kind::Server, &server, &["--snapshot-count=500"]).expect("the server must start");
    let mut known = Known { history: History::default(), leases: BTreeSet::new(), compacted: -1 };
    for number in 0..number("KVORUM_CRASH_ROUNDS").unwrap_or(ROUNDS) {
        round(&mut member, &mut random, &mut known, number).await;
    }
}

/// The check, seen failing: a write that is not there, one with another value, one that nobody made, a lost lease.
#[tokio::test]
async fn what_is_wrong_is_found() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let member = Member::start(Kind::Server, &server, &[]).expect("the server must start");
    let channel = raw::channel(member.url());
    let written = put("a", "1", 0);
    Call::Put(written.clone()).send(&channel).await.expect("a put succeeds");
    let claim = |put: &pb::PutRequest, lease| Write { call: Call::Put(put.clone()), effects: vec![effect(put)], lease };
    let outcomes = |acknowledged: Vec<(i64, Write)>| Outcomes { acknowledged, pending: Vec::new() };
    let claims = [
        (outcomes(vec![(2, claim(&written, None))]), true),
        (Outcomes { acknowledged: Vec::new(), pending: vec![claim(&written, None)] }, true),
        (outcomes(vec![(2, claim(&written, None)), (3, claim(&put("b", "2", 0), None))]), false),
        (outcomes(vec![(2, claim(&put("a", "2", 0), None))]), false),
        (outcomes(Vec::new()), false),
        (outcomes(vec![(2, claim(&written, Some(LeaseChange::Granted(5))))]), false),
    ];
    for (outcomes, right) in claims {
        let channel = channel.clone();
        let checked = tokio::spawn(async move {
            let mut known = Known { history: History::default(), leases: BTreeSet::new(), compacted: -1 };
            known.follow(&channel, &outcomes).await;
            known.check(&channel, &outcomes).await;
        });
        assert_eq!(checked.await.is_ok(), right);
    }
}
