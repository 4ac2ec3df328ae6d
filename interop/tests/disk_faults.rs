//! Disks that are full, fail or rot, seen from outside: the member stops with a line that names file and cause, or does
//! not start; it acknowledges nothing that is lost, and starts again when the fault is gone. The faults are injected by
//! `shim/forgetful_disk.c`; half of the time the machine stops with the process.

use std::fs;
use std::path::{Path, PathBuf};

use kvorum_interop::crash::Outcomes;
use kvorum_interop::disk::{Calls, Fault, Strike};
use kvorum_interop::machine::{Machine, Programs};
use kvorum_interop::random::Random;

/// Commits, snapshots, cuts and purges happen all the time.
const ARGUMENTS: [&str; 5] = [
    "--backend-batch-interval=10ms",
    "--snapshot-count=50",
    "--max-wals=2",
    "--max-snapshots=2",
    "--wal-segment-bytes=20000",
];

/// Between two snapshots the log is purged of all that the first one needed.
const RARE_SNAPSHOTS: [&str; 5] = [
    "--backend-batch-interval=10ms",
    "--snapshot-count=600",
    "--max-wals=2",
    "--max-snapshots=2",
    "--wal-segment-bytes=20000",
];

/// Errno values of Linux and what the system calls them.
const NO_SPACE: (i32, &str) = (28, "No space left on device");
const INPUT_OUTPUT: (i32, &str) = (5, "Input/output error");

/// Acknowledgements before the fault may strike.
const ACKNOWLEDGEMENTS: usize = 60;

/// A machine that has worked and whose process was killed.
async fn used_machine(programs: &Programs, seed: u64) -> (Machine, Outcomes) {
    let mut machine = Machine::prepare(programs, &ARGUMENTS, Random::new(seed));
    machine.start(None).expect("the server must start");
    let outcomes = machine.work(ACKNOWLEDGEMENTS).await;
    (machine, outcomes)
}

/// The error in the member's last fatal line.
fn fatal(machine: &Machine, message: &str) -> String {
    let log = machine.member.log();
    let line = log.lines().rev().find(|line| line.contains(r#""level":"fatal""#));
    let line = line.unwrap_or_else(|| panic!("no fatal line"));
    assert!(line.contains(message), "{message}: {line}");
    line.to_owned()
}

/// Lets the fault strike at one of its calls after another.
async fn strikes(calls: Calls, path: &str, strike: Strike, file: &str, cause: &str, numbers: &[u64]) {
    let Some(programs) = Programs::find() else { return };
    for &number in numbers {
        let (mut machine, outcomes) = used_machine(&programs, number).await;
        machine.start(None).expect("the server must start");
        machine.check(&outcomes).await.expect("nothing is lost");
        machine.member.kill();
        let fault = Fault { calls, path: path.to_owned(), number, strike };
        let mut outcomes = Outcomes::default();
        let line = match machine.start(Some(&fault)) {
            Err(error) => {
                assert!(error.contains("exit status: 1"), "{error}");
                fatal(&machine, "failed to start")
            }
            Ok(()) => {
                let work = machine.known.work(machine.member.url(), &mut machine.random, usize::MAX);
                work.moment().await;
                let code = machine.member.wait().unwrap_or_else(|error| panic!("{fault:?}: {error}"));
                assert_eq!(code, Some(1), "{fault:?}");
                outcomes = work.end().await;
                fatal(&machine, "the member stopped")
            }
        };
        assert!(line.contains(file) && line.contains(cause), "{fault:?}: {line}");
        if machine.random.chance(50) {
            machine.crash();
        }
        machine.start(None).unwrap_or_else(|error| panic!("after {fault:?}: {error}"));
        machine.check(&outcomes).await.unwrap_or_else(|error| panic!("after {fault:?}: {error}"));
        // What is acknowledged from here on must survive as well.
        let outcomes = machine.work(ACKNOWLEDGEMENTS).await;
        machine.crash();
        machine.start(None).unwrap_or_else(|error| panic!("long after {fault:?}: {error}"));
        machine.check(&outcomes).await.unwrap_or_else(|error| panic!("long after {fault:?}: {error}"));
    }
}

#[tokio::test]
async fn a_full_disk_under_the_log_stops_the_member() {
    let (errno, cause) = NO_SPACE;
    strikes(Calls::Write, "/wal/", Strike::From(errno), "/wal/", cause, &[1, 2, 3, 10, 31, 57, 112]).await;
}

#[tokio::test]
async fn a_failing_sync_of_the_log_stops_the_member() {
    let (errno, cause) = INPUT_OUTPUT;
    // The first is that of opening the log. If it fails, nobody knows what to cut away, and only the error remains.
    strikes(Calls::Sync, "/wal/", Strike::Once(errno), "/wal/", cause, &[2, 3, 9, 30, 56, 101]).await;
}

#[tokio::test]
async fn a_full_disk_under_the_backend_stops_the_member() {
    // LMDB calls a write that was cut short an input/output error; the line says how much room there is.
    strikes(Calls::Write, "data.mdb", Strike::From(NO_SPACE.0), "data.mdb", "the disk has", &[4, 9, 13]).await;
}

#[tokio::test]
async fn a_failing_backend_stops_the_member() {
    let (errno, cause) = INPUT_OUTPUT;
    strikes(Calls::Write, "data.mdb", Strike::Once(errno), "data.mdb", cause, &[1, 2, 3, 4, 8]).await;
    strikes(Calls::Sync, "data.mdb", Strike::Once(errno), "data.mdb", cause, &[1, 2, 5]).await;
}

#[tokio::test]
async fn a_full_disk_under_snapshots_stops_the_member() {
    let (errno, cause) = NO_SPACE;
    strikes(Calls::Write, ".snap", Strike::From(errno), ".snap", cause, &[1, 2, 3, 4]).await;
}

fn newest(machine: &Machine, folder: &str, suffix: &str) -> PathBuf {
    let folder = machine.member.folder().join("data/member").join(folder);
    let files = fs::read_dir(folder).expect("a folder can be read").map(|entry| entry.expect("an entry").path());
    let newest = files.filter(|path| path.to_string_lossy().ends_with(suffix)).max();
    newest.expect("there is such a file")
}

fn flip(path: &Path, offset: usize) {
    let mut contents = fs::read(path).expect("a file can be read");
    contents[offset] ^= 1;
    fs::write(path, contents).expect("a file can be written");
}

/// Where the zeros at the end begin.
fn end_of(contents: &[u8]) -> usize {
    contents.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}

/// Behind the last acknowledged write only raft's state stands in the log, of which nothing depends on the last.
#[tokio::test]
async fn a_torn_tail_is_repaired() {
    let Some(programs) = Programs::find() else { return };
    for bytes_torn in [1, 8, 15] {
        let (mut machine, outcomes) = used_machine(&programs, bytes_torn).await;
        machine.start(None).expect("the server must start");
        machine.check(&outcomes).await.expect("nothing is lost");
        machine.member.stop();
        let path = newest(&machine, "wal", ".wal");
        let mut contents = fs::read(&path).expect("a file can be read");
        contents.truncate(end_of(&contents) - bytes_torn as usize);
        fs::write(&path, contents).expect("a file can be written");
        machine.start(None).unwrap_or_else(|error| panic!("{bytes_torn} bytes torn: {error}"));
        assert!(machine.member.log().contains("repaired a torn tail"));
        machine.check(&Outcomes::default()).await.expect("nothing is lost");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_refuses_to_start_until_it_is_right_again() {
    let Some(programs) = Programs::find() else { return };
    for part in 1..8 {
        let (mut machine, outcomes) = used_machine(&programs, part).await;
        let path = newest(&machine, "wal", ".wal");
        let offset = end_of(&fs::read(&path).expect("a file can be read")) * part as usize / 8;
        flip(&path, offset);
        let error = machine.start(None).expect_err("a damaged log must not be used");
        assert!(error.contains("exit status: 1"), "{error}");
        let line = fatal(&machine, "failed to start");
        assert!(line.contains(&*path.to_string_lossy()) && line.contains("at position: "), "{line}");
        let position: String = line
            .split("at position: ")
            .nth(1)
            .into_iter()
            .flat_map(str::chars)
            .take_while(char::is_ascii_digit)
            .collect();
        assert!(
            position.parse::<usize>().is_ok_and(|position| position <= offset && offset < position + 4096),
            "{line}"
        );
        flip(&path, offset);
        machine.start(None).expect("the server must start");
        machine.check(&outcomes).await.expect("nothing is lost");
    }
}

/// The newest snapshot file, damaged at any place, is set aside; log and backend hold all that it said, also where the
/// log no longer reaches back to the snapshot before.
#[tokio::test]
async fn a_flipped_bit_in_a_snapshot_file_is_survived() {
    let Some(programs) = Programs::find() else { return };
    for (arguments, acknowledgements) in [(ARGUMENTS, 240), (RARE_SNAPSHOTS, 1600)] {
        for part in 0..4 {
            let mut machine = Machine::prepare(&programs, &arguments, Random::new(part));
            machine.start(None).expect("the server must start");
            let outcomes = machine.work(acknowledgements).await;
            let path = newest(&machine, "snap", ".snap");
            let length = fs::read(&path).expect("a file can be read").len();
            flip(&path, length * part as usize / 4);
            machine.start(None).unwrap_or_else(|error| panic!("{arguments:?}, part {part}: {error}"));
            assert!(path.with_extension("snap.broken").exists(), "{} is set aside", path.display());
            machine.check(&outcomes).await.unwrap_or_else(|error| panic!("part {part}: {error}"));
        }
    }
}
