use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::BytesMut;
use kvorum_api::raftpb::{Message, MessageType, Snapshot, SnapshotMetadata};

use super::world::{CLUSTER, Node, ask};
use crate::ids::to_hex;
use crate::peer::SnapshotSource;
use crate::peer::framing::encode_message;

pub fn snapshot(from: u64, to: u64, index: u64) -> Message {
    let metadata = SnapshotMetadata { conf_state: None, index: Some(index), term: Some(2) };
    Message {
        r#type: Some(MessageType::MsgSnap.into()),
        from: Some(from),
        to: Some(to),
        term: Some(2),
        snapshot: Some(Snapshot { data: Some("{}".into()), metadata: Some(metadata) }),
        ..Message::default()
    }
}

fn database(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index % 251).expect("below 251")).collect()
}

fn names(node: &Node) -> Vec<String> {
    let entries = std::fs::read_dir(node.folder.path()).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("plain")).collect();
    names.sort();
    names
}

#[test]
fn a_database_arrives_whole_behind_its_message() {
    let (one, two) = (Node::start(1), Node::start(2));
    one.transport.add_peer(2, &two.urls()).expect("a URL");
    for (index, length) in [(0x1f, 5_000_003), (0x20, 0), (0x21, 1)] {
        let contents = database(length);
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &contents).expect("written");
        let source = SnapshotSource::open(file.path()).expect("it is there");
        drop(file);
        one.transport.send_snapshot(snapshot(1, 2, index), source);
        assert_eq!(one.recorder.wait("the outcome", |notes| notes.snapshots_sent.pop()), (2, true));
        let (message, path) = two.recorder.wait("the snapshot", |notes| notes.snapshots.pop());
        assert_eq!(message, snapshot(1, 2, index));
        assert_eq!(path, two.folder.path().join(format!("{index:016x}.snap.db")));
        assert!(std::fs::read(path).expect("readable") == contents);
    }
    assert_eq!(names(&two).len(), 3, "nothing temporary is left");
    assert_eq!(one.transport.metrics()[0].snapshots_sent.value(), 3);
}

#[test]
fn what_cannot_be_sent_is_reported() {
    let (one, two) = (Node::start(1), Node::start(2));
    one.transport.send_snapshot(snapshot(1, 9, 1), SnapshotSource::new(&b""[..], 0));
    assert_eq!(one.recorder.wait("the outcome", |notes| notes.snapshots_sent.pop()), (9, false));
    one.transport.add_peer(2, &two.urls()).expect("a URL");
    // Fewer bytes than were promised.
    one.transport.send_snapshot(snapshot(1, 2, 1), SnapshotSource::new(&b"short"[..], 1_000_000));
    assert_eq!(one.recorder.wait("the outcome", |notes| notes.snapshots_sent.pop()), (2, false));
    // A message for somebody else.
    one.transport.add_peer(3, &two.urls()).expect("a URL");
    one.transport.send_snapshot(snapshot(1, 3, 1), SnapshotSource::new(&b"x"[..], 1));
    assert_eq!(one.recorder.wait("the outcome", |notes| notes.snapshots_sent.pop()), (3, false));
    assert!(two.recorder.wait("nothing", |notes| Some(notes.snapshots.is_empty())));
    assert!(!one.recorder.wait("nothing", |notes| Some(notes.removed_by_peer)));
}

fn headers() -> Vec<String> {
    let cluster = format!("X-Etcd-Cluster-ID: {}", to_hex(CLUSTER));
    vec![cluster, "X-Server-Version: 3.7.1".to_owned(), "X-Min-Cluster-Version: 3.0.0".to_owned()]
}

#[test]
fn a_broken_transfer_leaves_nothing() {
    let two = Node::start(2);
    let mut body = BytesMut::new();
    encode_message(&snapshot(1, 2, 5), &mut body);
    body.extend_from_slice(&database(300_000));
    let mut request = format!("POST /raft/snapshot HTTP/1.1\r\nHost: x\r\n{}\r\n", headers().join("\r\n"));
    request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len() + 1));
    let mut stream = TcpStream::connect(two.address).expect("connected");
    stream.write_all(request.as_bytes()).expect("written");
    stream.write_all(&body).expect("written");
    stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("closed");
    // The file goes a moment after the connection.
    while !names(&two).is_empty() {
        std::thread::yield_now();
    }
    assert!(two.recorder.wait("nothing", |notes| Some(notes.snapshots.is_empty())));
}

#[test]
fn malformed_snapshots_are_refused_with_etcds_texts() {
    let two = Node::start(2);
    let headers = headers();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let post = |body: &[u8]| {
        let answer = ask(two.address, "POST", "/raft/snapshot", &headers, body);
        (answer.status, answer.body)
    };
    let mut wrong_type = BytesMut::new();
    encode_message(&Message { r#type: Some(MessageType::MsgApp.into()), ..snapshot(1, 2, 5) }, &mut wrong_type);
    let mut no_metadata = BytesMut::new();
    encode_message(&Message { snapshot: None, ..snapshot(1, 2, 5) }, &mut no_metadata);
    let wrong = (400, "wrong raft message type\n".to_owned());
    assert_eq!(post(&wrong_type), wrong);
    assert_eq!(post(&no_metadata), wrong);
    let decode = |reason: &str| (400, format!("failed to decode raft message ({reason})\n"));
    assert_eq!(post(b""), decode("unexpected EOF"));
    assert_eq!(post(&[0, 0, 0, 0, 0, 0, 0, 9, 1]), decode("unexpected EOF"));
    assert_eq!(post(&[0xff; 30]), decode("rafthttp: error limit exceeded"));
    assert_eq!(post(&[0, 0, 0, 0, 4, 0, 0, 1]), decode("rafthttp: error limit exceeded"));
    assert_eq!(post(&[0, 0, 0, 0, 0, 0, 0, 1, 0xff]).0, 400);
    let mut other = BytesMut::new();
    encode_message(&snapshot(1, 7, 5), &mut other);
    assert_eq!(post(&other), (403, r#"{"message":"cannot process message to mismatch member"}"#.to_owned()));
    assert!(names(&two).is_empty());
}
