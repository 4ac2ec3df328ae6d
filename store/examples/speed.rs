//! How long the store's basic steps take, on a backend in memory: `cargo run --release -p kvorum-store --example speed`.
//! For a look by hand; nothing depends on it. Times are those on the processor, where the system tells them (Linux).

use std::sync::Arc;
use std::time::Duration;

use kvorum_api::etcdserverpb::compare::{CompareTarget, TargetUnion};
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::*;
use kvorum_store::memory::MemoryBackend;
use kvorum_store::{Backend, CompactionStep, Effects, Header, Position, Progress, Reader, StoreConfig, Writer, open};

const KEYS: usize = 1_000_000;
const COMMIT_OPERATIONS: usize = 10_000;

/// A moment in this process's time on the processor.
struct Moment(Duration);

impl Moment {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
        let nanoseconds = text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
        Self(Duration::from_nanos(nanoseconds))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0 - self.0
    }
}

struct Store {
    backend: Arc<MemoryBackend>,
    writer: Writer,
    reader: Reader,
    effects: Effects,
    index: u64,
}

fn start(backend: Arc<MemoryBackend>, value_budget_bytes: u64) -> Store {
    let config = StoreConfig {
        member_id: 1,
        value_budget_bytes,
        quota_bytes: None,
        lease_ttl_seconds_min: 2,
        lease_checkpoint_persist: false,
        learners_max: kvorum_store::member::DEFAULT_LEARNERS_MAX,
    };
    let (writer, reader, restored) = open(config, backend.clone()).expect("own records");
    Store { backend, writer, reader, effects: Effects::default(), index: restored.consistent_index }
}

impl Store {
    /// Applies and commits; returns the time of the applies alone.
    fn run(&mut self, requests: &[InternalRaftRequest]) -> Duration {
        let mut total = Duration::ZERO;
        for chunk in requests.chunks(COMMIT_OPERATIONS) {
            let begin = Moment::now();
            for request in chunk {
                self.index += 1;
                let position = Position { index: self.index, term: 1 };
                self.writer.apply(position, request, &mut self.effects).expect("applicable").expect("valid");
                self.effects.events.clear();
            }
            total += begin.elapsed();
            let batch = self.writer.take_commit().expect("there are changes");
            self.backend.commit(&batch).expect("memory");
            self.reader.committed(batch.sequence);
        }
        total
    }

    fn range(&self, request: &RangeRequest, out: &mut Vec<u8>) {
        let mut cursor = self.reader.range(request).expect("current");
        while cursor.advance(64 << 10).expect("current") != Progress::Done {}
        out.clear();
        let reply = kvorum_store::Reply::Range(cursor.finish());
        reply.encode(&Header { cluster_id: 1 << 60, member_id: 1 << 60, revision: 1, raft_term: 2 }, out);
    }
}

fn key(number: usize) -> prost::bytes::Bytes {
    format!("/registry/things/{number:010}").into_bytes().into()
}

fn put(number: usize) -> PutRequest {
    PutRequest { key: key(number), value: vec![b'v'; 256].into(), ..PutRequest::default() }
}

fn report(name: &str, total: Duration, count: usize) {
    println!("{name:45} {:>10.0} ns", total.as_nanos() as f64 / count as f64);
}

/// The same basic steps where everything fits into the processor's caches.
fn small() {
    let mut store = start(Arc::new(MemoryBackend::new()), u64::MAX);
    let wrap = |put| InternalRaftRequest { put: Some(put), ..Default::default() };
    let puts: Vec<_> = (0..100_000).map(|step| wrap(put(step * 7_919 % 10_000))).collect();
    store.run(&puts);
    report("put of an existing key (10k keys)", store.run(&puts), puts.len());
    let mut out = Vec::new();
    let requests: Vec<_> =
        (0..10_000).map(|number| RangeRequest { key: key(number * 7_919 % 10_000), ..Default::default() }).collect();
    let begin = Moment::now();
    for _ in 0..100 {
        requests.iter().for_each(|request| store.range(request, &mut out));
    }
    report("range of one key, encoded (10k keys)", begin.elapsed(), KEYS);
    let request = RangeRequest { key: key(1000), range_end: key(2000), ..Default::default() };
    let begin = Moment::now();
    for _ in 0..1000 {
        store.range(&request, &mut out);
    }
    report("range of 1000 keys, encoded (10k keys)", begin.elapsed(), 1000);
}

fn main() {
    small();
    let mut store = start(Arc::new(MemoryBackend::new()), u64::MAX);
    // A step coprime to the number of keys visits each once, in no simple order.
    let numbers: Vec<usize> = (0..KEYS).map(|step| step * 7_919 % KEYS).collect();
    let wrap = |put| InternalRaftRequest { put: Some(put), ..Default::default() };
    let puts: Vec<_> = numbers.iter().map(|&number| wrap(put(number))).collect();
    report("put of a new key (1M keys)", store.run(&puts), KEYS);
    report("put of an existing key", store.run(&puts[..300_000]), 300_000);

    let txns: Vec<_> = numbers[300_000..500_000]
        .iter()
        .map(|&number| {
            let compare = Compare {
                target: CompareTarget::Mod as i32,
                result: compare::CompareResult::Greater as i32,
                key: key(number),
                target_union: Some(TargetUnion::ModRevision(0)),
                ..Compare::default()
            };
            let success = vec![RequestOp { request: Some(Request::RequestPut(put(number))) }];
            let txn = TxnRequest { compare: vec![compare], success, failure: Vec::new() };
            InternalRaftRequest { txn: Some(txn), ..Default::default() }
        })
        .collect();
    report("txn: compare mod revision, put", store.run(&txns), txns.len());
    report("the same on a key with 100,000 revisions", store.run(&vec![txns[0].clone(); 100_000]), 100_000);

    let mut out = Vec::new();
    let requests: Vec<_> =
        numbers.iter().map(|&number| RangeRequest { key: key(number), ..Default::default() }).collect();
    let begin = Moment::now();
    requests.iter().for_each(|request| store.range(request, &mut out));
    report("range of one key, encoded (1M keys)", begin.elapsed(), KEYS);
    let ranges: Vec<_> = (0..1000)
        .map(|step| RangeRequest { key: key(step * 900), range_end: key(step * 900 + 1000), ..Default::default() })
        .collect();
    let begin = Moment::now();
    ranges.iter().for_each(|request| store.range(request, &mut out));
    report("range of 1000 keys, encoded", begin.elapsed(), ranges.len());
    let count = RangeRequest { key: key(0), range_end: vec![0].into(), count_only: true, ..Default::default() };
    let begin = Moment::now();
    store.range(&count, &mut out);
    report("count of 1M keys", begin.elapsed(), 1);

    let begin = Moment::now();
    store.reader.hash_kv(0).expect("current");
    report("HashKV of 1.6M revisions", begin.elapsed(), 1);

    let backend = store.backend.clone();
    drop(store);
    for budget in [0, u64::MAX] {
        let copy = Arc::new(backend.snapshot());
        let begin = Moment::now();
        let mut store = start(copy, budget);
        report(&format!("open with 1.6M revisions, budget {budget}"), begin.elapsed(), 1);
        let revision = store.reader.revision();
        let compaction = Some(CompactionRequest { revision, physical: false });
        store.run(&[InternalRaftRequest { compaction, ..Default::default() }]);
        let (begin, mut steps) = (Moment::now(), 1);
        while store.writer.compaction_step(1000).expect("memory") != CompactionStep::Finished {
            steps += 1;
        }
        report("a compaction step of 1000", begin.elapsed(), steps);
    }
}
