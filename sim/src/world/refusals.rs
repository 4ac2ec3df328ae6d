//! Ports that refuse. A member that dials another learns so that its process ended, and reports it to raft, as the
//! transport between real members does: once the streams ended, and again for as long as nobody listens. A cut, a pause and
//! a machine without power refuse nothing. Reports may come late, also when the process is back.

use kvorum_api::raftpb::{Message, MessageType};

use super::{Event, World};
use crate::bug::Bug;
use crate::history::Violation;

/// Between two dials of the same member.
const DIAL_INTERVAL_MILLISECONDS: u64 = 100;

/// How long a report may take that is late.
const LATE_MILLISECONDS: u64 = 4_000;

impl World {
    /// A process ended: all that had streams with it dial it again.
    pub(super) fn streams_ended(&mut self, machine: usize) {
        for other in (0..self.machines.len()).filter(|other| *other != machine) {
            self.dial_later(other, machine);
        }
    }

    /// A process started: it dials those that are down as well.
    pub(super) fn dial_all(&mut self, machine: usize) {
        for peer in (0..self.machines.len()).filter(|peer| *peer != machine) {
            if self.machines[peer].running.is_none() {
                self.dial_later(machine, peer);
            }
        }
    }

    fn dial_later(&mut self, machine: usize, peer: usize) {
        if self.machines[machine].running.is_some() {
            let start = self.machines[machine].start;
            let delay = self.random.below(DIAL_INTERVAL_MILLISECONDS);
            self.after(delay, Event::Dial { machine, start, peer });
        }
    }

    /// A member dials one that was down. Once that one is back, streams take the place of dialing.
    pub(super) fn dial(&mut self, machine: usize, peer: usize) {
        let (from, to) = (self.machines[machine].id, self.machines[peer].id);
        let is_member = self.running(machine).reader.members().members.contains_key(&to);
        if self.machines[peer].running.is_some() || !is_member {
            return;
        }
        let start = self.machines[machine].start;
        let is_cut = self.network.is_cut(from, to) || self.network.is_cut(to, from);
        if !is_cut && self.machines[peer].refuses_from <= self.now {
            let is_late = self.random.chance(100);
            let delay = self.random.below(if is_late { LATE_MILLISECONDS } else { 10 });
            self.after(delay, Event::Gone { machine, start, peer });
        }
        let again = DIAL_INTERVAL_MILLISECONDS + self.random.below(10);
        self.after(again, Event::Dial { machine, start, peer });
    }

    /// Something between the members refuses connections in the name of one that is well, mostly of the leader.
    pub(super) fn refuse_falsely(&mut self, machine: usize) -> Result<(), Violation> {
        let peer = self.leader().filter(|_| self.random.chance(700)).unwrap_or(machine);
        for other in (0..self.machines.len()).filter(|other| *other != peer) {
            if self.machines[other].running.is_none() || self.random.chance(300) {
                continue;
            }
            let start = self.machines[other].start;
            for _ in 0..self.random.between(1, 6) {
                let delay = self.random.below(1_000);
                self.after(delay, Event::Gone { machine: other, start, peer });
            }
        }
        Ok(())
    }

    /// A member is told that another one's process ended.
    pub(super) fn report_gone(&mut self, machine: usize, peer: usize) -> Result<(), Violation> {
        let id = self.machines[peer].id;
        self.trace("told gone", machine, id);
        self.report.gone_reports += 1;
        self.running(machine).gone.insert(id);
        self.act(machine, |member, _, _| member.consensus_mut().report_gone(id))
    }

    /// A member that says something is there.
    pub(super) fn heard_of(&mut self, machine: usize, id: u64) {
        if let Some(running) = &mut self.machines[machine].running {
            running.gone.remove(&id);
        }
    }

    /// The planted bug: who is gone agrees to everything.
    pub(super) fn answer_for_gone(&mut self, machine: usize, message: &Message) {
        let to = message.to.unwrap_or(0);
        if !self.has(Bug::GoneMembersVote) || !self.running(machine).gone.contains(&to) {
            return;
        }
        let kind = match message.r#type.and_then(|kind| MessageType::try_from(kind).ok()) {
            Some(MessageType::MsgVote) => MessageType::MsgVoteResp,
            Some(MessageType::MsgPreVote) => MessageType::MsgPreVoteResp,
            _ => return,
        };
        let answer = Message {
            r#type: Some(kind as i32),
            from: message.to,
            to: message.from,
            term: message.term,
            reject: Some(false),
            ..Message::default()
        };
        self.after(1, Event::Deliver { message: answer });
    }
}
