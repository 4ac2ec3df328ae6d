//! `kvorum-bench`: measures Kvorum beside etcd, with the same load on both, and prints a table. It never tunes one of them:
//! both get the same flags, the same disk, the same order of cases.
//!
//! How to read it. Every run starts a server on an empty folder, prepares what its case needs, loads it unrecorded for a
//! quarter of the time (at most a second), then records. Runs alternate: etcd, Kvorum, floor, etcd, and so on; the table
//! has medians. The load is a closed loop in this process, on the same cores as the server: so requests per second depend
//! on what the load generator leaves of the machine, while CPU seconds per 100,000 requests hardly do. Where "others'
//! CPU" is more than a few percent, something else was running, and rates and latencies say little. The floor is an
//! empty tonic service with replies of the same size.

mod cases;
mod clients;
mod cluster;
mod compare;
mod control;
mod figures;
mod floor;
mod histogram;
mod http2;
mod load;
mod paced;
mod process;
mod report;
mod requests;
mod server;
mod streams;
mod tls;
mod trial;
mod wire;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: kvorum-bench compare --etcd PATH --kvorum PATH [options]
       kvorum-bench compare-clients [--etcd PATH] [--kvorum PATH] --client NAME=PATH... [options]
       kvorum-bench list
       kvorum-bench floor --listen ADDRESS

options of compare:
  --only CASE,...   only these cases; `list` prints all
  --seconds N       recorded time of a run (default 5)
  --runs N          runs per case and server; the median is printed (default 3)
  --keys N          keys of the large cases (default 1000000)
  --dir PATH        where the servers keep their data (default target/bench)
  --others-max N    repeat a run, up to 8 times, while others use more than N percent of the machine
  --no-floor        leave out the empty tonic service
  --markdown        print a Markdown table

options of compare-clients: --only, --seconds (default 3), --runs, --dir, --markdown";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((command, rest)) if command == "compare" => compare::run(rest),
        Some((command, rest)) if command == "compare-clients" => clients::run(rest),
        Some((command, rest)) if command == "floor" => floor::run(rest),
        Some((command, [])) if command == "list" => {
            for case in cases::ALL {
                println!("{:16} {}", case.name, case.about);
            }
            Ok(())
        }
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
