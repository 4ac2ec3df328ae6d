//! Readers beside a writer: what they see is one revision, whatever happens meanwhile.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use kvorum_api::etcdserverpb::compare::{CompareTarget, TargetUnion};
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::*;
use kvorum_store::{
    CompactionStep, EventKind, Previous, Progress, RangeCursor, ReadError, Reader, Reply, TxnStep, is_read_only,
};
use prost::Message;
use support::{Commits, Harness, config};

const KEYS: usize = 250;

fn put(key: String, value: &str) -> InternalRaftRequest {
    let put = PutRequest { key: key.into_bytes().into(), value: value.to_owned().into(), ..PutRequest::default() };
    InternalRaftRequest { put: Some(put), ..Default::default() }
}

fn put_op(key: String, value: String) -> RequestOp {
    let put = PutRequest { key: key.into_bytes().into(), value: value.into(), ..PutRequest::default() };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

fn compact(revision: i64) -> InternalRaftRequest {
    let compaction = Some(CompactionRequest { revision, physical: false });
    InternalRaftRequest { compaction, ..Default::default() }
}

fn all() -> RangeRequest {
    RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() }
}

fn values(kvs: &[u8]) -> Vec<String> {
    let response = RangeResponse::decode(kvs).expect("our encoding");
    response.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect()
}

/// A store of 250 keys with a cursor that has seen the first 100, after which all of them were overwritten and the
/// compaction was asked for.
fn interrupted(budget: u64) -> (Harness, RangeCursor) {
    let mut store = Harness::new(config(budget), Commits::Eager);
    for number in 0..KEYS {
        store.apply(put(format!("k{number:03}"), "old")).expect("applied");
    }
    let mut cursor = store.reader.range(&all()).expect("the current revision");
    if cursor.advance(1).expect("nothing compacted") == Progress::NeedsBackend {
        assert_eq!(budget, 0);
    }
    for number in 0..KEYS {
        store.apply(put(format!("k{number:03}"), "new")).expect("applied");
    }
    store.apply(compact(store.reader.revision())).expect("applied");
    (store, cursor)
}

fn to_the_end(cursor: &mut RangeCursor) -> Result<(), ReadError> {
    while cursor.advance(1000)? != Progress::Done {
        cursor.advance_with_backend()?;
    }
    Ok(())
}

#[test]
fn a_compaction_waits_for_a_range_under_way() {
    for budget in [0, u64::MAX] {
        let (mut store, mut cursor) = interrupted(budget);
        for _ in 0..100 {
            store.writer.compaction_step(1000).expect("memory");
        }
        assert_eq!(store.writer.compaction_step(1000).expect("memory"), CompactionStep::Blocked);
        store.commit();
        to_the_end(&mut cursor).expect("its revision is pinned");
        let reply = cursor.finish();
        assert_eq!(values(&reply.kvs), vec!["old"; KEYS]);
        store.compact_fully(1000);
        store.commit();
        assert_eq!(store.backend.records(kvorum_store::Bucket::Key).len(), KEYS);
    }
}

/// The hash is computed beside the writer: what is written meanwhile is not in it, and no step overtakes it.
#[test]
fn a_hash_taken_away_is_the_hash_of_the_steps() {
    let hash = |taken: bool| {
        let (mut store, cursor) = interrupted(u64::MAX);
        drop(cursor);
        let target = store.reader.compact_revision();
        if taken {
            let mut job = store.writer.take_hash_job().expect("a compaction begins with its hash");
            assert!(store.writer.take_hash_job().is_none());
            while job.step(7).expect("memory") {
                assert_eq!(store.writer.compaction_step(1000).expect("memory"), CompactionStep::Blocked);
                store.apply(put("k001".to_owned(), "newer")).expect("applied");
            }
            store.writer.finish_hash_job(&job);
        }
        store.compact_fully(7);
        store.reader.hash_kv(target).expect("it was compacted to").hash
    };
    assert_eq!(hash(true), hash(false));
}

#[test]
fn a_compaction_gives_up_waiting_in_the_end() {
    let (mut store, mut cursor) = interrupted(u64::MAX);
    store.compact_fully(1000);
    assert!(matches!(cursor.advance(1), Err(ReadError::Compacted)));
    assert!(matches!(cursor.advance_with_backend(), Err(ReadError::Compacted)));
    drop(cursor);
    let mut cursor = store.reader.range(&all()).expect("the current revision");
    to_the_end(&mut cursor).expect("a new range is not concerned");
    assert_eq!(values(&cursor.finish().kvs), vec!["new"; KEYS]);
}

/// A slice ends on bytes, not only after so many keys: whether its values lie in the index or in the overlay, are
/// older ones, or wait to be sorted.
#[test]
fn a_slice_of_large_values_stays_small() {
    const VALUE_BYTES: usize = 50_000;
    const SLICE_BYTES: usize = 10_000;
    // What one hold of the lock may copy, and a value that begins below it.
    const PIECE_BYTES_MAX: usize = 64 * 1024 + VALUE_BYTES + 100;
    for (budget, old, sorted) in
        [(u64::MAX, false, false), (0, false, false), (u64::MAX, true, false), (0, false, true)]
    {
        let mut store = Harness::new(config(budget), Commits::Manual);
        for number in 0..40 {
            store.apply(put(format!("k{number:03}"), &"v".repeat(VALUE_BYTES))).expect("applied");
        }
        let mut request = all();
        if sorted {
            request.sort_order = range_request::SortOrder::Descend.into();
        }
        let mut cursor = store.reader.range(&request).expect("the current revision");
        if old {
            for number in 0..40 {
                store.apply(put(format!("k{number:03}"), "new")).expect("applied");
            }
        }
        let (mut whole, mut slices) = (Vec::new(), 0);
        loop {
            let progress = cursor.advance(SLICE_BYTES).expect("nothing compacted");
            let piece = cursor.take_encoded();
            assert!(piece.len() <= PIECE_BYTES_MAX, "{} bytes in one slice", piece.len());
            whole.extend(piece);
            slices += 1;
            if progress == Progress::Done {
                break;
            }
            assert_eq!(progress, Progress::More);
        }
        assert!(slices >= 20);
        let reply = cursor.finish();
        whole.extend(reply.kvs);
        assert_eq!(reply.count, 40);
        assert_eq!(values(&whole), vec!["v".repeat(VALUE_BYTES); 40]);
    }
}

fn txn_of_all(value: usize) -> InternalRaftRequest {
    let success = (0..KEYS).map(|number| put_op(format!("k{number:03}"), format!("{value}"))).collect();
    InternalRaftRequest { txn: Some(TxnRequest { success, ..TxnRequest::default() }), ..Default::default() }
}

fn delete_all() -> InternalRaftRequest {
    let delete = DeleteRangeRequest { key: vec![0].into(), range_end: vec![0].into(), prev_kv: false };
    InternalRaftRequest { delete_range: Some(delete), ..Default::default() }
}

fn check_whole(kvs: &[u8], count: i64) {
    let values = values(kvs);
    assert_eq!(values.len() as i64, count);
    assert!(values.is_empty() || values.len() == KEYS, "{} keys", values.len());
    assert!(values.iter().all(|value| *value == values[0]), "half of a transaction was seen");
}

fn read_until(stop: &AtomicBool, reader: &Reader) -> usize {
    let range = RequestOp { request: Some(Request::RequestRange(all())) };
    let compare = Compare {
        target: CompareTarget::Version as i32,
        result: compare::CompareResult::NotEqual as i32,
        key: b"k000".to_vec().into(),
        target_union: Some(TargetUnion::Version(-1)),
        ..Compare::default()
    };
    let txn = TxnRequest { compare: vec![compare], success: vec![range], failure: Vec::new() };
    assert!(is_read_only(&txn));
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut cursor = reader.range(&all()).expect("the current revision");
        to_the_end(&mut cursor).expect("its revision is pinned");
        let reply = cursor.finish();
        check_whole(&reply.kvs, reply.count);
        let reply = match reader.read_only_txn(&txn).expect("the current revision") {
            TxnStep::Done(reply) => reply,
            TxnStep::NeedsBackend(job) => job.run().expect("its revision is pinned"),
        };
        assert!(reply.succeeded);
        let Reply::Range(range) = &reply.responses[0].reply else { panic!("a range was asked for") };
        check_whole(&range.kvs, range.count);
        reads += 1;
    }
    reads
}

#[test]
fn no_reader_sees_half_a_transaction() {
    for budget in [0, 2000, u64::MAX] {
        let mut store = Harness::new(config(budget), Commits::Lagging);
        let stop = AtomicBool::new(false);
        let reads: usize = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let (reader, stop) = (store.reader.clone(), &stop);
                    scope.spawn(move || read_until(stop, &reader))
                })
                .collect();
            for round in 0..60 {
                store.apply(txn_of_all(round)).expect("applied");
                if round % 7 == 3 {
                    store.apply(delete_all()).expect("applied");
                }
                if round % 5 == 4 {
                    store.apply(compact(store.reader.revision() - 2)).expect("applied");
                }
                store.writer.compaction_step(100).expect("memory");
            }
            stop.store(true, Ordering::Relaxed);
            readers.into_iter().map(|reader| reader.join().expect("it found no fault")).sum()
        });
        assert!(reads > 0);
    }
}

#[test]
fn events_tell_what_was_there_before() {
    for budget in [0, u64::MAX] {
        let mut store = Harness::new(config(budget), Commits::Eager);
        store.apply(put("a".to_owned(), "1")).expect("applied");
        store.apply(put("a".to_owned(), "2")).expect("applied");
        store.apply(delete_all()).expect("applied");
        store.apply(put("a".to_owned(), "3")).expect("applied");
        let events: Vec<_> = store.effects.events.iter().flat_map(|batch| &batch.events).collect();
        let told: Vec<_> = events
            .iter()
            .map(|event| {
                let previous = match &event.previous {
                    Previous::None => None,
                    Previous::Known(kv) => Some(kv.clone()),
                    Previous::Stored(revision) => store.reader.fetch(*revision).expect("memory"),
                };
                let version =
                    previous.map_or(0, |kv| kvorum_api::mvccpb::KeyValue::decode(&*kv).expect("ours").version);
                (event.kind, event.created, event.revision.main, version, event.key().to_vec())
            })
            .collect();
        let key = || b"a".to_vec();
        let expected = [
            (EventKind::Put, true, 2, 0),
            (EventKind::Put, false, 3, 1),
            (EventKind::Delete, false, 4, 2),
            (EventKind::Put, true, 5, 0),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(kind, created, revision, version)| (kind, created, revision, version, key()))
            .collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn a_long_history_is_searched_not_walked_through_the_backend() {
    let mut store = Harness::new(config(u64::MAX), Commits::Manual);
    for _ in 0..20_000 {
        store.apply(put("a".to_owned(), "x")).expect("applied");
    }
    store.commit();
    let mut cursor =
        store.reader.range(&RangeRequest { key: b"a".to_vec().into(), ..Default::default() }).expect("now");
    assert_eq!(cursor.advance(1).expect("now"), Progress::Done);
    assert_eq!(cursor.finish().count, 1);
    let mut old = store
        .reader
        .range(&RangeRequest { key: b"a".to_vec().into(), revision: 777, ..Default::default() })
        .expect("not compacted");
    assert_eq!(old.advance(1).expect("not compacted"), Progress::NeedsBackend);
    old.advance_with_backend().expect("memory");
    let response = RangeResponse::decode(old.finish().kvs.as_slice()).expect("ours");
    assert_eq!(response.kvs[0].version, 776);
}
