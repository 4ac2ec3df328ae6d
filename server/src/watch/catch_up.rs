//! Watchers that are behind: one task per thread reads history for them, group by group, and makes them synced again.
//!
//! Watchers at the same revision share one read, and a group that reaches another's revision takes it in. Groups take turns,
//! a window each, so one that is far behind does not hold up the others. Between slices of a window the thread does its other work.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use kvorum_store::watch::{Deliveries, Delivery};
use kvorum_store::{Event, EventBatch, KvBytes, Previous};
use tokio::sync::Notify;

use super::encode::EventRef;
use super::history::{HistoryFailure, HistoryFuture, HistorySource, HistoryWindow, PreviousRequest};
use super::hub::Inner;
use super::state::State;

/// Wait before history is asked again for a revision that it should have had.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// What wakes the task.
#[derive(Default)]
pub(super) struct CatchUpSignal {
    wake: Notify,
    roomy_streams: RefCell<Vec<usize>>,
}

impl CatchUpSignal {
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn stream_has_room(&self, stream: usize) {
        self.roomy_streams.borrow_mut().push(stream);
        self.wake();
    }
}

/// Values before events, by (batch, event) of the window.
type PreviousValues = HashMap<(u32, u32), Option<KvBytes>>;

struct CatchUp {
    inner: Rc<Inner>,
    history: Rc<dyn HistorySource>,
    /// Groups take turns in the order of their revisions, from here upwards.
    hand: i64,
    /// The window after the last one, read while that was being delivered.
    prefetched: Option<(i64, HistoryFuture<HistoryWindow>)>,
    deliveries: Deliveries,
}

pub(super) async fn run(inner: Rc<Inner>, history: Rc<dyn HistorySource>) {
    let mut task = CatchUp { inner, history, hand: 0, prefetched: None, deliveries: Deliveries::default() };
    loop {
        match task.next_group() {
            Some(group) => {
                task.advance(group).await;
                tokio::task::yield_now().await;
            }
            None => {
                task.prefetched = None;
                let inner = Rc::clone(&task.inner);
                inner.catch_up.wake.notified().await;
            }
        }
    }
}

impl CatchUp {
    /// Takes the group whose turn it is out of the queue.
    fn next_group(&mut self) -> Option<usize> {
        let roomy = std::mem::take(&mut *self.inner.catch_up.roomy_streams.borrow_mut());
        let mut state = self.inner.state.borrow_mut();
        for stream in roomy {
            state.unpark(stream);
        }
        loop {
            let upwards = state.by_position.range(self.hand..).next();
            let position = *upwards.or_else(|| state.by_position.first_key_value())?.0;
            let group = state.by_position.remove(&position).expect("the position was just found");
            self.hand = position.saturating_add(1);
            if !state.groups[group].registry.is_empty() {
                return Some(group);
            }
            state.groups.remove(group);
        }
    }

    /// Brings one group forward by at most one window. Nobody joins it meanwhile, but members may leave.
    async fn advance(&mut self, group: usize) {
        let position = self.inner.state.borrow().groups[group].position;
        if position <= self.inner.state.borrow().delivered {
            let window = match self.read(position).await {
                Ok(window) => window,
                Err(failure) => return self.give_up(group, &failure),
            };
            if window.next <= position {
                self.inner.state.borrow_mut().queue_group(group);
                return tokio::time::sleep(RETRY_DELAY).await;
            }
            self.prefetch(window.next);
            return match self.deliver_window(group, &window).await {
                Ok(group) => self.release(group),
                Err((group, failure)) => self.give_up(group, &failure),
            };
        }
        self.release(group);
    }

    async fn read(&mut self, position: i64) -> Result<HistoryWindow, HistoryFailure> {
        let reading = match self.prefetched.take() {
            Some((from, reading)) if from == position => reading,
            _ => self.history.history(position, self.revisions_max()),
        };
        reading.await
    }

    fn prefetch(&mut self, next: i64) {
        let state = self.inner.state.borrow();
        // With several groups the next turn is another's.
        if next <= state.delivered && state.by_position.is_empty() {
            drop(state);
            self.prefetched = Some((next, self.history.history(next, self.revisions_max())));
        }
    }

    fn revisions_max(&self) -> usize {
        self.inner.outbox.limits.history_revisions
    }

    /// After a turn: the group becomes synced or waits for its next turn.
    fn release(&mut self, group: usize) {
        let mut state = self.inner.state.borrow_mut();
        let position = state.groups[group].position;
        self.hand = position.saturating_add(1);
        let done = position > state.delivered && state.promote(group);
        if !done {
            state.queue_group(group);
        }
        state.refresh_counters();
    }

    fn give_up(&mut self, group: usize, failure: &HistoryFailure) {
        let mut state = self.inner.state.borrow_mut();
        match failure {
            HistoryFailure::Backend(reason) => state.fail(group, reason),
            HistoryFailure::Compacted(compact_revision) => {
                state.cancel_compacted(group, *compact_revision);
                // The others that are too late need no read to learn it.
                while let Some(entry) = state.by_position.first_entry() {
                    if entry.key() >= compact_revision {
                        break;
                    }
                    let late = entry.remove();
                    state.cancel_compacted(late, *compact_revision);
                }
            }
        }
        state.refresh_counters();
    }

    /// Gives the group what the window holds, in slices. Returns the group, which may be another one after a merge.
    async fn deliver_window(
        &mut self,
        mut group: usize,
        window: &HistoryWindow,
    ) -> Result<usize, (usize, HistoryFailure)> {
        let mut start = 0;
        loop {
            let slice = self.plan(group, window, start);
            let requests = self.previous_requests(window);
            let previous = if requests.is_empty() {
                PreviousValues::new()
            } else {
                let (places, requests): (Vec<(u32, u32)>, Vec<PreviousRequest>) = requests.into_iter().unzip();
                let values = match self.history.previous_values(requests).await {
                    Ok(values) => values,
                    Err(failure) => return Err((group, failure)),
                };
                assert_eq!(values.len(), places.len(), "every request has its answer");
                // Members may have left meanwhile, and their numbers may be others' now.
                self.match_batches(group, &window.batches, start, slice.end, usize::MAX);
                places.into_iter().zip(values).collect()
            };
            self.deliver(window, &previous);
            start = slice.end;
            match self.move_on(group, slice.next, window.next) {
                Turn::Over(group) => return Ok(group),
                Turn::GoesOn(merged) => group = merged,
            }
            tokio::task::yield_now().await;
        }
    }

    /// The group now needs `next`; whoever waits there joins it.
    fn move_on(&self, mut group: usize, next: i64, window_next: i64) -> Turn {
        let mut state = self.inner.state.borrow_mut();
        state.groups[group].position = next;
        if let Some(other) = state.by_position.remove(&next) {
            group = state.merge(group, other);
        }
        if next >= window_next || next > state.delivered || state.groups[group].registry.is_empty() {
            Turn::Over(group)
        } else {
            Turn::GoesOn(group)
        }
    }

    /// Decides how far the next slice goes and matches its batches: to the window's end, but not beyond what the hub has
    /// seen, nor beyond the next group, and only about a turn's worth of events.
    fn plan(&mut self, group: usize, window: &HistoryWindow, start: usize) -> Slice {
        let (next, deliveries_max) = {
            let state = self.inner.state.borrow();
            let position = state.groups[group].position;
            let mut next = window.next.min(state.delivered + 1);
            if let Some((other, _)) = state.by_position.range(position + 1..).next() {
                next = next.min(*other);
            }
            (next, state.config.limits.deliveries_per_turn)
        };
        let end = start + window.batches[start..].partition_point(|batch| batch.revision < next);
        let matched = self.match_batches(group, &window.batches, start, end, deliveries_max);
        let next = if matched < end { window.batches[matched].revision } else { next };
        Slice { end: matched, next }
    }

    /// Matches batches until there are enough deliveries. Returns where it stopped.
    fn match_batches(
        &mut self,
        group: usize,
        batches: &[EventBatch],
        start: usize,
        end: usize,
        enough: usize,
    ) -> usize {
        let mut state = self.inner.state.borrow_mut();
        state.check_permissions();
        let registry = &state.groups[group].registry;
        self.deliveries.clear();
        for (index, batch) in batches.iter().enumerate().take(end).skip(start) {
            if self.deliveries.len() >= enough {
                return index;
            }
            registry.matches(batch, u32::try_from(index).expect("a window is small"), &mut self.deliveries);
        }
        end
    }

    /// What must be looked up before the matched events can be sent.
    fn previous_requests(&self, window: &HistoryWindow) -> Vec<((u32, u32), PreviousRequest)> {
        let state = self.inner.state.borrow();
        let mut places: Vec<(u32, u32)> = self
            .deliveries
            .iter()
            .filter(|delivery| needs_lookup(event_of(window, delivery)) && state.wants_previous(delivery.watcher))
            .map(|delivery| (delivery.batch, delivery.event))
            .collect();
        places.sort_unstable();
        places.dedup();
        let request = |(batch, event): (u32, u32)| {
            let event = &window.batches[batch as usize].events[event as usize];
            let stored = match event.previous {
                Previous::Stored(revision) => Some(revision),
                _ => None,
            };
            PreviousRequest { kv: event.kv.clone(), revision: event.revision.main, stored }
        };
        places.into_iter().map(|place| (place, request(place))).collect()
    }

    /// Appends what was matched, one response per watcher. Watchers whose stream is full wait with it. As in etcd, the header
    /// says what the store has come to, not the watcher: so it never goes back behind what the creation was told.
    fn deliver(&mut self, window: &HistoryWindow, previous: &PreviousValues) {
        let mut state = self.inner.state.borrow_mut();
        let state: &mut State = &mut state;
        let mut events = Vec::new();
        for group in self.deliveries.by_watcher() {
            let watcher = group[0].watcher;
            let wants_previous = state.wants_previous(watcher);
            events.clear();
            events.extend(group.iter().map(|delivery| {
                let event = event_of(window, delivery);
                let previous = match &event.previous {
                    _ if !wants_previous || event.created => None,
                    Previous::Known(kv) => Some(kv),
                    _ => previous.get(&(delivery.batch, delivery.event)).and_then(Option::as_ref),
                };
                EventRef { event, previous }
            }));
            if state.give_from_history(watcher, state.delivered, &events).is_none() {
                state.park(watcher, window.batches[group[0].batch as usize].revision);
            }
        }
    }
}

/// Whether a group has more to receive from its window.
enum Turn {
    Over(usize),
    GoesOn(usize),
}

/// A run of batches that are delivered together.
struct Slice {
    /// Index of the first batch after it.
    end: usize,
    /// The revision its receivers need next.
    next: i64,
}

fn event_of<'a>(window: &'a HistoryWindow, delivery: &Delivery) -> &'a Event {
    &window.batches[delivery.batch as usize].events[delivery.event as usize]
}

fn needs_lookup(event: &Event) -> bool {
    !event.created && !matches!(event.previous, Previous::Known(_))
}
