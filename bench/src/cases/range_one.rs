//! Linearizable reads of one key with a value of 256 bytes, the only key of a fresh server: etcd's reads slow down after a
//! burst of writes, so no write but one precedes them.

use super::Case;
use crate::requests::{self, RANGE, VALUE_BYTES};

pub const CASE: Case = Case {
    name: "range-one",
    about: "range of one key, linearizable, 10 x 50, fresh server",
    floor: true,
    run: |trial| {
        let server = trial.start()?;
        trial.fill(&server, requests::fill("read/", 1, VALUE_BYTES))?;
        let reads = requests::repeat(RANGE, requests::read_body(requests::key("read/", 0)), 10, 50);
        Ok(vec![trial.measure(&server, vec![reads])?.row(CASE.about, 0)])
    },
};
