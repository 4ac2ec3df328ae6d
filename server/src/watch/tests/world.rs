//! A store that is a list of batches, a hub over it, and clients that decode what they are sent.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use kvorum_api::etcdserverpb::watch_request::RequestUnion;
use kvorum_api::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use kvorum_api::mvccpb::{self, KeyValue};
use kvorum_api::prost::Message;
use kvorum_store::{Event, EventBatch, EventKind, KvBytes, Previous, Revision};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

use super::super::history::{HistoryFailure, HistoryFuture, HistorySource, HistoryWindow, PreviousRequest};
use super::super::{
    HeaderSource, OutboxReceiver, StreamEnd, WatchConfig, WatchHub, WatchPermits, WatchPublisher, serve_stream,
};

pub(super) const TERM: u64 = 7;

pub(super) struct Header;

impl HeaderSource for Header {
    fn cluster_id(&self) -> u64 {
        14_841_639_068_965_178_418
    }
    fn member_id(&self) -> u64 {
        10_276_657_743_932_975_437
    }
    fn raft_term(&self) -> u64 {
        TERM
    }
}

/// A key that a transaction puts or deletes (`None`).
pub(super) type Change<'a> = (&'a str, Option<&'a str>);

#[derive(Default)]
pub(super) struct Store {
    pub(super) batches: Vec<EventBatch>,
    pub(super) compact_revision: i64,
    /// The value of each key over time.
    values: BTreeMap<Vec<u8>, Vec<(i64, Option<KvBytes>)>>,
    /// Whether events carry the value before, or only say where it lies.
    pub(super) previous_known: bool,
    pub(super) reads: usize,
    /// How often a read yields before it answers.
    pub(super) read_yields: usize,
    pub(super) broken: bool,
}

impl Store {
    pub(super) fn revision(&self) -> i64 {
        1 + self.batches.len() as i64
    }

    fn value_before(&self, key: &[u8], revision: i64) -> Option<KvBytes> {
        let versions = self.values.get(key)?;
        versions.iter().rev().find(|(at, _)| *at < revision).and_then(|(_, kv)| kv.clone())
    }

    pub(super) fn apply(&mut self, changes: &[Change<'_>]) -> EventBatch {
        let revision = self.revision() + 1;
        let mut events = Vec::new();
        for (sub, (key, value)) in (0..).zip(changes) {
            let before = self.value_before(key.as_bytes(), revision);
            let create_revision = match &before {
                Some(kv) => KeyValue::decode(&kv[..]).expect("ours").create_revision,
                None => revision,
            };
            let kv = KeyValue {
                key: key.as_bytes().to_vec().into(),
                mod_revision: revision,
                create_revision: if value.is_some() { create_revision } else { 0 },
                version: i64::from(value.is_some()),
                value: value.unwrap_or_default().as_bytes().to_vec().into(),
                lease: 0,
            };
            let kv: KvBytes = Arc::from(kv.encode_to_vec());
            let previous = match &before {
                None => Previous::None,
                Some(kv) if self.previous_known => Previous::Known(kv.clone()),
                Some(_) => Previous::Stored(Revision::new(1, 0)),
            };
            let entry = (revision, value.map(|_| kv.clone()));
            self.values.entry(key.as_bytes().to_vec()).or_default().push(entry);
            let kind = if value.is_some() { EventKind::Put } else { EventKind::Delete };
            let created = value.is_some() && before.is_none();
            events.push(Event { kind, revision: Revision::new(revision, sub), kv, created, previous });
        }
        let batch = EventBatch { revision, events };
        self.batches.push(batch.clone());
        batch
    }
}

#[derive(Clone)]
pub(super) struct History(pub(super) Arc<Mutex<Store>>);

impl HistorySource for History {
    fn history(&self, from: i64, revisions_max: usize) -> HistoryFuture<HistoryWindow> {
        let store = Arc::clone(&self.0);
        Box::pin(async move {
            let yields = store.lock().unwrap().read_yields;
            for _ in 0..yields {
                tokio::task::yield_now().await;
            }
            let mut store = store.lock().unwrap();
            store.reads += 1;
            if store.broken {
                return Err(HistoryFailure::Backend("broken".to_owned()));
            }
            if from < store.compact_revision {
                return Err(HistoryFailure::Compacted(store.compact_revision));
            }
            let skip = (from - 2).max(0) as usize;
            let mut batches: Vec<EventBatch> = store.batches.iter().skip(skip).take(revisions_max).cloned().collect();
            for event in batches.iter_mut().flat_map(|batch| &mut batch.events) {
                // History does not know what was before.
                event.previous = Previous::None;
            }
            let next = batches.last().map_or(store.revision() + 1, |batch| batch.revision + 1);
            Ok(HistoryWindow { batches, next })
        })
    }

    fn previous_values(&self, requests: Vec<PreviousRequest>) -> HistoryFuture<Vec<Option<KvBytes>>> {
        let store = Arc::clone(&self.0);
        Box::pin(async move {
            let yields = store.lock().unwrap().read_yields;
            for _ in 0..yields {
                tokio::task::yield_now().await;
            }
            let store = store.lock().unwrap();
            let answer = |request: &PreviousRequest| {
                store.value_before(kvorum_store::event::key_of(&request.kv), request.revision)
            };
            Ok(requests.iter().map(answer).collect())
        })
    }
}

pub(super) struct World {
    pub(super) store: Arc<Mutex<Store>>,
    pub(super) publisher: WatchPublisher,
    pub(super) hub: Rc<WatchHub>,
    permits: Rc<Permits>,
}

/// What `reader` may read: keys below one.
#[derive(Default)]
struct Permits {
    generation: std::cell::Cell<u64>,
    below: std::cell::RefCell<String>,
}

impl WatchPermits for Permits {
    fn generation(&self) -> u64 {
        self.generation.get()
    }

    fn permits(&self, user: Option<&str>, key: &[u8], range_end: &[u8]) -> bool {
        let below = self.below.borrow();
        let last = if range_end.is_empty() { key } else { range_end };
        user == Some("reader") && key < below.as_bytes() && last <= below.as_bytes() && range_end != [0]
    }
}

impl World {
    pub(super) fn new(config: WatchConfig) -> Self {
        let store = Arc::new(Mutex::new(Store { previous_known: true, ..Store::default() }));
        let publisher = WatchPublisher::new(1);
        let permits = Rc::new(Permits::default());
        let hub = publisher.attach(config, Rc::new(Header), Rc::new(History(Arc::clone(&store))), permits.clone());
        Self { store, publisher, hub, permits }
    }

    /// From now on `reader` may read nothing but what lies below this key.
    pub(super) fn permit_below(&self, key: &str) {
        *self.permits.below.borrow_mut() = key.to_owned();
        self.permits.generation.set(self.permits.generation.get() + 1);
        self.publisher.permissions_changed();
    }

    /// One transaction. Returns its revision.
    pub(super) fn apply(&self, changes: &[Change<'_>]) -> i64 {
        let batch = self.store.lock().unwrap().apply(changes);
        let revision = batch.revision;
        self.publisher.publish(Arc::from(vec![batch]));
        revision
    }

    pub(super) fn put(&self, key: &str, value: &str) -> i64 {
        self.apply(&[(key, Some(value))])
    }

    pub(super) fn client(&self) -> Client {
        let (outbox, receiver) = self.hub.outbox();
        let (requests, incoming) = mpsc::unbounded_channel();
        let service = tokio::task::spawn_local(serve_stream(
            Rc::clone(&self.hub),
            Requests(incoming),
            outbox,
            Rc::new(|_, _| Ok(Some("reader".into()))),
        ));
        Client { requests: Some(requests), receiver: Some(receiver), service, body: Vec::new(), ready: VecDeque::new() }
    }
}

struct Requests(mpsc::UnboundedReceiver<Result<WatchRequest, String>>);

impl Stream for Requests {
    type Item = Result<WatchRequest, String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

pub(super) struct Client {
    pub(super) requests: Option<mpsc::UnboundedSender<Result<WatchRequest, String>>>,
    pub(super) receiver: Option<OutboxReceiver>,
    pub(super) service: JoinHandle<StreamEnd<String>>,
    body: Vec<u8>,
    ready: VecDeque<WatchResponse>,
}

pub(super) fn create(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.as_bytes().to_vec().into(), ..WatchCreateRequest::default() }
}

pub(super) fn all_keys() -> WatchCreateRequest {
    WatchCreateRequest { range_end: vec![0].into(), ..WatchCreateRequest::default() }
}

impl Client {
    pub(super) fn send(&self, request: Option<RequestUnion>) {
        let requests = self.requests.as_ref().expect("sending side is open");
        requests.send(Ok(WatchRequest { request_union: request })).expect("the service runs");
    }

    pub(super) fn watch(&self, request: WatchCreateRequest) {
        self.send(Some(RequestUnion::CreateRequest(request)));
    }

    pub(super) fn cancel(&self, watch_id: i64) {
        self.send(Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })));
    }

    pub(super) fn ask_progress(&self) {
        self.send(Some(RequestUnion::ProgressRequest(WatchProgressRequest {})));
    }

    /// Creates a watch and takes the created response.
    pub(super) async fn watched(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.watch(request);
        let created = self.next().await;
        assert!(created.created && !created.canceled, "{created:?}");
        created
    }

    pub(super) async fn chunk(&mut self) -> Option<usize> {
        let receiver = self.receiver.as_mut().expect("receiving side is open");
        let bytes = poll_fn(|context| receiver.poll_next(context)).await?;
        self.body.extend_from_slice(&bytes);
        let length = bytes.len();
        while self.body.len() >= 5 {
            assert_eq!(self.body[0], 0, "not compressed");
            let length = u32::from_be_bytes(self.body[1..5].try_into().unwrap()) as usize;
            if self.body.len() < 5 + length {
                break;
            }
            let message: Vec<u8> = self.body.drain(..5 + length).skip(5).collect();
            let response = WatchResponse::decode(&message[..]).expect("a watch response");
            assert_eq!(response.encode_to_vec(), message, "the bytes a protobuf library writes");
            self.ready.push_back(response);
        }
        Some(length)
    }

    pub(super) async fn next_or_end(&mut self) -> Option<WatchResponse> {
        while self.ready.is_empty() {
            self.chunk().await?;
        }
        self.ready.pop_front()
    }

    pub(super) async fn next(&mut self) -> WatchResponse {
        let next = tokio::time::timeout(Duration::from_secs(3600), self.next_or_end()).await;
        next.expect("a response comes").expect("the stream goes on")
    }

    /// Asserts that nothing more comes. The clock is paused: it moves only when every task waits.
    pub(super) async fn silent(&mut self) {
        let next = tokio::time::timeout(Duration::from_millis(50), self.next_or_end()).await;
        assert!(next.is_err(), "unexpected {next:?}");
    }

    /// The next responses until this many events were seen.
    pub(super) async fn events(&mut self, count: usize) -> Vec<mvccpb::Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.next().await.events);
        }
        assert_eq!(events.len(), count);
        events
    }
}

pub(super) fn revision_of(response: &WatchResponse) -> i64 {
    response.header.expect("every response has a header").revision
}

pub(super) fn mod_revisions(events: &[mvccpb::Event]) -> Vec<i64> {
    events.iter().map(|event| event.kv.as_ref().expect("an event has a kv").mod_revision).collect()
}

/// Runs a test on one thread as a connection thread runs, with a clock that only moves when nothing else can happen.
pub(super) fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async { test().await });
}
