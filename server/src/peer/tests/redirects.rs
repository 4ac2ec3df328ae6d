//! A member, or what stands on its URL, that sends those who ask elsewhere (3.5.11: "redirects of peer URLs"). Nobody goes
//! there: it may be a host that no configuration names, and would see certificates, tokens and the log. etcd 3.7.1 follows
//! none either.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kvorum_api::etcdserverpb::LeaseTimeToLiveRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::snapshots::snapshot;
use super::world::{CLUSTER, Node, dialer, heartbeat};
use crate::cluster::reconfiguration::Promotion;
use crate::peer::questions::{
    HashUnanswered, LeaseUnanswered, Unanswered, downgrade_enabled, hash_kv, lease_times, members_of, promote,
    renew_lease, version_of,
};
use crate::peer::{LeaseRefusal, SnapshotSource};
use crate::urls::Url;

const DEADLINE: Duration = Duration::from_secs(10);
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// Where nobody may come.
struct Elsewhere(TcpListener);

impl Elsewhere {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        Self(listener)
    }

    fn assert_unvisited(&self) {
        let error = self.0.accept().expect_err("somebody followed");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}

/// A member that answers every request with `answer` behind the status line and the place to go; gives its URL, and the
/// lines of the requests that it got.
async fn redirecting(
    status: u16,
    elsewhere: &Elsewhere,
    answer: &'static str,
) -> (Url, Arc<watch::Sender<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = Url::parse(&format!("http://{}", listener.local_addr().expect("bound"))).expect("a URL");
    let to = elsewhere.0.local_addr().expect("bound");
    let answer = format!("HTTP/1.1 {status} Moved\r\nLocation: http://{to}/members\r\n{answer}");
    let requests = Arc::new(watch::Sender::new(Vec::new()));
    let noted = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer.clone(), Arc::clone(&noted)));
        }
    });
    (url, requests)
}

async fn serve(mut stream: TcpStream, answer: String, requests: Arc<watch::Sender<Vec<String>>>) {
    let mut received = Vec::new();
    loop {
        let Some(head) = super::read_head(&mut stream, &mut received).await else { return };
        let text = String::from_utf8_lossy(&received[..head]).to_lowercase();
        let body = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        while received.len() < head + body {
            match stream.read_buf(&mut received).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
        received.drain(..head + body);
        requests.send_modify(|lines| lines.push(text.lines().next().unwrap_or_default().to_owned()));
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn etcd_3_5_11_questions_follow_no_redirect() {
    let elsewhere = Elsewhere::new();
    for status in REDIRECTS {
        let (url, requests) = redirecting(status, &elsewhere, "Content-Length: 0\r\n\r\n").await;
        let (dialer, urls) = (dialer(), [url.clone()]);
        let unclear =
            |answer: Result<(), Unanswered>| assert!(matches!(answer, Err(Unanswered::Unclear(_))), "{answer:?}");
        unclear(members_of(&dialer, &url, DEADLINE).await.map(drop));
        unclear(version_of(&dialer, &url, DEADLINE).await.map(drop));
        unclear(downgrade_enabled(&dialer, &url, DEADLINE).await.map(drop));
        let other = || LeaseUnanswered::Refused(LeaseRefusal::Other("lease: unknown error()".to_owned()));
        assert_eq!(renew_lease(&dialer, &urls, 7, DEADLINE).await, Err(other()));
        let request = LeaseTimeToLiveRequest { id: 7, keys: true };
        assert_eq!(lease_times(&dialer, &urls, request, DEADLINE).await, Err(other()));
        let hash = hash_kv(&dialer, &url, CLUSTER, 5, DEADLINE).await;
        assert!(matches!(hash, Err(HashUnanswered::Unanswered(Unanswered::Unclear(_)))), "{hash:?}");
        let promotion = promote(&dialer, &url, 3, Some("a token"), DEADLINE).await;
        assert!(matches!(promotion, Ok(Promotion::Unknown(_))), "{promotion:?}");
        assert_eq!(
            *requests.borrow(),
            [
                "get /members http/1.1",
                "get /version http/1.1",
                "get /downgrade/enabled http/1.1",
                "post /leases http/1.1",
                "post /leases/internal http/1.1",
                "get /members/hashkv http/1.1",
                "post /members/promote/3 http/1.1",
            ]
        );
    }
    elsewhere.assert_unvisited();
}

/// A redirect whose body does not end costs the deadline and no more.
#[tokio::test]
async fn a_redirect_without_end_costs_the_deadline() {
    let elsewhere = Elsewhere::new();
    let (url, _) = redirecting(307, &elsewhere, "\r\nno length, no end").await;
    let dialer = dialer();
    let asked = tokio::time::timeout(DEADLINE, members_of(&dialer, &url, Duration::from_millis(50)));
    // Of the whole question's time and the one for the next piece either may be seen to be over first.
    let unanswered = asked.await.expect("it ends").expect_err("a body without end");
    assert!(matches!(unanswered, Unanswered::Timeout | Unanswered::Unreachable(_)), "{unanswered:?}");
    elsewhere.assert_unvisited();
}

/// Streams, posted messages, databases and probes.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn etcd_3_5_11_the_log_follows_no_redirect() {
    let elsewhere = Elsewhere::new();
    let members = join_all(REDIRECTS.map(|status| redirecting(status, &elsewhere, "Content-Length: 0\r\n\r\n"))).await;
    let node = Node::start(1);
    for (id, (url, _)) in (2..).zip(&members) {
        node.transport.add_peer(id, &[url.to_string()]).expect("a URL");
        // Nothing reads a stream, so they are posted.
        node.transport.send(vec![heartbeat(1, id, 1)]);
        node.recorder.wait("that it cannot be reached", |notes| notes.unreachable.contains(&id).then_some(()));
        node.transport.send_snapshot(snapshot(1, id, 1), SnapshotSource::new(&b"a database"[..], 10));
        assert_eq!(node.recorder.wait("the outcome", |notes| notes.snapshots_sent.pop()), (id, false));
    }
    let paths = ["/raft/stream/msgapp/1 ", "/raft/stream/message/1 ", "/raft ", "/raft/snapshot ", "/raft/probing "];
    for (_, requests) in &members {
        let asked = |lines: &Vec<String>| paths.iter().all(|path| lines.iter().any(|line| line.contains(path)));
        let mut lines = requests.subscribe();
        let everything = tokio::time::timeout(DEADLINE, lines.wait_for(asked)).await.expect("everything was asked");
        drop(everything.expect("the sender lives"));
    }
    assert!(!node.recorder.wait("nothing", |notes| Some(notes.removed_by_peer)));
    for id in 2..7 {
        assert!(!node.transport.is_active(id));
    }
    elsewhere.assert_unvisited();
}
