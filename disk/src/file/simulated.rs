//! A disk in memory that behaves as badly as a real one may: at a crash it forgets what was not synced, whole writes or
//! single sectors of them, and names as well; any call can be made to fail; space can run out.
//!
//! It has no clock and no randomness but the seed of [`SimulatedFileSystem::crash`]. Calls that change something are
//! counted, so that a test can walk through all of them.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{File, FileSystem, OpenMode};

/// The unit that reaches the disk whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// The unit in which a write that fails has happened.
const PAGE_BYTES: u64 = 4096;

/// Stands for the file's length where sectors are chosen.
const LENGTH_SECTOR: u64 = u64::MAX;

/// What every sync is said to take.
const SYNC_DURATION: Duration = Duration::from_micros(100);

const ROOT: usize = 0;

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimulatedFileSystem {
    state: Arc<Mutex<State>>,
}

impl Default for SimulatedFileSystem {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedFileSystem {
    /// An empty disk.
    pub fn new() -> Self {
        Self::from_nodes(vec![Node::Directory(DirectoryNode::default())])
    }

    fn from_nodes(nodes: Vec<Node>) -> Self {
        let state = State { nodes, calls: 0, fault: None, fault_lasts: false, capacity_bytes: None };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// How many calls have changed something, or tried to.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Makes one call fail: the `after`-th changing call from now, counted from zero. A failing write has written about
    /// half, up to the end of a page. A failing sync has synced nothing, and, as on Linux, a later sync that works does not make up for it.
    pub fn fail_call(&self, after: u64, kind: ErrorKind) {
        let mut state = self.state.lock();
        state.fault = Some(Fault { call: state.calls + after, kind });
    }

    /// Makes the `after`-th changing call from now and all later ones fail, as if the power went out during it.
    pub fn power_off_at(&self, after: u64) {
        self.fail_call(after, ErrorKind::BrokenPipe);
        self.state.lock().fault_lasts = true;
    }

    /// No call fails any more but for want of space.
    pub fn forget_faults(&self) {
        let mut state = self.state.lock();
        state.fault = None;
        state.fault_lasts = false;
    }

    /// Lets all files together grow to this many bytes, and no further.
    pub fn limit_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// The disk as it is found when the power comes back: all that was synced, and what `seed` chooses of the rest.
    pub fn crash(&self, seed: u64) -> Self {
        let mut random = Random(seed);
        let state = self.state.lock();
        let survivors = state.nodes.iter().map(|node| node.after_crash(&mut random)).collect();
        Self::from_nodes(survivors)
    }

    /// Changes bytes in place, durably: rot, or a meddling hand.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let node = state.find(path).expect("the file to tamper with exists");
        let file = state.file(node).expect("only files are tampered with");
        change(&mut file.current);
        file.durable = file.current.clone();
        file.pending.clear();
    }
}

struct Fault {
    call: u64,
    kind: ErrorKind,
}

struct State {
    /// Never shrinks: an open file outlives its name.
    nodes: Vec<Node>,
    calls: u64,
    fault: Option<Fault>,
    /// All calls after the faulty one fail as well.
    fault_lasts: bool,
    capacity_bytes: Option<u64>,
}

enum Node {
    File(FileNode),
    Directory(DirectoryNode),
}

#[derive(Default)]
struct FileNode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// What was done since `durable`, in order.
    pending: Vec<Change>,
    is_locked: bool,
}

enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Default)]
struct DirectoryNode {
    current: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    /// The states between `durable` and `current`. A journal keeps the order of changes to names.
    history: Vec<BTreeMap<String, usize>>,
}

impl Node {
    fn after_crash(&self, random: &mut Random) -> Self {
        match self {
            Self::File(file) => {
                let contents = file.after_crash(random);
                Self::File(FileNode { current: contents.clone(), durable: contents, ..FileNode::default() })
            }
            Self::Directory(directory) => {
                let chosen = random.below(directory.history.len() as u64 + 1) as usize;
                let names = chosen.checked_sub(1).map_or(&directory.durable, |chosen| &directory.history[chosen]);
                Self::Directory(DirectoryNode { current: names.clone(), durable: names.clone(), history: Vec::new() })
            }
        }
    }
}

impl FileNode {
    fn after_crash(&self, random: &mut Random) -> Vec<u8> {
        let mut contents = self.durable.clone();
        match random.below(4) {
            // Nothing more reached the disk.
            0 => {}
            // Everything did.
            1 => contents = self.current.clone(),
            // The first few changes did, the last of them in part.
            2 => {
                let kept = random.below(self.pending.len() as u64 + 1) as usize;
                for (position, change) in self.pending[..kept].iter().enumerate() {
                    change.apply(&mut contents, |_| position + 1 < kept || random.below(2) == 0);
                }
            }
            // Each sector reached it at some moment, as the changes up to then had left it.
            _ => {
                let mut moments = BTreeMap::new();
                for (position, change) in self.pending.iter().enumerate() {
                    change.apply(&mut contents, |sector| {
                        let moment =
                            moments.entry(sector).or_insert_with(|| random.below(self.pending.len() as u64 + 1));
                        (position as u64) < *moment
                    });
                }
            }
        }
        contents
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current, |_| true);
        self.pending.push(change);
    }
}

impl Change {
    /// Applies the change, as far as `keeps` says so of each sector.
    fn apply(&self, contents: &mut Vec<u8>, mut keeps: impl FnMut(u64) -> bool) {
        match self {
            Self::Length(length) => {
                if keeps(LENGTH_SECTOR) {
                    contents.resize(*length as usize, 0);
                }
            }
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len() as u64;
                let mut begin = *offset;
                while begin < end {
                    let part_end = (begin + 1).next_multiple_of(SECTOR_BYTES).min(end);
                    if keeps(begin / SECTOR_BYTES) {
                        let part = &bytes[(begin - offset) as usize..(part_end - offset) as usize];
                        if contents.len() < part_end as usize {
                            contents.resize(part_end as usize, 0);
                        }
                        contents[begin as usize..part_end as usize].copy_from_slice(part);
                    }
                    begin = part_end;
                }
            }
        }
    }
}

impl DirectoryNode {
    fn change(&mut self, change: impl FnOnce(&mut BTreeMap<String, usize>)) {
        change(&mut self.current);
        self.history.push(self.current.clone());
    }
}

impl State {
    /// Counts a changing call, and fails it if it is its turn.
    fn count(&mut self) -> Result<()> {
        let call = self.calls;
        self.calls += 1;
        match &self.fault {
            Some(fault) if fault.call == call || (self.fault_lasts && call > fault.call) => {
                Err(Error::new(fault.kind, "simulated failure"))
            }
            _ => Ok(()),
        }
    }

    fn find(&self, path: &Path) -> Result<usize> {
        let mut node = ROOT;
        for name in names(path) {
            node = *self.directory_ref(node)?.current.get(name).ok_or(ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    /// The folder that holds the last name of a path, and that name.
    fn parent<'p>(&self, path: &'p Path) -> Result<(usize, &'p str)> {
        let name = names(path).last().ok_or(ErrorKind::InvalidInput)?;
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn directory_ref(&self, node: usize) -> Result<&DirectoryNode> {
        match &self.nodes[node] {
            Node::Directory(directory) => Ok(directory),
            Node::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn directory(&mut self, node: usize) -> Result<&mut DirectoryNode> {
        match &mut self.nodes[node] {
            Node::Directory(directory) => Ok(directory),
            Node::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn file(&mut self, node: usize) -> Result<&mut FileNode> {
        match &mut self.nodes[node] {
            Node::File(file) => Ok(file),
            Node::Directory(_) => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn add(&mut self, parent: usize, name: &str, node: Node) -> Result<usize> {
        let id = self.nodes.len();
        self.nodes.push(node);
        self.directory(parent)?.change(|names| {
            names.insert(name.to_owned(), id);
        });
        Ok(id)
    }

    /// How much of a write to this file fits on the disk.
    fn room(&mut self, node: usize, end: u64) -> Result<u64> {
        let Some(capacity) = self.capacity_bytes else { return Ok(end) };
        let mut used = 0;
        for other in &self.nodes {
            if let Node::File(file) = other {
                used += file.current.len() as u64;
            }
        }
        let length = self.file(node)?.current.len() as u64;
        Ok(end.min(length + capacity.saturating_sub(used)))
    }
}

fn names(path: &Path) -> impl Iterator<Item = &str> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    })
}

impl FileSystem for SimulatedFileSystem {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Box<dyn File>> {
        let mut state = self.state.lock();
        if mode == OpenMode::CreateEmpty {
            state.count()?;
            let (parent, name) = state.parent(path)?;
            match state.find(path) {
                Ok(node) => state.file(node)?.change(Change::Length(0)),
                Err(_) => drop(state.add(parent, name, Node::File(FileNode::default()))?),
            }
        }
        let node = state.find(path)?;
        state.file(node)?;
        drop(state);
        Ok(Box::new(SimulatedFile { state: self.state.clone(), node, holds_lock: Mutex::new(false) }))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        Ok(self.state.lock().find(path).is_ok())
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>> {
        let state = self.state.lock();
        let node = state.find(directory)?;
        Ok(state.directory_ref(node)?.current.keys().cloned().collect())
    }

    fn create_directories(&self, path: &Path) -> Result<()> {
        let mut state = self.state.lock();
        state.count()?;
        let mut node = ROOT;
        for name in names(path) {
            node = match state.directory(node)?.current.get(name) {
                Some(child) => *child,
                None => state.add(node, name, Node::Directory(DirectoryNode::default()))?,
            };
        }
        state.directory(node).map(drop)
    }

    fn rename(&self, source: &Path, target: &Path) -> Result<()> {
        let mut state = self.state.lock();
        state.count()?;
        let node = state.find(source)?;
        let (source_parent, source_name) = state.parent(source)?;
        let (target_parent, target_name) = state.parent(target)?;
        if source_parent != target_parent {
            return Err(ErrorKind::Unsupported.into());
        }
        state.directory(source_parent)?.change(|names| {
            names.remove(source_name);
            names.insert(target_name.to_owned(), node);
        });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        let mut state = self.state.lock();
        state.count()?;
        let node = state.find(path)?;
        state.file(node)?;
        let (parent, name) = state.parent(path)?;
        state.directory(parent)?.change(|names| {
            names.remove(name);
        });
        Ok(())
    }

    fn remove_directory(&self, path: &Path) -> Result<()> {
        let mut state = self.state.lock();
        state.count()?;
        let node = state.find(path)?;
        state.directory(node)?;
        let (parent, name) = state.parent(path)?;
        state.directory(parent)?.change(|names| {
            names.remove(name);
        });
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> Result<()> {
        let mut state = self.state.lock();
        state.count()?;
        let node = state.find(path)?;
        let directory = state.directory(node)?;
        directory.durable = directory.current.clone();
        directory.history.clear();
        Ok(())
    }
}

/// How much of a write of `length` bytes happens if it must end with a page of the file, as a kernel's writes do that
/// find no room or are interrupted.
fn whole_pages(offset: u64, length: usize) -> usize {
    ((offset + length as u64) / PAGE_BYTES * PAGE_BYTES).saturating_sub(offset) as usize
}

struct SimulatedFile {
    state: Arc<Mutex<State>>,
    node: usize,
    holds_lock: Mutex<bool>,
}

impl File for SimulatedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.state.lock();
        let counted = state.count();
        let end = offset + bytes.len() as u64;
        let room = state.room(self.node, end)?.saturating_sub(offset) as usize;
        let (written, result) = match counted {
            // Without power nothing is written; a write that fails by itself has begun.
            Err(error) if state.fault_lasts => return Err(error),
            Err(error) => (whole_pages(offset, bytes.len() / 2), Err(error)),
            Ok(()) if room < bytes.len() => (whole_pages(offset, room), Err(ErrorKind::StorageFull.into())),
            Ok(()) => (bytes.len(), Ok(())),
        };
        if written > 0 {
            state.file(self.node)?.change(Change::Write { offset, bytes: bytes[..written].to_vec() });
        }
        result
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut state = self.state.lock();
        let contents = &state.file(self.node)?.current;
        let begin = (offset as usize).min(contents.len());
        let length = buffer.len().min(contents.len() - begin);
        buffer[..length].copy_from_slice(&contents[begin..begin + length]);
        Ok(length)
    }

    fn length(&self) -> Result<u64> {
        Ok(self.state.lock().file(self.node)?.current.len() as u64)
    }

    fn set_length(&self, length: u64) -> Result<()> {
        let mut state = self.state.lock();
        state.count()?;
        state.file(self.node)?.change(Change::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> Result<Duration> {
        let mut state = self.state.lock();
        let counted = state.count();
        let fault_lasts = state.fault_lasts;
        let file = state.file(self.node)?;
        match counted {
            Ok(()) => file.durable = file.current.clone(),
            Err(error) if fault_lasts => return Err(error),
            Err(error) => {
                file.pending.clear();
                return Err(error);
            }
        }
        file.pending.clear();
        Ok(SYNC_DURATION)
    }

    fn sync_all(&self) -> Result<Duration> {
        self.sync_data()
    }

    fn try_lock(&self) -> Result<bool> {
        let mut held = self.holds_lock.lock();
        let mut state = self.state.lock();
        let file = state.file(self.node)?;
        if file.is_locked && !*held {
            return Ok(false);
        }
        file.is_locked = true;
        *held = true;
        Ok(true)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        if *self.holds_lock.lock()
            && let Ok(file) = self.state.lock().file(self.node)
        {
            file.is_locked = false;
        }
    }
}

/// SplitMix64, enough for choosing what survives.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::path::Path;

    use super::SimulatedFileSystem;
    use crate::file::read_whole;
    use crate::{FileSystem, OpenMode};

    const PATH: &str = "/folder/file";

    fn read(disk: &SimulatedFileSystem) -> Option<Vec<u8>> {
        let file = disk.open(Path::new(PATH), OpenMode::Read).ok()?;
        Some(read_whole(&*file).unwrap())
    }

    #[test]
    fn what_is_not_synced_may_be_lost_in_sectors() {
        let disk = SimulatedFileSystem::new();
        disk.create_directories(Path::new("/folder")).unwrap();
        let file = disk.open(Path::new(PATH), OpenMode::CreateEmpty).unwrap();
        assert!((0..50).any(|seed| read(&disk.crash(seed)).is_none()), "the name is not durable");
        disk.sync_directory(Path::new("/")).unwrap();
        disk.sync_directory(Path::new("/folder")).unwrap();
        file.write_at(0, &[1; 1024]).unwrap();
        file.sync_data().unwrap();
        file.write_at(0, &[2; 1024]).unwrap();
        let found: BTreeSet<_> = (0..100)
            .map(|seed| {
                let found = read(&disk.crash(seed)).unwrap();
                assert!(found[..512].iter().all(|byte| *byte == found[0]), "a sector is whole");
                (found.len(), found[0], found[512])
            })
            .collect();
        assert_eq!(found, BTreeSet::from([(1024, 1, 1), (1024, 1, 2), (1024, 2, 1), (1024, 2, 2)]));
        file.sync_data().unwrap();
        assert!((0..100).all(|seed| read(&disk.crash(seed)).unwrap() == [2; 1024]));
    }

    #[test]
    fn the_same_seed_leaves_the_same_disk() {
        let disk = SimulatedFileSystem::new();
        disk.create_directories(Path::new("/folder")).unwrap();
        let file = disk.open(Path::new(PATH), OpenMode::CreateEmpty).unwrap();
        file.write_at(100, &[3; 5000]).unwrap();
        for seed in 0..20 {
            assert_eq!(read(&disk.crash(seed)), read(&disk.crash(seed)));
        }
    }
}
