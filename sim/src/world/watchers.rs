//! Watches: served from what a member applies, from its history where they are behind, and resumed at another member
//! when theirs is gone.

use kvorum_store::{EventBatch, HistoryError};

use super::{Event, World};
use crate::bug::Bug;
use crate::convert;
use crate::history::watch::WatchEvent;
use crate::history::{Interval, Violation, WatchMessage, WatchRecord};

/// Revisions in one message from history.
const HISTORY_REVISIONS_MAX: usize = 10;

/// One watching client: where it stands, and the record of the watch it has open.
pub struct Watcher {
    number: u32,
    /// The member that serves it, and the record.
    open: Option<(usize, usize)>,
    /// The next revision that the member owes it.
    next: i64,
    /// Where the client goes on with another watch; 0 at first.
    resume: i64,
}

impl Watcher {
    pub fn new(number: u32) -> Self {
        Self { number, open: None, next: 0, resume: 0 }
    }
}

impl World {
    pub(super) fn watch_next(&mut self, watcher: usize) {
        if self.watchers[watcher].open.is_some() {
            return;
        }
        let machine = self.random.below(self.machines.len() as u64) as usize;
        let Some(running) = &self.machines[machine].running else {
            return self.after(200, Event::WatchNext { watcher });
        };
        let revision = running.reader.revision();
        let start_revision = self.watchers[watcher].resume;
        let interval = match watcher % 2 {
            0 => Interval::all(),
            _ => Interval { key: "k1".into(), range_end: "k4".into() },
        };
        let time = self.stamp();
        let record = self.history.watches.len();
        self.history.watches.push(WatchRecord {
            client: 1_000 + self.watchers[watcher].number,
            interval,
            start_revision,
            previous: false,
            messages: vec![(time, WatchMessage::Created { revision })],
            complete_until: 0,
        });
        let (late, repeats) = (self.has(Bug::WatchResumesLate), self.has(Bug::WatchRepeats));
        let state = &mut self.watchers[watcher];
        state.open = Some((machine, record));
        state.next = match start_revision {
            0 => revision + 1,
            resumed if late => resumed + 1,
            resumed if repeats => (resumed - 1).max(2),
            resumed => resumed,
        };
        self.trace("watch", machine, start_revision.unsigned_abs());
        if self.random.chance(300) {
            let delay = self.random.between(500, 4_000);
            self.after(delay, Event::WatchNext { watcher });
        }
    }

    /// What was applied just now, to the watchers that have everything before it.
    pub(super) fn watch_events(&mut self, machine: usize, batches: &[EventBatch]) {
        for watcher in 0..self.watchers.len() {
            let Some((serving, record)) = self.watchers[watcher].open else { continue };
            if serving != machine {
                continue;
            }
            let next = self.watchers[watcher].next;
            let Some(last) = batches.last() else { continue };
            if batches.iter().any(|batch| batch.revision == next) {
                let due: Vec<&EventBatch> = batches.iter().filter(|batch| batch.revision >= next).collect();
                self.push(machine, record, &due);
                self.advance(watcher, record, last.revision + 1);
            }
        }
    }

    fn push(&mut self, machine: usize, record: usize, batches: &[&EventBatch]) {
        let interval = self.history.watches[record].interval.clone();
        let events: Vec<WatchEvent> = batches
            .iter()
            .flat_map(|batch| &batch.events)
            .filter(|event| interval.contains(event.key()))
            .map(|event| WatchEvent { event: convert::from_event(event), previous: None })
            .collect();
        if events.is_empty() {
            return;
        }
        let revision = self.running(machine).reader.revision();
        let time = self.stamp();
        let message = WatchMessage::Events { revision, events, more: false };
        self.history.watches[record].messages.push((time, message));
    }

    /// The member owes the watcher what comes from `next` on. The client itself knows where to go on only from what it
    /// was sent.
    fn advance(&mut self, watcher: usize, record: usize, next: i64) {
        let known = self.history.watches[record].messages.iter().rev().find_map(|(_, message)| match message {
            WatchMessage::Events { events, .. } => events.last().map(|event| event.event.mod_revision() + 1),
            WatchMessage::Progress { revision } => Some(revision + 1),
            _ => None,
        });
        let state = &mut self.watchers[watcher];
        state.next = next;
        state.resume = state.resume.max(known.unwrap_or(0));
    }

    /// Watchers that are behind get what they missed, others now and then a bookmark.
    pub(super) fn watch_pump(&mut self, machine: usize, start: u64) -> Result<(), Violation> {
        let again = self.random.between(30, 300);
        self.after(again, Event::WatchPump { machine, start });
        for watcher in 0..self.watchers.len() {
            let Some((serving, record)) = self.watchers[watcher].open else { continue };
            if serving != machine {
                continue;
            }
            let next = self.watchers[watcher].next;
            let revision = self.running(machine).reader.revision();
            if next <= revision {
                let limit = if self.is_calm { usize::MAX } else { HISTORY_REVISIONS_MAX };
                let history = self.running(machine).reader.history(next, limit);
                match history {
                    Ok(history) => {
                        let batches: Vec<&EventBatch> = history.batches.iter().collect();
                        self.push(machine, record, &batches);
                        self.advance(watcher, record, history.next);
                    }
                    Err(HistoryError::Compacted(compact_revision)) => self.cancel(watcher, record, compact_revision),
                    Err(error) => return Err(Violation::new("watch reliable", format!("history: {error:?}"))),
                }
            } else if next == revision + 1 && self.random.chance(200) {
                let time = self.stamp();
                self.history.watches[record].messages.push((time, WatchMessage::Progress { revision }));
                self.advance(watcher, record, next);
            } else if !self.is_calm && self.random.chance(20) {
                // The client closes it and goes on elsewhere.
                self.close(watcher);
            }
        }
        Ok(())
    }

    fn cancel(&mut self, watcher: usize, record: usize, compact_revision: i64) {
        let time = self.stamp();
        self.history.watches[record].messages.push((time, WatchMessage::Canceled { compact_revision }));
        self.watchers[watcher].resume = 0;
        self.close(watcher);
    }

    fn close(&mut self, watcher: usize) {
        self.watchers[watcher].open = None;
        let delay = self.random.between(5, 500);
        self.after(delay, Event::WatchNext { watcher });
    }

    pub(super) fn forget_watchers_of(&mut self, machine: usize) {
        for watcher in 0..self.watchers.len() {
            if self.watchers[watcher].open.is_some_and(|(serving, _)| serving == machine) {
                self.close(watcher);
            }
        }
    }

    /// Nothing happened for a long time: whoever watches a member must have all that the member has.
    pub(super) fn complete_watches(&mut self) {
        for watcher in 0..self.watchers.len() {
            let Some((machine, record)) = self.watchers[watcher].open else { continue };
            if let Some(running) = &self.machines[machine].running {
                self.history.watches[record].complete_until = running.reader.revision();
            }
        }
    }
}
