//! The task behind a [`super::Watcher`]: it keeps one gRPC stream for all watches, makes them again when it breaks, and
//! decides what each consumer sees. It must never wait for a consumer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use kvorum_api::etcdserverpb::watch_request::RequestUnion;
use kvorum_api::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse as Message,
};
use tokio::sync::{mpsc, oneshot};

use super::{BUFFERED_BYTES_MAX, BUFFERED_EVENTS_MAX, WatchError, WatchResponse};
use crate::buffer::Buffer;
use crate::connection::{Connection, Stream};
use crate::error::{Code, Error, EtcdError};
use crate::login::Token;
use crate::method;
use crate::response::{Event, ResponseHeader};

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

/// How a stream ended.
enum End {
    /// No watch needs it.
    Idle,
    /// Nobody can ask for a watch any more.
    Unused,
    Failed(Error),
}

struct Task {
    connection: Connection,
    entries: BTreeMap<u64, Entry>,
    ids: HashMap<i64, u64>,
    /// Watches asked for on this stream, by the id asked for, in the order asked, which is that of the answers; None for
    /// those given up.
    creating: VecDeque<(i64, Option<u64>)>,
    last_id: i64,
    outgoing: VecDeque<RequestUnion>,
    token: Token,
    has_heard: bool,
}

/// Runs until the last watcher and watch are gone.
pub async fn run(connection: Connection, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut backoff = connection.backoff();
    let mut task = Task {
        connection,
        entries: BTreeMap::new(),
        ids: HashMap::new(),
        creating: VecDeque::new(),
        last_id: 0,
        outgoing: VecDeque::new(),
        token: Token::default(),
        has_heard: false,
    };
    loop {
        while task.is_idle() {
            let Some(command) = commands.recv().await else { return };
            task.obey(command);
        }
        let connection = task.connection.clone();
        let opening = connection.open_stream(method::WATCH, None);
        let end = match task.while_waiting(&mut commands, opening).await {
            Ok(Ok((stream, token))) => task.serve(stream, token, &mut commands).await,
            Ok(Err(error)) => End::Failed(error),
            Err(end) => end,
        };
        match end {
            End::Unused => return,
            End::Idle => {}
            End::Failed(error) if task.is_final(&error) => task.fail_all(&error),
            End::Failed(error) => {
                tracing::debug!(%error, "the watch stream broke, and is opened again");
                if std::mem::take(&mut task.has_heard) {
                    backoff.reset();
                }
                let pause = tokio::time::sleep(backoff.pause());
                if let Err(End::Unused) = task.while_waiting(&mut commands, pause).await {
                    return;
                }
            }
        }
    }
}

enum Happening {
    Command(Option<Command>),
    Message(Result<Option<Message>, Error>),
}

impl Task {
    fn is_idle(&self) -> bool {
        self.entries.values().all(|entry| entry.state == State::Parked)
    }

    /// Whether trying again cannot help.
    fn is_final(&self, error: &Error) -> bool {
        let passes = error.is_transient()
            || self.connection.login_may_help(error)
            || matches!(error.code(), Code::Unavailable | Code::Internal | Code::Unknown | Code::Canceled);
        !passes
    }

    fn fail_all(&mut self, error: &Error) {
        for (_, entry) in std::mem::take(&mut self.entries) {
            finish(entry, WatchError::Failed(error.clone()));
        }
    }

    /// Waits for something while it does what it is asked.
    async fn while_waiting<T>(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        future: impl Future<Output = T>,
    ) -> Result<T, End> {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return Err(End::Unused),
                },
                done = &mut future => return Ok(done),
            }
            if self.is_idle() {
                return Err(End::Idle);
            }
        }
    }

    async fn serve(
        &mut self,
        mut stream: Stream,
        token: Token,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> End {
        self.token = token;
        self.ids.clear();
        self.creating.clear();
        self.outgoing.clear();
        self.last_id = 0;
        let waiting: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| entry.state != State::Parked).map(|(&number, _)| number).collect();
        waiting.into_iter().for_each(|number| self.create(number));
        let end = loop {
            match std::future::poll_fn(|context| self.poll_next(&mut stream, commands, context)).await {
                Happening::Command(None) => break End::Unused,
                Happening::Command(Some(command)) => {
                    if let Some(number) = self.obey_on_stream(command) {
                        self.create(number);
                    }
                    if self.is_idle() {
                        break End::Idle;
                    }
                }
                Happening::Message(Ok(Some(message))) => {
                    self.has_heard = true;
                    if let Err(error) = self.hear(message) {
                        break End::Failed(error);
                    }
                }
                Happening::Message(Ok(None)) => break End::Failed(ended()),
                Happening::Message(Err(error)) => {
                    if self.connection.login_may_help(&error) {
                        self.connection.invalidate(&self.token);
                    }
                    break End::Failed(error);
                }
            }
        };
        for entry in self.entries.values_mut().filter(|entry| entry.state != State::Parked) {
            entry.state = State::Waiting;
        }
        end
    }

    fn poll_next(
        &mut self,
        stream: &mut Stream,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        context: &mut Context<'_>,
    ) -> Poll<Happening> {
        while !self.outgoing.is_empty() {
            match stream.send.poll_ready(context) {
                Poll::Pending => break,
                Poll::Ready(Err(failure)) => return Poll::Ready(Happening::Message(Err(failure.into()))),
                Poll::Ready(Ok(())) => {}
            }
            let request_union = self.outgoing.pop_front();
            if let Err(error) = stream.send(&WatchRequest { request_union }) {
                return Poll::Ready(Happening::Message(Err(error)));
            }
        }
        if let Poll::Ready(command) = commands.poll_recv(context) {
            return Poll::Ready(Happening::Command(command));
        }
        stream.poll_receive(context).map(Happening::Message)
    }

    /// Does what it is asked while there is no stream.
    fn obey(&mut self, command: Command) {
        self.obey_on_stream(command);
        self.outgoing.clear();
    }

    /// Does what it is asked; gives the watch to be made now.
    fn obey_on_stream(&mut self, command: Command) -> Option<u64> {
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
                Some(number)
            }
            Command::Cancel(number) => {
                self.stop(number);
                self.entries.remove(&number);
                None
            }
            Command::Resume(number) => {
                let entry = self.entries.get_mut(&number)?;
                (entry.state == State::Parked).then(|| {
                    entry.state = State::Waiting;
                    number
                })
            }
            Command::Progress => {
                // One answer is for all who asked.
                if !matches!(self.outgoing.back(), Some(RequestUnion::ProgressRequest(_))) {
                    self.outgoing.push_back(RequestUnion::ProgressRequest(WatchProgressRequest {}));
                }
                None
            }
        }
    }

    /// Asks the server for a watch. Ids are ours to choose since etcd 3.4, so that nothing waits for an answer.
    fn create(&mut self, number: u64) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
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

    fn hear(&mut self, message: Message) -> Result<(), Error> {
        if message.created {
            return self.hear_created(message);
        }
        if message.canceled {
            let Some(number) = self.ids.remove(&message.watch_id) else { return Ok(()) };
            if message.compact_revision > 0 {
                // etcd goes on counting such a watch among those that must catch up before it answers a request for
                // progress, until the client cancels it.
                let watch_id = message.watch_id;
                self.outgoing.push_back(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
            }
            return self.hear_cancelled(number, &message);
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

    fn hear_created(&mut self, message: Message) -> Result<(), Error> {
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
            return self.hear_cancelled(number, &message);
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

    fn hear_cancelled(&mut self, number: u64, message: &Message) -> Result<(), Error> {
        let error = Error::from_text(&message.cancel_reason);
        if self.connection.login_may_help(&error) {
            // The token belongs to the stream: all watches move to a new one.
            self.connection.invalidate(&self.token);
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

fn ended() -> Error {
    Error::new(crate::ErrorKind::Unavailable, Code::Unavailable, "the server ended the stream")
}
