//! Snapshots to members that lag: the contents of the sender's backend, with the position they stand at.

use std::sync::Arc;

use kvorum_api::raftpb;
use kvorum_store::memory::MemoryBackend;

use super::machine;
use super::{Event, World};
use crate::bug::Bug;
use crate::history::Violation;

impl World {
    /// Puts in contents and position, and sends it on its way.
    pub(super) fn send_snapshot(&mut self, machine: usize, mut message: raftpb::Message) -> Result<(), Violation> {
        let (from, to) = (self.machines[machine].id, message.to.unwrap_or(0));
        let start = self.machines[machine].start;
        let is_stale = self.has(Bug::SnapshotTooOld);
        if !is_stale && self.running(machine).is_committing {
            // A commit is under way: this one counts as lost, and raft asks again.
            self.after(100, Event::SnapshotReported { machine, start, to, arrived: false });
            return Ok(());
        }
        if !is_stale && let Some(batch) = self.running(machine).member.writer().take_commit() {
            self.commit_now(machine, &batch)?;
        }
        let contents = Arc::new(self.machines[machine].backend.snapshot());
        let metadata = message.snapshot.get_or_insert_default().metadata.get_or_insert_default();
        if !is_stale {
            metadata.index = Some(machine::consistent_index(&contents));
            metadata.term = Some(machine::consistent_term(&contents));
            metadata.conf_state = machine::stored_conf_state(&contents).or(metadata.conf_state.take());
        }
        if self.has(Bug::SnapshotWithoutConfState) {
            let voters = (1..=self.founders).collect();
            metadata.conf_state = Some(raftpb::ConfState { voters, ..raftpb::ConfState::default() });
        }
        let delay = self.random.between(20, 600);
        let is_lost = self.network.is_cut(from, to) || self.random.chance(self.network.weather.loss);
        self.trace("send snapshot", machine, to);
        if is_lost {
            self.after(delay, Event::SnapshotReported { machine, start, to, arrived: false });
        } else {
            self.after(delay, Event::DeliverSnapshot { message, contents });
        }
        Ok(())
    }

    pub(super) fn deliver_snapshot(
        &mut self,
        message: raftpb::Message,
        contents: Arc<MemoryBackend>,
    ) -> Result<(), Violation> {
        let (from, to) = (message.from.unwrap_or(0), message.to.unwrap_or(0));
        let target = self.machine_of(to);
        let arrived = target.is_some_and(|machine| self.machines[machine].running.is_some());
        if let Some(sender) = self.machine_of(from) {
            let start = self.machines[sender].start;
            let delay = self.random.below(20);
            self.after(delay, Event::SnapshotReported { machine: sender, start, to, arrived });
        }
        let Some(machine) = target.filter(|_| arrived) else { return Ok(()) };
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let index = metadata.and_then(|metadata| metadata.index).unwrap_or(0);
        self.machines[machine].staged.insert(index, contents);
        self.deliver(message)
    }

    /// The store takes the snapshot's contents, as in the server before the log knows: until then a mark stays with them.
    pub(super) fn install(&mut self, machine: usize, index: u64) -> Result<(), Violation> {
        let id = self.machines[machine].id;
        let Some(staged) = self.machines[machine].staged.get(&index) else {
            return Err(Violation::new(
                "members go on",
                format!("member {id:x} wants a snapshot of {index} it never got"),
            ));
        };
        let contents = Arc::clone(staged);
        self.machines[machine].staged.retain(|staged, _| *staged >= index);
        let now = self.machines[machine].local_time(self.now);
        let checkpoint_interval = self.machines[machine].checkpoint_interval;
        let backend = Arc::clone(&self.machines[machine].backend);
        self.machines[machine].has_received_mark = true;
        let running = self.running(machine);
        // A commit under way is dropped when it comes: it belongs to the store before.
        running.generation += 1;
        running.is_committing = false;
        let restored = running.member.writer().restore(&*contents, || {
            backend.replace(&contents);
            Ok(())
        });
        let restored = restored.map_err(|error| Violation::new("members go on", format!("member {id:x}: {error}")))?;
        running.member.replace_leases(now, machine::lease_timers(checkpoint_interval, &restored));
        self.note_start(machine)?;
        self.report.snapshots_installed += 1;
        self.trace("installed", machine, index);
        let start = self.machines[machine].start;
        self.after(10, Event::CompactionStep { machine, start });
        Ok(())
    }
}
