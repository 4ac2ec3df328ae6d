//! What cannot be applied stops the member, and says where.

mod support;

use kvorum_api::etcdserverpb::*;
use kvorum_api::membershippb::{ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use kvorum_store::memory::MemoryBackend;
use kvorum_store::{AUTH_NAME_BYTES_MAX, Backend, Bucket, Effects, OpenError, Operation, Position, Writer, open};
use std::sync::Arc;
use support::{Commits, Harness, config};

fn writer() -> Writer {
    open(config(0), Arc::new(MemoryBackend::new())).expect("an empty backend").0
}

fn failure(request: InternalRaftRequest) -> (u64, &'static str) {
    let position = Position { index: 5, term: 1 };
    let failure = writer().apply(position, &request, &mut Effects::default()).expect_err("it cannot be applied");
    (failure.index, failure.field)
}

#[test]
fn an_entry_that_cannot_be_applied_names_index_and_field() {
    assert_eq!(failure(InternalRaftRequest::default()), (5, "(none)"));
    // Longer than any key that the backend takes.
    let user = AuthUserAddRequest { name: "u".repeat(AUTH_NAME_BYTES_MAX + 1), ..Default::default() };
    let user = InternalRaftRequest { auth_user_add: Some(user), ..Default::default() };
    assert_eq!(failure(user), (5, "auth_user_add"));
    let version = Some(ClusterVersionSetRequest { ver: "3.x".to_owned() });
    let version = InternalRaftRequest { cluster_version_set: version, ..Default::default() };
    assert_eq!(failure(version), (5, "cluster_version_set"));
    let attributes = Some(ClusterMemberAttrSetRequest { member_id: 9, member_attributes: None });
    let attributes = InternalRaftRequest { cluster_member_attr_set: attributes, ..Default::default() };
    assert_eq!(failure(attributes), (5, "cluster_member_attr_set"));
}

#[test]
fn the_test_request_of_etcds_own_tests_does_nothing() {
    let test = Some(DowngradeVersionTestRequest { ver: "1".to_owned() });
    let request = InternalRaftRequest { downgrade_version_test: test, ..Default::default() };
    let mut writer = writer();
    let applied = writer.apply(Position { index: 1, term: 1 }, &request, &mut Effects::default());
    assert!(applied.expect("applied").is_ok());
    assert_eq!(writer.reader().applied_index(), 1);
}

#[test]
#[should_panic(expected = "entry 3 was applied after entry 3")]
fn an_entry_is_applied_once() {
    let mut writer = writer();
    writer.apply_empty(Position { index: 3, term: 1 });
    writer.apply_empty(Position { index: 3, term: 1 });
}

#[test]
fn a_commit_carries_the_position_it_leads_up_to() {
    let backend = Arc::new(MemoryBackend::new());
    let (mut writer, _, restored) = open(config(0), backend.clone()).expect("an empty backend");
    assert_eq!((restored.consistent_index, restored.conf_state), (0, None));
    // A new store has its auth revision, as etcd's.
    let batch = writer.take_commit().expect("the auth revision");
    assert_eq!(batch.operations.len(), 1);
    backend.commit(&batch).expect("memory");
    assert!(writer.take_commit().is_none());
    writer.apply_empty(Position { index: 7, term: 2 });
    let batch = writer.take_commit().expect("the position moved");
    assert_eq!(batch.operations.len(), 2);
    backend.commit(&batch).expect("memory");
    let change = kvorum_store::MemberChange::Add {
        id: 1,
        name: "m".to_owned(),
        peer_urls: vec!["http://a".to_owned()],
        learner: false,
    };
    let position = Position { index: 8, term: 2 };
    writer.apply_member_change(position, change, b"{}".to_vec()).expect("a new member");
    backend.commit(&writer.take_commit().expect("a member")).expect("memory");
    let (mut writer, reader, restored) = open(config(0), backend).expect("own records");
    assert_eq!((restored.consistent_index, restored.consistent_term), (8, 2));
    assert_eq!(restored.conf_state.as_deref(), Some(&b"{}"[..]));
    assert_eq!(reader.members().members[&1].name, "m");
    assert_eq!(reader.applied_index(), 8);
    assert!(writer.take_commit().is_none());
}

#[test]
fn damaged_records_are_named() {
    let cases: [(Bucket, &[u8], &[u8]); 5] = [
        (Bucket::Key, b"short", b""),
        (Bucket::Key, b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0", b"\x0a\x05x"),
        (Bucket::Meta, b"consistent_index", b"1"),
        (Bucket::Members, b"10", b"{"),
        (Bucket::Lease, b"\0\0\0\0\0\0\0\x01", b"\xff"),
    ];
    for (bucket, key, value) in cases {
        let backend = MemoryBackend::new();
        backend.put(bucket, key, value);
        match open(config(0), Arc::new(backend)).err() {
            Some(OpenError::Malformed { bucket: named, .. }) => assert_eq!(named, bucket.name()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_a_later_version_stored_is_kept() {
    let backend = MemoryBackend::new();
    backend.put(Bucket::Meta, b"new", b"x");
    backend.put(Bucket::Cluster, b"new", b"x");
    assert!(open(config(0), Arc::new(backend)).is_ok());
}

#[test]
fn a_key_of_a_lost_lease_is_attached_to_nothing() {
    let mut store = Harness::new(config(u64::MAX), Commits::Eager);
    let grant = Some(LeaseGrantRequest { id: 3, ttl: 9 });
    store.apply(InternalRaftRequest { lease_grant: grant, ..Default::default() }).expect("granted");
    let put = Some(PutRequest { key: b"a".to_vec().into(), lease: 3, ..PutRequest::default() });
    store.apply(InternalRaftRequest { put, ..Default::default() }).expect("put");
    let key = 3i64.to_be_bytes().into();
    let operations = vec![kvorum_store::Operation::Delete { bucket: Bucket::Lease, key }];
    store.backend.commit(&kvorum_store::CommitBatch { sequence: 99, operations }).expect("memory");
    store.restart();
    assert!(store.reader.lease_ids().is_empty());
    // etcd panics here: the lease is written again but there is nothing to attach to.
    let put = Some(PutRequest { key: b"a".to_vec().into(), ignore_lease: true, ..PutRequest::default() });
    store.apply(InternalRaftRequest { put, ..Default::default() }).expect("put");
    assert_eq!(store.reader.revision(), 3);
}

#[test]
fn a_password_that_an_old_entry_holds_in_the_clear_is_hashed_the_same_everywhere() {
    let add = AuthUserAddRequest { name: "old".to_owned(), password: "secret".to_owned(), ..Default::default() };
    let entry = InternalRaftRequest { auth_user_add: Some(add), ..Default::default() };
    let mut writer = writer();
    let applied = writer.apply(Position { index: 3, term: 1 }, &entry, &mut Effects::default());
    assert!(applied.expect("applied").is_ok());
    let batch = writer.take_commit().expect("a user");
    let user = batch.operations.iter().find_map(|operation| match operation {
        Operation::Put { bucket: Bucket::AuthUsers, value, .. } => Some(value),
        _ => None,
    });
    let user = kvorum_store::keyspace::auth::parse_user(user.expect("it is stored")).expect("a user");
    assert_eq!(&user.password[..], b"$2a$10$..........K..........OvyOWKlAGRDrD74Pa44mIm1L0brqKfk2");
}
