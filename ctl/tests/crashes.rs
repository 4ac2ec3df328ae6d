//! The machine stops at one step after another of what makes a directory: a restored snapshot, one written out for etcd, one
//! taken over from etcd, and one that receives another member's database. What was not synced is gone, and then there is
//! nothing, or what was before, or the whole; and the same work, begun again, succeeds.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use kvorum_interop::disk::{Calls, Fault, ForgetfulDisk, Forgetting, Strike, tree};
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::random::Random;
use kvorum_interop::tools;
use support::{State, fill, kvorumutl, run, save, state, succeed, text};

/// A work has hundreds of steps, most of them writes of pages: the first ones are tried each, then every so many more.
const STEPS_EACH: u64 = 12;
const STEPS_GROWTH: u64 = 4;

/// Steps of a start on etcd's data, each of which takes a start to its end as well.
const START_STEPS: [u64; 9] = [1, 2, 4, 6, 8, 11, 14, 17, 20];

fn fault(path: &str, number: u64) -> Fault {
    let strike = if number.is_multiple_of(2) { Strike::KillBefore } else { Strike::KillAfter };
    Fault { calls: Calls::Any, path: path.to_owned(), number, strike }
}

/// Runs `work` in an empty folder, stopped at one step after another until it is not reached; `check` then looks at the folder.
/// Gives how many steps were tried.
fn stop_everywhere(library: &Path, work: impl Fn(&Path) -> Vec<String>, check: impl Fn(&Path)) -> usize {
    let (mut number, mut tried) = (1, 0);
    loop {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let watched = folder.path().join("watched");
        std::fs::create_dir(&watched).expect("a folder");
        let disk = ForgetfulDisk::new(library, &watched).expect("a folder for what is remembered");
        disk.arm(true).expect("a file can be made");
        let mut command = Command::new(kvorumutl());
        command.args(work(&watched)).envs(disk.environment(None, Some(&fault("watched", number))));
        let output = command.output().expect("the tool runs");
        disk.crash(Forgetting::Everything, &mut Random::new(number)).expect("what was not synced is taken back");
        let is_done = output.status.success();
        assert!(is_done || output.status.code().is_none(), "step {number}: {output:?}");
        check(&watched);
        if is_done {
            return tried;
        }
        tried += 1;
        number += if number < STEPS_EACH { 1 } else { number / STEPS_GROWTH };
    }
}

/// What a directory holds, written out as etcd's: its bytes are the same for the same contents.
fn exported(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = folder.path().join("etcd");
    succeed(kvorumutl(), &["export", "--data-dir", text(data), "--to", text(&target)]);
    tree(&target).expect("it can be read")
}

/// A member with a bit of everything, stopped, and its snapshot.
async fn source(server: &Path) -> (Member, State, PathBuf) {
    let mut member = Member::start(Kind::Server, server, &["--snapshot-count=100"]).expect("it starts");
    fill(&member).await;
    let expected = state(&member).await;
    let file = member.folder().join("saved.db");
    save(&member, &file).await;
    member.stop();
    (member, expected, file)
}

#[tokio::test]
async fn a_restore_and_an_export_are_done_or_not() {
    let (Some(server), Some(library)) =
        (tools::or_skip(tools::server_under_test()), tools::or_skip(tools::forgetful_disk()))
    else {
        return;
    };
    let (member, _, file) = source(&server).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let whole = folder.path().join("whole");
    let restore =
        |target: &Path| ["snapshot", "restore", text(&file), "--data-dir", text(target)].map(str::to_owned).to_vec();
    let succeed_with = |arguments: Vec<String>| {
        succeed(kvorumutl(), &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    };
    succeed_with(restore(&whole));
    let expected = exported(&whole);
    let check = |watched: &Path| {
        let data = watched.join("data");
        if !data.exists() {
            succeed_with(restore(&data));
        }
        assert!(exported(&data) == expected, "the whole snapshot");
        assert_eq!(std::fs::read_dir(watched).expect("a folder").count(), 1, "nothing lies beside it");
    };
    let tried = stop_everywhere(&library, |watched| restore(&watched.join("data")), check);
    println!("a restore was stopped at {tried} steps");
    assert!(tried > 15, "{tried} steps");

    let data = member.folder().join("data");
    let before = tree(&data).expect("it can be read");
    let expected = exported(&data);
    let export =
        |target: &Path| ["export", "--data-dir", text(&data), "--to", text(target)].map(str::to_owned).to_vec();
    let check = |watched: &Path| {
        let target = watched.join("etcd");
        if !target.exists() {
            succeed_with(export(&target));
        }
        assert!(tree(&target).expect("it can be read") == expected, "the whole directory");
        assert_eq!(std::fs::read_dir(watched).expect("a folder").count(), 1, "nothing lies beside it");
    };
    let tried = stop_everywhere(&library, |watched| export(&watched.join("etcd")), check);
    println!("an export was stopped at {tried} steps");
    assert!(tried > 15, "{tried} steps");
    assert!(tree(&data).expect("it can be read") == before, "the source is as it was");
}

/// The steps of the taking over themselves are gone through in `disk`; this is a real start whose machine stops.
#[tokio::test]
async fn a_start_on_etcds_data_is_begun_again() {
    let (Some(server), Some(library)) =
        (tools::or_skip(tools::server_under_test()), tools::or_skip(tools::forgetful_disk()))
    else {
        return;
    };
    let (member, expected, _) = source(&server).await;
    let etcd = member.folder().join("etcd");
    succeed(kvorumutl(), &["export", "--data-dir", text(&member.folder().join("data")), "--to", text(&etcd)]);
    let mut stopped = 0;
    for number in START_STEPS {
        let mut taker = Member::prepare(Kind::Server, &server, &["--snapshot-count=100"]).expect("a folder");
        let data = taker.folder().join("data");
        let copied = run(Path::new("cp"), &["-r", text(&etcd), text(&data)]);
        assert!(copied.status.success(), "{copied:?}");
        let disk = ForgetfulDisk::new(&library, taker.folder()).expect("a folder for what is remembered");
        disk.arm(true).expect("a file can be made");
        taker.set_environment(disk.environment(None, Some(&fault("data/member", number))));
        if taker.restart().is_err() {
            stopped += 1;
        } else {
            taker.kill();
        }
        disk.crash(Forgetting::Everything, &mut Random::new(number)).expect("what was not synced is taken back");
        taker.set_environment(Vec::new());
        taker.restart().unwrap_or_else(|error| panic!("after step {number}: {error}"));
        assert_eq!(state(&taker).await, expected, "after step {number}");
        assert!(!data.join("member/snap/db").exists(), "it is Kvorum's");
    }
    println!("{stopped} starts were stopped");
    assert!(stopped > START_STEPS.len() / 2, "{stopped} starts were stopped");
}
