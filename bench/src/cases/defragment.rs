//! What a defragmentation does to puts and to ranges of one key: `--keys` revisions (1,000,000), of which a physical
//! compaction has removed nine tenths, so that most of the file is free. Puts and ranges go on at a fixed moderate rate, first
//! in quiet times, then until `Maintenance.Defragment` on another connection is answered.

use kvorum_api::etcdserverpb::{CompactionRequest, DefragmentRequest, StatusRequest, StatusResponse};
use prost::Message;

use super::{Case, beside};
use crate::figures::{Figure, Row};
use crate::process;
use crate::requests::{COMPACT, DEFRAGMENT, STATUS};
use crate::server::Server;
use crate::trial::Trial;
use crate::wire;

pub const CASE: Case =
    Case { name: "defragment", about: "puts and reads while a file of mostly free pages is shrunk", floor: false, run };

fn run(trial: &Trial) -> Result<Vec<Row>, String> {
    let server = trial.start()?;
    beside::fill(trial, &server, "defragment/", trial.keys)?;
    let revision = beside::revision(trial, &server)?;
    trial.call(&server, COMPACT, wire::frame(&CompactionRequest { revision, physical: true }))?;
    beside::settle();
    let before = file_bytes(trial, &server)?;
    let quiet = beside::with_reads(trial, &server, None, |control| control.wait(trial.time))?;
    let written_before = process::written_bytes(server.pid())?;
    let request = wire::frame(&DefragmentRequest {});
    let during = beside::with_reads(trial, &server, None, |_| trial.call(&server, DEFRAGMENT, request))?;
    let written = process::written_bytes(server.pid())? - written_before;
    let after = file_bytes(trial, &server)?;
    let what = "while the database is shrunk";
    let mut rows = beside::rows_of("put", 0, what, &quiet, &during);
    rows.extend(beside::rows_of("range", 1, what, &quiet, &during));
    let megabytes = |bytes: i64| bytes as f64 / 1e6;
    let what = format!("the shrink of {:.0} MB to {:.0} MB", megabytes(before), megabytes(after));
    rows.push(
        Row::new(what)
            .with(Figure::UntilFinished, during.elapsed().as_secs_f64())
            .with(Figure::Written, written as f64),
    );
    Ok(rows)
}

fn file_bytes(trial: &Trial, server: &Server) -> Result<i64, String> {
    let reply = trial.call(server, STATUS, wire::frame(&StatusRequest::default()))?;
    let reply = StatusResponse::decode(reply).map_err(|error| format!("StatusResponse: {error}"))?;
    Ok(reply.db_size)
}
