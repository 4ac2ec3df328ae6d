//! What must hold at every moment of a run, one file each, and what is judged at its end.

pub mod committed_kept;
pub mod logs_match;
pub mod one_leader;
pub mod revisions_rise;
pub mod same_state;

use crate::history::Violation;

/// All that are watched while the world runs.
#[derive(Default)]
pub struct Invariants {
    pub one_leader: one_leader::OneLeader,
    pub logs_match: logs_match::LogsMatch,
    pub committed_kept: committed_kept::CommittedKept,
    pub same_state: same_state::SameState,
    pub revisions_rise: revisions_rise::RevisionsRise,
}

type Checked = Result<(), Violation>;
