//! Files that are read again when they changed. A file counts as unchanged while device, inode, size and both times are
//! what they were; and as changed if it was read so soon after its last change that another one might have the same times.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Clocks of file systems tick, some of them every two seconds.
const TIME_GRANULARITY: Duration = Duration::from_secs(2);

/// A larger file is refused: it is no certificate, and no list of revoked ones that fits a member.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why a file is of no use. The text names it, and nothing of what is in it.
#[derive(Clone, Debug)]
pub struct FileError {
    path: PathBuf,
    reason: String,
}

impl FileError {
    pub fn new(path: &Path, reason: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), reason: reason.to_string() }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for FileError {}

/// What something was made of: each file with what told it apart when it was read.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    path: PathBuf,
    identity: (u64, u64, u64, (i64, i64), (i64, i64)),
    /// Read long enough after its change to go by its times.
    settled: bool,
}

impl Mark {
    fn of(path: &Path, metadata: &Metadata) -> Self {
        let (modified, changed) =
            ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
        let identity = (metadata.dev(), metadata.ino(), metadata.size(), modified, changed);
        let newest = u64::try_from(modified.0.max(changed.0)).unwrap_or_default();
        let newest = SystemTime::UNIX_EPOCH + Duration::from_secs(newest) + TIME_GRANULARITY;
        Self { path: path.to_owned(), identity, settled: newest < SystemTime::now() }
    }

    fn is_current(&self) -> bool {
        self.settled && std::fs::metadata(&self.path).is_ok_and(|metadata| Mark::of(&self.path, &metadata) == *self)
    }
}

/// Reads files and notes which.
#[derive(Default)]
pub struct Reading {
    marks: Vec<Mark>,
}

impl Reading {
    pub fn read(&mut self, path: &Path) -> Result<Vec<u8>, FileError> {
        let read = || -> io::Result<(Metadata, Vec<u8>)> {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            let mut content = Vec::new();
            file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
            Ok((metadata, content))
        };
        let (metadata, content) = read().map_err(|error| FileError::new(path, error))?;
        if content.len() as u64 > FILE_BYTES_MAX {
            return Err(FileError::new(path, format!("longer than {FILE_BYTES_MAX} bytes")));
        }
        self.marks.push(Mark::of(path, &metadata));
        Ok(content)
    }

    /// The certificates of a PEM file; at least one.
    pub fn certificates(&mut self, path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
        let content = self.read(path)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
        match certificates {
            Ok(certificates) if certificates.is_empty() => Err(FileError::new(path, "holds no certificate in PEM")),
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(FileError::new(path, format!("reading certificates: {error}"))),
        }
    }

    /// The first private key of a PEM file.
    pub fn key(&mut self, path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
        let content = self.read(path)?;
        // The reason given by the parser may quote the line that it stopped at.
        PrivateKeyDer::from_pem_slice(&content)
            .map_err(|_| FileError::new(path, "holds no private key in PEM that is not encrypted"))
    }
}

/// Something that is made of files, and made again when one of them changed.
pub struct Cached<T> {
    current: Mutex<Option<(Vec<Mark>, Arc<T>)>>,
}

impl<T> Cached<T> {
    pub const fn new() -> Self {
        Self { current: Mutex::new(None) }
    }

    /// What was made last if its files are unchanged; otherwise what `make` gives.
    pub fn get<E>(&self, make: impl FnOnce(&mut Reading) -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut current = self.current.lock();
        if let Some((marks, made)) = &*current
            && marks.iter().all(Mark::is_current)
        {
            return Ok(Arc::clone(made));
        }
        let mut reading = Reading::default();
        let made = Arc::new(make(&mut reading)?);
        *current = Some((reading.marks, Arc::clone(&made)));
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn text(cached: &Cached<String>, path: &Path) -> Result<Arc<String>, FileError> {
        cached.get(|reading| reading.read(path).map(|content| String::from_utf8_lossy(&content).into_owned()))
    }

    #[test]
    fn changes_are_seen_at_once_also_within_one_tick() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let cached = Cached::new();
        assert!(text(&cached, &path).expect_err("missing").to_string().contains("file: No such file"));
        for content in ["one", "two", "six"] {
            fs::write(&path, content).expect("write");
            assert_eq!(*text(&cached, &path).expect("there"), content);
        }
        fs::remove_file(&path).expect("remove");
        assert!(text(&cached, &path).is_err());
    }
}
