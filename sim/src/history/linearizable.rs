//! Linearizability: is there one order of all operations, each between its call and its return, in which a store that
//! does one thing after the other gives every reply that was recorded?
//!
//! The search is Wing and Gong's with Lowe's memory of states already seen, made quick by the revisions that every reply
//! carries:
//!
//! - What only reads is taken as soon as it fits. That loses nothing: it changes no state, and going earlier never keeps
//!   another operation from its place.
//! - A write that was answered stands at the revision it was answered with, and nowhere else.
//! - What takes a revision that no answered write claims is a request without an answer, or the end of a lease. Values
//!   that anybody read or watched at that revision say which; only where they do not, the search branches.
//! - A grant comes as soon as it can, unless somebody saw that its lease was not there. Other ends of leases without
//!   keys take no revision either; they wait until something needs them or nothing else can go on, since they commute
//!   with all that does not name their lease.
//!
//! So there is no need to partition by key, which transactions over several keys would forbid anyway. Serializable reads
//! and reads at an old revision have no place in the order; they must show what the store held at their revision, and
//! that revision must have begun before they returned.
//!
//! Keep-alives are not judged here but by [`super::lease`].

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};

use bytes::Bytes;

use super::lease::Promises;
use super::model::{Event, Interval, KeyValue, LeaseStep, Model, Plan, Reply, Request};
use super::{History, Operation, Outcome, Time, Violation, WatchMessage, WatchRecord};

const GUARANTEE: &str = "linearizable";

/// Places the search may try before it gives up; a history that needs so many is refused as undecided.
const BRANCHES_MAX: usize = 20_000;

/// What made a write, or ended a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The position of the operation in the history.
    Operation(usize),
    /// The lease ran out.
    Expiry,
}

/// One revision.
#[derive(Clone, Debug)]
pub struct Write {
    pub revision: i64,
    pub events: Vec<Event>,
    pub cause: Cause,
    /// It happened at this time or later.
    pub not_before: Time,
}

/// A lease that ended without having been revoked by a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    pub lease: i64,
    /// The revision that deleted its keys; `None` if it had none.
    pub revision: Option<i64>,
    /// By this time it had happened: somebody saw it.
    pub seen: Time,
}

/// An order of writes that explains the history.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    /// By revision, without gaps.
    pub writes: Vec<Write>,
    pub expiries: Vec<Expiry>,
}

impl Witness {
    pub fn write(&self, revision: i64) -> Option<&Write> {
        let first = self.writes.first()?.revision;
        self.writes.get(usize::try_from(revision - first).ok()?)
    }
}

/// Finds such an order: if there is one, one in which no lease ends earlier than was promised, give or take `tolerance`.
pub fn check(history: &History, tolerance: Time) -> Result<Witness, Violation> {
    let mut search = Search::new(history)?;
    search.promises = Some(Promises::new(history, tolerance));
    // Else whatever explains it, for the judge of leases to say what is wrong.
    search.run().or_else(|_| Search::new(history)?.run())
}

/// What a watch delivered of its keys: everything from one revision to another.
struct Coverage<'h> {
    interval: &'h Interval,
    from: i64,
    until: i64,
    events: BTreeMap<i64, Vec<&'h Event>>,
}

/// A read that shows the store at a revision of its own.
struct Snapshot<'h> {
    operation: usize,
    interval: &'h Interval,
    kvs: &'h [KeyValue],
}

struct Search<'h> {
    history: &'h History,
    /// Answered operations by their calls.
    answered: Vec<usize>,
    /// Operations without an answer that may have changed something, by their calls.
    unknown: Vec<usize>,
    /// The answered write that claims a revision.
    claims: BTreeMap<i64, usize>,
    /// What was seen to have happened at a revision.
    facts: BTreeMap<i64, Vec<Event>>,
    coverages: Vec<Coverage<'h>>,
    /// What no expiry may break.
    promises: Option<Promises>,
    /// When a watch first showed this revision or a later one.
    sightings: BTreeMap<i64, Time>,
    /// For each key its lives, by their create revision: which version was seen at which revision.
    lives: HashMap<Bytes, BTreeMap<i64, BTreeMap<i64, i64>>>,
    snapshots: BTreeMap<i64, Vec<Snapshot<'h>>>,
    /// Leases that somebody did not find, or found when granting them again.
    doubted_leases: HashSet<i64>,
    /// How many answered reads have their place at a revision.
    reads: BTreeMap<i64, usize>,
    /// The last revision that anybody saw.
    last_revision: i64,
    seen: HashSet<u64>,
    branches: usize,
    trail: Vec<Taken>,
    furthest: Option<Stuck>,
}

/// How far one order has come.
#[derive(Clone)]
struct Position {
    model: Model,
    /// How many of `answered` were called before the first return that is still to come.
    next: usize,
    /// Those of them that have no place yet.
    window: Vec<usize>,
    /// Positions in `unknown` that were given a place.
    used: Vec<usize>,
    placed: usize,
    placed_hash: u64,
    /// Reads that were placed at the model's revision.
    reads_here: usize,
    latest_call: Time,
}

#[derive(Clone)]
struct Taken {
    cause: Cause,
    plan: Plan,
    not_before: Time,
}

#[derive(Clone, Copy)]
enum Choice {
    Answered(usize),
    /// A position in `unknown`.
    Unknown(usize),
    Expiry(i64),
}

struct Branch {
    position: Position,
    trail: usize,
    choices: Vec<Choice>,
}

struct Stuck {
    placed: usize,
    text: String,
}

impl<'h> Search<'h> {
    fn new(history: &'h History) -> Result<Self, Violation> {
        let mut search = Self {
            history,
            answered: Vec::new(),
            unknown: Vec::new(),
            claims: BTreeMap::new(),
            facts: BTreeMap::new(),
            coverages: history.watches.iter().filter_map(coverage).collect(),
            promises: None,
            sightings: sightings(history),
            lives: HashMap::new(),
            snapshots: BTreeMap::new(),
            doubted_leases: HashSet::new(),
            reads: BTreeMap::new(),
            last_revision: 1,
            seen: HashSet::new(),
            branches: 0,
            trail: Vec::new(),
            furthest: None,
        };
        for position in 0..history.operations.len() {
            search.sort_operation(position)?;
        }
        let by_call = |position: &usize| history.operations[*position].call;
        search.answered.sort_by_key(by_call);
        search.unknown.sort_by_key(by_call);
        for record in &history.watches {
            for message in &record.messages {
                if let WatchMessage::Events { events, .. } = &message.1 {
                    for event in events {
                        search.add_fact(event.event.clone())?;
                    }
                }
            }
        }
        let answered = history.operations.iter().filter_map(|operation| match operation.outcome {
            Outcome::Done { revision, .. } => Some(revision),
            _ => None,
        });
        let seen = search.facts.keys().chain(search.snapshots.keys()).copied();
        for operation in &search.answered {
            if let Some(revision) = search.is_read(*operation) {
                *search.reads.entry(revision).or_default() += 1;
            }
        }
        search.last_revision = seen.chain(answered).max().unwrap_or(1).max(1);
        Ok(search)
    }

    fn sort_operation(&mut self, position: usize) -> Result<(), Violation> {
        let operation = &self.history.operations[position];
        let (revision, reply) = match &operation.outcome {
            Outcome::NotTaken => return Ok(()),
            _ if matches!(operation.request, Request::LeaseKeepAlive { .. }) => return Ok(()),
            Outcome::Unknown => {
                if !matches!(operation.request, Request::Range { .. }) {
                    self.unknown.push(position);
                }
                return Ok(());
            }
            Outcome::Refused(_) => {
                self.answered.push(position);
                leases_of(&operation.request, &mut |lease| {
                    self.doubted_leases.insert(lease);
                });
                return Ok(());
            }
            Outcome::Done { revision, reply } => (*revision, reply),
        };
        if operation.end < operation.call {
            return Err(Violation::new(GUARANTEE, format!("{operation:?} returned before it was called")));
        }
        self.add_facts_of(reply)?;
        if reply.took_revision() == Some(true)
            && let Some(other) = self.claims.insert(revision, position)
        {
            let other = &self.history.operations[other];
            let text = format!("two writes were answered with revision {revision}: {other:?} and {operation:?}");
            return Err(Violation::new(GUARANTEE, text));
        }
        match (&operation.request, reply) {
            (Request::Range { interval, revision: wanted, serializable }, Reply::Range { kvs })
                if *wanted != 0 || *serializable =>
            {
                let shown = if *wanted == 0 { revision } else { *wanted };
                self.snapshots.entry(shown).or_default().push(Snapshot { operation: position, interval, kvs });
                if !serializable {
                    self.answered.push(position);
                }
            }
            _ => self.answered.push(position),
        }
        Ok(())
    }

    fn add_facts_of(&mut self, reply: &Reply) -> Result<(), Violation> {
        match reply {
            Reply::Range { kvs } => kvs.iter().try_for_each(|kv| self.add_fact(Event::Put(kv.clone()))),
            Reply::Txn { replies, .. } => replies.iter().try_for_each(|reply| self.add_facts_of(reply)),
            _ => Ok(()),
        }
    }

    fn add_fact(&mut self, event: Event) -> Result<(), Violation> {
        let revision = event.mod_revision();
        if let Event::Put(kv) = &event {
            let lives = self.lives.entry(kv.key.clone()).or_default();
            lives.entry(kv.create_revision).or_default().insert(kv.mod_revision, kv.version);
        }
        let facts = self.facts.entry(revision).or_default();
        match facts.iter().find(|fact| fact.key() == event.key()) {
            None => facts.push(event),
            Some(fact) if *fact == event => {}
            Some(fact) => {
                let text = format!("revision {revision} was seen as {fact:?} and as {event:?}");
                return Err(Violation::new(GUARANTEE, text));
            }
        }
        Ok(())
    }

    fn run(mut self) -> Result<Witness, Violation> {
        let mut position = Position {
            model: Model::default(),
            next: 0,
            window: Vec::new(),
            used: Vec::new(),
            placed: 0,
            placed_hash: 0,
            reads_here: 0,
            latest_call: 0,
        };
        let mut branches: Vec<Branch> = Vec::new();
        let mut fits = self.snapshots_fit(&position);
        loop {
            if fits {
                fits = self.advance(&mut position);
            }
            if fits && self.is_finished(&position) {
                return Ok(self.into_witness());
            }
            let choices = if fits { self.choices(&position) } else { Vec::new() };
            self.note_stuck(&position, fits);
            branches.push(Branch { position, trail: self.trail.len(), choices });
            position = loop {
                let Some(branch) = branches.last_mut() else { return Err(self.violation()) };
                self.trail.truncate(branch.trail);
                match branch.choices.pop() {
                    Some(choice) => {
                        let mut position = branch.position.clone();
                        fits = self.choose(&mut position, choice);
                        break position;
                    }
                    None => drop(branches.pop()),
                }
            };
            self.branches += 1;
            if self.branches > BRANCHES_MAX {
                return Err(Violation::new(GUARANTEE, format!("undecided after {BRANCHES_MAX} branches")));
            }
        }
    }

    /// Takes everything that has only one place. False if a snapshot shows that this order is wrong.
    fn advance(&mut self, position: &mut Position) -> bool {
        loop {
            self.fill_window(position);
            let claimed = |position: &Position| if self.may_pass(position) { self.next_claim(position) } else { None };
            let taken = self.next_read(position).or_else(|| claimed(position)).or_else(|| self.next_grant(position));
            let Some((slot, plan)) = taken else {
                match self.next_open_grant(position) {
                    Some(place) => drop(self.choose(position, Choice::Unknown(place))),
                    None => return true,
                }
                continue;
            };
            let operation = position.window.remove(slot);
            if !self.place(position, Cause::Operation(operation), plan) {
                return false;
            }
        }
    }

    /// Something in the window that changes nothing and fits. It goes before the write that ends its revision.
    fn next_read(&self, position: &Position) -> Option<(usize, Plan)> {
        let revision = position.model.revision;
        position.window.iter().enumerate().find_map(|(slot, operation)| {
            if !self.may_be_read(*operation, revision) {
                return None;
            }
            let plan = position.model.plan(&self.history.operations[*operation].request);
            let changes_nothing = plan.events.is_empty() && plan.lease.is_none();
            (changes_nothing && self.answers(*operation, &plan)).then_some((slot, plan))
        })
    }

    /// The answered write of the next revision, if it fits.
    fn next_claim(&self, position: &Position) -> Option<(usize, Plan)> {
        let revision = position.model.revision + 1;
        let claim = self.claims.get(&revision)?;
        let slot = position.window.iter().position(|operation| operation == claim)?;
        let plan = position.model.plan(&self.history.operations[*claim].request);
        let fits = !plan.events.is_empty() && self.facts_allow(revision, &plan) && self.answers(*claim, &plan);
        fits.then_some((slot, plan))
    }

    /// Reads can only stand where the revision is the one they were answered with; refusals have none.
    fn may_be_read(&self, operation: usize, revision: i64) -> bool {
        let refused = matches!(self.history.operations[operation].outcome, Outcome::Refused(_));
        refused || self.is_read(operation) == Some(revision)
    }

    fn fill_window(&self, position: &mut Position) {
        let operations = &self.history.operations;
        loop {
            let first_end = self.first_end(position);
            match self.answered.get(position.next) {
                Some(next) if operations[*next].call <= first_end => {
                    position.window.push(*next);
                    position.next += 1;
                }
                _ => return,
            }
        }
    }

    /// What was called after this has no place yet.
    fn first_end(&self, position: &Position) -> Time {
        position.window.iter().map(|operation| self.history.operations[*operation].end).min().unwrap_or(Time::MAX)
    }

    /// Whether the plan is what was answered.
    fn answers(&self, operation: usize, plan: &Plan) -> bool {
        let operation = &self.history.operations[operation];
        match (&operation.outcome, &plan.answer) {
            (Outcome::Refused(refusal), Err(planned)) => refusal == planned,
            (Outcome::Done { reply, .. }, Ok(planned)) => match (&operation.request, reply, planned) {
                // The store may raise a TTL; how long leases live is judged elsewhere.
                (_, Reply::LeaseGrant { .. }, Reply::LeaseGrant { .. }) => true,
                // What is shown of an old revision is compared there.
                (Request::Range { revision, .. }, Reply::Range { .. }, Reply::Range { .. }) if *revision != 0 => true,
                _ => reply == planned,
            },
            _ => false,
        }
    }

    /// Whether a revision may be this: nobody saw it otherwise, and what was seen of its keys later can still follow.
    fn facts_allow(&self, revision: i64, plan: &Plan) -> bool {
        let facts = self.facts.get(&revision).map_or(&[][..], Vec::as_slice);
        facts.iter().all(|fact| plan.events.contains(fact)) && plan.events.iter().all(|event| self.lives_allow(event))
    }

    fn lives_allow(&self, event: &Event) -> bool {
        let revision = event.mod_revision();
        let Some(lives) = self.lives.get(event.key()) else { return true };
        // The life that was under way at this revision, if it was seen to go on after it.
        let under_way = lives.range(..revision).next_back().filter(|(_, seen)| seen.range(revision..).next().is_some());
        match (event, under_way) {
            (Event::Delete { .. }, under_way) => under_way.is_none(),
            (Event::Put(kv), Some((create_revision, _))) if kv.create_revision != *create_revision => false,
            (Event::Put(kv), _) => {
                let Some(seen) = lives.get(&kv.create_revision) else { return true };
                let before = seen.range(..revision).next_back();
                let after = seen.range(revision + 1..).next();
                before.is_none_or(|(_, version)| *version < kv.version)
                    && after.is_none_or(|(later, version)| {
                        kv.version < *version && version - kv.version <= later - revision
                    })
            }
        }
    }

    /// Whether a request that claims no revision may take the next one.
    fn is_free(&self, position: &Position, plan: &Plan, call: Time) -> bool {
        let revision = position.model.revision + 1;
        if self.sightings.range(revision..).next().is_some_and(|(_, seen)| call.max(position.latest_call) > *seen) {
            return false;
        }
        let has_place = revision <= self.last_revision && self.may_pass(position);
        has_place
            && !self.claims.contains_key(&revision)
            && self.facts_allow(revision, plan)
            && self.coverages.iter().all(|coverage| coverage.allows(revision, plan))
    }

    /// A grant in the window that nobody needs to come later.
    fn next_grant(&self, position: &Position) -> Option<(usize, Plan)> {
        position.window.iter().enumerate().find_map(|(slot, operation)| {
            let request = &self.history.operations[*operation].request;
            if !self.is_undoubted_grant(request) {
                return None;
            }
            let plan = position.model.plan(request);
            self.answers(*operation, &plan).then_some((slot, plan))
        })
    }

    /// The same for a grant without an answer.
    fn next_open_grant(&self, position: &Position) -> Option<usize> {
        let first_end = self.first_end(position);
        let called = self.unknown.iter().take_while(|operation| self.history.operations[**operation].call <= first_end);
        called.enumerate().find_map(|(place, operation)| {
            let request = &self.history.operations[*operation].request;
            let is_open = self.is_undoubted_grant(request) && !position.used.contains(&place);
            (is_open && position.model.plan(request).answer.is_ok()).then_some(place)
        })
    }

    fn is_undoubted_grant(&self, request: &Request) -> bool {
        matches!(request, Request::LeaseGrant { id, .. } if !self.doubted_leases.contains(id))
    }

    /// Whether all that was read at the model's revision has its place, so that the next may come.
    fn may_pass(&self, position: &Position) -> bool {
        self.reads.get(&position.model.revision).is_none_or(|reads| position.reads_here >= *reads)
    }

    /// Whether an answered operation stands at the revision it was answered with, without taking one.
    fn is_read(&self, operation: usize) -> Option<i64> {
        let operation = &self.history.operations[operation];
        match (&operation.request, &operation.outcome) {
            (Request::LeaseGrant { .. } | Request::LeaseRevoke { .. }, _) => None,
            (_, Outcome::Done { revision, reply }) if reply.took_revision() == Some(false) => Some(*revision),
            _ => None,
        }
    }

    /// Gives an operation or expiry its place. False if a snapshot of the new revision shows that it is the wrong one.
    fn place(&mut self, position: &mut Position, cause: Cause, plan: Plan) -> bool {
        if let Cause::Operation(operation) = cause {
            // What has no revision of its own may stand here only because it may stand anywhere.
            if !plan.events.is_empty() || self.is_read(operation).is_some() {
                position.latest_call = position.latest_call.max(self.history.operations[operation].call);
            }
            position.placed_hash ^= mixed(operation as u64 + 1);
        }
        position.placed += 1;
        position.model.carry_out(&plan);
        let writes = !plan.events.is_empty();
        match cause {
            _ if writes => position.reads_here = 0,
            Cause::Operation(operation) if self.is_read(operation).is_some() => position.reads_here += 1,
            _ => {}
        }
        if writes || plan.lease.is_some() {
            self.trail.push(Taken { cause, plan, not_before: position.latest_call });
        }
        !writes || self.snapshots_fit(position)
    }

    fn snapshots_fit(&self, position: &Position) -> bool {
        let Some(snapshots) = self.snapshots.get(&position.model.revision) else { return true };
        snapshots.iter().all(|snapshot| {
            let in_time = position.latest_call <= self.history.operations[snapshot.operation].end;
            in_time && position.model.range(snapshot.interval).eq(snapshot.kvs)
        })
    }

    fn is_finished(&self, position: &Position) -> bool {
        position.window.is_empty()
            && position.next == self.answered.len()
            && position.model.revision >= self.last_revision
    }

    /// What may come next where nothing must, the likeliest last. Nothing if this state was seen before.
    fn choices(&mut self, position: &Position) -> Vec<Choice> {
        if !self.seen.insert(digest(position)) {
            return Vec::new();
        }
        let (mut likely, mut silent, mut offered) = (Vec::new(), Vec::new(), Vec::new());
        for operation in &position.window {
            let Operation { request, call, .. } = &self.history.operations[*operation];
            if matches!(request, Request::LeaseGrant { .. } | Request::LeaseRevoke { .. }) {
                let plan = position.model.plan(request);
                let has_place = plan.events.is_empty() || self.is_free(position, &plan, *call);
                if self.answers(*operation, &plan) && has_place {
                    likely.push(Choice::Answered(*operation));
                }
            }
        }
        let first_end = self.first_end(position);
        for (place, operation) in self.unknown.iter().enumerate() {
            let recorded = &self.history.operations[*operation];
            if recorded.call > first_end {
                break;
            }
            if position.used.contains(&place) {
                continue;
            }
            let plan = position.model.plan(&recorded.request);
            match (plan.answer.is_ok(), plan.events.is_empty(), plan.lease) {
                // Of requests that do the same it does not matter which, nor whether a lease ran out or was revoked.
                (true, false, lease) if offered.contains(&(plan.events.clone(), lease)) => {}
                (true, false, lease) if self.is_free(position, &plan, recorded.call) => {
                    likely.push(Choice::Unknown(place));
                    offered.push((plan.events, lease));
                }
                (true, true, Some(LeaseStep::Granted(id))) if self.is_wanted(position, id, *operation) => {
                    silent.push(Choice::Unknown(place));
                }
                (true, true, Some(LeaseStep::Ended(id))) if self.is_missed(position, id) => {
                    silent.push(Choice::Unknown(place));
                }
                _ => {}
            }
        }
        for lease in position.model.leases() {
            let plan = position.model.end_lease(lease).expect("the model holds the lease");
            if !self.may_expire(position, lease, &plan) {
                continue;
            }
            if plan.events.is_empty() {
                if self.is_missed(position, lease) {
                    silent.push(Choice::Expiry(lease));
                }
            } else if !offered.contains(&(plan.events.clone(), plan.lease)) && self.is_free(position, &plan, 0) {
                likely.push(Choice::Expiry(lease));
            }
        }
        silent.reverse();
        likely.reverse();
        silent.append(&mut likely);
        silent
    }

    fn may_expire(&self, position: &Position, lease: i64, plan: &Plan) -> bool {
        let Some(promises) = &self.promises else { return true };
        let seen = match plan.events.is_empty() {
            true => first_refusal(self.history, lease),
            false => first_sight(self.history, position.model.revision + 1),
        };
        promises.broken(lease, seen).is_none()
    }

    /// Whether an operation other than `except` that may be next names the lease.
    fn is_wanted(&self, position: &Position, lease: i64, except: usize) -> bool {
        let unused = self.unknown.iter().enumerate().filter(|(place, _)| !position.used.contains(place));
        let candidates = position.window.iter().chain(unused.map(|(_, operation)| operation));
        let mut others = candidates.filter(|operation| **operation != except);
        others.any(|operation| names_lease(&self.history.operations[*operation].request, lease))
    }

    /// Whether an operation that waits for its place did not find the lease.
    fn is_missed(&self, position: &Position, lease: i64) -> bool {
        position.window.iter().any(|operation| {
            let operation = &self.history.operations[*operation];
            matches!(operation.outcome, Outcome::Refused(_)) && names_lease(&operation.request, lease)
        })
    }

    fn choose(&mut self, position: &mut Position, choice: Choice) -> bool {
        match choice {
            Choice::Answered(operation) => {
                position.window.retain(|other| *other != operation);
                let plan = position.model.plan(&self.history.operations[operation].request);
                self.place(position, Cause::Operation(operation), plan)
            }
            Choice::Unknown(place) => {
                position.used.push(place);
                let operation = self.unknown[place];
                let plan = position.model.plan(&self.history.operations[operation].request);
                self.place(position, Cause::Operation(operation), plan)
            }
            Choice::Expiry(lease) => {
                let plan = position.model.end_lease(lease).expect("it was there when the choice was listed");
                self.place(position, Cause::Expiry, plan)
            }
        }
    }

    fn note_stuck(&mut self, position: &Position, fits: bool) {
        if self.furthest.as_ref().is_some_and(|furthest| furthest.placed >= position.placed) {
            return;
        }
        let revision = position.model.revision;
        let mut text = format!("no order of the operations explains what comes after revision {revision}");
        if !fits {
            text.push_str(&format!(
                "; a read at revision {revision} shows something else, or returned before it began"
            ));
        }
        match (self.claims.get(&(revision + 1)), self.facts.get(&(revision + 1))) {
            (Some(claim), _) => {
                let operation = &self.history.operations[*claim];
                let planned = position.model.plan(&operation.request).answer;
                text.push_str(&format!("; next must come {operation:?}, for which the answer would be {planned:?}"));
            }
            (None, facts) if revision < self.last_revision => {
                text.push_str(&format!("; nothing recorded explains revision {}, seen as {facts:?}", revision + 1));
            }
            _ => {}
        }
        for operation in position.window.iter().take(8) {
            let operation = &self.history.operations[*operation];
            let planned = position.model.plan(&operation.request).answer;
            text.push_str(&format!("\n  waiting: {operation:?}\n           would be answered {planned:?}"));
        }
        self.furthest = Some(Stuck { placed: position.placed, text });
    }

    fn violation(self) -> Violation {
        Violation::new(GUARANTEE, self.furthest.map_or_else(String::new, |stuck| stuck.text))
    }

    fn into_witness(self) -> Witness {
        let mut witness = Witness::default();
        let mut revision = 1;
        for taken in self.trail {
            let writes = !taken.plan.events.is_empty();
            revision += i64::from(writes);
            if let (Cause::Expiry, Some(LeaseStep::Ended(lease))) = (taken.cause, taken.plan.lease) {
                let seen =
                    if writes { first_sight(self.history, revision) } else { first_refusal(self.history, lease) };
                witness.expiries.push(Expiry { lease, revision: writes.then_some(revision), seen });
            }
            if writes {
                let Taken { cause, plan, not_before } = taken;
                witness.writes.push(Write { revision, events: plan.events, cause, not_before });
            }
        }
        witness
    }
}

impl Coverage<'_> {
    /// Whether the watch would have delivered of this revision what it did deliver.
    fn allows(&self, revision: i64, plan: &Plan) -> bool {
        if revision < self.from || revision > self.until {
            return true;
        }
        let delivered = self.events.get(&revision).map_or(&[][..], Vec::as_slice);
        plan.events.iter().filter(|event| self.interval.contains(event.key())).eq(delivered.iter().copied())
    }
}

fn coverage(record: &WatchRecord) -> Option<Coverage<'_>> {
    let (_, WatchMessage::Created { revision }) = record.messages.first()? else { return None };
    let from = if record.start_revision > 0 { record.start_revision } else { revision + 1 };
    let mut coverage = Coverage { interval: &record.interval, from, until: 0, events: BTreeMap::new() };
    for (_, message) in &record.messages {
        match message {
            WatchMessage::Events { events, more: false, .. } => {
                for event in events {
                    coverage.until = coverage.until.max(event.event.mod_revision());
                    coverage.events.entry(event.event.mod_revision()).or_default().push(&event.event);
                }
            }
            // A part of a revision tells no more than that.
            WatchMessage::Events { more: true, .. } => return None,
            WatchMessage::Progress { revision } => coverage.until = coverage.until.max(*revision),
            WatchMessage::Created { .. } | WatchMessage::Canceled { .. } => {}
        }
    }
    Some(coverage)
}

fn sightings(history: &History) -> BTreeMap<i64, Time> {
    let mut first: BTreeMap<i64, Time> = BTreeMap::new();
    for (time, message) in history.watches.iter().flat_map(|record| &record.messages) {
        if let WatchMessage::Events { events, .. } = message {
            for event in events {
                let seen = first.entry(event.event.mod_revision()).or_insert(*time);
                *seen = (*seen).min(*time);
            }
        }
    }
    let mut earliest = Time::MAX;
    for seen in first.values_mut().rev() {
        earliest = earliest.min(*seen);
        *seen = earliest;
    }
    first
}

/// When somebody first knew of a revision.
fn first_sight(history: &History, revision: i64) -> Time {
    let answers = history.operations.iter().filter_map(|operation| match &operation.outcome {
        Outcome::Done { revision: answered, .. } if *answered >= revision => Some(operation.end),
        _ => None,
    });
    let messages = history.watches.iter().flat_map(|record| &record.messages).filter_map(|(time, message)| {
        let shown = match message {
            WatchMessage::Created { revision } | WatchMessage::Progress { revision } => *revision,
            WatchMessage::Events { revision, .. } => *revision,
            WatchMessage::Canceled { .. } => 0,
        };
        (shown >= revision).then_some(*time)
    });
    answers.chain(messages).min().unwrap_or(Time::MAX)
}

/// When somebody was first refused because a lease was gone.
fn first_refusal(history: &History, lease: i64) -> Time {
    let refused = history.operations.iter().filter(|operation| {
        operation.outcome == Outcome::Refused(super::Refusal::LeaseNotFound) && names_lease(&operation.request, lease)
    });
    refused.map(|operation| operation.end).min().unwrap_or(Time::MAX)
}

fn names_lease(request: &Request, lease: i64) -> bool {
    let mut found = false;
    leases_of(request, &mut |named| found |= named == lease);
    found
}

fn leases_of(request: &Request, visit: &mut impl FnMut(i64)) {
    match request {
        Request::Put { lease: id, .. }
        | Request::LeaseGrant { id, .. }
        | Request::LeaseRevoke { id }
        | Request::LeaseKeepAlive { id } => visit(*id),
        Request::Txn { success, failure, .. } => {
            for request in success.iter().chain(failure) {
                leases_of(request, visit);
            }
        }
        Request::Delete(_) | Request::Range { .. } => {}
    }
}

/// The same for two orders that placed the same operations and came to the same state.
fn digest(position: &Position) -> u64 {
    let mut hasher = DefaultHasher::new();
    position.model.hash(&mut hasher);
    position.placed_hash.hash(&mut hasher);
    hasher.finish()
}

fn mixed(value: u64) -> u64 {
    let mut mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
