//! Peak memory with 10 clients that loop over ranges of 100,000 keys (36 MB a reply): ten replies in memory at a time, in
//! however many copies the server needs. The peak counts from after the keys were written.

use super::Case;
use super::neighbour::KEYS;
use crate::process;
use crate::requests::{self, RANGE, RANGE_VALUE_BYTES};

pub const CASE: Case = Case {
    name: "range-memory",
    about: "10 clients loop over ranges of 100,000 keys",
    floor: true,
    run: |trial| {
        let server = trial.start()?;
        trial.fill(&server, requests::fill(&requests::range_name(KEYS), KEYS, RANGE_VALUE_BYTES))?;
        process::reset_peak_memory(server.pid())?;
        let ranges = requests::repeat(RANGE, requests::range_body(KEYS), 10, 1);
        Ok(vec![trial.measure(&server, vec![ranges])?.row(CASE.about, 0)])
    },
};
