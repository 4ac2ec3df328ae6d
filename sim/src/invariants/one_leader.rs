//! At most one member leads in a term.

use std::collections::BTreeMap;

use super::Checked;
use crate::history::Violation;

#[derive(Default)]
pub struct OneLeader {
    leaders: BTreeMap<u64, u64>,
}

impl OneLeader {
    /// `member` leads in `term`. True if that is new.
    pub fn note(&mut self, term: u64, member: u64) -> Result<bool, Violation> {
        match self.leaders.insert(term, member) {
            None => Ok(true),
            Some(other) if other == member => Ok(false),
            Some(other) => {
                Err(Violation::new("one leader", format!("members {other:x} and {member:x} both lead in term {term}")))
            }
        }
    }

    pub fn check_some(&self) -> Checked {
        if self.leaders.is_empty() { Err(Violation::new("progress", "nobody ever led")) } else { Ok(()) }
    }
}
