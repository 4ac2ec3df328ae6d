//! What goes wrong, and what operators do: crashes, cuts, bad weather, slow and failing disks, pauses, ports that refuse while
//! their member is well, compactions, leader transfers, members that come and go.

use std::io::ErrorKind;

use bytes::Bytes;
use kvorum_api::etcdserverpb::{CompactionRequest, InternalRaftRequest};
use kvorum_api::raftpb::{ConfChange, ConfChangeType};
use kvorum_node::Role;
use kvorum_node::member::Proposal;

use super::network::Weather;
use super::{Event, Waiter, World};
use crate::history::Violation;

/// Members the cluster may grow to.
const MEMBERS_MAX: usize = 5;

impl World {
    pub(super) fn fault(&mut self) -> Result<(), Violation> {
        if self.is_calm {
            return Ok(());
        }
        let again = self.random.between(50, self.options.fault_interval_max);
        self.after(again, Event::Fault);
        let machine = self.random.below(self.machines.len() as u64) as usize;
        let (name, result) = match self.random.below(17) {
            0 => ("kill", self.stop(machine, false)),
            1 | 2 => ("power", self.stop(machine, true)),
            3 => ("blackout", self.blackout()),
            4 | 5 => ("partition", self.partition()),
            6 => ("one-way cut", self.cut_one_way(machine)),
            7 | 8 => ("bad weather", self.bad_weather()),
            9 => ("pause", self.pause(machine)),
            10 => ("slow disk", self.slow_disk(machine)),
            11 => ("disk error", self.disk_error(machine)),
            12 => ("transfer", self.transfer()),
            13 => ("compaction", self.compact(machine)),
            14 => ("false refusal", self.refuse_falsely(machine)),
            _ => ("membership", self.change_members()),
        };
        *self.report.faults.entry(name).or_default() += 1;
        self.trace(name, machine, 0);
        result
    }

    /// Everything is repaired and started again.
    pub(super) fn calm_down(&mut self) -> Result<(), Violation> {
        self.network.heal();
        self.network.weather = Weather::FAIR;
        for machine in 0..self.machines.len() {
            self.machines[machine].paused_until = 0;
            if let Some(running) = &mut self.machines[machine].running {
                running.sync_delay_max = 4;
            }
            self.machines[machine].disk.forget_faults();
            self.boot(machine)?;
        }
        Ok(())
    }

    fn stop(&mut self, machine: usize, power: bool) -> Result<(), Violation> {
        if power {
            self.lose_power(machine);
        } else {
            self.kill(machine);
        }
        Ok(())
    }

    fn blackout(&mut self) -> Result<(), Violation> {
        for machine in 0..self.machines.len() {
            self.lose_power(machine);
        }
        Ok(())
    }

    fn partition(&mut self) -> Result<(), Violation> {
        let ids: Vec<u64> = self.machines.iter().map(|machine| machine.id).collect();
        let sides: Vec<bool> = ids.iter().map(|_| self.random.chance(500)).collect();
        for (from, from_side) in ids.iter().zip(&sides) {
            for (to, to_side) in ids.iter().zip(&sides) {
                if from_side != to_side {
                    self.network.cut(*from, *to);
                }
            }
        }
        self.heal_later(6_000);
        Ok(())
    }

    fn cut_one_way(&mut self, machine: usize) -> Result<(), Violation> {
        let from = self.machines[machine].id;
        let ids: Vec<u64> = self.machines.iter().map(|machine| machine.id).collect();
        let hears = self.random.chance(500);
        for to in ids.into_iter().filter(|to| *to != from) {
            if self.random.chance(700) {
                if hears { self.network.cut(from, to) } else { self.network.cut(to, from) }
            }
        }
        self.heal_later(4_000);
        Ok(())
    }

    fn heal_later(&mut self, milliseconds_max: u64) {
        let delay = self.random.between(300, milliseconds_max);
        self.after(delay, Event::Heal);
    }

    fn bad_weather(&mut self) -> Result<(), Violation> {
        self.network.weather = Weather {
            loss: self.random.below(400),
            duplication: self.random.below(400),
            stragglers: self.random.below(150),
            delay_max: self.random.between(2, 60),
        };
        self.heal_later(4_000);
        Ok(())
    }

    fn pause(&mut self, machine: usize) -> Result<(), Violation> {
        self.machines[machine].paused_until = self.now + self.random.between(200, 5_000);
        Ok(())
    }

    fn slow_disk(&mut self, machine: usize) -> Result<(), Violation> {
        let slow = self.random.between(50, 1_500);
        let start = self.machines[machine].start;
        let Some(running) = &mut self.machines[machine].running else { return Ok(()) };
        running.sync_delay_max = slow;
        let delay = self.random.between(500, 5_000);
        self.after(delay, Event::DiskRecovers { machine, start });
        Ok(())
    }

    fn disk_error(&mut self, machine: usize) -> Result<(), Violation> {
        let after = self.random.below(12);
        let kind = if self.random.chance(500) { ErrorKind::StorageFull } else { ErrorKind::Other };
        self.machines[machine].disk.fail_call(after, kind);
        Ok(())
    }

    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |machine: &super::Machine| {
            let running = machine.running.as_ref()?;
            let consensus = running.member.consensus();
            (consensus.role() == Role::Leader).then(|| consensus.term())
        };
        let leaders = self.machines.iter().enumerate().filter_map(|(index, machine)| Some((leads(machine)?, index)));
        leaders.max().map(|(_, index)| index)
    }

    fn transfer(&mut self) -> Result<(), Violation> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let voters = self.running(leader).member.consensus().conf_state().voters;
        let Some(target) = self.random.pick(&voters).copied() else { return Ok(()) };
        self.act(leader, |member, _, _| member.consensus_mut().transfer_leader(target))
    }

    fn compact(&mut self, machine: usize) -> Result<(), Violation> {
        let Some(running) = &self.machines[machine].running else { return Ok(()) };
        let revision = running.reader.revision() - self.random.below(30) as i64;
        let request = InternalRaftRequest {
            compaction: Some(CompactionRequest { revision: revision.max(1), physical: false }),
            ..InternalRaftRequest::default()
        };
        self.act(machine, |member, now, turn| {
            let (id, data) = member.number(request);
            member.propose(now, std::iter::once(Proposal { id, data, waiter: Waiter::Nobody }), turn);
        })
    }

    /// Asks the leader for one change: a learner is promoted if there is one that has caught up, else a learner comes or a
    /// member goes.
    fn change_members(&mut self) -> Result<(), Violation> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let consensus = self.running(leader).member.consensus();
        let state = consensus.conf_state();
        let last = consensus.last_index();
        let progress = consensus.progress();
        let caught_up = progress.iter().find(|peer| peer.is_learner && peer.matched * 10 >= last * 9);
        let change = if let Some(peer) = caught_up {
            member_change(peer.member_id, ConfChangeType::ConfChangeAddNode, "\"isPromote\":true")
        } else if state.learners.is_empty() && state.voters.len() < MEMBERS_MAX && self.random.chance(600) {
            let id = self.machines.len() as u64 + 1;
            let mut machine = super::new_machine(id, &[], &mut self.random, &self.options);
            machine.joins = true;
            self.machines.push(machine);
            let joiner = self.machines.len() - 1;
            let delay = self.random.between(20, 1_500);
            self.after(delay, Event::Restart { machine: joiner });
            member_change(id, ConfChangeType::ConfChangeAddLearnerNode, "\"isLearner\":true")
        } else {
            let own = self.machines[leader].id;
            let mut candidates: Vec<u64> = state.learners.clone();
            // Only while those that are left and alive still are a majority.
            let alive = progress.iter().filter(|peer| !peer.is_learner && peer.is_recently_active).count();
            if state.voters.len() > 2 && alive > state.voters.len() / 2 + 1 {
                candidates.extend(state.voters.iter().filter(|id| **id != own || self.now.is_multiple_of(3)));
            }
            let Some(id) = self.random.pick(&candidates).copied() else { return Ok(()) };
            ConfChange {
                r#type: Some(ConfChangeType::ConfChangeRemoveNode as i32),
                node_id: Some(id),
                ..ConfChange::default()
            }
        };
        self.act(leader, |member, _, turn| {
            let (id, _) = member.number(InternalRaftRequest::default());
            member.propose_conf_change(id, change, Waiter::Nobody, turn);
        })
    }

    /// A member that learns of its removal stops for good.
    pub(super) fn leave_if_removed(&mut self, machine: usize) {
        let id = self.machines[machine].id;
        let Some(running) = &self.machines[machine].running else { return };
        if running.reader.members().removed.contains(&id) {
            self.trace("left", machine, id);
            self.machines[machine].is_gone = true;
            self.machines[machine].running = None;
            self.machines[machine].refuses_from = self.now;
            self.streams_ended(machine);
            self.forget_watchers_of(machine);
        }
    }
}

fn member_change(id: u64, kind: ConfChangeType, what: &str) -> ConfChange {
    let context = format!("{{\"id\":{id},\"peerURLs\":[\"{}\"],{what}}}", super::peer_url(id));
    ConfChange {
        r#type: Some(kind as i32),
        node_id: Some(id),
        context: Some(Bytes::from(context)),
        ..ConfChange::default()
    }
}
