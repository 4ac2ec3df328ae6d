//! The error of one call to the disk: which call, on which file, and what the system said.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A call to the disk failed. It names the operation ("sync", "write"), the file and the system's error. Clones share
/// the cause, since a failed log repeats its first error to every later caller.
#[derive(Clone, Debug)]
pub struct DiskError {
    pub operation: &'static str,
    pub path: PathBuf,
    pub cause: Arc<io::Error>,
}

impl DiskError {
    pub fn new(operation: &'static str, path: &Path, cause: io::Error) -> Self {
        Self { operation, path: path.to_owned(), cause: Arc::new(cause) }
    }

    /// Turns the error of one system call into one that names its file: `.map_err(DiskError::at("sync", path))`.
    pub fn at<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |cause| Self::new(operation, path, cause)
    }

    /// Whether the disk or the user's quota is full.
    pub fn is_full(&self) -> bool {
        matches!(self.cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cannot {} {}: {}", self.operation, self.path.display(), self.cause)
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}
