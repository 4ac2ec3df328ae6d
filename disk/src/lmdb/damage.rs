//! Whether a database is damaged. LMDB has no checksums and believes what its pages say: one bit that fell over in the wrong
//! place ends the process without a word, or lets a page be written to that holds something else. So before it is opened
//! every page is visited that is part of a tree, without the map, and nothing is changed. Of values nothing is known here.
//!
//! What a whole file keeps to (`lmdb.h`; `mdb.c`, "Each non-metapage up to mm_last_pg is reachable exactly once"): each page
//! says its own number and kind, its nodes lie within it, keys rise within it and between the keys above it, all leaves lie
//! equally deep, and no page is used twice or used and free.

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::cut_off::{
    IS_BRANCH, IS_LEAF, IS_ON_OTHER_PAGES, LAST_PAGE_AT, META_BYTES, META_PAGES, NO_PAGE, NODE_FLAGS_AT,
    NODE_HEADER_BYTES, NODE_KEY_LENGTH_AT, NODES_END_AT, PAGE_BYTES_MAX, PAGE_BYTES_MIN, PAGE_FLAGS_AT,
    PAGE_HEADER_BYTES, PAGE_NUMBER_BYTES, PAGE_SIZE_AT, TRANSACTION_AT, TREE_DEPTH_MAX, live_file, newer, u16_at,
    u32_at, u64_at,
};
use crate::DiskError;
use kvorum_store::backend::BackendError;

/// Kinds of pages: two of trees, of long values, of meta data, and two that only values for one key are on. We have none.
const PAGE_KINDS: u16 = 0x6f;
const IS_LONG_VALUE: u16 = 0x04;

/// Where a page's nodes begin, and how many pages a long value has.
const NODES_BEGIN_AT: usize = 14;
const LONG_VALUE_PAGES_AT: usize = 12;

/// A node of the tree of names holds the record of another tree.
const IS_TREE: u16 = 0x02;

/// In a meta page magic and version come first. The size of the map behind them may differ between the two.
const VERSION_END_AT: usize = 24;

/// The records of trees in a meta page (`MDB_db`): flags, depth, three counts of pages and one of
/// entries, and the root. The first is that of free pages.
const FREE_TREE_AT: usize = 40;
const NAMES_TREE_AT: usize = 88;
const TREE_BYTES: usize = 48;
const TREE_FLAGS_AT: usize = 4;
const TREE_DEPTH_AT: usize = 6;
const TREE_COUNTS_AT: [usize; 4] = [8, 16, 24, 32];
const TREE_ROOT_AT: usize = 40;

/// Flags that say how keys and values are compared, or that the map has a fixed address.
const TREE_FLAGS: u16 = 0x7f;
const HAS_NUMBERS_AS_KEYS: u16 = 0x08;

/// A file that LMDB must not read. Its text says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub path: PathBuf,
    pub page: u64,
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, page, what } = self;
        let path = path.display();
        write!(
            formatter,
            "the database {path} is damaged: page {page} {what}. Nothing was changed. Remove the member from its cluster and add it \
             anew with an empty folder; if it is the only one, restore a snapshot"
        )
    }
}

/// Looks at the live environment's file, which nobody may write to meanwhile. Whether it is one at all and has all its pages
/// is not asked here: [`super::cut_off()`] comes first.
///
/// # Errors
/// The file cannot be read.
pub fn damage(directory: &Path) -> Result<Option<Damage>, BackendError> {
    let Some(path) = live_file(directory)? else { return Ok(None) };
    let failed = |cause| BackendError(DiskError::new("read", &path, cause).to_string());
    let file = File::open(&path).map_err(failed)?;
    match examine(&file) {
        Ok(()) => Ok(None),
        Err(Stop::Unread(error)) => Err(failed(error)),
        Err(Stop::Damaged { page, what }) => Ok(Some(Damage { path, page, what })),
    }
}

enum Stop {
    Unread(io::Error),
    Damaged { page: u64, what: &'static str },
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Unread(error)
    }
}

type Found<T = ()> = Result<T, Stop>;

fn damaged<T>(page: u64, what: &'static str) -> Found<T> {
    Err(Stop::Damaged { page, what })
}

fn examine(file: &File) -> Found {
    let mut metas = [vec![0; META_BYTES], vec![0; META_BYTES]];
    file.read_exact_at(&mut metas[0], 0)?;
    let page_bytes = u32_at(&metas[0], PAGE_SIZE_AT).unwrap_or_default();
    if !page_bytes.is_power_of_two() || !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&u64::from(page_bytes)) {
        return damaged(0, "does not say how large a page is");
    }
    let page_bytes = page_bytes as usize;
    file.read_exact_at(&mut metas[1], page_bytes as u64)?;
    let [first, second] = metas;
    if first[PAGE_HEADER_BYTES..VERSION_END_AT] != second[PAGE_HEADER_BYTES..VERSION_END_AT]
        || u32_at(&second, PAGE_SIZE_AT) != u32_at(&first, PAGE_SIZE_AT)
    {
        return damaged(1, "does not say the same as page 0");
    }
    let commits = [u64_at(&first, TRANSACTION_AT), u64_at(&second, TRANSACTION_AT)].map(Option::unwrap_or_default);
    let number = u64::from(commits[0] < commits[1]);
    if commits[0].abs_diff(commits[1]) > 1 {
        return damaged(number, "is not of the commit after that of the other meta page");
    }
    let meta = newer(first, second);
    let pages = u64_at(&meta, LAST_PAGE_AT).unwrap_or_default().saturating_add(1);
    let words = usize::try_from(pages / 64 + 1).ok().filter(|words| *words <= WORDS_MAX);
    let Some(words) = words.filter(|_| pages >= META_PAGES) else {
        return damaged(number, "has no sensible number of pages");
    };
    let mut walk = Walk { file, page_bytes, pages, seen: vec![0; words], spare: Vec::new(), counts: [0; 4] };
    walk.tree(number, &meta[FREE_TREE_AT..FREE_TREE_AT + TREE_BYTES], Kind::Free)?;
    walk.tree(number, &meta[NAMES_TREE_AT..NAMES_TREE_AT + TREE_BYTES], Kind::Names)
}

/// Enough for the address space that is reserved.
const WORDS_MAX: usize = super::MAP_SIZE_BYTES_MAX / 512 / 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Free,
    Names,
    Records,
}

impl Kind {
    fn compare(self, left: &[u8], right: &[u8]) -> Ordering {
        match self {
            Kind::Free => u64_at(left, 0).cmp(&u64_at(right, 0)),
            Kind::Names | Kind::Records => left.cmp(right),
        }
    }
}

/// The keys that all of a page's must lie between: from the first on, and below the second.
#[derive(Clone, Copy, Default)]
struct Between<'k> {
    low: Option<&'k [u8]>,
    high: Option<&'k [u8]>,
}

struct Node<'p> {
    flags: u16,
    /// Of a leaf: how long the value is. Of a branch: the lower half of the page below.
    low: u32,
    key: &'p [u8],
    /// All there is behind the key on this page.
    rest: &'p [u8],
}

struct Walk<'f> {
    file: &'f File,
    page_bytes: usize,
    pages: u64,
    /// A bit for each page that is in a tree, or free.
    seen: Vec<u64>,
    /// Buffers of a page.
    spare: Vec<Vec<u8>>,
    /// Of the tree that is walked: pages of branches, of leaves and of long values, and entries.
    counts: [u64; 4],
}

impl Walk<'_> {
    /// A tree by its record, which stands on the page `holder`.
    fn tree(&mut self, holder: u64, record: &[u8], kind: Kind) -> Found {
        let fields = u16_at(record, TREE_FLAGS_AT).zip(u16_at(record, TREE_DEPTH_AT)).zip(u64_at(record, TREE_ROOT_AT));
        let Some(((flags, depth), root)) = fields else { return damaged(holder, "has no whole record of a tree") };
        let expected = if kind == Kind::Free { HAS_NUMBERS_AS_KEYS } else { 0 };
        if flags & TREE_FLAGS != expected || usize::from(depth) > TREE_DEPTH_MAX || (root == NO_PAGE) != (depth == 0) {
            return damaged(holder, "has a record of a tree that cannot be");
        }
        // The counts of a tree within are that tree's own.
        let outer = std::mem::take(&mut self.counts);
        if root != NO_PAGE {
            self.visit(root, depth, kind, Between::default())?;
        }
        let counts = std::mem::replace(&mut self.counts, outer);
        // One that is too small would fall below zero later.
        if counts.iter().zip(TREE_COUNTS_AT).any(|(count, at)| u64_at(record, at) != Some(*count)) {
            return damaged(holder, "has a record of a tree that counts wrong");
        }
        Ok(())
    }

    fn visit(&mut self, number: u64, depth: u16, kind: Kind, between: Between<'_>) -> Found {
        self.take(number, 1, number)?;
        let mut page = self.spare.pop().unwrap_or_else(|| vec![0; self.page_bytes]);
        self.read(number, &mut page)?;
        self.visit_nodes(number, &page, depth, kind, between)?;
        self.spare.push(page);
        Ok(())
    }

    fn visit_nodes(&mut self, number: u64, page: &[u8], depth: u16, kind: Kind, between: Between<'_>) -> Found {
        let is_leaf = depth == 1;
        let [flags, end, begin] =
            [PAGE_FLAGS_AT, NODES_END_AT, NODES_BEGIN_AT].map(|at| u16_at(page, at).unwrap_or_default());
        if u64_at(page, 0) != Some(number) || flags & PAGE_KINDS != if is_leaf { IS_LEAF } else { IS_BRANCH } {
            return damaged(number, "is not the page that it should be");
        }
        let (end, begin) = (usize::from(end), usize::from(begin));
        if end <= PAGE_HEADER_BYTES || end > begin || begin > self.page_bytes || !end.is_multiple_of(2) {
            return damaged(number, "has no sensible number of nodes");
        }
        let count = (end - PAGE_HEADER_BYTES) / 2;
        let [branches, leaves, _, entries] = &mut self.counts;
        *if is_leaf { leaves } else { branches } += 1;
        *entries += if is_leaf { count as u64 } else { 0 };
        let node = |index: usize| {
            let offset = usize::from(u16_at(page, PAGE_HEADER_BYTES + index * 2).unwrap_or_default());
            node_at(page, offset, begin).map_or_else(|| damaged(number, "has a node that is not within it"), Ok)
        };
        let mut newest: Option<&[u8]> = between.low;
        for index in 0..count {
            let Node { flags, low, key, rest } = node(index)?;
            // The first key of a branch is never read.
            if is_leaf || index > 0 {
                let is_first = index == 0 || (!is_leaf && index == 1);
                let rises = newest.is_none_or(|newest| match kind.compare(newest, key) {
                    Ordering::Less => true,
                    Ordering::Equal => is_first,
                    Ordering::Greater => false,
                });
                let is_below = between.high.is_none_or(|high| kind.compare(key, high) == Ordering::Less);
                if (kind == Kind::Free && key.len() != PAGE_NUMBER_BYTES) || !rises || !is_below {
                    return damaged(number, "has a key that is not in its place");
                }
                newest = Some(key);
            }
            if is_leaf {
                self.value(number, &Node { flags, low, key, rest }, kind)?;
                continue;
            }
            let high = if index + 1 < count { Some(node(index + 1)?.key) } else { between.high };
            let low_key = if index == 0 { between.low } else { Some(key) };
            let below = u64::from(low) | u64::from(flags) << 32;
            self.visit(below, depth - 1, kind, Between { low: low_key, high })?;
        }
        Ok(())
    }

    /// What a leaf's node holds.
    fn value(&mut self, number: u64, node: &Node<'_>, kind: Kind) -> Found {
        let length = node.low as usize;
        let is_tree = kind == Kind::Names && node.flags & IS_TREE != 0;
        if node.flags & !(IS_ON_OTHER_PAGES | if is_tree { IS_TREE } else { 0 }) != 0 {
            return damaged(number, "has a node of a kind that cannot be");
        }
        let long;
        let value = if node.flags & IS_ON_OTHER_PAGES != 0 {
            let Some(first) = u64_at(node.rest, 0) else { return damaged(number, "has a node that is not within it") };
            let count = self.long_value(first, length)?;
            self.take(first, count, number)?;
            self.counts[2] += count;
            let mut list = vec![0; if kind == Kind::Free { PAGE_HEADER_BYTES + length } else { 0 }];
            self.read(first, &mut list)?;
            long = list;
            long.get(PAGE_HEADER_BYTES..).unwrap_or_default()
        } else {
            let Some(value) = node.rest.get(..length) else {
                return damaged(number, "has a node that is not within it");
            };
            value
        };
        match kind {
            Kind::Free => self.free(number, value),
            Kind::Names if is_tree => self.tree(number, value, Kind::Records),
            Kind::Names | Kind::Records => Ok(()),
        }
    }

    /// How many pages a long value has. They may be more than it needs: one that was written twice within a commit keeps those
    /// that the longer one had.
    fn long_value(&self, first: u64, length: usize) -> Found<u64> {
        let mut head = [0; PAGE_HEADER_BYTES];
        self.read(first, &mut head)?;
        let needed = (PAGE_HEADER_BYTES + length).div_ceil(self.page_bytes) as u64;
        let is_it = u64_at(&head, 0) == Some(first)
            && u16_at(&head, PAGE_FLAGS_AT).is_some_and(|flags| flags & PAGE_KINDS == IS_LONG_VALUE);
        match u32_at(&head, LONG_VALUE_PAGES_AT).map(u64::from) {
            Some(count) if is_it && count >= needed => Ok(count),
            _ => damaged(first, "is not the page that it should be"),
        }
    }

    /// Free pages that one commit left: how many, and their numbers, the highest first.
    fn free(&mut self, number: u64, list: &[u8]) -> Found {
        let (count, numbers) = (u64_at(list, 0), list.get(PAGE_NUMBER_BYTES..).unwrap_or_default());
        let count = count
            .and_then(|count| usize::try_from(count).ok())
            .filter(|count| *count <= numbers.len() / PAGE_NUMBER_BYTES);
        let Some(count) = count else {
            return damaged(number, "has a list of free pages that is longer than its node");
        };
        let mut newest = u64::MAX;
        for free in numbers.chunks_exact(PAGE_NUMBER_BYTES).take(count).filter_map(|number| u64_at(number, 0)) {
            if free >= newest {
                return damaged(number, "has a list of free pages that is not in order");
            }
            newest = free;
            self.note(free, number)?;
        }
        Ok(())
    }

    /// Pages of a tree, which must be in the file.
    fn take(&mut self, first: u64, count: u64, holder: u64) -> Found {
        for page in first..first.saturating_add(count) {
            self.note(page, holder)?;
        }
        Ok(())
    }

    /// A page that `holder` leads to.
    fn note(&mut self, page: u64, holder: u64) -> Found {
        if !(META_PAGES..self.pages).contains(&page) {
            return damaged(holder, "leads to a page that there is not");
        }
        let (word, bit) = (&mut self.seen[(page / 64) as usize], 1 << (page % 64));
        if *word & bit != 0 {
            return damaged(page, "is used twice, or used and free");
        }
        *word |= bit;
        Ok(())
    }

    fn read(&self, number: u64, bytes: &mut [u8]) -> Found {
        if number >= self.pages {
            return damaged(number, "is beyond the last");
        }
        match self.file.read_exact_at(bytes, number.saturating_mul(self.page_bytes as u64)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => damaged(number, "is not in the file"),
            read => Ok(read?),
        }
    }
}

/// `None`: it does not lie within the page behind `begin`.
fn node_at(page: &[u8], offset: usize, begin: usize) -> Option<Node<'_>> {
    let node = page.get(offset..).filter(|_| offset >= begin)?;
    let key_length = usize::from(u16_at(node, NODE_KEY_LENGTH_AT)?);
    let key = node.get(NODE_HEADER_BYTES..NODE_HEADER_BYTES + key_length)?;
    let rest = &node[NODE_HEADER_BYTES + key_length..];
    Some(Node { flags: u16_at(node, NODE_FLAGS_AT)?, low: u32_at(node, 0)?, key, rest })
}

#[cfg(test)]
mod tests;
