//! What happened since a revision, for watchers that fell behind.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::records::{Stored, visit_records};
use crate::error::HistoryError;
use crate::event::{Event, EventBatch, EventKind, Previous, key_of};
use crate::keyspace::key_value::KeyValueParts;
use crate::revision::{KvBytes, Revision};
use crate::shared::Shared;

/// Records read in one backend transaction.
const STEP_RECORDS: usize = 1000;

/// A history ends after the revision that brings it to this size.
const HISTORY_BYTES_MAX: usize = 4 << 20;

/// Whole revisions in order.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub batches: Vec<EventBatch>,
    /// The first revision not covered: current + 1 when caught up.
    pub next: i64,
}

pub(crate) fn history(shared: &Shared, from: i64, limit_revisions: usize) -> Result<History, HistoryError> {
    let current = shared.revision();
    check_not_compacted(shared, from)?;
    let mut history = History { batches: Vec::new(), next: from.max(1) };
    let mut bytes = 0;
    let mut full = false;
    let mut position = Some(Revision::new(history.next, 0));
    while let Some(start) = position {
        position = visit_records(shared, start, current, STEP_RECORDS, &mut |revision, tombstone, stored| {
            if stored.bytes().is_empty() && !tombstone {
                // It has no content, only a number; see the walk at start.
                return ControlFlow::Continue(());
            }
            let begins = history.batches.last().is_none_or(|batch| batch.revision != revision.main);
            if begins && (history.batches.len() >= limit_revisions || bytes >= HISTORY_BYTES_MAX) {
                full = true;
                history.next = revision.main;
                return ControlFlow::Break(());
            }
            bytes += stored.bytes().len();
            let event = event(revision, tombstone, &stored);
            match history.batches.last_mut() {
                Some(batch) if !begins => batch.events.push(event),
                _ => history.batches.push(EventBatch { revision: revision.main, events: vec![event] }),
            }
            ControlFlow::Continue(())
        })?;
    }
    if !full {
        history.next = current + 1;
    }
    find_previous(shared, &mut history);
    // A compaction that came in between may have removed what should be in here.
    check_not_compacted(shared, from)?;
    Ok(history)
}

fn check_not_compacted(shared: &Shared, from: i64) -> Result<(), HistoryError> {
    let compact_revision = shared.compact_revision();
    if from < compact_revision { Err(HistoryError::Compacted(compact_revision)) } else { Ok(()) }
}

fn event(revision: Revision, tombstone: bool, stored: &Stored<'_>) -> Event {
    if tombstone {
        let kv = deletion(stored.bytes(), revision);
        return Event { kind: EventKind::Delete, revision, kv, created: false, previous: Previous::None };
    }
    let kv = stored.to_kv();
    let created = KeyValueParts::parse(&kv).is_some_and(|parts| parts.create_revision == parts.mod_revision);
    Event { kind: EventKind::Put, revision, kv, created, previous: Previous::None }
}

/// The stored tombstone has the key only; the event tells the revision too.
fn deletion(stored: &[u8], revision: Revision) -> KvBytes {
    let mut out = Vec::with_capacity(stored.len() + 11);
    let parts = KeyValueParts { key: key_of(stored), mod_revision: revision.main, ..KeyValueParts::default() };
    parts.encode(&mut out);
    Arc::from(out)
}

/// The index knows which revision each event replaced.
fn find_previous(shared: &Shared, history: &mut History) {
    for batch in &mut history.batches {
        let index = shared.index.read();
        for event in batch.events.iter_mut().filter(|event| !event.created) {
            let before = index.entry(key_of(&event.kv)).and_then(|entry| entry.stamp_before(event.revision));
            if let Some(stamp) = before.filter(|stamp| !stamp.is_tombstone()) {
                event.previous = Previous::Stored(stamp.revision);
            }
        }
    }
}
