//! When leases end. Only the leader's timers count; they live in memory, are extended when a member becomes leader, and
//! are made durable now and then as checkpoints. Nothing here reads a clock: times are milliseconds that the caller
//! counts from a start of its choosing.
//!
//! The rules are those of etcd's lessor (server/lease/lessor.go): a lease that ran out is proposed for revocation and
//! proposed again after [`REVOKE_RETRY_MILLISECONDS`] if it is still there; a renewal of a lease that ran out waits for
//! that revocation, so an acknowledged renewal always counts; a checkpoint is due one interval after
//! a lease with more than that left was granted, renewed or checkpointed.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_api::etcdserverpb::LeaseCheckpoint;

use crate::limits::{LEASE_CHECKPOINTS_PER_PROPOSAL_MAX, LEASE_EXPIRIES_PER_CHECK_MAX};

/// How long a proposed revocation may take before it is proposed again.
pub const REVOKE_RETRY_MILLISECONDS: u64 = 3_000;

/// Time between checkpoints of one lease, unless something else is asked for.
pub const CHECKPOINT_INTERVAL_MILLISECONDS: u64 = 300_000;

/// Leases expected to be revoked in one second; after an election more than three quarters of it are spread out.
pub const REVOKES_PER_SECOND: usize = 1_000;

const SECOND: u64 = 1_000;

#[derive(Clone, Debug)]
struct Timer {
    ttl_seconds: i64,
    /// From the last checkpoint; 0 when there is none.
    remaining_ttl_seconds: i64,
    /// `None` while this member is not the leader.
    deadline: Option<u64>,
    /// When the lease is looked at next; differs from the deadline while a revocation is under way.
    due: Option<u64>,
    checkpoint_due: Option<u64>,
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    Renewed {
        ttl_seconds: i64,
    },
    /// A checkpoint says that less than the TTL remains; it must be cleared through the log before the renewal counts.
    ClearCheckpointFirst,
    /// The lease ran out and is about to be revoked: ask again once that is applied.
    Expired,
    NotFound,
    NotLeader,
    /// A quorum must confirm first that this member still leads.
    Unconfirmed,
}

/// The timers of all leases.
#[derive(Debug, Default)]
pub struct LeaseTimers {
    timers: BTreeMap<i64, Timer>,
    /// (due, id) of leases with a deadline.
    expiries: BTreeSet<(u64, i64)>,
    /// (due, id) of leases to be checkpointed.
    checkpoints: BTreeSet<(u64, i64)>,
    leader: bool,
    /// `None`: no checkpoints.
    checkpoint_interval_milliseconds: Option<u64>,
}

impl LeaseTimers {
    /// Checkpoints are taken this often, or never: the gate LeaseCheckpoint says which.
    pub fn new(checkpoint_interval_milliseconds: Option<u64>) -> Self {
        Self { checkpoint_interval_milliseconds, ..Self::default() }
    }

    /// A lease was granted, or read from the backend at start (`remaining_ttl_seconds` as stored).
    pub fn insert(&mut self, now: u64, id: i64, ttl_seconds: i64, remaining_ttl_seconds: i64) {
        self.remove(id);
        let timer = Timer { ttl_seconds, remaining_ttl_seconds, deadline: None, due: None, checkpoint_due: None };
        self.timers.insert(id, timer);
        if self.leader {
            self.restart(now, id, 0);
        }
    }

    /// A lease was revoked.
    pub fn remove(&mut self, id: i64) {
        if let Some(timer) = self.timers.remove(&id) {
            self.expiries.extend_remove(timer.due, id);
            self.checkpoints.extend_remove(timer.checkpoint_due, id);
        }
    }

    /// A checkpoint was applied. It counts at the next election, not for a running timer.
    pub fn checkpoint(&mut self, now: u64, id: i64, remaining_ttl_seconds: i64) {
        let leader = self.leader;
        let Some(timer) = self.timers.get_mut(&id) else { return };
        timer.remaining_ttl_seconds = remaining_ttl_seconds;
        if leader {
            self.schedule_checkpoint(now, id);
        }
    }

    /// This member became leader: every lease gets its remaining time again, and `extend_milliseconds` more.
    pub fn promote(&mut self, now: u64, extend_milliseconds: u64) {
        self.leader = true;
        let ids: Vec<i64> = self.timers.keys().copied().collect();
        for id in &ids {
            self.restart(now, *id, extend_milliseconds);
        }
        if ids.len() >= REVOKES_PER_SECOND {
            self.spread_out(now, extend_milliseconds);
        }
    }

    /// This member is no longer leader: nothing runs out here.
    pub fn demote(&mut self) {
        self.leader = false;
        self.expiries.clear();
        self.checkpoints.clear();
        for timer in self.timers.values_mut() {
            timer.deadline = None;
            timer.due = None;
            timer.checkpoint_due = None;
        }
    }

    /// Begins the TTL anew.
    pub fn renew(&mut self, now: u64, id: i64) -> Renewal {
        if !self.leader {
            return Renewal::NotLeader;
        }
        let Some(timer) = self.timers.get(&id) else { return Renewal::NotFound };
        if timer.deadline.is_some_and(|deadline| deadline <= now) {
            return Renewal::Expired;
        }
        if self.checkpoint_interval_milliseconds.is_some() && timer.remaining_ttl_seconds > 0 {
            return Renewal::ClearCheckpointFirst;
        }
        let ttl_seconds = timer.ttl_seconds;
        self.set_deadline(id, now + seconds_to_milliseconds(ttl_seconds));
        Renewal::Renewed { ttl_seconds }
    }

    /// The granted TTL, and whole seconds left as etcd rounds them (towards zero, negative once it ran out).
    pub fn time_to_live(&self, now: u64, id: i64) -> Option<(i64, i64)> {
        let timer = self.timers.get(&id)?;
        let left = match timer.deadline {
            Some(deadline) if deadline >= now => i64::try_from((deadline - now) / SECOND).unwrap_or(i64::MAX),
            Some(deadline) => -i64::try_from((now - deadline) / SECOND).unwrap_or(i64::MAX),
            None => timer.ttl_seconds,
        };
        Some((timer.ttl_seconds, left))
    }

    /// Leases to propose for revocation now, a bounded number, the longest overdue first.
    pub fn take_expired(&mut self, now: u64) -> Vec<i64> {
        let mut expired = Vec::new();
        while let Some(&(due, id)) = self.expiries.first() {
            if due > now || expired.len() == LEASE_EXPIRIES_PER_CHECK_MAX {
                break;
            }
            self.expiries.pop_first();
            let again = now + REVOKE_RETRY_MILLISECONDS;
            self.expiries.insert((again, id));
            self.timers.get_mut(&id).expect("an expiry belongs to a timer").due = Some(again);
            expired.push(id);
        }
        expired
    }

    /// Checkpoints to propose now, a bounded number.
    pub fn take_checkpoints(&mut self, now: u64) -> Vec<LeaseCheckpoint> {
        let mut checkpoints = Vec::new();
        while let Some(&(due, id)) = self.checkpoints.first() {
            if due > now || checkpoints.len() == LEASE_CHECKPOINTS_PER_PROPOSAL_MAX {
                break;
            }
            self.checkpoints.pop_first();
            let timer = self.timers.get_mut(&id).expect("a checkpoint belongs to a timer");
            timer.checkpoint_due = None;
            let left = timer.deadline.map_or(0, |deadline| deadline.saturating_sub(now));
            let remaining = i64::try_from(left.div_ceil(SECOND)).unwrap_or(i64::MAX);
            if left > 0 && remaining < timer.ttl_seconds {
                checkpoints.push(LeaseCheckpoint { id, remaining_ttl: remaining });
            }
        }
        checkpoints
    }

    /// When `take_expired` or `take_checkpoints` may next have something.
    pub fn next_due(&self) -> Option<u64> {
        let expiry = self.expiries.first().map(|&(due, _)| due);
        let checkpoint = self.checkpoints.first().map(|&(due, _)| due);
        expiry.into_iter().chain(checkpoint).min()
    }

    fn restart(&mut self, now: u64, id: i64, extend_milliseconds: u64) {
        let Some(timer) = self.timers.get(&id) else { return };
        let left = remaining_ttl_seconds(timer);
        self.set_deadline(id, now + seconds_to_milliseconds(left) + extend_milliseconds);
        self.schedule_checkpoint(now, id);
    }

    fn set_deadline(&mut self, id: i64, deadline: u64) {
        let timer = self.timers.get_mut(&id).expect("the caller found it");
        let previous = timer.due.replace(deadline);
        timer.deadline = Some(deadline);
        self.expiries.extend_remove(previous, id);
        self.expiries.insert((deadline, id));
    }

    fn schedule_checkpoint(&mut self, now: u64, id: i64) {
        let Some(interval) = self.checkpoint_interval_milliseconds else { return };
        let timer = self.timers.get_mut(&id).expect("the caller found it");
        let previous = timer.checkpoint_due.take();
        let left = seconds_to_milliseconds(remaining_ttl_seconds(timer));
        let due = (left > interval).then_some(now + interval);
        timer.checkpoint_due = due;
        self.checkpoints.extend_remove(previous, id);
        if let Some(due) = due {
            self.checkpoints.insert((due, id));
        }
    }

    /// After an election many leases may run out in the same second. Those beyond three quarters of the revoke rate are
    /// put off by the time the ones before them need; no lease ends earlier than it would have.
    fn spread_out(&mut self, now: u64, extend_milliseconds: u64) {
        let per_second = REVOKES_PER_SECOND * 3 / 4;
        let due: Vec<(u64, i64)> = self.expiries.iter().copied().collect();
        let mut window_start = due.first().map_or(now, |&(deadline, _)| deadline);
        let mut window_count = 0;
        for (deadline, id) in due {
            let slot = window_start.max(deadline);
            if slot >= window_start + SECOND {
                window_start = slot;
                window_count = 0;
            }
            if window_count == per_second {
                window_start += SECOND;
                window_count = 0;
            }
            window_count += 1;
            let target = window_start.max(deadline);
            if target > deadline {
                self.set_deadline(id, target + extend_milliseconds);
            }
        }
    }
}

fn remaining_ttl_seconds(timer: &Timer) -> i64 {
    if timer.remaining_ttl_seconds > 0 { timer.remaining_ttl_seconds } else { timer.ttl_seconds }
}

fn seconds_to_milliseconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(SECOND)
}

trait ExtendRemove {
    fn extend_remove(&mut self, due: Option<u64>, id: i64);
}

impl ExtendRemove for BTreeSet<(u64, i64)> {
    fn extend_remove(&mut self, due: Option<u64>, id: i64) {
        if let Some(due) = due {
            self.remove(&(due, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leading() -> LeaseTimers {
        let mut timers = LeaseTimers::new(Some(CHECKPOINT_INTERVAL_MILLISECONDS));
        timers.promote(0, 0);
        timers
    }

    #[test]
    fn a_lease_runs_out_at_its_ttl_and_is_proposed_again_while_it_is_there() {
        let mut timers = leading();
        timers.insert(0, 1, 10, 0);
        assert!(timers.take_expired(9_999).is_empty());
        assert_eq!(timers.next_due(), Some(10_000));
        assert_eq!(timers.take_expired(10_000), [1]);
        assert!(timers.take_expired(10_001).is_empty());
        assert_eq!(timers.take_expired(13_000), [1]);
        timers.remove(1);
        assert!(timers.take_expired(99_000).is_empty());
        assert_eq!(timers.next_due(), None);
    }

    #[test]
    fn a_renewal_counts_until_the_deadline_and_waits_for_the_revocation_after_it() {
        let mut timers = leading();
        timers.insert(0, 1, 10, 0);
        assert_eq!(timers.renew(9_000, 1), Renewal::Renewed { ttl_seconds: 10 });
        assert!(timers.take_expired(18_999).is_empty());
        assert_eq!(timers.renew(19_000, 1), Renewal::Expired);
        assert_eq!(timers.take_expired(19_000), [1]);
        timers.remove(1);
        assert_eq!(timers.renew(19_001, 1), Renewal::NotFound);
    }

    #[test]
    fn only_a_leader_counts_time_and_an_election_extends_it() {
        let mut timers = LeaseTimers::new(Some(CHECKPOINT_INTERVAL_MILLISECONDS));
        timers.insert(0, 1, 10, 4);
        assert!(timers.take_expired(u64::MAX / 2).is_empty());
        assert_eq!(timers.renew(0, 1), Renewal::NotLeader);
        timers.promote(100_000, 1_000);
        assert_eq!(timers.time_to_live(100_000, 1), Some((10, 5)));
        assert_eq!(timers.renew(100_001, 1), Renewal::ClearCheckpointFirst);
        timers.checkpoint(100_001, 1, 0);
        assert_eq!(timers.renew(100_001, 1), Renewal::Renewed { ttl_seconds: 10 });
        timers.demote();
        assert_eq!(timers.next_due(), None);
    }

    #[test]
    fn long_leases_are_checkpointed_every_interval() {
        let mut timers = leading();
        timers.insert(0, 1, 1_000, 0);
        timers.insert(0, 2, 300, 0);
        assert!(timers.take_checkpoints(299_999).is_empty());
        assert_eq!(timers.take_checkpoints(300_000), [LeaseCheckpoint { id: 1, remaining_ttl: 700 }]);
        timers.checkpoint(300_000, 1, 700);
        assert_eq!(timers.take_checkpoints(600_000), [LeaseCheckpoint { id: 1, remaining_ttl: 400 }]);
    }

    #[test]
    fn after_an_election_expiries_are_spread_and_none_comes_earlier() {
        let mut timers = LeaseTimers::new(None);
        for id in 1..=3_000 {
            timers.insert(0, id, 5, 0);
        }
        timers.promote(0, 0);
        let mut revoked = 0;
        for second in 0..20u64 {
            let mut here = 0;
            loop {
                let expired = timers.take_expired(second * 1_000);
                if expired.is_empty() {
                    break;
                }
                here += expired.len();
                expired.into_iter().for_each(|id| timers.remove(id));
            }
            assert!(second >= 5 || here == 0);
            assert!(here <= 750, "{here} in second {second}");
            revoked += here;
        }
        assert_eq!(revoked, 3_000);
    }
}
