//! The writing side: create, append, sync, cut.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::record::{self, HardState, WalEntry, WalMetadata, WalSnapshot};
use super::{KEPT_BUFFER_BYTES_MAX, WalOpenError, ZERO_WINDOW_BYTES_MAX, ZERO_WINDOW_BYTES_MIN, segment_name};
use crate::file::create_durable_directories;
use crate::{DiskError, File, FileSystem, OpenMode};

/// New segments get their head under this name first.
const TEMPORARY_NAME: &str = "0.tmp";

/// Zeroed space ends at a multiple of this, the file system's block.
const BLOCK_BYTES: u64 = 4096;

/// Zeros are written block by block. The system remembers a longer write as one unit, and counts all of it as written with
/// each record that later goes into it.
static ZEROS: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];

#[derive(Clone, Copy, Debug)]
pub struct WalOptions {
    pub segment_size_bytes: u64,
    /// Nothing is ever synced. A crash of the machine loses or tears what the system had not written.
    pub unsafe_no_fsync: bool,
    /// A batch of at least this size that reaches the end of the zeroed space extends the file by itself: its sync costs a
    /// journal commit, but zeros ahead of it would double the bytes written. So do the batches after it, until
    /// `small_batches_min` in a row were smaller.
    pub large_batch_bytes_min: usize,
    pub small_batches_min: u32,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_size_bytes: super::SEGMENT_SIZE_BYTES,
            unsafe_no_fsync: false,
            large_batch_bytes_min: super::LARGE_BATCH_BYTES_MIN,
            small_batches_min: super::SMALL_BATCHES_MIN,
        }
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Raft may go on only after [`Wal::sync`]. False if nothing must be durable, or if a cut has made it so already.
    pub must_sync: bool,
    /// Bytes of the batch in the log.
    pub bytes: u64,
}

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStatistics {
    pub record_bytes: u64,
    /// Zeros written ahead of the records.
    pub zeroed_bytes: u64,
    pub syncs: u64,
    pub cuts: u64,
}

/// A segment this log holds locked.
pub(super) struct Segment {
    pub file: Box<dyn File>,
    pub path: PathBuf,
    pub sequence: u64,
    pub first_index: u64,
}

/// The log, ready for appending. Owned by one thread at a time.
pub struct Wal {
    pub(super) file_system: Arc<dyn FileSystem>,
    pub(super) directory: PathBuf,
    pub(super) options: WalOptions,
    pub(super) metadata: WalMetadata,
    /// Locked segments, oldest first; the last one is written. Never empty.
    pub(super) segments: VecDeque<Segment>,
    pub(super) chain: u32,
    /// Where the next record goes in the last segment.
    pub(super) tail: u64,
    /// Up to here the last segment is durable.
    pub(super) synced_tail: u64,
    /// Up to here the last segment is zero behind the tail.
    pub(super) zeroed_until: u64,
    pub(super) zero_window_bytes: u64,
    /// Since the last large one.
    pub(super) small_batches: u32,
    pub(super) hard_state: HardState,
    pub(super) last_index: u64,
    pub(super) is_synced: bool,
    pub(super) buffer: Vec<u8>,
    pub(super) statistics: WalStatistics,
    pub(super) failure: Option<DiskError>,
}

impl Wal {
    /// Creates the folder with its first segment: checksum, metadata, empty snapshot. It appears under its name only when
    /// it is whole and durable; what an interrupted attempt left under `<directory>.tmp` is removed.
    pub fn create(
        file_system: Arc<dyn FileSystem>,
        directory: &Path,
        metadata: WalMetadata,
        options: WalOptions,
    ) -> Result<Self, WalOpenError> {
        if Self::exists(&*file_system, directory)? {
            return Err(WalOpenError::Exists { directory: directory.to_owned() });
        }
        let mut temporary = directory.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        if file_system.exists(&temporary).map_err(DiskError::at("look for", &temporary))? {
            file_system.remove_directory(&temporary).map_err(DiskError::at("remove", &temporary))?;
        }
        if let Some(parent) = directory.parent() {
            create_durable_directories(&*file_system, parent)?;
        }
        file_system.create_directories(&temporary).map_err(DiskError::at("create", &temporary))?;

        let path = temporary.join(segment_name(0, 0));
        let file = create_locked(&*file_system, &path)?;
        let mut wal = Self {
            file_system,
            directory: directory.to_owned(),
            options,
            metadata,
            segments: VecDeque::from([Segment { file, path, sequence: 0, first_index: 0 }]),
            chain: 0,
            tail: 0,
            synced_tail: 0,
            zeroed_until: 0,
            zero_window_bytes: ZERO_WINDOW_BYTES_MIN,
            small_batches: options.small_batches_min,
            hard_state: HardState::default(),
            last_index: 0,
            is_synced: true,
            buffer: Vec::new(),
            statistics: WalStatistics::default(),
            failure: None,
        };
        record::push_crc(&mut wal.buffer, &mut wal.chain);
        record::push_metadata(&mut wal.buffer, &mut wal.chain, &metadata);
        record::push_snapshot(&mut wal.buffer, &mut wal.chain, &WalSnapshot::default());
        wal.write_buffer()?;
        wal.sync()?;
        wal.sync_directory(&temporary)?;
        wal.replace_directory(&temporary)?;
        Ok(wal)
    }

    /// Whether the folder holds a segment.
    pub fn exists(file_system: &dyn FileSystem, directory: &Path) -> Result<bool, DiskError> {
        if !file_system.exists(directory).map_err(DiskError::at("look for", directory))? {
            return Ok(false);
        }
        let names = file_system.list(directory).map_err(DiskError::at("list", directory))?;
        Ok(names.iter().any(|name| name.ends_with(".wal")))
    }

    /// Appends entries, then the hard state, as one write. Not durable until [`Self::sync`]. A full segment is left for a
    /// new one here, which syncs both. The entries' indexes rise by one from the last, or step back to replace entries.
    pub fn append(&mut self, entries: &[WalEntry<'_>], hard_state: Option<&HardState>) -> Result<Appended, DiskError> {
        self.check()?;
        let hard_state = hard_state.filter(|state| !state.is_empty());
        if entries.is_empty() && hard_state.is_none() {
            return Ok(Appended { must_sync: false, bytes: 0 });
        }
        self.buffer.clear();
        for entry in entries {
            record::push_entry(&mut self.buffer, &mut self.chain, entry);
        }
        let mut must_sync = !entries.is_empty();
        if let Some(state) = hard_state {
            must_sync = state.must_sync(&self.hard_state, entries.len());
            record::push_state(&mut self.buffer, &mut self.chain, state);
            self.hard_state = *state;
        }
        if let Some(last) = entries.last() {
            self.last_index = last.index;
        }
        let bytes = self.buffer.len() as u64;
        self.guard(Self::write_buffer)?;
        if self.tail >= self.options.segment_size_bytes {
            self.guard(Self::cut)?;
            must_sync = false;
        }
        Ok(Appended { must_sync, bytes })
    }

    /// Makes everything appended durable with one fdatasync, and says how long that took; zero if there was nothing to do.
    pub fn sync(&mut self) -> Result<Duration, DiskError> {
        self.check()?;
        self.guard(Self::sync_tail)
    }

    /// Records a snapshot, durably. Its `.snap` file must be durable before.
    ///
    /// A record counts at the next start only if the log's hard state covers it, and the commit index is written lazily:
    /// so it is written with the record where it is behind. Else a purge could remove what the snapshot before needs.
    ///
    /// # Panics
    /// If the conf state is missing from any snapshot but the empty one.
    pub fn save_snapshot(&mut self, snapshot: &WalSnapshot) -> Result<Duration, DiskError> {
        assert!(snapshot.index == 0 || snapshot.conf_state.is_some(), "a snapshot record carries the conf state");
        self.check()?;
        self.buffer.clear();
        record::push_snapshot(&mut self.buffer, &mut self.chain, snapshot);
        if !self.hard_state.is_empty() && self.hard_state.commit < snapshot.index {
            self.hard_state.commit = snapshot.index;
            record::push_state(&mut self.buffer, &mut self.chain, &self.hard_state);
        }
        self.last_index = self.last_index.max(snapshot.index);
        self.guard(Self::write_buffer)?;
        self.guard(Self::sync_tail)
    }

    /// Gives up the locks of segments that are not needed from `index` on, as etcd does (`ReleaseLockTo`): of the
    /// segments that begin below `index` the last stays locked. [`purge`](super::purge) may then remove the others.
    pub fn release_to(&mut self, index: u64) {
        let below = self.segments.iter().take_while(|segment| segment.first_index < index).count();
        // Without a segment above `index` etcd keeps the last one, and that is the same count.
        self.segments.drain(..below.saturating_sub(1));
    }

    pub fn metadata(&self) -> WalMetadata {
        self.metadata
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The last hard state appended or recovered.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The index of the last entry appended, recovered, or covered by a snapshot.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    pub fn statistics(&self) -> WalStatistics {
        self.statistics
    }

    /// The file being written.
    pub fn segment_path(&self) -> &Path {
        &self.last_segment().path
    }

    pub(super) fn last_segment(&self) -> &Segment {
        self.segments.back().expect("a log has at least the segment it writes")
    }

    fn check(&self) -> Result<(), DiskError> {
        match &self.failure {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Runs a step that touches the disk; its failure is every later caller's.
    fn guard<T>(&mut self, step: fn(&mut Self) -> Result<T, DiskError>) -> Result<T, DiskError> {
        step(self).inspect_err(|error| self.failure = Some(error.clone()))
    }

    fn write_buffer(&mut self) -> Result<(), DiskError> {
        let end = self.tail + self.buffer.len() as u64;
        if self.buffer.len() >= self.options.large_batch_bytes_min {
            self.small_batches = 0;
            self.zero_window_bytes = ZERO_WINDOW_BYTES_MIN;
        } else {
            self.small_batches = self.small_batches.saturating_add(1);
        }
        if end > self.zeroed_until && self.small_batches >= self.options.small_batches_min {
            self.zero_ahead(end)?;
        }
        self.zeroed_until = self.zeroed_until.max(end);
        let segment = self.last_segment();
        segment.file.write_at(self.tail, &self.buffer).map_err(|cause| self.give_up_batch(cause))?;
        self.tail = end;
        self.is_synced = false;
        self.statistics.record_bytes += self.buffer.len() as u64;
        if self.buffer.capacity() > KEPT_BUFFER_BYTES_MAX {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Zeroes a window behind `end`, so that the next batches overwrite blocks the file system has recorded. Nothing is
    /// zeroed beyond the segment's size, where no batch will begin.
    fn zero_ahead(&mut self, end: u64) -> Result<(), DiskError> {
        let block_end = end.next_multiple_of(BLOCK_BYTES);
        let segment_end = self.options.segment_size_bytes.next_multiple_of(BLOCK_BYTES).max(block_end);
        let until = (block_end + self.zero_window_bytes).min(segment_end);
        let segment = self.last_segment();
        let mut offset = end;
        while offset < until {
            let length = (until - offset).min(BLOCK_BYTES - offset % BLOCK_BYTES);
            let zeros = &ZEROS[..length as usize];
            segment.file.write_at(offset, zeros).map_err(|cause| self.give_up_batch(cause))?;
            offset += length;
        }
        self.statistics.zeroed_bytes += until - end;
        self.zeroed_until = until;
        self.zero_window_bytes = (self.zero_window_bytes * 2).min(ZERO_WINDOW_BYTES_MAX);
        Ok(())
    }

    /// What was written of a batch when the disk was full may end anywhere, also where no crash would tear it. It goes, and
    /// gives its room back.
    fn give_up_batch(&self, cause: std::io::Error) -> DiskError {
        self.cut_back(self.tail);
        DiskError::new("write", &self.last_segment().path, cause)
    }

    /// The last act of a log that failed. If it fails as well, opening the log judges what is there; the first error is
    /// the one to report.
    fn cut_back(&self, length: u64) {
        if self.options.unsafe_no_fsync {
            return;
        }
        let file = &self.last_segment().file;
        file.set_length(length).and_then(|()| file.sync_data()).ok();
    }

    fn sync_tail(&mut self) -> Result<Duration, DiskError> {
        if self.is_synced || self.options.unsafe_no_fsync {
            return Ok(Duration::ZERO);
        }
        let segment = self.last_segment();
        let took = segment.file.sync_data().map_err(|cause| {
            // The system drops what it could not write and calls it written: the next to open the log would read it, and
            // miss it after a crash.
            self.cut_back(self.synced_tail);
            DiskError::new("sync", &segment.path, cause)
        })?;
        self.is_synced = true;
        self.synced_tail = self.tail;
        self.statistics.syncs += 1;
        Ok(took)
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), DiskError> {
        if self.options.unsafe_no_fsync {
            return Ok(());
        }
        self.file_system.sync_directory(directory).map_err(DiskError::at("sync", directory))
    }

    /// Leaves the full segment, cut to its length and durable, for a new one that begins with the checksum so far, the
    /// metadata and the hard state. The new one appears under its name when its head is durable.
    fn cut(&mut self) -> Result<(), DiskError> {
        let full = self.last_segment();
        full.file.set_length(self.tail).map_err(DiskError::at("truncate", &full.path))?;
        let sequence = full.sequence + 1;
        let first_index = self.last_index + 1;
        self.is_synced = false;
        self.sync_tail()?;

        let temporary = self.directory.join(TEMPORARY_NAME);
        let file = create_locked(&*self.file_system, &temporary)?;
        self.segments.push_back(Segment { file, path: temporary.clone(), sequence, first_index });
        self.tail = 0;
        self.synced_tail = 0;
        self.zeroed_until = 0;
        self.buffer.clear();
        record::push_crc(&mut self.buffer, &mut self.chain);
        record::push_metadata(&mut self.buffer, &mut self.chain, &self.metadata);
        if !self.hard_state.is_empty() {
            record::push_state(&mut self.buffer, &mut self.chain, &self.hard_state);
        }
        self.write_buffer()?;
        self.sync_tail()?;

        let path = self.directory.join(segment_name(sequence, first_index));
        self.file_system.rename(&temporary, &path).map_err(DiskError::at("rename", &temporary))?;
        self.sync_directory(&self.directory)?;
        if let Some(segment) = self.segments.back_mut() {
            segment.path = path;
        }
        self.statistics.cuts += 1;
        Ok(())
    }

    /// Puts the finished folder into its place; an empty folder that an operator made beforehand gives way.
    fn replace_directory(&mut self, temporary: &Path) -> Result<(), DiskError> {
        let directory = self.directory.clone();
        if self.file_system.exists(&directory).map_err(DiskError::at("look for", &directory))? {
            self.file_system.remove_directory(&directory).map_err(DiskError::at("remove", &directory))?;
        }
        self.file_system.rename(temporary, &directory).map_err(DiskError::at("rename", temporary))?;
        if let Some(parent) = directory.parent() {
            self.sync_directory(parent)?;
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.path = directory.join(segment_name(0, 0));
        }
        Ok(())
    }
}

/// Makes an empty file and locks it.
fn create_locked(file_system: &dyn FileSystem, path: &Path) -> Result<Box<dyn File>, DiskError> {
    let file = file_system.open(path, OpenMode::CreateEmpty).map_err(DiskError::at("create", path))?;
    if !file.try_lock().map_err(DiskError::at("lock", path))? {
        return Err(DiskError::new("lock", path, std::io::ErrorKind::WouldBlock.into()));
    }
    Ok(file)
}
