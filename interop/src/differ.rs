//! Drives two servers in lockstep with one stream of requests and stops at the first difference a client could see.
//!
//! Requests go out one at a time, each to both sides at once. Watchers are compared at the end of each batch: a marker
//! key is written, and a stream counts as settled when its own watcher saw the marker and the server answered a progress
//! request at the marker's revision, which it does only when every watcher of the stream has everything. Compactions and
//! cancellations happen only then, since etcd does not promise what a watcher that is behind still gets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvorum_api::{etcdserverpb as pb, mvccpb};
use tonic::transport::Channel;

use crate::call::{Call, Outcome, Reply};
use crate::compare::{Identity, anonymous, difference};
use crate::generate::{BARRIER_KEY, FUTURE_STREAM, Generator, Step, WATCH_STREAMS};
use crate::raw;
use crate::watching::{ARRIVAL, Seen, WatchStream};

/// Requests between two comparisons of what watchers received.
const BATCH: usize = 150;

/// Live watchers on a stream above which the oldest ids are cancelled.
const WATCHERS_MAX: usize = 12;

/// How long to wait for a progress answer before asking again: etcd gives none while a watcher is behind.
const PROGRESS_RETRY: Duration = Duration::from_millis(50);

/// Longest request or reply shown in a report, in bytes of its text.
const SHOWN_MAX: usize = 4000;

/// One of the two servers.
#[derive(Debug)]
pub struct Side {
    name: String,
    channel: Channel,
    identity: Identity,
    streams: Vec<WatchStream>,
}

/// What a finished run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub requests: usize,
    pub errors: usize,
    pub events: usize,
    pub revision: i64,
}

impl Side {
    /// Connects to a fresh member and learns its identifiers.
    pub async fn connect(name: &str, url: &str) -> Result<Side, String> {
        let channel = raw::channel(url);
        let status = Call::Status.send(&channel).await.map_err(|failure| format!("{name}: {failure:?}"))?;
        let Reply::Status(pb::StatusResponse { header: Some(header), .. }) = status else {
            return Err(format!("{name}: a status without header: {status:?}"));
        };
        let identity =
            Identity { cluster_id: header.cluster_id, member_id: header.member_id, raft_term: header.raft_term };
        if identity.cluster_id == 0 || identity.member_id == 0 || header.revision != 1 {
            return Err(format!("{name}: want identifiers and a fresh store at revision 1, got {header:?}"));
        }
        let streams = (0..WATCH_STREAMS).map(|_| WatchStream::open(&channel, identity)).collect();
        Ok(Side { name: name.to_owned(), channel, identity, streams })
    }

    async fn send(&self, call: &Call) -> Outcome {
        anonymous(call.send(&self.channel).await, self.identity)
    }
}

/// Two servers and the position in the stream of requests.
#[derive(Debug)]
pub struct Differ {
    left: Side,
    right: Side,
    generator: Generator,
    live: Vec<BTreeSet<i64>>,
    /// The revision a watch was known to have everything up to.
    floors: BTreeMap<(usize, i64), i64>,
    summary: Summary,
}

impl Differ {
    /// A run over two fresh servers.
    pub fn new(left: Side, right: Side, seed: u64) -> Differ {
        Differ {
            left,
            right,
            generator: Generator::new(seed),
            live: vec![BTreeSet::new(); WATCH_STREAMS],
            floors: BTreeMap::new(),
            summary: Summary::default(),
        }
    }

    /// Sends `requests` requests. Err describes the first difference: where, what was asked, and both answers.
    pub async fn run(&mut self, requests: usize) -> Result<Summary, String> {
        for stream in 0..WATCH_STREAMS {
            let request = pb::WatchCreateRequest { key: BARRIER_KEY.into(), ..Default::default() };
            self.create_watch(stream, request).await?;
        }
        while self.summary.requests < requests {
            for _ in 0..BATCH.min(requests - self.summary.requests) {
                let step = self.generator.step();
                self.step(&step).await.map_err(|difference| self.located(&step, &difference))?;
                self.summary.requests += 1;
            }
            self.settle().await.map_err(|difference| self.located(&"the end of a batch", &difference))?;
            self.between_batches().await.map_err(|difference| self.located(&"between batches", &difference))?;
        }
        Ok(Summary { revision: self.generator.revision, ..self.summary })
    }

    fn located(&self, what: &dyn std::fmt::Debug, difference: &str) -> String {
        let what = shown(what);
        format!("request {} at revision {}: {what}\n{difference}", self.summary.requests, self.generator.revision)
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Call(call) => self.call(call).await.map(drop),
            Step::CreateWatch { stream, request } => self.create_watch(*stream, request.clone()).await,
            Step::RequestProgress { stream } => self.request_progress(*stream).await,
        }
    }

    /// Sends one request to both sides; the outcome they agree on, or the difference.
    async fn call(&mut self, call: &Call) -> Result<Outcome, String> {
        let (left, right) = tokio::join!(self.left.send(call), self.right.send(call));
        if let Some(difference) = difference(call, &left, &right) {
            let (left_name, right_name) = (&self.left.name, &self.right.name);
            return Err(format!("{difference}\n{left_name}: {}\n{right_name}: {}", shown(&left), shown(&right)));
        }
        if let Err(failure) = &left
            && failure.code == tonic::Code::Unavailable
        {
            return Err(format!("both sides are gone: {failure:?}"));
        }
        match &left {
            // Members have no revision; a keepalive's is from before it.
            Ok(Reply::MemberList(_) | Reply::LeaseKeepAlive(_)) => {}
            Ok(reply) => {
                if let Some(revision) = reply.revision() {
                    self.generator.revision = self.generator.revision.max(revision);
                }
            }
            Err(_) => self.summary.errors += 1,
        }
        if let (Call::LeaseGrant(pb::LeaseGrantRequest { id: 0, .. }), Ok(_)) = (call, &left) {
            self.revoke_chosen(&left, &right).await?;
        }
        Ok(left)
    }

    /// Revokes a lease whose id each server chose for itself, so that both hold the same leases again.
    async fn revoke_chosen(&mut self, left: &Outcome, right: &Outcome) -> Result<(), String> {
        let revoke = |outcome: &Outcome| match outcome {
            Ok(Reply::LeaseGrant(granted)) => Call::LeaseRevoke(pb::LeaseRevokeRequest { id: granted.id }),
            other => unreachable!("a grant was answered by {other:?}"),
        };
        let (left_call, right_call) = (revoke(left), revoke(right));
        let (left, right) = tokio::join!(self.left.send(&left_call), self.right.send(&right_call));
        match difference(&left_call, &left, &right) {
            None => Ok(()),
            Some(difference) => Err(format!("revoking a chosen id: {difference}\n{left:?}\n{right:?}")),
        }
    }

    async fn create_watch(&mut self, stream: usize, request: pb::WatchCreateRequest) -> Result<(), String> {
        let count = self.left.streams[stream].seen().created.len() + 1;
        for side in [&self.left, &self.right] {
            side.streams[stream].create(request.clone()).await;
        }
        for side in [&self.left, &self.right] {
            let arrived = side.streams[stream].wait(ARRIVAL, |seen| seen.created.len() >= count).await;
            if !arrived {
                let ended = side.streams[stream].seen().ended;
                return Err(format!("{}: no created answer; the stream ended: {ended:?}", side.name));
            }
        }
        let created = |side: &Side| side.streams[stream].seen().created[count - 1].clone();
        let (left, right) = (created(&self.left), created(&self.right));
        if left != right {
            return Err(format!(
                "the created answers differ\n{}: {left:?}\n{}: {right:?}",
                self.left.name, self.right.name
            ));
        }
        if !left.canceled {
            self.live[stream].insert(left.watch_id);
            self.floors.remove(&(stream, left.watch_id));
        }
        Ok(())
    }

    /// Asks for progress. In the stream whose watchers are never behind, whether an answer comes is certain, so a refused
    /// watch follows: its answer proves that the progress request was handled at this revision.
    async fn request_progress(&mut self, stream: usize) -> Result<(), String> {
        for side in [&self.left, &self.right] {
            side.streams[stream].progress().await;
        }
        if stream == FUTURE_STREAM {
            let refused = pb::WatchCreateRequest { key: "a".into(), start_revision: -1, ..Default::default() };
            self.create_watch(stream, refused).await?;
        }
        Ok(())
    }

    /// Brings every stream of both sides to the same revision and compares what arrived.
    async fn settle(&mut self) -> Result<(), String> {
        let put = pb::PutRequest { key: BARRIER_KEY.into(), value: "settled".into(), ..Default::default() };
        let marked = self.call(&Call::Put(put)).await?;
        marked.map_err(|failure| format!("the marker cannot be written: {failure:?}"))?;
        let revision = self.generator.revision;
        for stream in 0..WATCH_STREAMS {
            self.await_marker(stream, revision).await?;
            if stream != FUTURE_STREAM {
                self.await_progress(stream, revision).await?;
            }
            self.await_equality(stream).await?;
            self.raise_floors(stream, revision);
        }
        Ok(())
    }

    async fn await_marker(&self, stream: usize, revision: i64) -> Result<(), String> {
        for side in [&self.left, &self.right] {
            let marked = |seen: &Seen| {
                let last = seen.events.get(&0).and_then(|events| events.last());
                last.and_then(|event| event.kv.as_ref()).is_some_and(|kv| kv.mod_revision >= revision)
            };
            if !side.streams[stream].wait(ARRIVAL, marked).await {
                let ended = side.streams[stream].seen().ended;
                return Err(format!(
                    "{}: stream {stream} never saw the marker at {revision}; ended: {ended:?}",
                    side.name
                ));
            }
        }
        Ok(())
    }

    /// Waits for progress at `revision` on both sides. A watch that ended by compaction counts as behind for ever in etcd
    /// until the client cancels it, so those are cancelled on both sides.
    async fn await_progress(&mut self, stream: usize, revision: i64) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + ARRIVAL;
        loop {
            let mut settled = true;
            for side in [&self.left, &self.right] {
                let done = |seen: &Seen| seen.progress.last().is_some_and(|&last| last >= revision);
                if !done(&side.streams[stream].seen()) {
                    side.streams[stream].progress().await;
                    settled &= side.streams[stream].wait(PROGRESS_RETRY, done).await;
                }
            }
            let compacted = self.compacted_watches(stream);
            if settled && compacted.is_empty() {
                return Ok(());
            }
            for watch in compacted {
                self.cancel_watch(stream, watch).await?;
            }
            if tokio::time::Instant::now() > deadline {
                let (left, right) = (self.left.streams[stream].seen(), self.right.streams[stream].seen());
                return Err(format!(
                    "stream {stream} never reached revision {revision}\n{}: {:?} {}\n{}: {:?} {}",
                    self.left.name,
                    left.progress.last(),
                    shown(&left.canceled),
                    self.right.name,
                    right.progress.last(),
                    shown(&right.canceled),
                ));
            }
        }
    }

    /// Live watches that either server ended because of a compaction.
    fn compacted_watches(&self, stream: usize) -> Vec<i64> {
        let ended = |side: &Side, id: i64| {
            let seen = side.streams[stream].seen();
            let last = seen.canceled.get(&id).and_then(|canceled| canceled.last());
            last.is_some_and(|response| response.compact_revision != 0)
        };
        let live = self.live[stream].iter().copied();
        live.filter(|&id| ended(&self.left, id) || ended(&self.right, id)).collect()
    }

    async fn cancel_watch(&mut self, stream: usize, watch: i64) -> Result<(), String> {
        // The compaction's cancellation must have arrived on both sides before the counts below mean anything.
        self.await_equality(stream).await?;
        let count = self.left.streams[stream].seen().canceled.get(&watch).map_or(0, Vec::len) + 1;
        for side in [&self.left, &self.right] {
            side.streams[stream].cancel(watch).await;
        }
        for side in [&self.left, &self.right] {
            let arrived = |seen: &Seen| seen.canceled.get(&watch).is_some_and(|canceled| canceled.len() >= count);
            if !side.streams[stream].wait(ARRIVAL, arrived).await {
                return Err(format!("{}: cancelling watch {watch} of stream {stream} was not answered", side.name));
            }
        }
        self.live[stream].remove(&watch);
        Ok(())
    }

    /// Waits until both sides received the same, and reports what differs when that does not happen.
    async fn await_equality(&mut self, stream: usize) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + ARRIVAL;
        loop {
            let (left, right) = (self.left.streams[stream].seen(), self.right.streams[stream].seen());
            let Some(difference) = left.difference(&right, stream == FUTURE_STREAM) else {
                return self.forget_equal(stream, &left);
            };
            if tokio::time::Instant::now() > deadline || !left.faults.is_empty() || !right.faults.is_empty() {
                let difference = truncated(difference);
                return Err(format!("stream {stream}, {} and {}: {difference}", self.left.name, self.right.name));
            }
            // Whichever side is behind wakes this up when something arrives; both are watched for a moment.
            let counts = (total(&left), total(&right));
            tokio::select! {
                _ = self.left.streams[stream].wait(PROGRESS_RETRY, |seen| total(seen) != counts.0) => {}
                _ = self.right.streams[stream].wait(PROGRESS_RETRY, |seen| total(seen) != counts.1) => {}
            }
        }
    }

    /// Drops events that both sides received, after checking them: a watch that was known to have everything up to a
    /// revision must not get older events afterwards.
    fn forget_equal(&mut self, stream: usize, seen: &Seen) -> Result<(), String> {
        for (&id, events) in &seen.events {
            let floor = self.floors.get(&(stream, id)).copied().unwrap_or(0);
            let mut previous = floor;
            for event in events {
                let revision = mod_revision(event);
                if revision < previous || revision == floor {
                    return Err(format!("stream {stream}, watch {id}: revision {revision} after {previous}"));
                }
                previous = revision;
            }
            self.floors.insert((stream, id), previous);
            self.summary.events += events.len();
        }
        let counts = seen.events.iter().map(|(&id, events)| (id, events.len())).collect();
        for side in [&self.left, &self.right] {
            side.streams[stream].forget(&counts);
        }
        Ok(())
    }

    /// Every live watch of a settled stream has everything up to `revision`.
    fn raise_floors(&mut self, stream: usize, revision: i64) {
        for &id in &self.live[stream] {
            self.floors.insert((stream, id), revision);
        }
    }

    /// What must not overlap with watchers that are behind: cancellations and compactions.
    async fn between_batches(&mut self) -> Result<(), String> {
        for stream in 0..WATCH_STREAMS {
            let mut candidates: Vec<i64> = self.live[stream].iter().copied().filter(|&id| id != 0).collect();
            let excess = candidates.len().saturating_sub(WATCHERS_MAX);
            let count = excess.max(self.generator.below(3)).min(candidates.len());
            for _ in 0..count {
                let id = candidates.swap_remove(self.generator.below(candidates.len()));
                self.cancel_watch(stream, id).await?;
            }
            // Unknown ids are not answered; a wrong answer shows up as a cancellation only one side has.
            for side in [&self.left, &self.right] {
                side.streams[stream].cancel(4242).await;
            }
        }
        if self.generator.below(2) == 0
            && let Some(call) = self.generator.compaction()
        {
            let outcome = self.call(&call).await?;
            if let (Call::Compact(request), Ok(_)) = (&call, &outcome) {
                self.generator.compacted_at(*request);
                // Right after it, so that one without `physical` is still under way.
                self.call(&Call::HashKv(pb::HashKvRequest { revision: 0 })).await?.ok();
            }
        }
        Ok(())
    }
}

fn mod_revision(event: &mvccpb::Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn total(seen: &Seen) -> usize {
    let events: usize = seen.events.values().map(Vec::len).sum();
    let canceled: usize = seen.canceled.values().map(Vec::len).sum();
    events + canceled + seen.progress.len() + seen.created.len() + seen.faults.len()
}

fn shown(what: &dyn std::fmt::Debug) -> String {
    truncated(format!("{what:?}"))
}

fn truncated(mut text: String) -> String {
    if text.len() > SHOWN_MAX {
        let end = (0..=SHOWN_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" …");
    }
    text
}
