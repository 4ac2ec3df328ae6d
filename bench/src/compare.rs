//! `kvorum-bench compare`: runs the cases on both servers in turn and prints the report. A case that fails on one side
//! does not stop the others.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::cases::{self, Case};
use crate::figures::{Figure, Row};
use crate::process;
use crate::report::{self, Report};
use crate::server::Program;
use crate::trial::Trial;

const SECONDS_DEFAULT: f64 = 5.0;
const RUNS_DEFAULT: usize = 3;
/// How often a disturbed run is tried with `--others-max`.
const ATTEMPTS_MAX: usize = 8;
const KEYS_DEFAULT: u64 = 1_000_000;

struct Options {
    programs: Vec<Program>,
    cases: Vec<&'static Case>,
    seconds: f64,
    runs: usize,
    keys: u64,
    folder: PathBuf,
    markdown: bool,
    others_share_max: f64,
}

/// Runs the command with the arguments after its name.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let options = parse(arguments)?;
    println!("{}", describe(&options));
    if options.markdown {
        print!("{}", report::MARKDOWN_HEAD);
    }
    for case in &options.cases {
        let report = run_case(case, &options);
        if options.markdown {
            print!("{}", report.markdown());
        } else {
            print!("{}", report.text());
        }
    }
    Ok(())
}

/// All servers in turn, run by run.
fn run_case(case: &Case, options: &Options) -> Report {
    let mut runs: Vec<Vec<_>> = options.programs.iter().map(|_| Vec::new()).collect();
    for number in 1..=options.runs {
        for (program, runs) in options.programs.iter().zip(&mut runs) {
            if program.floor && !case.floor {
                continue;
            }
            let trial = Trial {
                program: program.clone(),
                folder: options.folder.clone(),
                time: Duration::from_secs_f64(options.seconds),
                keys: options.keys,
            };
            let outcome = run_undisturbed(case, &trial, options.others_share_max);
            let brief = match &outcome {
                Ok(rows) => rows
                    .first()
                    .and_then(|row| row.figures.get(&Figure::PerSecond))
                    .map_or_else(|| "done".to_owned(), |value| format!("{}/s", Figure::PerSecond.format(*value))),
                Err(error) => format!("FAILED: {error}"),
            };
            let load = process::load_average();
            eprintln!("{} {number}/{} {}: {brief} (load average {load})", case.name, options.runs, program.name);
            runs.push(outcome);
        }
    }
    let sides = options.programs.iter().map(|program| program.name.clone()).collect();
    Report { sides, runs, about: case.about.to_owned() }
}

/// Repeats a run while something else used more than `others_share_max` of the machine, and returns the quietest; the
/// share that is reported with it shows whether that was enough.
fn run_undisturbed(case: &Case, trial: &Trial, others_share_max: f64) -> Result<Vec<Row>, String> {
    let disturbed = |rows: &[Row]| {
        let shares = rows.iter().filter_map(|row| row.figures.get(&Figure::ForeignCpu).copied());
        shares.fold(0.0, f64::max)
    };
    let mut quietest = (case.run)(trial)?;
    for _ in 1..ATTEMPTS_MAX {
        if disturbed(&quietest) <= others_share_max {
            break;
        }
        let again = (case.run)(trial)?;
        if disturbed(&again) < disturbed(&quietest) {
            quietest = again;
        }
    }
    Ok(quietest)
}

fn describe(options: &Options) -> String {
    let mut lines = Vec::new();
    for program in options.programs.iter().filter(|program| !program.floor) {
        let version = Command::new(&program.path).arg("--version").output();
        let version = version.ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let version = version.as_deref().and_then(|text| text.lines().next()).unwrap_or("version unknown");
        lines.push(format!("{}: {version}", program.name));
    }
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    lines.push(format!(
        "{cores} cores shared by server and load; median of {} runs of {} s; {} keys in the large case\n",
        options.runs, options.seconds, options.keys
    ));
    lines.join("\n")
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let (mut etcd, mut kvorum, mut floor, mut markdown) = (None, None, true, false);
    let (mut seconds, mut runs, mut keys) = (SECONDS_DEFAULT, RUNS_DEFAULT, KEYS_DEFAULT);
    let mut others_percent_max = 100.0;
    let (mut folder, mut cases) = (PathBuf::from("target/bench"), cases::ALL.iter().collect());
    let mut rest = arguments.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--etcd" => etcd = Some(PathBuf::from(value()?)),
            "--kvorum" => kvorum = Some(PathBuf::from(value()?)),
            "--dir" => folder = PathBuf::from(value()?),
            "--only" => cases = select(value()?)?,
            "--seconds" => seconds = number(flag, value()?)?,
            "--runs" => runs = number(flag, value()?)?,
            "--keys" => keys = number(flag, value()?)?,
            "--others-max" => others_percent_max = number(flag, value()?)?,
            "--no-floor" => floor = false,
            "--markdown" => markdown = true,
            _ => return Err(format!("unknown option {flag}\n{}", crate::USAGE)),
        }
    }
    if runs == 0 || keys == 0 || !(seconds > 0.0 && seconds.is_finite()) {
        return Err("--runs, --keys and --seconds must be above 0".to_owned());
    }
    let program = |name: &str, path| Program { name: name.to_owned(), path, floor: name == "floor" };
    let mut programs = vec![
        program("etcd", etcd.ok_or("--etcd PATH is needed")?),
        program("kvorum", kvorum.ok_or("--kvorum PATH is needed")?),
    ];
    if floor {
        programs.push(program("floor", std::env::current_exe().map_err(|error| error.to_string())?));
    }
    let others_share_max = others_percent_max / 100.0;
    Ok(Options { programs, cases, seconds, runs, keys, folder, markdown, others_share_max })
}

fn select(names: &str) -> Result<Vec<&'static Case>, String> {
    let find = |name| {
        let found = cases::ALL.iter().find(|case| case.name == name);
        found.ok_or_else(|| format!("no case {name}; `kvorum-bench list` prints all"))
    };
    names.split(',').map(find).collect()
}

fn number<Number: std::str::FromStr>(flag: &str, text: &str) -> Result<Number, String> {
    text.parse().map_err(|_| format!("{flag}: {text} is not a number that fits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Options, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<String>>())
    }

    #[test]
    fn options_are_checked() {
        let options = parse_line("--etcd a --kvorum b --only txn,put-1x1 --seconds 0.5 --runs 2").expect("valid");
        let names: Vec<&str> = options.cases.iter().map(|case| case.name).collect();
        assert_eq!((names, options.runs, options.programs.len()), (vec!["txn", "put-1x1"], 2, 3));
        for wrong in ["--etcd a", "--etcd a --kvorum b --only nothing", "--etcd a --kvorum b --runs 0", "--etcd"] {
            assert!(parse_line(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn case_names_are_unique() {
        let names: std::collections::HashSet<&str> = cases::ALL.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases::ALL.len());
    }
}
