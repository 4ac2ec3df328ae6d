//! Makes the stream of random requests, valid and invalid, from a seed. What it makes may depend on the revisions that
//! replies showed, which are the same on both sides, and on nothing else.
//!
//! What kills etcd is not asked for ([`spare_open_deletes`]), nor what it answers differently from run to run: leases short
//! enough to expire are revoked by the next request, and a hash at a compacted revision is asked for only once that
//! compaction is known to be finished (until then etcd computes it; from then on it gives the hash it took while
//! compacting, which covers other revisions).

use std::collections::VecDeque;

use bytes::Bytes;
use kvorum_api::etcdserverpb as pb;
use pb::compare::{CompareTarget, TargetUnion};
use pb::request_op::Request;
use prost::Message;

use crate::call::Call;
use crate::random::Random;

/// The operations limit both servers run with (etcd's default).
pub const MAX_TXN_OPS: usize = 128;

/// Watch streams per side. The last one holds watchers of future revisions and none of past ones.
pub const WATCH_STREAMS: usize = 4;

/// The key that marks the end of a batch. No random request names it; open ranges reach it.
pub const BARRIER_KEY: &[u8] = b"~barrier";

/// The stream with watchers of future revisions.
pub const FUTURE_STREAM: usize = WATCH_STREAMS - 1;

const LEASES: i64 = 12;
const LARGEST_TTL: i64 = 9_000_000_000;

/// One step of the test.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Call(Call),
    CreateWatch { stream: usize, request: pb::WatchCreateRequest },
    RequestProgress { stream: usize },
}

/// The generator: a seed and what it has seen.
#[derive(Debug)]
pub struct Generator {
    random: Random,
    keys: Vec<Bytes>,
    follow_up: VecDeque<Call>,
    /// The store's revision as of the last reply.
    pub revision: i64,
    /// The revision of the last successful compaction, -1 before the first.
    pub compacted: i64,
    /// Compactions whose physical end nobody waited for.
    unfinished: Vec<i64>,
}

impl Generator {
    /// A generator for a fresh store.
    pub fn new(seed: u64) -> Generator {
        let mut keys: Vec<Bytes> = ["a", "aa", "ab", "b", "c/", "c/1", "c/2", "c/10", "d", "\0", "\0\0", "a\0"]
            .iter()
            .map(|key| Bytes::from_static(key.as_bytes()))
            .collect();
        keys.extend([&[0xff][..], &[0xff, 0xff], &[b'b', 0xff], &[0xc3, 0x28]].map(Bytes::from_static));
        keys.extend((0..24).map(|number| Bytes::from(format!("k/{number:02}"))));
        Generator {
            random: Random::new(seed),
            keys,
            follow_up: VecDeque::new(),
            revision: 1,
            compacted: -1,
            unfinished: Vec::new(),
        }
    }

    /// The next step inside a batch.
    pub fn step(&mut self) -> Step {
        if let Some(call) = self.follow_up.pop_front() {
            return Step::Call(call);
        }
        match self.random.below(1000) {
            0..300 => Step::Call(Call::Range(self.range(true))),
            300..580 => Step::Call(Call::Put(self.put())),
            580..640 => Step::Call(Call::DeleteRange(self.delete_range())),
            640..810 => Step::Call(Call::Txn(self.txn(0))),
            810..825 => Step::Call(Call::Compact(self.refused_compaction())),
            825..905 => Step::Call(self.lease()),
            905..925 => Step::Call(self.hash_kv()),
            925..930 => Step::Call(Call::MemberList(pb::MemberListRequest { linearizable: self.random.chance(50) })),
            930..935 => Step::Call(Call::Status),
            935..940 => Step::Call(Call::Alarm(self.alarm_get())),
            940..944 => Step::Call(self.oversized()),
            944..950 => Step::Call(self.deep()),
            950..990 => self.create_watch(),
            _ => Step::RequestProgress { stream: self.random.below(WATCH_STREAMS) },
        }
    }

    /// A compaction that changes something, for the end of a batch. None when there is nothing new to compact.
    pub fn compaction(&mut self) -> Option<Call> {
        if self.revision <= self.compacted.max(0) {
            return None;
        }
        let revision = match self.random.below(4) {
            0 => self.revision,
            _ => self.random.between(self.compacted.max(0) + 1, self.revision),
        };
        Some(Call::Compact(pb::CompactionRequest { revision, physical: self.random.chance(40) }))
    }

    /// Learns that a compaction succeeded.
    pub fn compacted_at(&mut self, request: pb::CompactionRequest) {
        self.compacted = request.revision;
        if request.physical {
            self.unfinished.clear();
        } else {
            self.unfinished.push(request.revision);
        }
    }

    /// A number below `bound` from the same seed.
    pub fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    fn key(&mut self) -> Bytes {
        if self.random.chance(1) {
            return Bytes::new();
        }
        let index = self.random.below(self.keys.len());
        self.keys[index].clone()
    }

    /// A key and an end: one key, a prefix, an interval in either order, from a key, or everything.
    fn interval(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        match self.random.below(20) {
            0..9 => (key, Bytes::new()),
            9..13 => {
                let end = prefix_end(&key);
                (key, end)
            }
            13..17 => (key, self.key()),
            17..19 => (key, Bytes::from_static(b"\0")),
            _ => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        }
    }

    fn past_or_future(&mut self) -> i64 {
        match self.random.below(12) {
            0 => self.random.pick(&[-1, -2, -1000, i64::MIN]),
            1 => self.revision + self.random.between(1, 3),
            2 => i64::MAX,
            3 => self.compacted - self.random.between(0, 2),
            4 => self.revision,
            _ => self.random.between(self.compacted.max(1), self.revision.max(1)),
        }
    }

    fn bound(&mut self) -> i64 {
        match self.random.below(8) {
            0 => -1,
            1 => i64::MAX,
            _ => self.random.between(0, self.revision + 1),
        }
    }

    fn range(&mut self, alone: bool) -> pb::RangeRequest {
        let (key, range_end) = self.interval();
        let mut request = pb::RangeRequest { key, range_end, ..Default::default() };
        let random = &mut self.random;
        if random.chance(40) {
            request.limit = random.pick(&[1, 2, 3, 5, 10, 100, -1, i64::MAX, i64::MIN, 0]);
        }
        if random.chance(40) {
            request.sort_order = random.between(0, 2) as i32;
            request.sort_target = random.between(0, 4) as i32;
        }
        if random.chance(2) {
            request.sort_order = random.pick(&[3, -1, i32::MAX]);
        }
        if random.chance(2) {
            request.sort_target = random.pick(&[5, -1, i32::MIN]);
        }
        request.serializable = random.chance(30);
        request.keys_only = random.chance(15);
        request.count_only = random.chance(10);
        if random.chance(if alone { 30 } else { 10 }) {
            request.revision = self.past_or_future();
        }
        if self.random.chance(8) {
            request.min_mod_revision = self.bound();
        }
        if self.random.chance(8) {
            request.max_mod_revision = self.bound();
        }
        if self.random.chance(8) {
            request.min_create_revision = self.bound();
        }
        if self.random.chance(8) {
            request.max_create_revision = self.bound();
        }
        request
    }

    fn value(&mut self) -> Bytes {
        match self.random.below(6) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"a"),
            2 => Bytes::from_static(b"b"),
            3 => Bytes::from(vec![self.random.bits() as u8; 300]),
            _ => Bytes::from(self.random.bits().to_be_bytes().to_vec()),
        }
    }

    fn lease_id(&mut self) -> i64 {
        if self.random.chance(5) {
            self.random.pick(&[-3, i64::MAX, i64::MIN, 999])
        } else {
            self.random.between(1, LEASES)
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let mut request = pb::PutRequest { key: self.key(), value: self.value(), ..Default::default() };
        if self.random.chance(25) {
            request.lease = self.lease_id();
        }
        request.prev_kv = self.random.chance(30);
        if self.random.chance(8) {
            request.ignore_value = true;
            if self.random.chance(80) {
                request.value = Bytes::new();
            }
        }
        if self.random.chance(8) {
            request.ignore_lease = true;
            if self.random.chance(80) {
                request.lease = 0;
            }
        }
        request
    }

    fn delete_range(&mut self) -> pb::DeleteRangeRequest {
        let (key, mut range_end) = self.interval();
        // Deleting nearly everything is rare, so that there is something to read.
        if range_end.as_ref() == b"\0" && self.random.chance(80) {
            range_end = Bytes::new();
        }
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.random.chance(40) }
    }

    fn compare(&mut self) -> pb::Compare {
        let (key, range_end) = self.interval();
        let target = self.random.between(0, 4) as i32;
        let mut compare =
            pb::Compare { result: self.random.between(0, 3) as i32, target, key, range_end, target_union: None };
        let number = match self.random.below(4) {
            0 => self.past_or_future(),
            1 => self.random.between(0, LEASES),
            _ => self.random.between(0, 4),
        };
        let wanted = if self.random.chance(95) { target } else { self.random.between(0, 4) as i32 };
        compare.target_union = match CompareTarget::try_from(wanted).expect("0 to 4 are targets") {
            _ if self.random.chance(5) => None,
            CompareTarget::Version => Some(TargetUnion::Version(number)),
            CompareTarget::Create => Some(TargetUnion::CreateRevision(number)),
            CompareTarget::Mod => Some(TargetUnion::ModRevision(number)),
            CompareTarget::Value => Some(TargetUnion::Value(self.value())),
            CompareTarget::Lease => Some(TargetUnion::Lease(number)),
        };
        if self.random.chance(2) {
            compare.result = self.random.pick(&[4, -1, i32::MAX]);
        }
        if self.random.chance(2) {
            compare.target = self.random.pick(&[5, -1, i32::MIN]);
        }
        compare
    }

    fn txn(&mut self, depth: usize) -> pb::TxnRequest {
        let compares = self.random.below(4);
        let mut request = pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.operations(depth),
            failure: self.operations(depth),
        };
        if depth == 0 {
            if self.random.chance(2) {
                self.overfill(&mut request);
            }
            if puts_something(&request) {
                spare_open_deletes(&mut request);
            }
        }
        request
    }

    /// Brings one list of a transaction to the limit or just above it.
    fn overfill(&mut self, request: &mut pb::TxnRequest) {
        let count = MAX_TXN_OPS + self.random.below(3) - 1;
        let put = |number: usize| pb::PutRequest { key: format!("many/{number}").into(), ..Default::default() };
        let operations = || (0..count).map(|number| pb::RequestOp { request: Some(Request::RequestPut(put(number))) });
        match self.random.below(3) {
            0 => request.compare = vec![pb::Compare { key: "a".into(), ..Default::default() }; count],
            1 => request.success = operations().collect(),
            _ => request.failure = operations().collect(),
        }
    }

    fn operations(&mut self, depth: usize) -> Vec<pb::RequestOp> {
        let count = self.random.below(5);
        let read_only = self.random.chance(15);
        (0..count).map(|_| pb::RequestOp { request: self.operation(depth, read_only) }).collect()
    }

    fn operation(&mut self, depth: usize, read_only: bool) -> Option<Request> {
        match self.random.below(100) {
            0 => None,
            _ if read_only => Some(Request::RequestRange(self.range(false))),
            1..35 => Some(Request::RequestRange(self.range(false))),
            35..75 => Some(Request::RequestPut(self.put())),
            75..88 => Some(Request::RequestDeleteRange(self.delete_range())),
            _ if depth < 3 => Some(Request::RequestTxn(self.txn(depth + 1))),
            _ => Some(Request::RequestPut(self.put())),
        }
    }

    fn refused_compaction(&mut self) -> pb::CompactionRequest {
        let revision = match self.random.below(4) {
            0 => self.revision + self.random.between(1, 5),
            1 => i64::MAX,
            2 if self.compacted >= 0 => self.compacted,
            _ => self.random.pick(&[-1, i64::MIN, self.compacted.min(0)]),
        };
        pb::CompactionRequest { revision, physical: self.random.chance(50) }
    }

    fn lease(&mut self) -> Call {
        match self.random.below(10) {
            0..3 => {
                let ttl = self.random.pick(&[10_000, 20_000, 1_000_000, LARGEST_TTL]);
                Call::LeaseGrant(pb::LeaseGrantRequest { ttl, id: self.lease_id() })
            }
            3 => self.odd_grant(),
            4 | 5 => Call::LeaseRevoke(pb::LeaseRevokeRequest { id: self.lease_id_or_zero() }),
            6 => Call::LeaseLeases,
            7 => Call::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id: self.lease_id_or_zero() }),
            _ => {
                let keys = self.random.chance(70);
                Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id: self.lease_id_or_zero(), keys })
            }
        }
    }

    fn lease_id_or_zero(&mut self) -> i64 {
        if self.random.chance(3) { 0 } else { self.lease_id() }
    }

    /// A grant with a time to live at the edges, or with an id of the server's choice. What could expire is revoked next.
    fn odd_grant(&mut self) -> Call {
        let ttl = self.random.pick(&[0, 1, -1, i64::MIN, i64::MAX, LARGEST_TTL + 1]);
        if self.random.chance(30) {
            return Call::LeaseGrant(pb::LeaseGrantRequest { ttl: 20_000, id: 0 });
        }
        let id = 1000 + self.random.between(0, 3);
        self.follow_up.push_back(Call::LeaseRevoke(pb::LeaseRevokeRequest { id }));
        Call::LeaseGrant(pb::LeaseGrantRequest { ttl, id })
    }

    fn hash_kv(&mut self) -> Call {
        let mut revision = match self.random.below(3) {
            0 => 0,
            _ => self.past_or_future(),
        };
        if self.unfinished.contains(&revision) {
            revision = 0;
        }
        Call::HashKv(pb::HashKvRequest { revision })
    }

    fn alarm_get(&mut self) -> pb::AlarmRequest {
        pb::AlarmRequest { action: 0, member_id: self.random.bits() % 2, alarm: self.random.between(0, 3) as i32 }
    }

    fn oversized(&mut self) -> Call {
        let bytes = self.random.pick(&[1_572_864, 1_600_000, 2_000_000, 2_097_152, 2_200_000]);
        let request = pb::PutRequest { key: "large".into(), value: vec![b'v'; bytes].into(), ..Default::default() };
        if self.random.chance(70) {
            return Call::Put(request);
        }
        let success = vec![pb::RequestOp { request: Some(Request::RequestPut(request)) }];
        Call::Txn(pb::TxnRequest { success, ..Default::default() })
    }

    /// A transaction nested deeply; etcd takes 128 levels.
    fn deep(&mut self) -> Call {
        let depth = self.random.pick(&[10, 45, 50, 51, 100, 127, 128, 129, 130, 1000, 4900]);
        let put = pb::PutRequest { key: "deep".into(), value: self.value(), ..Default::default() };
        let mut body = pb::TxnRequest {
            success: vec![pb::RequestOp { request: Some(Request::RequestPut(put)) }],
            ..Default::default()
        }
        .encode_to_vec();
        for _ in 1..depth {
            const REQUEST_TXN: u32 = 4;
            const SUCCESS: u32 = 2;
            body = field(SUCCESS, &field(REQUEST_TXN, &body));
            // An empty compare list succeeds, so the branch is always the first.
        }
        Call::Bytes { path: "/etcdserverpb.KV/Txn", body: body.into(), what: "nested transaction" }
    }

    fn create_watch(&mut self) -> Step {
        let stream = self.random.below(WATCH_STREAMS);
        let (mut key, range_end) = self.interval();
        if self.random.chance(3) {
            key = Bytes::new();
        }
        let start_revision = match self.random.below(10) {
            _ if stream == FUTURE_STREAM => {
                self.random.pick(&[0, 1, 5, 40]) + if self.random.chance(80) { self.revision + 1 } else { 0 }
            }
            0..5 => 0,
            5 => self.revision + 1,
            6 => self.random.pick(&[-1, i64::MIN]),
            7 => self.compacted,
            _ => self.random.between(1, self.revision),
        };
        // In the stream for the future, a small number would be the past.
        let start_revision =
            if stream == FUTURE_STREAM && start_revision <= self.revision { 0 } else { start_revision };
        let filters = match self.random.below(10) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![0, 1],
            3 => vec![7],
            _ => Vec::new(),
        };
        let watch_id = match self.random.below(10) {
            0..6 => 0,
            6 => self.random.pick(&[-7, i64::MAX, i64::MIN]),
            _ => self.random.between(1, 9),
        };
        let (progress_notify, prev_kv) = (self.random.chance(20), self.random.chance(40));
        let request = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify,
            filters,
            prev_kv,
            watch_id,
            fragment: false,
        };
        Step::CreateWatch { stream, request }
    }
}

/// The operations of both branches.
fn operations_mut(request: &mut pb::TxnRequest) -> impl Iterator<Item = &mut Request> {
    let branches = request.success.iter_mut().chain(&mut request.failure);
    branches.filter_map(|operation| operation.request.as_mut())
}

/// Whether a transaction, however deep, has a put.
fn puts_something(request: &pb::TxnRequest) -> bool {
    let operations = request.success.iter().chain(&request.failure).filter_map(|operation| operation.request.as_ref());
    operations.into_iter().any(|operation| match operation {
        Request::RequestPut(_) => true,
        Request::RequestTxn(nested) => puts_something(nested),
        Request::RequestRange(_) | Request::RequestDeleteRange(_) => false,
    })
}

/// Makes open-ended deletes single. etcd 3.7.1 does not see that they overlap with the transaction's puts, and a put of a
/// key that the same transaction deleted kills it in two ways: when the put keeps the value or lease, it dies of "index out
/// of range" at once and at every start, since the entry stays in its log; and after a compaction at that very revision the
/// key is gone from the backend but not from the index, so that it dies of "range failed to find revision pair" when read.
fn spare_open_deletes(request: &mut pb::TxnRequest) {
    for operation in operations_mut(request) {
        match operation {
            Request::RequestDeleteRange(delete) if delete.range_end.as_ref() == b"\0" => {
                delete.range_end = Bytes::new()
            }
            Request::RequestTxn(nested) => spare_open_deletes(nested),
            _ => {}
        }
    }
}

fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

/// A length-delimited field around `content`.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 8);
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_requests() {
        let stream = |seed| {
            let mut generator = Generator::new(seed);
            (0..2000).map(move |_| generator.step()).collect::<Vec<_>>()
        };
        assert!(stream(5) == stream(5));
        assert!(stream(5) != stream(6));
    }

    #[test]
    fn a_short_lease_is_revoked_at_once() {
        let mut generator = Generator::new(1);
        let mut short = None;
        for _ in 0..20_000 {
            let step = generator.step();
            if let Some(id) = short.take() {
                assert_eq!(step, Step::Call(Call::LeaseRevoke(pb::LeaseRevokeRequest { id })));
            }
            if let Step::Call(Call::LeaseGrant(grant)) = step
                && grant.ttl < 10_000
            {
                short = Some(grant.id);
            }
        }
    }
}
