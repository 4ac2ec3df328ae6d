//! Files as the log and the snapshots need them: a small trait with the real implementation and, in [`simulated`], one
//! in memory that forgets what was not synced. Paths are whole paths. Errors are the system's own; the callers add the
//! file's name. Nothing here retries, and nothing is written behind the caller's back.

mod real;
pub mod simulated;

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::DiskError;

pub use real::RealFileSystem;
pub(crate) use real::{available_bytes, write_out};
pub use simulated::SimulatedFileSystem;

/// How a file is opened. Files are created with mode 0600, folders with 0700, as etcd does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist.
    Read,
    /// The file must exist.
    ReadWrite,
    /// An existing file is emptied, an absent one created.
    CreateEmpty,
}

/// A tree of files.
pub trait FileSystem: Send + Sync {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>>;

    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// The names in a folder, sorted.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Creates the folder and those above it; existing ones are left alone.
    fn create_directories(&self, path: &Path) -> io::Result<()>;

    /// An existing file of the new name is replaced in one step. Durable after [`Self::sync_directory`] of the parent.
    fn rename(&self, source: &Path, target: &Path) -> io::Result<()>;

    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder with all it holds.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable: what was created, renamed or removed there.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// An open file. Offsets are from the beginning; there is no cursor.
pub trait File: Send + Sync {
    /// Writes all of `bytes`. After an error any part of them may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills as much of `buffer` as the file has, and says how much that was; less than asked only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    fn length(&self) -> io::Result<u64>;

    /// Cuts the file, or extends it with zeros that take no space.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Makes contents and length durable (fdatasync). Says how long it took: the caller's batching depends on it, and a
    /// simulated disk has no clock.
    fn sync_data(&self) -> io::Result<Duration>;

    /// Makes contents and all metadata durable (fsync).
    fn sync_all(&self) -> io::Result<Duration>;

    /// Takes the write lock that etcd takes on its log segments, without waiting. False: somebody else holds it. The
    /// lock goes with the file when it is dropped. Another open of the same file in this process is somebody else.
    fn try_lock(&self) -> io::Result<bool>;
}

/// Reads a whole file.
pub fn read_whole(file: &dyn File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.length()?).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut contents = vec![0; length];
    let read = file.read_at(0, &mut contents)?;
    contents.truncate(read);
    Ok(contents)
}

/// Creates a folder and those above it, each durable in its parent. Existing ones are left alone.
pub fn create_durable_directories(file_system: &dyn FileSystem, path: &Path) -> Result<(), DiskError> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        if ancestor.as_os_str().is_empty()
            || file_system.exists(ancestor).map_err(DiskError::at("look for", ancestor))?
        {
            break;
        }
        missing.push(ancestor);
    }
    for directory in missing.into_iter().rev() {
        file_system.create_directories(directory).map_err(DiskError::at("create", directory))?;
        if let Some(parent) = directory.parent() {
            file_system.sync_directory(parent).map_err(DiskError::at("sync", parent))?;
        }
    }
    Ok(())
}
