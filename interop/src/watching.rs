//! One watch stream of one server: sends requests, and sorts what arrives by watch id so that two servers can be compared
//! although neither promises in which order the events of different watchers travel, nor how many events share a
//! response. It checks on the way what a server promises about each response; breaches are kept as faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kvorum_api::{etcdserverpb as pb, mvccpb};
use pb::watch_request::RequestUnion;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::compare::{Identity, anonymous_header};
use crate::raw::Failure;

/// Requests on their way to the server.
const REQUESTS_BOUND: usize = 64;

/// etcd's bound for the revisions in one response.
const REVISIONS_IN_A_RESPONSE_MAX: usize = 1000;

/// How long anything may take to arrive.
pub const ARRIVAL: Duration = Duration::from_secs(20);

/// The id of answers that speak for the whole stream.
pub const NO_WATCH: i64 = -1;

/// What arrived so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Answers to create requests, in order, without identifiers.
    pub created: Vec<pb::WatchResponse>,
    /// Cancellations by watch id, without identifiers.
    pub canceled: BTreeMap<i64, Vec<pb::WatchResponse>>,
    /// Events by watch id, in order, since they were last forgotten.
    pub events: BTreeMap<i64, Vec<mvccpb::Event>>,
    /// Revisions of progress answers for the whole stream.
    pub progress: Vec<i64>,
    /// Broken promises.
    pub faults: Vec<String>,
    /// Why the stream ended, if it did.
    pub ended: Option<Option<Failure>>,
    announced: BTreeSet<i64>,
}

/// An open watch stream.
#[derive(Debug)]
pub struct WatchStream {
    requests: mpsc::Sender<pb::WatchRequest>,
    seen: Arc<watch::Sender<Seen>>,
}

impl WatchStream {
    /// Opens a stream; what arrives is followed by a task until the stream ends.
    pub fn open(channel: &Channel, identity: Identity) -> WatchStream {
        let (requests, receiver) = mpsc::channel(REQUESTS_BOUND);
        let seen = Arc::new(watch::Sender::new(Seen::default()));
        let sender = Arc::clone(&seen);
        let mut client = pb::watch_client::WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        tokio::spawn(async move {
            let ended = match client.watch(ReceiverStream::new(receiver)).await {
                Err(status) => Some(status.into()),
                Ok(responses) => {
                    let mut responses = responses.into_inner();
                    loop {
                        match responses.next().await {
                            Some(Ok(response)) => sender.send_modify(|seen| seen.take(response, identity)),
                            Some(Err(status)) => break Some(status.into()),
                            None => break None,
                        }
                    }
                }
            };
            sender.send_modify(|seen| seen.ended = Some(ended));
        });
        WatchStream { requests, seen }
    }

    /// Asks for a watch.
    pub async fn create(&self, request: pb::WatchCreateRequest) {
        self.request(RequestUnion::CreateRequest(request)).await;
    }

    /// Cancels a watch.
    pub async fn cancel(&self, watch_id: i64) {
        self.request(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await;
    }

    /// Asks for progress of the whole stream.
    pub async fn progress(&self) {
        self.request(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    }

    /// What arrived so far.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Forgets the first events of each watch, as many as `counts` says.
    pub fn forget(&self, counts: &BTreeMap<i64, usize>) {
        self.seen.send_modify(|seen| {
            for (id, &count) in counts {
                if let Some(events) = seen.events.get_mut(id) {
                    events.drain(..count.min(events.len()));
                }
            }
        });
    }

    /// Waits until what arrived satisfies `condition`. False when the stream ends or `limit` passes before that.
    pub async fn wait(&self, limit: Duration, mut condition: impl FnMut(&Seen) -> bool) -> bool {
        let mut receiver = self.seen.subscribe();
        let satisfied = receiver.wait_for(|seen| seen.ended.is_some() || condition(seen));
        let in_time = matches!(tokio::time::timeout(limit, satisfied).await, Ok(Ok(_)));
        in_time && condition(&self.seen.borrow())
    }

    async fn request(&self, union: RequestUnion) {
        // A stream that ended takes no requests; the waits for the answers report it.
        self.requests.send(pb::WatchRequest { request_union: Some(union) }).await.ok();
    }
}

impl Seen {
    /// What differs between this and what another server sent, or None. How progress was answered is compared only on
    /// request, since a server answers when all watchers of the stream happen to have everything.
    pub fn difference(&self, other: &Seen, compare_progress: bool) -> Option<String> {
        if !self.faults.is_empty() || !other.faults.is_empty() {
            return Some(format!("faults\n{:?}\n{:?}", self.faults, other.faults));
        }
        if self.ended != other.ended {
            return Some(format!("ended\n{:?}\n{:?}", self.ended, other.ended));
        }
        if self.canceled != other.canceled {
            return Some(format!("cancellations\n{:?}\n{:?}", self.canceled, other.canceled));
        }
        if compare_progress && self.progress != other.progress {
            return Some(format!("progress answers\n{:?}\n{:?}", self.progress, other.progress));
        }
        let ids: BTreeSet<&i64> = self.events.keys().chain(other.events.keys()).collect();
        for id in ids {
            let one = self.events.get(id).map_or(&[][..], Vec::as_slice);
            let other = other.events.get(id).map_or(&[][..], Vec::as_slice);
            if one != other {
                let equal = one.iter().zip(other).take_while(|(one, other)| one == other).count();
                let (one_left, other_left) = (one.len() - equal, other.len() - equal);
                let (one, other) = (one.get(equal), other.get(equal));
                return Some(format!(
                    "watch {id} after {equal} equal events\n{one_left} more: {one:?}\n{other_left} more: {other:?}"
                ));
            }
        }
        None
    }

    fn take(&mut self, mut response: pb::WatchResponse, identity: Identity) {
        let revision = response.header.map_or(0, |header| header.revision);
        match &mut response.header {
            Some(header) => anonymous_header(header, identity),
            None => self.faults.push(format!("a response without header: {response:?}")),
        }
        let id = response.watch_id;
        if response.created {
            self.announced.insert(id);
            self.created.push(response);
        } else if response.canceled {
            self.canceled.entry(id).or_default().push(response);
        } else if response.events.is_empty() {
            self.progress.push(revision);
        } else {
            self.take_events(id, revision, response.events);
        }
    }

    fn take_events(&mut self, id: i64, revision: i64, events: Vec<mvccpb::Event>) {
        if !self.announced.contains(&id) {
            self.faults.push(format!("watch {id}: events before its creation was announced"));
        }
        let revisions: Vec<i64> =
            events.iter().map(|event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision)).collect();
        if !revisions.is_sorted() {
            self.faults.push(format!("watch {id}: revisions out of order in one response: {revisions:?}"));
        }
        if revisions.last().is_some_and(|&last| last > revision) {
            self.faults.push(format!("watch {id}: header revision {revision} is behind its events {revisions:?}"));
        }
        if revisions.iter().collect::<BTreeSet<_>>().len() > REVISIONS_IN_A_RESPONSE_MAX {
            self.faults.push(format!("watch {id}: more than {REVISIONS_IN_A_RESPONSE_MAX} revisions in one response"));
        }
        self.events.entry(id).or_default().extend(events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SELF: Identity = Identity { cluster_id: 7, member_id: 8, raft_term: 2 };

    fn response(watch_id: i64, revision: i64) -> pb::WatchResponse {
        let header = pb::ResponseHeader { cluster_id: 7, member_id: 8, revision, raft_term: 2 };
        pb::WatchResponse { header: Some(header), watch_id, ..Default::default() }
    }

    fn created(watch_id: i64) -> pb::WatchResponse {
        pb::WatchResponse { created: true, ..response(watch_id, 1) }
    }

    fn events(watch_id: i64, revision: i64, mod_revisions: &[i64]) -> pb::WatchResponse {
        let event = |&mod_revision: &i64| mvccpb::Event {
            kv: Some(mvccpb::KeyValue { key: "a".into(), mod_revision, ..Default::default() }),
            ..Default::default()
        };
        pb::WatchResponse { events: mod_revisions.iter().map(event).collect(), ..response(watch_id, revision) }
    }

    fn seen(responses: &[pb::WatchResponse]) -> Seen {
        let mut seen = Seen::default();
        responses.iter().for_each(|response| seen.take(response.clone(), SELF));
        seen
    }

    #[test]
    fn order_between_watches_and_grouping_do_not_matter() {
        let one = seen(&[created(1), created(2), events(1, 3, &[2, 3]), events(2, 3, &[3])]);
        let other = seen(&[created(1), created(2), events(2, 3, &[3]), events(1, 2, &[2]), events(1, 3, &[3])]);
        assert_eq!(one.difference(&other, true), None);
    }

    #[test]
    fn whatever_else_differs_is_seen() {
        let one = seen(&[created(1), events(1, 3, &[2, 3]), response(NO_WATCH, 3)]);
        let canceled = pb::WatchResponse { canceled: true, compact_revision: 2, ..response(1, 0) };
        let others: [&[pb::WatchResponse]; 5] = [
            &[created(1), events(1, 2, &[2]), response(NO_WATCH, 3)],
            &[created(1), events(1, 4, &[2, 4]), response(NO_WATCH, 3)],
            &[created(1), created(2), events(1, 3, &[2, 3]), events(2, 3, &[3]), response(NO_WATCH, 3)],
            &[created(1), events(1, 3, &[2, 3]), response(NO_WATCH, 3), canceled],
            &[created(1), events(1, 3, &[2, 3]), response(NO_WATCH, 4)],
        ];
        for other in others {
            assert!(one.difference(&seen(other), true).is_some(), "{other:?}");
        }
    }

    #[test]
    fn broken_promises_are_faults() {
        let broken: [&[pb::WatchResponse]; 4] = [
            &[events(1, 3, &[3])],
            &[created(1), events(1, 3, &[3, 2])],
            &[created(1), events(1, 2, &[3])],
            &[created(1), pb::WatchResponse { header: None, ..events(1, 3, &[3]) }],
        ];
        for responses in broken {
            assert!(!seen(responses).faults.is_empty(), "{responses:?}");
        }
    }
}
