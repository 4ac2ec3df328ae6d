//! Everything on one connection: 500 streams of puts, or of linearizable reads of one key. This is how one busy client
//! looks; a server that ties a connection to a thread has only that thread for it.

use super::Case;
use crate::requests::{self, VALUE_BYTES};

pub const PUT: Case = Case {
    name: "put-1x500",
    about: "one connection x 500 streams, put",
    floor: true,
    run: |trial| {
        let server = trial.start()?;
        let measured = trial.measure(&server, vec![requests::puts(1, 500)])?;
        Ok(vec![measured.row(PUT.about, 0)])
    },
};

pub const RANGE: Case = Case {
    name: "range-1x500",
    about: "one connection x 500 streams, range of one key",
    floor: true,
    run: |trial| {
        let server = trial.start()?;
        trial.fill(&server, requests::fill("read/", 1, VALUE_BYTES))?;
        let reads = requests::repeat(requests::RANGE, requests::read_body(requests::key("read/", 0)), 1, 500);
        Ok(vec![trial.measure(&server, vec![reads])?.row(RANGE.about, 0)])
    },
};
