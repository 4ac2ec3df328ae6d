//! `cargo xtask migrate`: a live cluster goes from etcd to Kvorum and back, again and again, and what it cost is printed as
//! a table. Nothing may be lost or repeated: that fails at once.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use kvorum_interop::migration::{Journey, Pace, Programs, Report, Step, run};
use kvorum_interop::tools;

const USAGE: &str = "usage: cargo xtask migrate [--rounds N] [--calm-seconds N] [--in-place | --replace] [--kvorum PATH] \
                     [--etcd PATH]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match go(std::env::args().skip(1)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

async fn go(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let (mut rounds, mut calm, mut steps) = (1, 2, Step::ALL.to_vec());
    let (mut kvorum, mut etcd) = (None, None);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| USAGE.to_owned());
        let number = |text: String| text.parse::<u64>().map_err(|_| USAGE.to_owned());
        match flag.as_str() {
            "--rounds" => rounds = number(value()?)?,
            "--calm-seconds" => calm = number(value()?)?,
            "--in-place" => steps.retain(|step| step.is_in_place()),
            "--replace" => steps.retain(|step| !step.is_in_place()),
            "--kvorum" => kvorum = Some(value()?.into()),
            "--etcd" => etcd = Some(value()?.into()),
            _ => return Err(USAGE.to_owned()),
        }
    }
    let kvorum = kvorum.map_or_else(tools::server_under_test, Ok)?;
    let programs = Programs { kvorum, etcd: etcd.map_or_else(tools::etcd, Ok)? };
    let pace = Pace {
        writers: 8,
        pause: Duration::from_millis(10),
        watchers: 4,
        leases: 10,
        lease_seconds: 90,
        calm: Duration::from_secs(calm),
    };
    let mut sums = BTreeMap::<Step, Vec<Report>>::new();
    let (mut events, mut watchers, mut leases) = (0, 0, 0);
    for round in 0..rounds {
        let journey =
            Journey { programs: programs.clone(), steps: steps.clone(), pace: pace.clone(), flags: Vec::new() };
        let reports = run(&journey).await?;
        println!("round {}: {reports}", round + 1);
        events += reports.events;
        (watchers, leases) = (reports.watchers, reports.leases);
        for report in reports.steps {
            sums.entry(report.step).or_default().push(report);
        }
    }
    println!(
        "{rounds} rounds; {events} events, each seen once and in order by each of {watchers} watchers; {leases} leases"
    );
    print_table(&sums);
    Ok(())
}

fn print_table(sums: &BTreeMap<Step, Vec<Report>>) {
    println!(
        "\n| step | members changed | requests | failed | of these writes in doubt | longest pause of writes | slowest request |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (step, reports) in sums {
        let sum = |of: &dyn Fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
        let requests = sum(&|report| report.counts.writes + report.counts.reads);
        let (failed, in_doubt) = (sum(&|report| report.counts.failures()), sum(&|report| report.counts.in_doubt));
        let pause = reports.iter().map(|report| report.counts.longest_pause).max().unwrap_or_default();
        let slowest = reports.iter().map(|report| report.counts.slowest).max().unwrap_or_default();
        let changed = reports.len() * 3;
        println!("| {step} | {changed} | {requests} | {failed} | {in_doubt} | {pause:.2?} | {slowest:.2?} |");
    }
}
