//! The test's side of the forgetful disk (`shim/forgetful_disk.c`, which says what counts as durable): how a member gets
//! it, and how what was not synced is taken back after its process was killed. Must not run while the member does.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::random::Random;

/// The unit in which a disk writes or does not write.
const SECTOR_BYTES: u64 = 512;

/// Of what was not synced, how much of the files is kept, and how often a folder keeps all changes up to one, in percent.
const KEPT_PERCENT: usize = 50;
const KEPT_NAMES_PERCENT: usize = 25;

/// What becomes of changes that were not synced when the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgetting {
    /// All are lost.
    Everything,
    /// Each sector of a file has any of the contents it was given since the last sync; of names, the first so many
    /// changes are kept, and any later removals.
    AnyPart,
}

/// Which call fails, or ends the process.
#[derive(Clone, Debug)]
pub struct Fault {
    pub calls: Calls,
    /// Part of the path of the files meant; with `$` behind it, the path's end.
    pub path: String,
    /// Counted among the calls meant since the disk was armed, from 1.
    pub number: u64,
    pub strike: Strike,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Writes, and changes of names and lengths.
    Write,
    Sync,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// The call fails with this errno and does nothing.
    Once(i32),
    /// The call does half of what it should; all later ones fail.
    From(i32),
    KillBefore,
    KillAfter,
}

impl Fault {
    fn text(&self) -> String {
        let calls = match self.calls {
            Calls::Write => "write",
            Calls::Sync => "sync",
            Calls::Any => "any",
        };
        let strike = match self.strike {
            Strike::Once(errno) => errno.to_string(),
            Strike::From(errno) => format!("{errno}+"),
            Strike::KillBefore => "before".to_owned(),
            Strike::KillAfter => "after".to_owned(),
        };
        format!("{calls},{},{},{strike}", self.path, self.number)
    }
}

/// A disk for one folder.
#[derive(Debug)]
pub struct ForgetfulDisk {
    library: PathBuf,
    folder: PathBuf,
    undo: TempDir,
}

impl ForgetfulDisk {
    /// `library` is [`crate::tools::forgetful_disk`]. The folder must be there.
    pub fn new(library: &Path, folder: &Path) -> io::Result<ForgetfulDisk> {
        let folder = folder.canonicalize()?;
        let parent = folder.parent().unwrap_or(&folder);
        let undo = tempfile::Builder::new().prefix("kvorum-undo-").tempdir_in(parent)?;
        Ok(ForgetfulDisk { library: library.to_owned(), folder, undo })
    }

    /// The variables for a process whose writes are to be followed. Syncs of paths that contain `deaf` do nothing.
    pub fn environment(&self, deaf: Option<&str>, fault: Option<&Fault>) -> Vec<(String, OsString)> {
        let mut variables: Vec<(String, OsString)> = vec![
            ("LD_PRELOAD".to_owned(), self.library.clone().into()),
            ("KVORUM_SHIM_FOLDER".to_owned(), self.folder.clone().into()),
            ("KVORUM_SHIM_UNDO".to_owned(), self.undo.path().into()),
        ];
        variables.extend(deaf.map(|deaf| ("KVORUM_SHIM_DEAF".to_owned(), deaf.into())));
        variables.extend(fault.map(|fault| ("KVORUM_SHIM_FAULT".to_owned(), fault.text().into())));
        variables
    }

    /// Lets the calls of a fault count from here on, or from the next call of this on.
    pub fn arm(&self, armed: bool) -> io::Result<()> {
        let path = self.undo.path().join("armed");
        match armed {
            true => fs::write(path, ""),
            false if path.exists() => fs::remove_file(path),
            false => Ok(()),
        }
    }

    /// Every sync waits so many milliseconds first, from the next on; `None`: no longer.
    pub fn slow(&self, milliseconds: Option<&str>) -> io::Result<()> {
        self.mark("slow", milliseconds)
    }

    /// Whatever needs room fails, from the next call on.
    pub fn full(&self, full: bool) -> io::Result<()> {
        self.mark("full", full.then_some(""))
    }

    fn mark(&self, name: &str, contents: Option<&str>) -> io::Result<()> {
        let path = self.undo.path().join(name);
        match contents {
            Some(contents) => fs::write(path, contents),
            None if path.exists() => fs::remove_file(path),
            None => Ok(()),
        }
    }

    /// Takes back what was not synced, as if the machine had stopped when the process did.
    pub fn crash(&self, forgetting: Forgetting, random: &mut Random) -> io::Result<()> {
        let mut random = (forgetting == Forgetting::AnyPart).then_some(random);
        self.take_back_names(&mut random)?;
        let paths = paths_by_inode(&self.folder)?;
        for entry in fs::read_dir(self.undo.path())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let inode = name.strip_prefix("file-").and_then(|inode| inode.parse::<u64>().ok());
            if let Some(path) = inode.and_then(|inode| paths.get(&inode)) {
                let contents = fs::read(path)?;
                let restored = take_back_changes(&contents, &parse_changes(&fs::read(entry.path())?), &mut random);
                if restored != contents {
                    fs::write(path, restored)?;
                }
            }
        }
        self.forget_all()
    }

    /// Lets everything be durable from here on.
    fn forget_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.undo.path())? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        Ok(())
    }

    fn take_back_names(&self, random: &mut Option<&mut Random>) -> io::Result<()> {
        let records = match fs::read(self.undo.path().join("names")) {
            Ok(bytes) => parse_namings(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut synced = BTreeSet::new();
        for record in records.iter().rev() {
            if record.kind == NamingKind::Synced {
                synced.insert(record.folder);
                continue;
            }
            let folder = if record.kind == NamingKind::Moved { record.new_folder } else { record.folder };
            if synced.contains(&folder) {
                continue;
            }
            if random.as_mut().is_some_and(|random| random.chance(KEPT_NAMES_PERCENT)) {
                return Ok(());
            }
            // Nothing says in which order names vanish.
            let vanishes = record.kind == NamingKind::Removed;
            if vanishes && random.as_mut().is_some_and(|random| random.chance(KEPT_PERCENT)) {
                continue;
            }
            let paths = paths_by_inode(&self.folder)?;
            let Some(folder) = paths.get(&record.folder) else { continue };
            let path = folder.join(&record.name);
            let kept = self.undo.path().join(format!("kept-{}", record.kept));
            match record.kind {
                NamingKind::Made if path.is_dir() => fs::remove_dir_all(path)?,
                NamingKind::Made if path.exists() => fs::remove_file(path)?,
                NamingKind::Removed if !path.exists() => fs::hard_link(kept, path)?,
                NamingKind::Moved if !path.exists() => {
                    let Some(new_folder) = paths.get(&record.new_folder) else { continue };
                    let moved = new_folder.join(&record.new_name);
                    if !moved.exists() {
                        continue;
                    }
                    fs::rename(&moved, path)?;
                    if record.kept > 0 {
                        fs::hard_link(kept, moved)?;
                    }
                }
                NamingKind::FolderRemoved if !path.exists() => {
                    fs::rename(kept, path)?;
                }
                // The process was killed before it did what it had announced.
                _ => {}
            }
        }
        Ok(())
    }
}

/// A folder as a map from relative path to contents, to compare with. The lock file of LMDB is left out.
pub fn tree(folder: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for path in paths_by_inode(folder)?.into_values() {
        if path.is_file() && !path.ends_with("lock.mdb") {
            let relative = path.strip_prefix(folder).expect("it was found there").to_owned();
            files.insert(relative, fs::read(path)?);
        }
    }
    Ok(files)
}

fn paths_by_inode(folder: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        found.insert(fs::metadata(&folder)?.ino(), folder.clone());
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.insert(entry.metadata()?.ino(), entry.path());
            }
        }
    }
    Ok(found)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NamingKind {
    Made,
    Removed,
    Moved,
    FolderRemoved,
    Synced,
}

#[derive(Debug)]
struct Naming {
    kind: NamingKind,
    folder: u64,
    new_folder: u64,
    kept: u64,
    name: String,
    new_name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChangeKind {
    Write,
    Truncate,
    RangeSynced,
    Synced,
}

#[derive(Debug)]
struct Change {
    kind: ChangeKind,
    /// Where the record stands in its file.
    position: u64,
    offset: u64,
    range: u64,
    old_size: u64,
    old: Vec<u8>,
}

/// Takes numbers from the front; `None` for a record that the kill cut short, which is always the last.
fn numbers<const COUNT: usize>(bytes: &mut &[u8]) -> Option<[u64; COUNT]> {
    let mut numbers = [0; COUNT];
    for number in &mut numbers {
        let (word, rest) = bytes.split_first_chunk()?;
        *number = u64::from_ne_bytes(*word);
        *bytes = rest;
    }
    Some(numbers)
}

fn payload<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (payload, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(payload)
}

fn parse_namings(bytes: &[u8]) -> Vec<Naming> {
    let mut rest = bytes;
    std::iter::from_fn(|| {
        let [kind, folder, new_folder, kept, length] = numbers(&mut rest)?;
        let names = String::from_utf8_lossy(payload(&mut rest, length)?).into_owned();
        let mut names = names.split('\0').map(str::to_owned);
        let kind = match kind {
            1 => NamingKind::Made,
            2 => NamingKind::Removed,
            3 => NamingKind::Moved,
            4 => NamingKind::FolderRemoved,
            5 => NamingKind::Synced,
            _ => panic!("the shim wrote a record of kind {kind}"),
        };
        let (name, new_name) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
        Some(Naming { kind, folder, new_folder, kept, name, new_name })
    })
    .collect()
}

fn parse_changes(bytes: &[u8]) -> Vec<Change> {
    let mut rest = bytes;
    std::iter::from_fn(|| {
        let position = (bytes.len() - rest.len()) as u64;
        let [kind, offset, range, old_size, length] = numbers(&mut rest)?;
        let old = payload(&mut rest, length)?.to_vec();
        let kind = match kind {
            1 => ChangeKind::Write,
            2 => ChangeKind::Truncate,
            3 => ChangeKind::RangeSynced,
            4 => ChangeKind::Synced,
            _ => panic!("the shim wrote a record of kind {kind}"),
        };
        Some(Change { kind, position, offset, range, old_size, old })
    })
    .collect()
}

/// A file on its way back: bytes that are decided, because they were synced or are kept, stay as they are.
struct Restoring {
    contents: Vec<u8>,
    decided: Vec<bool>,
    /// The file ends nowhere before this.
    size_min: u64,
    size_is_decided: bool,
}

impl Restoring {
    fn decide(&mut self, range: Range<u64>) {
        let end = range.end.min(self.contents.len() as u64);
        for byte in range.start.min(end)..end {
            self.decided[byte as usize] = true;
        }
        self.size_min = self.size_min.max(end);
    }

    /// Puts back what stood at `range`; behind the end of `old` the file did not reach.
    fn put_back(&mut self, range: Range<u64>, offset: u64, old: &[u8]) {
        for byte in range.start..range.end.min(self.contents.len() as u64) {
            if !self.decided[byte as usize] {
                self.contents[byte as usize] = old.get((byte - offset) as usize).copied().unwrap_or(0);
            }
        }
    }

    fn resize(&mut self, size: u64) {
        if !self.size_is_decided {
            let size = usize::try_from(size.max(self.size_min)).expect("a test's files fit into memory");
            self.contents.resize(size, 0);
            self.decided.resize(size, false);
        }
    }
}

fn take_back_changes(contents: &[u8], changes: &[Change], random: &mut Option<&mut Random>) -> Vec<u8> {
    let mut file = Restoring {
        contents: contents.to_vec(),
        decided: vec![false; contents.len()],
        size_min: 0,
        size_is_decided: false,
    };
    let mut synced: Vec<Range<u64>> = Vec::new();
    let mut keeps = |percent: usize| random.as_mut().is_some_and(|random| random.chance(percent));
    for change in changes.iter().rev() {
        let range = change.offset..change.offset.saturating_add(change.range);
        let is_synced = synced.iter().any(|synced| synced.contains(&change.position));
        match change.kind {
            ChangeKind::Synced => synced.push(range),
            ChangeKind::RangeSynced => file.decide(range),
            ChangeKind::Write if is_synced => {
                file.decide(range);
                file.size_min = file.size_min.max(change.old_size.min(file.contents.len() as u64));
            }
            ChangeKind::Write => {
                let mut begin = range.start;
                while begin < range.end {
                    let sector = begin / SECTOR_BYTES * SECTOR_BYTES;
                    let end = (sector + SECTOR_BYTES).min(range.end);
                    if keeps(KEPT_PERCENT) {
                        // With all that was written to the sector before.
                        file.decide(sector..sector + SECTOR_BYTES);
                    } else {
                        file.put_back(begin..end, change.offset, &change.old);
                    }
                    begin = end;
                }
                if range.end > change.old_size {
                    file.resize(change.old_size);
                }
            }
            ChangeKind::Truncate if is_synced || keeps(KEPT_PERCENT) => file.size_is_decided = true,
            ChangeKind::Truncate => {
                file.resize(change.old_size);
                file.put_back(range, change.offset, &change.old);
            }
        }
    }
    file.contents
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ChangeKind, position: u64, offset: u64, range: u64, old_size: u64, old: &[u8]) -> Change {
        Change { kind, position, offset, range, old_size, old: old.to_vec() }
    }

    #[test]
    fn what_was_not_synced_is_taken_back_backwards() {
        let changes = [
            change(ChangeKind::Write, 0, 0, 4, 2, b"ab"),
            change(ChangeKind::Write, 1, 1, 1, 4, b"x"),
            change(ChangeKind::Truncate, 2, 3, 1, 4, b"y"),
        ];
        assert_eq!(take_back_changes(b"123", &changes, &mut None), b"ab");
        assert_eq!(take_back_changes(b"123", &changes[1..], &mut None), b"1x3y");
    }

    #[test]
    fn a_synced_range_survives_alone() {
        let changes = [
            change(ChangeKind::Write, 0, 0, 6, 6, b"abcdef"),
            change(ChangeKind::Write, 1, 2, 2, 6, b"34"),
            change(ChangeKind::RangeSynced, 2, 2, 2, 0, b""),
        ];
        assert_eq!(take_back_changes(b"12CD56", &changes, &mut None), b"abCDef");
    }

    #[test]
    fn a_sync_covers_what_came_before_it_but_not_what_an_earlier_one_lost() {
        let changes = [
            change(ChangeKind::Write, 0, 0, 4, 0, b""),
            change(ChangeKind::Write, 10, 2, 4, 4, b"34"),
            change(ChangeKind::Synced, 20, 10, 10, 0, b""),
            change(ChangeKind::Write, 30, 6, 1, 6, b""),
        ];
        assert_eq!(take_back_changes(b"1234567", &changes, &mut None), b"\0\x003456");
    }
}
