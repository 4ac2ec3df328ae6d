//! Connections that wait for further questions, against a member that is a raw socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::world::dialer;
use crate::limits::{PEER_IDLE_CONNECTIONS_MAX, PEER_IDLE_TIMEOUT};
use crate::peer::questions::{Unanswered, promote, renew_lease, version_of};
use crate::urls::Url;

const DEADLINE: Duration = Duration::from_secs(10);
const VERSIONS: &str = r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0"}"#;

/// What the member does once a connection has brought so many requests.
#[derive(Clone, Copy)]
enum Manners {
    Patient,
    /// Closes after this many answers, without having said so.
    ClosesAfter(usize),
    /// Reads one request more than this many, and closes instead of an answer.
    FallsSilentAfter(usize),
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    requests: AtomicUsize,
    ended: AtomicUsize,
    one_ended: Notify,
}

async fn member(manners: Manners) -> (Url, Arc<Counts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = Url::parse(&format!("http://{}", listener.local_addr().expect("bound"))).expect("a URL");
    let counts = Arc::new(Counts::default());
    let counted = Arc::clone(&counts);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.accepted.fetch_add(1, Ordering::SeqCst);
            let counts = Arc::clone(&counted);
            tokio::spawn(async move {
                serve(stream, manners, &counts).await;
                counts.ended.fetch_add(1, Ordering::SeqCst);
                counts.one_ended.notify_one();
            });
        }
    });
    (url, counts)
}

/// Ends with the connection.
async fn serve(mut stream: TcpStream, manners: Manners, counts: &Counts) {
    let mut received = Vec::new();
    for answered in 0.. {
        if matches!(manners, Manners::ClosesAfter(count) if count == answered) {
            return;
        }
        let Some(head) = super::read_head(&mut stream, &mut received).await else { return };
        let rest = received.split_off(head);
        let text = String::from_utf8_lossy(&received).to_lowercase();
        let body = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        received = rest;
        while received.len() < body {
            stream.read_buf(&mut received).await.expect("a whole request");
        }
        received.drain(..body);
        counts.requests.fetch_add(1, Ordering::SeqCst);
        if matches!(manners, Manners::FallsSilentAfter(count) if count == answered) {
            return;
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{VERSIONS}", VERSIONS.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

impl Counts {
    fn told(&self) -> (usize, usize) {
        (self.accepted.load(Ordering::SeqCst), self.requests.load(Ordering::SeqCst))
    }

    async fn ended(&self, count: usize) {
        while self.ended.load(Ordering::SeqCst) < count {
            self.one_ended.notified().await;
        }
    }
}

#[tokio::test]
async fn questions_share_a_connection() {
    let (url, counts) = member(Manners::Patient).await;
    let dialer = dialer();
    for _ in 0..10 {
        version_of(&dialer, &url, DEADLINE).await.expect("answered");
        version_of(&dialer.clone(), &url, DEADLINE).await.expect("answered");
    }
    // What is no answer to this question was one all the same.
    assert!(renew_lease(&dialer, &[url], 7, DEADLINE).await.is_err());
    assert_eq!(counts.told(), (1, 21));
}

#[tokio::test]
async fn only_so_many_wait() {
    const AT_ONCE: usize = 3 * PEER_IDLE_CONNECTIONS_MAX;
    let (url, counts) = member(Manners::Patient).await;
    let dialer = dialer();
    let asked = join_all((0..AT_ONCE).map(|_| version_of(&dialer, &url, DEADLINE))).await;
    assert!(asked.iter().all(Result::is_ok));
    assert_eq!(dialer.kept.count(), PEER_IDLE_CONNECTIONS_MAX);
    counts.ended(counts.told().0 - PEER_IDLE_CONNECTIONS_MAX).await;
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_replaced() {
    let (url, counts) = member(Manners::ClosesAfter(1)).await;
    let dialer = dialer();
    for asked in 1..=20 {
        version_of(&dialer, &url, DEADLINE).await.expect("answered");
        if asked % 2 == 0 {
            // Else it may be noticed only while the question is asked.
            counts.ended(asked).await;
        }
    }
    assert_eq!(counts.told(), (20, 20));
}

#[tokio::test]
async fn a_question_that_was_not_answered_is_asked_once_more_on_a_new_connection() {
    let (url, counts) = member(Manners::FallsSilentAfter(1)).await;
    let dialer = dialer();
    version_of(&dialer, &url, DEADLINE).await.expect("answered");
    version_of(&dialer, &url, DEADLINE).await.expect("answered by the second connection");
    assert_eq!(counts.told(), (2, 3));
    let (url, counts) = member(Manners::FallsSilentAfter(0)).await;
    let unanswered = version_of(&dialer, &url, DEADLINE).await.expect_err("never answered");
    assert!(matches!(unanswered, Unanswered::Unreachable(_)), "{unanswered:?}");
    assert_eq!(counts.told(), (1, 1));
}

#[tokio::test]
async fn what_must_not_be_asked_twice_has_a_connection_of_its_own() {
    let (url, counts) = member(Manners::FallsSilentAfter(1)).await;
    let dialer = dialer();
    version_of(&dialer, &url, DEADLINE).await.expect("answered");
    promote(&dialer, &url, 3, None, DEADLINE).await.expect("answered");
    assert_eq!(counts.told(), (2, 2));
    let (url, counts) = member(Manners::FallsSilentAfter(0)).await;
    promote(&dialer, &url, 3, None, DEADLINE).await.expect_err("not answered");
    assert_eq!(counts.told(), (1, 1));
}

#[tokio::test]
async fn a_connection_does_not_wait_for_ever() {
    let (url, counts) = member(Manners::Patient).await;
    let dialer = dialer();
    version_of(&dialer, &url, DEADLINE).await.expect("answered");
    assert_eq!(dialer.kept.count(), 1);
    tokio::time::pause();
    tokio::time::advance(PEER_IDLE_TIMEOUT + Duration::from_secs(1)).await;
    counts.ended(1).await;
    assert_eq!(dialer.kept.count(), 0);
}
