//! Clients: each asks for one thing after the other, of any member, and writes down what it was told. The server's part
//! in between (who reads locally, who is asked to renew a lease) is done here as the server does it.

use kvorum_api::EtcdError;
use kvorum_node::Role;
use kvorum_node::lease_timers::Renewal;
use kvorum_node::member::{Outcome as Applied, Proposal};

use super::{Event, Waiter, World};
use crate::bug::Bug;
use crate::convert;
use crate::history::{Compare, Interval, Operation, Outcome, Refusal, Relation, Reply, Request, Target, Violation};

/// How long a client waits for an answer.
const PATIENCE_MILLISECONDS: u64 = 5_000;

const KEYS: u64 = 6;

pub struct Client {
    number: u32,
    /// The position in the history of what it waits for.
    waits_for: Option<usize>,
    /// The machine it talks to.
    machine: usize,
    leases: Vec<i64>,
    counter: i64,
}

impl Client {
    pub fn new(number: u32) -> Self {
        Self { number, waits_for: None, machine: number as usize, leases: Vec::new(), counter: 0 }
    }
}

impl World {
    pub(super) fn client_next(&mut self, client: u32) -> Result<(), Violation> {
        if self.clients[client as usize].waits_for.is_some() {
            return Ok(());
        }
        if self.is_calm && self.now >= self.options.milliseconds + super::CALM_MILLISECONDS - super::QUIET_MILLISECONDS
        {
            return Ok(());
        }
        let request = self.next_request(client);
        if self.random.chance(250) {
            self.clients[client as usize].machine = self.random.below(self.machines.len() as u64) as usize;
        }
        let machine = self.clients[client as usize].machine % self.machines.len();
        let call = self.stamp();
        let operation = self.history.operations.len();
        self.trace("call", machine, operation as u64);
        self.history.operations.push(Operation { client, call, end: call, request, outcome: Outcome::Unknown });
        self.clients[client as usize].waits_for = Some(operation);
        let delay = self.random.below(3);
        self.after(delay, Event::Arrive { machine, operation, forwarded: false });
        self.after(PATIENCE_MILLISECONDS, Event::GiveUp { operation });
        Ok(())
    }

    fn next_request(&mut self, client: u32) -> Request {
        let counter = {
            let client = &mut self.clients[client as usize];
            client.counter += 1;
            client.counter
        };
        let key = |number: u64| bytes::Bytes::from(format!("k{number}"));
        let first = self.random.below(KEYS);
        let second = (first + 1 + self.random.below(KEYS - 1)) % KEYS;
        let value = bytes::Bytes::from(format!("c{client}-{counter}"));
        let lease = self.random.pick(&self.clients[client as usize].leases.clone()).copied();
        match self.random.below(100) {
            0..=24 => Request::Put { key: key(first), value, lease: 0 },
            25..=34 => Request::Put { key: key(first), value, lease: lease.unwrap_or(0) },
            35..=39 => Request::Delete(Interval::one(key(first))),
            40..=42 => Request::Delete(Interval { key: key(first.min(second)), range_end: key(first.max(second)) }),
            43..=57 => self.next_txn(key(first), key(second), value),
            58..=64 => {
                let id = i64::from(client + 1) * 100_000 + counter;
                let ttl_seconds = self.random.between(2, 6) as i64;
                self.clients[client as usize].leases.push(id);
                Request::LeaseGrant { id, ttl_seconds }
            }
            65..=66 if lease.is_some() => {
                let id = lease.expect("matched above");
                self.clients[client as usize].leases.retain(|lease| *lease != id);
                Request::LeaseRevoke { id }
            }
            67..=76 if lease.is_some() => Request::LeaseKeepAlive { id: lease.expect("matched above") },
            77..=81 => Request::Range { interval: Interval::one(key(first)), revision: 0, serializable: true },
            82..=84 => {
                let newest = self.running_revision().max(1);
                let back = self.random.below(20) as i64;
                Request::Range { interval: Interval::all(), revision: (newest - back).max(1), serializable: false }
            }
            85..=92 => Request::Range { interval: Interval::all(), revision: 0, serializable: false },
            _ => Request::Range { interval: Interval::one(key(first)), revision: 0, serializable: false },
        }
    }

    fn next_txn(&mut self, first: bytes::Bytes, second: bytes::Bytes, value: bytes::Bytes) -> Request {
        let revision = self.running_revision();
        let target = match self.random.below(4) {
            0 => Target::Version(self.random.below(3) as i64),
            1 => Target::CreateRevision(0),
            2 => Target::ModRevision(revision - self.random.below(4) as i64),
            _ => Target::Value(value.clone()),
        };
        let relation = [Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less];
        let relation = *self.random.pick(&relation).expect("four of them");
        let put = |key: &bytes::Bytes| Request::Put { key: key.clone(), value: value.clone(), lease: 0 };
        let read = Request::Range { interval: Interval::all(), revision: 0, serializable: false };
        Request::Txn {
            compares: vec![Compare { key: first.clone(), relation, target }],
            success: vec![put(&first), put(&second), read.clone()],
            failure: vec![read, Request::Delete(Interval::one(second.clone())), put(&first)],
        }
    }

    /// A revision that some member has, as a client may have learned it.
    fn running_revision(&self) -> i64 {
        let running = self.machines.iter().filter_map(|machine| machine.running.as_ref());
        running.map(|running| running.reader.revision()).min().unwrap_or(1)
    }

    pub(super) fn arrive(&mut self, machine: usize, operation: usize, forwarded: bool) -> Result<(), Violation> {
        if self.machines[machine].running.is_none() {
            // The connection is refused: certainly nothing happened.
            self.answer(operation, Outcome::NotTaken);
            return Ok(());
        }
        let request = self.history.operations[operation].request.clone();
        match &request {
            Request::Range { serializable: true, .. } => {
                self.read_now(machine, operation);
                Ok(())
            }
            Request::Range { .. } => self.read(machine, operation),
            Request::LeaseKeepAlive { .. } => self.renew_at(machine, operation, false, forwarded),
            _ => {
                let entry = convert::to_entry(&request).expect("all others go through the log");
                self.act(machine, |member, now, turn| {
                    let (id, data) = member.number(entry);
                    let proposal = Proposal { id, data, waiter: Waiter::Request(operation) };
                    member.propose(now, std::iter::once(proposal), turn);
                })
            }
        }
    }

    fn read(&mut self, machine: usize, operation: usize) -> Result<(), Violation> {
        let member = &mut self.running(machine).member;
        let leads = member.consensus().role() == Role::Leader;
        let at_once = member.is_linearized();
        let careless = self.has(Bug::ReadWithoutQuorum) || (leads && self.has(Bug::StaleLeaderReads));
        if at_once || careless {
            self.read_now(machine, operation);
            return Ok(());
        }
        self.act(machine, |member, now, _| member.read(now, Waiter::Read(operation)))
    }

    fn read_now(&mut self, machine: usize, operation: usize) {
        let Request::Range { interval, revision, .. } = &self.history.operations[operation].request else { return };
        let range = convert::to_range(interval, *revision);
        let cursor = self.running(machine).reader.range(&range);
        let reply = cursor.and_then(|mut cursor| {
            cursor.advance_with_backend()?;
            Ok(cursor.finish())
        });
        let outcome = match reply {
            Ok(range) => {
                Outcome::Done { revision: range.revision, reply: Reply::Range { kvs: convert::from_kvs(&range.kvs) } }
            }
            // Compacted, or not there yet on this member.
            Err(_) => Outcome::NotTaken,
        };
        self.answer(operation, outcome);
    }

    pub(super) fn read_confirmed(
        &mut self,
        machine: usize,
        waiter: Waiter,
        confirmed: Result<(), EtcdError>,
    ) -> Result<(), Violation> {
        match (waiter, confirmed) {
            (Waiter::Read(operation), Ok(())) => self.read_now(machine, operation),
            (Waiter::Read(operation), Err(_)) => self.answer(operation, Outcome::NotTaken),
            (Waiter::Renewal { operation, .. }, Ok(())) => return self.renew(machine, operation, true),
            (Waiter::Renewal { operation, .. }, Err(_)) => self.answer(operation, Outcome::NotTaken),
            (Waiter::Request(_) | Waiter::Nobody, _) => {}
        }
        Ok(())
    }

    pub(super) fn renew(&mut self, machine: usize, operation: usize, applied: bool) -> Result<(), Violation> {
        self.renew_at(machine, operation, applied, true)
    }

    /// As the server's lease service: at the leader, confirmed, with the checkpoint cleared, never reviving.
    fn renew_at(&mut self, machine: usize, operation: usize, applied: bool, forwarded: bool) -> Result<(), Violation> {
        let Request::LeaseKeepAlive { id } = self.history.operations[operation].request else { return Ok(()) };
        let now = self.machines[machine].local_time(self.now);
        let start = self.machines[machine].start;
        let forges = self.has(Bug::RenewalByFollower);
        let Some(running) = self.machines[machine].running.as_mut() else { return Ok(()) };
        let revision = running.reader.revision();
        if forges
            && running.member.consensus().role() != Role::Leader
            && let Some(lease) = running.reader.lease(id)
        {
            let reply = Reply::LeaseKeepAlive { ttl_seconds: lease.ttl_seconds };
            self.answer(operation, Outcome::Done { revision, reply });
            return Ok(());
        }
        let waiter = Waiter::Renewal { operation, applied: true };
        match running.member.renew_lease(now, id) {
            Renewal::Renewed { ttl_seconds } => {
                self.answer(operation, Outcome::Done { revision, reply: Reply::LeaseKeepAlive { ttl_seconds } });
                Ok(())
            }
            Renewal::NotFound if applied => {
                self.answer(operation, Outcome::Refused(Refusal::LeaseNotFound));
                Ok(())
            }
            Renewal::NotFound | Renewal::Unconfirmed => self.act(machine, |member, now, _| member.read(now, waiter)),
            Renewal::ClearCheckpointFirst => self.act(machine, |member, now, turn| {
                let (id, data) = member.clear_checkpoint(id);
                member.propose(now, std::iter::once(Proposal { id, data, waiter }), turn);
            }),
            Renewal::Expired => {
                self.after(100, Event::RenewAgain { machine, start, operation });
                Ok(())
            }
            Renewal::NotLeader => {
                let (own, leader) = (self.machines[machine].id, self.running(machine).member.consensus().leader());
                match self.machine_of(leader) {
                    Some(target) if !forwarded && !self.network.is_cut(own, leader) => {
                        let delay = self.network.delay(&mut self.random);
                        self.after(delay, Event::Arrive { machine: target, operation, forwarded: true });
                    }
                    _ => self.answer(operation, Outcome::NotTaken),
                }
                Ok(())
            }
        }
    }

    pub(super) fn answered(&mut self, machine: usize, waiter: Waiter, outcome: Applied) -> Result<(), Violation> {
        match waiter {
            Waiter::Request(operation) => {
                let outcome = match outcome {
                    Ok(applied) => match convert::from_reply(&applied.reply) {
                        Some(reply) => Outcome::Done { revision: applied.revision, reply },
                        None => return Err(Violation::new("replies fit", format!("{:?}", applied.reply))),
                    },
                    Err(EtcdError::LeaseNotFound) => Outcome::Refused(Refusal::LeaseNotFound),
                    Err(EtcdError::LeaseExist) => Outcome::Refused(Refusal::LeaseExists),
                    Err(EtcdError::RequestTooManyRequests) => Outcome::NotTaken,
                    Err(_) => Outcome::Unknown,
                };
                self.answer(operation, outcome);
                Ok(())
            }
            Waiter::Renewal { operation, .. } => match outcome {
                Ok(_) => self.renew(machine, operation, true),
                Err(_) => {
                    self.answer(operation, Outcome::NotTaken);
                    Ok(())
                }
            },
            Waiter::Read(_) | Waiter::Nobody => Ok(()),
        }
    }

    fn answer(&mut self, operation: usize, outcome: Outcome) {
        let delay = self.random.below(3);
        self.after(delay, Event::Reply { operation, outcome });
    }

    pub(super) fn reply_arrived(&mut self, operation: usize, outcome: Outcome) {
        let client = self.history.operations[operation].client;
        if self.clients[client as usize].waits_for != Some(operation) {
            return;
        }
        let end = self.stamp();
        let refused = outcome == Outcome::NotTaken;
        if matches!(outcome, Outcome::Refused(Refusal::LeaseNotFound)) {
            let recorded = &self.history.operations[operation].request;
            if let Request::LeaseKeepAlive { id } | Request::Put { lease: id, .. } = recorded {
                let gone = *id;
                self.clients[client as usize].leases.retain(|lease| *lease != gone);
            }
        }
        let recorded = &mut self.history.operations[operation];
        recorded.end = end;
        recorded.outcome = outcome;
        self.trace("answered", operation, u64::from(refused));
        self.client_goes_on(client, refused);
    }

    pub(super) fn give_up(&mut self, operation: usize) {
        let client = self.history.operations[operation].client;
        if self.clients[client as usize].waits_for == Some(operation) {
            self.trace("given up", operation, 0);
            self.client_goes_on(client, true);
        }
    }

    fn client_goes_on(&mut self, client: u32, elsewhere: bool) {
        let machines = self.machines.len() as u64;
        let state = &mut self.clients[client as usize];
        debug_assert_eq!(state.number, client);
        state.waits_for = None;
        if elsewhere {
            state.machine = self.random.below(machines) as usize;
        }
        let pause = if elsewhere { self.random.between(5, 80) } else { self.random.below(60) };
        self.after(pause, Event::ClientNext { client });
    }
}
