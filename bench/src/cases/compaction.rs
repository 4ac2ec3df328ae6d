//! What a compaction does to puts and reads: `--keys` revisions (1,000,000), ten for each key, all but the newest of which a physical
//! compaction on another connection removes. Both go on at a fixed moderate rate, first in quiet times, then until the
//! compaction is answered, which is when all that it removes is gone from the disk. What is
//! written meanwhile tells how large its commits are, and does not depend on what else the machine does.

use kvorum_api::etcdserverpb::CompactionRequest;

use super::{Case, beside};
use crate::figures::{Figure, Row};
use crate::process;
use crate::requests::COMPACT;
use crate::trial::Trial;
use crate::wire;

pub const CASE: Case =
    Case { name: "compaction", about: "puts and reads while 1,000,000 revisions are compacted", floor: false, run };

fn run(trial: &Trial) -> Result<Vec<Row>, String> {
    let server = trial.start()?;
    beside::fill(trial, &server, "compaction/", trial.keys)?;
    let quiet = beside::with_reads(trial, &server, None, |control| control.wait(trial.time))?;
    let revision = beside::revision(trial, &server)?;
    let request = wire::frame(&CompactionRequest { revision, physical: true });
    let written_before = process::written_bytes(server.pid())?;
    let during = beside::with_reads(trial, &server, None, |_| trial.call(&server, COMPACT, request))?;
    let written = process::written_bytes(server.pid())? - written_before;
    let what = format!("while {} revisions are compacted", trial.keys);
    let mut rows = beside::rows_of("put", 0, &what, &quiet, &during);
    rows.extend(beside::rows_of("range", 1, &what, &quiet, &during));
    let compaction = Row::new(format!("the compaction of {} revisions", trial.keys))
        .with(Figure::PerSecond, trial.keys as f64 / during.elapsed().as_secs_f64())
        .with(Figure::UntilFinished, during.elapsed().as_secs_f64())
        .with(Figure::Written, written as f64);
    rows.push(compaction);
    Ok(rows)
}
