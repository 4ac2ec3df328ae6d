//! Whether a database was cut off. LMDB maps the file, and a process that reads a page behind the file's end is killed by the
//! system without a word: so this looks first, without the map. It must not refuse: LMDB leaves pages unwritten at the end of
//! the file that nothing refers to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::DATA_FILE;
use super::generations::newest;
use crate::DiskError;
use kvorum_store::backend::BackendError;

const MAGIC: u32 = 0xBEEF_C0DE;

/// Where the fields of LMDB's meta page stand (`lmdb.h`, `MDB_meta`, behind a page header of 16 bytes).
const MAGIC_AT: u64 = 16;
const PAGE_SIZE_AT: u64 = 40;
const LAST_PAGE_AT: u64 = 136;

/// A file that is shorter than its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOff {
    pub path: PathBuf,
    pub file_bytes: u64,
    pub pages_bytes: u64,
}

/// Looks at the live environment's file. What is no LMDB file at all is for the opening to tell.
///
/// # Errors
/// The file cannot be read.
pub fn cut_off(directory: &Path) -> Result<Option<CutOff>, BackendError> {
    let Some(path) = newest(directory)?.map(|folder| folder.join(DATA_FILE)).filter(|path| path.exists()) else {
        return Ok(None);
    };
    let measured = measure(&path).map_err(|cause| BackendError(DiskError::new("read", &path, cause).to_string()))?;
    Ok(measured.filter(|(file, pages)| file < pages).map(|(file_bytes, pages_bytes)| CutOff {
        path,
        file_bytes,
        pages_bytes,
    }))
}

/// Bytes of the file, and of all pages that it should have.
fn measure(path: &Path) -> io::Result<Option<(u64, u64)>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let short = |at: u64| {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at).map(|()| u32::from_ne_bytes(bytes)).ok()
    };
    let long = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).map(|()| u64::from_ne_bytes(bytes)).ok()
    };
    if short(MAGIC_AT) != Some(MAGIC) {
        return Ok(None);
    }
    let Some(page_bytes) = short(PAGE_SIZE_AT).map(u64::from) else { return Ok(None) };
    // Two meta pages take turns.
    let last = [0, page_bytes].into_iter().filter_map(|page| long(page + LAST_PAGE_AT)).max();
    Ok(last.map(|last| (length, last.saturating_add(1).saturating_mul(page_bytes))))
}
