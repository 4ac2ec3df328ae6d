//! The revision of a running member never goes back, nor does the index it has applied.

use std::collections::BTreeMap;

use super::Checked;
use crate::history::Violation;

#[derive(Default)]
pub struct RevisionsRise {
    /// By member and start: applied index and revision.
    last: BTreeMap<(u64, u64), (u64, i64)>,
}

impl RevisionsRise {
    pub fn note(&mut self, member: u64, start: u64, applied: u64, revision: i64) -> Checked {
        let before = self.last.insert((member, start), (applied, revision)).unwrap_or((0, 0));
        if applied < before.0 || revision < before.1 {
            let text = format!("member {member:x} went from {before:?} back to {:?}", (applied, revision));
            return Err(Violation::new("revisions rise", text));
        }
        Ok(())
    }
}
