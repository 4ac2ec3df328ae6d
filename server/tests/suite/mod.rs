//! What every test of the suite stands on: members, clients, and waiting without sleeping.

mod advisories;
mod auth;
mod bad_input;
mod clusters;
mod compactions;
mod corruption;
mod files;
mod leases;
mod pages;
mod proposals;
mod raw;
mod shrinking;
mod snapshots;
mod space;
mod starting;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use kvorum_api::etcdserverpb as pb;
use kvorum_api::etcdserverpb::cluster_client::ClusterClient;
use kvorum_api::etcdserverpb::kv_client::KvClient;
use kvorum_api::etcdserverpb::lease_client::LeaseClient;
use kvorum_api::etcdserverpb::maintenance_client::MaintenanceClient;
use kvorum_api::etcdserverpb::watch_client::WatchClient;
use kvorum_api::mvccpb::Event;
use kvorum_server::config::Config;
use kvorum_server::start::{Running, start};
use kvorum_server::urls::Url;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// A test that takes longer hangs.
const TEST_TIME_MAX: Duration = Duration::from_secs(60);

/// Runs a test beside a runtime thread of its own, so that a test may block on a member's stop while its connections
/// live on.
pub fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime starts");
    let in_time = runtime.block_on(async { tokio::time::timeout(TEST_TIME_MAX, test).await });
    runtime.shutdown_background();
    in_time.expect("the test ends in time");
}

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The configuration of an embedded member as this run of the suite wants it.
pub fn config(folder: &Path) -> Config {
    let config = kvorum_server::embed::config(folder);
    let value_budget_bytes = crate::VALUE_BUDGET_BYTES.unwrap_or(config.value_budget_bytes);
    Config { value_budget_bytes, ..config }
}

/// With ticks so short that leases of one second are granted.
pub fn quick_config(folder: &Path) -> Config {
    Config {
        heartbeat_interval: Duration::from_millis(10),
        election_timeout: Duration::from_millis(100),
        ..config(folder)
    }
}

/// A member and a client of it.
pub struct Half {
    pub client: Client,
    pub member: Running,
}

pub fn start_with(config: &Config) -> Half {
    let member = start(config).expect("a member starts");
    Half { client: Client::new(&member), member }
}

#[derive(Clone)]
pub struct Client {
    pub address: String,
    channel: Channel,
}

impl Client {
    pub fn new(member: &Running) -> Self {
        let url = member.client_url();
        let address = url.trim_start_matches("http://").to_owned();
        let endpoint = Endpoint::from_shared(url).expect("a member's URL is valid");
        Self { address, channel: endpoint.connect_lazy() }
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_encoding_message_size(usize::MAX).max_decoding_message_size(usize::MAX)
    }

    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    pub fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    /// Puts and gives the revision.
    pub async fn put(&self, key: &str, value: &str) -> i64 {
        self.try_put(put(key, value)).await.expect("a put succeeds")
    }

    pub async fn try_put(&self, request: pb::PutRequest) -> Result<i64, tonic::Status> {
        let response = self.kv().put(request).await?.into_inner();
        Ok(response.header.expect("a header").revision)
    }

    pub async fn get(&self, key: &str) -> Option<String> {
        let response = self.kv().range(key_range(key)).await.expect("a range succeeds").into_inner();
        response.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).expect("tests put text"))
    }

    /// Everything a bad request must leave alone.
    pub async fn fingerprint(&self) -> Fingerprint {
        let mut maintenance = self.maintenance();
        let hashed = maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await.expect("a hash").into_inner();
        let leases = self.lease().lease_leases(pb::LeaseLeasesRequest {}).await.expect("leases").into_inner().leases;
        Fingerprint {
            revision: hashed.header.expect("a header").revision,
            hash: hashed.hash,
            compact_revision: hashed.compact_revision,
            leases: leases.len(),
        }
    }

    pub async fn grant(&self, ttl: i64) -> i64 {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        self.lease().lease_grant(request).await.expect("a lease is granted").into_inner().id
    }

    pub async fn time_to_live(&self, id: i64) -> pb::LeaseTimeToLiveResponse {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        self.lease().lease_time_to_live(request).await.expect("a time to live").into_inner()
    }

    pub async fn status(&self) -> pb::StatusResponse {
        self.maintenance().status(pb::StatusRequest {}).await.expect("a status").into_inner()
    }

    pub async fn applied_index(&self) -> u64 {
        self.status().await.raft_applied_index
    }

    pub async fn compact(&self, revision: i64, physical: bool) -> Result<(), tonic::Status> {
        self.kv().compact(pb::CompactionRequest { revision, physical }).await.map(drop)
    }

    /// A watch stream with one watch on it, created.
    pub async fn watch(&self, request: pb::WatchCreateRequest) -> Watch {
        let mut watch = self.watch_stream().await;
        watch.create(request);
        let created = watch.next().await;
        assert!(created.created, "{created:?}");
        watch
    }

    pub async fn watch_stream(&self) -> Watch {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut client = WatchClient::new(self.channel.clone());
        let responses = client.watch(UnboundedReceiverStream::new(receiver)).await.expect("a watch stream");
        Watch { requests, responses: responses.into_inner() }
    }

    pub async fn keep_alive(&self) -> KeepAlive {
        let (requests, receiver) = mpsc::unbounded_channel();
        let responses = self.lease().lease_keep_alive(UnboundedReceiverStream::new(receiver)).await;
        KeepAlive { requests, responses: responses.expect("a stream of renewals").into_inner() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    pub revision: i64,
    pub hash: u32,
    pub compact_revision: i64,
    pub leases: usize,
}

pub struct Watch {
    requests: mpsc::UnboundedSender<pb::WatchRequest>,
    responses: tonic::Streaming<pb::WatchResponse>,
}

impl Watch {
    pub fn send(&self, request: pb::watch_request::RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.requests.send(request).expect("the stream is open");
    }

    pub fn create(&self, request: pb::WatchCreateRequest) {
        self.send(pb::watch_request::RequestUnion::CreateRequest(request));
    }

    pub async fn next(&mut self) -> pb::WatchResponse {
        self.responses.message().await.expect("the stream goes on").expect("there is a response")
    }

    /// The next events, of one response.
    pub async fn events(&mut self) -> Vec<Event> {
        let response = self.next().await;
        assert!(!response.events.is_empty(), "{response:?}");
        response.events
    }

    /// How the stream ends.
    pub async fn end(&mut self) -> tonic::Status {
        loop {
            match self.responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return tonic::Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

pub struct KeepAlive {
    requests: mpsc::UnboundedSender<pb::LeaseKeepAliveRequest>,
    responses: tonic::Streaming<pb::LeaseKeepAliveResponse>,
}

impl KeepAlive {
    /// Renews and gives the TTL answered.
    pub async fn renew(&mut self, id: i64) -> i64 {
        self.ask(id);
        self.ttl().await
    }

    pub fn ask(&self, id: i64) {
        self.requests.send(pb::LeaseKeepAliveRequest { id }).expect("the stream is open");
    }

    pub async fn ttl(&mut self) -> i64 {
        self.responses.message().await.expect("the stream goes on").expect("there is a response").ttl
    }
}

/// Time between two looks at something that tells nobody when it changes: a file.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Waits for what other threads do to files; the test's own time is the limit.
pub async fn eventually(condition: impl Fn() -> bool) {
    eventually_after(async || tokio::time::sleep(LOOK_INTERVAL).await, condition).await;
}

/// The same, doing something before each look.
pub async fn eventually_after(step: impl AsyncFn(), condition: impl Fn() -> bool) {
    while !condition() {
        step().await;
    }
}

pub fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..pb::PutRequest::default() }
}

pub fn leased(key: &str, lease: i64) -> pb::PutRequest {
    pb::PutRequest { lease, ..put(key, "leased") }
}

pub fn key_range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..pb::RangeRequest::default() }
}

/// Everything from the first key on.
pub fn whole_range() -> pb::RangeRequest {
    pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..pb::RangeRequest::default() }
}

pub fn watch_all() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: vec![0].into(), range_end: vec![0].into(), ..pb::WatchCreateRequest::default() }
}

pub fn url(text: &str) -> Url {
    Url::parse(text).expect("tests give valid URLs")
}

pub fn stop(mut member: Running) {
    member.stop();
    assert_eq!(member.core().failure(), None);
}
