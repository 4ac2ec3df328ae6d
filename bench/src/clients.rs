//! `kvorum-bench compare-clients`: the same load by programs that use different clients, on the same server, in turn. It
//! starts servers and programs, harms members where a case says so, and reads what each program printed and what CPU it
//! used. It never counts a request itself.
//!
//! How to read it. Each program keeps the same number of requests under way and counts those that were answered; server
//! and program share the machine. CPU is the program's own, user and system, for each request or event. In the cases of
//! failover a program makes one request after the other over all three members, each with a deadline of 5 s, and the
//! figure is the longest time without a success.

mod cases;
mod program;
mod table;

use std::path::PathBuf;

use crate::server::Program;

use cases::{Case, Settings};
use program::{Client, Counted};
use table::Table;

const SECONDS_DEFAULT: f64 = 3.0;
const RUNS_DEFAULT: usize = 3;

struct Options {
    servers: Vec<Program>,
    clients: Vec<Client>,
    cases: Vec<&'static Case>,
    settings: Settings,
    runs: usize,
    markdown: bool,
}

/// Runs the command with the arguments after its name.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let options = parse(arguments)?;
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    println!(
        "{cores} cores shared by server and client; median of {} runs of {} s\n",
        options.runs, options.settings.seconds
    );
    let names: Vec<String> = options.clients.iter().map(|client| client.name.clone()).collect();
    let mut table = Table::new(names);
    for server in &options.servers {
        for case in &options.cases {
            table.add(server, case, run_case(server, case, &options));
        }
    }
    print!("{}", if options.markdown { table.markdown() } else { table.text() });
    Ok(())
}

/// For each client its runs. Who goes first changes from run to run.
fn run_case(server: &Program, case: &Case, options: &Options) -> Vec<Vec<Result<Counted, String>>> {
    let mut outcomes: Vec<Vec<_>> = options.clients.iter().map(|_| Vec::new()).collect();
    for run in 0..options.runs {
        let mut stage = case.prepare(server, &options.settings);
        for turn in 0..options.clients.len() {
            let number = (run + turn) % options.clients.len();
            let client = &options.clients[number];
            let outcome = match &mut stage {
                Ok(stage) => stage.run(case, client, &options.settings),
                Err(error) => Err(error.clone()),
            };
            let brief = outcome.as_ref().map_or_else(|error| format!("FAILED: {error}"), Counted::brief);
            eprintln!("{} {} {}/{} {}: {brief}", server.name, case.name, run + 1, options.runs, client.name);
            outcomes[number].push(outcome);
        }
    }
    outcomes
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let (mut servers, mut clients, mut cases) = (Vec::new(), Vec::new(), cases::ALL.iter().collect());
    let (mut runs, mut markdown) = (RUNS_DEFAULT, false);
    let mut settings = Settings { seconds: SECONDS_DEFAULT, folder: PathBuf::from("target/bench") };
    let mut rest = arguments.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{flag} needs a value"));
        let number = |text: &String| format!("{flag}: {text} is not a number that fits");
        match flag.as_str() {
            "--etcd" | "--kvorum" => {
                let name = flag.trim_start_matches('-').to_owned();
                servers.push(Program { name, path: PathBuf::from(value()?), floor: false });
            }
            "--client" => {
                let text = value()?;
                let (name, path) = text.split_once('=').ok_or("--client takes NAME=PATH")?;
                clients.push(Client { name: name.to_owned(), path: PathBuf::from(path) });
            }
            "--dir" => settings.folder = PathBuf::from(value()?),
            "--only" => cases = select(value()?)?,
            "--seconds" => settings.seconds = value().and_then(|text| text.parse().map_err(|_| number(text)))?,
            "--runs" => runs = value().and_then(|text| text.parse().map_err(|_| number(text)))?,
            "--markdown" => markdown = true,
            _ => return Err(format!("unknown option {flag}\n{}", crate::USAGE)),
        }
    }
    if servers.is_empty() || clients.is_empty() {
        return Err("at least one server and one --client NAME=PATH are needed".to_owned());
    }
    if runs == 0 || !(settings.seconds > 0.0 && settings.seconds.is_finite()) {
        return Err("--runs and --seconds must be above 0".to_owned());
    }
    Ok(Options { servers, clients, cases, settings, runs, markdown })
}

fn select(names: &str) -> Result<Vec<&'static Case>, String> {
    let known = || cases::ALL.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
    let find =
        |name| cases::ALL.iter().find(|case| case.name == name).ok_or_else(|| format!("{name}: not of {}", known()));
    names.split(',').map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let parse_line = |line: &str| parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<String>>());
        let options =
            parse_line("--etcd a --kvorum b --client go=c --client ours=d --only put-1,watch --runs 2").expect("valid");
        assert_eq!((options.servers.len(), options.clients.len(), options.cases.len(), options.runs), (2, 2, 2, 2));
        for wrong in ["--etcd a", "--client go=c", "--etcd a --client c", "--etcd a --client a=b --only nothing"] {
            assert!(parse_line(wrong).is_err(), "{wrong}");
        }
    }
}
