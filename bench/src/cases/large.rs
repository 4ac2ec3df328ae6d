//! A store that is far larger than the memory for values: `--keys` keys with values of 3,900 bytes, put once each. How fast
//! it fills, what puts and reads all over it take, what it keeps in memory, how soon it is back after a stop, and how soon a
//! new member has all of it. Run it with few keys for the small store to compare with, and set `ETCD_VALUE_BUDGET_BYTES`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_api::etcdserverpb::{MemberAddRequest, StatusRequest, StatusResponse};
use prost::Message;

use super::Case;
use crate::control::Control;
use crate::figures::{Figure, Row};
use crate::requests::{self, MEMBER_ADD, STATUS};
use crate::server::{Placement, Server};
use crate::trial::Trial;
use crate::{paced, process, wire};

const NAME: &str = "large/";

/// With key and head one page of 4 KiB.
const VALUE_BYTES: usize = 3900;

/// Time for the backend to commit what it holds back, and for the disk to come to rest.
const SETTLING: Duration = Duration::from_secs(5);

/// How long a new member may take.
const JOIN_TIME_MAX: Duration = Duration::from_secs(900);

/// Between two questions how far it is.
const JOIN_CHECK: Duration = Duration::from_millis(100);

pub const CASE: Case =
    Case { name: "large", about: "a store of 1,000,000 values of 3,900 B, and a new member for it", floor: false, run };

fn run(trial: &Trial) -> Result<Vec<Row>, String> {
    let mut placements = Placement::of_cluster_in_turn(2)?.into_iter();
    let (Some(first), Some(second)) = (placements.next(), placements.next()) else { return Err("no ports".into()) };
    let peer_url = format!("http://{}", second.peer);
    let mut server = Server::place(&trial.program, &trial.folder, first)?;
    server.resume()?;
    let mut rows = vec![fill(trial, &server)?];
    rows.extend(use_all_over(trial, &server)?);

    server.stop()?;
    let until_ready = server.resume()?;
    let restarted = Row::new(format!("restart with {} values", trial.keys));
    rows.push(with_memory(restarted.with(Figure::UntilReady, until_ready.as_secs_f64()), &server)?);

    let add = MemberAddRequest { peer_urls: vec![peer_url], is_learner: true };
    trial.call(&server, MEMBER_ADD, wire::frame(&add))?;
    let goal = status(trial, &server)?.raft_index;
    let mut joining = Server::place(&trial.program, &trial.folder, second)?;
    let started = Instant::now();
    joining.launch()?.wait_up_to(JOIN_TIME_MAX)?;
    while status(trial, &joining)?.raft_applied_index < goal {
        if started.elapsed() > JOIN_TIME_MAX {
            return Err(format!("the new member is not there after {} s", JOIN_TIME_MAX.as_secs()));
        }
        std::thread::sleep(JOIN_CHECK);
    }
    let joined = Row::new(format!("a new member gets {} values", trial.keys));
    rows.push(with_memory(joined.with(Figure::UntilFinished, started.elapsed().as_secs_f64()), &joining)?);
    Ok(rows)
}

fn fill(trial: &Trial, server: &Server) -> Result<Row, String> {
    let cpu_before = process::cpu_time(server.pid())?;
    let started = Instant::now();
    trial.fill(server, requests::fill(NAME, trial.keys, VALUE_BYTES))?;
    let elapsed = started.elapsed();
    std::thread::sleep(SETTLING);
    let cpu = process::cpu_time(server.pid())? - cpu_before;
    let keys = trial.keys as f64;
    let row = Row::new(format!("{} new keys of {VALUE_BYTES} B", trial.keys))
        .with(Figure::PerSecond, keys / elapsed.as_secs_f64())
        .with(Figure::ServerCpu, cpu.as_secs_f64() / keys * 1e5)
        .with(Figure::FileSize, status(trial, server)?.db_size as f64);
    with_memory(row, server)
}

/// Puts and reads at a fixed rate, each of another key.
fn use_all_over(trial: &Trial, server: &Server) -> Result<Vec<Row>, String> {
    let control = Arc::new(Control::default());
    let puts = paced::spawn_spread_puts(server, &control, NAME, trial.keys, VALUE_BYTES);
    let reads = paced::spawn_spread_reads(server, &control, NAME, trial.keys);
    let measured = trial.record(server, &control, vec![puts, reads])?;
    let rate = paced::PUTS_PER_SECOND;
    let label = |what| format!("{what} at {rate}/s all over {} values", trial.keys);
    Ok(vec![measured.latency_row(label("put"), 0), measured.latency_row(label("read"), 1)])
}

fn with_memory(row: Row, server: &Server) -> Result<Row, String> {
    let memory = process::memory(server.pid())?;
    Ok(row
        .with(Figure::PeakMemory, memory.peak_bytes as f64)
        .with(Figure::ResidentMemory, memory.resident_bytes as f64)
        .with(Figure::AnonymousMemory, memory.anonymous_bytes as f64))
}

fn status(trial: &Trial, server: &Server) -> Result<StatusResponse, String> {
    let reply = trial.call(server, STATUS, wire::frame(&StatusRequest::default()))?;
    StatusResponse::decode(reply).map_err(|error| format!("StatusResponse: {error}"))
}
