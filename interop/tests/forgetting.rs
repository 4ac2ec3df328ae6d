//! The crash test over a disk that forgets what was not synced, for the write-ahead log and the backend both: the
//! machine stops, not only the process. The disk is `shim/forgetful_disk.c`, preloaded into the server.
//!
//! `KVORUM_FORGET_ROUNDS` and `KVORUM_FORGET_SEED` choose how long and which moments.

use kvorum_interop::disk::{Calls, Fault, Forgetting, Strike, tree};
use kvorum_interop::machine::{Machine, Programs};
use kvorum_interop::random::Random;
use kvorum_interop::tools;

const ROUNDS: u64 = 50;

/// The kill comes after this many acknowledgements at most, or at this call to the disk at most.
const ACKNOWLEDGEMENTS_MAX: usize = 200;
const CALLS_MAX: usize = 400;

/// So many starts are killed, at this call at most, in percent.
const STARTS_KILLED_PERCENT: usize = 25;
const START_CALLS_MAX: usize = 40;

/// Commits, snapshots, cuts and purges happen all the time, and no value is in memory.
const ARGUMENTS: [&str; 6] = [
    "--backend-batch-interval=20ms",
    "--snapshot-count=50",
    "--max-wals=2",
    "--max-snapshots=2",
    "--wal-segment-bytes=5000",
    "--value-budget-bytes=0",
];

fn seed() -> u64 {
    let seed = tools::number("KVORUM_FORGET_SEED").unwrap_or(1);
    println!("KVORUM_FORGET_SEED={seed}");
    seed
}

/// A kill at one of the next calls to the disk.
fn some_kill(random: &mut Random, calls_max: usize) -> Fault {
    let strike = if random.chance(50) { Strike::KillBefore } else { Strike::KillAfter };
    Fault { calls: Calls::Any, path: "/data".to_owned(), number: 1 + random.below(calls_max) as u64, strike }
}

/// Starts, writes, kills and forgets, so many times. Returns how many writes were acknowledged, or what was lost.
async fn rounds(machine: &mut Machine, rounds: u64) -> Result<usize, String> {
    let mut acknowledged = 0;
    for round in 0..rounds {
        let acknowledgements = 1 + machine.random.below(ACKNOWLEDGEMENTS_MAX);
        let outcomes = machine.work(acknowledgements).await;
        acknowledged += outcomes.acknowledged();
        // Sometimes only the process was killed, and what it did not sync is still unsynced for the one after it.
        if machine.random.chance(80) {
            machine.crash();
        }
        while machine.random.chance(STARTS_KILLED_PERCENT) {
            let kill = some_kill(&mut machine.random, START_CALLS_MAX);
            match machine.start(Some(&kill)) {
                Ok(()) => machine.member.kill(),
                Err(error) if error.contains("signal: 9") => {}
                Err(error) => return Err(format!("round {round}: {error}")),
            }
            machine.crash();
        }
        // Half of the kills come at a call to the disk, the others at an acknowledgement.
        let calls_max = if machine.random.chance(50) { CALLS_MAX } else { usize::MAX };
        let kill = some_kill(&mut machine.random, calls_max);
        machine.start_unarmed(Some(&kill)).map_err(|error| format!("round {round}: {error}"))?;
        machine.check(&outcomes).await.map_err(|error| format!("round {round}: {error}"))?;
        machine.disk.arm(true).map_err(|error| error.to_string())?;
        println!("round {round}: {} acknowledged, revision {}", outcomes.acknowledged(), machine.known.revision());
    }
    Ok(acknowledged)
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_machine_stops() {
    let Some(programs) = Programs::find() else { return };
    let mut machine = Machine::prepare(&programs, &ARGUMENTS, Random::new(seed()));
    machine.start(None).expect("the server must start");
    let count = tools::number("KVORUM_FORGET_ROUNDS").unwrap_or(ROUNDS);
    let acknowledged = rounds(&mut machine, count).await.unwrap_or_else(|error| panic!("{error}"));
    println!("{count} rounds, {acknowledged} acknowledged");
}

/// The proof that the tests above can fail: without syncs of one of the two, acknowledged writes are lost or the member
/// does not start.
#[tokio::test]
async fn with_syncs_taken_out_loss_is_found() {
    let Some(programs) = Programs::find() else { return };
    let seed = seed();
    for deaf in ["/data/member/wal", "/data/member/backend"] {
        let mut machine = Machine::prepare(&programs, &ARGUMENTS, Random::new(seed));
        machine.start(None).expect("the server must start");
        machine.member.kill();
        machine.deaf = Some(deaf);
        machine.start(None).expect("the server must start");
        let loss = rounds(&mut machine, ROUNDS).await.expect_err("a loss must be found");
        println!("{deaf}: {loss}");
    }
}

/// If nothing is ever synced, everything goes back to what it was at the start, byte for byte: no write escapes the shim.
#[tokio::test]
async fn the_shim_sees_every_write() {
    let Some(programs) = Programs::find() else { return };
    let mut machine = Machine::prepare(&programs, &ARGUMENTS, Random::new(seed()));
    machine.start(None).expect("the server must start");
    machine.work(ACKNOWLEDGEMENTS_MAX).await;
    machine.disk.crash(Forgetting::Everything, &mut machine.random).expect("it can be taken back");
    let before = tree(&machine.member.folder().join("data")).expect("a folder can be read");
    machine.deaf = Some("/data");
    machine.start(None).expect("the server must start");
    machine.work(ACKNOWLEDGEMENTS_MAX).await;
    machine.member.set_environment(Vec::new());
    let written = tree(&machine.member.folder().join("data")).expect("a folder can be read");
    assert!(written != before, "the server wrote something");
    machine.disk.crash(Forgetting::Everything, &mut machine.random).expect("it can be taken back");
    let after = tree(&machine.member.folder().join("data")).expect("a folder can be read");
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert!(after == before, "some contents differ");
}

/// The first start, killed at each of its calls to the disk in turn. Nothing was acknowledged, so the next start must
/// found the member or go on with what is there.
#[tokio::test]
async fn a_first_start_may_be_killed_at_any_call() {
    let Some(programs) = Programs::find() else { return };
    let mut random = Random::new(seed());
    for number in 1.. {
        let mut machine = Machine::prepare(&programs, &ARGUMENTS, Random::new(random.bits()));
        let strike = if random.chance(50) { Strike::KillBefore } else { Strike::KillAfter };
        let kill = Fault { calls: Calls::Any, path: "/data".to_owned(), number, strike };
        match machine.start(Some(&kill)) {
            Ok(()) => {
                println!("a first start makes {number} calls");
                assert!(number > 20, "a first start makes more calls");
                return;
            }
            Err(error) => assert!(error.contains("signal: 9"), "{error}"),
        }
        machine.crash();
        machine.start(None).unwrap_or_else(|error| panic!("killed at call {number}, {strike:?}: {error}"));
        let outcomes = machine.work(1).await;
        machine.crash();
        machine.start(None).expect("the server must start");
        machine.check(&outcomes).await.unwrap_or_else(|error| panic!("killed at call {number}, {strike:?}: {error}"));
    }
}
