//! Leases never end early: a lease that nobody revoked lives for its TTL from the last grant or renewal that was
//! acknowledged. How long it lives on after that is nobody's promise.
//!
//! A lease's TTL began at the call of the acknowledged request or later, so it must not have been seen gone before that
//! time and its TTL have passed.

use std::collections::BTreeMap;

use super::linearizable::Witness;
use super::model::{Reply, Request};
use super::{History, NANOSECONDS_PER_SECOND, Outcome, Refusal, Time, Violation};

const GUARANTEE: &str = "lease not early";

#[derive(Default)]
struct Life {
    /// Until when the lease was promised, with the acknowledged call that promises it.
    promises: Vec<(Time, Time)>,
    /// A client asked for its end: after this nothing is promised.
    revoked: Option<Time>,
}

/// What acknowledged requests promised of all leases.
pub(super) struct Promises {
    lives: BTreeMap<i64, Life>,
    tolerance: Time,
}

impl Promises {
    pub(super) fn new(history: &History, tolerance: Time) -> Self {
        let mut lives: BTreeMap<i64, Life> = BTreeMap::new();
        for operation in &history.operations {
            match &operation.request {
                Request::LeaseGrant { id, .. } | Request::LeaseKeepAlive { id } => {
                    if let Outcome::Done {
                        reply: Reply::LeaseGrant { ttl_seconds } | Reply::LeaseKeepAlive { ttl_seconds },
                        ..
                    } = operation.outcome
                    {
                        let until = operation.call + ttl_seconds.max(0) as Time * NANOSECONDS_PER_SECOND;
                        lives.entry(*id).or_default().promises.push((operation.call, until));
                    }
                }
                Request::LeaseRevoke { id } if operation.outcome != Outcome::NotTaken => {
                    let life = lives.entry(*id).or_default();
                    life.revoked = Some(life.revoked.map_or(operation.call, |revoked| revoked.min(operation.call)));
                }
                _ => {}
            }
        }
        Self { lives, tolerance }
    }

    /// The call and the end of a promise that is broken if the lease was seen gone at this time.
    pub(super) fn broken(&self, lease: i64, seen: Time) -> Option<(Time, Time)> {
        let life = self.lives.get(&lease)?;
        if life.revoked.is_some_and(|revoked| revoked <= seen) {
            return None;
        }
        life.promises.iter().copied().find(|(_, until)| seen.saturating_add(self.tolerance) < *until)
    }
}

/// Checks all leases of a history. `tolerance` is how much of a TTL the fastest clock may swallow.
pub fn check(history: &History, witness: &Witness, tolerance: Time) -> Result<(), Violation> {
    let promises = Promises::new(history, tolerance);
    let judge = |lease: i64, seen: Time, how: &str| match promises.broken(lease, seen) {
        Some((call, until)) => {
            let text = format!("lease {lease} was gone at {seen} ({how}), promised at {call} until {until}");
            Err(Violation::new(GUARANTEE, text))
        }
        None => Ok(()),
    };
    for expiry in &witness.expiries {
        let how = expiry.revision.map_or("it was not found".to_owned(), |revision| format!("revision {revision}"));
        judge(expiry.lease, expiry.seen, &how)?;
    }
    for operation in &history.operations {
        if let (Request::LeaseKeepAlive { id }, Outcome::Refused(Refusal::LeaseNotFound)) =
            (&operation.request, &operation.outcome)
            && was_granted_before(history, *id, operation.call)
        {
            judge(*id, operation.end, "a keep-alive did not find it")?;
        }
    }
    Ok(())
}

/// A keep-alive that came before the grant was acknowledged may well find nothing.
fn was_granted_before(history: &History, lease: i64, time: Time) -> bool {
    history.operations.iter().any(|operation| {
        operation.request.grants(lease) && matches!(operation.outcome, Outcome::Done { .. }) && operation.end < time
    })
}

impl Request {
    fn grants(&self, lease: i64) -> bool {
        matches!(self, Self::LeaseGrant { id, .. } if *id == lease)
    }
}
