//! Writing a fresh file in bbolt's format, from the leaves up, in one pass.
//!
//! A leaf goes out as soon as it is full and is forgotten; of each level above only the page that is being filled is held.
//! Pages are written one after the other, the two meta pages last: a file whose writer did not finish is no bbolt file.
//! The caller gives everything in the order of its keys. The file is not synced here unless asked for.

use std::path::{Path, PathBuf};

use super::format::{self, ELEMENT_BYTES, HEADER_BYTES, Header, Meta, PAGE_BYTES};
use super::{BUCKET_DEPTH_MAX, BoltError, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::{DiskError, File, FileSystem, OpenMode};

/// Bytes gathered for one write.
const WRITE_BYTES: usize = 256 << 10;

/// A branch with fewer children than this would be one that bbolt takes for broken when it removes from it.
const CHILDREN_MIN: usize = 2;

const META_PAGES: u64 = 2;

pub struct BoltWriter {
    output: Output,
    /// The buckets that are open, the one of all buckets first.
    trees: Vec<Tree>,
}

impl BoltWriter {
    /// Creates the file, or empties the one that is there.
    pub fn create(file_system: &dyn FileSystem, path: &Path) -> Result<Self, BoltError> {
        let file = file_system.open(path, OpenMode::CreateEmpty).map_err(DiskError::at("create", path))?;
        Ok(Self::over(file, path))
    }

    /// Writes into an empty file that is open; the path is for errors.
    pub fn over(file: Box<dyn File>, path: &Path) -> Self {
        let offset = META_PAGES * PAGE_BYTES as u64;
        let output = Output { file, path: path.to_owned(), offset, buffer: Vec::with_capacity(WRITE_BYTES) };
        Self { output, trees: vec![Tree::new(Vec::new(), 0)] }
    }

    /// What is put from now on goes into this bucket, until [`Self::end_bucket`]. Buckets may lie in each other.
    pub fn begin_bucket(&mut self, name: &[u8], sequence: u64) -> Result<(), BoltError> {
        if self.trees.len() > BUCKET_DEPTH_MAX {
            return Err(BoltError::unwritable(&self.output.path, "buckets within buckets, too deep"));
        }
        let parent = self.trees.last_mut().expect("the bucket of all buckets stays open");
        parent.check_order(&self.output.path, name)?;
        self.trees.push(Tree::new(name.to_owned(), sequence));
        Ok(())
    }

    /// Adds to the open bucket. Keys rise.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), BoltError> {
        if self.trees.len() == 1 {
            return Err(BoltError::unwritable(&self.output.path, "no bucket is open"));
        }
        let tree = self.trees.last_mut().expect("the bucket of all buckets stays open");
        tree.check_order(&self.output.path, key)?;
        tree.add_leaf(&mut self.output, 0, key, value)
    }

    pub fn end_bucket(&mut self) -> Result<(), BoltError> {
        if self.trees.len() == 1 {
            return Err(BoltError::unwritable(&self.output.path, "no bucket is open"));
        }
        let tree = self.trees.pop().expect("there is more than one");
        let (name, sequence) = (tree.name.clone(), tree.sequence);
        let root = tree.finish(&mut self.output)?;
        let parent = self.trees.last_mut().expect("the bucket of all buckets stays open");
        parent.add_leaf(&mut self.output, format::BUCKET_FLAG, &name, &format::bucket_header(root, sequence))
    }

    /// Writes what is still open, an empty freelist and the meta pages. Returns the file's length in bytes.
    pub fn finish(self, sync: bool) -> Result<u64, BoltError> {
        self.finish_with_file(sync).map(|(_, length)| length)
    }

    /// The same, and gives the file back.
    pub fn finish_with_file(mut self, sync: bool) -> Result<(Box<dyn File>, u64), BoltError> {
        while self.trees.len() > 1 {
            self.end_bucket()?;
        }
        let root = self.trees.pop().expect("the bucket of all buckets stays open").finish(&mut self.output)?;
        let freelist = self.output.next_page();
        let mut page = Vec::with_capacity(PAGE_BYTES);
        Header { id: freelist, flags: format::FREELIST, count: 0, overflow: 0 }.write(&mut page);
        page.resize(PAGE_BYTES, 0);
        self.output.write(&page)?;
        self.output.flush()?;
        let page_count = self.output.next_page();
        let page_bytes = u32::try_from(PAGE_BYTES).expect("a page is small");
        let mut metas = Vec::with_capacity(2 * PAGE_BYTES);
        for transaction in 0..META_PAGES {
            metas.extend(Meta { page_bytes, root, sequence: 0, freelist, page_count, transaction }.page());
        }
        let Output { file, path, offset, .. } = self.output;
        file.write_at(0, &metas).map_err(DiskError::at("write", &path))?;
        if sync {
            file.sync_all().map_err(DiskError::at("sync", &path))?;
        }
        Ok((file, offset))
    }
}

/// Pages on their way to the file, in their order.
struct Output {
    file: Box<dyn File>,
    path: PathBuf,
    /// Where the next byte goes: what was written and what is gathered.
    offset: u64,
    buffer: Vec<u8>,
}

impl Output {
    fn next_page(&self) -> u64 {
        self.offset / PAGE_BYTES as u64
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BoltError> {
        if self.buffer.len() + bytes.len() > WRITE_BYTES {
            self.flush()?;
        }
        if bytes.len() >= WRITE_BYTES {
            self.file.write_at(self.offset, bytes).map_err(DiskError::at("write", &self.path))?;
        } else {
            self.buffer.extend(bytes);
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BoltError> {
        let begin = self.offset - self.buffer.len() as u64;
        self.file.write_at(begin, &self.buffer).map_err(DiskError::at("write", &self.path))?;
        self.buffer.clear();
        Ok(())
    }

    /// Fills the last page that was begun.
    fn end_page(&mut self) -> Result<(), BoltError> {
        let rest = (self.offset % PAGE_BYTES as u64) as usize;
        if rest > 0 { self.write(&[0; PAGE_BYTES][rest..]) } else { Ok(()) }
    }

    /// Begins a page that will have `size` bytes of content, and gives its number.
    fn begin_page(&mut self, flags: u16, count: usize, size: usize) -> Result<u64, BoltError> {
        let id = self.next_page();
        let overflow = size.div_ceil(PAGE_BYTES).max(1) - 1;
        let fit = "the elements of a page are counted while it is filled";
        let mut header = Vec::with_capacity(HEADER_BYTES);
        let (count, overflow) = (u16::try_from(count).expect(fit), u32::try_from(overflow).expect(fit));
        Header { id, flags, count, overflow }.write(&mut header);
        self.write(&header)?;
        Ok(id)
    }
}

/// An element that waits for its page to be full. Of a branch the value is empty.
struct Pending {
    flags: u32,
    child: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Pending {
    fn bytes(&self) -> usize {
        ELEMENT_BYTES + self.key.len() + self.value.len()
    }
}

/// The page of one level that is being filled.
#[derive(Default)]
struct Level {
    pending: Vec<Pending>,
    /// What the page would take.
    bytes: usize,
    /// Pages of this level that are written.
    written: usize,
}

struct Tree {
    name: Vec<u8>,
    sequence: u64,
    last_key: Vec<u8>,
    leaf: Level,
    /// From the leaves' parents up.
    branches: Vec<Level>,
}

impl Tree {
    fn new(name: Vec<u8>, sequence: u64) -> Self {
        Self { name, sequence, last_key: Vec::new(), leaf: Level::default(), branches: Vec::new() }
    }

    /// Remembers the key as the last.
    fn check_order(&mut self, path: &Path, key: &[u8]) -> Result<(), BoltError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(BoltError::unwritable(path, format!("a key of {} bytes", key.len())));
        }
        // No key is empty, so the first is above the one remembered at the beginning.
        if key <= self.last_key.as_slice() {
            return Err(BoltError::unwritable(path, "keys out of order"));
        }
        self.last_key.clear();
        self.last_key.extend(key);
        Ok(())
    }

    fn add_leaf(&mut self, output: &mut Output, flags: u32, key: &[u8], value: &[u8]) -> Result<(), BoltError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(BoltError::unwritable(&output.path, format!("a value of {} bytes", value.len())));
        }
        let bytes = ELEMENT_BYTES + key.len() + value.len();
        if !self.leaf.pending.is_empty() && HEADER_BYTES + self.leaf.bytes + bytes > PAGE_BYTES {
            self.write_leaf(output)?;
        }
        if HEADER_BYTES + bytes > PAGE_BYTES {
            // Straight from the caller's memory: it may be long.
            let id = output.begin_page(format::LEAF, 1, HEADER_BYTES + bytes)?;
            output.write(&leaf_element(flags, ELEMENT_BYTES, key.len(), value.len()))?;
            output.write(key)?;
            output.write(value)?;
            output.end_page()?;
            self.leaf.written += 1;
            return self.add_child(output, 0, key.to_owned(), id);
        }
        self.leaf.pending.push(Pending { flags, child: 0, key: key.to_owned(), value: value.to_owned() });
        self.leaf.bytes += bytes;
        Ok(())
    }

    fn write_leaf(&mut self, output: &mut Output) -> Result<(), BoltError> {
        let pending = std::mem::take(&mut self.leaf.pending);
        let id = write_page(output, format::LEAF, &pending)?;
        self.leaf.bytes = 0;
        self.leaf.written += 1;
        match pending.into_iter().next() {
            Some(first) => self.add_child(output, 0, first.key, id),
            None => Ok(()),
        }
    }

    /// Tells a level of branches of a page below it. A page goes out when there is more than fits, and two children are
    /// kept back for the next one.
    fn add_child(&mut self, output: &mut Output, level: usize, key: Vec<u8>, child: u64) -> Result<(), BoltError> {
        if self.branches.len() == level {
            self.branches.push(Level::default());
        }
        let branch = &mut self.branches[level];
        let new = Pending { flags: 0, child, key, value: Vec::new() };
        branch.bytes += new.bytes();
        branch.pending.push(new);
        if HEADER_BYTES + branch.bytes <= PAGE_BYTES || branch.pending.len() < 2 * CHILDREN_MIN {
            return Ok(());
        }
        let kept = branch.pending.split_off(branch.pending.len() - CHILDREN_MIN);
        let full = std::mem::replace(&mut branch.pending, kept);
        branch.bytes = branch.pending.iter().map(Pending::bytes).sum();
        branch.written += 1;
        let id = write_page(output, format::BRANCH, &full)?;
        let first = full.into_iter().next().expect("two children at least");
        self.add_child(output, level + 1, first.key, id)
    }

    /// Writes what is left and returns the root's page.
    fn finish(mut self, output: &mut Output) -> Result<u64, BoltError> {
        if self.leaf.written == 0 {
            return write_page(output, format::LEAF, &self.leaf.pending);
        }
        if !self.leaf.pending.is_empty() {
            self.write_leaf(output)?;
        }
        let mut level = 0;
        loop {
            let branch = &mut self.branches[level];
            let pending = std::mem::take(&mut branch.pending);
            if branch.written == 0 {
                // The highest level: one page, or the only child itself.
                return match &pending[..] {
                    [only] => Ok(only.child),
                    _ => write_page(output, format::BRANCH, &pending),
                };
            }
            let id = write_page(output, format::BRANCH, &pending)?;
            let first = pending.into_iter().next().expect("two children were kept back");
            self.add_child(output, level + 1, first.key, id)?;
            level += 1;
        }
    }
}

fn write_page(output: &mut Output, flags: u16, elements: &[Pending]) -> Result<u64, BoltError> {
    let size = HEADER_BYTES + elements.iter().map(Pending::bytes).sum::<usize>();
    let id = output.begin_page(flags, elements.len(), size)?;
    let mut page = Vec::with_capacity(size);
    let mut data_begin = elements.len() * ELEMENT_BYTES;
    for (position, element) in elements.iter().enumerate() {
        // Positions count from the element itself.
        let place = data_begin - position * ELEMENT_BYTES;
        if flags == format::LEAF {
            page.extend(leaf_element(element.flags, place, element.key.len(), element.value.len()));
        } else {
            page.extend(number(place).to_le_bytes());
            page.extend(number(element.key.len()).to_le_bytes());
            page.extend(element.child.to_le_bytes());
        }
        data_begin += element.key.len() + element.value.len();
    }
    for element in elements {
        page.extend(&element.key);
        page.extend(&element.value);
    }
    output.write(&page)?;
    output.end_page()?;
    Ok(id)
}

fn leaf_element(flags: u32, place: usize, key_bytes: usize, value_bytes: usize) -> [u8; ELEMENT_BYTES] {
    let mut bytes = [0; ELEMENT_BYTES];
    for (at, value) in [flags, number(place), number(key_bytes), number(value_bytes)].into_iter().enumerate() {
        bytes[at * 4..at * 4 + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn number(value: usize) -> u32 {
    u32::try_from(value).expect("keys and values were checked")
}
