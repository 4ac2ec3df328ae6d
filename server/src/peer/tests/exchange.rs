use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use kvorum_api::raftpb::{Message, MessageType};

use super::world::{CLUSTER, Cable, Node, append, entry, heartbeat, joined};
use crate::ids::to_hex;
use crate::limits::{PEER_PIPELINE_MESSAGES_MAX, PEER_QUEUE_BYTES_MAX};
use crate::peer::READ_TIMEOUT;

fn connect(one: &Node, two: &Node) {
    one.transport.add_peer(two.id, &two.urls()).expect("a URL");
    two.transport.add_peer(one.id, &one.urls()).expect("a URL");
}

#[test]
fn messages_arrive_whole_and_in_order_over_the_streams() {
    let (one, two) = (Node::start(1), Node::start(2));
    connect(&one, &two);
    one.wait_for_streams(2);
    let mut sent = vec![append(1, 2, 3, (2, 10), 9, vec![entry(3, 11, b"a"), entry(3, 12, b"")])];
    for index in 12..300 {
        sent.push(append(1, 2, 3, (3, index), index - 1, vec![entry(3, index + 1, b"value")]));
    }
    one.transport.send(sent.clone());
    let entries: usize = sent.iter().map(|message| message.entries.len()).sum();
    let received =
        two.recorder.wait("appends", |notes| (notes.entries() >= entries).then(|| std::mem::take(&mut notes.messages)));
    assert_eq!(joined(received), joined(sent));
    one.transport.send(vec![heartbeat(1, 2, 7), heartbeat(1, 0, 8), heartbeat(1, 99, 9)]);
    let received = two.recorder.wait("a heartbeat", |notes| notes.messages.pop());
    assert_eq!(received, heartbeat(1, 2, 7));
    assert!(one.transport.is_active(2) && two.transport.is_active(1));
    assert_eq!((one.transport.active_peers(), one.transport.active_since(99)), (1, None));
    let metrics = one.transport.metrics();
    assert!(metrics[0].sent_bytes.value() > 0);
    assert_eq!(metrics[0].sent_failures.value(), 0);
}

#[test]
fn large_and_many_messages_pass_in_both_directions() {
    let (one, two) = (Node::start(1), Node::start(2));
    connect(&one, &two);
    one.wait_for_streams(2);
    two.wait_for_streams(1);
    let data: Vec<u8> = (0..3_000_000u32).map(|number| number.to_le_bytes()[0]).collect();
    let mut large = entry(1, 1, b"");
    large.data = Some(data.into());
    let large = append(1, 2, 1, (0, 0), 0, vec![large]);
    one.transport.send(vec![large.clone()]);
    // Fewer than a queue holds: nothing may be lost.
    let mut small = Vec::new();
    for index in 1..2000 {
        small.push(append(1, 2, 1, (1, index), index, vec![entry(1, index + 1, b"value")]));
        one.transport.send(vec![small[small.len() - 1].clone()]);
        two.transport.send(vec![heartbeat(2, 1, index)]);
    }
    let mut received = two
        .recorder
        .wait("all appends", |notes| (notes.entries() == 2000).then(|| std::mem::take(&mut notes.messages)));
    assert!(received.remove(0) == large, "too long to be put together with others");
    assert!(joined(received) == joined(small));
    let received = one
        .recorder
        .wait("all heartbeats", |notes| (notes.messages.len() == 1999).then(|| std::mem::take(&mut notes.messages)));
    assert!((1..2000).zip(&received).all(|(commit, message)| message.commit() == commit));
}

#[test]
fn idle_streams_outlive_the_timeouts() {
    let (one, two) = (Node::start(1), Node::start(2));
    connect(&one, &two);
    one.wait_for_streams(2);
    two.wait_for_streams(1);
    let since = one.transport.active_since(2);
    let patience = READ_TIMEOUT + Duration::from_secs(1);
    assert_eq!(one.recorder.wait_for(patience, |notes| notes.unreachable.pop()), None);
    one.transport.send(vec![heartbeat(1, 2, 7)]);
    assert_eq!(two.recorder.wait("a heartbeat", |notes| notes.messages.pop()), heartbeat(1, 2, 7));
    assert_eq!(one.transport.active_since(2), since);
    assert!(one.transport.metrics()[0].round_trip_seconds.count() > 0, "probed meanwhile");
}

#[test]
fn a_cut_member_is_told_and_comes_back_by_itself() {
    let (one, two) = (Node::start(1), Node::start(2));
    // The receiver dials, so each needs the cable in its own direction.
    let (to_one, to_two) = (Cable::to(one.address), Cable::to(two.address));
    one.transport.add_peer(2, &to_two.urls()).expect("a URL");
    two.transport.add_peer(1, &to_one.urls()).expect("a URL");
    one.wait_for_streams(2);
    one.transport.send(vec![heartbeat(1, 2, 1)]);
    two.recorder.wait("the first", |notes| notes.messages.pop());

    to_one.cut();
    to_two.cut();
    one.recorder.wait("that it is unreachable", |notes| notes.unreachable.pop());
    let first = std::iter::repeat_with(|| {
        one.transport.send(vec![heartbeat(1, 2, 2)]);
        one.recorder.wait_for(Duration::from_millis(20), |notes| notes.unreachable.pop())
    });
    assert!(first.take(1000).any(|unreachable| unreachable == Some(2)));

    to_one.mend();
    to_two.mend();
    one.wait_for_streams(2);
    one.transport.send(vec![append(1, 2, 1, (1, 1), 1, vec![entry(1, 2, b"x")]), heartbeat(1, 2, 3)]);
    two.recorder.wait("both again", |notes| {
        let found =
            |kind: MessageType, commit| notes.messages.iter().any(|m| m.r#type() == kind && m.commit() == commit);
        (found(MessageType::MsgApp, 1) && found(MessageType::MsgHeartbeat, 3)).then_some(())
    });
    assert!(two.recorder.wait_for(Duration::from_secs(5), |_| two.transport.is_active(1).then_some(())).is_some());
}

#[test]
fn a_member_whose_process_ended_is_known_to_be_gone() {
    let (one, two) = (Node::start(1), Node::start(2));
    connect(&one, &two);
    one.wait_for_streams(2);
    two.wait_for_streams(1);
    assert_eq!(one.recorder.wait_for(Duration::ZERO, |notes| notes.gone.pop()), None);
    drop(two);
    assert_eq!(one.recorder.wait("that it is gone", |notes| notes.gone.pop()), 2);
}

#[test]
fn without_streams_messages_are_posted() {
    let (one, two) = (Node::start(1), Node::start(2));
    one.transport.add_remote(2, &two.urls()).expect("a URL");
    let sent: Vec<Message> = (0..20).map(|commit| heartbeat(1, 2, commit)).collect();
    one.transport.send(sent);
    two.recorder.wait("all", |notes| (notes.messages.len() == 20).then_some(()));
    // The sender introduced itself, so it can be answered before it is known.
    two.transport.send(vec![heartbeat(2, 1, 5)]);
    assert_eq!(one.recorder.wait("an answer", |notes| notes.messages.pop()), heartbeat(2, 1, 5));
}

#[test]
fn the_pipeline_goes_to_the_next_url_and_has_a_bound() {
    let (one, two) = (Node::start(1), Node::start(2));
    // A port where nothing listens sorts first, or second: both orders must work.
    let dead = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let urls = vec![format!("http://{dead}"), two.urls().remove(0)];
    one.transport.add_remote(2, &urls).expect("URLs");
    let delivered = std::iter::repeat_with(|| {
        one.transport.send(vec![heartbeat(1, 2, 1)]);
        two.recorder.wait_for(Duration::from_millis(50), |notes| notes.messages.pop())
    });
    assert!(delivered.take(200).any(|message| message.is_some()));

    // Accepts in the kernel's queue only: four posts are under way, the queue fills, the rest is dropped.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    one.transport.add_remote(3, &[format!("http://{}", silent.local_addr().expect("an address"))]).expect("a URL");
    one.transport.send((0..PEER_PIPELINE_MESSAGES_MAX as u64 + 10).map(|commit| heartbeat(1, 3, commit)).collect());
    assert_eq!(one.recorder.wait("a drop", |notes| notes.unreachable.iter().copied().find(|id| *id == 3)), 3);
}

#[test]
fn a_member_that_never_reads_costs_a_bounded_queue_and_delays_nobody() {
    let (one, two) = (Node::start(1), Node::start(2));
    connect(&one, &two);
    one.wait_for_streams(2);
    let nowhere = TcpListener::bind("127.0.0.1:0").expect("a free port");
    one.transport.add_peer(3, &[format!("http://{}", nowhere.local_addr().expect("an address"))]).expect("a URL");
    let mut slow = TcpStream::connect(one.address).expect("connected");
    let request = format!(
        "GET /raft/stream/msgapp/3 HTTP/1.1\r\nHost: x\r\nX-Server-From: 3\r\nX-Server-Version: 3.7.1\r\n\
         X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: {}\r\nX-Raft-To: 1\r\n\r\n",
        to_hex(CLUSTER)
    );
    slow.write_all(request.as_bytes()).expect("written");
    let mut head = [0; 15];
    slow.read_exact(&mut head).expect("answered");
    assert_eq!(&head, b"HTTP/1.1 200 OK");

    let data = Bytes::from(vec![7; 1024 * 1024]);
    let count = PEER_QUEUE_BYTES_MAX as u64 / data.len() as u64 + 40;
    for index in 0..count {
        let mut entry = entry(1, index + 1, b"");
        entry.data = Some(data.clone());
        one.transport.send(vec![append(1, 3, 1, (1, index), index, vec![entry])]);
        one.transport.send(vec![heartbeat(1, 2, index)]);
        two.recorder.wait("a heartbeat to another member", |notes| notes.messages.pop());
    }
    assert_eq!(one.recorder.wait("a drop", |notes| notes.unreachable.pop()), 3);
    let metrics = one.transport.metrics().into_iter().find(|peer| peer.member_id == 3);
    assert!(metrics.expect("added").sent_failures.value() > 0);
    // Its socket takes nothing for five seconds: the stream is given up, and what was queued with it.
    one.recorder.wait("the end of the stream", |_| {
        let peer = one.transport.shared.peer(3).expect("added");
        let attached = peer.outbox(crate::peer::framing::StreamKind::Append).expect("it has streams").is_attached();
        (!attached).then_some(())
    });
}

#[test]
fn a_newer_stream_replaces_the_older() {
    let one = Node::start(1);
    let nowhere = TcpListener::bind("127.0.0.1:0").expect("a free port");
    one.transport.add_peer(3, &[format!("http://{}", nowhere.local_addr().expect("an address"))]).expect("a URL");
    let request = format!(
        "GET /raft/stream/message/3 HTTP/1.1\r\nHost: x\r\nX-Server-Version: 3.6.0\r\n\
         X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: {}\r\nX-Raft-To: 1\r\n\r\n",
        to_hex(CLUSTER)
    );
    let dial = || {
        let mut stream = TcpStream::connect(one.address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream.write_all(request.as_bytes()).expect("written");
        let mut head = [0; 15];
        stream.read_exact(&mut head).expect("answered");
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        stream
    };
    let mut older = dial();
    let mut newer = dial();
    let mut rest = Vec::new();
    // The body ends in order; the connection itself is closed when it has been idle.
    older.read_to_end(&mut rest).expect("ended");
    assert!(rest.ends_with(b"\r\n0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
    one.transport.send(vec![heartbeat(1, 3, 77)]);
    let mut found = Vec::new();
    while !found.ends_with(&[0x40, 77, b'\r', b'\n']) {
        let mut byte = [0];
        newer.read_exact(&mut byte).expect("more");
        found.push(byte[0]);
    }
    // Removed: the stream ends, and the member is not found any more.
    one.transport.remove_peer(3);
    newer.read_to_end(&mut found).expect("ended");
    assert!(found.ends_with(b"\r\n0\r\n\r\n"));
}

#[test]
fn a_removed_member_hears_of_it() {
    let (one, two) = (Node::start(1), Node::start(2));
    two.recorder.change(|notes| notes.removed.push(1));
    one.transport.add_peer(2, &two.urls()).expect("a URL");
    one.recorder.wait("that it was removed", |notes| notes.removed_by_peer.then_some(()));
    assert!(!one.transport.is_active(2));
}

#[test]
fn bad_urls_are_refused_and_updates_are_followed() {
    let (one, two) = (Node::start(1), Node::start(2));
    assert!(one.transport.add_peer(2, &[]).is_err());
    assert!(one.transport.add_peer(2, &["ftp://x:1".to_owned()]).is_err());
    assert!(one.transport.add_remote(2, &["x".to_owned()]).is_err());
    let nowhere = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    one.transport.add_peer(2, &[format!("http://{nowhere}")]).expect("a URL");
    two.transport.add_peer(1, &one.urls()).expect("a URL");
    one.transport.update_peer(2, &two.urls()).expect("a URL");
    one.transport.update_peer(77, &two.urls()).expect("nothing happens");
    two.wait_for_streams(1);
    two.transport.send(vec![heartbeat(2, 1, 6)]);
    assert_eq!(one.recorder.wait("a heartbeat", |notes| notes.messages.pop()), heartbeat(2, 1, 6));
    one.transport.remove_all();
    assert_eq!(one.transport.active_peers(), 0);
}
