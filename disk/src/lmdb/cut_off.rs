//! Whether a database was cut off. LMDB maps the file, and a process that reads a page behind the file's end is killed by the
//! system without a word: so this looks first, without the map, and changes nothing.
//!
//! A file may be shorter than its pages and whole: LMDB does not write pages at the end that a commit took and gave back
//! (`lmdb.h`, `mm_last_pg`). Those are in its list of free pages; a page that is neither there nor in the file was lost.

use std::collections::BTreeSet;
use std::fmt;
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
const MAGIC_AT: usize = 16;
pub(super) const PAGE_SIZE_AT: usize = 40;
const FREE_ROOT_AT: usize = 80;
pub(super) const LAST_PAGE_AT: usize = 136;
pub(super) const TRANSACTION_AT: usize = 144;
pub(super) const META_BYTES: usize = 152;

/// Two of them take turns.
pub(super) const META_PAGES: u64 = 2;

/// Of every other page: its kind, its offsets of nodes and where they end, or how many pages a long value has.
pub(super) const PAGE_HEADER_BYTES: usize = 16;
pub(super) const PAGE_FLAGS_AT: usize = 10;
pub(super) const NODES_END_AT: usize = 12;
pub(super) const IS_BRANCH: u16 = 0x01;
pub(super) const IS_LEAF: u16 = 0x02;

/// Of a node: four bytes of length or page number, then flags (or the rest of the page number), then the key's length.
pub(super) const NODE_FLAGS_AT: usize = 4;
pub(super) const NODE_KEY_LENGTH_AT: usize = 6;
pub(super) const NODE_HEADER_BYTES: usize = 8;
pub(super) const IS_ON_OTHER_PAGES: u16 = 0x01;

pub(super) const PAGE_NUMBER_BYTES: usize = 8;

/// The root of an empty tree.
pub(super) const NO_PAGE: u64 = u64::MAX;

/// LMDB's own bound.
pub(super) const TREE_DEPTH_MAX: usize = 32;

pub(super) const PAGE_BYTES_MIN: u64 = 512;
pub(super) const PAGE_BYTES_MAX: u64 = 64 * 1024;

/// A file that lacks pages. Its text says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOff {
    pub path: PathBuf,
    pub file_bytes: u64,
    /// What it should have, or at least.
    pub pages_bytes: u64,
}

impl fmt::Display for CutOff {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, file_bytes, pages_bytes } = self;
        let path = path.display();
        write!(
            formatter,
            "the database {path} was cut off: it has {file_bytes} bytes and should have at least {pages_bytes}. Remove the member \
             from its cluster and add it anew with an empty folder; if it is the only one, restore a snapshot"
        )
    }
}

/// The live environment's file, if there is one.
pub(super) fn live_file(directory: &Path) -> Result<Option<PathBuf>, BackendError> {
    Ok(newest(directory)?.map(|folder| folder.join(DATA_FILE)).filter(|path| path.exists()))
}

/// Looks at the live environment's file. What is no LMDB file at all is for the opening to tell.
///
/// # Errors
/// The file cannot be read.
pub fn cut_off(directory: &Path) -> Result<Option<CutOff>, BackendError> {
    let Some(path) = live_file(directory)? else { return Ok(None) };
    let failed = |cause| BackendError(DiskError::new("read", &path, cause).to_string());
    let file = File::open(&path).map_err(failed)?;
    let file_bytes = file.metadata().map_err(failed)?.len();
    let missing = missing(&file, file_bytes).map_err(failed)?;
    Ok(missing.map(|pages_bytes| CutOff { path, file_bytes, pages_bytes }))
}

/// How long the file should be, if it lacks something.
fn missing(file: &File, file_bytes: u64) -> io::Result<Option<u64>> {
    let mut first = vec![0; META_BYTES.min(usize::try_from(file_bytes).unwrap_or(META_BYTES))];
    file.read_exact_at(&mut first, 0)?;
    if u32_at(&first, MAGIC_AT).is_some_and(|magic| magic != MAGIC) {
        return Ok(None);
    }
    if first.len() < META_BYTES {
        // Of an empty file LMDB would make a new environment.
        return Ok(Some(META_PAGES * PAGE_BYTES_MIN));
    }
    let page_bytes = u64::from(u32_at(&first, PAGE_SIZE_AT).unwrap_or_default());
    if !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes) {
        return Ok(None);
    }
    let second = read(file, page_bytes, META_BYTES)?.filter(|_| file_bytes >= META_PAGES * page_bytes);
    let Some(second) = second else { return Ok(Some(META_PAGES * page_bytes)) };
    let newest = newer(first, second);
    let last_page = u64_at(&newest, LAST_PAGE_AT).unwrap_or_default();
    let pages = last_page.saturating_add(1);
    let pages_there = file_bytes / page_bytes;
    if pages <= pages_there {
        return Ok(None);
    }
    let free_root = u64_at(&newest, FREE_ROOT_AT).unwrap_or(NO_PAGE);
    let mut walk = FreePages { file, page_bytes, wanted: pages_there..pages, found: BTreeSet::new() };
    let is_whole = walk.visit(free_root, TREE_DEPTH_MAX)?.is_some() && walk.found.len() as u64 == pages - pages_there;
    Ok((!is_whole).then(|| pages.saturating_mul(page_bytes)))
}

/// The meta page that LMDB goes by.
pub(super) fn newer(first: Vec<u8>, second: Vec<u8>) -> Vec<u8> {
    let transaction = |meta: &[u8]| u64_at(meta, TRANSACTION_AT);
    if transaction(&first) < transaction(&second) { second } else { first }
}

/// The tree of free pages: its values are lists of page numbers, each behind its length.
struct FreePages<'f> {
    file: &'f File,
    page_bytes: u64,
    wanted: std::ops::Range<u64>,
    /// Those of `wanted` that are free. There are no more than the file has room to name.
    found: BTreeSet<u64>,
}

impl FreePages<'_> {
    /// `None`: something of the tree is not in the file, or is not as it should be.
    fn visit(&mut self, page_number: u64, depth_max: usize) -> io::Result<Option<()>> {
        if page_number == NO_PAGE {
            return Ok(Some(()));
        }
        let length = usize::try_from(self.page_bytes).expect("a page is small");
        let Some(page) = self.pages(page_number, length)? else { return Ok(None) };
        let (Some(flags), Some(nodes_end)) = (u16_at(&page, PAGE_FLAGS_AT), u16_at(&page, NODES_END_AT)) else {
            return Ok(None);
        };
        if depth_max == 0 || flags & (IS_BRANCH | IS_LEAF) == 0 {
            return Ok(None);
        }
        for offset_at in (PAGE_HEADER_BYTES..usize::from(nodes_end)).step_by(2) {
            let node = u16_at(&page, offset_at).and_then(|offset| page.get(usize::from(offset)..));
            let Some(node) = node else { return Ok(None) };
            let visited = if flags & IS_BRANCH != 0 {
                let number = u32_at(node, 0).zip(u16_at(node, NODE_FLAGS_AT));
                let Some((low, high)) = number else { return Ok(None) };
                self.visit(u64::from(low) | u64::from(high) << 32, depth_max - 1)?
            } else {
                self.note(node)?
            };
            if visited.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    /// Takes in the list of a leaf's node.
    fn note(&mut self, node: &[u8]) -> io::Result<Option<()>> {
        let head = u32_at(node, 0).zip(u16_at(node, NODE_FLAGS_AT)).zip(u16_at(node, NODE_KEY_LENGTH_AT));
        let Some(((length, flags), key_length)) = head else { return Ok(None) };
        let length = length as usize;
        let Some(data) = node.get(NODE_HEADER_BYTES + usize::from(key_length)..) else { return Ok(None) };
        let long;
        let list = if flags & IS_ON_OTHER_PAGES != 0 {
            let Some(number) = u64_at(data, 0) else { return Ok(None) };
            let Some(pages) = self.pages(number, PAGE_HEADER_BYTES + length)? else { return Ok(None) };
            long = pages;
            &long[PAGE_HEADER_BYTES..]
        } else {
            let Some(list) = data.get(..length) else { return Ok(None) };
            list
        };
        let Some(count) = u64_at(list, 0).and_then(|count| usize::try_from(count).ok()) else { return Ok(None) };
        let numbers = list[PAGE_NUMBER_BYTES..].chunks_exact(PAGE_NUMBER_BYTES).take(count);
        let numbers = numbers.filter_map(|number| u64_at(number, 0));
        self.found.extend(numbers.filter(|number| self.wanted.contains(number)));
        Ok(Some(()))
    }

    fn pages(&self, number: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(offset) = number.checked_mul(self.page_bytes) else { return Ok(None) };
        read(self.file, offset, length)
    }
}

/// `None` if the file ends before. A length that is not there is not allocated.
fn read(file: &File, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
    if offset.saturating_add(length as u64) > file.metadata()?.len() {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).map(|()| Some(bytes))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

#[cfg(test)]
pub(super) mod tests;
