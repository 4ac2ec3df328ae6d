//! How long a linearizable read of one key takes while writers run flat out: one reader with one request at a time, on a
//! thread of its own, beside puts on 10 connections x 50 streams. The puts are reported too, since a server may buy quick
//! reads with slow writes.

use super::Case;
use crate::requests::{self, RANGE, VALUE_BYTES};

pub const CASE: Case = Case {
    name: "read-under-write",
    about: "linearizable one-key read while writers run flat out",
    floor: true,
    run: |trial| {
        let server = trial.start()?;
        trial.fill(&server, requests::fill("read/", 1, VALUE_BYTES))?;
        let reads = requests::repeat(RANGE, requests::read_body(requests::key("read/", 0)), 1, 1);
        let measured = trial.measure(&server, vec![reads, requests::puts(10, 50)])?;
        Ok(vec![measured.latency_row(CASE.about, 0), measured.latency_row("the writers meanwhile, put 10 x 50", 1)])
    },
};
