//! Our bbolt files beside the real `etcdutl`. It is looked for in `KVORUM_ETCDUTL`, then on the path; without it these
//! tests are skipped with a printed line, unless `KVORUM_REQUIRE_TOOLS` is 1.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use kvorum_api::mvccpb::KeyValue;
use kvorum_disk::RealFileSystem;
use kvorum_disk::bolt::{BoltFile, BoltWriter, snapshot};
use kvorum_store::Revision;
use prost::Message;

fn etcdutl() -> Option<PathBuf> {
    let named = std::env::var_os("KVORUM_ETCDUTL").filter(|path| !path.is_empty()).map(PathBuf::from);
    let found = named.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join("etcdutl")).find(|candidate| candidate.is_file())
    });
    if found.is_none() {
        assert!(std::env::var("KVORUM_REQUIRE_TOOLS").as_deref() != Ok("1"), "etcdutl is demanded");
        println!("SKIPPED: etcdutl not installed");
    }
    found
}

/// What etcdutl says of a snapshot, which includes that bbolt's own check of all pages found nothing.
fn status_by_etcdutl(etcdutl: &Path, file: &Path) -> String {
    let output = Command::new(etcdutl).args(["snapshot", "status", "-w", "json"]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn status_by_us(file: &Path) -> String {
    let status = snapshot::status(&BoltFile::open(&RealFileSystem, file).unwrap()).unwrap();
    format!(
        r#"{{"hash":{},"revision":{},"totalKey":{},"totalSize":{},"version":"{}"}}"#,
        status.hash, status.revision, status.total_keys, status.total_bytes, status.version
    )
}

fn put(writer: &mut BoltWriter, main: i64, tombstone: bool, key: &str, value: Vec<u8>) {
    let revision = Revision::new(main, 0);
    let record = KeyValue { key: key.to_owned().into(), value: value.into(), ..KeyValue::default() }.encode_to_vec();
    if tombstone {
        writer.put(&revision.to_tombstone_key(), &record).unwrap();
    } else {
        writer.put(&revision.to_key(), &record).unwrap();
    }
}

#[test]
fn etcdutl_finds_our_files_well_and_says_the_same_of_them() {
    let Some(etcdutl) = etcdutl() else { return };
    let folder = tempfile::tempdir().unwrap();
    let length = |main: i64| if main % 500 == 7 { 100_000 + main as usize } else { main as usize % 200 };
    for count in [0, 1, 3, 40, 200, 30_000] {
        let path = folder.path().join(format!("{count}.db"));
        let mut writer = BoltWriter::create(&RealFileSystem, &path).unwrap();
        writer.begin_bucket(b"alarm", 0).unwrap();
        writer.end_bucket().unwrap();
        writer.begin_bucket(b"key", 0).unwrap();
        for main in 2..2 + count {
            put(&mut writer, main, main % 7 == 0, &format!("key-{}", main % 1_000), vec![b'v'; length(main)]);
        }
        writer.end_bucket().unwrap();
        writer.begin_bucket(b"long", 0).unwrap();
        for first in 0..20_u8 {
            writer.put(&vec![first; 9_000], &vec![first; usize::from(first) * 700]).unwrap();
        }
        writer.end_bucket().unwrap();
        writer.begin_bucket(b"meta", 0).unwrap();
        writer.put(b"storageVersion", b"3.7.0").unwrap();
        writer.begin_bucket(b"within", 3).unwrap();
        writer.put(b"x", b"y").unwrap();
        writer.end_bucket().unwrap();
        writer.end_bucket().unwrap();
        writer.finish(true).unwrap();
        assert_eq!(status_by_us(&path), status_by_etcdutl(&etcdutl, &path), "{count} revisions");
        snapshot::append_digest(&RealFileSystem, &path).unwrap();
        assert_eq!(status_by_us(&path), status_by_etcdutl(&etcdutl, &path), "{count} revisions with digest");
    }
}
