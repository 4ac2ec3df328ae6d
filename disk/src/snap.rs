//! Snapshot files in etcd's format, `<term>-<index>.snap`: membership and position of the log at a snapshot. The data
//! inside are the caller's bytes. A broken file is set aside, never trusted and never deleted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use bytes::Bytes;
use kvorum_api::raftpb::ConfState;
use kvorum_api::{raftpb, snappb};
use prost::Message;

use crate::file::{create_durable_directories, read_whole};
use crate::{DiskError, FileSystem, OpenMode, WalSnapshot};

const SUFFIX: &str = ".snap";
const TEMPORARY_SUFFIX: &str = ".snap.tmp";

/// The content of one `.snap` file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotFile {
    pub index: u64,
    pub term: u64,
    pub conf_state: ConfState,
    /// etcd 3.6 and older put their v2 store's JSON here and read it at start.
    pub data: Bytes,
}

/// No snapshot could be saved or loaded.
#[derive(Clone, Debug)]
pub enum SnapError {
    Disk(DiskError),
    /// Raft's empty snapshot, which has no file.
    Empty,
}

impl From<DiskError> for SnapError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl fmt::Display for SnapError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(formatter, "snap: {error}"),
            Self::Empty => formatter.write_str("snap: empty snapshot"),
        }
    }
}

impl std::error::Error for SnapError {}

/// What a search for a snapshot found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    pub snapshot: Option<SnapshotFile>,
    /// Files that could not be read and are now named `<name>.broken`, each with the reason.
    pub broken: Vec<(PathBuf, String)>,
}

/// The folder of snapshot files.
pub struct SnapDirectory {
    file_system: Arc<dyn FileSystem>,
    directory: PathBuf,
}

impl SnapDirectory {
    /// Creates the folder if it is not there, and removes what an interrupted [`Self::save`] left.
    pub fn open(file_system: Arc<dyn FileSystem>, directory: &Path) -> Result<Self, DiskError> {
        create_durable_directories(&*file_system, directory)?;
        let names = file_system.list(directory).map_err(DiskError::at("list", directory))?;
        for name in names.iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX)) {
            let path = directory.join(name);
            file_system.remove_file(&path).map_err(DiskError::at("remove", &path))?;
        }
        Ok(Self { file_system, directory: directory.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Writes a snapshot durably: first under another name, so that no half file ever has the right one.
    pub fn save(&self, snapshot: &SnapshotFile) -> Result<PathBuf, SnapError> {
        if snapshot.index == 0 {
            return Err(SnapError::Empty);
        }
        let path = self.directory.join(format!("{:016x}-{:016x}{SUFFIX}", snapshot.term, snapshot.index));
        let mut temporary = path.clone().into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = self.file_system.open(&temporary, OpenMode::CreateEmpty);
        let file = file.map_err(DiskError::at("create", &temporary))?;
        file.write_at(0, &encode(snapshot)).map_err(DiskError::at("write", &temporary))?;
        file.sync_all().map_err(DiskError::at("sync", &temporary))?;
        self.file_system.rename(&temporary, &path).map_err(DiskError::at("rename", &temporary))?;
        self.file_system.sync_directory(&self.directory).map_err(DiskError::at("sync", &self.directory))?;
        Ok(path)
    }

    /// The newest snapshot that can be read and that the log knows (see
    /// [`valid_snapshot_entries`](crate::wal::valid_snapshot_entries)). Those that cannot be read are set aside.
    pub fn load_newest(&self, known: &[WalSnapshot]) -> Result<Loaded, DiskError> {
        let mut loaded = Loaded::default();
        for name in self.names()?.iter().rev() {
            let path = self.directory.join(name);
            let contents = self.read(&path).map_err(DiskError::at("read", &path))?;
            match decode(&contents) {
                Ok(snapshot) => {
                    if known.iter().any(|known| known.index == snapshot.index && known.term == snapshot.term) {
                        loaded.snapshot = Some(snapshot);
                        break;
                    }
                }
                Err(reason) => {
                    let mut broken = path.clone().into_os_string();
                    broken.push(".broken");
                    let broken = PathBuf::from(broken);
                    self.file_system.rename(&path, &broken).map_err(DiskError::at("rename", &path))?;
                    loaded.broken.push((broken, reason));
                }
            }
        }
        Ok(loaded)
    }

    /// The same, without setting anything aside.
    pub fn read_newest(
        file_system: Arc<dyn FileSystem>,
        directory: &Path,
        known: &[WalSnapshot],
    ) -> Result<Option<SnapshotFile>, DiskError> {
        let this = Self { file_system, directory: directory.to_owned() };
        for name in this.names()?.iter().rev() {
            let path = directory.join(name);
            let contents = this.read(&path).map_err(DiskError::at("read", &path))?;
            let Ok(snapshot) = decode(&contents) else { continue };
            if known.iter().any(|known| known.index == snapshot.index && known.term == snapshot.term) {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }

    /// Removes the oldest files until `snapshots_max` are left; zero keeps all. Returns what was removed.
    pub fn purge(&self, snapshots_max: usize) -> Result<Vec<PathBuf>, DiskError> {
        let mut removed = Vec::new();
        if snapshots_max == 0 {
            return Ok(removed);
        }
        let names = self.names()?;
        for name in &names[..names.len().saturating_sub(snapshots_max)] {
            let path = self.directory.join(name);
            self.file_system.remove_file(&path).map_err(DiskError::at("remove", &path))?;
            removed.push(path);
        }
        Ok(removed)
    }

    /// Oldest first: the names order by term, then index.
    fn names(&self) -> Result<Vec<String>, DiskError> {
        let mut names = self.file_system.list(&self.directory).map_err(DiskError::at("list", &self.directory))?;
        names.retain(|name| name.ends_with(SUFFIX));
        Ok(names)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        read_whole(&*self.file_system.open(path, OpenMode::Read)?)
    }
}

fn encode(snapshot: &SnapshotFile) -> Vec<u8> {
    let mut conf_state = snapshot.conf_state.clone();
    conf_state.auto_leave.get_or_insert(false);
    let metadata = raftpb::SnapshotMetadata {
        conf_state: Some(conf_state),
        index: Some(snapshot.index),
        term: Some(snapshot.term),
    };
    let data = (!snapshot.data.is_empty()).then(|| snapshot.data.clone());
    let inner = raftpb::Snapshot { data, metadata: Some(metadata) }.encode_to_vec();
    snappb::Snapshot { crc: Some(crc32c::crc32c(&inner)), data: Some(inner.into()) }.encode_to_vec()
}

fn decode(contents: &[u8]) -> Result<SnapshotFile, String> {
    let outer = snappb::Snapshot::decode(contents).map_err(|error| error.to_string())?;
    let (crc, inner) = (outer.crc(), outer.data());
    if crc == 0 || inner.is_empty() {
        return Err("empty snapshot".to_owned());
    }
    if crc32c::crc32c(inner) != crc {
        return Err("crc mismatch".to_owned());
    }
    let snapshot = raftpb::Snapshot::decode(inner).map_err(|error| error.to_string())?;
    let metadata = snapshot.metadata.unwrap_or_default();
    Ok(SnapshotFile {
        index: metadata.index(),
        term: metadata.term(),
        conf_state: metadata.conf_state.unwrap_or_default(),
        data: snapshot.data.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
