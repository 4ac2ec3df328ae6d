//! A cluster and its clients in one thread: what happens next is the earliest event of one queue, and all chance comes
//! from one seed. Members are the real ones, over the real log code on a disk that forgets.
//!
//! Times are milliseconds of the world; members see their own clocks ([`machine::Machine::local_time`]).

mod clients;
mod faults;
pub mod machine;
mod network;
mod persistence;
mod refusals;
mod snapshots;
mod state;
mod watchers;

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use kvorum_api::raftpb;
use kvorum_node::bootstrap::BootstrapMember;
use kvorum_node::member::{Member, Turn};
use kvorum_node::{LogEntry, Role};
use kvorum_store::{CommitBatch, Position};
use std::sync::Arc;

use crate::bug::Bug;
use crate::history::{History, Time, Violation, Witness};
use crate::invariants::Invariants;
use crate::random::{Random, mix};
use clients::Client;
use machine::Machine;
use network::Network;
use watchers::Watcher;

const NANOSECONDS_PER_MILLISECOND: Time = 1_000_000;

/// How long the world is calm at the end before everything must have settled.
const CALM_MILLISECONDS: u64 = 15_000;

/// Clients ask for nothing new in the last part of the calm.
const QUIET_MILLISECONDS: u64 = 9_000;

/// Clocks run this much too fast or slow at most, in millionths.
const DRIFT_MAX: u64 = 10_000;

/// How far calendars are off at a start, in milliseconds; they go back as well as on.
const CALENDAR_OFFSET_MAX: u64 = 5_000;

/// What a lease may lose of its TTL, as seen by the world: the fastest clock over the longest TTL, and a rounded tick.
const LEASE_TOLERANCE: Time = 130 * NANOSECONDS_PER_MILLISECOND;

/// What kind of world a seed makes.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub members: usize,
    pub clients: u32,
    pub watchers: u32,
    /// How long faults go on.
    pub milliseconds: u64,
    /// The longest time between two faults.
    pub fault_interval_max: u64,
    pub bug: Option<Bug>,
    /// Keeps the trace as text as well.
    pub keeps_trace: bool,
}

impl Options {
    pub fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(mix(seed ^ 0x5eed));
        let members = [1, 3, 3, 3, 3, 5][random.below(6) as usize];
        let clients = random.between(2, 7) as u32;
        let milliseconds = random.between(8_000, 20_000);
        let fault_interval_max = random.between(300, 2_500);
        Self { seed, members, clients, watchers: 2, milliseconds, fault_interval_max, bug: None, keeps_trace: false }
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// The same for two runs that did the same.
    pub trace_hash: u64,
    pub trace: Vec<String>,
    pub violation: Option<Violation>,
    pub events: u64,
    pub operations: usize,
    pub answered: usize,
    pub revisions: usize,
    pub leaders: u64,
    pub snapshots_installed: u64,
    /// Reports that a member's process ended, true ones and others.
    pub gone_reports: u64,
    pub faults: BTreeMap<&'static str, u64>,
}

/// Who waits inside a member. Numbers are positions in the history.
#[derive(Clone, Copy, Debug)]
pub enum Waiter {
    Request(usize),
    Read(usize),
    /// A renewal that waits for a confirmed leader or a cleared checkpoint; `applied`: it has waited once.
    Renewal {
        operation: usize,
        applied: bool,
    },
    Nobody,
}

/// What may happen. Numbers of machines are positions; `start` is which of its processes is meant.
enum Event {
    Tick { machine: usize, start: u64 },
    Deliver { message: raftpb::Message },
    DeliverSnapshot { message: raftpb::Message, database: Vec<u8> },
    SnapshotReported { machine: usize, start: u64, to: u64, arrived: bool },
    Synced { machine: usize, start: u64 },
    CommitDue { machine: usize, start: u64 },
    Committed { machine: usize, start: u64, generation: u64, commit: Commit },
    Fetched { machine: usize, start: u64, low: u64, high: u64 },
    CompactionStep { machine: usize, start: u64 },
    ClientNext { client: u32 },
    Arrive { machine: usize, operation: usize, forwarded: bool },
    RenewAgain { machine: usize, start: u64, operation: usize },
    Reply { operation: usize, outcome: crate::history::Outcome },
    GiveUp { operation: usize },
    WatchNext { watcher: usize },
    WatchPump { machine: usize, start: u64 },
    Fault,
    Restart { machine: usize },
    Dial { machine: usize, start: u64, peer: usize },
    Gone { machine: usize, start: u64, peer: usize },
    Heal,
    DiskRecovers { machine: usize, start: u64 },
}

struct Commit {
    batch: CommitBatch,
    position: Position,
    conf_state: raftpb::ConfState,
}

pub struct World {
    options: Options,
    random: Random,
    now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Event>,
    machines: Vec<Machine>,
    network: Network,
    clients: Vec<Client>,
    watchers: Vec<Watcher>,
    history: History,
    invariants: Invariants,
    last_stamp: Time,
    is_calm: bool,
    report: Report,
    founders: u64,
}

/// Runs a world to its end, or to the first violation. A panic inside a member is one.
pub fn run(options: &Options) -> Report {
    let mut world = World::new(options.clone());
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run_to_the_end()));
    let outcome = caught.unwrap_or_else(|panic| Err(panic_violation(&*panic)));
    let mut report = world.into_report();
    report.violation = outcome.err();
    report
}

fn panic_violation(panic: &(dyn std::any::Any + Send)) -> Violation {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Violation::new("no panic", text.unwrap_or_default())
}

impl World {
    fn new(options: Options) -> Self {
        let mut random = Random::new(mix(options.seed));
        let founders: Vec<BootstrapMember> = (1..=options.members as u64).map(founder).collect();
        let report = Report {
            trace_hash: mix(options.seed),
            trace: Vec::new(),
            violation: None,
            events: 0,
            operations: 0,
            answered: 0,
            revisions: 0,
            leaders: 0,
            snapshots_installed: 0,
            gone_reports: 0,
            faults: BTreeMap::new(),
        };
        let machines = founders.iter().map(|member| new_machine(member.id, &founders, &mut random, &options)).collect();
        let clients = (0..options.clients).map(Client::new).collect();
        let watchers = (0..options.watchers).map(Watcher::new).collect();
        Self {
            founders: founders.len() as u64,
            options,
            random,
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            machines,
            network: Network::new(),
            clients,
            watchers,
            history: History::default(),
            invariants: Invariants::default(),
            last_stamp: 0,
            is_calm: false,
            report,
        }
    }

    fn run_to_the_end(&mut self) -> Result<(), Violation> {
        for machine in 0..self.machines.len() {
            self.boot(machine)?;
        }
        for client in 0..self.options.clients {
            self.after(1_500, Event::ClientNext { client });
        }
        for watcher in 0..self.watchers.len() {
            self.after(1_000, Event::WatchNext { watcher });
        }
        self.after(2_500, Event::Fault);
        let end = self.options.milliseconds;
        self.run_until(end)?;
        self.is_calm = true;
        self.calm_down()?;
        self.run_until(end + CALM_MILLISECONDS)?;
        self.check_end().map(drop)
    }

    fn run_until(&mut self, end: u64) -> Result<(), Violation> {
        while let Some((&(at, sequence), _)) = self.queue.first_key_value() {
            if at >= end {
                break;
            }
            let event = self.queue.remove(&(at, sequence)).expect("it is the first");
            self.now = at;
            self.report.events += 1;
            self.handle(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn after(&mut self, milliseconds: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + milliseconds, self.sequence), event);
    }

    /// A time for the history, later than every one before.
    fn stamp(&mut self) -> Time {
        self.last_stamp = (self.last_stamp + 1).max(self.now * NANOSECONDS_PER_MILLISECOND);
        self.last_stamp
    }

    fn has(&self, bug: Bug) -> bool {
        self.options.bug == Some(bug)
    }

    fn trace(&mut self, what: &str, machine: usize, number: u64) {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        (self.report.trace_hash, self.now, what, machine, number).hash(&mut hasher);
        self.report.trace_hash = hasher.finish();
        if self.options.keeps_trace {
            self.report.trace.push(format!("{:>6} m{} {what} {number}", self.now, machine + 1));
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        if let Some((machine, until)) = self.pause_of(&event) {
            // A paused process finds everything waiting when it goes on, in order.
            self.trace("paused", machine, until);
            self.sequence += 1;
            self.queue.insert((until, self.sequence), event);
            return Ok(());
        }
        match event {
            Event::Tick { machine, start } if self.is_alive(machine, start) => self.tick(machine, start),
            Event::Deliver { message } => self.deliver(message),
            Event::DeliverSnapshot { message, database } => self.deliver_snapshot(message, &database),
            Event::SnapshotReported { machine, start, to, arrived } if self.is_alive(machine, start) => {
                self.act(machine, |member, _, _| member.consensus_mut().report_snapshot(to, arrived))
            }
            Event::Synced { machine, start } if self.is_alive(machine, start) => self.synced(machine),
            Event::CommitDue { machine, start } if self.is_alive(machine, start) => self.commit_due(machine, start),
            Event::Committed { machine, start, generation, commit } if self.is_alive(machine, start) => {
                self.committed(machine, generation, commit)
            }
            Event::Fetched { machine, start, low, high } if self.is_alive(machine, start) => {
                self.fetched(machine, low, high)
            }
            Event::CompactionStep { machine, start } if self.is_alive(machine, start) => {
                self.compaction_step(machine, start)
            }
            Event::ClientNext { client } => self.client_next(client),
            Event::Arrive { machine, operation, forwarded } => self.arrive(machine, operation, forwarded),
            Event::RenewAgain { machine, start, operation } if self.is_alive(machine, start) => {
                self.renew(machine, operation, true)
            }
            Event::Reply { operation, outcome } => {
                self.reply_arrived(operation, outcome);
                Ok(())
            }
            Event::GiveUp { operation } => {
                self.give_up(operation);
                Ok(())
            }
            Event::WatchNext { watcher } => {
                self.watch_next(watcher);
                Ok(())
            }
            Event::WatchPump { machine, start } if self.is_alive(machine, start) => self.watch_pump(machine, start),
            Event::Fault => self.fault(),
            Event::Restart { machine } => self.boot(machine),
            Event::Dial { machine, start, peer } if self.is_alive(machine, start) => {
                self.dial(machine, peer);
                Ok(())
            }
            Event::Gone { machine, start, peer } if self.is_alive(machine, start) => self.report_gone(machine, peer),
            Event::Heal => {
                self.network.heal();
                self.network.weather = network::Weather::FAIR;
                Ok(())
            }
            Event::DiskRecovers { machine, start } if self.is_alive(machine, start) => {
                self.running(machine).sync_delay_max = 4;
                Ok(())
            }
            // Meant for a process that is gone.
            _ => Ok(()),
        }
    }

    fn pause_of(&self, event: &Event) -> Option<(usize, u64)> {
        let machine = match event {
            Event::Tick { machine, .. }
            | Event::Synced { machine, .. }
            | Event::CommitDue { machine, .. }
            | Event::Committed { machine, .. }
            | Event::Fetched { machine, .. }
            | Event::CompactionStep { machine, .. }
            | Event::Arrive { machine, .. }
            | Event::RenewAgain { machine, .. }
            | Event::Dial { machine, .. }
            | Event::Gone { machine, .. }
            | Event::SnapshotReported { machine, .. }
            | Event::WatchPump { machine, .. } => *machine,
            Event::Deliver { message } | Event::DeliverSnapshot { message, .. } => {
                self.machine_of(message.to.unwrap_or(0))?
            }
            _ => return None,
        };
        let until = self.machines[machine].paused_until;
        (until > self.now).then_some((machine, until))
    }

    fn machine_of(&self, id: u64) -> Option<usize> {
        self.machines.iter().position(|machine| machine.id == id)
    }

    fn is_alive(&self, machine: usize, start: u64) -> bool {
        self.machines[machine].running.is_some() && self.machines[machine].start == start
    }

    fn running(&mut self, machine: usize) -> &mut machine::Running {
        self.machines[machine].running.as_mut().expect("the caller knows that it runs")
    }

    fn boot(&mut self, machine: usize) -> Result<(), Violation> {
        if self.machines[machine].running.is_some() || self.machines[machine].is_gone {
            return Ok(());
        }
        let seed = self.random.number();
        // The calendar was set while the machine was down, or never was right.
        self.machines[machine].calendar_offset =
            self.random.below(2 * CALENDAR_OFFSET_MAX) as i64 - CALENDAR_OFFSET_MAX as i64;
        let (now, id) = (self.now, self.machines[machine].id);
        if let Err(reason) = self.machines[machine].boot(now, seed) {
            if !reason.contains("simulated failure") {
                let text = format!("member {id:x} at {now}: {reason}");
                return Err(Violation::new("a member starts again", text));
            }
            // The disk failed again during the start; the operator tries later.
            self.machines[machine].disk = self.machines[machine].disk.crash(seed);
            self.after(500, Event::Restart { machine });
            return Ok(());
        }
        let start = self.machines[machine].start;
        self.trace("start", machine, start);
        let revision = self.running(machine).reader.revision();
        self.trace("revision", machine, revision.unsigned_abs());
        let tick = self.random.below(machine::TICK_MILLISECONDS);
        self.after(tick, Event::Tick { machine, start });
        self.after(50 + tick, Event::CommitDue { machine, start });
        self.after(70 + tick, Event::WatchPump { machine, start });
        self.after(10, Event::CompactionStep { machine, start });
        self.note_start(machine)?;
        self.dial_all(machine);
        let alone = self.options.members == 1;
        self.act(machine, |member, _, _| {
            if alone {
                member.campaign_if_alone();
            }
        })
    }

    fn tick(&mut self, machine: usize, start: u64) -> Result<(), Violation> {
        let drift = self.machines[machine].drift;
        let interval = machine::TICK_MILLISECONDS as i64 * (1_000_000 - drift) / 1_000_000;
        let jitter = self.random.below(3);
        self.after(interval.unsigned_abs() + jitter, Event::Tick { machine, start });
        let ahead = if self.has(Bug::LeaseClockAhead) { 2_000 } else { 0 };
        // As the server does: the clock rounds down.
        self.act(machine, |member, now, turn| member.handle_tick(now.saturating_sub(1) + ahead, turn))
    }

    fn deliver(&mut self, message: raftpb::Message) -> Result<(), Violation> {
        let Some(machine) = self.machine_of(message.to.unwrap_or(0)) else { return Ok(()) };
        let kind = message.r#type.unwrap_or(0);
        self.heard_of(machine, message.from.unwrap_or(0));
        self.trace("message", machine, (kind as u64) << 32 | message.index.unwrap_or(0));
        self.act(machine, |member, _, turn| member.handle_message(message, turn))
    }

    /// Lets something happen to a member, and does what follows from it.
    fn act(
        &mut self,
        machine: usize,
        action: impl FnOnce(&mut Member<Waiter>, u64, &mut Turn<Waiter>),
    ) -> Result<(), Violation> {
        let now = self.machines[machine].local_time(self.now);
        let id = self.machines[machine].id;
        let Some(running) = self.machines[machine].running.as_mut() else { return Ok(()) };
        let mut turn = Turn::default();
        action(&mut running.member, now, &mut turn);
        let (same_state, founders, reader) = (&mut self.invariants.same_state, self.founders, &running.reader);
        let (mut compared, mut told) = (Ok(()), 0);
        let polled = running.member.poll_each(now, &mut turn, |member, entry, turn| {
            let events = &turn.events[told..];
            told = turn.events.len();
            if compared.is_ok() {
                compared = state::compare(same_state, id, entry.index, reader, member, founders, Some(events));
            }
        });
        compared?;
        polled.map_err(|failure| Violation::new("members go on", format!("member {id:x}: {failure}")))?;
        self.follow(machine, turn)
    }

    fn follow(&mut self, machine: usize, turn: Turn<Waiter>) -> Result<(), Violation> {
        let start = self.machines[machine].start;
        if let Some(reason) = turn.refused.first() {
            let id = self.machines[machine].id;
            // Heartbeats of a leader that counts on what this member lost are what such a loss looks like.
            return Err(Violation::new("messages are well formed", format!("member {id:x} refused one {reason}")));
        }
        self.begin_write(machine)?;
        if !self.is_alive(machine, start) {
            // Its disk failed: what it was about to say is never heard.
            return Ok(());
        }
        self.send(machine, turn.messages);
        for message in turn.snapshots {
            self.send_snapshot(machine, message)?;
        }
        self.note(machine)?;
        self.watch_events(machine, &turn.events);
        if turn.compaction_scheduled {
            let delay = self.random.below(50);
            self.after(delay, Event::CompactionStep { machine, start });
        }
        for (waiter, outcome) in turn.replies {
            self.answered(machine, waiter, outcome)?;
        }
        for (waiter, confirmed) in turn.reads {
            self.read_confirmed(machine, waiter, confirmed)?;
        }
        let Some(running) = self.machines[machine].running.as_mut() else { return Ok(()) };
        if let Some((low, high)) = running.member.consensus().wanted_entries()
            && !running.is_fetching
        {
            running.is_fetching = true;
            let delay = self.random.below(20);
            self.after(delay, Event::Fetched { machine, start, low, high });
        }
        if turn.membership_changed {
            self.leave_if_removed(machine);
        }
        Ok(())
    }

    fn send(&mut self, machine: usize, messages: Vec<raftpb::Message>) {
        for message in messages {
            self.answer_for_gone(machine, &message);
            let twice = self.has(Bug::ProposalSentTwice) && message.r#type == Some(raftpb::MessageType::MsgProp as i32);
            let mut delays = self.network.delays(&mut self.random, &message);
            if twice {
                delays.extend_from_within(..);
            }
            if delays.is_empty() && self.random.chance(200) {
                let to = message.to.unwrap_or(0);
                self.running(machine).member.consensus_mut().report_unreachable(to);
            }
            for delay in delays {
                self.after(delay, Event::Deliver { message: message.clone() });
            }
        }
    }

    /// Holds what a member is now against the invariants.
    fn note(&mut self, machine: usize) -> Result<(), Violation> {
        let (id, start) = (self.machines[machine].id, self.machines[machine].start);
        let Some(running) = self.machines[machine].running.as_mut() else { return Ok(()) };
        let consensus = running.member.consensus();
        let (term, commit, applied) = (consensus.term(), consensus.commit_index(), consensus.applied_index());
        if consensus.role() == Role::Leader && !running.member.has_persists() {
            let consensus = &self.invariants.committed_kept;
            if self.invariants.one_leader.note(term, id)? {
                self.report.leaders += 1;
                consensus.check_leader(id, term, running.log_begins.0, |index| running.term_of(index))?;
            }
        }
        // While writes wait for a busy disk, what raft holds in their place is not known here; it is looked at later.
        let known = running.log.last_key_value().map_or(0, |(index, _)| *index);
        while !running.member.has_persists() && running.checked_commit < commit.min(known) {
            running.checked_commit += 1;
            if let Some(entry) = running.log.get(&running.checked_commit) {
                self.invariants.committed_kept.note(id, term, entry.index, entry.term, hash_of(entry))?;
            }
        }
        if applied != running.checked_applied {
            running.checked_applied = applied;
            let revision = running.reader.revision();
            self.invariants.revisions_rise.note(id, start, applied, revision)?;
            self.trace("applied", machine, applied << 32 | revision.unsigned_abs());
        }
        Ok(())
    }

    fn check_end(&mut self) -> Result<Witness, Violation> {
        self.invariants.one_leader.check_some()?;
        let leaders: Vec<usize> = (0..self.machines.len())
            .filter(|machine| {
                let running = self.machines[*machine].running.as_ref();
                running.is_some_and(|running| running.member.consensus().role() == Role::Leader)
            })
            .collect();
        let Some(leader) = leaders.last() else {
            return Err(Violation::new("progress", "nobody leads long after the last fault"));
        };
        let members = self.running(*leader).reader.members();
        let mut hashes = BTreeMap::new();
        for id in members.members.keys() {
            let Some(machine) = self.machine_of(*id) else { continue };
            let Some(running) = &self.machines[machine].running else { continue };
            let applied = running.reader.applied_index();
            if applied < self.invariants.committed_kept.last() {
                let text = format!("member {id:x} stands at {applied} of {}", self.invariants.committed_kept.last());
                return Err(Violation::new("progress", text));
            }
            let hash = running.reader.hash_kv(0).map_err(|error| Violation::new("same state", error.to_string()))?;
            hashes.insert((hash.compact_revision, hash.hash), *id);
        }
        let compact: std::collections::BTreeSet<i64> = hashes.keys().map(|(compact, _)| *compact).collect();
        if hashes.len() > compact.len() {
            return Err(Violation::new("same state", format!("hashes differ at the end: {hashes:?}")));
        }
        self.complete_watches();
        let witness = self.history.check(LEASE_TOLERANCE)?;
        self.report.revisions = witness.writes.len();
        Ok(witness)
    }

    fn into_report(mut self) -> Report {
        self.report.operations = self.history.operations.len();
        let open = self.history.operations.iter().filter(|operation| {
            matches!(operation.outcome, crate::history::Outcome::Unknown | crate::history::Outcome::NotTaken)
        });
        self.report.answered = self.report.operations - open.count();
        self.report
    }
}

fn founder(id: u64) -> BootstrapMember {
    BootstrapMember { id, name: format!("m{id}"), peer_urls: vec![peer_url(id)] }
}

fn peer_url(id: u64) -> String {
    format!("http://m{id}:2380")
}

fn new_machine(id: u64, founders: &[BootstrapMember], random: &mut Random, options: &Options) -> Machine {
    Machine {
        id,
        disk: Default::default(),
        backend: Arc::default(),
        staged: BTreeMap::new(),
        has_received_mark: false,
        drift: random.below(2 * DRIFT_MAX) as i64 - DRIFT_MAX as i64,
        calendar_offset: 0,
        start: 0,
        running: None,
        joins: false,
        is_gone: false,
        paused_until: 0,
        founders: founders.to_vec(),
        value_budget_bytes: if random.chance(300) { 0 } else { 1 << 20 },
        window_entries: random.between(5, 60) as usize,
        segment_bytes: 1 << random.between(11, 16),
        files_kept: random.between(1, 4) as usize,
        checkpoint_interval: random.chance(500).then_some(1_000),
        refuses_from: 0,
        forgets_tail: options.bug == Some(Bug::ForgottenTail),
    }
}

fn hash_of(entry: &LogEntry) -> u64 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    (entry.index, entry.term, entry.kind as i32, &entry.data[..]).hash(&mut hasher);
    hasher.finish()
}
