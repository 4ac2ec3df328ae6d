//! A real etcd in a cluster of two whose other member is this transport with a hand-made follower. Skipped without one:
//! `KVORUM_TEST_ETCD` names a binary, else `etcd` on the path is taken.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use kvorum_api::raftpb::{Message, MessageType, Snapshot, SnapshotMetadata};
use parking_lot::Mutex;

use super::world::{Node, append, dialer, entry};
use crate::ids::{cluster_id, member_id};
use crate::peer::framing::StreamKind;
use crate::peer::questions::{
    HashUnanswered, LeaseUnanswered, downgrade_enabled, hash_kv, members_of, renew_lease, version_of,
};
use crate::peer::{LeaseRefusal, SnapshotSource};
use crate::urls::Url;

const TOKEN: &str = "peer-test";
const DEADLINE: Duration = Duration::from_secs(5);

fn find_etcd() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("KVORUM_TEST_ETCD").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|candidate| candidate.is_file())
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address")
}

struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Ends the follower's thread, also when a test fails.
struct EndOf<'a>(&'a AtomicBool);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_real_etcd_elects_itself_with_our_vote_and_replicates_to_us() {
    let Some(binary) = find_etcd() else {
        let required = std::env::var("KVORUM_REQUIRE_TOOLS").as_deref() == Ok("1");
        assert!(!required, "etcd not installed, and KVORUM_REQUIRE_TOOLS=1 demands it");
        println!("SKIPPED: etcd not installed");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (ours, theirs) =
        (format!("http://{}", listener.local_addr().expect("an address")), format!("http://{}", free_address()));
    let (our_id, their_id) = (member_id(&[&ours], TOKEN, None), member_id(&[&theirs], TOKEN, None));
    let cluster = cluster_id(&[our_id, their_id]);
    let node = Node::start_on(cluster, our_id, listener);
    let folder = tempfile::tempdir().expect("a folder");
    let log = std::fs::File::create(folder.path().join("log")).expect("created");
    let client = format!("http://{}", free_address());
    let child = Command::new(binary)
        .args(["--name", "theirs", "--initial-cluster-token", TOKEN, "--logger", "zap"])
        .args(["--initial-cluster", &format!("ours={ours},theirs={theirs}")])
        .args(["--listen-peer-urls", &theirs, "--initial-advertise-peer-urls", &theirs])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let etcd = Etcd(child.expect("etcd starts"));
    node.transport.add_peer(their_id, std::slice::from_ref(&theirs)).expect("a URL");

    let follower = Mutex::new(Follower::new(our_id, their_id));
    let done = AtomicBool::new(false);
    let (commits, committed) = mpsc::channel();
    std::thread::scope(|scope| {
        let (done, follower, node) = (&done, &follower, &node);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let received = node.recorder.wait_for(Duration::from_millis(50), |notes| {
                    (!notes.messages.is_empty()).then(|| std::mem::take(&mut notes.messages))
                });
                for message in received.unwrap_or_default() {
                    node.transport.send(follower.lock().answer(&message).into_iter().collect());
                }
                // Two changes of members, the election's entry, the member's attributes, the version of the cluster.
                if follower.lock().commit >= 5 {
                    // Told more than once; the other side listens once, and may have left.
                    commits.send(()).ok();
                }
            }
        });
        let _end = EndOf(done);
        if committed.recv_timeout(Duration::from_secs(60)).is_err() {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            panic!("{:?}\n{log}", follower.lock().seen);
        }
        ask_everything(&Url::parse(&theirs).expect("a URL"), cluster, our_id, their_id);
    });
    let follower = follower.into_inner();
    println!("messages seen from etcd: {:?}", follower.seen);
    let peer = node.transport.shared.peer(their_id).expect("added");
    for kind in StreamKind::ALL {
        assert!(peer.outbox(kind).expect("it has streams").is_attached(), "etcd reads our {}", kind.name());
    }
    assert!(follower.voted && node.transport.is_active(their_id));
    lead(&node, &follower);
    send_outdated_snapshot(&node, &follower, &folder.path().join("data/member/snap"));

    drop(etcd);
    node.recorder.wait("the end of its streams", |notes| notes.unreachable.contains(&their_id).then_some(()));
}

/// The questions that a member without applied entries of its own can have answered.
fn ask_everything(url: &Url, cluster: u64, our_id: u64, their_id: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let members = members_of(&dialer(), url, DEADLINE).await.expect("answered");
        assert_eq!(members.cluster_id, cluster);
        let mut ids: Vec<u64> = members.members.iter().map(|member| member.id).collect();
        ids.sort_unstable();
        let mut expected = [our_id, their_id];
        expected.sort_unstable();
        assert_eq!(ids, expected);
        let versions = version_of(&dialer(), url, DEADLINE).await.expect("answered");
        assert!(versions.server.starts_with("3."), "{versions:?}");
        if versions.server.starts_with("3.4.") {
            return;
        }
        let downgrade = downgrade_enabled(&dialer(), url, DEADLINE).await;
        assert_eq!(downgrade, Ok(false));
        assert_eq!(
            renew_lease(&dialer(), std::slice::from_ref(url), 99, DEADLINE).await,
            Err(LeaseUnanswered::Refused(LeaseRefusal::NotFound))
        );
        let hash = hash_kv(&dialer(), url, cluster, 0, DEADLINE).await.expect("answered");
        assert_eq!(hash.header.map(|header| header.revision), Some(1));
        assert_eq!(hash_kv(&dialer(), url, cluster, 1000, DEADLINE).await, Err(HashUnanswered::FutureRevision));
        assert_eq!(hash_kv(&dialer(), url, 1, 0, DEADLINE).await, Err(HashUnanswered::ClusterIdMismatch));
    });
}

/// Takes etcd's place, and sends it entries: the first append whole, the others as what follows from it.
fn lead(node: &Node, follower: &Follower) {
    const APPENDS: u64 = 50;
    let term = follower.term + 5;
    let (from, to) = (follower.id, follower.leader);
    let vote = Message {
        r#type: Some(MessageType::MsgVote.into()),
        from: Some(from),
        to: Some(to),
        term: Some(term),
        log_term: Some(follower.last_term),
        index: Some(follower.last),
        // Asked by the leader to take over, so that etcd votes although it has a leader.
        context: Some("CampaignTransfer".into()),
        ..Message::default()
    };
    node.transport.send(vec![vote]);
    let voted = node.recorder.wait("etcd's vote", |notes| {
        let vote = notes.messages.iter().find(|m| m.r#type() == MessageType::MsgVoteResp && m.term() == term)?;
        Some(!vote.reject())
    });
    assert!(voted, "our log is as new as etcd's");
    let mut previous = (follower.last_term, follower.last);
    let mut appends = Vec::new();
    for number in 0..APPENDS {
        let index = previous.1 + 1;
        let entries = if number % 10 == 9 { vec![] } else { vec![entry(term, index, b"")] };
        let end = if entries.is_empty() { previous } else { (term, index) };
        appends.push(append(from, to, term, previous, follower.commit, entries));
        previous = end;
    }
    node.transport.send(appends);
    node.recorder.wait("that etcd has all entries", |notes| {
        let found = |m: &Message| {
            assert!(m.r#type() != MessageType::MsgAppResp || m.term() != term || !m.reject(), "{m:?}");
            m.r#type() == MessageType::MsgAppResp && m.index() == previous.1
        };
        notes.messages.iter().any(found).then_some(())
    });
}

/// Raft passes over a snapshot of an old term, but the database is on etcd's disk by then.
fn send_outdated_snapshot(node: &Node, follower: &Follower, folder: &std::path::Path) {
    let metadata = SnapshotMetadata { conf_state: None, index: Some(0x77), term: Some(1) };
    let message = Message {
        r#type: Some(MessageType::MsgSnap.into()),
        from: Some(follower.id),
        to: Some(follower.leader),
        term: Some(1),
        snapshot: Some(Snapshot { data: None, metadata: Some(metadata) }),
        ..Message::default()
    };
    let database: Vec<u8> = (0..3_000_000u32).map(|number| number.to_le_bytes()[1]).collect();
    let source = SnapshotSource::new(std::io::Cursor::new(database.clone()), database.len() as u64);
    node.transport.send_snapshot(message, source);
    let sent = node.recorder.wait("the outcome", |notes| notes.snapshots_sent.pop());
    assert_eq!(sent, (follower.leader, true));
    assert!(std::fs::read(folder.join("0000000000000077.snap.db")).expect("etcd saved it") == database);
}

/// Votes for whoever asks, and takes every entry.
struct Follower {
    id: u64,
    leader: u64,
    term: u64,
    last_term: u64,
    last: u64,
    commit: u64,
    voted: bool,
    seen: Vec<&'static str>,
}

impl Follower {
    fn new(id: u64, leader: u64) -> Follower {
        Follower { id, leader, term: 0, last_term: 0, last: 0, commit: 0, voted: false, seen: Vec::new() }
    }

    fn answer(&mut self, message: &Message) -> Option<Message> {
        assert_eq!((message.to(), message.from()), (self.id, self.leader));
        let name = message.r#type().as_str_name();
        if !self.seen.contains(&name) {
            self.seen.push(name);
        }
        let answer = |kind: MessageType| Message {
            r#type: Some(kind.into()),
            from: Some(self.id),
            to: Some(self.leader),
            term: message.term,
            context: message.context.clone(),
            ..Message::default()
        };
        match message.r#type() {
            MessageType::MsgPreVote => Some(answer(MessageType::MsgPreVoteResp)),
            MessageType::MsgVote => {
                let vote = answer(MessageType::MsgVoteResp);
                self.voted = true;
                Some(vote)
            }
            MessageType::MsgHeartbeat => Some(answer(MessageType::MsgHeartbeatResp)),
            MessageType::MsgApp => {
                let mut response = answer(MessageType::MsgAppResp);
                for (index, entry) in (message.index() + 1..).zip(&message.entries) {
                    assert_eq!(entry.index(), index, "entries follow each other");
                }
                let end = message.entries.last().map(|entry| (entry.index(), entry.term()));
                (self.last, self.last_term) = end.unwrap_or((message.index(), message.log_term()));
                self.term = message.term();
                self.commit = self.commit.max(message.commit());
                response.index = Some(self.last);
                Some(response)
            }
            _ => None,
        }
    }
}
