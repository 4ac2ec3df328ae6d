//! Files in bbolt's format. The first byte says what the rest is:
//!
//! - 0: the bytes of a file, as they are;
//! - 1: the same, with what guards them made right: the marks and checksums of the meta pages, the numbers of the pages;
//! - 2: buckets and entries, which are written, read back, and then damaged in one place.
//!
//! Whatever a file says: reading it ends, and reads no page more than once or twice. Keys rise strictly. What a walk found
//! is found by cursors too, entry by entry and key by key; written anew it is read back as it was, and its status is the
//! same. What was written by us is read, and no damage anywhere in it passes the digest behind it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use kvorum_disk::bolt::snapshot::{append_digest, status, verify_digest};
use kvorum_disk::bolt::{BUCKET_DEPTH_MAX, BoltBucket, BoltError, BoltFile, BoltWriter, KEY_BYTES_MAX, Walk};

use crate::input::Input;
use crate::memory_file::MemoryFile;

const PATH: &str = "/db";
const COPY: &str = "/copy";

/// bbolt's smallest page that is read.
const PAGE_BYTES_MIN: usize = 1024;
const HEADER_BYTES: usize = 16;
const META_BYTES: usize = 64;
const STEPS_MAX: usize = 60;

/// Of written values: some need pages with overflow.
const VALUE_BYTES_MAX: usize = 9000;

/// A file as a walk shows it.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    Begin { name: Vec<u8>, sequence: u64 },
    Entry { key: Vec<u8>, value: Vec<u8> },
    End,
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 3 {
        0 => check_any(&MemoryFile::new(input.rest().to_vec())),
        1 => {
            let shift = input.byte() % 3;
            let mut contents = input.rest().to_vec();
            make_right(&mut contents, PAGE_BYTES_MIN << shift);
            check_any(&MemoryFile::new(contents));
        }
        _ => written(&mut input),
    }
}

fn walk(file: &BoltFile, values: bool) -> Result<Vec<Found>, BoltError> {
    let mut found = Vec::new();
    file.walk(values, |step| {
        found.push(match step {
            Walk::Begin { name, sequence } => Found::Begin { name: name.to_vec(), sequence },
            Walk::Entry { key, value } => Found::Entry { key: key.to_vec(), value: value.to_vec() },
            Walk::End => Found::End,
        });
        Ok::<(), BoltError>(())
    })?;
    Ok(found)
}

/// What holds of every file.
fn check_any(disk: &MemoryFile) {
    let path = Path::new(PATH);
    let length = disk.length(path);
    drop(verify_digest(disk, path));
    let Ok(file) = BoltFile::open(disk, path) else { return };
    assert!(file.size_bytes() <= file.file_bytes(), "pages beyond the file are not believed");
    let pages = file.size_bytes() / u64::from(file.page_bytes());
    let (reads, bytes_read) = disk.counted(|| drop(walk(&file, true)));
    assert!(reads <= 16 + 4 * pages, "{reads} reads of {pages} pages");
    assert!(bytes_read <= 4 * length as u64 + 4096, "{bytes_read} bytes read of {length}");
    check_cursors(disk, &file, pages);
    drop(status(&file));
    let Ok(found) = walk(&file, true) else { return };
    check_found(&file, &found, length);
    if let Some(copy) = write_anew(&found) {
        let again = BoltFile::open(&copy, Path::new(COPY)).expect("what was written can be opened");
        assert!(walk(&again, true).expect("what was written can be read") == found);
        let (before, after) = (status(&file), status(&again));
        assert_eq!(before.is_ok(), after.is_ok());
        if let (Ok(before), Ok(mut after)) = (before, after) {
            after.total_bytes = before.total_bytes;
            assert_eq!(before, after);
        }
    }
}

fn check_found(file: &BoltFile, found: &[Found], length: usize) {
    let total: usize = found
        .iter()
        .map(|step| match step {
            Found::Begin { name, .. } => name.len(),
            Found::Entry { key, value } => key.len() + value.len(),
            Found::End => 0,
        })
        .sum();
    assert!(total <= length, "{total} bytes of keys and values in {length}");
    let without_values = walk(file, false).expect("it was walked with them");
    assert_eq!(without_values.len(), found.len());
    for (step, without) in found.iter().zip(&without_values) {
        match (step, without) {
            (Found::Entry { key, .. }, Found::Entry { key: other, value }) => {
                assert!(key == other && value.is_empty());
            }
            (step, without) => assert_eq!(step, without),
        }
    }
    let mut direct: BTreeMap<&[u8], Vec<(&[u8], &[u8])>> = BTreeMap::new();
    let mut open: Vec<&[u8]> = Vec::new();
    for step in found {
        match step {
            Found::Begin { name, .. } => open.push(name),
            Found::End => drop(open.pop()),
            Found::Entry { key, value } => {
                if let [only] = open[..] {
                    direct.entry(only).or_default().push((key, value));
                }
            }
        }
    }
    for (name, entries) in direct {
        let bucket = file.bucket(name).expect("it was walked").expect("it was walked");
        let mut cursor = file.cursor(&bucket);
        for (position, (key, value)) in entries.iter().enumerate().step_by(1 + entries.len() / 16) {
            assert!(cursor.seek(key).expect("it was walked"));
            let entry = cursor.entry().expect("it was walked").expect("it stands there");
            assert!(entry.key == *key && entry.value == *value && !entry.is_bucket);
            // The next key from here on is that of the next entry, or of a bucket among the entries.
            let above = [*key, &[0]].concat();
            let next = entries.get(position + 1).map(|(key, _)| *key);
            if cursor.seek(&above).expect("it was walked") {
                let entry = cursor.entry().expect("it was walked").expect("it stands there");
                assert!(entry.key >= &above[..] && (entry.is_bucket || Some(entry.key) == next));
            } else {
                assert_eq!(next, None);
            }
        }
    }
}

/// A cursor through each bucket, whether or not a walk would come to its end.
fn check_cursors(disk: &MemoryFile, file: &BoltFile, pages: u64) {
    let mut buckets: Vec<(BoltBucket, usize)> = vec![(file.root(), 0)];
    let mut seen = 0;
    while let Some((bucket, depth)) = buckets.pop() {
        seen += 1;
        if seen > 20 {
            return;
        }
        let inner = RefCell::new(Vec::new());
        let (reads, _) = disk.counted(|| {
            let mut cursor = file.cursor(&bucket);
            let mut previous: Vec<u8> = Vec::new();
            while let Ok(true) = cursor.advance() {
                let Ok(Some(entry)) = cursor.entry() else { break };
                assert!(entry.key > &previous[..] && entry.key.len() <= KEY_BYTES_MAX, "keys rise strictly");
                previous = entry.key.to_vec();
                if let Ok(Some(bucket)) = cursor.bucket() {
                    inner.borrow_mut().push((bucket, depth + 1));
                }
            }
        });
        assert!(reads <= 16 + 4 * pages, "{reads} reads of {pages} pages");
        assert!(depth <= BUCKET_DEPTH_MAX);
        buckets.append(&mut inner.borrow_mut());
    }
}

/// `None`: the writer cannot have it, since an entry lies outside of all buckets.
fn write_anew(found: &[Found]) -> Option<MemoryFile> {
    let copy = MemoryFile::default();
    let mut writer = BoltWriter::create(&copy, Path::new(COPY)).expect("it can be created");
    let mut depth = 0;
    for step in found {
        match step {
            Found::Begin { name, sequence } => {
                depth += 1;
                writer.begin_bucket(name, *sequence).expect("what was read can be written");
            }
            Found::Entry { .. } if depth == 0 => return None,
            Found::Entry { key, value } => writer.put(key, value).expect("what was read can be written"),
            Found::End => {
                depth -= 1;
                writer.end_bucket().expect("it was begun");
            }
        }
    }
    // The root's own counter is not written.
    let length = writer.finish(true).expect("this disk writes");
    assert_eq!(length as usize, copy.length(Path::new(COPY)));
    Some(copy)
}

/// Gives both meta pages their marks and checksums and each page its number.
fn make_right(contents: &mut [u8], page_bytes: usize) {
    for (number, page) in contents.chunks_exact_mut(page_bytes).enumerate() {
        page[..8].copy_from_slice(&(number as u64).to_le_bytes());
    }
    let pages = contents.len() / page_bytes;
    for page in contents.chunks_mut(page_bytes).take(2) {
        if page.len() < HEADER_BYTES + META_BYTES {
            continue;
        }
        page[8..10].copy_from_slice(&4u16.to_le_bytes());
        let meta = &mut page[HEADER_BYTES..HEADER_BYTES + META_BYTES];
        meta[..4].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
        meta[4..8].copy_from_slice(&2u32.to_le_bytes());
        meta[8..12].copy_from_slice(&(page_bytes as u32).to_le_bytes());
        meta[40..48].copy_from_slice(&(pages as u64).to_le_bytes());
        let checksum = fnv_64a(&meta[..56]);
        meta[56..64].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn fnv_64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Buckets and entries, then damage.
fn written(input: &mut Input<'_>) {
    let mut tree = Tree::default();
    tree.read(input, &mut STEPS_MAX.clone(), 0);
    let mut found = Vec::new();
    tree.list(&mut found);
    let disk = write_anew(&found).expect("its entries lie in buckets");
    let path = Path::new(COPY);
    let file = BoltFile::open(&disk, path).expect("what was written can be opened");
    assert!(walk(&file, true).expect("what was written can be read") == found);
    drop(file);

    append_digest(&disk, path).expect("this disk writes");
    verify_digest(&disk, path).expect("it was just written");
    let (position, mask, cut) = (input.long() as usize, input.byte(), input.byte());
    let mut contents = disk.contents(path);
    let position = position % contents.len();
    if cut == 1 {
        contents.truncate(position);
    } else {
        contents[position] ^= mask;
    }
    let damaged = MemoryFile::new(contents);
    assert!(cut != 1 && mask == 0 || verify_digest(&damaged, Path::new(PATH)).is_err(), "no damage goes unnoticed");
    check_any(&damaged);
}

#[derive(Default)]
struct Tree {
    buckets: BTreeMap<Vec<u8>, (u64, Tree)>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Tree {
    fn read(&mut self, input: &mut Input<'_>, steps: &mut usize, depth: usize) {
        while *steps > 0 && !input.is_empty() {
            *steps -= 1;
            let step = input.byte();
            match step {
                0 => return,
                1..=40 if depth < BUCKET_DEPTH_MAX => {
                    let name = key(input);
                    self.entries.remove(&name);
                    let (sequence, inner) = self.buckets.entry(name).or_default();
                    *sequence = u64::from(step);
                    inner.read(input, steps, depth + 1);
                }
                _ if depth == 0 => {}
                // A row of entries, so that trees have more than one page.
                41..=60 => {
                    let base = input.take(3).to_vec();
                    let length = input.byte() % 32;
                    let value = input.take(usize::from(length)).to_vec();
                    for number in 0..u32::from(step - 40) * 16 {
                        self.put([&base[..], &number.to_be_bytes()].concat(), value.clone());
                    }
                }
                _ => {
                    let key = key(input);
                    let value = value(input);
                    self.put(key, value);
                }
            }
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        if !self.buckets.contains_key(&key) {
            self.entries.insert(key, value);
        }
    }

    /// In the order of names and keys together, as the file has it.
    fn list(&self, found: &mut Vec<Found>) {
        let mut names: Vec<&Vec<u8>> = self.buckets.keys().chain(self.entries.keys()).collect();
        names.sort();
        for name in names {
            if let Some((sequence, inner)) = self.buckets.get(name) {
                found.push(Found::Begin { name: name.clone(), sequence: *sequence });
                inner.list(found);
                found.push(Found::End);
            } else {
                found.push(Found::Entry { key: name.clone(), value: self.entries[name].clone() });
            }
        }
    }
}

fn key(input: &mut Input<'_>) -> Vec<u8> {
    let shape = input.byte();
    let mut key = input.take(usize::from(shape % 16)).to_vec();
    if shape >= 0xfc {
        key.resize(usize::from(input.short()) % (KEY_BYTES_MAX + 1), 0);
    }
    if key.is_empty() {
        key.push(shape);
    }
    key
}

fn value(input: &mut Input<'_>) -> Vec<u8> {
    let shape = input.byte();
    let mut value = input.take(usize::from(shape % 32)).to_vec();
    if shape >= 0xe0 {
        value.resize(usize::from(input.short()) % VALUE_BYTES_MAX, shape);
    }
    value
}
