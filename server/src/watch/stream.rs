//! One Watch stream: the client's requests in, control responses out. Events reach the stream's outbox through the hub.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::watch_create_request::FilterType;
use kvorum_api::etcdserverpb::watch_request::RequestUnion;
use kvorum_api::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use kvorum_store::watch::{Watch, WatchEnd, WatchFilters};
use tokio::time::{Instant, MissedTickBehavior};

use super::WatchGate;
use super::hub::WatchHub;
use super::outbox::Outbox;
use super::state::NewWatcher;

/// The watch id in responses that belong to no watcher.
const NO_WATCH_ID: i64 = -1;

/// etcd's texts for watches it refuses; they are not in its error table.
const RANGE_EMPTY: &str = "mvcc: watcher range is empty";
const ID_DUPLICATE: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// An error as etcd gives it for the reason of a cancellation: as its gRPC library prints it.
pub fn reason(error: EtcdError) -> String {
    format!("rpc error: code = {:?} desc = {}", error.code(), error.text())
}

/// Requests taken from one stream before the thread turns to its other work.
const REQUESTS_PER_TURN: usize = 64;

/// Why a stream's service ended.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamEnd<E> {
    /// Nobody reads the outbox any more.
    ReceiverGone,
    /// The client's side of the stream broke. A canceled stream is answered with `EtcdError::WatchCanceled`.
    RequestFailed(E),
    /// A watcher's history could not be read, and why. To be answered as unavailable: clients then reconnect and resume.
    HistoryFailed(String),
}

/// Removes the stream and its watchers however the service ends, also when its future is dropped.
struct OpenStream<'a> {
    hub: &'a WatchHub,
    index: usize,
    gate: &'a WatchGate,
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.hub.inner.state.borrow_mut().close_stream(self.index);
    }
}

/// Serves one Watch stream until the client is gone. A client that only closes its sending side keeps its watchers, as in
/// etcd. Requests are not read while the outbox is full. To be run on the hub's thread, with the outbox from
/// [`WatchHub::outbox`]; when it returns, the outbox ends after what is queued.
pub async fn serve_stream<R, E>(hub: Rc<WatchHub>, mut requests: R, outbox: Outbox, gate: Rc<WatchGate>) -> StreamEnd<E>
where
    R: Stream<Item = Result<WatchRequest, E>> + Unpin,
{
    let stream = {
        let mut state = hub.inner.state.borrow_mut();
        let index = state.open_stream(outbox.handle());
        OpenStream { hub: &hub, index, gate: &*gate }
    };
    let interval = stream.progress_interval();
    let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let signal = outbox.signal();
    let mut requests_open = true;
    let mut requests_in_turn = 0;
    loop {
        if outbox.receiver_gone() {
            return StreamEnd::ReceiverGone;
        }
        if let Some(reason) = stream.failure() {
            return StreamEnd::HistoryFailed(reason);
        }
        let next_request = async {
            outbox.room().await;
            poll_fn(|context| Pin::new(&mut requests).poll_next(context)).await
        };
        // `room` and this select wait for the same signal; whoever takes it, the loop comes round.
        tokio::select! {
            biased;
            () = signal.notified() => {}
            _ = ticks.tick() => stream.progress_tick(),
            request = next_request, if requests_open => match request {
                Some(Ok(request)) => {
                    stream.handle(request);
                    requests_in_turn += 1;
                    if requests_in_turn == REQUESTS_PER_TURN {
                        requests_in_turn = 0;
                        tokio::task::yield_now().await;
                    }
                }
                Some(Err(error)) => return StreamEnd::RequestFailed(error),
                None => requests_open = false,
            },
        }
    }
}

impl OpenStream<'_> {
    fn progress_interval(&self) -> Duration {
        let mut state = self.hub.inner.state.borrow_mut();
        let interval = state.config.progress_interval;
        let tenth = (interval / 10).as_nanos().max(1);
        let jitter = u128::from(state.next_jitter()) % tenth;
        interval + Duration::from_nanos(u64::try_from(jitter).unwrap_or(0))
    }

    fn failure(&self) -> Option<String> {
        self.hub.inner.state.borrow().streams[self.index].failure.clone()
    }

    fn progress_tick(&self) {
        self.hub.inner.state.borrow_mut().progress_tick(self.index);
    }

    fn handle(&self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request),
            Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => {
                self.hub.inner.state.borrow_mut().progress_of_all(self.index);
            }
            // A request this version does not know must not end the stream.
            None => {}
        }
    }

    fn create(&self, request: WatchCreateRequest) {
        let mut state = self.hub.inner.state.borrow_mut();
        let is_full = state.watchers.len() >= state.config.limits.thread_watchers
            || state.streams[self.index].watches.len() >= state.config.limits.stream_watches;
        let checked = match is_full {
            true => Err(EtcdError::RequestTooManyRequests.text().to_owned()),
            false => self.check(&mut state.streams[self.index], &request),
        };
        match checked {
            Err(reason) => {
                let revision = state.current_revision();
                let response = WatchResponse {
                    watch_id: NO_WATCH_ID,
                    created: true,
                    canceled: true,
                    cancel_reason: reason,
                    ..WatchResponse::default()
                };
                state.send_control(self.index, revision, response);
            }
            Ok((watch_id, user, watch)) => {
                state.wake_up();
                let revision = state.current_revision();
                let response = WatchResponse { watch_id, created: true, ..WatchResponse::default() };
                state.send_control(self.index, revision, response);
                state.add_watcher(NewWatcher {
                    stream: self.index,
                    watch_id,
                    start_revision: request.start_revision,
                    wants_fragments: request.fragment,
                    wants_progress: request.progress_notify,
                    user,
                    watch,
                });
            }
        }
    }

    /// etcd's checks in etcd's order; the id is chosen last.
    fn check(
        &self,
        stream: &mut super::state::StreamState,
        request: &WatchCreateRequest,
    ) -> Result<(i64, Option<Arc<str>>, Watch), String> {
        // The smallest key stands for none.
        let key: &[u8] = if request.key.is_empty() { b"\0" } else { &request.key };
        if request.start_revision < 0 {
            return Err(EtcdError::Compacted.text().to_owned());
        }
        let user = (self.gate)(key, &request.range_end)?;
        let end = match &request.range_end[..] {
            [] => WatchEnd::Single,
            [0] => WatchEnd::Unbounded,
            end if key >= end => return Err(RANGE_EMPTY.to_owned()),
            end => WatchEnd::Before(Arc::from(end)),
        };
        let watch_id = if request.watch_id == 0 {
            while stream.watches.contains_key(&stream.next_id) {
                stream.next_id += 1;
            }
            stream.next_id += 1;
            stream.next_id - 1
        } else if stream.watches.contains_key(&request.watch_id) {
            return Err(ID_DUPLICATE.to_owned());
        } else {
            request.watch_id
        };
        let filters = WatchFilters {
            no_put: request.filters.contains(&(FilterType::Noput as i32)),
            no_delete: request.filters.contains(&(FilterType::Nodelete as i32)),
        };
        let watch = Watch {
            watcher: 0,
            key: Arc::from(key),
            end,
            filters,
            minimum_revision: 0,
            wants_previous: request.prev_kv,
        };
        Ok((watch_id, user, watch))
    }

    fn cancel(&self, watch_id: i64) {
        let mut state = self.hub.inner.state.borrow_mut();
        // What was published before the request still belongs to the watcher.
        let revision = state.current_revision();
        if !state.remove_watch(self.index, watch_id) {
            return;
        }
        let response = WatchResponse { watch_id, canceled: true, ..WatchResponse::default() };
        state.send_control(self.index, revision, response);
        state.settle();
    }
}
