//! A member takes over what another one wrote to a file: file, environment and store together.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use kvorum_api::etcdserverpb::{InternalRaftRequest, LeaseGrantRequest, PutRequest, RangeRequest};
use kvorum_disk::bolt::BoltFile;
use kvorum_disk::{LmdbBackend, LmdbOptions, RealFileSystem};
use kvorum_store::{Backend, Effects, Position, Progress, Reader, StoreConfig, Writer, open};

struct Member {
    backend: Arc<LmdbBackend>,
    writer: Writer,
    reader: Reader,
}

impl Member {
    fn open(folder: &Path) -> Self {
        let config = StoreConfig {
            member_id: 1,
            value_budget_bytes: 0,
            quota_bytes: None,
            learners_max: 1,
            lease_ttl_seconds_min: 2,
            lease_checkpoint_persist: false,
        };
        let backend = Arc::new(LmdbBackend::open(&folder.join("backend"), LmdbOptions::default()).unwrap());
        let (writer, reader, _) = open(config, backend.clone()).unwrap();
        Self { backend, writer, reader }
    }

    fn apply(&mut self, index: u64) {
        let request = match index {
            1 => {
                let grant = LeaseGrantRequest { id: 9, ttl: 50 };
                InternalRaftRequest { lease_grant: Some(grant), ..Default::default() }
            }
            _ => {
                let lease = if index.is_multiple_of(3) { 9 } else { 0 };
                let key = format!("key-{:03}", index % 400).into();
                let put = PutRequest { key, value: format!("{index}").into(), lease, ..Default::default() };
                InternalRaftRequest { put: Some(put), ..Default::default() }
            }
        };
        let mut effects = Effects::default();
        self.writer.apply(Position { index, term: 1 }, &request, &mut effects).unwrap().unwrap();
    }

    fn commit(&mut self) {
        if let Some(batch) = self.writer.take_commit() {
            self.backend.commit(&batch).unwrap();
            self.reader.committed(batch.sequence);
        }
    }

    fn everything(&self) -> Vec<u8> {
        let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() };
        let mut cursor = self.reader.range(&all).unwrap();
        loop {
            match cursor.advance(1_000).unwrap() {
                Progress::More => {}
                Progress::Done => return cursor.finish().kvs.to_vec(),
                Progress::NeedsBackend => cursor.advance_with_backend().unwrap(),
            }
        }
    }
}

#[test]
fn what_a_leader_wrote_is_what_a_follower_has() {
    let folder = tempfile::tempdir().unwrap();
    let (mut leader, mut follower) =
        (Member::open(&folder.path().join("leader")), Member::open(&folder.path().join("follower")));
    for index in 1..=900 {
        leader.apply(index);
        if index <= 300 {
            follower.apply(index);
        }
    }
    follower.commit();
    follower.apply(301);
    leader.commit();
    let file = folder.path().join("sent.db");
    let exported = leader.backend.generation().write_bolt(&file, true).unwrap();
    assert_eq!((exported.consistent_index, exported.term), (900, 1));

    let prepared = follower.backend.prepare(&BoltFile::open(&RealFileSystem, &file).unwrap()).unwrap();
    let (backend, received) = (follower.backend.clone(), prepared.received());
    let mut retired = None;
    let restored = follower.writer.restore(&*received, || {
        retired = Some(backend.switch(prepared)?);
        Ok(())
    });
    assert_eq!(restored.unwrap().leases.len(), 1);
    drop(retired.unwrap().remove().unwrap());
    for index in 901..=950 {
        leader.apply(index);
        follower.apply(index);
    }
    leader.commit();
    follower.commit();
    assert!(follower.everything() == leader.everything(), "the same keys");
    assert_eq!(follower.reader.hash().unwrap(), leader.reader.hash().unwrap());
    assert_eq!(follower.reader.lease_keys(9), leader.reader.lease_keys(9));
    drop(received);
    let before = follower.everything();
    drop(follower);
    let again = Member::open(&folder.path().join("follower"));
    assert!(again.everything() == before, "and after a restart");
    assert_eq!(again.reader.applied_index(), 950);
}
