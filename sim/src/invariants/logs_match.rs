//! Two logs that hold an entry with the same index and term hold the same entry there, and the same before it.

use std::collections::HashMap;

use super::Checked;
use crate::history::Violation;

#[derive(Default)]
pub struct LogsMatch {
    /// For index and term: the entry's hash and the term of the one before.
    entries: HashMap<(u64, u64), (u64, u64)>,
}

impl LogsMatch {
    /// A member's log holds this entry after one of `term_before`, which is 0 where that is not known.
    pub fn note(&mut self, member: u64, index: u64, term: u64, hash: u64, term_before: u64) -> Checked {
        let known = self.entries.entry((index, term)).or_insert((hash, term_before));
        if known.1 == 0 {
            known.1 = term_before;
        }
        if known.0 != hash || (term_before != 0 && known.1 != term_before) {
            let text = format!("member {member:x} holds another entry {index} of term {term} than a member before it");
            return Err(Violation::new("logs match", text));
        }
        Ok(())
    }
}
