//! What the task behind a [`super::Watcher`] says and hears on its stream: it makes watches, makes them again when the
//! stream broke, and decides what each consumer sees. It must never wait for a consumer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use kvorum_api::etcdserverpb::watch_request::RequestUnion;
use kvorum_api::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse as Message,
};
use tokio::sync::oneshot;

use super::{BUFFERED_BYTES_MAX, BUFFERED_EVENTS_MAX, WatchError, WatchResponse};
use crate::buffer::Buffer;
use crate::connection::Connection;
use crate::error::{Error, EtcdError};
use crate::method::{self, Method};
use crate::response::{Event, ResponseHeader};
use crate::streaming::Owner;

/// The id of answers that concern all watches, or one that was refused.
const NO_ID: i64 = -1;

pub type Item = Result<WatchResponse, WatchError>;

/// What watchers and watches ask of the task.
pub enum Command {
    Create {
        number: u64,
        request: WatchCreateRequest,
        buffer: Buffer<Item>,
        created: oneshot::Sender<Result<ResponseHeader, WatchError>>,
    },
    /// Nobody reads this watch any more.
    Cancel(u64),
    /// The consumer of a stopped watch has read everything.
    Resume(u64),
    Progress,
}

/// Tells watches apart inside of this process; ids of the protocol belong to one stream.
pub fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One watch.
struct Entry {
    request: WatchCreateRequest,
    buffer: Buffer<Item>,
    /// Whom to tell that it was made, until it is for the first time.
    created: Option<oneshot::Sender<Result<ResponseHeader, WatchError>>>,
    /// The first revision not yet given to the consumer; 0 before the server said what "now" is.
    next_revision: i64,
    /// The events of an answer that is not complete.
    fragments: Vec<Event>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be made on the next stream.
    Waiting,
    Creating,
    Live(i64),
    /// Stopped until the consumer has read what there is.
    Parked,
}

/// The owner of the stream of all watches.
pub struct Task {
    entries: BTreeMap<u64, Entry>,
    ids: HashMap<i64, u64>,
    /// Watches asked for on this stream, by the id asked for, in the order asked, which is that of the answers; None for
    /// those given up.
    creating: VecDeque<(i64, Option<u64>)>,
    last_id: i64,
    outgoing: VecDeque<RequestUnion>,
    has_stream: bool,
}

impl Owner for Task {
    type Command = Command;
    type Request = WatchRequest;
    type Answer = Message;

    const METHOD: Method = method::WATCH;

    fn is_idle(&self) -> bool {
        self.entries.values().all(|entry| entry.state == State::Parked)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Create { number, request, buffer, created } => {
                let next_revision = request.start_revision;
                let entry = Entry {
                    request,
                    buffer,
                    created: Some(created),
                    next_revision,
                    fragments: Vec::new(),
                    state: State::Waiting,
                };
                self.entries.insert(number, entry);
                self.create(number);
            }
            Command::Cancel(number) => {
                self.stop(number);
                self.entries.remove(&number);
            }
            Command::Resume(number) => {
                if let Some(entry) = self.entries.get_mut(&number).filter(|entry| entry.state == State::Parked) {
                    entry.state = State::Waiting;
                    self.create(number);
                }
            }
            Command::Progress => {
                // One answer is for all who asked.
                if self.has_stream && !matches!(self.outgoing.back(), Some(RequestUnion::ProgressRequest(_))) {
                    self.outgoing.push_back(RequestUnion::ProgressRequest(WatchProgressRequest {}));
                }
            }
        }
    }

    fn begin(&mut self) {
        self.has_stream = true;
        let waiting: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| entry.state == State::Waiting).map(|(&number, _)| number).collect();
        waiting.into_iter().for_each(|number| self.create(number));
    }

    fn end(&mut self) {
        self.has_stream = false;
        self.ids.clear();
        self.creating.clear();
        self.outgoing.clear();
        self.last_id = 0;
        for entry in self.entries.values_mut().filter(|entry| entry.state != State::Parked) {
            entry.state = State::Waiting;
        }
    }

    fn has_request(&self) -> bool {
        !self.outgoing.is_empty()
    }

    fn next_request(&mut self) -> Option<WatchRequest> {
        self.outgoing.pop_front().map(|union| WatchRequest { request_union: Some(union) })
    }

    fn hear(&mut self, message: Message, connection: &Connection) -> Result<(), Error> {
        if message.created {
            return self.hear_created(message, connection);
        }
        if message.canceled {
            let Some(number) = self.ids.remove(&message.watch_id) else { return Ok(()) };
            if message.compact_revision > 0 {
                // etcd goes on counting such a watch among those that must catch up before it answers a request for
                // progress, until the client cancels it.
                let watch_id = message.watch_id;
                self.outgoing.push_back(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
            }
            return self.hear_cancelled(number, &message, connection);
        }
        if message.watch_id == NO_ID {
            let numbers: Vec<u64> = self.ids.values().copied().collect();
            numbers.into_iter().for_each(|number| self.deliver_progress(number, &message));
        } else if let Some(&number) = self.ids.get(&message.watch_id) {
            if message.events.is_empty() && !message.fragment && self.entries[&number].fragments.is_empty() {
                self.deliver_progress(number, &message);
            } else {
                self.deliver_events(number, message);
            }
        }
        // What comes for an unknown id belongs to a watch whose cancellation is under way.
        Ok(())
    }

    fn fail_all(&mut self, error: &Error) {
        for (_, entry) in std::mem::take(&mut self.entries) {
            finish(entry, WatchError::Failed(error.clone()));
        }
    }
}

impl Task {
    pub fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            ids: HashMap::new(),
            creating: VecDeque::new(),
            last_id: 0,
            outgoing: VecDeque::new(),
            has_stream: false,
        }
    }

    /// Asks the server for a watch, if there is a stream. Ids are ours to choose since etcd 3.4, so that nothing waits for an
    /// answer.
    fn create(&mut self, number: u64) {
        let Some(entry) = self.entries.get_mut(&number).filter(|_| self.has_stream) else { return };
        self.last_id += 1;
        entry.state = State::Creating;
        entry.fragments.clear();
        let mut request = entry.request.clone();
        request.watch_id = self.last_id;
        request.start_revision = entry.next_revision;
        self.creating.push_back((self.last_id, Some(number)));
        self.outgoing.push_back(RequestUnion::CreateRequest(request));
    }

    /// Ends a watch at the server.
    fn stop(&mut self, number: u64) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        match entry.state {
            State::Live(watch_id) => {
                self.ids.remove(&watch_id);
                self.outgoing.push_back(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
            }
            State::Creating => {
                for (_, given_up) in self.creating.iter_mut().filter(|(_, waiting)| *waiting == Some(number)) {
                    *given_up = None;
                }
            }
            State::Waiting | State::Parked => {}
        }
        entry.state = State::Parked;
        entry.fragments.clear();
    }

    fn hear_created(&mut self, message: Message, connection: &Connection) -> Result<(), Error> {
        // A refusal has no id, and some servers give ids of their own: then the order counts.
        let place = self.creating.iter().position(|(id, _)| *id == message.watch_id).unwrap_or(0);
        let Some((_, number)) = self.creating.remove(place) else {
            return Err(Error::protocol("the server created a watch that was not asked for"));
        };
        let Some(number) = number else {
            if !message.canceled {
                let watch_id = message.watch_id;
                self.outgoing.push_back(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
            }
            return Ok(());
        };
        if message.canceled {
            return self.hear_cancelled(number, &message, connection);
        }
        let Some(entry) = self.entries.get_mut(&number) else { return Ok(()) };
        entry.state = State::Live(message.watch_id);
        self.ids.insert(message.watch_id, number);
        let header = message.header.unwrap_or_default();
        if entry.next_revision == 0 {
            // From here on "now" means this, also when the stream breaks before the first event.
            entry.next_revision = header.revision + 1;
        }
        if let Some(created) = entry.created.take() {
            // A caller that gave up sends a cancel, too.
            drop(created.send(Ok(header)));
        }
        Ok(())
    }

    fn hear_cancelled(&mut self, number: u64, message: &Message, connection: &Connection) -> Result<(), Error> {
        let error = Error::from_text(&message.cancel_reason);
        if connection.login_may_help(&error) {
            return Err(error);
        }
        let Some(entry) = self.entries.remove(&number) else { return Ok(()) };
        let error = if message.compact_revision > 0 || error.is(EtcdError::Compacted) {
            WatchError::Compacted { revision: message.compact_revision, header: message.header.unwrap_or_default() }
        } else {
            let text = "the server gave no reason";
            let error = if message.cancel_reason.is_empty() { Error::from_text(text) } else { error };
            WatchError::Cancelled(error)
        };
        finish(entry, error);
        Ok(())
    }

    fn deliver_progress(&mut self, number: u64, message: &Message) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        let header = message.header.unwrap_or_default();
        if header.revision <= 0 || !entry.fragments.is_empty() {
            return;
        }
        entry.next_revision = entry.next_revision.max(header.revision + 1);
        let response = WatchResponse { header, events: Vec::new() };
        entry.buffer.push_newest(Ok(response), usize::MAX, |last| matches!(last, Ok(last) if last.is_progress()));
    }

    fn deliver_events(&mut self, number: u64, message: Message) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        entry.fragments.extend(message.events);
        if message.fragment {
            return;
        }
        let mut events = std::mem::take(&mut entry.fragments);
        // A server that goes back after it was asked to go on must not make the consumer see anything twice.
        events.retain(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision >= entry.next_revision));
        let Some(last) = events.last().and_then(|event| event.kv.as_ref()) else { return };
        let next_revision = last.mod_revision + 1;
        let weight = weight(&events);
        let response = WatchResponse { header: message.header.unwrap_or_default(), events };
        match entry.buffer.push_or_park(Ok(response), weight, BUFFERED_EVENTS_MAX) {
            Ok(()) => entry.next_revision = next_revision,
            // What was not taken is asked for again when there is room.
            Err(_) => self.stop(number),
        }
    }
}

/// How much of [`BUFFERED_EVENTS_MAX`] an answer takes: its events, or the same share of [`BUFFERED_BYTES_MAX`].
fn weight(events: &[Event]) -> usize {
    let pairs = events.iter().flat_map(|event| event.kv.iter().chain(&event.prev_kv));
    let bytes: usize = pairs.map(|kv| kv.key.len() + kv.value.len()).sum();
    events.len().max(bytes / (BUFFERED_BYTES_MAX / BUFFERED_EVENTS_MAX))
}

fn finish(entry: Entry, error: WatchError) {
    match entry.created {
        Some(created) => {
            drop(created.send(Err(error)));
            entry.buffer.close();
        }
        None => entry.buffer.finish(Err(error)),
    }
}
