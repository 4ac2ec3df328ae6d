use std::time::Duration;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::LeaseTimeToLiveRequest;

use super::world::{CLUSTER, Node, ask, dialer, members};
use crate::cluster::reconfiguration::Promotion;
use crate::cluster::{PeerMembers, Peers};
use crate::ids::to_hex;
use crate::peer::LeaseRefusal;
use crate::peer::questions::{
    HashUnanswered, HttpPeers, LeaseUnanswered, Unanswered, downgrade_enabled, hash_kv, lease_times, members_of,
    promote, renew_lease, version_of,
};
use crate::urls::Url;

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn questions_and_answers_understand_each_other() {
    let node = Node::start(1);
    let url = node.url();
    let expected = PeerMembers { cluster_id: CLUSTER, members: members() };
    assert_eq!(members_of(&dialer(), &url, DEADLINE).await, Ok(expected));
    let versions = version_of(&dialer(), &url, DEADLINE).await.expect("answered");
    assert_eq!((versions.server.as_str(), versions.cluster.as_str()), ("3.7.1", "3.7.0"));
    assert_eq!(downgrade_enabled(&dialer(), &url, DEADLINE).await, Ok(true));

    let by_text = HttpPeers::default();
    assert_eq!(by_text.versions_of(url.as_str(), DEADLINE).await, Ok(versions));
    assert_eq!(by_text.members_of(url.as_str(), DEADLINE).await.map(|members| members.cluster_id), Ok(CLUSTER));
    assert_eq!(by_text.downgrade_enabled_of(url.as_str(), DEADLINE).await, Ok(true));
    assert!(by_text.versions_of("nonsense", DEADLINE).await.is_err());

    assert_eq!(promote(&dialer(), &url, 3, Some("token"), DEADLINE).await, Ok(Promotion::Done(members())));
    let refused = async |id| match promote(&dialer(), &url, id, None, DEADLINE).await {
        Ok(Promotion::Refused(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(1).await, EtcdError::MemberNotLearner);
    assert_eq!(refused(4).await, EtcdError::LearnerNotReady);
    assert_eq!(refused(99).await, EtcdError::MemberNotFound);
    let unknown = promote(&dialer(), &url, 3, None, DEADLINE).await.expect("answered");
    assert!(matches!(unknown, Promotion::Unknown(text) if text.contains("Internal Server Error")));

    let hash = hash_kv(&dialer(), &url, CLUSTER, 5, DEADLINE).await.expect("answered");
    assert_eq!((hash.hash, hash.hash_revision, hash.compact_revision), (0xdead_beef, 5, 0));
    assert_eq!(hash.header.map(|header| header.revision), Some(9));
    assert_eq!(hash_kv(&dialer(), &url, CLUSTER, 1, DEADLINE).await, Err(HashUnanswered::Compacted));
    assert_eq!(hash_kv(&dialer(), &url, CLUSTER, 1000, DEADLINE).await, Err(HashUnanswered::FutureRevision));
    assert_eq!(hash_kv(&dialer(), &url, 1, 5, DEADLINE).await, Err(HashUnanswered::ClusterIdMismatch));
}

#[tokio::test]
async fn leases_are_asked_for_at_one_url_after_another() {
    let node = Node::start(1);
    let dead = Url::parse("http://127.0.0.1:1").expect("a URL");
    let urls = [dead.clone(), node.url()];
    assert_eq!(renew_lease(&dialer(), &urls, 7, DEADLINE).await, Ok(60));
    let refused = |refusal| Err(LeaseUnanswered::Refused(refusal));
    assert_eq!(renew_lease(&dialer(), &urls, 1, DEADLINE).await, refused(LeaseRefusal::NotFound));
    assert_eq!(renew_lease(&dialer(), &urls, 8, DEADLINE).await, refused(LeaseRefusal::Timeout));
    let unclear = LeaseRefusal::Other("lease: unknown error(not a primary lessor)".to_owned());
    assert_eq!(renew_lease(&dialer(), &urls, 9, DEADLINE).await, refused(unclear));
    let request = LeaseTimeToLiveRequest { id: 7, keys: true };
    let times = lease_times(&dialer(), &urls, request, DEADLINE).await.expect("answered");
    assert_eq!((times.ttl, times.granted_ttl, times.keys.len()), (42, 60, 1));
    let request = LeaseTimeToLiveRequest { id: 2, keys: false };
    assert_eq!(
        lease_times(&dialer(), &urls, request, DEADLINE).await.map(drop),
        Err(LeaseUnanswered::Refused(LeaseRefusal::NotFound))
    );
    assert!(matches!(renew_lease(&dialer(), &[dead], 7, DEADLINE).await, Err(LeaseUnanswered::Unanswered(_))));
}

#[tokio::test]
async fn a_silent_member_costs_the_deadline_and_no_more() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = Url::parse(&format!("http://{}", silent.local_addr().expect("an address"))).expect("a URL");
    let deadline = Duration::from_millis(50);
    assert_eq!(members_of(&dialer(), &url, deadline).await, Err(Unanswered::Timeout));
    drop(silent);
    assert!(matches!(version_of(&dialer(), &url, DEADLINE).await, Err(Unanswered::Unreachable(_))));
    let secure = Url::parse("https://127.0.0.1:1").expect("a URL");
    assert!(matches!(version_of(&dialer(), &secure, DEADLINE).await, Err(Unanswered::Unreachable(_))));
}

/// Bodies without end: each question has a bound, and is refused with it, however much comes.
#[test]
fn etcd_3_7_1_bodies_of_questions_are_bounded() {
    let node = Node::start(1);
    for (method, path) in
        [("POST", "/leases"), ("POST", "/leases/internal"), ("GET", "/members/hashkv"), ("POST", "/members/promote/3")]
    {
        let answer = ask(node.address, method, path, &[], &vec![0; 64 * 1024 + 1]);
        assert!(matches!(answer.status, 400 | 413 | 500), "{path}: {}", answer.status);
    }
    assert_eq!(ask(node.address, "GET", "/version", &[], b"").status, 200);
}

#[test]
fn pages_have_etcds_bodies_and_headers() {
    let node = Node::start(1);
    let members = ask(node.address, "GET", "/members", &[], b"");
    assert_eq!(members.status, 200);
    assert_eq!(members.header("Content-Type"), Some("application/json"));
    assert_eq!(members.header("X-Etcd-Cluster-ID"), Some(to_hex(CLUSTER).as_str()));
    assert_eq!(
        members.body,
        "[{\"id\":1,\"peerURLs\":[\"http://127.0.0.1:1\"],\"name\":\"one\",\"clientURLs\":[\"http://127.0.0.1:2\"]},\
         {\"id\":3,\"peerURLs\":[\"http://127.0.0.1:3\"],\"isLearner\":true}]\n"
    );
    let version = ask(node.address, "GET", "/version", &[], b"");
    assert_eq!(version.body, r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#);
    let hash = ask(node.address, "GET", "/members/hashkv", &[], br#"{"revision":5}"#);
    assert_eq!(hash.body, r#"{"header":{"revision":9},"hash":3735928559,"hash_revision":5}"#);
    let bad = ask(node.address, "GET", "/members/hashkv", &[], b"x");
    assert_eq!((bad.status, bad.body.as_str()), (400, "error unmarshalling request\n"));
    let downgrade = ask(node.address, "GET", "/downgrade/enabled", &[], b"");
    assert_eq!((downgrade.body.as_str(), downgrade.header("Content-Type")), ("true", Some("text/plain")));
    let probing = ask(node.address, "GET", "/raft/probing", &[], b"");
    assert!(probing.body.starts_with("{\"OK\":true,\"Now\":\"20") && probing.body.ends_with("Z\"}\n"));
    let long = ask(node.address, "POST", "/leases", &[], &[0; 64 * 1024 + 1]);
    assert_eq!((long.status, long.body.as_str()), (413, "request body too large\n"));
    let unreadable = ask(node.address, "POST", "/leases", &[], &[0xff; 3]);
    assert_eq!((unreadable.status, unreadable.body.as_str()), (400, "error unmarshalling request\n"));
    let empty = ask(node.address, "POST", "/leases/internal", &[], b"");
    assert_eq!(empty.status, 400);
    let late = ask(node.address, "POST", "/leases", &[], &[8, 8]);
    let text = "waiting for node to catch up its applied index has timed out\n";
    assert_eq!((late.status, late.body.as_str()), (408, text));
    let moved = ask(node.address, "POST", "/leases/internal", &[], &[10, 2, 8, 9]);
    assert_eq!((moved.status, moved.body.as_str()), (500, "not a primary lessor\n"));
    let nobody = ask(node.address, "POST", "/members/promote/x", &[], b"");
    assert_eq!((nobody.status, nobody.body.as_str()), (404, "member x not found in cluster\n"));
}
