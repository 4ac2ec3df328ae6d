//! When history is compacted without being asked, as etcd's compactors decide it (server/etcdserver/api/v3compactor).
//! Times are counted from the member's start and given by the caller; nothing here reads a clock or compacts anything.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::AutoCompaction;

/// Time between looks of compaction by revision.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// Periodic compaction runs at most once in this time.
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Samples taken of the revision in one interval of periodic compaction.
const SAMPLES_PER_INTERVAL: u32 = 10;

/// Decides by revision or by time. The caller waits for [`AutoCompactor::interval`], asks [`AutoCompactor::due`], tries
/// what it says, reports a success with [`AutoCompactor::completed`], and begins again; a failure needs no report, since
/// the next look is the next try.
#[derive(Debug)]
pub struct AutoCompactor {
    policy: Policy,
    /// The last revision compacted to; the same is not tried twice.
    last: i64,
}

#[derive(Debug)]
enum Policy {
    Revision {
        keep: i64,
    },
    Periodic {
        period: Duration,
        /// Revisions at the looks before this one, oldest first: a period's worth, so that in the long run the first is
        /// that of a period and one interval ago.
        samples: VecDeque<i64>,
        last_success: Duration,
        compacted_before: bool,
    },
}

impl AutoCompactor {
    /// `None` where nothing is ever compacted. `revision` is the store's at the start.
    pub fn new(mode: AutoCompaction, revision: i64) -> Option<Self> {
        let policy = match mode {
            AutoCompaction::Off => return None,
            AutoCompaction::Revision(keep) => Policy::Revision { keep },
            AutoCompaction::Periodic(period) if sample_interval(period).is_zero() => return None,
            AutoCompaction::Periodic(period) => Policy::Periodic {
                period,
                samples: VecDeque::from([revision]),
                last_success: Duration::ZERO,
                compacted_before: false,
            },
        };
        Some(Self { policy, last: 0 })
    }

    /// Time between two looks.
    pub fn interval(&self) -> Duration {
        match &self.policy {
            Policy::Revision { .. } => REVISION_INTERVAL,
            Policy::Periodic { period, .. } => sample_interval(*period),
        }
    }

    /// The revision to compact to now, if any. `revision` is the store's now, and is what later looks remember of it.
    pub fn due(&mut self, now: Duration, revision: i64) -> Option<i64> {
        match &mut self.policy {
            Policy::Revision { keep } => {
                let target = revision.saturating_sub(*keep);
                (target > 0 && target != self.last).then_some(target)
            }
            Policy::Periodic { period, samples, last_success, compacted_before } => {
                let target = *samples.front().expect("a look leaves its sample behind");
                let wait = if *compacted_before { (*period).min(PERIODIC_INTERVAL_MAX) } else { *period };
                let due = now.saturating_sub(*last_success) >= wait && target != self.last;
                *compacted_before |= due;
                push_sample(samples, *period, revision);
                due.then_some(target)
            }
        }
    }

    /// A look of a member that does not lead: it compacts nothing, and remembers what it would need if it did.
    pub fn pass(&mut self, revision: i64) {
        if let Policy::Periodic { period, samples, .. } = &mut self.policy {
            push_sample(samples, *period, revision);
        }
    }

    /// What was due is compacted, by us or by somebody before us.
    pub fn completed(&mut self, now: Duration, target: i64) {
        self.last = target;
        if let Policy::Periodic { last_success, .. } = &mut self.policy {
            *last_success = now;
        }
    }
}

fn push_sample(samples: &mut VecDeque<i64>, period: Duration, revision: i64) {
    samples.push_back(revision);
    if samples.len() > samples_max(period) {
        samples.pop_front();
    }
}

fn sample_interval(period: Duration) -> Duration {
    period.min(PERIODIC_INTERVAL_MAX) / SAMPLES_PER_INTERVAL
}

fn samples_max(period: Duration) -> usize {
    usize::try_from(period.as_nanos() / sample_interval(period).as_nanos()).unwrap_or(usize::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;

    /// What happens at each look when one revision is written per `seconds_per_revision`: (seconds, compacted to).
    fn compactions(mode: AutoCompaction, seconds_per_revision: u64, until: u64) -> Vec<(u64, i64)> {
        let revision = |now: Duration| i64::try_from(1 + now.as_secs() / seconds_per_revision).expect("small");
        let mut compactor = AutoCompactor::new(mode, 1).expect("it is on");
        let mut now = Duration::ZERO;
        let mut done = Vec::new();
        while now.as_secs() < until {
            now += compactor.interval();
            if let Some(target) = compactor.due(now, revision(now)) {
                compactor.completed(now, target);
                done.push((now.as_secs(), target));
            }
        }
        done
    }

    fn periodic(seconds: u64) -> AutoCompaction {
        AutoCompaction::Periodic(Duration::from_secs(seconds))
    }

    #[test]
    fn by_revision_every_five_minutes() {
        let done = compactions(AutoCompaction::Revision(100), 1, 20 * MINUTE);
        assert_eq!(done, [(300, 201), (600, 501), (900, 801), (1200, 1101)]);
        // Nothing while there is less than is kept.
        assert_eq!(compactions(AutoCompaction::Revision(700), 1, 15 * MINUTE), [(900, 201)]);
        // Nothing twice.
        assert_eq!(compactions(AutoCompaction::Revision(1), 100_000, HOUR), []);
    }

    #[test]
    fn by_time_after_the_first_period_and_then_every_period() {
        // A revision a second, so that a target tells when it was sampled.
        assert_eq!(compactions(periodic(10 * MINUTE), 1, 30 * MINUTE), [(600, 1), (1200, 541), (1800, 1141)]);
        assert_eq!(compactions(periodic(HOUR), 1, 3 * HOUR), [(3600, 1), (7200, 3241), (10_800, 6841)]);
        assert_eq!(compactions(periodic(5), 1, 12), [(5, 1), (10, 5)]);
    }

    #[test]
    fn long_periods_are_compacted_every_hour() {
        let done = compactions(periodic(5 * HOUR), 1, 8 * HOUR);
        assert_eq!(done, [(5 * HOUR, 1), (6 * HOUR, 3241), (7 * HOUR, 6841), (8 * HOUR, 10_441)]);
        let days = compactions(periodic(24 * HOUR), 1, 26 * HOUR);
        assert_eq!(days, [(24 * HOUR, 1), (25 * HOUR, 3241), (26 * HOUR, 6841)]);
    }

    #[test]
    fn nothing_new_is_not_compacted_again() {
        assert_eq!(compactions(periodic(10 * MINUTE), 100_000, HOUR), [(600, 1)]);
    }

    #[test]
    fn a_failure_is_tried_again_at_the_next_look_with_what_is_oldest_then() {
        let mut compactor = AutoCompactor::new(periodic(100), 1).expect("it is on");
        let mut look = |seconds| {
            let revision = i64::try_from(1 + seconds).expect("small");
            compactor.due(Duration::from_secs(seconds), revision)
        };
        for seconds in (10..100).step_by(10) {
            assert_eq!(look(seconds), None);
        }
        assert_eq!([look(100), look(110), look(120)], [Some(1), Some(1), Some(11)]);
        compactor.completed(Duration::from_secs(120), 11);
        assert_eq!(compactor.due(Duration::from_secs(219), 220), None);
        assert!(compactor.due(Duration::from_secs(220), 221).is_some());
    }

    /// Who leads compacts: at each look (seconds, whether this member leads), and what it compacts to.
    #[test]
    fn only_the_leader_compacts_and_goes_by_what_it_saw_before() {
        let looks = |mode, leads: &dyn Fn(u64) -> bool, until| {
            let mut compactor = AutoCompactor::new(mode, 1).expect("it is on");
            let mut now = Duration::ZERO;
            let mut done = Vec::new();
            while now.as_secs() < until {
                now += compactor.interval();
                let revision = i64::try_from(1 + now.as_secs()).expect("small");
                if !leads(now.as_secs()) {
                    compactor.pass(revision);
                } else if let Some(target) = compactor.due(now, revision) {
                    compactor.completed(now, target);
                    done.push((now.as_secs(), target));
                }
            }
            done
        };
        // It takes over after 25 minutes, late, and then once in each period.
        let late = looks(periodic(10 * MINUTE), &|second| second > 25 * MINUTE, 40 * MINUTE);
        assert_eq!(late, [(26 * MINUTE, 901), (36 * MINUTE, 1501)]);
        // It leads for the first quarter of an hour, and again later.
        let twice = looks(periodic(10 * MINUTE), &|second| !(15 * MINUTE..=32 * MINUTE).contains(&second), 45 * MINUTE);
        assert_eq!(twice, [(600, 1), (33 * MINUTE, 1321), (43 * MINUTE, 1921)]);
        let by_revision = looks(AutoCompaction::Revision(100), &|second| second > 8 * MINUTE, 15 * MINUTE);
        assert_eq!(by_revision, [(600, 501), (900, 801)]);
    }

    #[test]
    fn off_and_periods_too_short_to_look_into_do_nothing() {
        assert!(AutoCompactor::new(AutoCompaction::Off, 1).is_none());
        assert!(AutoCompactor::new(AutoCompaction::Periodic(Duration::from_nanos(9)), 1).is_none());
    }
}
