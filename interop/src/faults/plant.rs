//! Bugs that tests plant to see that the harness finds them. Each acts at a seam between clients, members and disks, so that
//! the server under test has no switch that anybody could turn.

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Members answer linearizable reads from what they have: they are asked for serializable ones.
    UnconfirmedReads,
    /// A write whose outcome is open is sent again, as if a member had proposed it twice.
    RepeatedWrites,
    /// Renewals are answered by nobody's timer: they are not sent.
    ForgedRenewals,
    /// A watch that goes on elsewhere begins one revision late.
    LateWatches,
    /// The log's syncs do nothing: members acknowledge what is not durable.
    UnsyncedLog,
}

impl Plant {
    pub const ALL: [Plant; 5] =
        [Plant::UnconfirmedReads, Plant::RepeatedWrites, Plant::ForgedRenewals, Plant::LateWatches, Plant::UnsyncedLog];
}
