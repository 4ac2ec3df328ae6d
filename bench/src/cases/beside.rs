//! What the cases share that ask how something large disturbs puts: a history to work on, and the puts in quiet times and
//! beside it. One percentile is compared, the 99th, as the ratio of the two on the same server in the same run.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_api::etcdserverpb::{RangeRequest, RangeResponse};
use prost::Message;

use crate::control::Control;
use crate::figures::{Figure, Row};
use crate::paced;
use crate::requests::{self, PUT, RANGE, VALUE_BYTES};
use crate::server::Server;
use crate::trial::{Measured, Trial};
use crate::wire;

/// The keys of the measured puts.
pub const PUT_NAME: &str = "beside/";

/// Revisions of each key.
const REVISIONS_PER_KEY: u64 = 10;

/// A prime, so it has no common divisor with the number of keys unless that is a multiple of it.
const KEY_STEP: u64 = 611_953;

/// Time for the backend to commit what it holds back, and for the disk to come to rest.
const SETTLING: Duration = Duration::from_secs(2);

/// Puts every key `REVISIONS_PER_KEY` times, in an order that jumps about: keys that are neighbours were not written
/// together, as in most stores. (Written in key order, a store that drops by key would find its records side by side.)
pub fn fill(trial: &Trial, server: &Server, name: &'static str, revisions: u64) -> Result<(), String> {
    let keys = revisions.div_ceil(REVISIONS_PER_KEY);
    // As much time to make them for each put would be the larger part of the load.
    let values: Vec<Bytes> = (0..REVISIONS_PER_KEY).map(|number| requests::value(VALUE_BYTES, number)).collect();
    let body = move |number: u64| {
        let key = number % keys * KEY_STEP % keys;
        requests::put_body(requests::key(name, key), values[(number % REVISIONS_PER_KEY) as usize].clone())
    };
    trial.fill(server, requests::each(PUT, revisions, body))?;
    settle();
    Ok(())
}

/// Waits until what came before disturbs nothing any more.
pub fn settle() {
    std::thread::sleep(SETTLING);
}

/// The puts alone, for the time of the trial.
pub fn quiet(trial: &Trial, server: &Server) -> Result<Measured, String> {
    let control = Arc::new(Control::default());
    let puts = paced::spawn(server, &control, PUT_NAME, None);
    trial.record(server, &control, vec![puts])
}

/// The puts and as many reads, by whom the token is, while `work` is done: tallies in this order.
pub fn with_reads<Done>(
    trial: &Trial,
    server: &Server,
    token: Option<&str>,
    work: impl FnOnce(&Control) -> Result<Done, String>,
) -> Result<Measured, String> {
    let control = Arc::new(Control::default());
    let puts = paced::spawn(server, &control, PUT_NAME, token);
    let reads = paced::spawn_reads(server, &control, PUT_NAME, token);
    let loads = vec![puts, reads];
    trial.record_while(server, &control, loads, || work(&control)).map(|(measured, _)| measured)
}

/// The puts while `work` is done. Returns what `work` does.
pub fn during<Done>(
    trial: &Trial,
    server: &Server,
    work: impl FnOnce() -> Result<Done, String>,
) -> Result<(Measured, Done), String> {
    let control = Arc::new(Control::default());
    let puts = paced::spawn(server, &control, PUT_NAME, None);
    trial.record_while(server, &control, vec![puts], work)
}

/// The two rows of the puts; the second has the ratio of the two 99th percentiles.
pub fn rows(what: &str, quiet: &Measured, during: &Measured) -> Vec<Row> {
    rows_of("put", 0, what, quiet, during)
}

/// The two rows of the loads at `position`.
pub fn rows_of(name: &str, position: usize, what: &str, quiet: &Measured, during: &Measured) -> Vec<Row> {
    let rate = paced::PUTS_PER_SECOND;
    let quiet = quiet.latency_row(format!("{name} at {rate}/s in quiet times"), position);
    let mut during = during.latency_row(format!("{name} at {rate}/s, {what}"), position);
    if let (Some(before), Some(after)) = (quiet.figures.get(&Figure::P99), during.figures.get(&Figure::P99)) {
        let ratio = after / before;
        during = during.with(Figure::OverQuiet, ratio);
    }
    vec![quiet, during]
}

/// The store's revision.
pub fn revision(trial: &Trial, server: &Server) -> Result<i64, String> {
    let request = RangeRequest { key: PUT_NAME.into(), ..Default::default() };
    let reply = trial.call(server, RANGE, wire::frame(&request))?;
    let reply = RangeResponse::decode(reply).map_err(|error| format!("RangeResponse: {error}"))?;
    Ok(reply.header.ok_or("a reply without header")?.revision)
}
