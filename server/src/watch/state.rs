//! What a hub remembers: its streams, its watchers, and how far each has come. Everything here is synchronous; the tasks
//! around it decide when.
//!
//! `delivered` is the last revision the hub has seen. A synced watcher was given everything up to it. Unsynced watchers stand
//! in groups by the revision they need next, never above `delivered + 1`, or wait with their stream for room.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::WatchResponse;
use kvorum_store::watch::{Deliveries, Registry, Watch, WatchEnd, WatchSlot};
use kvorum_store::{EventBatch, Previous};
use slab::Slab;

use super::catch_up::CatchUpSignal;
use super::encode::{EventRef, ResponseShape, append_control, append_events, header, header_field};
use super::outbox::OutboxHandle;
use super::publisher::{PublisherShared, ThreadQueue};
use super::{HeaderSource, WatchConfig, WatchPermits};

/// Watchers that need the same revision next.
#[derive(Default)]
pub(super) struct Group {
    pub(super) position: i64,
    pub(super) registry: Registry,
}

/// Where a watcher is.
#[derive(Clone, Copy)]
enum Place {
    Group {
        group: usize,
        slot: WatchSlot,
    },
    /// In its stream's `parked`.
    Parked,
}

pub(super) struct Watcher {
    pub(super) stream: usize,
    watch_id: i64,
    /// As the client gave it; progress is not reported before it is reached.
    start_revision: i64,
    wants_previous: bool,
    wants_fragments: bool,
    /// For watchers that asked for progress: whether the next tick reports it.
    progress_due: Option<bool>,
    user: Option<Arc<str>>,
    key: Arc<[u8]>,
    end: WatchEnd,
    place: Place,
}

/// A watch id of a stream.
pub(super) enum WatchEntry {
    Live(u32),
    /// Canceled by a compaction. The id stays taken until the client cancels it, as in etcd.
    Compacted,
}

pub(super) struct StreamState {
    pub(super) outbox: OutboxHandle,
    pub(super) watches: BTreeMap<i64, WatchEntry>,
    pub(super) next_id: i64,
    /// Watchers that wait until the outbox has room, with the revision each needs next.
    parked: BTreeMap<u32, (i64, Watch)>,
    /// Why the stream must end, if it must.
    pub(super) failure: Option<String>,
}

/// What a new watcher is to be.
pub(super) struct NewWatcher {
    pub(super) stream: usize,
    pub(super) watch_id: i64,
    pub(super) start_revision: i64,
    pub(super) wants_fragments: bool,
    pub(super) wants_progress: bool,
    pub(super) user: Option<Arc<str>>,
    pub(super) watch: Watch,
}

pub(super) struct State {
    pub(super) config: WatchConfig,
    header: Rc<dyn HeaderSource>,
    permits: Rc<dyn WatchPermits>,
    /// The generation of permissions that all watchers were last looked at with.
    permits_seen: u64,
    shared: Arc<PublisherShared>,
    pub(super) queue: Arc<ThreadQueue>,
    catch_up: Rc<CatchUpSignal>,
    pub(super) watchers: Slab<Watcher>,
    pub(super) streams: Slab<StreamState>,
    pub(super) groups: Slab<Group>,
    /// The unsynced groups that wait for their turn to read history.
    pub(super) by_position: BTreeMap<i64, usize>,
    pub(super) synced: usize,
    pub(super) delivered: i64,
    active: bool,
    backlog: VecDeque<Arc<[EventBatch]>>,
    /// Batches of the backlog's first entry that are done.
    backlog_offset: usize,
    deliveries: Deliveries,
    jitter: u64,
}

impl State {
    pub(super) fn new(
        config: WatchConfig,
        header: Rc<dyn HeaderSource>,
        permits: Rc<dyn WatchPermits>,
        shared: Arc<PublisherShared>,
        queue: Arc<ThreadQueue>,
        catch_up: Rc<CatchUpSignal>,
    ) -> Self {
        let mut groups = Slab::new();
        let synced = groups.insert(Group::default());
        let delivered = shared.revision();
        Self {
            config,
            header,
            permits_seen: permits.generation(),
            permits,
            shared,
            queue,
            catch_up,
            watchers: Slab::new(),
            streams: Slab::new(),
            groups,
            by_position: BTreeMap::new(),
            synced,
            delivered,
            active: false,
            backlog: VecDeque::new(),
            backlog_offset: 0,
            deliveries: Deliveries::default(),
            jitter: seed(),
        }
    }

    // ---- what was published ----

    /// Delivers about one turn's worth. True if there is more.
    pub(super) fn pump_turn(&mut self) -> bool {
        self.pump(self.config.limits.deliveries_per_turn, self.config.limits.bytes_per_turn)
    }

    /// Delivers everything that was published before the call.
    pub(super) fn pump_all(&mut self) {
        self.pump(usize::MAX, usize::MAX);
    }

    fn pump(&mut self, deliveries_max: usize, bytes_max: usize) -> bool {
        self.check_permissions();
        let (mut deliveries, mut bytes) = (0, 0);
        loop {
            while let Some(front) = self.backlog.front().map(Arc::clone) {
                while let Some(batch) = front.get(self.backlog_offset) {
                    if deliveries >= deliveries_max || bytes >= bytes_max {
                        return true;
                    }
                    self.backlog_offset += 1;
                    let (more_deliveries, more_bytes) = self.deliver_live(batch);
                    deliveries += more_deliveries;
                    bytes += more_bytes;
                }
                self.backlog.pop_front();
                self.backlog_offset = 0;
            }
            let Some(taken) = self.queue.take() else {
                self.refresh_counters();
                return false;
            };
            if let Some(revision) = taken.dropped_up_to {
                self.lose_track(revision);
            }
            self.backlog = taken.batches;
            // What was published after a change of permissions is for those who still may see it.
            self.check_permissions();
        }
    }

    /// Events up to this revision will not come: all synced watchers read them from history.
    fn lose_track(&mut self, revision: i64) {
        if revision <= self.delivered {
            return;
        }
        let position = self.delivered + 1;
        self.delivered = revision;
        if self.groups[self.synced].registry.is_empty() {
            return;
        }
        let behind = std::mem::replace(&mut self.synced, self.groups.insert(Group::default()));
        self.groups[behind].position = position;
        self.queue_group(behind);
    }

    /// Gives one batch to the synced watchers. Returns the events given and the bytes appended.
    fn deliver_live(&mut self, batch: &EventBatch) -> (usize, usize) {
        if batch.revision <= self.delivered {
            return (0, 0);
        }
        if batch.revision > self.delivered + 1 {
            self.lose_track(batch.revision);
            return (0, 0);
        }
        self.delivered = batch.revision;
        let mut deliveries = std::mem::take(&mut self.deliveries);
        deliveries.clear();
        self.groups[self.synced].registry.matches(batch, 0, &mut deliveries);
        let count = deliveries.len();
        if count == 0 {
            self.deliveries = deliveries;
            return (1, 0);
        }
        let field = header_field(&*self.header, batch.revision);
        let mut appended = 0;
        let mut events = Vec::new();
        for group in deliveries.by_watcher() {
            let watcher = &mut self.watchers[group[0].watcher as usize];
            let stream = &self.streams[watcher.stream];
            if stream.outbox.is_full() {
                self.park(group[0].watcher, batch.revision);
                continue;
            }
            events.clear();
            let mut missing = false;
            for delivery in group {
                let event = &batch.events[delivery.event as usize];
                let previous = match &event.previous {
                    Previous::Known(kv) if watcher.wants_previous && !event.created => Some(kv),
                    Previous::Stored(_) if watcher.wants_previous && !event.created => {
                        missing = true;
                        break;
                    }
                    _ => None,
                };
                events.push(EventRef { event, previous });
            }
            if missing {
                self.send_to_history(group[0].watcher, batch.revision);
                continue;
            }
            appended += watcher.give(&stream.outbox, &field, self.config.fragment_bytes, &events);
        }
        self.deliveries = deliveries;
        self.queue.counters.add_events(count as u64);
        (count + 1, appended)
    }

    // ---- moving watchers ----

    /// Puts a watcher into the group that needs this revision next.
    fn join(&mut self, watch: Watch, position: i64) {
        let group = match self.by_position.get(&position) {
            Some(group) => *group,
            None => {
                let group = self.groups.insert(Group { position, registry: Registry::new() });
                self.by_position.insert(position, group);
                self.catch_up.wake();
                group
            }
        };
        self.place(watch, group);
    }

    fn place(&mut self, watch: Watch, group: usize) {
        let watcher = watch.watcher as usize;
        let slot = self.groups[group].registry.insert(watch);
        self.watchers[watcher].place = Place::Group { group, slot };
    }

    /// Takes a watcher from wherever it is.
    fn take(&mut self, watcher: u32) -> Watch {
        match self.watchers[watcher as usize].place {
            Place::Group { group, slot } => self.groups[group].registry.remove(slot),
            Place::Parked => {
                let stream = self.watchers[watcher as usize].stream;
                let (_, watch) =
                    self.streams[stream].parked.remove(&watcher).expect("a parked watcher is with its stream");
                watch
            }
        }
    }

    fn send_to_history(&mut self, watcher: u32, position: i64) {
        let watch = self.take(watcher);
        self.join(watch, position);
    }

    /// The watcher waits until its stream has room; then it continues with this revision.
    pub(super) fn park(&mut self, watcher: u32, position: i64) {
        let watch = self.take(watcher);
        let index = self.watchers[watcher as usize].stream;
        let stream = &mut self.streams[index];
        stream.parked.insert(watcher, (position, watch));
        stream.outbox.tell_when_roomy(index);
        self.watchers[watcher as usize].place = Place::Parked;
    }

    /// A stream has room again.
    pub(super) fn unpark(&mut self, stream: usize) {
        let Some(state) = self.streams.get_mut(stream) else { return };
        for (_, (position, watch)) in std::mem::take(&mut state.parked) {
            self.join(watch, position);
        }
    }

    /// Lets a group wait for its turn, together with those that are at the same revision.
    pub(super) fn queue_group(&mut self, group: usize) {
        if self.groups[group].registry.is_empty() {
            self.groups.remove(group);
            return;
        }
        let position = self.groups[group].position;
        let merged = match self.by_position.remove(&position) {
            Some(other) => self.merge(group, other),
            None => group,
        };
        self.by_position.insert(position, merged);
        self.catch_up.wake();
    }

    /// Puts the members of the smaller group into the larger one, which is returned.
    pub(super) fn merge(&mut self, left: usize, right: usize) -> usize {
        let (small, large) = if self.groups[left].registry.len() < self.groups[right].registry.len() {
            (left, right)
        } else {
            (right, left)
        };
        while let Some(watch) = self.groups[small].registry.pop() {
            self.place(watch, large);
        }
        self.groups.remove(small);
        large
    }

    /// Moves members of a group that has caught up to the synced ones, at most a turn's worth. True if all were moved and
    /// the group is gone.
    pub(super) fn promote(&mut self, group: usize) -> bool {
        assert_eq!(self.groups[group].position, self.delivered + 1, "only who has caught up is synced");
        for _ in 0..self.config.limits.moves_per_turn {
            let Some(watch) = self.groups[group].registry.pop() else { break };
            let synced = self.synced;
            self.place(watch, synced);
        }
        if self.groups[group].registry.is_empty() {
            self.groups.remove(group);
            return true;
        }
        false
    }

    // ---- streams and watchers ----

    pub(super) fn open_stream(&mut self, outbox: OutboxHandle) -> usize {
        let stream = self.streams.insert(StreamState {
            outbox,
            watches: BTreeMap::new(),
            next_id: 0,
            parked: BTreeMap::new(),
            failure: None,
        });
        self.refresh_counters();
        stream
    }

    pub(super) fn close_stream(&mut self, stream: usize) {
        let watches = std::mem::take(&mut self.streams[stream].watches);
        for entry in watches.into_values() {
            if let WatchEntry::Live(watcher) = entry {
                self.forget(watcher);
            }
        }
        self.streams.remove(stream);
        self.rest_if_idle();
        self.refresh_counters();
    }

    /// The thread needs to hear of events from now on.
    pub(super) fn wake_up(&mut self) {
        if !self.active {
            self.active = true;
            self.queue.activate();
            self.delivered = self.shared.revision();
        }
    }

    fn rest_if_idle(&mut self) {
        if self.active && self.watchers.is_empty() {
            self.active = false;
            self.queue.deactivate();
            self.backlog.clear();
            self.backlog_offset = 0;
        }
    }

    /// The revision up to which everything was delivered or lies in outboxes, after looking what was published.
    pub(super) fn current_revision(&mut self) -> i64 {
        if self.active {
            self.pump_all();
            self.delivered
        } else {
            self.shared.revision()
        }
    }

    /// Adds a watcher; the caller has called [`Self::wake_up`] and [`Self::current_revision`] and appended the created response.
    pub(super) fn add_watcher(&mut self, new: NewWatcher) {
        let NewWatcher { stream, watch_id, start_revision, wants_fragments, wants_progress, user, mut watch } = new;
        let next = self.delivered + 1;
        let entry = self.watchers.vacant_entry();
        watch.watcher = u32::try_from(entry.key()).expect("a thread has fewer than 2^32 watchers");
        watch.minimum_revision = if start_revision == 0 { next } else { start_revision };
        self.streams[stream].watches.insert(watch_id, WatchEntry::Live(watch.watcher));
        entry.insert(Watcher {
            stream,
            watch_id,
            start_revision,
            wants_previous: watch.wants_previous,
            wants_fragments,
            progress_due: wants_progress.then_some(true),
            user,
            key: Arc::clone(&watch.key),
            end: watch.end.clone(),
            place: Place::Parked,
        });
        self.start(watch);
        self.refresh_counters();
    }

    /// Puts a watcher where its first revision says.
    fn start(&mut self, watch: Watch) {
        let position = watch.minimum_revision;
        if position > self.delivered {
            let synced = self.synced;
            self.place(watch, synced);
        } else {
            self.join(watch, position);
        }
    }

    /// Removes a watch by its id. False if the stream has none of this id.
    pub(super) fn remove_watch(&mut self, stream: usize, watch_id: i64) -> bool {
        match self.streams[stream].watches.remove(&watch_id) {
            None => return false,
            Some(WatchEntry::Compacted) => {}
            Some(WatchEntry::Live(watcher)) => self.forget(watcher),
        }
        true
    }

    /// After watchers were removed and answered.
    pub(super) fn settle(&mut self) {
        self.rest_if_idle();
        self.refresh_counters();
    }

    fn forget(&mut self, watcher: u32) {
        self.take(watcher);
        self.watchers.remove(watcher as usize);
    }

    /// Cancels the watchers whose user may no longer read what they watch, if anything changed. etcd lets them go on; here a
    /// permission that is taken away counts at once.
    pub(super) fn check_permissions(&mut self) {
        let generation = self.permits.generation();
        if generation == self.permits_seen {
            return;
        }
        self.permits_seen = generation;
        let mut lost: Vec<(usize, i64)> = Vec::new();
        for (_, watcher) in &self.watchers {
            let range_end: &[u8] = match &watcher.end {
                WatchEnd::Single => &[],
                WatchEnd::Unbounded => &[0],
                WatchEnd::Before(end) => end,
            };
            if generation != 0 && !self.permits.permits(watcher.user.as_deref(), &watcher.key, range_end) {
                lost.push((watcher.stream, watcher.watch_id));
            }
        }
        for (stream, watch_id) in lost {
            self.remove_watch(stream, watch_id);
            let cancel_reason = super::stream::reason(EtcdError::PermissionDenied);
            let response = WatchResponse { watch_id, canceled: true, cancel_reason, ..WatchResponse::default() };
            self.send_control(stream, self.delivered, response);
        }
        self.settle();
    }

    /// Cancels the members of a group whose history was compacted away, all but those that begin later.
    pub(super) fn cancel_compacted(&mut self, group: usize, compact_revision: i64) {
        while let Some(watch) = self.groups[group].registry.pop() {
            // A watcher with a start in the future comes here with its thread's others when the queue ran over.
            let begins = watch.minimum_revision;
            if begins >= compact_revision && begins > self.groups[group].position {
                self.start(watch);
                continue;
            }
            let watcher = self.watchers.remove(watch.watcher as usize);
            let stream = &mut self.streams[watcher.stream];
            stream.watches.insert(watcher.watch_id, WatchEntry::Compacted);
            // etcd leaves the revision of this header out (mvcc sends the cancellation without one).
            let response = WatchResponse {
                header: Some(header(&*self.header, 0)),
                watch_id: watcher.watch_id,
                canceled: true,
                compact_revision,
                ..WatchResponse::default()
            };
            append_control(&stream.outbox, &response);
        }
        self.groups.remove(group);
        self.settle();
    }

    /// Ends the streams of all members of a group: their history cannot be read. Clients come back and try again.
    pub(super) fn fail(&mut self, group: usize, reason: &str) {
        while let Some(watch) = self.groups[group].registry.pop() {
            let watcher = watch.watcher;
            let index = self.watchers[watcher as usize].stream;
            let stream = &mut self.streams[index];
            stream.failure.get_or_insert_with(|| reason.to_owned());
            // Parked without asking for room: the stream is about to be closed.
            stream.parked.insert(watcher, (self.groups[group].position, watch));
            stream.outbox.wake_service();
            self.watchers[watcher as usize].place = Place::Parked;
        }
        self.groups.remove(group);
    }

    // ---- responses ----

    /// Appends a response without events; the header gets this revision.
    pub(super) fn send_control(&self, stream: usize, revision: i64, mut response: WatchResponse) {
        response.header = Some(header(&*self.header, revision));
        append_control(&self.streams[stream].outbox, &response);
    }

    fn is_synced(&self, watcher: &Watcher) -> bool {
        matches!(watcher.place, Place::Group { group, .. } if group == self.synced)
            && self.delivered >= watcher.start_revision
    }

    /// The client asked for progress: one response for the whole stream if all its watchers are synced, else none. etcd
    /// drops the request too; clients ask again.
    pub(super) fn progress_of_all(&mut self, stream: usize) {
        let revision = self.current_revision();
        let mut live = self.streams[stream].watches.values().filter_map(|entry| match entry {
            WatchEntry::Live(watcher) => Some(&self.watchers[*watcher as usize]),
            WatchEntry::Compacted => None,
        });
        let mut any = false;
        if live.all(|watcher| {
            any = true;
            self.is_synced(watcher)
        }) && any
        {
            self.send_control(stream, revision, WatchResponse { watch_id: -1, ..WatchResponse::default() });
        }
    }

    /// The stream's interval has passed: progress for its synced watchers that asked for it and had no events since the
    /// last time.
    pub(super) fn progress_tick(&mut self, stream: usize) {
        if self.streams[stream].watches.is_empty() {
            return;
        }
        let revision = self.current_revision();
        let mut due = Vec::new();
        for (watch_id, entry) in &self.streams[stream].watches {
            let WatchEntry::Live(index) = entry else { continue };
            let index = *index as usize;
            if self.watchers[index].progress_due == Some(true) && self.is_synced(&self.watchers[index]) {
                due.push(*watch_id);
            }
            if let Some(progress_due) = &mut self.watchers[index].progress_due {
                *progress_due = true;
            }
        }
        for watch_id in due {
            // As any news for a stream that does not read: it can be done without.
            if self.streams[stream].outbox.is_full() {
                break;
            }
            self.send_control(stream, revision, WatchResponse { watch_id, ..WatchResponse::default() });
        }
    }

    /// Appends the events of one watcher from history. False, and nothing appended, if its stream is full.
    pub(super) fn give_from_history(&mut self, watcher: u32, revision: i64, events: &[EventRef<'_>]) -> Option<usize> {
        let watcher = &mut self.watchers[watcher as usize];
        let stream = &self.streams[watcher.stream];
        if stream.outbox.is_full() {
            return None;
        }
        self.queue.counters.add_events(events.len() as u64);
        let field = header_field(&*self.header, revision);
        Some(watcher.give(&stream.outbox, &field, self.config.fragment_bytes, events))
    }

    pub(super) fn wants_previous(&self, watcher: u32) -> bool {
        self.watchers[watcher as usize].wants_previous
    }

    /// A number that differs from stream to stream.
    pub(super) fn next_jitter(&mut self) -> u64 {
        // splitmix64
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.jitter ^ (self.jitter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 1
    }

    pub(super) fn refresh_counters(&self) {
        let counters = &self.queue.counters;
        let slow = self.watchers.len() - self.groups[self.synced].registry.len();
        counters.streams.store(self.streams.len() as i64, Ordering::Relaxed);
        counters.watchers.store(self.watchers.len() as i64, Ordering::Relaxed);
        counters.slow_watchers.store(slow as i64, Ordering::Relaxed);
    }
}

impl Watcher {
    fn give(
        &mut self,
        outbox: &OutboxHandle,
        header_field: &super::encode::Small,
        fragment_bytes: usize,
        events: &[EventRef<'_>],
    ) -> usize {
        if let Some(due) = &mut self.progress_due {
            *due = false;
        }
        let shape = ResponseShape {
            header_field,
            watch_id: self.watch_id,
            fragment_bytes: self.wants_fragments.then_some(fragment_bytes),
        };
        append_events(outbox, shape, events)
    }
}

/// A start for the jitter of progress intervals, different on every thread and in every run.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
