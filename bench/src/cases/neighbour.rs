//! What one client's large ranges do to another's small reads: the latency of a linearizable one-key read, one at a time
//! on a thread of its own, while one client loops over ranges of 100,000 keys (36 MB a reply).

use super::Case;
use crate::requests::{self, RANGE, RANGE_VALUE_BYTES, VALUE_BYTES};

pub const KEYS: u64 = 100_000;

pub const CASE: Case = Case {
    name: "neighbour",
    about: "one-key read while one client loops over ranges of 100,000 keys",
    floor: true,
    run: |trial| {
        let server = trial.start()?;
        trial.fill(&server, requests::fill(&requests::range_name(KEYS), KEYS, RANGE_VALUE_BYTES))?;
        trial.fill(&server, requests::fill("read/", 1, VALUE_BYTES))?;
        let reads = requests::repeat(RANGE, requests::read_body(requests::key("read/", 0)), 1, 1);
        let ranges = requests::repeat(RANGE, requests::range_body(KEYS), 1, 1);
        let measured = trial.measure(&server, vec![reads, ranges])?;
        Ok(vec![measured.latency_row(CASE.about, 0), measured.latency_row("the ranges meanwhile, 100,000 keys", 1)])
    },
};
