//! A database on its way in from another member: written under a temporary name, and given its own only when it is
//! complete and durable. Like etcd's `snap.SaveDBFrom`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{DiskError, File, FileSystem, OpenMode};

const TEMPORARY_PREFIX: &str = "tmp";

/// The file of a database that came with the snapshot at `index`.
pub fn database_path(folder: &Path, index: u64) -> PathBuf {
    folder.join(format!("{index:016x}.snap.db"))
}

/// Removes what interrupted transfers left.
pub fn remove_incomplete(file_system: &dyn FileSystem, folder: &Path) -> Result<(), DiskError> {
    let names = file_system.list(folder).map_err(DiskError::at("list", folder))?;
    for name in names.iter().filter(|name| name.starts_with(TEMPORARY_PREFIX)) {
        let path = folder.join(name);
        file_system.remove_file(&path).map_err(DiskError::at("remove", &path))?;
    }
    Ok(())
}

/// A database being received. Dropped before its end, it leaves nothing.
pub struct IncomingDatabase {
    file_system: Arc<dyn FileSystem>,
    folder: PathBuf,
    temporary: PathBuf,
    file: Box<dyn File>,
    length: u64,
    finished: bool,
}

impl IncomingDatabase {
    /// Creates the temporary file.
    pub fn create(file_system: Arc<dyn FileSystem>, folder: &Path) -> Result<IncomingDatabase, DiskError> {
        static CREATED: AtomicU64 = AtomicU64::new(0);
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!("{TEMPORARY_PREFIX}{}-{number}", std::process::id()));
        let file = file_system.open(&temporary, OpenMode::CreateEmpty).map_err(DiskError::at("create", &temporary))?;
        Ok(IncomingDatabase { file_system, folder: folder.to_owned(), temporary, file, length: 0, finished: false })
    }

    /// Appends a piece.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), DiskError> {
        self.file.write_at(self.length, piece).map_err(DiskError::at("write", &self.temporary))?;
        self.length += piece.len() as u64;
        Ok(())
    }

    /// Makes it durable under its name. One that is there already, for the same index, stays, as in etcd. Gives the
    /// path and the bytes that were written.
    pub fn finish(mut self, index: u64) -> Result<(PathBuf, u64), DiskError> {
        let path = database_path(&self.folder, index);
        self.file.sync_all().map_err(DiskError::at("sync", &self.temporary))?;
        if !self.file_system.exists(&path).map_err(DiskError::at("look for", &path))? {
            self.file_system.rename(&self.temporary, &path).map_err(DiskError::at("rename", &self.temporary))?;
            self.finished = true;
            self.file_system.sync_directory(&self.folder).map_err(DiskError::at("sync", &self.folder))?;
        }
        Ok((path, self.length))
    }
}

impl Drop for IncomingDatabase {
    fn drop(&mut self) {
        if !self.finished {
            // If it stays, the next start removes it.
            drop(self.file_system.remove_file(&self.temporary));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RealFileSystem;

    #[test]
    fn only_complete_databases_have_a_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let files: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
        let names = || RealFileSystem.list(folder.path()).expect("the folder is there");
        let mut first = IncomingDatabase::create(Arc::clone(&files), folder.path()).expect("created");
        let second = IncomingDatabase::create(Arc::clone(&files), folder.path()).expect("created");
        first.write(b"data").expect("written");
        first.write(b"base").expect("written");
        assert_eq!(names().len(), 2);
        drop(second);
        let (path, length) = first.finish(0x1f).expect("finished");
        assert_eq!((names(), length), (vec!["000000000000001f.snap.db".to_owned()], 8));
        assert_eq!(std::fs::read(path).expect("readable"), b"database");

        let mut again = IncomingDatabase::create(Arc::clone(&files), folder.path()).expect("created");
        again.write(b"other").expect("written");
        let (path, length) = again.finish(0x1f).expect("finished");
        assert_eq!((names().len(), length), (1, 5));
        assert_eq!(std::fs::read(path).expect("readable"), b"database", "the first one stays");

        std::fs::write(folder.path().join("tmp123"), b"x").expect("written");
        remove_incomplete(&*files, folder.path()).expect("removed");
        assert_eq!(names().len(), 1);
    }
}
