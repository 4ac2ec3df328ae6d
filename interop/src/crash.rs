//! A workload that a crash may interrupt, and what must be found after it: every acknowledged write at its revision with
//! its effects, every lease with its keys, no gap between revisions, nothing that nobody asked for, and the `HashKV` that
//! the history hashes to. What was not acknowledged may have happened once or not at all.
//!
//! A moment is a number of acknowledgements, so no clock is involved. It never stops or starts the server itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use kvorum_api::{etcdserverpb as pb, mvccpb};
use pb::request_op::Request;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::call::{Call, Reply};
use crate::compare::Identity;
use crate::history::{Effects, History};
use crate::random::Random;
use crate::raw;
use crate::watching::{ARRIVAL, Seen, WatchStream};

/// Concurrent writers.
pub const WRITERS: usize = 8;

const LEASE_SECONDS: i64 = 100_000;

/// A round compacts so often, in percent.
const COMPACTION_PERCENT: usize = 40;

/// Err with a text unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}

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
pub struct Outcomes {
    acknowledged: Vec<(i64, Write)>,
    pending: Vec<Write>,
    compaction: Option<Compaction>,
}

impl Outcomes {
    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}

/// A compaction that ran beside the writers.
#[derive(Clone, Copy, Debug)]
struct Compaction {
    revision: i64,
    acknowledged: bool,
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
#[derive(Debug)]
pub struct Known {
    history: History,
    leases: BTreeSet<i64>,
    compacted: i64,
    rounds: u64,
}

impl Default for Known {
    fn default() -> Self {
        Known { history: History::default(), leases: BTreeSet::new(), compacted: -1, rounds: 0 }
    }
}

/// Writers at work.
#[derive(Debug)]
pub struct Work {
    writers: Vec<JoinHandle<Outcomes>>,
    compaction: Option<JoinHandle<Compaction>>,
    trigger: Arc<Trigger>,
}

impl Work {
    /// Returns when so many writes are acknowledged as were asked for, or when the server is gone.
    pub async fn moment(&self) {
        self.trigger.reached.notified().await;
    }

    /// Collects what the writers know. The server must be gone.
    pub async fn end(self) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for writer in self.writers {
            let of_writer = writer.await.expect("a writer ends when the server is gone");
            outcomes.acknowledged.extend(of_writer.acknowledged);
            outcomes.pending.extend(of_writer.pending);
        }
        if let Some(compaction) = self.compaction {
            outcomes.compaction = Some(compaction.await.expect("a compaction ends when the server is gone"));
        }
        outcomes
    }
}

impl Known {
    /// The last revision that was seen.
    pub fn revision(&self) -> i64 {
        self.history.revision()
    }

    /// Sets writers to work, until so many of their writes are acknowledged; often a compaction beside them.
    pub fn work(&mut self, url: &str, random: &mut Random, acknowledgements: usize) -> Work {
        let trigger = Arc::new(Trigger { left: AtomicUsize::new(acknowledgements), reached: Notify::new() });
        let round = self.rounds;
        self.rounds += 1;
        let writers = (0..WRITERS)
            .map(|writer| tokio::spawn(write(url.to_owned(), random.bits(), writer, round, Arc::clone(&trigger))))
            .collect();
        let low = self.compacted.max(0) + 1;
        let compaction = (random.chance(COMPACTION_PERCENT) && low <= self.history.revision()).then(|| {
            let revision = random.between(low, self.history.revision());
            tokio::spawn(compact(url.to_owned(), revision, random.chance(30)))
        });
        Work { writers, compaction, trigger }
    }

    /// Checks a server that runs again against all that is known, and learns what became of the rest. Err says what is
    /// lost or wrong.
    pub async fn check(&mut self, url: &str, outcomes: &Outcomes) -> Result<(), String> {
        let channel = raw::channel(url);
        if let Some(compaction) = outcomes.compaction {
            let hash = hash(&channel).await?;
            if compaction.acknowledged || hash.compact_revision == compaction.revision {
                self.compacted = compaction.revision;
            }
        }
        self.follow(&channel, outcomes).await?;
        self.compare(&channel, outcomes).await
    }

    /// Reads the revisions since the last check and finds the write behind each.
    async fn follow(&mut self, channel: &Channel, outcomes: &Outcomes) -> Result<(), String> {
        let current = current_revision(channel).await?;
        let known = self.history.revision();
        ensure!(current >= known, "the store went back from revision {known} to {current}");
        let events = events_between(channel, known + 1, current).await?;
        self.history.append(&events).map_err(|error| format!("a revision is missing or not whole: {error}"))?;
        let reached = self.history.revision();
        ensure!(reached == current, "the watch ends at revision {reached}, the store at {current}");

        let mut unexplained: BTreeMap<i64, Effects> =
            (known + 1..=current).map(|revision| (revision, self.history.effects(revision))).collect();
        for (revision, write) in &outcomes.acknowledged {
            if !write.effects.is_empty() {
                let found = unexplained.remove(revision);
                let call = &write.call;
                ensure!(
                    found.as_ref() == Some(&write.effects),
                    "at {revision}: acknowledged {call:?}, found {found:?}"
                );
            }
        }
        let mut pending: Vec<&Effects> = outcomes.pending.iter().map(|write| &write.effects).collect();
        for (revision, effects) in unexplained {
            let claim = pending.iter().position(|&pending| *pending == effects);
            let Some(claim) = claim else { return Err(format!("nobody asked for {effects:?} at revision {revision}")) };
            pending.swap_remove(claim);
        }
        Ok(())
    }

    /// Compares state, hash and leases with the store.
    async fn compare(&mut self, channel: &Channel, outcomes: &Outcomes) -> Result<(), String> {
        let everything = Bytes::from_static(b"\0");
        let range = pb::RangeRequest { key: everything.clone(), range_end: everything, ..Default::default() };
        let state = Call::Range(range).send(channel).await;
        let Ok(Reply::Range(state)) = state else { return Err(format!("no range: {state:?}")) };
        ensure!(state.kvs == self.history.state(), "the keys are not those of the history");
        let hash = hash(channel).await?;
        let compacted = self.compacted;
        ensure!(hash.compact_revision == compacted, "compacted {}, not {compacted}", hash.compact_revision);
        let wanted = self.history.hash_kv(compacted, self.history.revision());
        ensure!(hash.hash == wanted, "the hash is {}, the history's is {wanted}", hash.hash);
        self.compare_leases(channel, outcomes, &state.kvs).await
    }

    async fn compare_leases(
        &mut self,
        channel: &Channel,
        outcomes: &Outcomes,
        state: &[mvccpb::KeyValue],
    ) -> Result<(), String> {
        let listed = Call::LeaseLeases.send(channel).await;
        let Ok(Reply::LeaseLeases(listed)) = listed else { return Err(format!("no leases: {listed:?}")) };
        let found: BTreeSet<i64> = listed.leases.iter().map(|lease| lease.id).collect();
        ensure!(found.len() == listed.leases.len(), "a lease is listed twice");
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
        ensure!(found == self.leases, "the leases are not those that were granted and not revoked");
        // The newest leases are the ones a crash could have touched.
        for &id in self.leases.iter().rev().take(WRITERS) {
            let left = Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys: true }).send(channel).await;
            let Ok(Reply::LeaseTimeToLive(mut left)) = left else { return Err(format!("no time to live: {left:?}")) };
            ensure!(left.granted_ttl == LEASE_SECONDS, "lease {id} was granted {} s", left.granted_ttl);
            left.keys.sort();
            let attached: Vec<Bytes> = state.iter().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect();
            ensure!(left.keys == attached, "lease {id} has the keys {:?}, not {attached:?}", left.keys);
        }
        Ok(())
    }
}

async fn hash(channel: &Channel) -> Result<pb::HashKvResponse, String> {
    match Call::HashKv(pb::HashKvRequest { revision: 0 }).send(channel).await {
        Ok(Reply::HashKv(hash)) => Ok(hash),
        other => Err(format!("no hash: {other:?}")),
    }
}

async fn current_revision(channel: &Channel) -> Result<i64, String> {
    let range = Call::Range(pb::RangeRequest { key: "a".into(), count_only: true, ..Default::default() });
    let reply = range.send(channel).await.map_err(|failure| format!("no range: {failure:?}"))?;
    Ok(reply.revision().expect("a range has a revision"))
}

async fn events_between(channel: &Channel, start_revision: i64, last: i64) -> Result<Vec<mvccpb::Event>, String> {
    if start_revision > last {
        return Ok(Vec::new());
    }
    let stream = WatchStream::open(channel, Identity::default());
    let everything = Bytes::from_static(b"\0");
    let (key, range_end) = (everything.clone(), everything);
    stream.create(pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() }).await;
    let complete = |seen: &Seen| {
        let last_event = seen.events.get(&0).and_then(|events| events.last());
        last_event.and_then(|event| event.kv.as_ref()).is_some_and(|kv| kv.mod_revision >= last)
    };
    ensure!(stream.wait(ARRIVAL, complete).await, "the watch does not reach {last}: {:?}", stream.seen());
    let mut seen = stream.seen();
    ensure!(seen.faults.is_empty(), "{:?}", seen.faults);
    Ok(seen.events.remove(&0).unwrap_or_default())
}

/// Compacts somewhere below what was checked, while the writers are at work; the kill may come first.
async fn compact(url: String, revision: i64, physical: bool) -> Compaction {
    let request = Call::Compact(pb::CompactionRequest { revision, physical });
    let acknowledged = request.send(&raw::channel(&url)).await.is_ok();
    Compaction { revision, acknowledged }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Kind, Member};
    use crate::tools;

    /// The check, seen failing: a write that is not there, one with another value, one that nobody made, a lost lease.
    #[tokio::test]
    async fn what_is_wrong_is_found() {
        let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
        let member = Member::start(Kind::Server, &server, &[]).expect("the server must start");
        let channel = raw::channel(member.url());
        let written = put("a", "1", 0);
        Call::Put(written.clone()).send(&channel).await.expect("a put succeeds");
        let claim =
            |put: &pb::PutRequest, lease| Write { call: Call::Put(put.clone()), effects: vec![effect(put)], lease };
        let outcomes = |acknowledged: Vec<(i64, Write)>| Outcomes { acknowledged, ..Outcomes::default() };
        let claims = [
            (outcomes(vec![(2, claim(&written, None))]), true),
            (Outcomes { pending: vec![claim(&written, None)], ..Outcomes::default() }, true),
            (outcomes(vec![(2, claim(&written, None)), (3, claim(&put("b", "2", 0), None))]), false),
            (outcomes(vec![(2, claim(&put("a", "2", 0), None))]), false),
            (outcomes(Vec::new()), false),
            (outcomes(vec![(2, claim(&written, Some(LeaseChange::Granted(5))))]), false),
        ];
        for (outcomes, right) in claims {
            let checked = Known::default().check(member.url(), &outcomes).await;
            assert_eq!(checked.is_ok(), right, "{checked:?}");
        }
    }
}
