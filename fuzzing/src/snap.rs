//! `.snap` files. The first byte says what the rest is: 0, the bytes of a file; 1, its inner message, which gets its checksum
//! here; 2, parts of a snapshot, which is saved, loaded and damaged in one place.
//!
//! A file that cannot be read is set aside as it was, never changed and never removed; what is loaded was saved, or is sound
//! by its checksum, and is saved again as the same.

use std::path::Path;
use std::sync::Arc;

use kvorum_api::raftpb::ConfState;
use kvorum_api::snappb;
use kvorum_disk::{FileSystem, OpenMode, SnapDirectory, SnapshotFile, WalSnapshot};
use prost::Message;

use crate::input::Input;
use crate::memory_file::MemoryFile;

const FOLDER: &str = "/snap";
const NAME: &str = "0000000000000002-0000000000000005.snap";

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 3 {
        0 => drop(load(input.rest())),
        1 => {
            let inner = input.rest().to_vec();
            let crc = Some(crc32c::crc32c(&inner));
            drop(load(&snappb::Snapshot { crc, data: Some(inner.into()) }.encode_to_vec()));
        }
        _ => saved(&mut input),
    }
}

/// Loads a file with these bytes, whatever its position is.
fn load(bytes: &[u8]) -> Option<SnapshotFile> {
    let disk = MemoryFile::default();
    let path = Path::new(FOLDER).join(NAME);
    let file = disk.open(&path, OpenMode::CreateEmpty).expect("this disk creates");
    file.write_at(0, bytes).expect("this disk writes");
    let folder = SnapDirectory::open(Arc::new(disk.clone()), Path::new(FOLDER)).expect("this disk reads");
    // Which positions the log knows comes from what the file says; twice, since the first look sets it aside if it is broken.
    let position = position_of(bytes);
    let known = WalSnapshot { index: position.0, term: position.1, conf_state: None };
    let loaded = folder.load_newest(&[known]).expect("this disk reads");
    match (&loaded.snapshot, &loaded.broken[..]) {
        (Some(snapshot), []) => {
            assert!(disk.contents(&path) == bytes, "what was read is as it was");
            assert_eq!((snapshot.index, snapshot.term), position);
            check_saved_again(snapshot);
        }
        (None, [(aside, _)]) => {
            assert!(disk.contents(aside) == bytes, "what was set aside is as it was");
            assert!(!disk.exists(&path).expect("this disk looks"));
        }
        other => panic!("neither loaded nor set aside: {other:?}"),
    }
    loaded.snapshot
}

/// Read by the library alone.
fn position_of(bytes: &[u8]) -> (u64, u64) {
    let outer = snappb::Snapshot::decode(bytes).unwrap_or_default();
    let inner = kvorum_api::raftpb::Snapshot::decode(outer.data()).unwrap_or_default();
    let metadata = inner.metadata.unwrap_or_default();
    (metadata.index(), metadata.term())
}

fn check_saved_again(snapshot: &SnapshotFile) {
    let disk = MemoryFile::default();
    let folder = SnapDirectory::open(Arc::new(disk.clone()), Path::new(FOLDER)).expect("this disk reads");
    let Ok(path) = folder.save(snapshot) else {
        assert_eq!(snapshot.index, 0, "only the empty snapshot has no file");
        return;
    };
    let known = WalSnapshot { index: snapshot.index, term: snapshot.term, conf_state: None };
    let mut again = folder.load_newest(&[known]).expect("this disk reads").snapshot.expect("it was just saved");
    let mut expected = snapshot.clone();
    expected.conf_state.auto_leave.get_or_insert(false);
    again.conf_state.auto_leave.get_or_insert(false);
    assert_eq!(again, expected);
    assert!(disk.length(&path) > 0);
}

fn saved(input: &mut Input<'_>) {
    let voters = (0..input.byte() % 4).map(u64::from).collect();
    let (index, term) = (input.long().max(1), input.long());
    let (position, mask) = (usize::from(input.short()), input.byte());
    let conf_state = ConfState { voters, auto_leave: Some(false), ..ConfState::default() };
    let snapshot = SnapshotFile { index, term, conf_state, data: input.rest().to_vec().into() };
    let disk = MemoryFile::default();
    let folder = SnapDirectory::open(Arc::new(disk.clone()), Path::new(FOLDER)).expect("this disk reads");
    let path = folder.save(&snapshot).expect("this disk writes");
    let mut bytes = disk.contents(&path);
    assert_eq!(load(&bytes).as_ref(), Some(&snapshot));
    let place = position % bytes.len();
    bytes[place] ^= mask;
    let found = load(&bytes);
    assert!(found.is_none() || found.as_ref() == Some(&snapshot), "damage is noticed, or does not matter");
}
