//! A member that notes what it is told, connections that can be cut, and a plain HTTP client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::{HashKvResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader};
use kvorum_api::raftpb::{Entry, Message, MessageType};
use kvorum_disk::RealFileSystem;
use kvorum_store::Member;
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

use crate::cluster::versions::Versions;
use crate::limits::{ConnectionLimits, PEER_CONNECTIONS_MAX};
use crate::peer::contract::{HASH_COMPACTED, HASH_FUTURE};
use crate::peer::framing::StreamKind;
use crate::peer::{Answer, Dialer, LeaseRefusal, PeerAnswers, PeerConfig, PeerEvents, PeerTransport};
use crate::urls::Url;

pub const CLUSTER: u64 = 0x1234_5678_9abc_def0;

/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Notes {
    pub messages: Vec<Message>,
    pub snapshots: Vec<(Message, PathBuf)>,
    pub gone: Vec<u64>,
    pub unreachable: Vec<u64>,
    pub snapshots_sent: Vec<(u64, bool)>,
    pub removed: Vec<u64>,
    pub removed_by_peer: bool,
}

impl Notes {
    /// How many entries came.
    pub fn entries(&self) -> usize {
        self.messages.iter().map(|message| message.entries.len()).sum()
    }
}

/// What a member was told.
#[derive(Default)]
pub struct Recorder {
    notes: Mutex<Notes>,
    changed: Condvar,
}

impl Recorder {
    pub fn change(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.notes.lock());
        self.changed.notify_all();
    }

    /// Waits until `found` gives something.
    pub fn wait<T>(&self, what: &str, mut found: impl FnMut(&mut Notes) -> Option<T>) -> T {
        self.wait_for(PATIENCE, &mut found).unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}"))
    }

    pub fn wait_for<T>(&self, patience: Duration, mut found: impl FnMut(&mut Notes) -> Option<T>) -> Option<T> {
        let until = Instant::now() + patience;
        let mut notes = self.notes.lock();
        loop {
            if let Some(found) = found(&mut notes) {
                return Some(found);
            }
            if self.changed.wait_until(&mut notes, until).timed_out() {
                return found(&mut notes);
            }
        }
    }
}

impl PeerEvents for Recorder {
    fn receive(&self, messages: Vec<Message>) {
        self.change(|notes| notes.messages.extend(messages));
    }

    fn receive_snapshot(&self, message: Message, database: PathBuf) -> Answer<Result<(), String>> {
        self.change(|notes| notes.snapshots.push((message, database)));
        Box::pin(async { Ok(()) })
    }

    fn is_removed(&self, member_id: u64) -> bool {
        self.notes.lock().removed.contains(&member_id)
    }

    fn unreachable(&self, member_id: u64) {
        self.change(|notes| notes.unreachable.push(member_id));
    }

    fn gone(&self, member_id: u64) {
        self.change(|notes| notes.gone.push(member_id));
    }

    fn snapshot_sent(&self, member_id: u64, ok: bool) {
        self.change(|notes| notes.snapshots_sent.push((member_id, ok)));
    }

    fn removed_by_peer(&self) {
        self.change(|notes| notes.removed_by_peer = true);
    }
}

/// A member with one lease (7), one learner that is ready (3) and one that is not (4).
pub struct Answers;

pub fn members() -> Vec<Member> {
    vec![
        Member {
            id: 1,
            name: "one".to_owned(),
            peer_urls: vec!["http://127.0.0.1:1".to_owned()],
            client_urls: vec!["http://127.0.0.1:2".to_owned()],
            is_learner: false,
        },
        Member { id: 3, peer_urls: vec!["http://127.0.0.1:3".to_owned()], is_learner: true, ..Member::default() },
    ]
}

impl PeerAnswers for Answers {
    fn members(&self) -> Vec<Member> {
        members()
    }

    fn versions(&self) -> Versions {
        Versions { server: "3.7.1".to_owned(), cluster: "3.7.0".to_owned(), storage: "3.7.0".to_owned() }
    }

    fn renew_lease(&self, lease_id: i64) -> Answer<Result<i64, LeaseRefusal>> {
        Box::pin(async move {
            match lease_id {
                7 => Ok(60),
                8 => Err(LeaseRefusal::Timeout),
                9 => Err(LeaseRefusal::NotPrimary),
                _ => Err(LeaseRefusal::NotFound),
            }
        })
    }

    fn lease_times(&self, request: LeaseTimeToLiveRequest) -> Answer<Result<LeaseTimeToLiveResponse, LeaseRefusal>> {
        Box::pin(async move {
            match request.id {
                7 => Ok(LeaseTimeToLiveResponse {
                    header: Some(ResponseHeader::default()),
                    id: 7,
                    ttl: 42,
                    granted_ttl: 60,
                    keys: if request.keys { vec!["key".into()] } else { Vec::new() },
                }),
                9 => Err(LeaseRefusal::NotPrimary),
                _ => Err(LeaseRefusal::NotFound),
            }
        })
    }

    fn promote(&self, member_id: u64, token: Option<String>) -> Answer<Result<Vec<Member>, EtcdError>> {
        Box::pin(async move {
            match member_id {
                3 if token.as_deref() == Some("token") => Ok(members()),
                3 => Err(EtcdError::PermissionDenied),
                4 => Err(EtcdError::LearnerNotReady),
                1 => Err(EtcdError::MemberNotLearner),
                _ => Err(EtcdError::MemberNotFound),
            }
        })
    }

    fn hash_kv(&self, revision: i64) -> Answer<Result<HashKvResponse, String>> {
        Box::pin(async move {
            match revision {
                1 => Err(HASH_COMPACTED.to_owned()),
                1000 => Err(HASH_FUTURE.to_owned()),
                _ => Ok(HashKvResponse {
                    header: Some(ResponseHeader { revision: 9, ..ResponseHeader::default() }),
                    hash: 0xdead_beef,
                    compact_revision: 0,
                    hash_revision: revision,
                }),
            }
        })
    }

    fn downgrade_enabled(&self) -> Answer<Result<bool, String>> {
        Box::pin(async { Ok(true) })
    }
}

/// A running transport and the member it works for.
pub struct Node {
    pub id: u64,
    pub transport: PeerTransport,
    pub recorder: Arc<Recorder>,
    pub address: SocketAddr,
    pub folder: TempDir,
}

impl Node {
    pub fn start(id: u64) -> Node {
        Node::start_in(CLUSTER, id)
    }

    pub fn start_in(cluster_id: u64, id: u64) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Node::start_on(cluster_id, id, listener)
    }

    pub fn start_on(cluster_id: u64, id: u64, listener: TcpListener) -> Node {
        let address = listener.local_addr().expect("a bound socket has an address");
        let folder = tempfile::tempdir().expect("a folder");
        let recorder = Arc::new(Recorder::default());
        let config = PeerConfig {
            member_id: id,
            cluster_id,
            urls: vec![Url::parse(&format!("http://{address}")).expect("a URL")],
            snapshot_folder: folder.path().to_owned(),
            file_system: Arc::new(RealFileSystem),
            dial_timeout: Duration::from_secs(2),
            dialer: Dialer::default(),
            connections_max: PEER_CONNECTIONS_MAX,
            head_time: ConnectionLimits::default().peer_head_time,
        };
        let events: Arc<Recorder> = Arc::clone(&recorder);
        let transport =
            PeerTransport::start(config, vec![(None, listener)], events, Arc::new(Answers)).expect("started");
        Node { id, transport, recorder, address, folder }
    }

    pub fn urls(&self) -> Vec<String> {
        vec![format!("http://{}", self.address)]
    }

    pub fn url(&self) -> Url {
        Url::parse(&self.urls()[0]).expect("a URL")
    }

    /// Waits until the other member reads both streams.
    pub fn wait_for_streams(&self, other: u64) {
        let peer = self.transport.shared.peer(other).expect("added before");
        let until = Instant::now() + PATIENCE;
        let attached = |kind| peer.outbox(kind).expect("it has streams").is_attached();
        while !StreamKind::ALL.into_iter().all(attached) {
            assert!(Instant::now() < until, "streams are not attached");
            std::thread::yield_now();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.transport.stop();
    }
}

pub fn heartbeat(from: u64, to: u64, commit: u64) -> Message {
    Message {
        r#type: Some(MessageType::MsgHeartbeat.into()),
        from: Some(from),
        to: Some(to),
        term: Some(1),
        commit: Some(commit),
        ..Message::default()
    }
}

pub fn entry(term: u64, index: u64, data: &'static [u8]) -> Entry {
    Entry { r#type: Some(0), term: Some(term), index: Some(index), data: Some(bytes::Bytes::from_static(data)) }
}

/// The same appends, those that follow from each other as one: the transport puts together what waits.
pub fn joined(messages: Vec<Message>) -> Vec<Message> {
    let mut joined: Vec<Message> = Vec::new();
    for message in messages {
        match joined.last_mut() {
            Some(last) if last.index() + last.entries.len() as u64 == message.index() => {
                last.commit = message.commit;
                last.entries.extend(message.entries);
            }
            _ => joined.push(message),
        }
    }
    joined
}

pub fn append(from: u64, to: u64, term: u64, previous: (u64, u64), commit: u64, entries: Vec<Entry>) -> Message {
    Message {
        r#type: Some(MessageType::MsgApp.into()),
        from: Some(from),
        to: Some(to),
        term: Some(term),
        log_term: Some(previous.0),
        index: Some(previous.1),
        commit: Some(commit),
        entries,
        ..Message::default()
    }
}

/// What came back for a request, as text.
#[derive(Debug)]
pub struct RawAnswer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl RawAnswer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Sends bytes as they are, and reads to the end of the connection.
pub fn exchange(address: SocketAddr, request: &[u8]) -> RawAnswer {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(request).expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answered");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    RawAnswer {
        status: status.unwrap_or_default(),
        headers: lines.filter_map(|line| line.split_once(": ").map(|(a, b)| (a.to_owned(), b.to_owned()))).collect(),
        body: body.to_owned(),
    }
}

/// One request that closes its connection; `headers` are whole lines.
pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> RawAnswer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    if !body.is_empty() || method == "POST" {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let mut request = request.into_bytes();
    request.extend_from_slice(body);
    exchange(address, &request)
}

/// A way to an address that can be cut and mended.
pub struct Cable {
    pub address: SocketAddr,
    cut: Arc<tokio::sync::watch::Sender<bool>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Cable {
    pub fn to(target: SocketAddr) -> Cable {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let cut = Arc::new(tokio::sync::watch::Sender::new(false));
        let sender = Arc::clone(&cut);
        runtime.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = sender.subscribe();
                if *cut.borrow() {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut far) = tokio::net::TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Cable { address, cut, runtime: Some(runtime) }
    }

    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.cut.send_replace(false);
    }

    pub fn urls(&self) -> Vec<String> {
        vec![format!("http://{}", self.address)]
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Dials without certificates.
pub fn dialer() -> Dialer {
    Dialer::default()
}
