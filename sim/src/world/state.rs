//! What a member holds after an entry, put together for the invariant that all hold the same.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use kvorum_node::member::Member;
use kvorum_store::{EventBatch, RangeReply, Reader};

use super::{Waiter, World};
use crate::convert;
use crate::history::{Interval, Violation};
use crate::invariants::same_state::{HISTORY_ENTRIES, SameState, State};

impl World {
    /// Holds what a member starts from, or has just received, against what others held there.
    pub(super) fn note_start(&mut self, machine: usize) -> Result<(), Violation> {
        let (id, founders) = (self.machines[machine].id, self.founders);
        let running = self.machines[machine].running.as_ref().expect("the caller knows that it runs");
        let (reader, index) = (&running.reader, running.reader.applied_index());
        compare(&mut self.invariants.same_state, id, index, reader, &running.member, founders, None)
    }
}

/// Holds a member's state behind entry `index` against that of the others. `events` is what the entry changed; `None` if the
/// member did not apply it.
pub(super) fn compare(
    same_state: &mut SameState,
    id: u64,
    index: u64,
    reader: &Reader,
    member: &Member<Waiter>,
    founders: u64,
    events: Option<&[EventBatch]>,
) -> Result<(), Violation> {
    let failed = |reason: String| Violation::new("members go on", format!("member {id:x} at entry {index}: {reason}"));
    let current = current_keys(reader).map_err(failed)?;
    let is_history_due = index.is_multiple_of(HISTORY_ENTRIES);
    let history = is_history_due.then(|| reader.hash_kv(0)).transpose().map_err(|error| failed(error.to_string()))?;
    let state = State {
        changes: events.map(hash_of_changes),
        keys: hash(&current.kvs),
        history: history.map(|history| history.hash),
        rest: rest(reader, member, founders),
    };
    same_state.note(id, index, state, || {
        let changed = events.iter().copied().flatten().flat_map(|batch| &batch.events);
        let changed: Vec<String> = changed.map(|event| convert::from_event(event).to_string()).collect();
        format!("it changed {changed:?}, and there are {:?}", convert::from_kvs(&current.kvs))
    })
}

fn current_keys(reader: &Reader) -> Result<RangeReply, String> {
    let everything = Interval { key: b"\0".as_slice().into(), range_end: b"\0".as_slice().into() };
    let cursor = reader.range(&convert::to_range(&everything, 0));
    let reply = cursor.and_then(|mut cursor| {
        cursor.advance_with_backend()?;
        Ok(cursor.finish())
    });
    reply.map_err(|error| error.to_string())
}

fn hash_of_changes(events: &[EventBatch]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for batch in events {
        (batch.revision, batch.events.len()).hash(&mut hasher);
        for event in &batch.events {
            (event.kind as u8, &event.kv[..], event.created).hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// All that two members must agree on after the same entry, beside the keys.
fn rest(reader: &Reader, member: &Member<Waiter>, founders: u64) -> String {
    let leases: Vec<_> =
        reader.lease_ids().into_iter().map(|id| (id, reader.lease(id), reader.lease_keys(id))).collect();
    let members = reader.members();
    // While the founders' own entries are applied, a member that founds counts them already and one that joins does not.
    let is_founded = reader.applied_index() > founders;
    let conf_state = is_founded.then(|| member.consensus().conf_state());
    format!(
        "revision {}, compacted {}, leases {leases:?}, members {:?}, removed {:?}, conf state {conf_state:?}",
        reader.revision(),
        reader.compact_revision(),
        members.members.values().map(|member| (member.id, member.is_learner)).collect::<Vec<_>>(),
        members.removed,
    )
}
