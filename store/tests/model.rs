//! Random requests against a naive model that keeps the full history: with values in memory or not, commits that lag,
//! compactions half done, ranges held open, and restarts at any point.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::*;
use kvorum_api::mvccpb::KeyValue;
use kvorum_store::{Bucket, HistoryError, Progress, RangeCursor, RangeReply, ReadError, Reply, Revision};
use proptest::prelude::*;
use prost::Message;
use support::{Commits, Harness, config};

const KEYS: u8 = 7;
const LEASES: i64 = 3;

#[derive(Clone, Debug)]
enum Write {
    Put { key: u8, value: u8, lease: i64 },
    Delete { from: u8, end: u8 },
}

#[derive(Clone, Debug)]
enum Step {
    Write(Write),
    /// On the mod revision of a key.
    Txn {
        key: u8,
        greater_than: u8,
        then: Vec<Write>,
        otherwise: Vec<Write>,
    },
    Grant(i64),
    Revoke(i64),
    /// Back from the current revision.
    Compact(u8),
    CompactionSteps(u8),
    Take,
    Settle,
    Restart,
    Range {
        from: u8,
        end: u8,
        back: u8,
        limit: i64,
        keys_only: bool,
        descending: bool,
    },
    History {
        back: u8,
        limit: u8,
    },
    Hash {
        back: u8,
    },
    Before {
        key: u8,
        back: u8,
    },
    OpenRange {
        from: u8,
    },
    CloseRange,
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        4 => (0..KEYS, any::<u8>(), 0..=LEASES).prop_map(|(key, value, lease)| Write::Put { key, value, lease }),
        1 => (0..KEYS, 0..=KEYS + 1).prop_map(|(from, end)| Write::Delete { from, end }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let writes = || prop::collection::vec(write(), 0..4);
    prop_oneof![
        12 => write().prop_map(Step::Write),
        4 => (0..KEYS, any::<u8>(), writes(), writes())
            .prop_map(|(key, greater_than, then, otherwise)| Step::Txn { key, greater_than, then, otherwise }),
        1 => (1..=LEASES).prop_map(Step::Grant),
        1 => (1..=LEASES).prop_map(Step::Revoke),
        2 => any::<u8>().prop_map(Step::Compact),
        3 => (1..6u8).prop_map(Step::CompactionSteps),
        3 => Just(Step::Take),
        3 => Just(Step::Settle),
        1 => Just(Step::Restart),
        4 => (0..KEYS, 0..=KEYS + 1, any::<u8>(), -1..4i64, any::<bool>(), any::<bool>()).prop_map(
            |(from, end, back, limit, keys_only, descending)| Step::Range {
                from, end, back, limit, keys_only, descending
            }
        ),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(back, limit)| Step::History { back, limit }),
        2 => any::<u8>().prop_map(|back| Step::Hash { back }),
        2 => (0..KEYS, any::<u8>()).prop_map(|(key, back)| Step::Before { key, back }),
        1 => (0..KEYS).prop_map(|from| Step::OpenRange { from }),
        1 => Just(Step::CloseRange),
    ]
}

fn key(number: u8) -> Vec<u8> {
    vec![b'a' + number]
}

/// `KEYS` stands for a single key, `KEYS + 1` for everything from the key on.
fn range_end(end: u8) -> Vec<u8> {
    match end {
        KEYS => Vec::new(),
        end if end > KEYS => vec![0],
        end => key(end),
    }
}

fn covers(from: u8, end: u8, candidate: &[u8]) -> bool {
    let number = candidate[0] - b'a';
    match end {
        KEYS => number == from,
        end if end > KEYS => number >= from,
        end => number >= from && number < end,
    }
}

#[derive(Clone)]
struct Record {
    revision: Revision,
    key: Vec<u8>,
    /// `None`: a tombstone.
    kv: Option<KeyValue>,
}

struct Model {
    history: Vec<Record>,
    revision: i64,
    compacted: i64,
    leases: BTreeMap<i64, BTreeSet<Vec<u8>>>,
    compacted_to: BTreeSet<i64>,
}

impl Model {
    fn new() -> Self {
        let (history, leases, compacted_to) = Default::default();
        Self { history, revision: 1, compacted: -1, leases, compacted_to }
    }

    fn live_at(&self, revision: i64) -> BTreeMap<Vec<u8>, (Revision, KeyValue)> {
        let mut live = BTreeMap::new();
        for record in self.history.iter().filter(|record| record.revision.main <= revision) {
            match &record.kv {
                Some(kv) => live.insert(record.key.clone(), (record.revision, kv.clone())),
                None => live.remove(&record.key),
            };
        }
        live
    }

    /// All writes at one revision.
    fn write(&mut self, writes: &[Write]) {
        let next = self.revision + 1;
        let mut sub = 0;
        for write in writes {
            let live = self.live_at(next);
            match write {
                Write::Put { key: number, value, lease } => {
                    let key = key(*number);
                    let before = live.get(&key).map(|(_, kv)| kv);
                    let kv = KeyValue {
                        key: key.clone().into(),
                        create_revision: before.map_or(next, |kv| kv.create_revision),
                        mod_revision: next,
                        version: before.map_or(1, |kv| kv.version + 1),
                        value: vec![*value; usize::from(*value)].into(),
                        lease: *lease,
                    };
                    self.detach(&key);
                    if let Some(keys) = self.leases.get_mut(lease) {
                        keys.insert(key.clone());
                    }
                    self.history.push(Record { revision: Revision::new(next, sub), key, kv: Some(kv) });
                    sub += 1;
                }
                Write::Delete { from, end } => {
                    for key in live.into_keys().filter(|key| covers(*from, *end, key)) {
                        self.detach(&key);
                        self.history.push(Record { revision: Revision::new(next, sub), key, kv: None });
                        sub += 1;
                    }
                }
            }
        }
        if sub > 0 {
            self.revision = next;
        }
    }

    fn detach(&mut self, key: &[u8]) {
        for keys in self.leases.values_mut() {
            keys.remove(key);
        }
    }

    fn has_lease(&self, writes: &[Write]) -> bool {
        writes.iter().all(|write| match write {
            Write::Put { lease, .. } => *lease == 0 || self.leases.contains_key(lease),
            Write::Delete { .. } => true,
        })
    }

    /// etcd's rule for `HashKV`, over the full history.
    fn hash(&self, upto: i64) -> u32 {
        let keep = self.live_at(upto);
        let keep = if keep.is_empty() { self.live_at(self.compacted) } else { keep };
        let mut bytes = b"key".to_vec();
        for record in self.history.iter().filter(|record| record.revision.main <= upto) {
            let kept = || keep.get(&record.key).is_some_and(|(revision, _)| *revision == record.revision);
            if record.revision.main <= self.compacted && !kept() {
                continue;
            }
            bytes.extend(stored_key(record));
            bytes.extend(stored_value(record));
        }
        crc32c::crc32c(&bytes)
    }

    /// What is stored when the compaction is finished.
    fn stored(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let live = self.live_at(self.compacted);
        let mut last: BTreeMap<&[u8], Revision> = BTreeMap::new();
        for record in self.history.iter().filter(|record| record.revision.main <= self.compacted) {
            last.insert(&record.key, record.revision);
        }
        let stays = |record: &&Record| {
            record.revision.main > self.compacted
                || live.get(&record.key).is_some_and(|(revision, _)| *revision == record.revision)
                || (record.revision.main == self.compacted && last.get(record.key.as_slice()) == Some(&record.revision))
        };
        self.history.iter().filter(stays).map(|record| (stored_key(record), stored_value(record))).collect()
    }

    fn range(&self, request: &RangeRequest, from: u8, end: u8) -> Result<RangeReply, &'static str> {
        let at = if request.revision <= 0 { self.revision } else { request.revision };
        if at > self.revision {
            return Err("future");
        }
        if at < self.compacted {
            return Err("compacted");
        }
        let live = self.live_at(at);
        let mut found: Vec<KeyValue> =
            live.into_iter().filter(|(key, _)| covers(from, end, key)).map(|(_, (_, kv))| kv).collect();
        let count = found.len();
        if request.sort_order == range_request::SortOrder::Descend as i32 {
            found.reverse();
        }
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        let more = found.len() > limit;
        found.truncate(limit);
        let mut kvs = Vec::new();
        for mut kv in found {
            if request.keys_only {
                (kv.value, kv.lease) = (Default::default(), 0);
            }
            let kv = kv.encode_to_vec();
            kvs.push(0x12);
            prost::encoding::encode_varint(kv.len() as u64, &mut kvs);
            kvs.extend(kv);
        }
        Ok(RangeReply { kvs, more, count: count as i64, revision: self.revision })
    }
}

fn stored_key(record: &Record) -> Vec<u8> {
    match record.kv {
        Some(_) => record.revision.to_key().to_vec(),
        None => record.revision.to_tombstone_key().to_vec(),
    }
}

fn stored_value(record: &Record) -> Vec<u8> {
    let tombstone = KeyValue { key: record.key.clone().into(), ..KeyValue::default() };
    record.kv.as_ref().unwrap_or(&tombstone).encode_to_vec()
}

fn op(write: &Write) -> Request {
    match write {
        Write::Put { key: number, value, lease } => Request::RequestPut(PutRequest {
            key: key(*number).into(),
            value: vec![*value; usize::from(*value)].into(),
            lease: *lease,
            ..PutRequest::default()
        }),
        Write::Delete { from, end } => Request::RequestDeleteRange(DeleteRangeRequest {
            key: key(*from).into(),
            range_end: range_end(*end).into(),
            prev_kv: false,
        }),
    }
}

struct Run {
    store: Harness,
    model: Model,
    open: Option<(RangeCursor, Result<RangeReply, &'static str>)>,
}

impl Run {
    fn back(&self, back: u8) -> i64 {
        (self.model.revision + 2 - i64::from(back) % (self.model.revision + 4)).max(-1)
    }

    fn apply(&mut self, request: InternalRaftRequest) -> Result<Reply, EtcdError> {
        let result = self.store.apply(request);
        assert_eq!(self.store.reader.revision(), self.model.revision);
        result.map(|applied| applied.reply)
    }

    fn write(&mut self, write: &Write) {
        let fits = self.model.has_lease(std::slice::from_ref(write));
        if fits {
            self.model.write(std::slice::from_ref(write));
        }
        let request = match op(write) {
            Request::RequestPut(put) => InternalRaftRequest { put: Some(put), ..Default::default() },
            Request::RequestDeleteRange(delete) => {
                InternalRaftRequest { delete_range: Some(delete), ..Default::default() }
            }
            _ => unreachable!("op() makes no other"),
        };
        let result = self.apply(request);
        assert_eq!(result.err(), (!fits).then_some(EtcdError::LeaseNotFound));
    }

    fn txn(&mut self, number: u8, greater_than: i64, then: &[Write], otherwise: &[Write]) {
        let live = self.model.live_at(self.model.revision);
        let succeeds = live.get(&key(number)).map_or(0, |(_, kv)| kv.mod_revision) > greater_than;
        let branch = if succeeds { then } else { otherwise };
        let fits = self.model.has_lease(branch);
        if fits {
            self.model.write(branch);
        }
        let ops = |writes: &[Write]| writes.iter().map(|write| RequestOp { request: Some(op(write)) }).collect();
        let compare = Compare {
            result: CompareResult::Greater as i32,
            target: CompareTarget::Mod as i32,
            key: key(number).into(),
            target_union: Some(TargetUnion::ModRevision(greater_than)),
            ..Compare::default()
        };
        let txn = TxnRequest { compare: vec![compare], success: ops(then), failure: ops(otherwise) };
        match self.apply(InternalRaftRequest { txn: Some(txn), ..Default::default() }) {
            Ok(Reply::Txn(reply)) => assert!(fits && reply.succeeded == succeeds),
            Err(error) => assert!(!fits && error == EtcdError::LeaseNotFound),
            Ok(other) => panic!("{other:?}"),
        }
    }

    fn compact(&mut self, revision: i64) {
        let expected = if revision <= self.model.compacted {
            Some(EtcdError::Compacted)
        } else if revision > self.model.revision {
            Some(EtcdError::FutureRev)
        } else {
            self.model.compacted = revision;
            self.model.compacted_to.insert(revision);
            None
        };
        let compaction = Some(CompactionRequest { revision, physical: false });
        let result = self.apply(InternalRaftRequest { compaction, ..Default::default() });
        assert_eq!(result.err(), expected);
    }

    fn lease(&mut self, id: i64, grant: bool) {
        let known = self.model.leases.contains_key(&id);
        let (request, error) = if grant {
            self.model.leases.entry(id).or_default();
            let lease_grant = Some(LeaseGrantRequest { id, ttl: 10 });
            (InternalRaftRequest { lease_grant, ..Default::default() }, known.then_some(EtcdError::LeaseExist))
        } else {
            for key in self.model.leases.remove(&id).unwrap_or_default() {
                let sub = self.model.history.iter().filter(|record| record.revision.main > self.model.revision).count();
                let revision = Revision::new(self.model.revision + 1, sub as i64);
                self.model.history.push(Record { revision, key, kv: None });
            }
            self.model.revision = self.model.history.last().map_or(1, |record| record.revision.main);
            let lease_revoke = Some(LeaseRevokeRequest { id });
            (InternalRaftRequest { lease_revoke, ..Default::default() }, (!known).then_some(EtcdError::LeaseNotFound))
        };
        assert_eq!(self.apply(request).err(), error);
    }

    fn history(&self, from: i64, limit: usize) {
        let history = match self.store.reader.history(from, limit) {
            Ok(history) => history,
            Err(HistoryError::Compacted(revision)) => {
                assert!(revision == self.model.compacted && from < revision);
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(from >= self.model.compacted);
        let mut expected: BTreeMap<i64, Vec<Vec<u8>>> = BTreeMap::new();
        for record in self.model.history.iter().filter(|record| record.revision.main >= from) {
            let main = record.revision.main;
            let tombstone = KeyValue { key: record.key.clone().into(), mod_revision: main, ..KeyValue::default() };
            expected.entry(main).or_default().push(record.kv.as_ref().unwrap_or(&tombstone).encode_to_vec());
        }
        let next = expected.keys().nth(limit).copied().unwrap_or(self.model.revision + 1);
        let expected: Vec<_> = expected.into_iter().take(limit).collect();
        let got: Vec<(i64, Vec<Vec<u8>>)> = history
            .batches
            .iter()
            .map(|batch| (batch.revision, batch.events.iter().map(|event| event.kv.to_vec()).collect()))
            .collect();
        assert_eq!(got, expected);
        assert_eq!(history.next, next);
    }

    fn check_range(&self, got: Result<RangeReply, ReadError>, expected: &Result<RangeReply, &'static str>) {
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(&got, expected),
            (Err(ReadError::Compacted), Err("compacted")) | (Err(ReadError::FutureRevision), Err("future")) => {}
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(write) => self.write(write),
            Step::Txn { key, greater_than, then, otherwise } => {
                self.txn(*key, self.back(*greater_than), then, otherwise);
            }
            Step::Grant(id) => self.lease(*id, true),
            Step::Revoke(id) => self.lease(*id, false),
            Step::Compact(back) => self.compact(self.back(*back)),
            Step::CompactionSteps(count) => {
                for _ in 0..*count {
                    self.store.writer.compaction_step(2).expect("memory does not fail");
                }
            }
            Step::Take => self.store.take(),
            Step::Settle => self.store.settle(),
            Step::Restart => {
                self.open = None;
                self.store.restart();
                assert_eq!(self.store.reader.revision(), self.model.revision);
                assert_eq!(self.store.reader.compact_revision(), self.model.compacted);
            }
            Step::Range { from, end, back, limit, keys_only, descending } => {
                let request = RangeRequest {
                    key: key(*from).into(),
                    range_end: range_end(*end).into(),
                    revision: self.back(*back),
                    limit: *limit,
                    keys_only: *keys_only,
                    sort_order: 2 * i32::from(*descending),
                    ..RangeRequest::default()
                };
                let expected = self.model.range(&request, *from, *end);
                self.check_range(self.store.range(&request), &expected);
            }
            Step::History { back, limit } => self.history(self.back(*back).max(0), usize::from(*limit % 8)),
            Step::Hash { back } => {
                let upto = self.back(*back).max(1);
                if !self.model.compacted_to.contains(&upto) {
                    match self.store.reader.hash_kv(upto) {
                        Ok(hash) => assert_eq!(hash.hash, self.model.hash(upto), "hash at {upto}"),
                        Err(ReadError::Compacted) => assert!(upto < self.model.compacted),
                        Err(ReadError::FutureRevision) => assert!(upto > self.model.revision),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Step::Before { key: number, back } => {
                let revision = self.back(*back);
                let got = self.store.reader.value_before(&key(*number), revision).expect("memory does not fail");
                let live = self.model.live_at(revision - 1);
                let known = live.get(&key(*number)).filter(|_| revision > self.model.compacted);
                assert_eq!(got.map(|kv| kv.to_vec()), known.map(|(_, kv)| kv.encode_to_vec()));
            }
            Step::OpenRange { from } => {
                let request = RangeRequest { key: key(*from).into(), range_end: vec![0].into(), ..Default::default() };
                let expected = self.model.range(&request, *from, KEYS + 1);
                let mut cursor = self.store.reader.range(&request).expect("the current revision");
                cursor.advance(1).expect("nothing is compacted");
                self.open = Some((cursor, expected));
            }
            Step::CloseRange => {
                if let Some((mut cursor, expected)) = self.open.take() {
                    while cursor.advance(1).expect("its revision is pinned") != Progress::Done {
                        cursor.advance_with_backend().expect("its revision is pinned");
                    }
                    self.check_range(Ok(cursor.finish()), &expected);
                }
            }
        }
        let statistics = self.store.reader.statistics();
        assert!(statistics.value_bytes <= self.store.config.value_budget_bytes);
        assert_eq!(statistics.keys, self.model.live_at(self.model.revision).len() as u64);
        for (id, keys) in &self.model.leases {
            let got: Vec<Vec<u8>> = self.store.reader.lease_keys(*id).into_iter().map(Vec::from).collect();
            assert_eq!(got, keys.iter().cloned().collect::<Vec<_>>());
        }
    }

    fn finish(mut self) {
        self.step(&Step::CloseRange);
        self.store.compact_fully(3);
        self.store.commit();
        assert_eq!(self.store.backend.records(Bucket::Key), self.model.stored());
        let hash = self.store.reader.hash().expect("memory does not fail");
        self.step(&Step::Restart);
        assert_eq!(self.store.reader.hash().expect("memory does not fail"), hash);
        assert_eq!(self.store.reader.statistics().overlay_revisions, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_full_history(
        steps in prop::collection::vec(step(), 1..120),
        budget in prop_oneof![Just(0u64), Just(300), Just(u64::MAX)],
        commits in prop_oneof![Just(Commits::Eager), Just(Commits::Lagging), Just(Commits::Manual)],
    ) {
        let store = Harness::new(config(budget), commits);
        let mut run = Run { store, model: Model::new(), open: None };
        for step in &steps {
            run.step(step);
        }
        run.finish();
    }
}
