//! Nothing that was committed is lost or replaced: every member commits the same entries, and every new leader has them.

use std::collections::BTreeMap;

use super::Checked;
use crate::history::Violation;

#[derive(Default)]
pub struct CommittedKept {
    /// Term and hash by index.
    committed: BTreeMap<u64, (u64, u64)>,
}

impl CommittedKept {
    /// A member holds the entry as committed.
    pub fn note(&mut self, member: u64, index: u64, term: u64, hash: u64) -> Checked {
        match self.committed.insert(index, (term, hash)) {
            Some(known) if known != (term, hash) => {
                let text = format!(
                    "member {member:x} commits entry {index} of term {term}, it was committed as one of term {}",
                    known.0
                );
                Err(Violation::new("committed entries are kept", text))
            }
            _ => Ok(()),
        }
    }

    /// A member became leader whose log begins after `from`; `term_of` tells what it holds.
    pub fn check_leader(&self, member: u64, from: u64, term_of: impl Fn(u64) -> Option<u64>) -> Checked {
        match self.committed.range(from + 1..).find(|(index, (term, _))| term_of(**index) != Some(*term)) {
            None => Ok(()),
            Some((index, (term, _))) => {
                let text = format!("member {member:x} leads without the committed entry {index} of term {term}");
                Err(Violation::new("committed entries are kept", text))
            }
        }
    }

    /// The last committed index.
    pub fn last(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }
}
