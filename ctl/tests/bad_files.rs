//! Files that are damaged, cut off, of another kind or of another release: each is named, with what to do, and nothing that
//! was there is touched.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use kvorum_interop::disk::tree;
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;
use support::{fill, kvorumutl, run, save, text};

/// What is done to the bytes of a good file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Empty,
    Half,
    /// So many bytes stay.
    Cut(usize),
    Foreign,
    /// One text in the place of another, of the same length.
    Replace(&'static str, &'static str),
    /// What stands at one place.
    Byte(usize, u8),
    /// One bit of the byte at this part of the length, in thousandths.
    Flip(usize),
}

impl Harm {
    fn apply(self, path: &Path) {
        let mut bytes = fs::read(path).expect("the file is there");
        match self {
            Harm::Empty => bytes.clear(),
            Harm::Half => bytes.truncate(bytes.len() / 2),
            Harm::Cut(length) => bytes.truncate(length),
            Harm::Foreign => bytes = b"something else altogether\n".repeat(2_000),
            Harm::Replace(old, new) => {
                let places: Vec<usize> =
                    (0..bytes.len()).filter(|place| bytes[*place..].starts_with(old.as_bytes())).collect();
                assert!(!places.is_empty(), "{old} is in {}", path.display());
                for place in places {
                    bytes[place..place + new.len()].copy_from_slice(new.as_bytes());
                }
            }
            Harm::Byte(place, byte) => bytes[place] = byte,
            Harm::Flip(thousandths) => {
                let place = bytes.len() * thousandths / 1_000;
                bytes[place] ^= 0x10;
            }
        }
        fs::write(path, bytes).expect("it can be written");
    }
}

/// The kind of the log's first record, behind the length of its frame.
const UNKNOWN_RECORD: Harm = Harm::Byte(9, 9);

/// Keys and their values lie side by side in a page.
const NEWER_STORAGE: Harm = Harm::Replace("storageVersion3.7.0", "storageVersion3.8.0");
const NEWER_CLUSTER: Harm = Harm::Replace("clusterVersion3.7.0", "clusterVersion3.8.0");

fn copy(source: &Path, target: &Path) {
    let copied = run(Path::new("cp"), &["-r", text(source), text(target)]);
    assert!(copied.status.success(), "{copied:?}");
}

/// The only file of a folder whose name ends so.
fn only(folder: &Path, end: &str) -> PathBuf {
    let mut found = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    found.find(|path| text(path).ends_with(end)).unwrap_or_else(|| panic!("no {end} in {}", folder.display()))
}

/// A stopped member's folder, and a snapshot of it.
async fn good(server: &Path) -> (Member, PathBuf) {
    good_with(server, "--snapshot-count=100000").await
}

async fn good_with(server: &Path, flag: &str) -> (Member, PathBuf) {
    let mut member = Member::start(Kind::Server, server, &[flag]).expect("it starts");
    fill(&member).await;
    let file = member.folder().join("saved.db");
    save(&member, &file).await;
    member.stop();
    (member, file)
}

/// The fatal line names the file and what to do.
#[tokio::test]
async fn a_start_on_damaged_files_names_them() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let (member, _) = good(&server).await;
    let source = member.folder().join("data");
    let exported = member.folder().join("etcd");
    support::succeed(kvorumutl(), &["export", "--data-dir", text(&source), "--to", text(&exported)]);
    let backend = |data: &Path| data.join("member/backend/data.mdb");
    let log = |data: &Path| only(&data.join("member/wal"), ".wal");
    let database = |data: &Path| data.join("member/snap/db");
    type Find<'a> = &'a dyn Fn(&Path) -> PathBuf;
    let cases: &[(&Path, Find<'_>, Harm, &str, &str)] = &[
        (&source, &backend, Harm::Foreign, "member/backend", "snapshot"),
        (&source, &backend, Harm::Empty, "member/backend/data.mdb was cut off", "snapshot"),
        (&source, &backend, Harm::Half, "member/backend/data.mdb was cut off", "snapshot"),
        (&source, &backend, Harm::Cut(100), "member/backend/data.mdb was cut off", "snapshot"),
        (&source, &backend, Harm::Cut(5_000), "member/backend/data.mdb was cut off", "snapshot"),
        (&source, &log, Harm::Flip(1), ".wal", "snapshot"),
        (&source, &log, Harm::Foreign, ".wal", "snapshot"),
        (&source, &log, Harm::Empty, "wal", "snapshot"),
        (&source, &log, UNKNOWN_RECORD, ".wal", "snapshot"),
        (&source, &backend, NEWER_STORAGE, "member/backend", "newer"),
        (&source, &backend, NEWER_CLUSTER, "member/backend", "newer"),
        (&exported, &log, UNKNOWN_RECORD, ".wal", "snapshot"),
        (&exported, &database, NEWER_STORAGE, "snap/db", "downgrade"),
        (&exported, &database, NEWER_CLUSTER, "snap/db", "newer"),
        (&exported, &database, Harm::Empty, "snap/db", "snapshot"),
        (&exported, &database, Harm::Half, "snap/db", "snapshot"),
        (&exported, &database, Harm::Foreign, "snap/db", "snapshot"),
        (&exported, &log, Harm::Flip(1), ".wal", "snapshot"),
        (&exported, &log, Harm::Empty, "wal", "snapshot"),
    ];
    let mut failures = Vec::new();
    for (number, (folder, find, harm, file, advice)) in cases.iter().enumerate() {
        let mut taker = Member::prepare(Kind::Server, &server, &[]).expect("a folder");
        let data = taker.folder().join("data");
        copy(folder, &data);
        harm.apply(&find(&data));
        let before = tree(&data).expect("it can be read");
        let Err(error) = taker.restart() else {
            failures.push(format!("{number} {file} {harm:?}: it started"));
            continue;
        };
        let log = taker.log();
        let said = log.lines().rev().find(|line| line.contains(r#""level":"fatal""#)).unwrap_or(&error);
        if !said.contains(file) || !said.contains(advice) {
            failures.push(format!("{number} {file} {harm:?}: {said}"));
        }
        if tree(&data).expect("it can be read") != before {
            failures.push(format!("{number} {file} {harm:?}: files changed"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What a `.snap` file says stands in the log too: a start goes on without it, sets a damaged one aside as it was, and says so.
#[tokio::test]
async fn a_start_on_a_damaged_snap_file_sets_it_aside() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let (member, _) = good_with(&server, "--snapshot-count=100").await;
    let source = member.folder().join("data");
    let exported = member.folder().join("etcd");
    support::succeed(kvorumutl(), &["export", "--data-dir", text(&source), "--to", text(&exported)]);
    let newest = |data: &Path| {
        let mut names: Vec<PathBuf> = fs::read_dir(data.join("member/snap"))
            .expect("a folder")
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| text(path).ends_with(".snap"))
            .collect();
        names.sort();
        names.pop().expect("there is a .snap file")
    };
    let mut expected = None;
    for folder in [&source, &exported] {
        for harm in [Harm::Empty, Harm::Half, Harm::Foreign, Harm::Flip(500), Harm::Flip(10)] {
            let case = format!("{} {harm:?}", folder.display());
            let mut taker = Member::prepare(Kind::Server, &server, &[]).expect("a folder");
            let data = taker.folder().join("data");
            copy(folder, &data);
            let path = newest(&data);
            harm.apply(&path);
            let damaged = fs::read(&path).expect("it was just written");
            taker.restart().unwrap_or_else(|error| panic!("{case}: {error}"));
            let state = support::state(&taker).await;
            assert_eq!(*expected.get_or_insert(state.clone()), state, "{case}");
            let log = taker.log();
            let said = log.lines().find(|line| line.contains(&format!("{}.broken", text(&path)))).unwrap_or_default();
            assert!(said.contains("may be removed"), "{case}: {log}");
            let aside = format!("{}.broken", text(&path));
            assert!(fs::read(aside).is_ok_and(|aside| aside == damaged), "{case}: it is kept as it was");
        }
    }
}

/// Tools that read one file.
#[tokio::test]
async fn tools_name_damaged_files() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let (member, file) = good(&server).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bad = folder.path().join("bad.db");
    let mut failures = Vec::new();
    for harm in [Harm::Empty, Harm::Half, Harm::Foreign, Harm::Flip(500)] {
        fs::copy(&file, &bad).expect("it can be copied");
        harm.apply(&bad);
        let before = tree(folder.path()).expect("it can be read");
        let target = folder.path().join("target");
        let cases: &[&[&str]] = &[
            &["snapshot", "status", text(&bad)],
            &["hashkv", text(&bad)],
            &["snapshot", "restore", text(&bad), "--data-dir", text(&target)],
            &["snapshot", "restore", text(&bad), "--data-dir", text(&target), "--skip-hash-check"],
        ];
        for arguments in cases {
            let output = run(kvorumutl(), arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            // A bit of a value is not seen without the checksum.
            let is_unseen = matches!(harm, Harm::Flip(_)) && !arguments.contains(&"restore");
            let is_unchecked = matches!(harm, Harm::Flip(_)) && arguments.contains(&"--skip-hash-check");
            if output.status.success() && (is_unseen || is_unchecked) {
                fs::remove_dir_all(&target).ok();
                continue;
            }
            if output.status.code() != Some(1) || !said.contains("bad.db") {
                failures.push(format!("{harm:?} {arguments:?}: {output:?}"));
            }
        }
        if tree(folder.path()).expect("it can be read") != before {
            failures.push(format!("{harm:?}: files changed"));
        }
    }
    let data = member.folder().join("data");
    let target = folder.path().join("target");
    let backend = data.join("member/backend/data.mdb");
    let log = only(&data.join("member/wal"), ".wal");
    let export: &[&str] = &["export", "--data-dir", text(&data), "--to", text(&target)];
    let defrag: &[&str] = &["defrag", "--data-dir", text(&data)];
    let migrate: &[&str] = &["migrate", "--data-dir", text(&data), "--target-version", "3.6"];
    let of_backend: &[&[&str]] = &[export, defrag, migrate];
    let cases: &[(&Path, Harm, &[&[&str]], &str)] = &[
        (&backend, Harm::Foreign, of_backend, "member/backend"),
        (&backend, Harm::Empty, of_backend, "restore a snapshot"),
        (&backend, Harm::Half, of_backend, "member/backend/data.mdb was cut off"),
        (&log, Harm::Flip(1), &[export], ".wal"),
    ];
    for (path, harm, commands, expected) in cases {
        let good = fs::read(path).expect("the file is there");
        harm.apply(path);
        let before = tree(&data).expect("it can be read");
        for arguments in *commands {
            let output = run(kvorumutl(), arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.code() != Some(1) || !said.contains(expected) || target.exists() {
                failures.push(format!("{} {harm:?} {arguments:?}: {output:?}", path.display()));
            }
        }
        if tree(&data).expect("it can be read") != before {
            failures.push(format!("{} {harm:?}: files changed", path.display()));
        }
        fs::write(path, good).expect("it can be written");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
