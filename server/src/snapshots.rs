//! Whole databases between members: written out for a peer whose next entries the log no longer holds, and taken in when
//! the leader sends one. Reading, writing and comparing files happens on threads of its own; the member waits only for
//! the moment in which a new database takes the old one's place.
//!
//! That moment is one rename, and comes before the log's record of it. A mark that goes with the new database says that
//! the record may be missing; a start that finds the mark writes the record first (see [`crate::opening`]).

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvorum_api::raftpb;
use kvorum_disk::bolt::BoltFile;
use kvorum_disk::lmdb::{Exported, PreparedGeneration};
use kvorum_disk::wal::WalSnapshot;
use kvorum_disk::{File, FileSystem, LmdbBackend, SnapDirectory, SnapshotFile, Wal};
use kvorum_node::member::conf_state_from_json;
use kvorum_node::{LeaseTimers, SnapshotPosition};
use kvorum_store::{Backend, Received, TokenChange, membership_v2_json};
use parking_lot::Mutex;

use crate::core::Core;
use crate::ids::to_hex;
use crate::peer::SnapshotSource;
use crate::shrinking;

/// What sending and taking in databases needs.
pub struct Snapshots {
    pub backend: Arc<LmdbBackend>,
    pub file_system: Arc<dyn FileSystem>,
    pub folder: PathBuf,
    pub directory: SnapDirectory,
    pub lease_checkpoint_interval_milliseconds: Option<u64>,
    /// One at a time.
    pub receiving: AtomicBool,
    /// A received database that raft has been told of.
    pub prepared: Mutex<Option<Prepared>>,
}

/// A received database, on disk and in memory, that is not the store yet.
pub struct Prepared {
    index: u64,
    generation: PreparedGeneration,
    received: Received,
}

impl Snapshots {
    /// Writes the database out and puts its position and members into the message.
    pub fn export(&self, core: &Core, message: &mut raftpb::Message) -> Result<SnapshotSource, String> {
        let wanted = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let wanted_index = wanted.and_then(|metadata| metadata.index).unwrap_or(0);
        if !core.wait_for_backend_commit_blocking() {
            return Err("the member stops".to_owned());
        }
        let generation = self.backend.generation();
        let (file, exported) =
            generation.write_bolt_unnamed(&self.folder, &|| core.is_stopping()).map_err(|error| error.to_string())?;
        if exported.consistent_index < wanted_index {
            return Err(format!("the backend is at {}, not yet at {wanted_index}", exported.consistent_index));
        }
        message.snapshot = Some(raftpb::Snapshot {
            data: Some(membership_v2_json(&exported.membership).into()),
            metadata: Some(metadata(&exported)?),
        });
        tracing::info!(
            snapshot_index = exported.consistent_index,
            bytes = exported.file_bytes,
            to = %to_hex(message.to.unwrap_or(0)),
            "sending database snapshot"
        );
        Ok(SnapshotSource::new(FileReader { file, offset: 0 }, exported.file_bytes))
    }

    /// Takes a received file in and tells raft of it, which makes it the store or refuses it. Blocks for as long as the
    /// file takes to be read and written.
    pub fn import(&self, core: &Core, message: raftpb::Message, file: &Path) -> Result<(), String> {
        if self.receiving.swap(true, Ordering::AcqRel) {
            return Err("another database is being taken in".to_owned());
        }
        let imported = self.import_alone(core, message, file);
        self.receiving.store(false, Ordering::Release);
        imported
    }

    fn import_alone(&self, core: &Core, message: raftpb::Message, file: &Path) -> Result<(), String> {
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let index = metadata.and_then(|metadata| metadata.index).unwrap_or(0);
        if index <= core.reader.applied_index() {
            // Taken in already, just before a stop that kept the leader from hearing of it. Raft tells it; otherwise it would
            // send whole databases until there is a newer one.
            tracing::info!(snapshot_index = index, "a database that was sent is here already");
            core.turn(|member, _, turn| member.handle_message(message, turn));
            return Ok(());
        }
        let database = BoltFile::open(&*self.file_system, file).map_err(|error| error.to_string())?;
        let prepared = self.backend.prepare(&database).map_err(|error| error.to_string())?;
        let config = core.state().writer().config().clone();
        let received = Received::read(&config, &*prepared.received()).map_err(|error| error.to_string())?;
        if received.applied().index != index {
            return Err(format!("it says to stand at entry {index}, and holds {}", received.applied().index));
        }
        prepared.mark_received().map_err(|error| error.to_string())?;
        *self.prepared.lock() = Some(Prepared { index, generation: prepared, received });
        core.turn(|member, _, turn| member.handle_message(message, turn));
        // If raft wants it, it is written right here or by whoever writes the log now.
        core.settle(std::iter::empty());
        match self.prepared.lock().take() {
            Some(_) => Err(format!("it stands at entry {index} and was not wanted any more")),
            None => Ok(()),
        }
    }

    /// Makes the database that raft has accepted the store. The caller holds the log, and nobody commits.
    pub fn install(&self, core: &Core, log: &mut Wal, position: &SnapshotPosition) -> Result<(), String> {
        let prepared = self.prepared.lock().take().ok_or("raft accepted a database that is not there")?;
        let Prepared { index, generation, received } = prepared;
        if index != position.index {
            return Err(format!("raft accepted a database of entry {}, there is one of {index}", position.index));
        }
        // No commit of the old store may end up in the new one.
        let no_commit = core.commit_gate.lock();
        let mut retired = None;
        {
            let mut state = core.state();
            let switch = || self.backend.switch(generation).map(|old| retired = Some(old));
            let restored = state.writer().install(received, switch).map_err(|error| error.to_string())?;
            let mut leases = LeaseTimers::new(self.lease_checkpoint_interval_milliseconds);
            for lease in &restored.leases {
                leases.insert(core.now(), lease.id, lease.ttl_seconds, lease.remaining_ttl_seconds);
            }
            state.replace_leases(core.now(), leases);
            core.publisher.skip_to(core.reader.revision());
            if core.reader.auth_generation() == 0 {
                core.authenticator.note(core.now(), vec![TokenChange::AllForgotten]);
            }
            core.publisher.permissions_changed();
            if restored.compaction_pending {
                core.schedule_compaction();
            }
        }
        let file = SnapshotFile {
            index,
            term: position.term,
            conf_state: position.conf_state.clone(),
            data: membership_v2_json(&core.reader.members()).into(),
        };
        self.directory.save(&file).map_err(|error| error.to_string())?;
        let record = WalSnapshot { index, term: position.term, conf_state: Some(position.conf_state.clone()) };
        log.save_snapshot(&record).map_err(|error| format!("write-ahead log: {error}"))?;
        core.note_backend_size(self.backend.size_bytes(), self.backend.size_in_use_bytes());
        drop(no_commit);
        tracing::info!(snapshot_index = index, revision = core.reader.revision(), "applied snapshot");
        if let Some(retired) = retired {
            // It takes a while when it is large, and needs nothing of the member.
            let remove = move || shrinking::remove(retired, || false);
            drop(std::thread::Builder::new().name("retired-database".to_owned()).spawn(remove));
        }
        Ok(())
    }

    /// The log knows of the received database: the next start need not look.
    pub fn forget_mark(&self) -> Result<(), String> {
        self.backend.clear_received_mark().map_err(|error| error.to_string())
    }
}

fn metadata(exported: &Exported) -> Result<raftpb::SnapshotMetadata, String> {
    let conf_state = exported.conf_state.as_deref().ok_or("the backend has no configuration yet")?;
    Ok(raftpb::SnapshotMetadata {
        conf_state: Some(conf_state_from_json(conf_state)?),
        index: Some(exported.consistent_index),
        term: Some(exported.term),
    })
}

/// Reads a file from its beginning.
struct FileReader {
    file: Box<dyn File>,
    offset: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(self.offset, buffer)?;
        self.offset += read as u64;
        Ok(read)
    }
}
