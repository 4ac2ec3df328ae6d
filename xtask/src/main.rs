//! `cargo xtask`: what developers and CI run. Commands that check never write; only `codegen` does, and
//! `compare` below the target folder.

mod check;
mod codegen;
mod compare;
mod compare_clients;
mod dependencies;
mod faults;
mod map;
mod migrate;
mod mixed;
mod readme;
mod simulate;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <command>

commands:
  check            what CI runs: generated code, map, README's twin, dependency policy, format, lints, tests
  codegen          regenerate api/src/generated from api/proto
  codegen --check  fail if the generated files are not what codegen would write
  compare --etcd PATH [--kvorum PATH] [--only CASE,...] [--seconds N] [--runs N] [--keys N] [--markdown]
                   measure a release build (or the binary given) beside etcd; needs minutes
  compare-clients --etcd PATH [--kvorum PATH] [--only CASE,...] [--seconds N] [--runs N] [--markdown]
                   measure our client beside Go's clientv3 and the crate etcd-client, on etcd and on Kvorum
  faults [--minutes N] [--seed S] [--members 3|5] [--round-seconds N] [--rounds N]
                   harm clusters of real processes while clients work, and judge what these saw
  migrate [--rounds N] [--calm-seconds N] [--in-place | --replace] [--etcd PATH] [--kvorum PATH]
                   move live clusters from etcd to Kvorum and back under load, and print what it cost
  mixed [--etcd PATH] [--etcd36 PATH] [--kvorum PATH] [--operations N] [--slow]
                   run the tests of clusters with members of etcd and of Kvorum at length (10,000 operations)
  simulate [--seconds N] [--seed S] [--trace]
                   run simulated clusters from new seeds for N seconds (60), or repeat one seed";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["check"] => check::run(),
        ["codegen"] => codegen::write(),
        ["codegen", "--check"] => codegen::check(),
        ["compare", rest @ ..] => compare::run(rest),
        ["compare-clients", rest @ ..] => compare_clients::run(rest),
        ["faults", rest @ ..] => faults::run(rest),
        ["migrate", rest @ ..] => migrate::run(rest),
        ["mixed", rest @ ..] => mixed::run(rest),
        ["simulate", rest @ ..] => simulate::run(rest),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
