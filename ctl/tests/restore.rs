//! `kvorumutl` beside `etcdutl`: snapshots of both servers, restored by both tools into both servers, hold the same.

mod support;

use std::path::{Path, PathBuf};

use kvorum_api::etcdserverpb as pb;
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;
use support::{State, check_private, disarm, fill, kv, kvorumutl, put, run, save, state, succeed, text};

const FORMATS: [&str; 6] = ["simple", "table", "json", "fields", "protobuf", "bogus"];

/// A server with the tool that restores into it.
struct Side {
    server: PathBuf,
    tool: PathBuf,
}

impl Side {
    async fn restored(&self, file: &Path, flags: &[&str]) -> Member {
        let mut member = Member::prepare(Kind::Server, &self.server, &[]).expect("a folder");
        let data = member.folder().join("data");
        let cluster = format!("default={}", member.peer_url());
        let place = ["--initial-cluster", &cluster, "--initial-advertise-peer-urls", member.peer_url()];
        let arguments = [&["snapshot", "restore", text(file), "--data-dir", text(&data)][..], &place, flags].concat();
        assert!(succeed(&self.tool, &arguments).contains("restored snapshot"));
        if self.tool == kvorumutl() {
            check_private(&data);
        }
        member.restart().expect("the restored member starts");
        member
    }
}

fn sides() -> Option<[Side; 2]> {
    let tool = tools::or_skip(tools::released("etcdutl"))?;
    let theirs = Side { server: tools::or_skip(tools::released("etcd"))?, tool };
    let ours = Side { server: tools::or_skip(tools::server_under_test())?, tool: kvorumutl().to_owned() };
    Some([theirs, ours])
}

/// A restored member is of another cluster, whose founding is its first entry; the rest is the same.
fn assert_same(restored: &State, expected: &State, what: &str) {
    assert_eq!(restored.keys.len(), expected.keys.len(), "{what}");
    assert!(restored == expected, "{what}: {:?} of {:?}", restored.hash, expected.hash);
}

#[tokio::test]
async fn snapshots_of_both_are_restored_into_both() {
    let Some(sides) = sides() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (number, source) in sides.iter().enumerate() {
        let member = Member::start(Kind::Server, &source.server, &[]).expect("it starts");
        fill(&member).await;
        let expected = state(&member).await;
        let file = folder.path().join(format!("{number}.db"));
        save(&member, &file).await;
        drop(member);
        compare_hashes(&sides[0].tool, &file);
        let mut bumped = Vec::new();
        for target in &sides {
            let what = format!("{} into {}", source.server.display(), target.server.display());
            let mut restored = target.restored(&file, &[]).await;
            assert_same(&state(&restored).await, &expected, &what);
            restored.kill();
            let restored = target.restored(&file, &["--bump-revision", "1000000", "--mark-compacted"]).await;
            let now = state(&restored).await;
            assert_eq!((now.revision, now.hash.2), (expected.revision + 1_000_000, expected.revision + 1_000_000));
            assert_eq!(now.keys, expected.keys);
            disarm(&restored).await;
            let old = pb::RangeRequest { key: "last".into(), revision: expected.revision, ..Default::default() };
            let refused = kv(&restored).range(old).await.expect_err("it is compacted");
            assert_eq!(refused.message(), "etcdserver: mvcc: required revision has been compacted");
            put(&restored, "behind", "1").await;
            bumped.push(state(&restored).await);
        }
        assert_eq!(bumped[0], bumped[1], "with revisions counted on");
    }
}

/// `hashkv` prints the same of a file, in all formats and for several revisions.
fn compare_hashes(etcdutl: &Path, file: &Path) {
    for format in FORMATS {
        for revision in ["0", "150", "151", "250", "149", "100000"] {
            // etcdutl writes into the file that it is asked about: each gets its own.
            let folder = tempfile::tempdir().expect("a temporary folder");
            let copy = folder.path().join("copy.db");
            std::fs::copy(file, &copy).expect("it can be copied");
            let arguments = ["hashkv", text(&copy), "--rev", revision, "-w", format];
            let (ours, theirs) = (run(kvorumutl(), &arguments), run(etcdutl, &arguments));
            let (our_text, their_text) =
                (String::from_utf8_lossy(&ours.stdout), String::from_utf8_lossy(&theirs.stdout));
            assert_eq!(our_text, their_text, "{format} {revision}");
            assert_eq!(ours.status.code(), theirs.status.code(), "{format} {revision}");
            if !ours.status.success() {
                assert_eq!(String::from_utf8_lossy(&ours.stderr), String::from_utf8_lossy(&theirs.stderr));
            }
        }
    }
}

#[tokio::test]
async fn files_are_kept_where_the_flags_say() {
    let Some(sides) = sides() else { return };
    let ours = &sides[1];
    let member = Member::start(Kind::Server, &ours.server, &[]).expect("it starts");
    put(&member, "a", "1").await;
    let expected = state(&member).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("saved.db");
    save(&member, &file).await;
    drop(member);
    let wal = folder.path().join("wal");
    let restored = Side { server: ours.server.clone(), tool: ours.tool.clone() };
    let mut member = Member::prepare(Kind::Server, &restored.server, &["--wal-dir", text(&wal)]).expect("a folder");
    let data = member.folder().join("data");
    let peer_url = member.peer_url().to_owned();
    let cluster = format!("default={peer_url}");
    let arguments = [
        "snapshot",
        "restore",
        text(&file),
        "--data-dir",
        text(&data),
        "--wal-dir",
        text(&wal),
        "--initial-cluster",
        &cluster,
        "--initial-advertise-peer-urls",
        &peer_url,
    ];
    // What an attempt that was cut off left.
    let leftovers = [member.folder().join("data.tmp"), folder.path().join("wal.tmp")];
    for leftover in &leftovers {
        std::fs::create_dir(leftover).expect("a folder");
        std::fs::write(leftover.join("half"), b"half").expect("a file");
    }
    succeed(&restored.tool, &arguments);
    assert!(leftovers.iter().all(|leftover| !leftover.exists()));
    assert!(wal.join("0000000000000000-0000000000000000.wal").exists() && !data.join("member/wal").exists());
    member.restart().expect("it starts");
    assert_eq!(state(&member).await, expected);
    member.kill();
    // Both places are taken now.
    let again = run(&restored.tool, &arguments);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("not empty"), "{again:?}");
    // Cut off between the two renames: the data is there, and no log.
    std::fs::rename(&wal, folder.path().join("away")).expect("it is there");
    let refused = member.restart().expect_err("there is no log");
    assert!(refused.contains("no write-ahead log"), "{refused}");
}

#[test]
fn mistakes_are_told_as_etcdutl_tells_them() {
    let Some(etcdutl) = tools::or_skip(tools::released("etcdutl")) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let full = folder.path().join("full");
    std::fs::create_dir(&full).expect("a folder");
    std::fs::write(full.join("file"), b"mine").expect("a file");
    let cases: &[&[&str]] = &[
        &["snapshot", "restore"],
        &["snapshot", "restore", "a", "b"],
        &["snapshot", "restore", "a", "--bump-revision", "3"],
        &["snapshot", "restore", "a", "--mark-compacted"],
        &["snapshot", "restore", "a", "--data-dir", text(&full)],
        &["snapshot", "restore", "a", "--data-dir", text(&data), "--wal-dir", text(&full)],
        &["snapshot", "restore", "a", "--data-dir", text(&data), "--name", "other"],
        &["snapshot", "restore", "a", "--data-dir", text(&data), "--initial-cluster", "default=http://localhost:1"],
        &["hashkv", "/no/such/file"],
        &["migrate", "--data-dir", text(&data), "--target-version", "3"],
        &["migrate", "--data-dir", text(&data), "--target-version", "3.4"],
    ];
    for arguments in cases {
        let (ours, theirs) = (run(kvorumutl(), arguments), run(&etcdutl, arguments));
        let errors = |stderr: &[u8]| {
            let text = String::from_utf8_lossy(stderr).into_owned();
            text.lines().filter(|line| line.starts_with("Error:")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(errors(&ours.stderr), errors(&theirs.stderr), "{arguments:?}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{arguments:?}");
        assert!(!data.exists(), "{arguments:?}");
    }
}

#[tokio::test]
async fn damaged_and_foreign_files_are_named_and_nothing_is_left() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let member = Member::start(Kind::Server, &server, &[]).expect("it starts");
    fill(&member).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let good = folder.path().join("good.db");
    save(&member, &good).await;
    drop(member);
    let good = std::fs::read(good).expect("the snapshot");
    let bad = folder.path().join("bad.db");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let mut half = good[..good.len() / 2].to_vec();
    half.truncate(half.len() / 512 * 512 - 512 + 32);
    let cases: &[(&[u8], &[&str], &str)] = &[
        (&good[..20_480], &[], "snapshot missing hash"),
        (&half, &[], "SHA-256"),
        (&flipped, &[], "SHA-256"),
        (b"no database at all", &["--skip-hash-check"], "bad.db"),
        (&good[..20_480], &["--skip-hash-check"], "bad.db"),
        (b"", &[], "bad.db"),
    ];
    for (contents, flags, expected) in cases {
        std::fs::write(&bad, contents).expect("it can be written");
        let before: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").flatten().collect();
        let data = folder.path().join("data");
        let arguments = [&["snapshot", "restore", text(&bad), "--data-dir", text(&data)][..], flags].concat();
        let output = run(kvorumutl(), &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("bad.db") && stderr.contains(expected), "{stderr}");
        let after = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(after, before.len(), "{expected}: nothing is left");
    }
}

/// Offline, on a directory of our own: `defrag` shrinks it, and `migrate` changes the version of its storage and back.
#[tokio::test]
async fn directories_are_shrunk_and_migrated() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let mut member = Member::start(Kind::Server, &server, &["--snapshot-count=10"]).expect("it starts");
    fill(&member).await;
    let expected = state(&member).await;
    let data = member.folder().join("data");
    let busy = run(kvorumutl(), &["defrag", "--data-dir", text(&data)]);
    assert!(String::from_utf8_lossy(&busy.stderr).contains("is in use: stop the member"), "{busy:?}");
    member.stop();
    assert!(succeed(kvorumutl(), &["defrag", "--data-dir", text(&data)]).contains("finished defragmenting directory"));
    let migrate = |version: &str, flags: &[&str]| {
        run(kvorumutl(), &[&["migrate", "--data-dir", text(&data), "--target-version", version][..], flags].concat())
    };
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let same = migrate("3.7", &[]);
    assert!(same.status.success() && said(&same).contains("storage version up-to-date"), "{same:?}");
    let newer = migrate("3.8", &[]);
    assert!(!newer.status.success() && said(&newer).contains("version \"3.8.0\" is not supported"), "{newer:?}");
    let down = migrate("3.6", &["--force"]);
    assert!(down.status.success() && said(&down).contains("updated storage version"), "{down:?}");
    let up = migrate("3.7", &[]);
    assert!(up.status.success() && said(&up).contains("3.7.0"), "{up:?}");
    member.restart().expect("it starts");
    assert_eq!(state(&member).await, expected);
}
