//! Reading a file in bbolt's format with positioned reads.
//!
//! A node's page is checked when it is loaded: its own number, its bounds, its elements in rising order and between the
//! keys that its parent promised. So a cursor gets strictly rising keys, at most [`TREE_DEPTH_MAX`] pages are held, and
//! no file can make it run forever. A [`BoltFile::walk`] also notices pages that are used twice or free.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::format::{self, Element, Header, Meta};
use super::page_set::PageSet;
use super::{BUCKET_DEPTH_MAX, BoltError, KEY_BYTES_MAX, TREE_DEPTH_MAX, VALUE_BYTES_MAX};
use crate::{DiskError, File, FileSystem, OpenMode};

/// How much of a long node is kept: what lies behind is read when it is asked for.
const NODE_BYTES_KEPT: usize = 64 << 10;

/// Free page numbers read at once.
const FREELIST_STEP_BYTES: usize = 64 << 10;

/// An open file. It may be longer than its pages: bbolt grows it ahead, and a snapshot has its checksum there.
pub struct BoltFile {
    file: Box<dyn File>,
    path: PathBuf,
    length: u64,
    meta: Meta,
}

/// A bucket, at the place where its parent says that it is.
#[derive(Clone, Debug)]
pub struct BoltBucket {
    root: Root,
    /// bbolt's counter; etcd does not use it.
    pub sequence: u64,
    depth: usize,
}

#[derive(Clone, Debug)]
enum Root {
    Page(u64),
    /// The only page, inside of the parent's value in this page.
    Inline {
        within: u64,
        page: Vec<u8>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoltEntry<'c> {
    pub key: &'c [u8],
    /// Of a bucket: the header that says where it lies.
    pub value: &'c [u8],
    pub is_bucket: bool,
}

/// One step of a walk through everything a file holds, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk<'c> {
    /// What follows lies in this bucket, until its [`Walk::End`].
    Begin {
        name: &'c [u8],
        sequence: u64,
    },
    /// The value is empty if the walk does not read values.
    Entry {
        key: &'c [u8],
        value: &'c [u8],
    },
    End,
}

impl BoltFile {
    /// Opens a file at the newer of its meta pages that are whole.
    pub fn open(file_system: &dyn FileSystem, path: &Path) -> Result<Self, BoltError> {
        let file = file_system.open(path, OpenMode::Read).map_err(DiskError::at("open", path))?;
        let length = file.length().map_err(DiskError::at("read", path))?;
        let meta = read_meta(&*file, path, length)?;
        Ok(Self { file, path: path.to_owned(), length, meta })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of all pages; behind them there is nothing of the database's.
    pub fn size_bytes(&self) -> u64 {
        self.meta.page_count * u64::from(self.meta.page_bytes)
    }

    /// The bytes of the file, with what may lie behind its pages.
    pub fn file_bytes(&self) -> u64 {
        self.length
    }

    pub fn page_bytes(&self) -> u32 {
        self.meta.page_bytes
    }

    /// The bucket of all buckets.
    pub fn root(&self) -> BoltBucket {
        BoltBucket { root: Root::Page(self.meta.root), sequence: self.meta.sequence, depth: 0 }
    }

    /// A bucket of the highest level.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<BoltBucket>, BoltError> {
        let mut cursor = self.cursor(&self.root());
        if !cursor.seek(name)? || cursor.entry()?.is_none_or(|entry| entry.key != name) {
            return Ok(None);
        }
        cursor.bucket()
    }

    /// A cursor before the first entry of a bucket.
    pub fn cursor(&self, bucket: &BoltBucket) -> BoltCursor<'_> {
        self.marking_cursor(bucket, None)
    }

    /// Walks through everything. With `values` false the values are not read. It ends at the first thing that is wrong:
    /// besides what a cursor notices, pages that are used twice, used and free, or neither.
    pub fn walk<E: From<BoltError>>(
        &self,
        values: bool,
        mut visit: impl FnMut(Walk<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let marks = RefCell::new(self.read_free_pages()?);
        let mut cursors = vec![self.marking_cursor(&self.root(), Some(&marks))];
        while let Some(cursor) = cursors.last_mut() {
            if !cursor.advance()? {
                cursors.pop();
                if !cursors.is_empty() {
                    visit(Walk::End)?;
                }
                continue;
            }
            if let Some(bucket) = cursor.bucket()? {
                visit(Walk::Begin { name: cursor.key()?, sequence: bucket.sequence })?;
                let inner = self.marking_cursor(&bucket, Some(&marks));
                cursors.push(inner);
            } else if values {
                let BoltEntry { key, value, .. } = cursor.entry()?.expect("the cursor has just advanced");
                visit(Walk::Entry { key, value })?;
            } else {
                visit(Walk::Entry { key: cursor.key()?, value: &[] })?;
            }
        }
        drop(cursors);
        let marks = marks.into_inner();
        if self.meta.freelist == format::NO_FREELIST {
            return Ok(());
        }
        match (0..self.meta.page_count).find(|page| !marks.used.contains(*page) && !marks.free.contains(*page)) {
            Some(page) => Err(self.malformed(page, "neither used nor free").into()),
            None => Ok(()),
        }
    }

    fn marking_cursor<'f>(&'f self, bucket: &BoltBucket, marks: Option<&'f RefCell<Marks>>) -> BoltCursor<'f> {
        BoltCursor { file: self, bucket: bucket.clone(), marks, stack: Vec::new(), item: Vec::new(), begun: false }
    }

    fn read_free_pages(&self) -> Result<Marks, BoltError> {
        let page_count = self.meta.page_count;
        let mut marks = Marks { used: PageSet::new(page_count), free: PageSet::new(page_count) };
        marks.used.insert(0);
        marks.used.insert(1);
        let page = self.meta.freelist;
        if page == format::NO_FREELIST {
            return Ok(marks);
        }
        let (header, offset, size) = self.read_header(page)?;
        if header.flags != format::FREELIST {
            return Err(self.malformed(page, "not a freelist"));
        }
        self.mark(&mut marks, page, header.overflow)?;
        let mut begin = format::HEADER_BYTES as u64;
        let mut count = u64::from(header.count);
        if header.count == format::FREELIST_LONG {
            count = format::number_8(&self.read(offset + begin, 8)?, 0);
            begin += 8;
        }
        if count > (size - begin) / 8 {
            return Err(self.malformed(page, "more free pages than it has place for"));
        }
        let mut done = 0;
        while done < count {
            let step = (count - done).min(FREELIST_STEP_BYTES as u64 / 8);
            let numbers = self.read(offset + begin + done * 8, step as usize * 8)?;
            for number in numbers.chunks_exact(8) {
                let free = format::number_8(number, 0);
                if free < 2 || free >= page_count || !marks.free.insert(free) {
                    return Err(self.malformed(page, format!("page {free} cannot be free, or is twice")));
                }
                if marks.used.contains(free) {
                    return Err(self.malformed(free, "used and free"));
                }
            }
            done += step;
        }
        Ok(marks)
    }

    fn mark(&self, marks: &mut Marks, page: u64, overflow: u32) -> Result<(), BoltError> {
        for page in page..=page + u64::from(overflow) {
            if marks.free.contains(page) {
                return Err(self.malformed(page, "used and free"));
            }
            if !marks.used.insert(page) {
                return Err(self.malformed(page, "used twice"));
            }
        }
        Ok(())
    }

    /// A page's header, and where the page lies with its overflow: offset and length.
    fn read_header(&self, page: u64) -> Result<(Header, u64, u64), BoltError> {
        if page < 2 || page >= self.meta.page_count {
            return Err(self.malformed(page, format!("no such page, there are {}", self.meta.page_count)));
        }
        let page_bytes = u64::from(self.meta.page_bytes);
        let offset = page * page_bytes;
        let header = Header::parse(&self.read(offset, format::HEADER_BYTES)?);
        if header.id != page {
            return Err(self.malformed(page, format!("it calls itself {}", header.id)));
        }
        let pages = u64::from(header.overflow) + 1;
        if pages > self.meta.page_count - page {
            return Err(self.malformed(page, "it reaches beyond the last page"));
        }
        Ok((header, offset, pages * page_bytes))
    }

    fn read(&self, offset: u64, count: usize) -> Result<Vec<u8>, BoltError> {
        let mut bytes = vec![0; count];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn fill(&self, offset: u64, target: &mut [u8]) -> Result<(), BoltError> {
        let read = self.file.read_at(offset, target).map_err(DiskError::at("read", &self.path))?;
        if read < target.len() {
            return Err(self.malformed(offset / u64::from(self.meta.page_bytes), "the file is cut off"));
        }
        Ok(())
    }

    fn load(&self, page: u64, marks: Option<&RefCell<Marks>>) -> Result<Node, BoltError> {
        let (header, offset, size) = self.read_header(page)?;
        if let Some(marks) = marks {
            self.mark(&mut marks.borrow_mut(), page, header.overflow)?;
        }
        let size = usize::try_from(size).map_err(|_| self.malformed(page, "too long"))?;
        let table_end = table_end(header.count);
        let kept = size.min(table_end.max(NODE_BYTES_KEPT));
        let head = self.read(offset, kept)?;
        self.node(page, header, Some(offset), size, head)
    }

    fn load_inline(&self, within: u64, page: &[u8]) -> Result<Node, BoltError> {
        if page.len() < format::HEADER_BYTES {
            return Err(self.malformed(within, "a bucket inside of it is cut off"));
        }
        let header = Header::parse(page);
        if header.id != 0 || header.overflow != 0 || header.flags != format::LEAF {
            return Err(self.malformed(within, "a bucket inside of it is no leaf"));
        }
        self.node(within, header, None, page.len(), page.to_vec())
    }

    fn node(
        &self,
        page: u64,
        header: Header,
        offset: Option<u64>,
        size: usize,
        head: Vec<u8>,
    ) -> Result<Node, BoltError> {
        let leaf = match header.flags {
            format::LEAF => true,
            format::BRANCH => false,
            flags => return Err(self.malformed(page, format!("neither leaf nor branch: {flags:#x}"))),
        };
        let count = usize::from(header.count);
        if table_end(header.count) > size {
            return Err(self.malformed(page, format!("it has no place for {count} elements")));
        }
        if !leaf && count == 0 {
            return Err(self.malformed(page, "a branch without elements"));
        }
        Ok(Node { page, leaf, offset, size, count, head, position: 0, upper: None })
    }

    /// Checks the elements of a node, whose keys must lie from `lower` on and below the node's `upper`.
    fn check(&self, node: &Node, lower: Option<&[u8]>) -> Result<(), BoltError> {
        let fail = |reason: &str, position: usize| self.malformed(node.page, format!("element {position} {reason}"));
        let mut data_end = table_end(u16::try_from(node.count).expect("it was read from two bytes"));
        let mut previous: Option<Cow<'_, [u8]>> = lower.map(Cow::Borrowed);
        for position in 0..node.count {
            let element = node.element(position);
            if element.key_begin < data_end || element.end() > node.size {
                return Err(fail("lies outside of its place", position));
            }
            data_end = element.end();
            if element.key_bytes == 0 || element.key_bytes > KEY_BYTES_MAX {
                return Err(fail("has an empty key, or one too long", position));
            }
            if element.value_bytes > VALUE_BYTES_MAX {
                return Err(fail("has a value too long", position));
            }
            if element.flags & !format::BUCKET_FLAG != 0 {
                return Err(fail("has unknown flags", position));
            }
            let key = self.key(node, &element)?;
            let in_order = match &previous {
                None => true,
                // A node's first key may be the one that its parent has for it.
                Some(lower) if position == 0 => **lower <= *key,
                Some(previous) => **previous < *key,
            };
            if !in_order || node.upper.as_ref().is_some_and(|upper| *key >= **upper) {
                return Err(fail("is out of order", position));
            }
            previous = Some(key);
        }
        Ok(())
    }

    fn key<'n>(&self, node: &'n Node, element: &Element) -> Result<Cow<'n, [u8]>, BoltError> {
        let end = element.key_begin + element.key_bytes;
        match (node.head.get(element.key_begin..end), node.offset) {
            (Some(key), _) => Ok(Cow::Borrowed(key)),
            (None, Some(offset)) => self.read(offset + element.key_begin as u64, element.key_bytes).map(Cow::Owned),
            (None, None) => Err(self.malformed(node.page, "a bucket inside of it is cut off")),
        }
    }

    fn malformed(&self, page: u64, reason: impl Into<String>) -> BoltError {
        BoltError::malformed(&self.path, page, reason)
    }
}

fn table_end(count: u16) -> usize {
    format::HEADER_BYTES + usize::from(count) * format::ELEMENT_BYTES
}

/// The second meta page lies where the page size says, so all sizes are tried for it when the first is damaged.
fn read_meta(file: &dyn File, path: &Path, length: u64) -> Result<Meta, BoltError> {
    let meta_at = |offset: u64| -> Result<Result<Meta, &'static str>, BoltError> {
        let mut bytes = [0; format::HEADER_BYTES + format::META_BYTES];
        let read = file.read_at(offset, &mut bytes).map_err(DiskError::at("read", path))?;
        if read < bytes.len() {
            return Ok(Err("the file is cut off"));
        }
        if Header::parse(&bytes).flags != format::META {
            return Ok(Err("not a meta page"));
        }
        Ok(Meta::parse(&bytes[format::HEADER_BYTES..]))
    };
    let first = meta_at(0)?;
    let mut best = first.ok();
    let mut page_bytes = format::PAGE_BYTES_MIN;
    while page_bytes <= format::PAGE_BYTES_MAX {
        if first.map_or(true, |meta| meta.page_bytes as usize == page_bytes)
            && let Ok(second) = meta_at(page_bytes as u64)?
            && second.page_bytes as usize == page_bytes
            && best.is_none_or(|best| best.transaction < second.transaction)
        {
            best = Some(second);
        }
        page_bytes *= 2;
    }
    let Some(meta) = best else {
        let reason = first.err().unwrap_or("not a bbolt file");
        return Err(BoltError::malformed(path, 0, reason));
    };
    let page = meta.transaction % 2;
    let page_bytes = meta.page_bytes as usize;
    if !page_bytes.is_power_of_two() || !(format::PAGE_BYTES_MIN..=format::PAGE_BYTES_MAX).contains(&page_bytes) {
        return Err(BoltError::malformed(path, page, format!("pages of {page_bytes} bytes")));
    }
    // Two are meta pages, and the bucket of all buckets needs one.
    if meta.page_count < 3 {
        return Err(BoltError::malformed(path, page, format!("{} pages", meta.page_count)));
    }
    if meta.page_count > length / u64::from(meta.page_bytes) {
        let reason = format!("{} pages of {page_bytes} bytes do not fit into {length} bytes", meta.page_count);
        return Err(BoltError::malformed(path, page, reason));
    }
    Ok(meta)
}

struct Marks {
    used: PageSet,
    free: PageSet,
}

/// A loaded page with its overflow.
struct Node {
    /// For errors: the page it is, or lies in.
    page: u64,
    leaf: bool,
    /// None: it lies inside of a value and `head` is all of it.
    offset: Option<u64>,
    size: usize,
    count: usize,
    /// The beginning, at least the whole table of elements.
    head: Vec<u8>,
    position: usize,
    /// All keys lie below this.
    upper: Option<Vec<u8>>,
}

impl Node {
    fn element(&self, position: usize) -> Element {
        Element::parse(&self.head, position, self.leaf)
    }
}

/// A place in a bucket.
pub struct BoltCursor<'f> {
    file: &'f BoltFile,
    bucket: BoltBucket,
    marks: Option<&'f RefCell<Marks>>,
    /// From the root to a leaf; each stands at the element that leads to the next.
    stack: Vec<Node>,
    item: Vec<u8>,
    begun: bool,
}

impl BoltCursor<'_> {
    /// Goes to the next entry, at first to the first. False: there is none, and there will be none.
    pub fn advance(&mut self) -> Result<bool, BoltError> {
        if !self.begun {
            self.begun = true;
            self.stack.clear();
            self.push_root()?;
            return self.descend(None);
        }
        while let Some(node) = self.stack.last_mut() {
            node.position += 1;
            if node.position < node.count {
                return self.descend(None);
            }
            self.stack.pop();
        }
        Ok(false)
    }

    /// Goes to the first entry with this key or a later one. False: there is none.
    pub fn seek(&mut self, key: &[u8]) -> Result<bool, BoltError> {
        self.begun = true;
        self.stack.clear();
        self.push_root()?;
        if self.descend(Some(key))? {
            return Ok(true);
        }
        // All keys of this leaf are smaller; the next leaf's are not.
        self.advance()
    }

    /// Where the cursor stands, if it does.
    pub fn entry(&mut self) -> Result<Option<BoltEntry<'_>>, BoltError> {
        let Some(node) = self.stack.last() else { return Ok(None) };
        let element = node.element(node.position);
        let is_bucket = element.flags & format::BUCKET_FLAG != 0;
        let both = match (node.head.get(element.key_begin..element.end()), node.offset) {
            (Some(both), _) => both,
            (None, Some(offset)) => {
                self.item.clear();
                self.item.resize(element.key_bytes + element.value_bytes, 0);
                self.file.fill(offset + element.key_begin as u64, &mut self.item)?;
                &self.item
            }
            (None, None) => return Err(self.file.malformed(node.page, "a bucket inside of it is cut off")),
        };
        let (key, value) = both.split_at(element.key_bytes);
        Ok(Some(BoltEntry { key, value, is_bucket }))
    }

    /// The key where the cursor stands; empty if it does not.
    pub fn key(&self) -> Result<&[u8], BoltError> {
        let Some(node) = self.stack.last() else { return Ok(&[]) };
        let element = node.element(node.position);
        match node.head.get(element.key_begin..element.key_begin + element.key_bytes) {
            Some(key) => Ok(key),
            // `item` holds it once the leaf was entered.
            None => Ok(&self.item[..element.key_bytes]),
        }
    }

    /// The bucket where the cursor stands, if there is one.
    pub fn bucket(&mut self) -> Result<Option<BoltBucket>, BoltError> {
        let (file, depth) = (self.file, self.bucket.depth + 1);
        let Some(within) = self.stack.last().map(|node| node.page) else { return Ok(None) };
        let inline = self.stack.last().is_some_and(|node| node.offset.is_none());
        let node = self.stack.last().expect("looked at above");
        if node.element(node.position).flags & format::BUCKET_FLAG == 0 {
            return Ok(None);
        }
        let Some(BoltEntry { value, .. }) = self.entry()? else { return Ok(None) };
        if inline || depth > BUCKET_DEPTH_MAX {
            return Err(file.malformed(within, "buckets within buckets, too deep"));
        }
        if value.len() < format::BUCKET_HEADER_BYTES {
            return Err(file.malformed(within, "a bucket's header is cut off"));
        }
        let (root, sequence) = (format::number_8(value, 0), format::number_8(value, 8));
        let root = match root {
            0 if value.len() - format::BUCKET_HEADER_BYTES > NODE_BYTES_KEPT => {
                return Err(file.malformed(within, "a bucket inside of it is too long"));
            }
            0 => Root::Inline { within, page: value[format::BUCKET_HEADER_BYTES..].to_vec() },
            page => Root::Page(page),
        };
        Ok(Some(BoltBucket { root, sequence, depth }))
    }

    fn push_root(&mut self) -> Result<(), BoltError> {
        let node = match &self.bucket.root {
            Root::Page(page) => self.file.load(*page, self.marks)?,
            Root::Inline { within, page } => self.file.load_inline(*within, page)?,
        };
        self.file.check(&node, None)?;
        self.stack.push(node);
        Ok(())
    }

    /// From the page on top of the stack down to a leaf: to its first entry, or to the one that is sought. False: that
    /// leaf has none.
    fn descend(&mut self, sought: Option<&[u8]>) -> Result<bool, BoltError> {
        loop {
            let file = self.file;
            let depth = self.stack.len();
            let node = self.stack.last_mut().expect("the root was pushed");
            if let Some(sought) = sought {
                let not_below = lower_bound(file, node, sought)?;
                let exact = not_below < node.count && *file.key(node, &node.element(not_below))? == *sought;
                // A branch's element covers the keys up to the next one's.
                node.position = if node.leaf || exact { not_below } else { not_below.saturating_sub(1) };
            }
            if node.leaf {
                if node.position >= node.count {
                    return Ok(false);
                }
                let element = node.element(node.position);
                if element.key_begin + element.key_bytes > node.head.len() {
                    let key = file.key(node, &element)?.into_owned();
                    self.item = key;
                }
                return Ok(true);
            }
            if depth >= TREE_DEPTH_MAX {
                return Err(file.malformed(node.page, "the tree is too deep"));
            }
            let element = node.element(node.position);
            let lower = file.key(node, &element)?.into_owned();
            let upper = match node.position + 1 < node.count {
                true => Some(file.key(node, &node.element(node.position + 1))?.into_owned()),
                false => node.upper.clone(),
            };
            let mut child = file.load(element.child, self.marks)?;
            if child.count == 0 {
                return Err(file.malformed(element.child, "a leaf without elements below a branch"));
            }
            child.upper = upper;
            file.check(&child, Some(&lower))?;
            self.stack.push(child);
        }
    }
}

/// The first element whose key is not below the one that is sought.
fn lower_bound(file: &BoltFile, node: &Node, sought: &[u8]) -> Result<usize, BoltError> {
    let (mut begin, mut end) = (0, node.count);
    while begin < end {
        let middle = begin + (end - begin) / 2;
        if *file.key(node, &node.element(middle))? < *sought {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    Ok(begin)
}
