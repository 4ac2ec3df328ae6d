//! The reading side: choose the segments, verify and collect their records, repair a torn tail.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kvorum_api::raftpb::EntryType;
use kvorum_api::{etcdserverpb, raftpb, walpb};
use prost::Message;
use prost::encoding::decode_varint;

use super::record::{
    HardState, RawRecord, TYPE_CRC, TYPE_ENTRY, TYPE_METADATA, TYPE_SNAPSHOT, TYPE_STATE, WalEntry, WalMetadata,
    WalSnapshot,
};
use super::scan::{Scanner, Step, is_zero};
use super::write::{Segment, Wal, WalOptions, WalStatistics};
use super::{CorruptReason, WalOpenError, ZERO_WINDOW_BYTES_MIN, parse_segment_name};
use crate::file::read_whole;
use crate::{DiskError, File, FileSystem, OpenMode};

/// What an opened log remembers.
#[derive(Clone, Debug)]
pub struct Recovered {
    pub metadata: WalMetadata,
    /// The last one in the log; empty if there is none.
    pub hard_state: HardState,
    /// All entries above the snapshot it was opened at, their indexes rising by one from there; type, term and index are
    /// always set. Those above `hard_state.commit` may still be replaced.
    pub entries: Vec<raftpb::Entry>,
    /// Set if the tail was torn.
    pub repair: Option<Repair>,
}

/// A torn tail that was cut off. Nothing in it had been synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub path: PathBuf,
    /// Where the torn record began, and where the log goes on.
    pub offset: u64,
    /// A copy of the segment as it was found.
    pub broken_copy: PathBuf,
}

impl Wal {
    /// Opens the log for appending, and reads what lies behind the snapshot `from`: its index and term must be recorded in
    /// the log; the empty snapshot stands for the log's beginning. Conf state is not looked at.
    pub fn open(
        file_system: Arc<dyn FileSystem>,
        directory: &Path,
        from: &WalSnapshot,
        options: WalOptions,
    ) -> Result<(Self, Recovered), WalOpenError> {
        let selected = select_segments(segment_files(&*file_system, directory)?, directory, from.index)?;
        let mut segments = VecDeque::new();
        for named in selected {
            let file =
                file_system.open(&named.path, OpenMode::ReadWrite).map_err(DiskError::at("open", &named.path))?;
            if !file.try_lock().map_err(DiskError::at("lock", &named.path))? {
                return Err(WalOpenError::Locked { path: named.path });
            }
            segments.push_back(Segment {
                file,
                path: named.path,
                sequence: named.sequence,
                first_index: named.first_index,
            });
        }

        let mut reader = Reader::new(from.index);
        let mut tail = Tail::default();
        let last = segments.len() - 1;
        for (position, segment) in segments.iter().enumerate() {
            let contents = read_whole(&*segment.file).map_err(DiskError::at("read", &segment.path))?;
            tail = reader.read_segment(&segment.path, &contents, position == last)?;
        }
        reader.check_snapshot(from)?;
        let metadata = reader.metadata.expect("every segment read had its metadata");

        let segment = segments.back().expect("at least one segment was selected");
        let repair = settle_tail(&*file_system, segment, &tail)?;
        if !options.unsafe_no_fsync {
            settle_on_disk(&*file_system, directory, segment)?;
        }
        let zeroed_until = if tail.is_clean { tail.length } else { tail.end };
        let recovered = Recovered { metadata, hard_state: reader.hard_state, entries: reader.entries, repair };
        let wal = Self {
            file_system,
            directory: directory.to_owned(),
            options,
            metadata,
            segments,
            chain: reader.chain,
            tail: tail.end,
            synced_tail: tail.end,
            zeroed_until,
            zero_window_bytes: ZERO_WINDOW_BYTES_MIN,
            small_batches: options.small_batches_min,
            hard_state: reader.hard_state,
            last_index: reader.last_index,
            is_synced: true,
            buffer: Vec::new(),
            statistics: WalStatistics::default(),
            failure: None,
        };
        Ok((wal, recovered))
    }
}

/// The snapshots recorded in the log that its last hard state covers, oldest first (etcd's `ValidSnapshotEntries`). A
/// `.snap` file that is not among them must not be started from. Takes no lock; a torn tail is not repaired.
pub fn valid_snapshot_entries(
    file_system: &dyn FileSystem,
    directory: &Path,
) -> Result<Vec<WalSnapshot>, WalOpenError> {
    let named = segment_files(file_system, directory)?;
    check_sequence(&named)?;
    let mut reader = Reader::new(u64::MAX);
    let last = named.len() - 1;
    for (position, segment) in named.iter().enumerate() {
        let file = file_system.open(&segment.path, OpenMode::Read).map_err(DiskError::at("open", &segment.path))?;
        let contents = read_whole(&*file).map_err(DiskError::at("read", &segment.path))?;
        reader.read_segment(&segment.path, &contents, position == last)?;
    }
    let commit = reader.hard_state.commit;
    Ok(reader.snapshots.into_iter().filter(|snapshot| snapshot.index <= commit).collect())
}

pub(super) struct NamedSegment {
    pub(super) path: PathBuf,
    sequence: u64,
    pub(super) first_index: u64,
}

pub(super) fn segment_files(file_system: &dyn FileSystem, directory: &Path) -> Result<Vec<NamedSegment>, WalOpenError> {
    if !file_system.exists(directory).map_err(DiskError::at("look for", directory))? {
        return Err(WalOpenError::NotFound { directory: directory.to_owned() });
    }
    let names = file_system.list(directory).map_err(DiskError::at("list", directory))?;
    let segments: Vec<_> = names
        .iter()
        .filter_map(|name| {
            let (sequence, first_index) = parse_segment_name(name)?;
            Some(NamedSegment { path: directory.join(name), sequence, first_index })
        })
        .collect();
    if segments.is_empty() {
        return Err(WalOpenError::NotFound { directory: directory.to_owned() });
    }
    Ok(segments)
}

/// The last segment that begins at or below `index`, and all after it.
fn select_segments(
    mut segments: Vec<NamedSegment>,
    directory: &Path,
    index: u64,
) -> Result<Vec<NamedSegment>, WalOpenError> {
    let Some(first) = segments.iter().rposition(|segment| segment.first_index <= index) else {
        return Err(WalOpenError::NoSegmentFor { directory: directory.to_owned(), index });
    };
    segments.drain(..first);
    check_sequence(&segments)?;
    Ok(segments)
}

fn check_sequence(segments: &[NamedSegment]) -> Result<(), WalOpenError> {
    match segments.windows(2).find(|pair| pair[0].sequence.checked_add(1) != Some(pair[1].sequence)) {
        Some(pair) => Err(WalOpenError::MissingSegment { path: pair[1].path.clone() }),
        None => Ok(()),
    }
}

/// How the last segment ended.
#[derive(Default)]
struct Tail {
    end: u64,
    length: u64,
    is_torn: bool,
    /// All behind the end is zero.
    is_clean: bool,
}

/// Cuts off what lies behind the log's end unless it is zero. Left there, it could continue a later torn record.
fn settle_tail(file_system: &dyn FileSystem, segment: &Segment, tail: &Tail) -> Result<Option<Repair>, WalOpenError> {
    if tail.is_clean {
        return Ok(None);
    }
    let mut repair = None;
    if tail.is_torn {
        let mut broken = segment.path.as_os_str().to_owned();
        broken.push(".broken");
        let broken = PathBuf::from(broken);
        copy_segment(file_system, &*segment.file, &broken).map_err(DiskError::at("write", &broken))?;
        repair = Some(Repair { path: segment.path.clone(), offset: tail.end, broken_copy: broken });
    }
    segment.file.set_length(tail.end).map_err(DiskError::at("truncate", &segment.path))?;
    segment.file.sync_all().map_err(DiskError::at("sync", &segment.path))?;
    Ok(repair)
}

/// Makes durable what was read. A process that was killed before it could sync left it in the system's memory only, and
/// whoever reads it here acts on it.
fn settle_on_disk(file_system: &dyn FileSystem, directory: &Path, last: &Segment) -> Result<(), WalOpenError> {
    last.file.sync_data().map_err(DiskError::at("sync", &last.path))?;
    for directory in [Some(directory), directory.parent()].into_iter().flatten() {
        file_system.sync_directory(directory).map_err(DiskError::at("sync", directory))?;
    }
    Ok(())
}

fn copy_segment(file_system: &dyn FileSystem, source: &dyn File, target: &Path) -> std::io::Result<()> {
    let contents = read_whole(source)?;
    let copy = file_system.open(target, OpenMode::CreateEmpty)?;
    copy.write_at(0, &contents)?;
    copy.sync_all()?;
    Ok(())
}

/// Collects what the records say, over all segments.
struct Reader {
    from_index: u64,
    chain: u32,
    segments_read: u64,
    metadata: Option<WalMetadata>,
    hard_state: HardState,
    entries: Vec<raftpb::Entry>,
    last_index: u64,
    snapshots: Vec<WalSnapshot>,
}

impl Reader {
    fn new(from_index: u64) -> Self {
        Self {
            from_index,
            chain: 0,
            segments_read: 0,
            metadata: None,
            hard_state: HardState::default(),
            entries: Vec::new(),
            last_index: 0,
            snapshots: Vec::new(),
        }
    }

    fn read_segment(&mut self, path: &Path, contents: &[u8], is_last: bool) -> Result<Tail, WalOpenError> {
        let corrupt =
            |offset: usize, reason| WalOpenError::Corrupt { path: path.to_owned(), offset: offset as u64, reason };
        let mut scanner = Scanner::new(contents, self.chain, is_last);
        let mut records = 0u64;
        let tail = loop {
            match scanner.step() {
                Step::Record { record, offset } => {
                    let result = match records {
                        0 => self.begin_segment(&mut scanner, &record),
                        1 => self.accept_metadata(&record),
                        _ => self.accept(&record),
                    };
                    result.map_err(|reason| corrupt(offset, reason))?;
                    records += 1;
                }
                Step::End { offset } => {
                    let is_clean = is_zero(&contents[offset..]);
                    break Tail { end: offset as u64, length: contents.len() as u64, is_torn: false, is_clean };
                }
                Step::Torn { offset } => {
                    break Tail { end: offset as u64, length: contents.len() as u64, is_torn: true, is_clean: false };
                }
                Step::Corrupt { offset, reason } => return Err(corrupt(offset, reason)),
            }
        };
        // The head was synced before the segment got its name, so it cannot be torn.
        if records < 2 {
            let offset = usize::try_from(tail.end).unwrap_or(contents.len());
            return Err(corrupt(offset, CorruptReason::Position));
        }
        self.chain = scanner.chain;
        self.segments_read += 1;
        Ok(tail)
    }

    /// The first record repeats the checksum so far. Of the first segment read it is where the chain begins.
    fn begin_segment(&mut self, scanner: &mut Scanner<'_>, record: &RawRecord<'_>) -> Result<(), CorruptReason> {
        if record.record_type != TYPE_CRC {
            return Err(CorruptReason::Position);
        }
        if self.segments_read > 0 && record.crc != self.chain {
            return Err(CorruptReason::Checksum);
        }
        scanner.chain = record.crc;
        Ok(())
    }

    fn accept_metadata(&mut self, record: &RawRecord<'_>) -> Result<(), CorruptReason> {
        if record.record_type != TYPE_METADATA {
            return Err(CorruptReason::Position);
        }
        let metadata = etcdserverpb::Metadata::decode(record.data).map_err(|_| CorruptReason::Content)?;
        let metadata = WalMetadata { node_id: metadata.node_id(), cluster_id: metadata.cluster_id() };
        if self.metadata.is_some_and(|before| before != metadata) {
            return Err(CorruptReason::MetadataConflict);
        }
        self.metadata = Some(metadata);
        Ok(())
    }

    fn accept(&mut self, record: &RawRecord<'_>) -> Result<(), CorruptReason> {
        match record.record_type {
            TYPE_ENTRY => self.accept_entry(record.data),
            TYPE_STATE => {
                self.hard_state = decode_state(record.data).ok_or(CorruptReason::Content)?;
                Ok(())
            }
            TYPE_SNAPSHOT => {
                let snapshot = walpb::Snapshot::decode(record.data).map_err(|_| CorruptReason::Content)?;
                let (index, term) = (snapshot.index(), snapshot.term());
                self.last_index = self.last_index.max(index);
                self.snapshots.push(WalSnapshot { index, term, conf_state: snapshot.conf_state });
                Ok(())
            }
            _ => Err(CorruptReason::Position),
        }
    }

    /// An entry replaces those from its index on that were written before it.
    fn accept_entry(&mut self, data: &[u8]) -> Result<(), CorruptReason> {
        let entry = decode_entry(data).ok_or(CorruptReason::Content)?;
        self.last_index = entry.index;
        let Some(above) = entry.index.checked_sub(self.from_index).filter(|above| *above > 0) else {
            return Ok(());
        };
        let position = above - 1;
        if position > self.entries.len() as u64 {
            return Err(CorruptReason::EntryOrder);
        }
        self.entries.truncate(position as usize);
        if self.entries.last().is_some_and(|before| before.term() > entry.term) {
            return Err(CorruptReason::EntryOrder);
        }
        self.entries.push(owned(&entry));
        Ok(())
    }

    fn check_snapshot(&self, from: &WalSnapshot) -> Result<(), WalOpenError> {
        let mut of_that_index = self.snapshots.iter().filter(|snapshot| snapshot.index == from.index).peekable();
        let Some(first) = of_that_index.peek() else {
            return Err(WalOpenError::SnapshotNotFound { index: from.index, term: from.term });
        };
        let recorded_term = first.term;
        if of_that_index.any(|snapshot| snapshot.term == from.term) {
            return Ok(());
        }
        Err(WalOpenError::SnapshotMismatch { index: from.index, term: from.term, recorded_term })
    }
}

/// The checksum does not cover a record's type, so contents are read strictly: nothing that was written as an entry reads
/// as a state. `None` also for a state without a term, which is never written.
fn decode_state(mut data: &[u8]) -> Option<HardState> {
    let mut state = HardState::default();
    while let [tag, rest @ ..] = data {
        let field = match tag {
            0x08 => &mut state.term,
            0x10 => &mut state.vote,
            0x18 => &mut state.commit,
            _ => return None,
        };
        data = rest;
        *field = decode_varint(&mut data).ok()?;
    }
    (state.term > 0).then_some(state)
}

/// etcd 3.7 leaves out a type of zero. `None` also for what no member writes: an entry without term or index, of an
/// unknown type, or a membership change without content. Nothing is copied, since most entries of a log are only passed.
pub(super) fn decode_entry(mut data: &[u8]) -> Option<WalEntry<'_>> {
    let (mut entry_type, mut term, mut index, mut content) = (0, 0, 0, &[][..]);
    while let [tag, rest @ ..] = data {
        data = rest;
        let value = decode_varint(&mut data).ok()?;
        match tag {
            0x08 => entry_type = value,
            0x10 => term = value,
            0x18 => index = value,
            0x22 => (content, data) = data.split_at_checked(usize::try_from(value).ok()?)?,
            _ => return None,
        }
    }
    let entry_type = EntryType::try_from(i32::try_from(entry_type).ok()?).ok()?;
    let is_empty_change = entry_type != EntryType::EntryNormal && content.is_empty();
    (term > 0 && index > 0 && !is_empty_change).then_some(WalEntry { entry_type, term, index, data: content })
}

pub(super) fn owned(entry: &WalEntry<'_>) -> raftpb::Entry {
    raftpb::Entry {
        r#type: Some(entry.entry_type as i32),
        term: Some(entry.term),
        index: Some(entry.index),
        data: (!entry.data.is_empty()).then(|| Bytes::copy_from_slice(entry.data)),
    }
}
