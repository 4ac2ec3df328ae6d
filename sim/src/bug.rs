//! Bugs that tests plant to see that they are found. Each acts at a seam of the simulated world (what is written, synced,
//! sent or answered), so the code under test has no switch that production could turn.

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A term and vote that come without entries are not written.
    VoteNotPersisted,
    /// Raft hears that a write is durable before it is synced.
    AckBeforeSync,
    /// The same on leaders alone: they count themselves before they have written.
    LeaderCountsItself,
    /// The backend's consistent index runs one entry ahead of what it holds.
    SkippedEntry,
    /// The backend's consistent index stays behind what it holds.
    DuplicateApply,
    /// Every member answers linearizable reads from what it has.
    ReadWithoutQuorum,
    /// A leader answers linearizable reads without asking whether it still leads.
    StaleLeaderReads,
    /// A snapshot is sent with the configuration of the founders.
    SnapshotWithoutConfState,
    /// A snapshot's contents are older than the position it says.
    SnapshotTooOld,
    /// The last entry is missing after a restart.
    ForgottenTail,
    /// Lease timers compare with a clock that is two seconds ahead.
    LeaseClockAhead,
    /// Followers answer lease renewals by themselves.
    RenewalByFollower,
    /// Forwarded proposals are sent twice.
    ProposalSentTwice,
    /// A watch that goes on elsewhere begins one revision late.
    WatchResumesLate,
    /// A watch that goes on elsewhere repeats a revision.
    WatchRepeats,
    /// A member that is reported gone counts as one that votes for whoever asks.
    GoneMembersVote,
}

impl Bug {
    pub const ALL: [Self; 16] = [
        Self::VoteNotPersisted,
        Self::AckBeforeSync,
        Self::LeaderCountsItself,
        Self::SkippedEntry,
        Self::DuplicateApply,
        Self::ReadWithoutQuorum,
        Self::StaleLeaderReads,
        Self::SnapshotWithoutConfState,
        Self::SnapshotTooOld,
        Self::ForgottenTail,
        Self::LeaseClockAhead,
        Self::RenewalByFollower,
        Self::ProposalSentTwice,
        Self::WatchResumesLate,
        Self::WatchRepeats,
        Self::GoneMembersVote,
    ];
}
