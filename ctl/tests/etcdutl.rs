//! `kvorumutl` and our bbolt files beside the real `etcdutl`: it finds our files well, and both print the same of them.

use std::path::Path;
use std::process::{Command, Output};

use kvorum_api::mvccpb::KeyValue;
use kvorum_disk::RealFileSystem;
use kvorum_disk::bolt::{BoltError, BoltFile, BoltWriter, Walk, snapshot};
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;
use kvorum_store::Revision;
use prost::Message;

const FORMATS: [&str; 6] = ["simple", "table", "json", "fields", "protobuf", "bogus"];

fn run(tool: &Path, arguments: &[&str]) -> Output {
    Command::new(tool).args(arguments).output().expect("the tool runs")
}

/// Both tools say the same of a file, in all formats.
fn compare(etcdutl: &Path, file: &Path) {
    let ours = Path::new(env!("CARGO_BIN_EXE_kvorumutl"));
    let file = file.to_str().expect("a plain name");
    for format in FORMATS {
        let arguments = ["snapshot", "status", file, "-w", format];
        let (theirs, ours) = (run(etcdutl, &arguments), run(ours, &arguments));
        assert_eq!(String::from_utf8_lossy(&ours.stdout), String::from_utf8_lossy(&theirs.stdout), "{file} {format}");
        assert_eq!(String::from_utf8_lossy(&ours.stderr), String::from_utf8_lossy(&theirs.stderr), "{file} {format}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{file} {format}");
    }
}

fn put(writer: &mut BoltWriter, main: i64, tombstone: bool, key: &str, value: Vec<u8>) {
    let revision = Revision::new(main, 0);
    let record = KeyValue { key: key.to_owned().into(), value: value.into(), ..KeyValue::default() }.encode_to_vec();
    let written = match tombstone {
        true => writer.put(&revision.to_tombstone_key(), &record),
        false => writer.put(&revision.to_key(), &record),
    };
    written.expect("revisions rise");
}

/// Buckets of all kinds, with leaves and branches that overflow.
fn write(path: &Path, revisions: std::ops::Range<i64>, version: &str) -> Result<(), BoltError> {
    let length = |main: i64| if main % 500 == 7 { 100_000 + main as usize } else { main as usize % 200 };
    let mut writer = BoltWriter::create(&RealFileSystem, path)?;
    writer.begin_bucket(b"alarm", 0)?;
    writer.end_bucket()?;
    writer.begin_bucket(b"key", 0)?;
    for main in revisions {
        put(&mut writer, main, main % 7 == 0, &format!("key-{}", main % 1_000), vec![b'v'; length(main)]);
    }
    writer.end_bucket()?;
    writer.begin_bucket(b"long", 0)?;
    for first in 0..20_u8 {
        writer.put(&vec![first; 9_000], &vec![first; usize::from(first) * 700])?;
    }
    writer.end_bucket()?;
    writer.begin_bucket(b"meta", 0)?;
    writer.put(b"storageVersion", version.as_bytes())?;
    writer.begin_bucket(b"within", 3)?;
    writer.put(b"x", b"y")?;
    writer.end_bucket()?;
    writer.end_bucket()?;
    writer.finish(true).map(drop)
}

#[test]
fn both_say_the_same_of_our_files() {
    let Some(etcdutl) = tools::or_skip(tools::released("etcdutl")) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("our.db");
    let cases = [
        (2..2, "3.7.0"),
        (2..3, "3.6.0"),
        (2..5, ""),
        (2..42, "no version"),
        (2..202, "3.7"),
        (2..30_002, "3.7.0"),
        (123_456_789..123_456_795, "3.7.0-rc.1+x"),
        (1_234_567_890..1_234_567_893, "03.7.0"),
    ];
    for (revisions, version) in cases {
        write(&path, revisions, version).expect("it can be written");
        compare(&etcdutl, &path);
        snapshot::append_digest(&RealFileSystem, &path).expect("it can be extended");
        compare(&etcdutl, &path);
    }
}

#[test]
fn both_say_the_same_of_etcds_files() {
    let Some(etcdutl) = tools::or_skip(tools::released("etcdutl")) else { return };
    let Some(etcd) = tools::or_skip(tools::released("etcd")) else { return };
    let Some(etcdctl) = tools::or_skip(tools::etcdctl()) else { return };
    let mut member = Member::start(Kind::Server, &etcd, &[]).expect("etcd starts");
    let etcdctl = |arguments: &[&str]| {
        let mut command = Command::new(&etcdctl);
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", member.url())).args(arguments);
        tools::run(&mut command).expect("the command succeeds")
    };
    let saved = member.folder().join("saved.db");
    for number in 0..30 {
        let value = "v".repeat(number * number * 20);
        etcdctl(&["put", &format!("key-{}", number % 20), &value]);
    }
    etcdctl(&["del", "key-1", "key-12"]);
    etcdctl(&["compaction", "12"]);
    etcdctl(&["snapshot", "save", saved.to_str().expect("a plain name")]);
    compare(&etcdutl, &saved);
    snapshot::verify_digest(&RealFileSystem, &saved).expect("etcd's digest");
    member.stop();
    let live = member.folder().join("data/member/snap/db");
    compare(&etcdutl, &live);
    let file = BoltFile::open(&RealFileSystem, &live).expect("etcd's file");
    let mut buckets = Vec::new();
    let walked = file.walk(true, |step| {
        if let Walk::Begin { name, .. } = step {
            buckets.push(String::from_utf8_lossy(name).into_owned());
        }
        Ok::<(), BoltError>(())
    });
    walked.expect("etcd's file is well");
    let known: Vec<String> = kvorum_store::Bucket::ALL.iter().map(|bucket| bucket.name().to_owned()).collect();
    assert_eq!(buckets, known);
}

#[test]
fn what_is_not_there_is_named_as_etcdutl_names_it() {
    let Some(etcdutl) = tools::or_skip(tools::released("etcdutl")) else { return };
    let ours = Path::new(env!("CARGO_BIN_EXE_kvorumutl"));
    for arguments in
        [&["snapshot", "status", "/no/such/file"][..], &["snapshot", "status"], &["snapshot", "status", "a", "b"]]
    {
        let (theirs, ours) = (run(&etcdutl, arguments), run(ours, arguments));
        assert_eq!(String::from_utf8_lossy(&ours.stderr), String::from_utf8_lossy(&theirs.stderr), "{arguments:?}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{arguments:?}");
    }
    let version = run(ours, &["version"]);
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("etcdutl version: 3.7.1\nAPI version: 3.7\n"));
}
