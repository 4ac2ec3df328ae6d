//! The operating system's files.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{File, FileSystem, OpenMode};

const PRIVATE_FILE_MODE: u32 = 0o600;
const PRIVATE_DIRECTORY_MODE: u32 = 0o700;

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFileSystem;

impl FileSystem for RealFileSystem {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).mode(PRIVATE_FILE_MODE);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::CreateEmpty => options.write(true).create(true).truncate(true),
        };
        Ok(Box::new(RealFile(options.open(path)?)))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_directories(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY_MODE).create(path)
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        fs::rename(source, target)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        // An empty parent means the working folder: `default.etcd` has no other.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::File::open(path)?.sync_all()
    }
}

/// How much a process like this one can still write where `path` lies.
#[allow(unsafe_code)]
pub(crate) fn available_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `statvfs` is plain data, for which all zeros is a value; the path ends with a zero and outlives the call.
    let (result, statistics) = unsafe {
        let mut statistics: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut statistics), statistics)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(statistics.f_bavail * statistics.f_frsize)
}

/// Writes out what `file` holds in memory, and waits for it, without making it durable: nobody else's sync waits for the
/// file system's journal because of it.
#[allow(unsafe_code)]
pub(crate) fn write_out(file: &fs::File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let whole = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        // SAFETY: the call takes an open descriptor and plain numbers; length 0 means to the end of the file.
        let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, whole) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
    #[cfg(not(target_os = "linux"))]
    file.sync_data()
}

struct RealFile(fs::File);

impl File for RealFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<Duration> {
        let begin = Instant::now();
        self.0.sync_data()?;
        Ok(begin.elapsed())
    }

    fn sync_all(&self) -> io::Result<Duration> {
        let begin = Instant::now();
        self.0.sync_all()?;
        Ok(begin.elapsed())
    }

    /// etcd takes an open-file-description lock over the whole file, which `flock` would not see; so do we, that neither
    /// server opens the other's live log.
    #[allow(unsafe_code)]
    fn try_lock(&self) -> io::Result<bool> {
        // SAFETY: `flock` is plain data, for which all zeros is a value; the call reads it and keeps no pointer.
        let result = unsafe {
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = libc::F_WRLCK as libc::c_short;
            lock.l_whence = libc::SEEK_SET as libc::c_short;
            libc::fcntl(self.0.as_raw_fd(), libc::F_OFD_SETLK, &lock)
        };
        if result == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            _ => Err(error),
        }
    }
}
