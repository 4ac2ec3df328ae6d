//! Snapshots to members that lag: the contents of the sender's backend, with the position they stand at. They travel as
//! the file that members send each other, written on the sender's disk and received on the receiver's.

use std::path::Path;
use std::sync::Arc;

use kvorum_api::raftpb;
use kvorum_disk::bolt::{BoltError, BoltFile, BoltWriter, Walk};
use kvorum_disk::file::{SimulatedFileSystem, read_whole};
use kvorum_disk::{DiskError, FileSystem, IncomingDatabase, OpenMode};
use kvorum_store::backend::Bucket;
use kvorum_store::memory::MemoryBackend;

use super::machine;
use super::{Event, World};
use crate::bug::Bug;
use crate::history::Violation;

/// The pieces in which a database is received.
const PIECE_BYTES: usize = 32 * 1024;

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
        let database = write_database(&self.machines[machine].disk, &contents);
        let delay = self.random.between(20, 600);
        let is_lost = self.network.is_cut(from, to) || self.random.chance(self.network.weather.loss);
        self.trace("send snapshot", machine, to);
        match database {
            Ok(database) if !is_lost => self.after(delay, Event::DeliverSnapshot { message, database }),
            _ => self.after(delay, Event::SnapshotReported { machine, start, to, arrived: false }),
        }
        Ok(())
    }

    pub(super) fn deliver_snapshot(&mut self, message: raftpb::Message, database: &[u8]) -> Result<(), Violation> {
        let (from, to) = (message.from.unwrap_or(0), message.to.unwrap_or(0));
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let index = metadata.and_then(|metadata| metadata.index).unwrap_or(0);
        let target = self.machine_of(to).filter(|machine| self.machines[*machine].running.is_some());
        let received = match target {
            Some(machine) => receive_database(&self.machines[machine].disk, index, database)?,
            None => None,
        };
        let arrived = received.is_some();
        if let Some(sender) = self.machine_of(from) {
            let start = self.machines[sender].start;
            let delay = self.random.below(20);
            self.after(delay, Event::SnapshotReported { machine: sender, start, to, arrived });
        }
        let (Some(machine), Some(contents)) = (target, received) else { return Ok(()) };
        self.machines[machine].staged.insert(index, Arc::new(contents));
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

/// The file with these contents. An error is one of the disk: the sender says that the snapshot did not leave.
fn write_database(disk: &SimulatedFileSystem, contents: &MemoryBackend) -> Result<Vec<u8>, BoltError> {
    let path = Path::new(machine::DATABASE_FOLDER).join("tmp-sent");
    let mut writer = BoltWriter::create(disk, &path)?;
    for bucket in Bucket::ALL {
        writer.begin_bucket(bucket.name().as_bytes(), 0)?;
        for (key, value) in contents.records(bucket) {
            writer.put(&key, &value)?;
        }
        writer.end_bucket()?;
    }
    writer.finish(false)?;
    let file = disk.open(&path, OpenMode::Read).map_err(DiskError::at("open", &path))?;
    let database = read_whole(&*file).map_err(DiskError::at("read", &path))?;
    disk.remove_file(&path).map_err(DiskError::at("remove", &path))?;
    Ok(database)
}

/// Takes the file in as one of the receiver's own, and reads it. Without an answer the disk failed.
fn receive_database(disk: &SimulatedFileSystem, index: u64, file: &[u8]) -> Result<Option<MemoryBackend>, Violation> {
    let store = || {
        let mut incoming = IncomingDatabase::create(Arc::new(disk.clone()), Path::new(machine::DATABASE_FOLDER))?;
        for piece in file.chunks(PIECE_BYTES) {
            incoming.write(piece)?;
        }
        incoming.finish(index)
    };
    let Ok((path, _)) = store() else { return Ok(None) };
    let read = read_database(disk, &path);
    // As in the server: one that stays is no harm, but that the next of the same index gives way to it.
    drop(disk.remove_file(&path));
    read.map(Some).map_err(|error| Violation::new("databases come as they were sent", error.to_string()))
}

fn read_database(disk: &SimulatedFileSystem, path: &Path) -> Result<MemoryBackend, BoltError> {
    let contents = MemoryBackend::new();
    let mut bucket = None;
    BoltFile::open(disk, path)?.walk(true, |step| {
        match step {
            Walk::Begin { name, .. } => {
                bucket = Bucket::ALL.into_iter().find(|bucket| bucket.name().as_bytes() == name)
            }
            Walk::Entry { key, value } => contents.put(bucket.expect("the sender knows no others"), key, value),
            Walk::End => bucket = None,
        }
        Ok::<(), BoltError>(())
    })?;
    Ok(contents)
}
