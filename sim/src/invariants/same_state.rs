//! All members apply the same commands to the same state: every revision has the same changes on all of them, and after
//! the same entry they hold the same leases, members, configuration and compacted revision.

use std::collections::BTreeMap;

use super::Checked;
use crate::history::Violation;

#[derive(Default)]
pub struct SameState {
    revisions: BTreeMap<i64, u64>,
    entries: BTreeMap<u64, String>,
}

impl SameState {
    /// What a member's store did at a revision.
    pub fn note_revision(&mut self, member: u64, revision: i64, hash: u64, text: impl Fn() -> String) -> Checked {
        let known = *self.revisions.entry(revision).or_insert(hash);
        if known == hash {
            return Ok(());
        }
        let text = format!("on member {member:x} revision {revision} did something else: {}", text());
        Err(Violation::new("same state", text))
    }

    /// What a member holds after applying an entry.
    pub fn note_entry(&mut self, member: u64, index: u64, state: String) -> Checked {
        let known = self.entries.entry(index).or_insert_with(|| state.clone());
        if *known == state {
            return Ok(());
        }
        let text = format!("after entry {index} member {member:x} holds {state}, another held {known}");
        Err(Violation::new("same state", text))
    }
}
