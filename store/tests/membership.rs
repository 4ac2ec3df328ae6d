//! A cluster's changes of members, and what etcd 3.7.1 had in its buckets after the same session: three members found a
//! cluster, a fourth joins as a learner and is promoted, further ones are refused, one is updated, one removed; then a
//! downgrade begins.

mod support;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::InternalRaftRequest;
use kvorum_api::membershippb::{
    Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest,
};
use kvorum_api::raftpb::{ConfChange, ConfChangeType as Kind};
use kvorum_store::{Bucket, MemberChange, Position};
use support::{Commits, Harness, config};

const A: u64 = 0xef7d_31c5_6216_4e8e;
const B: u64 = 0x67da_20e7_ea92_0434;
const C: u64 = 0xa7a4_b3be_e9a6_16ae;
const D: u64 = 0x22bf_168f_e87c_5152;
const E: u64 = 0xaa1e_7dba_f027_0cfc;

struct Session(Harness);

impl Session {
    fn new() -> Self {
        Self(Harness::new(config(0), Commits::Eager))
    }

    /// A configuration change with the context as etcd writes it.
    fn change(&mut self, kind: Kind, id: u64, context: &str) -> Result<(), EtcdError> {
        let change = ConfChange {
            id: None,
            r#type: Some(kind as i32),
            node_id: Some(id),
            context: (!context.is_empty()).then(|| context.to_owned().into()),
        };
        self.0.change_member(MemberChange::from_conf_change(&change).expect("etcd's own form"))
    }

    fn publish(&mut self, member_id: u64, name: &str, client_url: &str) {
        let member_attributes = Some(Attributes { name: name.to_owned(), client_urls: vec![client_url.to_owned()] });
        let set = ClusterMemberAttrSetRequest { member_id, member_attributes };
        let request = InternalRaftRequest { cluster_member_attr_set: Some(set), ..InternalRaftRequest::default() };
        self.0.apply(request).expect("never refused");
    }

    fn cluster_version(&mut self, version: &str) {
        self.0.apply(cluster_version(version)).expect("never refused");
    }

    fn downgrade(&mut self, enabled: bool, version: &str) {
        let set = DowngradeInfoSetRequest { enabled, ver: version.to_owned() };
        let request = InternalRaftRequest { downgrade_info_set: Some(set), ..InternalRaftRequest::default() };
        self.0.apply(request).expect("never refused");
    }

    fn stored(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for bucket in [Bucket::Members, Bucket::MembersRemoved, Bucket::Cluster] {
            for (key, value) in self.0.backend.records(bucket) {
                let (key, value) =
                    (String::from_utf8_lossy(&key).into_owned(), String::from_utf8_lossy(&value).into_owned());
                lines.push(format!("{} {key} {value}", bucket.name()));
            }
        }
        lines
    }
}

fn cluster_version(version: &str) -> InternalRaftRequest {
    InternalRaftRequest {
        cluster_version_set: Some(ClusterVersionSetRequest { ver: version.to_owned() }),
        ..InternalRaftRequest::default()
    }
}

fn with_urls(id: u64, rest: &str) -> String {
    format!("{{\"id\":{id},\"peerURLs\":{rest}}}")
}

fn founded() -> Session {
    let mut session = Session::new();
    for (id, name, number) in [(B, "b", 2), (C, "c", 3), (A, "a", 1)] {
        let context = with_urls(id, &format!("[\"http://127.0.0.1:2410{number}\"],\"name\":\"{name}\""));
        assert_eq!(session.change(Kind::ConfChangeAddNode, id, &context), Ok(()));
    }
    for (id, name, number) in [(A, "a", 1), (B, "b", 2), (C, "c", 3)] {
        session.publish(id, name, &format!("http://127.0.0.1:2420{number}"));
    }
    session.cluster_version("3.7.0");
    session
}

#[test]
fn the_buckets_are_etcds_byte_for_byte() {
    let mut session = founded();
    let learner = with_urls(D, r#"["http://127.0.0.1:24104"],"isLearner":true"#);
    assert_eq!(session.change(Kind::ConfChangeAddLearnerNode, D, &learner), Ok(()));
    session.publish(D, "d", "http://127.0.0.1:24204");
    assert_eq!(session.change(Kind::ConfChangeAddNode, D, &with_urls(D, r#"null,"isPromote":true"#)), Ok(()));
    let odd = with_urls(
        E,
        r#"["http://127.0.0.1:24105","http://127.0.0.1:24106?a=1\u0026b=\u003c2\u003e"],"isLearner":true"#,
    );
    assert_eq!(session.change(Kind::ConfChangeAddLearnerNode, E, &odd), Ok(()));
    let refused = [
        (
            Kind::ConfChangeAddLearnerNode,
            9,
            r#"["http://127.0.0.1:24107"],"isLearner":true"#,
            EtcdError::TooManyLearners,
        ),
        (Kind::ConfChangeAddNode, 9, r#"["http://127.0.0.1:24101"]"#, EtcdError::PeerURLExist),
        (Kind::ConfChangeAddNode, A, r#"["http://127.0.0.1:24109"]"#, EtcdError::MemberExist),
        (Kind::ConfChangeUpdateNode, C, r#"["http://127.0.0.1:24101"]"#, EtcdError::PeerURLExist),
        (Kind::ConfChangeAddNode, B, r#"null,"isPromote":true"#, EtcdError::MemberNotLearner),
        (Kind::ConfChangeAddNode, 0x1234, r#"null,"isPromote":true"#, EtcdError::MemberNotFound),
    ];
    for (kind, id, rest, error) in refused {
        assert_eq!(session.change(kind, id, &with_urls(id, rest)), Err(error), "{rest}");
    }
    let update = with_urls(B, r#"["http://127.0.0.1:24102","http://localhost:24102"]"#);
    assert_eq!(session.change(Kind::ConfChangeUpdateNode, B, &update), Ok(()));
    assert_eq!(session.change(Kind::ConfChangeRemoveNode, C, ""), Ok(()));
    // Its id stays removed, whatever is asked of it.
    let url = with_urls(C, r#"["http://127.0.0.1:24199"]"#);
    for (kind, context) in
        [(Kind::ConfChangeRemoveNode, ""), (Kind::ConfChangeUpdateNode, &*url), (Kind::ConfChangeAddNode, &*url)]
    {
        assert_eq!(session.change(kind, C, context), Err(EtcdError::MemberNotFound));
    }
    session.publish(C, "late", "http://127.0.0.1:1");
    session.downgrade(true, "3.6.0");
    let expected = [
        r#"members 22bf168fe87c5152 {"id":2503744725177880914,"peerURLs":["http://127.0.0.1:24104"],"name":"d","clientURLs":["http://127.0.0.1:24204"]}"#,
        r#"members 67da20e7ea920434 {"id":7483329911274472500,"peerURLs":["http://127.0.0.1:24102","http://localhost:24102"],"name":"b","clientURLs":["http://127.0.0.1:24202"]}"#,
        r#"members aa1e7dbaf0270cfc {"id":12258373477595548924,"peerURLs":["http://127.0.0.1:24105","http://127.0.0.1:24106?a=1\u0026b=\u003c2\u003e"],"isLearner":true}"#,
        r#"members ef7d31c562164e8e {"id":17257004070977556110,"peerURLs":["http://127.0.0.1:24101"],"name":"a","clientURLs":["http://127.0.0.1:24201"]}"#,
        "members_removed a7a4b3bee9a616ae removed",
        "cluster clusterVersion 3.7.0",
        r#"cluster downgrade {"target-version":"3.6.0","enabled":true}"#,
    ];
    assert_eq!(session.stored(), expected);
    session.0.restart();
    let members = session.0.reader.members();
    assert_eq!((members.members.len(), members.learners(), members.removed.len()), (4, 1, 1));
    session.downgrade(false, "ignored");
    assert!(session.stored().contains(&r#"cluster downgrade {"target-version":"","enabled":false}"#.to_owned()));
}

#[test]
fn an_update_may_take_all_urls_away() {
    let mut session = founded();
    assert_eq!(session.change(Kind::ConfChangeUpdateNode, A, &with_urls(A, "null")), Ok(()));
    let expected = r#"members ef7d31c562164e8e {"id":17257004070977556110,"peerURLs":null,"name":"a","clientURLs":["http://127.0.0.1:24201"]}"#;
    assert!(session.stored().contains(&expected.to_owned()));
}

#[test]
fn a_lower_cluster_version_forces_a_snapshot() {
    let mut session = founded();
    assert!(!session.0.effects.snapshot_forced);
    session.cluster_version("3.7.0");
    assert!(!session.0.effects.snapshot_forced);
    session.cluster_version("3.6.0");
    assert!(session.0.effects.snapshot_forced);
    assert_eq!(session.0.effects.cluster_version.as_deref(), Some("3.6.0"));
    assert!(session.stored().contains(&"cluster clusterVersion 3.6.0".to_owned()));
    let storage = session.0.backend.records(Bucket::Meta).into_iter().find(|(key, _)| &**key == b"storageVersion");
    assert_eq!(storage.map(|(_, value)| value.to_vec()), Some(b"3.6.0".to_vec()));
}

/// etcd panics on these; here the member stops, and nothing is stored.
#[test]
fn what_this_version_cannot_follow_stops_the_member() {
    let unknown = ClusterMemberAttrSetRequest { member_id: 5, member_attributes: Some(Attributes::default()) };
    let unknown = InternalRaftRequest { cluster_member_attr_set: Some(unknown), ..InternalRaftRequest::default() };
    for (request, reason) in [
        (
            cluster_version("3.8.0"),
            "invalid downgrade; server version is lower than determined cluster version (3.8.0)",
        ),
        (
            cluster_version("3.7.1"),
            "invalid downgrade; server version is lower than determined cluster version (3.7.1)",
        ),
        (cluster_version("3.7"), r#""3.7" is not a version"#),
        (unknown, "member 5 is unknown"),
    ] {
        let mut session = founded();
        let before = session.stored();
        let position = Position { index: 100, term: 2 };
        let failure = session.0.writer.apply(position, &request, &mut session.0.effects).expect_err(reason);
        assert_eq!((failure.index, failure.reason.as_str()), (100, reason));
        session.0.commit();
        assert_eq!(session.stored(), before);
    }
}
