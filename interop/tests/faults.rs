//! Clusters of real processes under faults, a few short rounds (`cargo xtask faults` runs on), and the proof that bugs
//! would be found.
//!
//! `KVORUM_FAULT_SECONDS` and `KVORUM_FAULT_SEED` choose how long and which faults.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvorum_interop::faults::plant::Plant;
use kvorum_interop::faults::schedule::Fault;
use kvorum_interop::faults::{Programs, Report, Round, repeat, run};
use kvorum_interop::tools;

const SECONDS: u64 = 60;
const ROUND: Duration = Duration::from_secs(12);

/// A planted bug must be found within so many rounds, each of this length.
const PLANTED_ROUNDS: u64 = 8;
const PLANTED_ROUND: Duration = Duration::from_secs(6);

fn programs() -> Option<Programs> {
    let server = tools::or_skip(tools::server_under_test())?;
    Some(Programs { server, library: tools::or_skip(tools::forgetful_disk())? })
}

/// A cluster and its clients keep a small machine busy.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn clusters_keep_their_promises_under_faults() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(programs) = programs() else { return };
    let first = tools::number("KVORUM_FAULT_SEED").unwrap_or(1);
    let seconds = tools::number("KVORUM_FAULT_SECONDS").unwrap_or(SECONDS);
    let began = Instant::now();
    let mut sum = Report::default();
    for seed in first.. {
        let members = if seed.is_multiple_of(3) { 5 } else { 3 };
        let round = Round::new(seed, members, ROUND);
        let report = run(&programs, &round).unwrap_or_else(|failure| panic!("{failure}\nrepeat: {}", repeat(&round)));
        println!("seed {seed}, {members} members: {report}");
        sum.add(&report);
        if began.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    println!("all: {sum}");
}

/// The faults that bring a bug to light soonest.
fn faults(plant: Plant) -> &'static [(Fault, usize)] {
    match plant {
        Plant::UnconfirmedReads => &[(Fault::IsolateLeader, 1), (Fault::OneWay, 1)],
        Plant::RepeatedWrites => &[(Fault::PauseLeader, 1), (Fault::KillLeader, 1)],
        Plant::ForgedRenewals => &[(Fault::MoveLeader, 1)],
        Plant::LateWatches => &[(Fault::Kill, 1), (Fault::Pause, 1)],
        Plant::UnsyncedLog => &[(Fault::PowerLossOfAll, 1)],
    }
}

/// What a verdict says of a bug.
fn words(plant: Plant) -> &'static [&'static str] {
    match plant {
        Plant::UnconfirmedReads | Plant::RepeatedWrites => &["linearizable"],
        Plant::ForgedRenewals => &["lease not early"],
        // What a watch did not deliver counts as not written, so the order of writes may be what fails.
        Plant::LateWatches => &["watch", "linearizable"],
        // A member may also refuse what is left of its files, or stop when it hears that it said more.
        Plant::UnsyncedLog => &["linearizable", "watch", "ended by itself", "does not serve", "differ", ".log"],
    }
}

#[test]
fn planted_bugs_are_found() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(programs) = programs() else { return };
    for plant in Plant::ALL {
        let found = (1..=PLANTED_ROUNDS).find_map(|seed| {
            let mut round = Round::new(seed, 3, PLANTED_ROUND);
            round.faults = faults(plant).to_vec();
            round.plant = Some(plant);
            run(&programs, &round).err().map(|failure| (seed, failure))
        });
        let (rounds, failure) = found.unwrap_or_else(|| panic!("{plant:?} was not found in {PLANTED_ROUNDS} rounds"));
        let text = failure.text.lines().next().unwrap_or_default();
        assert!(words(plant).iter().any(|word| failure.text.contains(word)), "{plant:?}: {text}");
        println!("{plant:?}: found in round {rounds}: {}", text.chars().take(300).collect::<String>());
        // What was expected is no use to anybody.
        std::fs::remove_dir_all(&failure.folder).ok();
    }
}
