//! Linearizable ranges over 1000 keys with values of 300 bytes: replies of about 360 KB, on 10 connections with 2 streams
//! each.

use super::Case;
use crate::requests::{self, RANGE, RANGE_VALUE_BYTES};

const KEYS: u64 = 1000;

pub const CASE: Case = Case {
    name: "range-1000",
    about: "range of 1000 keys (300 B each), 10 x 2",
    floor: true,
    run: |trial| {
        let server = trial.start()?;
        trial.fill(&server, requests::fill(&requests::range_name(KEYS), KEYS, RANGE_VALUE_BYTES))?;
        let ranges = requests::repeat(RANGE, requests::range_body(KEYS), 10, 2);
        Ok(vec![trial.measure(&server, vec![ranges])?.row(CASE.about, 0)])
    },
};
