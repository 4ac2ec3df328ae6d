//! All members apply the same commands to the same state. After every single entry, the state of each member is held
//! against that of the first one that stood there: revision and compacted revision, all current keys with their values
//! and revisions, leases with their keys, members, configuration, and what the entry changed. What a member starts from
//! or receives is held against it as well. The first difference names the entry and both members.
//!
//! The history behind the current keys (etcd's `HashKV`) is too dear for each entry: its hash is compared after every
//! [`HISTORY_ENTRIES`]th and at the end of the run. In between, what each entry changed speaks for it.

use std::collections::BTreeMap;

use super::Checked;
use crate::history::Violation;

/// After each multiple of this index the hash of the whole history is compared.
pub const HISTORY_ENTRIES: u64 = 32;

#[derive(Default)]
pub struct SameState {
    /// Who stood there first, and with what.
    entries: BTreeMap<u64, (u64, State)>,
}

/// What a member holds after an entry.
#[derive(Debug)]
pub struct State {
    /// A hash of what the entry changed; unknown where the member did not apply it, but started from there.
    pub changes: Option<u64>,
    /// A hash of all current keys.
    pub keys: u64,
    /// A hash of the history, after every [`HISTORY_ENTRIES`]th entry.
    pub history: Option<u32>,
    /// All else, as text.
    pub rest: String,
}

impl State {
    fn difference(&self, known: &Self) -> Option<&'static str> {
        if self.rest != known.rest {
            return Some("revisions, leases, members or configuration");
        }
        if self.changes.zip(known.changes).is_some_and(|(one, other)| one != other) {
            return Some("what it changed");
        }
        if self.keys != known.keys {
            return Some("current keys");
        }
        (self.history != known.history).then_some("the history")
    }
}

impl SameState {
    /// A member stands behind the entry; `text` shows what it changed there and which keys there are.
    pub fn note(&mut self, member: u64, index: u64, state: State, text: impl Fn() -> String) -> Checked {
        let Some((first, known)) = self.entries.get_mut(&index) else {
            self.entries.insert(index, (member, state));
            return Ok(());
        };
        if let Some(difference) = state.difference(known) {
            let text = format!(
                "after entry {index} members {first:x} and {member:x} differ in {difference}: {known:?}, {state:?}; on \
                 member {member:x}: {}",
                text()
            );
            return Err(Violation::new("same state", text));
        }
        known.changes = known.changes.or(state.changes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(changes: Option<u64>, keys: u64) -> State {
        State { changes, keys, history: None, rest: String::new() }
    }

    #[test]
    fn the_first_difference_names_entry_and_members() {
        let mut same = SameState::default();
        let mut note = |member, index, state| same.note(member, index, state, String::new);
        note(1, 7, state(None, 5)).expect("the first");
        note(2, 7, state(Some(3), 5)).expect("the same, and it knows more");
        let violation = note(3, 7, state(Some(4), 5)).expect_err("it changed something else");
        assert!(
            violation.to_string().contains("after entry 7 members 1 and 3 differ in what it changed"),
            "{violation}"
        );
        assert!(note(3, 7, state(Some(3), 6)).is_err());
        note(3, 8, state(Some(4), 6)).expect("nobody stood there before");
    }
}
