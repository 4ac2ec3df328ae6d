//! What clients of a cluster saw, and whether a correct cluster could have shown it to them.
//!
//! A [`History`] holds operations with the times of their calls and returns, and watches with every message they got.
//! Three judges read it: [`linearizable`] finds an order of all writes that explains every reply (the [`Witness`]), and
//! [`watch`] and [`lease`] hold watch streams and lease expiries against that order. They know nothing of the cluster: a
//! recorder of real processes uses them as well as the simulator. None of them ever passes over what it cannot explain.

pub mod lease;
pub mod linearizable;
pub mod model;
pub mod watch;

use std::fmt;

pub use linearizable::{Cause, Witness, Write};
pub use model::{Compare, Event, Interval, KeyValue, Relation, Reply, Request, Target};
pub use watch::{WatchMessage, WatchRecord};

/// Nanoseconds since a moment of the recorder's choosing, the same for all clients. A recorder that counts coarser must
/// still give every call and return a time of its own.
pub type Time = u64;

pub const NANOSECONDS_PER_SECOND: Time = 1_000_000_000;

/// What a client learned of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out. `revision` is the reply header's.
    Done { revision: i64, reply: Reply },
    /// It was refused because of what the store held: that is an observation, like a read.
    Refused(Refusal),
    /// It certainly had no effect, and nothing is learned from that.
    NotTaken,
    /// No answer, or an error that leaves it open: it may have happened at any time after the call, or never.
    Unknown,
}

/// A refusal that says something about the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    LeaseNotFound,
    LeaseExists,
}

/// One request of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: u32,
    pub call: Time,
    /// Of no meaning for an unknown outcome.
    pub end: Time,
    pub request: Request,
    pub outcome: Outcome,
}

/// Everything that was recorded. The cluster was empty when it began.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    pub watches: Vec<WatchRecord>,
}

/// Why a history cannot come from a correct cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The broken guarantee, by name.
    pub guarantee: &'static str,
    pub text: String,
}

impl Violation {
    pub(crate) fn new(guarantee: &'static str, text: impl Into<String>) -> Self {
        Self { guarantee, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.guarantee, self.text)
    }
}

impl std::error::Error for Violation {}

impl History {
    /// Runs all judges. Leases may end early by as much as the clocks of the members may run fast:
    /// `clock_tolerance` is how much time may be missing of a TTL.
    pub fn check(&self, clock_tolerance: Time) -> Result<Witness, Violation> {
        let witness = linearizable::check(self, clock_tolerance)?;
        for record in &self.watches {
            watch::check(record, &witness)?;
        }
        lease::check(self, &witness, clock_tolerance)?;
        Ok(witness)
    }
}

#[cfg(test)]
mod tests;
