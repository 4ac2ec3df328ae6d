//! Round trips, hand-made files with what the writer never makes, and damaged files.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::format::{self, Header, Meta};
use super::*;
use crate::file::SimulatedFileSystem;
use crate::{FileSystem, OpenMode};

type Buckets = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

const PATH: &str = "/db";

fn write(file_system: &dyn FileSystem, buckets: &Buckets) -> u64 {
    let mut writer = BoltWriter::create(file_system, Path::new(PATH)).unwrap();
    for (name, entries) in buckets {
        writer.begin_bucket(name, 0).unwrap();
        for (key, value) in entries {
            writer.put(key, value).unwrap();
        }
        writer.end_bucket().unwrap();
    }
    writer.finish(true).unwrap()
}

fn read(file_system: &dyn FileSystem) -> Result<Buckets, BoltError> {
    let file = BoltFile::open(file_system, Path::new(PATH))?;
    let mut buckets = Buckets::new();
    let mut path: Vec<Vec<u8>> = Vec::new();
    file.walk(true, |step| {
        match step {
            Walk::Begin { name, .. } => {
                path.push(name.to_owned());
                buckets.entry(path.join(&b'/')).or_default();
            }
            Walk::End => drop(path.pop()),
            Walk::Entry { key, value } => {
                buckets.entry(path.join(&b'/')).or_default().insert(key.to_owned(), value.to_owned());
            }
        }
        Ok::<(), BoltError>(())
    })?;
    Ok(buckets)
}

fn file_system_with(contents: &[u8]) -> SimulatedFileSystem {
    let file_system = SimulatedFileSystem::new();
    let file = file_system.open(Path::new(PATH), OpenMode::CreateEmpty).unwrap();
    file.write_at(0, contents).unwrap();
    file_system
}

fn contents(file_system: &dyn FileSystem) -> Vec<u8> {
    crate::file::read_whole(&*file_system.open(Path::new(PATH), OpenMode::Read).unwrap()).unwrap()
}

fn numbered(count: u32, value: impl Fn(u32) -> Vec<u8>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    (0..count).map(|number| (number.to_be_bytes().to_vec(), value(number))).collect()
}

#[test]
fn an_empty_file_has_its_buckets_and_the_least_pages() {
    let file_system = SimulatedFileSystem::new();
    let buckets = Buckets::from([(b"alarm".to_vec(), BTreeMap::new()), (b"key".to_vec(), BTreeMap::new())]);
    // Two metas, a leaf for each bucket, the root, the freelist.
    assert_eq!(write(&file_system, &buckets), 6 * 4096);
    assert_eq!(read(&file_system).unwrap(), buckets);
    assert!(read(&file_system_with(&[])).is_err());
}

#[test]
fn deep_trees_and_long_values_come_back() {
    let file_system = SimulatedFileSystem::new();
    let length =
        |number: u32| if number.is_multiple_of(1_000) { 70_000 + number as usize } else { number as usize % 90 };
    let buckets = Buckets::from([
        (b"key".to_vec(), numbered(30_000, |number| vec![number as u8; length(number)])),
        // Keys so long that a branch's page overflows too.
        (b"long".to_vec(), (0..40).map(|number| (vec![number; KEY_BYTES_MAX], vec![number; 5_000])).collect()),
    ]);
    write(&file_system, &buckets);
    assert!(read(&file_system).unwrap() == buckets, "the same came back");
}

#[test]
fn seek_finds_the_key_or_the_next() {
    let file_system = SimulatedFileSystem::new();
    let entries: BTreeMap<_, _> =
        (0..5_000_u32).map(|number| ((number * 2).to_be_bytes().to_vec(), vec![7; 100])).collect();
    write(&file_system, &Buckets::from([(b"key".to_vec(), entries)]));
    let file = BoltFile::open(&file_system, Path::new(PATH)).unwrap();
    assert!(file.bucket(b"kez").unwrap().is_none());
    let bucket = file.bucket(b"key").unwrap().unwrap();
    let mut cursor = file.cursor(&bucket);
    for sought in 0..9_998_u32 {
        assert!(cursor.seek(&sought.to_be_bytes()).unwrap());
        assert_eq!(cursor.key().unwrap(), sought.next_multiple_of(2).to_be_bytes());
    }
    assert!(!cursor.advance().unwrap(), "it stood at the last");
    assert!(!cursor.seek(&9_999_u32.to_be_bytes()).unwrap());
    assert!(cursor.entry().unwrap().is_none());
}

#[test]
fn buckets_within_buckets_come_back() {
    let file_system = SimulatedFileSystem::new();
    let mut writer = BoltWriter::create(&file_system, Path::new(PATH)).unwrap();
    writer.begin_bucket(b"a", 5).unwrap();
    writer.put(b"1", b"x").unwrap();
    writer.begin_bucket(b"2", 6).unwrap();
    writer.put(b"3", b"y").unwrap();
    writer.end_bucket().unwrap();
    writer.put(b"4", b"").unwrap();
    writer.finish(false).unwrap();
    let file = BoltFile::open(&file_system, Path::new(PATH)).unwrap();
    let mut steps = Vec::new();
    let walked = file.walk(true, |step| {
        steps.push(format!("{step:?}"));
        Ok::<(), BoltError>(())
    });
    walked.unwrap();
    assert_eq!(
        steps,
        [
            "Begin { name: [97], sequence: 5 }",
            "Entry { key: [49], value: [120] }",
            "Begin { name: [50], sequence: 6 }",
            "Entry { key: [51], value: [121] }",
            "End",
            "Entry { key: [52], value: [] }",
            "End"
        ]
    );
}

#[test]
fn what_the_format_cannot_hold_is_refused() {
    let file_system = SimulatedFileSystem::new();
    let mut writer = BoltWriter::create(&file_system, Path::new(PATH)).unwrap();
    assert!(writer.put(b"k", b"v").is_err(), "no bucket is open");
    assert!(writer.end_bucket().is_err(), "no bucket is open");
    writer.begin_bucket(b"b", 0).unwrap();
    writer.put(b"k", b"v").unwrap();
    for key in [&b""[..], b"k", b"j", &[b'x'; KEY_BYTES_MAX + 1]] {
        assert!(matches!(writer.put(key, b"v"), Err(BoltError::Unwritable { .. })), "{key:?}");
    }
    writer.end_bucket().unwrap();
    assert!(writer.begin_bucket(b"a", 0).is_err(), "out of order");
}

/// A file whose only bucket lies inside of its parent's page, as bbolt puts small ones, and that has no freelist.
fn inline_bucket() -> Vec<u8> {
    let mut inner = Vec::new();
    inner.extend(format::bucket_header(0, 9));
    Header { id: 0, flags: format::LEAF, count: 1, overflow: 0 }.write(&mut inner);
    for number in [0_u32, 16, 1, 2] {
        inner.extend(number.to_le_bytes());
    }
    inner.extend(b"kvv");
    let mut leaf = Vec::new();
    Header { id: 2, flags: format::LEAF, count: 1, overflow: 0 }.write(&mut leaf);
    for number in [format::BUCKET_FLAG, 16, 4, inner.len() as u32] {
        leaf.extend(number.to_le_bytes());
    }
    leaf.extend(b"name");
    leaf.extend(inner);
    leaf.resize(4096, 0);
    let meta =
        Meta { page_bytes: 4096, root: 2, sequence: 0, freelist: format::NO_FREELIST, page_count: 3, transaction: 4 };
    let mut file = meta.page();
    file.extend(Meta { transaction: 3, root: 77, ..meta }.page());
    file.extend(leaf);
    file
}

#[test]
fn an_inline_bucket_is_read() {
    let expected = Buckets::from([(b"name".to_vec(), BTreeMap::from([(b"k".to_vec(), b"vv".to_vec())]))]);
    assert_eq!(read(&file_system_with(&inline_bucket())).unwrap(), expected);
}

#[test]
fn the_newer_whole_meta_page_counts() {
    let mut file = inline_bucket();
    assert!(read(&file_system_with(&file)).is_ok());
    // The newer one is damaged, and the older one's root is no page.
    file[HEADER_OFFSET_OF_ROOT] ^= 1;
    let error = read(&file_system_with(&file)).unwrap_err();
    assert!(error.to_string().contains("page 77: no such page"), "{error}");
    file[4096 + HEADER_OFFSET_OF_ROOT] ^= 1;
    let error = read(&file_system_with(&file)).unwrap_err();
    assert!(error.to_string().contains("another checksum"), "{error}");
}

const HEADER_OFFSET_OF_ROOT: usize = format::HEADER_BYTES + 16;

/// A meta page may be whole and say that there is nothing.
#[test]
fn a_file_without_room_for_a_root_is_refused() {
    for page_count in 0..3 {
        let freelist = format::NO_FREELIST;
        let meta = Meta { page_bytes: 4096, root: 2, sequence: 0, freelist, page_count, transaction: 4 };
        let mut file = inline_bucket();
        file[..4096].copy_from_slice(&meta.page());
        let error = read(&file_system_with(&file)).unwrap_err().to_string();
        assert!(error.ends_with(&format!("{page_count} pages")), "{error}");
    }
}

/// A file whose freelist says what `pages` says, in a page behind all others, and that has `unused` more pages.
fn with_freelist(long: bool, pages: &[u64], unused: u64) -> Vec<u8> {
    let mut file = inline_bucket();
    let freelist = 3 + unused;
    file.resize(freelist as usize * 4096, 0);
    let count = if long { format::FREELIST_LONG } else { pages.len() as u16 };
    let mut page = Vec::new();
    Header { id: freelist, flags: format::FREELIST, count, overflow: 0 }.write(&mut page);
    if long {
        page.extend((pages.len() as u64).to_le_bytes());
    }
    page.extend(pages.iter().flat_map(|page| page.to_le_bytes()));
    page.resize(4096, 0);
    file.extend(page);
    let meta = Meta { page_bytes: 4096, root: 2, sequence: 0, freelist, page_count: freelist + 1, transaction: 6 };
    file[..4096].copy_from_slice(&meta.page());
    file
}

#[test]
fn every_page_is_used_or_free_and_not_both() {
    for long in [false, true] {
        let walked = |pages: &[u64]| {
            read(&file_system_with(&with_freelist(long, pages, 2))).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(walked(&[3, 4]), Ok(()));
        for (pages, reason) in [
            (&[3][..], "page 4: neither used nor free"),
            (&[3, 4, 2], "page 2: used and free"),
            (&[3, 4, 5], "page 5: used and free"),
            (&[3, 4, 4], "page 5: page 4 cannot be free, or is twice"),
            (&[3, 4, 1], "page 5: page 1 cannot be free, or is twice"),
            (&[3, 4, 6], "page 5: page 6 cannot be free, or is twice"),
        ] {
            let error = walked(pages).expect_err(reason);
            assert!(error.ends_with(reason), "{error}");
        }
    }
    let mut many = with_freelist(true, &[3, 4], 2);
    many[5 * 4096 + 16..][..8].copy_from_slice(&600_u64.to_le_bytes());
    assert!(read(&file_system_with(&many)).unwrap_err().to_string().contains("more free pages"));
}

#[test]
fn a_snapshot_ends_with_its_digest() {
    let file_system = SimulatedFileSystem::new();
    let path = Path::new(PATH);
    write(&file_system, &Buckets::from([(b"key".to_vec(), BTreeMap::new())]));
    assert!(matches!(snapshot::verify_digest(&file_system, path), Err(BoltError::Checksum { .. })));
    snapshot::append_digest(&file_system, path).unwrap();
    assert!(snapshot::has_digest(contents(&file_system).len() as u64));
    snapshot::verify_digest(&file_system, path).unwrap();
    assert!(read(&file_system).is_ok());
    let mut bytes = contents(&file_system);
    bytes[5_000] ^= 1;
    assert!(matches!(snapshot::verify_digest(&file_system_with(&bytes), path), Err(BoltError::Checksum { .. })));
}

/// Reads in all ways; errors are welcome, panics and endless loops are not.
fn read_damaged(bytes: &[u8]) {
    let file_system = file_system_with(bytes);
    drop(read(&file_system));
    let Ok(file) = BoltFile::open(&file_system, Path::new(PATH)) else { return };
    drop(snapshot::status(&file));
    if let Ok(Some(bucket)) = file.bucket(b"key") {
        let mut cursor = file.cursor(&bucket);
        drop(cursor.seek(b"\x00\x00\x01"));
        drop(cursor.entry().map(|entry| entry.is_some()));
        while matches!(cursor.advance(), Ok(true)) {
            drop(cursor.entry().map(|entry| entry.is_some()));
        }
    }
}

fn sample() -> Vec<u8> {
    let file_system = SimulatedFileSystem::new();
    let buckets = Buckets::from([
        (b"key".to_vec(), numbered(600, |number| vec![1; if number % 100 == 5 { 9_000 } else { 30 }])),
        (b"meta".to_vec(), numbered(3, |_| vec![2; 20])),
    ]);
    write(&file_system, &buckets);
    contents(&file_system)
}

#[test]
fn every_damaged_byte_of_a_small_file_is_survived() {
    let whole = inline_bucket();
    for position in (0..160).chain(4096..4256).chain(8192..8320) {
        for change in [1, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[position] ^= change;
            read_damaged(&damaged);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn anything_comes_back(
        buckets in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 1..5),
            prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 1..40),
                prop::collection::vec(any::<u8>(), 0..3_000),
                0..60,
            ),
            0..5,
        )
    ) {
        let file_system = SimulatedFileSystem::new();
        write(&file_system, &buckets);
        prop_assert_eq!(read(&file_system).unwrap(), buckets);
    }

    #[test]
    fn damage_is_an_error_or_goes_unnoticed(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..96_usize, any::<u8>()), 1..4),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut bytes = sample();
        let pages = bytes.len() / 4096;
        for (page, place, byte) in changes {
            // Headers and tables of elements are where it hurts.
            bytes[page.index(pages) * 4096 + place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() * 4));
        }
        read_damaged(&bytes);
    }

    #[test]
    fn any_bytes_behind_good_metas_are_survived(seed in prop::collection::vec(any::<u8>(), 0..8_192)) {
        let mut bytes = inline_bucket();
        let end = bytes.len().min(8_192 + seed.len());
        bytes[8_192 + 16..end.max(8_208)].copy_from_slice(&seed[..end.max(8_208) - 8_208]);
        read_damaged(&bytes);
    }
}
