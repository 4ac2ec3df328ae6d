//! Removes segments that nobody needs: beyond the number to keep, and locked by nobody.

use std::path::{Path, PathBuf};

use super::parse_segment_name;
use crate::{DiskError, FileSystem, OpenMode};

/// Removes the oldest segments until `segments_max` are left, or until one is locked: a [`Wal`](super::Wal) holds the
/// locks of those it needs, see [`Wal::release_to`](super::Wal::release_to). Zero keeps all, as etcd's `--max-wals` does.
/// Returns what was removed. It needs no access to the `Wal`, so it may run on any thread.
pub fn purge(file_system: &dyn FileSystem, directory: &Path, segments_max: usize) -> Result<Vec<PathBuf>, DiskError> {
    let mut removed = Vec::new();
    if segments_max == 0 {
        return Ok(removed);
    }
    let names = file_system.list(directory).map_err(DiskError::at("list", directory))?;
    let segments: Vec<_> = names.iter().filter(|name| parse_segment_name(name).is_some()).collect();
    for name in &segments[..segments.len().saturating_sub(segments_max)] {
        let path = directory.join(name);
        let file = file_system.open(&path, OpenMode::ReadWrite).map_err(DiskError::at("open", &path))?;
        if !file.try_lock().map_err(DiskError::at("lock", &path))? {
            break;
        }
        file_system.remove_file(&path).map_err(DiskError::at("remove", &path))?;
        // Durable one by one: a crash may lose any of several removals, and a log with a gap is refused.
        file_system.sync_directory(directory).map_err(DiskError::at("sync", directory))?;
        removed.push(path);
    }
    Ok(removed)
}
