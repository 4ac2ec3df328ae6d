//! `cargo xtask simulate`: runs seed after seed until a time is over or one fails. It measures its time with the real
//! clock, which decides nothing inside a world.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use kvorum_sim::{Options, Report, run};

const USAGE: &str = "usage: kvorum-sim [--seconds N] [--seed S] [--trace]

Runs simulated clusters for N seconds (60), from a random seed on or with seed S alone. --trace prints what happened.";

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Command { seed: Some(seed), keeps_trace, .. }) => {
            let report = run(&Options { keeps_trace, ..Options::from_seed(seed) });
            for line in &report.trace {
                println!("{line}");
            }
            show(seed, &report);
            result(&report)
        }
        Ok(command) => run_on(command.seconds),
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

struct Command {
    seconds: u64,
    seed: Option<u64>,
    keeps_trace: bool,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut command = Command { seconds: 60, seed: None, keeps_trace: false };
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).ok_or_else(|| USAGE.to_owned());
        match argument.as_str() {
            "--seconds" => command.seconds = number()?,
            "--seed" => command.seed = Some(number()?),
            "--trace" => command.keeps_trace = true,
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(command)
}

fn run_on(seconds: u64) -> ExitCode {
    let began = Instant::now();
    let first =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs()) << 20;
    let (mut operations, mut events) = (0, 0);
    for seed in first.. {
        let report = run(&Options::from_seed(seed));
        operations += report.operations;
        events += report.events;
        if report.violation.is_some() {
            show(seed, &report);
            return result(&report);
        }
        if began.elapsed() >= Duration::from_secs(seconds) {
            println!("{} seeds from {first}: {operations} operations, {events} events, no violation", seed - first + 1);
            break;
        }
    }
    ExitCode::SUCCESS
}

fn show(seed: u64, report: &Report) {
    println!(
        "seed {seed}: {} events, {} operations ({} answered), {} revisions, {} leaders, {} snapshots installed, {} reports of gone \
         members, {:?}, trace {:016x}",
        report.events,
        report.operations,
        report.answered,
        report.revisions,
        report.leaders,
        report.snapshots_installed,
        report.gone_reports,
        report.faults,
        report.trace_hash
    );
    if let Some(violation) = &report.violation {
        println!("{violation}\nrepeat with: cargo xtask simulate --seed {seed}");
    }
}

fn result(report: &Report) -> ExitCode {
    if report.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
