//! A large store, `--keys` keys (1,000,000) with values of 256 bytes, put once each on 10 x 50 streams: what it keeps in
//! memory, what it wrote to the disk for each put, and how soon it is back after a clean stop. Resident memory counts the
//! pages of mapped files too, which the kernel can drop; anonymous memory is what it cannot.

use std::time::{Duration, Instant};

use kvorum_api::etcdserverpb::{RangeRequest, RangeResponse};
use prost::Message;

use super::Case;
use crate::figures::{Figure, Row};
use crate::process;
use crate::requests::{self, RANGE, VALUE_BYTES};
use crate::server::Server;
use crate::trial::Trial;
use crate::wire;

const NAME: &str = "many/";

/// Time for the backend to commit what it holds back; both servers do so every 100 ms.
const SETTLING: Duration = Duration::from_secs(2);

pub const CASE: Case =
    Case { name: "many-keys", about: "memory, bytes written and restart with 1,000,000 keys", floor: false, run };

fn run(trial: &Trial) -> Result<Vec<Row>, String> {
    let mut server = trial.start()?;
    let (written_before, cpu_before) = (process::written_bytes(server.pid())?, process::cpu_time(server.pid())?);
    let started = Instant::now();
    trial.fill(&server, requests::fill(NAME, trial.keys, VALUE_BYTES))?;
    let elapsed = started.elapsed();
    std::thread::sleep(SETTLING);
    let written = process::written_bytes(server.pid())? - written_before;
    let cpu = process::cpu_time(server.pid())? - cpu_before;
    let memory = process::memory(server.pid())?;
    let keys = trial.keys as f64;
    let filled = Row::new(format!("{} new keys of 256 B", trial.keys))
        .with(Figure::PerSecond, keys / elapsed.as_secs_f64())
        .with(Figure::ServerCpu, cpu.as_secs_f64() / keys * 1e5)
        .with(Figure::PeakMemory, memory.peak_bytes as f64)
        .with(Figure::ResidentMemory, memory.resident_bytes as f64)
        .with(Figure::AnonymousMemory, memory.anonymous_bytes as f64)
        .with(Figure::WrittenPerPut, written as f64 / keys);

    server.stop()?;
    let started = Instant::now();
    let until_ready = server.resume()?;
    let found = count(trial, &server)?;
    let until_answer = started.elapsed();
    if found != i64::try_from(trial.keys).unwrap_or(i64::MAX) {
        return Err(format!("{found} of {} keys after the restart", trial.keys));
    }
    let memory = process::memory(server.pid())?;
    let restarted = Row::new(format!("restart with {} keys", trial.keys))
        .with(Figure::UntilReady, until_ready.as_secs_f64())
        .with(Figure::UntilAnswer, until_answer.as_secs_f64())
        .with(Figure::PeakMemory, memory.peak_bytes as f64)
        .with(Figure::ResidentMemory, memory.resident_bytes as f64)
        .with(Figure::AnonymousMemory, memory.anonymous_bytes as f64);
    Ok(vec![filled, restarted])
}

/// How many keys a linearizable read counts.
fn count(trial: &Trial, server: &Server) -> Result<i64, String> {
    let request =
        RangeRequest { key: NAME.into(), range_end: format!("{NAME}~").into(), count_only: true, ..Default::default() };
    let reply = trial.call(server, RANGE, wire::frame(&request))?;
    RangeResponse::decode(reply).map(|reply| reply.count).map_err(|error| format!("RangeResponse: {error}"))
}
