//! A directory of ours, written out as one that etcd starts from: the backend as a bbolt database, log and `.snap` files as
//! they are. The source is only read, but for what a start of ours would clean up.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DirectoryError, Places, lock};
use crate::file::{RealFileSystem, create_durable_directories};
use crate::lmdb::{Exported, LmdbBackend, LmdbOptions};
use crate::wal::{self, HardState, WalOptions, WalSnapshot};
use crate::{DiskError, FileSystem, OpenMode, Wal};

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Writes the member in `data_directory`, which must not run, to `target`, which must not be there or be empty.
pub fn export(data_directory: &Path, places: &Places, target: &Path) -> Result<Exported, DirectoryError> {
    if !is_absent_or_empty(target)? {
        return Err(DirectoryError::refused(target, "it is not empty. Name a folder that is not there yet"));
    }
    if !LmdbBackend::exists(&places.backend())? {
        return Err(DirectoryError::refused(data_directory, "there is no database of Kvorum's in it"));
    }
    let _lock = lock(data_directory, "Kvorum")?;
    let backend = LmdbBackend::open(&places.backend(), LmdbOptions::default())?;
    if backend.has_received_mark() {
        let reason =
            "its database came from another member just before it stopped. Start Kvorum on it once, and stop it";
        return Err(DirectoryError::refused(data_directory, reason));
    }
    let mut temporary = target.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    match RealFileSystem.remove_directory(&temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result.map_err(DiskError::at("remove", &temporary))?,
    }
    let exported = write(&backend, places, &Places::new(&temporary, None));
    let exported = exported.and_then(|exported| {
        RealFileSystem.rename(&temporary, target).map_err(DiskError::at("rename", &temporary))?;
        let parent = target.parent().unwrap_or(Path::new(""));
        RealFileSystem.sync_directory(parent).map_err(DiskError::at("sync", parent))?;
        Ok(exported)
    });
    if exported.is_err() {
        // The error tells more; the next attempt removes what stays.
        drop(RealFileSystem.remove_directory(&temporary));
    }
    exported
}

fn write(backend: &LmdbBackend, source: &Places, target: &Places) -> Result<Exported, DirectoryError> {
    create_durable_directories(&RealFileSystem, &target.snapshots())?;
    create_durable_directories(&RealFileSystem, &target.wal)?;
    copy_files(&source.wal, &target.wal, |name| wal::parse_segment_name(name).is_some())?;
    copy_files(&source.snapshots(), &target.snapshots(), |name| name.ends_with(".snap"))?;
    let exported = backend.generation().write_bolt(&target.database(), true)?;
    RealFileSystem.sync_directory(&target.snapshots()).map_err(DiskError::at("sync", &target.snapshots()))?;
    commit_log(target, &exported)?;
    Ok(exported)
}

/// What the database holds was committed. Our log may say so only with its next entries, and etcd's checks want it said.
fn commit_log(target: &Places, exported: &Exported) -> Result<(), DirectoryError> {
    let known = wal::valid_snapshot_entries(&RealFileSystem, &target.wal)?;
    let newest = known.iter().max_by_key(|snapshot| snapshot.index);
    let from =
        newest.map_or_else(WalSnapshot::default, |snapshot| WalSnapshot { conf_state: None, ..snapshot.clone() });
    let file_system: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
    let (mut log, recovered) = Wal::open(file_system, &target.wal, &from, WalOptions::default())?;
    let HardState { term, vote, commit } = recovered.hard_state;
    if exported.consistent_index > log.last_index() {
        let (index, last) = (exported.consistent_index, log.last_index());
        let reason =
            format!("the log ends at entry {last}, before the database's {index}: they do not belong together");
        return Err(DirectoryError::refused(&target.wal, reason));
    }
    if commit < exported.consistent_index {
        log.append(&[], Some(&HardState { term, vote, commit: exported.consistent_index }))?;
        log.sync()?;
    }
    Ok(())
}

fn copy_files(source: &Path, target: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<(), DiskError> {
    let names = RealFileSystem.list(source).map_err(DiskError::at("list", source))?;
    for name in names.iter().filter(|name| is_wanted(name)) {
        copy(&source.join(name), &target.join(name))?;
    }
    RealFileSystem.sync_directory(target).map_err(DiskError::at("sync", target))
}

fn copy(source: &Path, target: &Path) -> Result<(), DiskError> {
    let from = RealFileSystem.open(source, OpenMode::Read).map_err(DiskError::at("open", source))?;
    let to = RealFileSystem.open(target, OpenMode::CreateEmpty).map_err(DiskError::at("create", target))?;
    let (mut buffer, mut offset) = (vec![0; COPY_BYTES], 0);
    loop {
        let read = from.read_at(offset, &mut buffer).map_err(DiskError::at("read", source))?;
        if read == 0 {
            break;
        }
        to.write_at(offset, &buffer[..read]).map_err(DiskError::at("write", target))?;
        offset += read as u64;
    }
    to.sync_all().map_err(DiskError::at("sync", target))?;
    Ok(())
}

fn is_absent_or_empty(path: &Path) -> Result<bool, DiskError> {
    match RealFileSystem.list(path) {
        Ok(names) => Ok(names.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(DiskError::new("list", path, error)),
    }
}
