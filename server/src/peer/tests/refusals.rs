use kvorum_api::raftpb::MessageType;
use prost::Message as _;

use super::world::{CLUSTER, Node, RawAnswer, ask, heartbeat};
use crate::ids::to_hex;

const NOT_FOUND: &str = "404 page not found\n";

fn get(node: &Node, path: &str, headers: &[&str]) -> RawAnswer {
    ask(node.address, "GET", path, headers, b"")
}

fn cluster_header() -> String {
    format!("X-Etcd-Cluster-ID: {}", to_hex(CLUSTER))
}

/// Status, body, and the answer's cluster id and version, for a table of requests.
fn seen(answer: &RawAnswer) -> (u16, &str, bool, bool) {
    let cluster = answer.header("X-Etcd-Cluster-ID") == Some(to_hex(CLUSTER).as_str());
    (answer.status, &answer.body, cluster, answer.header("X-Server-Version") == Some("3.7.1"))
}

#[test]
fn streams_are_refused_with_etcds_texts() {
    let node = Node::start(1);
    node.recorder.change(|notes| notes.removed.push(5));
    node.transport.add_peer(2, &["http://127.0.0.1:1".to_owned()]).expect("a URL");
    let cluster = cluster_header();
    let good = [cluster.as_str(), "X-Server-Version: 3.6.4", "X-Min-Cluster-Version: 3.0.0"];
    let (app, message) = ("/raft/stream/msgapp/2", "/raft/stream/message/2");
    let to = "X-Raft-To: 1";

    let wrong_method = ask(node.address, "POST", app, &good, b"");
    assert_eq!(seen(&wrong_method), (405, "Method Not Allowed\n", false, false));
    assert_eq!(wrong_method.header("Allow"), Some("GET"));

    let incompatible: &[&[&str]] = &[
        // No version is 2.0.0.
        &[cluster.as_str()],
        &[cluster.as_str(), "X-Server-Version: 2.3.7", "X-Min-Cluster-Version: 2.3.0"],
        &[cluster.as_str(), "X-Server-Version: 3.8.0", "X-Min-Cluster-Version: 3.8.0"],
        &[cluster.as_str(), "X-Server-Version: nonsense", "X-Min-Cluster-Version: 3.0.0"],
    ];
    for headers in incompatible {
        let answer = get(&node, app, headers);
        assert_eq!(seen(&answer), (412, "incompatible version\n", true, true), "{headers:?}");
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
        assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
    }
    for other in ["X-Etcd-Cluster-ID: 1", "X-Nothing: 1"] {
        let answer = get(&node, app, &[other, good[1], good[2]]);
        assert_eq!(seen(&answer), (412, "cluster ID mismatch\n", true, true));
    }
    let with = |path: &str, more: &[&str]| {
        let headers: Vec<&str> = good.iter().chain(more).copied().collect();
        get(&node, path, &headers)
    };
    assert_eq!(seen(&with("/raft/stream/other/2", &[to])), (404, "invalid path\n", true, true));
    assert_eq!(seen(&with("/raft/stream/msgapp/x/2", &[to])), (404, "invalid path\n", true, true));
    assert_eq!(seen(&with("/raft/stream/msgapp/xyz", &[to])), (404, "invalid from\n", true, true));
    assert_eq!(seen(&with("/raft/stream/message/5", &[to])), (410, "removed member\n", true, true));
    assert_eq!(seen(&with(message, &[])), (412, "to field mismatch\n", true, true));
    assert_eq!(seen(&with(app, &["X-Raft-To: 2"])), (412, "to field mismatch\n", true, true));
    assert_eq!(seen(&with("/raft/stream/message/9", &[to])), (404, "error sender not found\n", true, true));
    assert!(!node.transport.shared.members.read().remotes.contains_key(&9));
    let urls = "X-PeerURLs: http://127.0.0.1:1,http://127.0.0.1:2";
    assert_eq!(seen(&with("/raft/stream/message/9", &[to, urls])), (404, "error sender not found\n", true, true));
    assert!(node.transport.shared.members.read().remotes.contains_key(&9));
    for bad in ["X-PeerURLs: nonsense", "X-PeerURLs: ,"] {
        assert_eq!(seen(&with("/raft/stream/message/a", &[to, bad])).0, 404);
        assert!(!node.transport.shared.members.read().remotes.contains_key(&10));
    }
}

/// etcd 3.5.14: a message for another member was taken, and one that claims to be from somebody else.
#[test]
fn etcd_3_5_14_messages_for_others_are_refused() {
    let node = Node::start(1);
    node.recorder.change(|notes| notes.removed.push(5));
    let cluster = cluster_header();
    let headers = [cluster.as_str(), "X-Server-Version: 3.7.1", "X-Min-Cluster-Version: 3.0.0"];
    for (from, to) in [(2, 7), (2, 0), (1, 2), (5, 1), (u64::MAX, u64::MAX)] {
        let answer = ask(node.address, "POST", "/raft", &headers, &heartbeat(from, to, 1).encode_to_vec());
        assert_eq!(answer.status, 403, "from {from} to {to}");
    }
    let other_cluster = ["X-Etcd-Cluster-ID: 1", "X-Server-Version: 3.7.1", "X-Min-Cluster-Version: 3.0.0"];
    let answer = ask(node.address, "POST", "/raft", &other_cluster, &heartbeat(2, 1, 1).encode_to_vec());
    assert_eq!(answer.status, 412);
    assert!(node.recorder.wait("nothing", |notes| Some(notes.messages.is_empty())));
}

#[test]
fn messages_are_refused_with_etcds_texts() {
    let node = Node::start(1);
    node.recorder.change(|notes| notes.removed.push(5));
    let cluster = cluster_header();
    let good = [cluster.as_str(), "X-Server-Version: 3.7.1", "X-Min-Cluster-Version: 3.0.0"];
    let post = |headers: &[&str], body: &[u8]| ask(node.address, "POST", "/raft", headers, body);

    let wrong_method = get(&node, "/raft", &good);
    assert_eq!(seen(&wrong_method), (405, "Method Not Allowed\n", false, false));
    assert_eq!(wrong_method.header("Allow"), Some("POST"));
    assert_eq!(seen(&post(&[cluster.as_str()], b"")), (412, "incompatible version\n", true, false));
    assert_eq!(seen(&post(&good[1..], b"")), (412, "cluster ID mismatch\n", true, false));
    assert_eq!(seen(&post(&good, &[0xff; 9])), (400, "error unmarshalling raft message\n", true, false));
    let removed = post(&good, &heartbeat(5, 1, 1).encode_to_vec());
    let text = r#"{"message":"cannot process message from removed member"}"#;
    assert_eq!(seen(&removed), (403, text, true, false));
    assert_eq!(removed.header("Content-Type"), Some("application/json"));
    let text = r#"{"message":"cannot process message to mismatch member"}"#;
    assert_eq!(seen(&post(&good, &heartbeat(2, 7, 1).encode_to_vec())), (403, text, true, false));
    let mut snapshot = heartbeat(2, 1, 1);
    snapshot.set_type(MessageType::MsgSnap);
    assert_eq!(post(&good, &snapshot.encode_to_vec()).status, 403, "a snapshot has a database behind it");
    assert_eq!(seen(&post(&good, &heartbeat(2, 1, 1).encode_to_vec())), (204, "", true, false));
    assert_eq!(node.recorder.wait("the message", |notes| notes.messages.pop()), heartbeat(2, 1, 1));
}

#[test]
fn other_paths_and_methods_are_answered_as_by_etcd() {
    let node = Node::start(1);
    for path in ["/", "/x", "/raft/", "/raft/x", "/members/", "/members/x", "/leases/", "/health", "/metrics"] {
        assert_eq!(seen(&get(&node, path, &[])), (404, NOT_FOUND, false, false), "{path}");
    }
    let table = [
        ("POST", "/members", Some("GET"), false),
        ("GET", "/members/promote/1", Some("POST"), false),
        ("POST", "/members/hashkv", Some("GET"), false),
        ("GET", "/leases", None, false),
        ("GET", "/leases/internal", None, false),
        ("POST", "/downgrade/enabled", Some("GET"), false),
        ("POST", "/version", Some("GET"), false),
        ("GET", "/raft/snapshot", Some("POST"), false),
    ];
    for (method, path, allow, cluster) in table {
        let answer = ask(node.address, method, path, &[], b"");
        assert_eq!(seen(&answer), (405, "Method Not Allowed\n", cluster, false), "{method} {path}");
        assert_eq!(answer.header("Allow"), allow, "{method} {path}");
    }
}
