//! `cargo xtask faults`: clusters of real processes under faults, for as long as wanted. It prints figures and judges
//! nothing by itself.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use kvorum_interop::faults::{Programs, Report, Round, repeat, run as run_round};
use kvorum_interop::tools;

const USAGE: &str =
    "usage: cargo xtask faults [--minutes N] [--seed S] [--members 3|5] [--round-seconds N] [--rounds N]";

fn main() -> ExitCode {
    match run_all(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run_all(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let (mut minutes, mut seed, mut members, mut round_seconds, mut rounds) = (5, 1, None, 30, u64::MAX);
    while let Some(flag) = arguments.next() {
        let number = arguments.next().and_then(|text| text.parse::<u64>().ok());
        match (flag.as_str(), number) {
            ("--minutes", Some(number)) => minutes = number,
            ("--seed", Some(number)) => seed = number,
            ("--members", Some(number @ (3 | 5))) => members = Some(number),
            ("--round-seconds", Some(number)) => round_seconds = number,
            ("--rounds", Some(number)) => rounds = number,
            _ => return Err(USAGE.to_owned()),
        }
    }
    let programs = Programs { server: tools::server_under_test()?, library: tools::forgetful_disk()? };
    let began = Instant::now();
    let mut sum = Report::default();
    for number in 0..rounds {
        // Both sizes take turns.
        let size = members.unwrap_or(if number.is_multiple_of(2) { 3 } else { 5 });
        let round = Round::new(seed + number, size as usize, Duration::from_secs(round_seconds));
        let report =
            run_round(&programs, &round).map_err(|failure| format!("{failure}\nrepeat: {}", repeat(&round)))?;
        println!("seed {}, {size} members: {report}", round.seed);
        sum.add(&report);
        if rounds == u64::MAX && began.elapsed() >= Duration::from_secs(60 * minutes) {
            break;
        }
    }
    println!("all: {sum}");
    for (fault, count) in &sum.tally.faults {
        println!("  {fault:?}: {count}");
    }
    Ok(())
}
