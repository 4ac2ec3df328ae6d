//! What goes wrong, and when: faults drawn from the seed, one or two at a time, for a while, and now and then one that
//! stays on into the next. The order of faults is the seed's; when exactly they strike is the machine's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::cluster::{Cluster, RECOVERY};
use super::network::Flow;
use super::process::Condition;
use super::recorder::Recorder;
use crate::random::Random;

/// Everything that can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Kill,
    KillLeader,
    KillAll,
    PowerLoss,
    PowerLossOfAll,
    Pause,
    /// For longer than an election takes.
    PauseLeader,
    Terminate,
    TerminateLeader,
    IsolateOne,
    IsolateLeader,
    /// It is heard, but hears nothing; or the other way round.
    OneWay,
    Halves,
    CutPair,
    Delay,
    SlowDisk,
    SlowLeaderDisk,
    FullDisk,
    MoveLeader,
    Replace,
    ReplaceByLearner,
    Compact,
}

impl Fault {
    /// How often each is drawn, relative to the others.
    pub const ALL: &[(Fault, usize)] = &[
        (Fault::Kill, 6),
        (Fault::KillLeader, 8),
        (Fault::KillAll, 1),
        (Fault::PowerLoss, 5),
        (Fault::PowerLossOfAll, 2),
        (Fault::Pause, 5),
        (Fault::PauseLeader, 8),
        (Fault::Terminate, 2),
        (Fault::TerminateLeader, 3),
        (Fault::IsolateOne, 4),
        (Fault::IsolateLeader, 8),
        (Fault::OneWay, 6),
        (Fault::Halves, 4),
        (Fault::CutPair, 6),
        (Fault::Delay, 6),
        (Fault::SlowDisk, 3),
        (Fault::SlowLeaderDisk, 4),
        (Fault::FullDisk, 4),
        (Fault::MoveLeader, 5),
        (Fault::Replace, 3),
        (Fault::ReplaceByLearner, 3),
        (Fault::Compact, 6),
    ];
}

/// How long faults stay, and how long there are none.
const HOLD_MILLISECONDS: (i64, i64) = (200, 4_000);
const CALM_MILLISECONDS: (i64, i64) = (50, 1_500);

/// Longer than any election timeout of the members.
const LONG_PAUSE_MILLISECONDS: (i64, i64) = (2_500, 5_000);

/// So often two faults come together, and so often a member stays as it is when faults end, in percent.
const TWO_PERCENT: usize = 35;
const STAYS_PERCENT: usize = 15;

/// Revisions that a compaction leaves.
const KEPT_REVISIONS: (i64, i64) = (20, 400);

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub faults: BTreeMap<Fault, usize>,
    /// How long there was no leader after each one was killed with nothing else wrong.
    pub leaderless: Vec<Duration>,
    /// How often a member that was too far behind took over another one's database.
    pub databases: usize,
}

/// Draws and injects faults.
pub struct Schedule<'c> {
    pub cluster: &'c mut Cluster,
    pub random: Random,
    pub recorder: Arc<Recorder>,
    pub faults: &'c [(Fault, usize)],
    pub tally: Tally,
    /// Whether anything is wrong at the moment.
    troubled: bool,
}

impl<'c> Schedule<'c> {
    pub fn new(
        cluster: &'c mut Cluster,
        random: Random,
        recorder: Arc<Recorder>,
        faults: &'c [(Fault, usize)],
    ) -> Schedule<'c> {
        Schedule { cluster, random, recorder, faults, tally: Tally::default(), troubled: false }
    }

    /// Injects faults until the time is over, then takes them all away. Err when a member did what it must never do.
    pub async fn run(&mut self, length: Duration) -> Result<(), String> {
        let until = Instant::now() + length;
        self.pause(CALM_MILLISECONDS).await;
        while Instant::now() < until {
            let count = if self.random.chance(TWO_PERCENT) { 2 } else { 1 };
            for _ in 0..count {
                let fault = self.draw();
                self.inject(fault).await.map_err(|error| format!("{fault:?}: {error}"))?;
                *self.tally.faults.entry(fault).or_default() += 1;
            }
            self.pause(HOLD_MILLISECONDS).await;
            self.mend(STAYS_PERCENT)?;
            self.pause(CALM_MILLISECONDS).await;
        }
        self.mend(0)
    }

    fn draw(&mut self) -> Fault {
        let total: usize = self.faults.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.random.below(total);
        for (fault, weight) in self.faults {
            if drawn < *weight {
                return *fault;
            }
            drawn -= weight;
        }
        unreachable!("it is below the sum")
    }

    async fn pause(&mut self, (shortest, longest): (i64, i64)) {
        let milliseconds = self.random.between(shortest, longest).unsigned_abs();
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    fn mend(&mut self, stays_percent: usize) -> Result<(), String> {
        self.cluster.check_alive()?;
        self.troubled = false;
        if self.random.chance(stays_percent) {
            self.troubled = true;
        } else {
            self.cluster.network.heal();
        }
        for member in 0..self.cluster.size() {
            if self.random.chance(stays_percent) {
                self.troubled = true;
            } else {
                self.cluster.mend(member)?;
            }
        }
        Ok(())
    }

    fn anybody(&mut self) -> usize {
        self.random.below(self.cluster.size())
    }

    async fn leader_or_anybody(&mut self) -> usize {
        match self.cluster.leader().await {
            Some(leader) => leader,
            None => self.anybody(),
        }
    }

    /// How a link that does not work fails.
    fn broken(&mut self) -> Flow {
        if self.random.chance(50) { Flow::Cut } else { Flow::Held }
    }

    async fn inject(&mut self, fault: Fault) -> Result<(), String> {
        let was_troubled = std::mem::replace(&mut self.troubled, true);
        match fault {
            Fault::KillLeader => self.kill_leader(was_troubled).await?,
            Fault::Kill => {
                let member = self.anybody();
                self.cluster.members[member].kill();
            }
            Fault::KillAll => self.cluster.members.iter_mut().for_each(super::process::MemberProcess::kill),
            Fault::PowerLoss => {
                let member = self.anybody();
                self.cluster.members[member].lose_power(&mut self.random)?;
            }
            Fault::PowerLossOfAll => {
                self.cluster.members.iter_mut().for_each(super::process::MemberProcess::kill);
                for member in &mut self.cluster.members {
                    member.lose_power(&mut self.random)?;
                }
            }
            Fault::Pause | Fault::PauseLeader => {
                let member = if fault == Fault::Pause { self.anybody() } else { self.leader_or_anybody().await };
                self.cluster.members[member].signal(Signal::STOP);
                if fault == Fault::PauseLeader {
                    self.pause(LONG_PAUSE_MILLISECONDS).await;
                }
            }
            Fault::Terminate | Fault::TerminateLeader => {
                let leader = fault == Fault::TerminateLeader;
                let member = if leader { self.leader_or_anybody().await } else { self.anybody() };
                if self.cluster.members[member].condition == Condition::Running {
                    self.cluster.terminate(member).await?;
                }
            }
            Fault::SlowDisk | Fault::SlowLeaderDisk => {
                let leader = fault == Fault::SlowLeaderDisk;
                let member = if leader { self.leader_or_anybody().await } else { self.anybody() };
                let delay = Duration::from_millis(self.random.between(5, 600).unsigned_abs());
                self.cluster.members[member].slow_disk(Some(delay))?;
            }
            Fault::FullDisk => {
                let member = self.anybody();
                self.cluster.members[member].may_have_ended = true;
                self.cluster.members[member].full_disk(true)?;
            }
            Fault::MoveLeader => {
                let (leader, target) = (self.leader_or_anybody().await, self.anybody());
                self.cluster.move_leader(leader, target).await;
                self.troubled = was_troubled;
            }
            Fault::Compact => {
                let revision =
                    self.recorder.newest_revision() - self.random.between(KEPT_REVISIONS.0, KEPT_REVISIONS.1);
                let member = self.anybody();
                self.cluster.compact(member, revision.max(1)).await;
                self.troubled = was_troubled;
            }
            Fault::Replace | Fault::ReplaceByLearner => self.replace(fault == Fault::ReplaceByLearner).await?,
            _ => self.disturb_network(fault).await,
        }
        Ok(())
    }

    async fn kill_leader(&mut self, was_troubled: bool) -> Result<(), String> {
        let leader = self.leader_or_anybody().await;
        let id = self.cluster.member_id(leader).await;
        self.cluster.members[leader].kill();
        if let (Some(id), false) = (id, was_troubled) {
            let took = self.cluster.wait_for_other_leader(leader, id).await;
            self.tally.leaderless.push(took.ok_or("the others elect no leader")?);
        }
        Ok(())
    }

    async fn disturb_network(&mut self, fault: Fault) {
        let size = self.cluster.size();
        let broken = self.broken();
        match fault {
            Fault::IsolateOne | Fault::IsolateLeader => {
                let one = fault == Fault::IsolateOne;
                let member = if one { self.anybody() } else { self.leader_or_anybody().await };
                self.cluster.network.surround(&[member], broken, broken);
                if !one {
                    self.pause(LONG_PAUSE_MILLISECONDS).await;
                }
            }
            Fault::OneWay => {
                let member = if self.random.chance(50) { self.anybody() } else { self.leader_or_anybody().await };
                let (outward, inward) = match self.random.chance(50) {
                    true => (Flow::Held, Flow::Open),
                    false => (Flow::Open, Flow::Held),
                };
                self.cluster.network.surround(&[member], outward, inward);
            }
            Fault::Halves => {
                let first = self.anybody();
                let half: Vec<usize> = (0..size / 2).map(|offset| (first + offset) % size).collect();
                self.cluster.network.surround(&half, broken, broken);
            }
            Fault::CutPair => {
                let (from, to) = self.pair();
                self.cluster.network.set(from, to, broken);
                if self.random.chance(50) {
                    self.cluster.network.set(to, from, broken);
                }
            }
            _ => {
                let delay = Flow::Delayed(Duration::from_millis(self.random.between(5, 400).unsigned_abs()));
                let links = 1 + self.random.below(size * 2);
                for _ in 0..links {
                    let (from, to) = self.pair();
                    self.cluster.network.set(from, to, delay);
                }
            }
        }
    }

    fn pair(&mut self) -> (usize, usize) {
        let from = self.anybody();
        let to = (from + 1 + self.random.below(self.cluster.size() - 1)) % self.cluster.size();
        (from, to)
    }

    /// A member goes for good and another one comes in its place, while links are slow or another member is killed.
    async fn replace(&mut self, learner: bool) -> Result<(), String> {
        self.mend(0)?;
        self.troubled = true;
        self.cluster.wait_until_all_serve().await?;
        let member = self.anybody();
        if self.random.chance(50) {
            self.disturb_network(Fault::Delay).await;
        }
        self.cluster.remove(member).await?;
        let other = (member + 1 + self.random.below(self.cluster.size() - 1)) % self.cluster.size();
        if self.random.chance(30) {
            self.cluster.members[other].kill();
            self.cluster.start(other)?;
        }
        self.cluster.add(member, learner).await?;
        if self.random.chance(30) {
            self.cluster.members[other].kill();
            self.cluster.start(other)?;
        }
        if learner {
            self.cluster.promote(member).await?;
        }
        self.cluster.wait_until_serves(member, Instant::now() + RECOVERY).await
    }
}
