//! Nothing that was committed is lost or replaced: every member commits the same entries, and every leader of a later term
//! than the one in which an entry was committed has it. A leader of an earlier term need not: one that was paused may
//! hear of its election long after its successor's, and can commit nothing any more.

use std::collections::BTreeMap;

use super::Checked;
use crate::history::Violation;

#[derive(Default)]
pub struct CommittedKept {
    committed: BTreeMap<u64, Committed>,
}

#[derive(Clone, Copy)]
struct Committed {
    term: u64,
    hash: u64,
    /// The earliest term in which a member was seen to hold it as committed.
    known_in: u64,
}

impl CommittedKept {
    /// A member holds the entry as committed, and is itself in term `now`.
    pub fn note(&mut self, member: u64, now: u64, index: u64, term: u64, hash: u64) -> Checked {
        let known = self.committed.entry(index).or_insert(Committed { term, hash, known_in: now });
        if (known.term, known.hash) != (term, hash) {
            let text = format!(
                "member {member:x} commits entry {index} of term {term}, it was committed as one of term {}",
                known.term
            );
            return Err(Violation::new("committed entries are kept", text));
        }
        known.known_in = known.known_in.min(now);
        Ok(())
    }

    /// A member became leader in `term`. Its log begins after `from`; `term_of` tells what it holds.
    pub fn check_leader(&self, member: u64, term: u64, from: u64, term_of: impl Fn(u64) -> Option<u64>) -> Checked {
        let mut before = self.committed.range(from + 1..).filter(|(_, entry)| entry.known_in < term);
        match before.find(|(index, entry)| term_of(**index) != Some(entry.term)) {
            None => Ok(()),
            Some((index, entry)) => {
                let text = format!(
                    "member {member:x} leads in term {term} without entry {index} of term {}, committed in term {}",
                    entry.term, entry.known_in
                );
                Err(Violation::new("committed entries are kept", text))
            }
        }
    }

    /// The last committed index.
    pub fn last(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_of_later_terms_have_what_was_committed() {
        let mut kept = CommittedKept::default();
        kept.note(1, 5, 9, 3, 77).expect("the first");
        // Found by seed 1882567346225801: elected in term 4, paused, and told of it after term 5 had committed.
        kept.check_leader(2, 4, 0, |_| None).expect("its successor was elected without it");
        kept.check_leader(2, 6, 0, |_| None).expect_err("the entry is lost");
        kept.check_leader(2, 6, 0, |_| Some(4)).expect_err("the entry is replaced");
        kept.check_leader(2, 6, 0, |_| Some(3)).expect("it has the entry");
        kept.check_leader(2, 6, 9, |_| None).expect("its log begins behind it");
        kept.note(2, 6, 9, 4, 78).expect_err("another entry");
    }
}
