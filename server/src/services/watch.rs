//! Watch: joins the HTTP/2 stream to the hub of its thread, and the hub to the store's history.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use kvorum_api::etcdserverpb::WatchRequest;
use kvorum_api::etcdserverpb::watch_request::RequestUnion;
use kvorum_api::{Code, EtcdError};
use kvorum_store::event::key_of;
use kvorum_store::{Access, Caller, HistoryError, KvBytes, ReadError, Reader};

use super::Call;
use crate::auth::{Credentials, Identity};
use crate::core::Core;
use crate::grpc::{MessageReader, Responder, Status, decode_streamed};
use crate::metrics::{GrpcCode, GrpcMethod};
use crate::watch::{
    HeaderSource, HistoryFailure, HistoryFuture, HistorySource, HistoryWindow, PreviousRequest, StreamEnd, WatchGate,
    WatchPermits, reason, serve_stream,
};
use crate::worker::Worker;

/// Who asks, as last found out.
type Asking = Rc<RefCell<Result<Option<Identity>, EtcdError>>>;

type Identifying = Pin<Box<dyn Future<Output = Result<Option<Identity>, EtcdError>>>>;

/// The requests of a stream, decoded. Before one that creates a watcher it is found out who asks.
struct Requests {
    messages: MessageReader,
    worker: Rc<Worker>,
    credentials: Credentials,
    asking: Asking,
    /// What waits until that is known.
    waiting: Option<(WatchRequest, Identifying)>,
}

impl Requests {
    fn identify(&self, request: &WatchRequest) -> Option<Identifying> {
        let creates = matches!(request.request_union, Some(RequestUnion::CreateRequest(_)));
        if !creates {
            return None;
        }
        if let Some(identity) = self.worker.identify_known(&self.credentials) {
            *self.asking.borrow_mut() = identity;
            return None;
        }
        if self.worker.reader.auth_generation() == 0 {
            // What no token says, since nobody can check it.
            *self.asking.borrow_mut() = Ok(None);
            return None;
        }
        let (worker, credentials) = (Rc::clone(&self.worker), self.credentials.clone());
        Some(Box::pin(async move { worker.identify(&credentials).await }))
    }
}

impl Stream for Requests {
    type Item = Result<WatchRequest, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some((request, mut identifying)) = self.waiting.take() {
                let Poll::Ready(identity) = identifying.as_mut().poll(context) else {
                    self.waiting = Some((request, identifying));
                    return Poll::Pending;
                };
                *self.asking.borrow_mut() = identity;
                return Poll::Ready(Some(Ok(request)));
            }
            let message = ready!(self.messages.poll_message(context));
            let request = message.map(|message| message.and_then(decode_streamed::<WatchRequest>));
            let Some(Ok(request)) = request else { return Poll::Ready(request) };
            match self.identify(&request) {
                None => return Poll::Ready(Some(Ok(request))),
                Some(identifying) => self.waiting = Some((request, identifying)),
            }
        }
    }
}

/// Serves one Watch stream until the client is gone or the member stops.
pub async fn serve(worker: &Rc<Worker>, call: &Call, messages: MessageReader, respond: Responder) {
    let metrics = &worker.core.metrics;
    metrics.grpc.started(GrpcMethod::Watch);
    let Some(mut stream) = respond.stream() else { return };
    let (outbox, mut receiver) = worker.hub.outbox();
    let hub = Rc::clone(&worker.hub);
    let asking: Asking = Rc::new(RefCell::new(Ok(None)));
    let requests = Requests {
        messages,
        worker: Rc::clone(worker),
        credentials: call.credentials.clone(),
        asking: Rc::clone(&asking),
        waiting: None,
    };
    let gate = gate(worker, asking);
    let service = tokio::task::spawn_local(serve_stream(hub, requests, outbox, gate));
    let mut stop = worker.core.watch_stop();
    loop {
        let frames = tokio::select! {
            frames = poll_fn(|context| receiver.poll_next(context)) => frames,
            () = poll_fn(|context| stream.poll_reset(context)) => {
                metrics.grpc.handled(GrpcMethod::Watch, GrpcCode::CANCELED);
                return;
            }
            () = super::reached(call.deadline) => {
                metrics.grpc.handled(GrpcMethod::Watch, GrpcCode::from_number(Code::DeadlineExceeded as i32));
                return stream.finish(Err(Status::deadline_exceeded()));
            }
            () = super::leader_lost(&worker.core, call) => {
                metrics.grpc.handled(GrpcMethod::Watch, GrpcCode::from_number(Code::Unavailable as i32));
                return stream.finish(Err(EtcdError::NoLeader.into()));
            }
            _ = stop.wait_for(|stopping| *stopping) => return stream.finish(Err(EtcdError::Stopped.into())),
        };
        let Some(frames) = frames else { break };
        metrics.client_sent_bytes_total.add(frames.len() as u64);
        if !stream.send(frames).await {
            metrics.grpc.handled(GrpcMethod::Watch, GrpcCode::CANCELED);
            return;
        }
    }
    drop(receiver);
    let status = match service.await {
        Ok(StreamEnd::RequestFailed(status)) if status.code == Code::Canceled => EtcdError::WatchCanceled.into(),
        Ok(StreamEnd::RequestFailed(status)) => status,
        Ok(StreamEnd::ReceiverGone) => EtcdError::WatchCanceled.into(),
        Ok(StreamEnd::HistoryFailed(reason)) => Status::new(Code::Unavailable, reason),
        Err(_) => EtcdError::Stopped.into(),
    };
    metrics.grpc.handled(GrpcMethod::Watch, GrpcCode::from_number(status.code as i32));
    stream.finish(Err(status));
}

/// As etcd checks a new watcher. What it calls an unknown reason is told as a denial.
fn gate(worker: &Rc<Worker>, asking: Asking) -> Rc<WatchGate> {
    let worker = Rc::clone(worker);
    Rc::new(move |key, range_end| {
        let identity = asking.borrow().clone().map_err(reason)?;
        if let Some(auth) = worker.auth() {
            let caller = identity.as_ref().map_or(Caller::NOBODY, Identity::caller);
            auth.check_keys(caller, Access::Read, key, range_end).map_err(reason)?;
        }
        Ok(identity.map(|identity| identity.user))
    })
}

/// What users may read, by the store.
pub struct StorePermits(pub Reader);

impl WatchPermits for StorePermits {
    fn generation(&self) -> u64 {
        self.0.auth_generation()
    }

    fn permits(&self, user: Option<&str>, key: &[u8], range_end: &[u8]) -> bool {
        self.0.auth().permits(user.unwrap_or_default(), Access::Read, key, range_end)
    }
}

/// What the responses' headers say.
pub struct CoreHeader(pub Arc<Core>);

impl HeaderSource for CoreHeader {
    fn cluster_id(&self) -> u64 {
        self.0.config.cluster_id
    }

    fn member_id(&self) -> u64 {
        self.0.config.member_id
    }

    fn raft_term(&self) -> u64 {
        self.0.term()
    }
}

/// The store's past, read on the thread's reader pool.
pub struct StoreHistory(pub Reader);

impl HistorySource for StoreHistory {
    fn history(&self, from: i64, revisions_max: usize) -> HistoryFuture<HistoryWindow> {
        let reader = self.0.clone();
        read(move || match reader.history(from, revisions_max) {
            Ok(history) => Ok(HistoryWindow { batches: history.batches, next: history.next }),
            Err(HistoryError::Compacted(revision)) => Err(HistoryFailure::Compacted(revision)),
            Err(HistoryError::Backend(error)) => Err(HistoryFailure::Backend(error.to_string())),
        })
    }

    fn previous_values(&self, requests: Vec<PreviousRequest>) -> HistoryFuture<Vec<Option<KvBytes>>> {
        let reader = self.0.clone();
        read(move || requests.iter().map(|request| previous_value(&reader, request)).collect())
    }
}

fn previous_value(reader: &Reader, request: &PreviousRequest) -> Result<Option<KvBytes>, HistoryFailure> {
    // Not by `request.stored`: etcd sends no value from before the compaction, even where one still lies.
    match reader.value_before(key_of(&request.kv), request.revision) {
        Ok(value) => Ok(value),
        // etcd leaves `prev_kv` out when it is compacted.
        Err(ReadError::Compacted | ReadError::FutureRevision) => Ok(None),
        Err(ReadError::Backend(error)) => Err(HistoryFailure::Backend(error.to_string())),
    }
}

fn read<T: Send + 'static>(work: impl FnOnce() -> Result<T, HistoryFailure> + Send + 'static) -> HistoryFuture<T> {
    let task = tokio::task::spawn_blocking(work);
    Box::pin(async move { task.await.map_err(|error| HistoryFailure::Backend(error.to_string()))? })
}
