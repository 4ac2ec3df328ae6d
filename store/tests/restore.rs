//! A member that was left behind takes over another's state while its readers look on.

mod support;

use std::sync::Arc;

use kvorum_api::etcdserverpb::*;
use kvorum_store::memory::MemoryBackend;
use kvorum_store::{
    BackendError, CompactionStep, Effects, HistoryError, OpenError, Position, Progress, ReadError, Reader, Writer, open,
};
use prost::Message;
use support::config;

/// One member, without a log: entries come from the test.
struct Member {
    backend: Arc<MemoryBackend>,
    writer: Writer,
    reader: Reader,
}

impl Member {
    fn new(budget: u64) -> Self {
        let backend = Arc::new(MemoryBackend::new());
        let (writer, reader, _) = open(config(budget), backend.clone()).expect("an empty backend");
        Self { backend, writer, reader }
    }

    fn apply(&mut self, index: u64, request: &InternalRaftRequest) {
        let position = Position { index, term: 1 };
        let mut effects = Effects::default();
        self.writer.apply(position, request, &mut effects).expect("it can be applied").expect("it succeeds");
    }

    fn commit(&mut self) {
        if let Some(batch) = self.writer.take_commit() {
            kvorum_store::Backend::commit(&*self.backend, &batch).expect("memory does not fail");
            self.reader.committed(batch.sequence);
        }
    }

    fn compact_fully(&mut self) {
        while self.writer.compaction_step(10).expect("memory does not fail") != CompactionStep::Finished {}
    }

    fn restore(&mut self, received: &MemoryBackend) -> kvorum_store::Restored {
        let backend = self.backend.clone();
        let restored = self.writer.restore(received, || {
            backend.replace(received);
            Ok(())
        });
        restored.expect("the leader's records")
    }

    fn values(&self, revision: i64) -> Result<Vec<String>, ReadError> {
        let mut cursor = self.reader.range(&RangeRequest { revision, ..all() })?;
        loop {
            match cursor.advance(64)? {
                Progress::More => {}
                Progress::Done => break,
                Progress::NeedsBackend => cursor.advance_with_backend()?,
            }
        }
        let response = RangeResponse::decode(&cursor.finish().kvs[..]).expect("our encoding");
        Ok(response.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect())
    }
}

fn all() -> RangeRequest {
    RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() }
}

fn put(key: u64, value: &str, lease: i64) -> InternalRaftRequest {
    let put =
        PutRequest { key: format!("k{key:03}").into(), value: value.to_owned().into(), lease, ..Default::default() };
    InternalRaftRequest { put: Some(put), ..Default::default() }
}

/// Entries of a history of 300 keys, one lease, and 300 further puts.
fn entry(index: u64) -> InternalRaftRequest {
    match index {
        1 => {
            let grant = LeaseGrantRequest { id: 7, ttl: 100 };
            InternalRaftRequest { lease_grant: Some(grant), ..Default::default() }
        }
        2..=301 => put(index - 2, "old", if index.is_multiple_of(2) { 7 } else { 0 }),
        _ => put(index % 300, "new", 0),
    }
}

fn compact(revision: i64) -> InternalRaftRequest {
    let compaction = Some(CompactionRequest { revision, physical: false });
    InternalRaftRequest { compaction, ..Default::default() }
}

/// A leader that applied everything and compacted to `compact_revision`, and a follower that applied the first half.
fn two(budget: u64, compact_revision: i64) -> (Member, Member, u64) {
    let (mut leader, mut follower) = (Member::new(budget), Member::new(budget));
    for index in 1..=450 {
        leader.apply(index, &entry(index));
        if index <= 301 {
            follower.apply(index, &entry(index));
        }
        if index == 200 {
            follower.commit();
        }
    }
    leader.apply(451, &compact(compact_revision));
    leader.compact_fully();
    leader.commit();
    (leader, follower, 451)
}

#[test]
fn the_follower_is_afterwards_as_the_leader() {
    for budget in [0, 1 << 20] {
        let (mut leader, mut follower, last) = two(budget, 320);
        // Taken and never made durable: the received state has it all.
        drop(follower.writer.take_commit());
        let restored = follower.restore(&leader.backend.snapshot());
        assert_eq!((restored.consistent_index, restored.consistent_term), (last, 1));
        assert_eq!(restored.leases.len(), 1);
        assert!(!restored.compaction_pending);
        for index in last + 1..last + 40 {
            leader.apply(index, &entry(index));
            follower.apply(index, &entry(index));
        }
        leader.commit();
        follower.commit();
        assert_eq!(follower.reader.revision(), leader.reader.revision());
        assert_eq!(follower.reader.compact_revision(), 320);
        assert_eq!(follower.reader.applied_index(), leader.reader.applied_index());
        assert_eq!(follower.reader.lease_keys(7), leader.reader.lease_keys(7));
        assert_eq!(follower.reader.statistics(), leader.reader.statistics());
        assert_eq!(follower.values(0).expect("now"), leader.values(0).expect("now"));
        assert_eq!(follower.reader.hash_kv(0).expect("all"), leader.reader.hash_kv(0).expect("all"));
        assert_eq!(follower.reader.hash().expect("all"), leader.reader.hash().expect("all"));
    }
}

#[test]
fn a_read_under_way_gives_the_answer_of_its_revision_or_says_compacted() {
    for budget in [0, 1 << 20] {
        for (compact_revision, survives) in [(200, true), (320, false)] {
            let (leader, mut follower, _) = two(budget, compact_revision);
            let expected = follower.values(0).expect("now");
            let mut cursor = follower.reader.range(&all()).expect("the current revision");
            let begun = cursor.advance(1).expect("nothing compacted");
            assert_ne!(begun, Progress::Done);
            follower.restore(&leader.backend);
            let mut end = || -> Result<(), ReadError> {
                loop {
                    match cursor.advance(64)? {
                        Progress::More => {}
                        Progress::Done => return Ok(()),
                        Progress::NeedsBackend => cursor.advance_with_backend()?,
                    }
                }
            };
            let ended = end();
            if survives {
                ended.expect("its revision is still there");
                let response = RangeResponse::decode(&cursor.finish().kvs[..]).expect("our encoding");
                let values: Vec<_> =
                    response.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect();
                assert_eq!(values, expected);
            } else {
                assert!(matches!(ended, Err(ReadError::Compacted)), "{ended:?}");
            }
        }
    }
}

#[test]
fn a_watcher_goes_on_from_where_it_was() {
    let (leader, mut follower, _) = two(0, 320);
    let told = follower.reader.revision();
    follower.restore(&leader.backend);
    assert!(matches!(follower.reader.history(told + 1, 1_000), Err(HistoryError::Compacted(320))));
    let history = follower.reader.history(320, 1_000).expect("still there");
    assert_eq!(history.batches.first().map(|batch| batch.revision), Some(320));
    assert_eq!(history.next, leader.reader.revision() + 1);
}

#[test]
fn a_compaction_under_way_is_given_up_and_a_received_one_goes_on() {
    let (mut leader, mut follower, last) = two(0, 320);
    follower.apply(302, &compact(100));
    let mut job = follower.writer.take_hash_job().expect("a compaction begins with its hash");
    leader.apply(last + 1, &compact(400));
    leader.commit();
    let restored = follower.restore(&leader.backend);
    assert!(restored.compaction_pending);
    while job.step(10).expect("memory does not fail") {}
    follower.writer.finish_hash_job(&job);
    follower.compact_fully();
    leader.compact_fully();
    assert_eq!(follower.writer.finished_compaction(), Some(400));
    follower.commit();
    leader.commit();
    assert_eq!(follower.reader.hash().expect("all"), leader.reader.hash().expect("all"));
}

#[test]
fn an_older_state_or_a_failed_switch_changes_nothing() {
    let (mut leader, follower, last) = two(1 << 20, 320);
    let mut older = follower;
    older.commit();
    let error = leader.writer.restore(&*older.backend, || panic!("not called")).expect_err("older");
    assert!(matches!(error, OpenError::Behind { received: 301, applied: 451 }), "{error}");
    let failed = || Err(BackendError("full".to_owned()));
    assert!(older.writer.restore(&*leader.backend, failed).is_err());
    assert_eq!(older.reader.applied_index(), 301);
    assert_eq!(older.values(0).expect("now").len(), 300);
    leader.apply(last + 1, &entry(last + 1));
}

/// What `snapshot restore --bump-revision --mark-compacted` leaves: a revision without content that is compacted to.
#[test]
fn revisions_go_on_behind_a_bumped_one() {
    use kvorum_store::{Backend, Bucket, CommitBatch, Operation, Revision, keyspace::meta};
    for budget in [0, 1 << 20] {
        let mut member = Member::new(budget);
        for (index, key) in (1..).zip([1, 2, 1]) {
            member.apply(index, &put(key, "v", 0));
        }
        member.commit();
        let scheduled = (Bucket::Meta, meta::SCHEDULED_COMPACTION.into(), meta::compaction(1_004));
        let bump = vec![
            Operation::AppendRevision { revision: Revision::new(1_004, 0), tombstone: false, value: Vec::new().into() },
            Operation::Put { bucket: scheduled.0, key: scheduled.1, value: scheduled.2 },
        ];
        member.backend.commit(&CommitBatch { sequence: 9, operations: bump }).expect("memory does not fail");
        let (writer, reader, restored) = open(config(budget), member.backend.clone()).expect("it can be read");
        assert!(restored.compaction_pending);
        let mut member = Member { backend: member.backend, writer, reader };
        member.compact_fully();
        member.apply(4, &put(3, "v", 0));
        member.commit();
        assert_eq!((member.reader.revision(), member.reader.compact_revision()), (1_005, 1_004));
        assert_eq!(member.values(0).expect("current").len(), 3);
        assert!(matches!(member.reader.history(1_003, 10), Err(HistoryError::Compacted(1_004))));
        let history = member.reader.history(1_004, 10).expect("it is there");
        assert_eq!(history.batches.iter().map(|batch| batch.revision).collect::<Vec<_>>(), [1_005]);
        // Its record counts in hashes, as in etcd, and no compaction removes it.
        let hash = member.reader.hash_kv(0).expect("a hash");
        member.apply(5, &compact(1_005));
        member.compact_fully();
        member.commit();
        let mut kept = Vec::new();
        let mut read = |key: &[u8]| kept.push(Revision::from_key(key).expect("a revision").0.main);
        let scan = member.backend.read(&mut |transaction| {
            transaction.scan(Bucket::Key, &[], None, &mut |key, _| {
                read(key);
                std::ops::ControlFlow::Continue(())
            })
        });
        scan.expect("memory does not fail");
        assert_eq!(kept, [3, 4, 1_004, 1_005]);
        assert_ne!(hash.hash, 0);
    }
}
