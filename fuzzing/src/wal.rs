//! The write-ahead log. The first byte says what the rest is:
//!
//! - 0: the bytes of a segment, as they are;
//! - 1: records, each a type and its data, which get length words and checksums here: so what is inside of them is
//!   reached too. A type of 9 and above begins the next segment;
//! - 2: what a member does to its log, then a piece of damage;
//! - 3: what a member does to its log, then a loss of power.
//!
//! Every log, whatever is in it: looking at it changes nothing; opening it changes nothing either, but for a torn tail and
//! what lies behind a clean end, as `docs/formats.md` has it; a refused log stays as it is. What was opened is sound, is
//! found again by whoever opens it next, and can be written to. Of a log that was damaged or lost power, a beginning of
//! what was written is read or nothing; with all that was synced, or in front of the damage.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kvorum_api::raftpb::{ConfState, EntryType};
use kvorum_api::walpb;
use kvorum_disk::wal::{Recovered, first_index, read_entries, segment_name, valid_snapshot_entries};
use kvorum_disk::{FileSystem, HardState, OpenMode, Wal, WalEntry, WalMetadata, WalOptions, WalSnapshot};
use kvorum_disk::{file::SimulatedFileSystem, file::read_whole};
use prost::Message;

use crate::input::Input;

const FOLDER: &str = "/wal";
const METADATA: WalMetadata = WalMetadata { node_id: 1, cluster_id: 2 };

/// Of the segments that a script writes; so small that there are several.
const SEGMENT_BYTES: u64 = 3000;
const STEPS_MAX: usize = 24;
const ENTRY_BYTES_MAX: usize = 1500;
const SECTOR_BYTES: usize = 512;

/// A record of this type, and any above, stands for the next segment.
const NEXT_SEGMENT: u8 = 9;
const SEGMENTS_MAX: u64 = 6;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 4 {
        0 => {
            let disk = empty_disk();
            install(&disk, &segment_name(0, 0), input.rest());
            drop(check_any(&disk));
        }
        1 => drop(check_any(&composed(&mut input))),
        2 => damaged(&mut input),
        _ => powerless(&mut input),
    }
}

/// How small the zeroed windows and batches are is part of the input, since it decides where a tail may be torn.
fn options(choice: u8) -> WalOptions {
    WalOptions {
        segment_size_bytes: SEGMENT_BYTES,
        unsafe_no_fsync: false,
        large_batch_bytes_min: if choice & 1 == 0 { 600 } else { 1 << 20 },
        small_batches_min: u32::from(choice >> 1 & 3),
    }
}

fn empty_disk() -> SimulatedFileSystem {
    let disk = SimulatedFileSystem::new();
    disk.create_directories(Path::new(FOLDER)).expect("an empty disk takes a folder");
    disk
}

fn install(disk: &SimulatedFileSystem, name: &str, contents: &[u8]) {
    let file = disk.open(&Path::new(FOLDER).join(name), OpenMode::CreateEmpty).expect("the folder is there");
    file.write_at(0, contents).expect("there is room");
}

/// All files of the log's folder.
fn files(disk: &SimulatedFileSystem) -> BTreeMap<String, Vec<u8>> {
    let names = disk.list(Path::new(FOLDER)).expect("the folder is there");
    let read = |name: &String| {
        let file = disk.open(&Path::new(FOLDER).join(name), OpenMode::Read).expect("it was listed");
        read_whole(&*file).expect("this disk reads")
    };
    names.iter().map(|name| (name.clone(), read(name))).collect()
}

/// Segments of records with good length words and checksums.
fn composed(input: &mut Input<'_>) -> SimulatedFileSystem {
    let disk = empty_disk();
    let (mut segment, mut chain, mut sequence) = (Vec::new(), 0, 0);
    push(&mut segment, &mut chain, 4, &[]);
    push(&mut segment, &mut chain, 1, &[0x08, 1, 0x10, 2]);
    if input.byte() & 1 == 0 {
        push(&mut segment, &mut chain, 5, &[0x08, 0, 0x10, 0]);
    }
    let mut first_index = 0;
    while !input.is_empty() {
        let kind = input.byte();
        if kind < NEXT_SEGMENT {
            push(&mut segment, &mut chain, kind, input.piece());
        } else if sequence < SEGMENTS_MAX {
            install(&disk, &segment_name(sequence, first_index), &std::mem::take(&mut segment));
            sequence += 1;
            first_index = u64::from(input.byte());
            push(&mut segment, &mut chain, 4, &[]);
            push(&mut segment, &mut chain, 1, &[0x08, 1, 0x10, 2]);
        }
    }
    install(&disk, &segment_name(sequence, first_index), &segment);
    disk
}

/// Written apart from the log's own encoder, as `docs/formats.md` draws it.
fn push(segment: &mut Vec<u8>, chain: &mut u32, kind: u8, data: &[u8]) {
    *chain = crc32c::crc32c_append(*chain, data);
    let data = (kind != 4 && !data.is_empty()).then(|| data.to_vec().into());
    let record = walpb::Record { r#type: Some(i64::from(kind)), crc: Some(*chain), data }.encode_to_vec();
    let padding = record.len().wrapping_neg() % 8;
    let mark = if padding == 0 { 0 } else { 0x80 | padding as u64 };
    segment.extend((record.len() as u64 | mark << 56).to_le_bytes());
    segment.extend(&record);
    segment.extend(&[0; 8][..padding]);
}

fn open(disk: &SimulatedFileSystem, from: &WalSnapshot, options: WalOptions) -> Option<(Wal, Recovered)> {
    Wal::open(Arc::new(disk.clone()), Path::new(FOLDER), from, options).ok()
}

/// What holds of every log, wherever it came from. Gives what was recovered of it from its beginning on.
fn check_any(disk: &SimulatedFileSystem) -> Option<Recovered> {
    let before = files(disk);
    let folder = Path::new(FOLDER);
    let snapshots = valid_snapshot_entries(disk, folder);
    drop(first_index(disk, folder));
    let older = read_entries(disk, folder, 1, u64::MAX, usize::MAX).unwrap_or_default();
    for (position, entry) in older.iter().enumerate() {
        assert_eq!(entry.index(), position as u64 + 1, "older entries are read without a gap");
    }
    assert!(files(disk) == before, "looking changes nothing");

    // From each snapshot that a start would take, on a disk of its own.
    for snapshot in snapshots.iter().flatten().filter(|snapshot| snapshot.index > 0).take(3) {
        check_opened(&copy_of(&before), snapshot);
    }
    check_opened(disk, &WalSnapshot::default())
}

fn copy_of(files: &BTreeMap<String, Vec<u8>>) -> SimulatedFileSystem {
    let disk = empty_disk();
    for (name, contents) in files {
        install(&disk, name, contents);
    }
    disk
}

fn check_opened(disk: &SimulatedFileSystem, from: &WalSnapshot) -> Option<Recovered> {
    let before = files(disk);
    let Some((wal, recovered)) = open(disk, from, options(0)) else {
        assert!(files(disk) == before, "a refused log stays as it is");
        return None;
    };
    check_changes(&before, &files(disk), &recovered);
    check_sound(&recovered, from);
    drop(wal);

    let settled = files(disk);
    let (mut wal, again) = open(disk, from, options(1)).expect("what could be opened can be opened again");
    assert!(again.repair.is_none() && files(disk) == settled, "a tail is repaired once");
    check_same(&recovered, &again);

    let last = recovered.entries.last().map_or(from.index, |entry| entry.index());
    let term = recovered.entries.last().map_or(from.term, |entry| entry.term()).max(1);
    let Some(index) = last.checked_add(1).filter(|index| *index < u64::MAX / 2) else { return Some(recovered) };
    let entry = WalEntry { entry_type: EntryType::EntryNormal, term, index, data: b"appended" };
    let state = HardState { term, vote: 7, commit: last };
    wal.append(&[entry], Some(&state)).expect("this disk writes");
    wal.sync().expect("this disk syncs");
    drop(wal);
    let (_, longer) = open(disk, from, options(0)).expect("a log that was written to can be opened");
    assert_eq!(longer.entries.len(), recovered.entries.len() + 1);
    assert_eq!(longer.entries[..recovered.entries.len()], recovered.entries[..]);
    assert_eq!(longer.entries.last().map(|entry| entry.data()), Some(&b"appended"[..]));
    assert_eq!(longer.hard_state, state);
    Some(recovered)
}

/// What opening may do to the files: cut the last segment where the log ends, with a copy if a record was torn.
fn check_changes(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>, recovered: &Recovered) {
    let last = before.keys().rfind(|name| name.ends_with(".wal")).expect("an opened log has a segment");
    for (name, contents) in before.iter().filter(|(name, _)| *name != last) {
        assert!(after.get(name) == Some(contents), "{name} is not the last segment");
    }
    let (old, new) = (&before[last], &after[last]);
    assert!(old.starts_with(new), "the last segment is cut at most");
    let cut = &old[new.len()..];
    match &recovered.repair {
        Some(repair) => {
            assert_eq!((repair.offset as usize, file_name(&repair.path)), (new.len(), last.clone()));
            assert!(after.get(&file_name(&repair.broken_copy)) == Some(old), "the copy is what was there");
            assert_eq!(after.len(), before.len() + 1);
        }
        None => {
            assert!(cut.is_empty() || cut.iter().any(|byte| *byte != 0), "zeros behind the end stay");
            assert_eq!(after.len(), before.len());
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn check_sound(recovered: &Recovered, from: &WalSnapshot) {
    let mut term = 0;
    for (position, entry) in recovered.entries.iter().enumerate() {
        assert_eq!(entry.index(), from.index + 1 + position as u64, "indexes rise by one");
        assert!(entry.term() > 0 && entry.term() >= term, "terms do not fall");
        assert!(entry.r#type.is_some_and(|kind| EntryType::try_from(kind).is_ok()), "the type is one");
        term = entry.term();
    }
}

fn check_same(one: &Recovered, other: &Recovered) {
    assert_eq!(one.metadata, other.metadata);
    assert_eq!(one.hard_state, other.hard_state);
    assert_eq!(one.entries, other.entries);
}

/// One record of what a member wrote.
#[derive(Clone)]
enum Written {
    Entry { term: u64, index: u64, data: Vec<u8> },
    State(HardState),
    Snapshot { index: u64 },
}

/// What a reader must have seen that has seen so much.
#[derive(Clone, Debug, Default, PartialEq)]
struct Expected {
    entries: Vec<(u64, u64, Vec<u8>)>,
    hard_state: HardState,
}

impl Expected {
    fn add(&mut self, written: &Written) {
        match written {
            Written::Entry { term, index, data } => {
                self.entries.truncate(*index as usize - 1);
                self.entries.push((*term, *index, data.clone()));
            }
            Written::State(state) => self.hard_state = *state,
            Written::Snapshot { .. } => {}
        }
    }

    fn of(recovered: &Recovered) -> Self {
        let parts = |entry: &kvorum_api::raftpb::Entry| (entry.term(), entry.index(), entry.data().to_vec());
        Self { entries: recovered.entries.iter().map(parts).collect(), hard_state: recovered.hard_state }
    }
}

/// What was written, and what of it must survive.
#[derive(Default)]
struct Script {
    written: Vec<Written>,
    synced: usize,
    term: u64,
    last_index: u64,
    state: HardState,
}

impl Script {
    /// Appends what the input says. Each step is one write.
    fn play(&mut self, wal: &mut Wal, input: &mut Input<'_>) {
        for _ in 0..STEPS_MAX {
            let step = input.byte();
            if step == 0 {
                break;
            }
            match step % 8 {
                7 => self.save_snapshot(wal),
                _ => self.append(wal, step, input),
            }
            if step & 0x80 != 0 {
                wal.sync().expect("this disk syncs");
                self.synced = self.written.len();
            }
        }
    }

    fn append(&mut self, wal: &mut Wal, step: u8, input: &mut Input<'_>) {
        let replaced =
            if step & 0x40 != 0 { u64::from(input.byte()).min(self.last_index - self.state.commit) } else { 0 };
        let count = usize::from(step % 8 % 4);
        if count > 0 {
            self.term += u64::from(replaced > 0 || self.term == 0);
            self.last_index -= replaced;
        }
        let payloads: Vec<Vec<u8>> = (0..count).map(|_| payload(input)).collect();
        let mut entries = Vec::new();
        for data in &payloads {
            self.last_index += 1;
            entries.push(WalEntry {
                entry_type: EntryType::EntryNormal,
                term: self.term,
                index: self.last_index,
                data,
            });
            self.written.push(Written::Entry { term: self.term, index: self.last_index, data: data.clone() });
        }
        let with_state = step & 0x20 != 0 && self.term > 0;
        let commit = if step & 0x10 != 0 { self.last_index } else { self.state.commit };
        let state = HardState { term: self.term, vote: u64::from(step & 0x08), commit };
        if with_state {
            self.state = state;
            self.written.push(Written::State(state));
        }
        let cuts = wal.statistics().cuts;
        wal.append(&entries, with_state.then_some(&state)).expect("this disk writes");
        if wal.statistics().cuts > cuts {
            self.synced = self.written.len();
        }
    }

    fn save_snapshot(&mut self, wal: &mut Wal) {
        let index = self.state.commit;
        if index == 0 {
            return;
        }
        let conf_state = Some(ConfState { voters: vec![1], auto_leave: Some(false), ..ConfState::default() });
        self.written.push(Written::Snapshot { index });
        wal.save_snapshot(&WalSnapshot { index, term: self.term, conf_state }).expect("this disk writes");
        self.synced = self.written.len();
    }

    /// How many of the records were recovered, if they are a beginning of those written and at least so many.
    fn beginning(&self, recovered: &Recovered, least: usize) -> Option<usize> {
        let found = Expected::of(recovered);
        let mut expected = Expected::default();
        let mut best = None;
        for count in 0..=self.written.len() {
            if count > 0 {
                expected.add(&self.written[count - 1]);
            }
            if count >= least && expected == found {
                best = Some(count);
            }
        }
        best
    }
}

/// A few bytes as they are, or many of a kind, zeros among them: tears are told by zeros.
fn payload(input: &mut Input<'_>) -> Vec<u8> {
    let shape = input.byte();
    if shape & 1 == 0 {
        return input.take(usize::from(shape >> 1)).to_vec();
    }
    let length = usize::from(input.short()) % (ENTRY_BYTES_MAX + 1);
    vec![input.byte(); length]
}

fn write(input: &mut Input<'_>) -> (SimulatedFileSystem, Script) {
    let disk = SimulatedFileSystem::new();
    let mut script = Script::default();
    let options = options(input.byte());
    let mut wal = Wal::create(Arc::new(disk.clone()), Path::new(FOLDER), METADATA, options).expect("this disk writes");
    script.play(&mut wal, input);
    (disk, script)
}

/// Damage to one place of a log that was written whole.
fn damaged(input: &mut Input<'_>) {
    let (disk, script) = write(input);
    let (wal, whole) = open(&disk, &WalSnapshot::default(), options(0)).expect("what was written is read");
    drop(wal);
    assert_eq!(script.beginning(&whole, script.written.len()), Some(script.written.len()), "all that was written");
    let older = read_entries(&disk, Path::new(FOLDER), 1, u64::MAX, usize::MAX).expect("what was written is read");
    assert_eq!(older, whole.entries);
    check_snapshots(&disk, &script);

    let whole_files = files(&disk);
    let names: Vec<&String> = whole_files.keys().filter(|name| name.ends_with(".wal")).collect();
    let name = names[usize::from(input.byte()) % names.len()];
    let path = Path::new(FOLDER).join(name);
    let kind = input.byte();
    let position = usize::from(input.short());
    let burst = input.take(4).to_vec();
    let earlier: usize =
        names.iter().take_while(|other| **other != name).map(|name| entries_in(&whole_files[*name])).sum();
    let mut in_front = 0;
    disk.tamper(&path, |contents| {
        let place = damage(contents, kind, position, &burst);
        in_front = earlier + entries_in(&whole_files[name][..place]);
    });
    if let Some(recovered) = check_any(&disk) {
        let is_entry = |written: &Written| matches!(written, Written::Entry { .. });
        let entries = script.written.iter().enumerate().filter(|(_, written)| is_entry(written));
        let least = in_front.checked_sub(1).and_then(|last| entries.map(|(place, _)| place + 1).nth(last)).unwrap_or(0);
        assert!(script.beginning(&recovered, least).is_some(), "what is in front of the damage, or nothing");
    }
}

/// Entries whose records lie wholly in these bytes, which begin as a segment does.
fn entries_in(contents: &[u8]) -> usize {
    let (mut rest, mut entries) = (contents, 0);
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        let length = (u64::from_le_bytes(*word) & (u64::MAX >> 8)) as usize;
        let Some(end) = after.get(length.next_multiple_of(8)..).filter(|_| length > 0) else { break };
        entries += usize::from(after[1] == 2);
        rest = end;
    }
    entries
}

/// Changes the contents at one place and says where: at most 32 bits in a row, which the checksum always notices, zeros up
/// to the end of a sector, or the rest cut off.
fn damage(contents: &mut Vec<u8>, kind: u8, position: usize, burst: &[u8]) -> usize {
    if contents.is_empty() {
        return 0;
    }
    let position = position % contents.len();
    match kind % 3 {
        0 => contents[position..].iter_mut().zip(burst).for_each(|(byte, mask)| *byte ^= mask),
        1 => {
            let end = (position + 1).next_multiple_of(SECTOR_BYTES).min(contents.len());
            contents[position..end].fill(0);
        }
        _ => contents.truncate(position),
    }
    position
}

fn check_snapshots(disk: &SimulatedFileSystem, script: &Script) {
    let valid = valid_snapshot_entries(disk, Path::new(FOLDER)).expect("what was written is read");
    let indexes: Vec<u64> = valid.iter().map(|snapshot| snapshot.index).filter(|index| *index > 0).collect();
    let commit = script.state.commit;
    let written = script.written.iter().filter_map(|written| match written {
        Written::Snapshot { index } if *index <= commit => Some(*index),
        _ => None,
    });
    assert_eq!(indexes, written.collect::<Vec<_>>());
}

/// The power goes, perhaps in the middle of something; what was synced is there, and the survivor goes on.
fn powerless(input: &mut Input<'_>) {
    let (disk, mut script) = write(input);
    let disk = disk.crash(input.long());
    let Some((mut wal, recovered)) = open(&disk, &WalSnapshot::default(), options(0)) else {
        panic!("a log that lost power is opened");
    };
    let count = script.beginning(&recovered, script.synced).expect("all that was synced, and a beginning of the rest");
    script.written.truncate(count);
    script.synced = count;
    script.last_index = recovered.entries.last().map_or(0, |entry| entry.index());
    script.term = recovered.entries.last().map_or(0, |entry| entry.term()).max(recovered.hard_state.term) + 1;
    script.state = recovered.hard_state;
    script.state.commit = script.state.commit.min(script.last_index);
    script.play(&mut wal, input);
    drop(wal);
    let disk = disk.crash(input.long());
    let (_, recovered) = open(&disk, &WalSnapshot::default(), options(2)).expect("a log that lost power is opened");
    script.beginning(&recovered, script.synced).expect("all that was synced, and a beginning of the rest");
}
