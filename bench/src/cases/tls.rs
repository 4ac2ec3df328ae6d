//! The two commonest requests over TLS, as `put-10x50` and `range-one` make them without it.

use super::Case;
use crate::requests::{self, RANGE, VALUE_BYTES};

pub const PUT: Case = Case {
    name: "tls-put",
    about: "put 256 B over TLS, 10 connections x 50 streams",
    floor: false,
    run: |trial| {
        let (server, tls) = trial.start_with_tls()?;
        let mut puts = requests::puts(10, 50);
        puts.tls = Some(tls);
        Ok(vec![trial.measure(&server, vec![puts])?.row(PUT.about, 0)])
    },
};

pub const RANGE_ONE: Case = Case {
    name: "tls-range",
    about: "range of one key over TLS, linearizable, 10 x 50, fresh server",
    floor: false,
    run: |trial| {
        let (server, tls) = trial.start_with_tls()?;
        let mut fill = requests::fill("read/", 1, VALUE_BYTES);
        fill.tls = Some(tls.clone());
        trial.fill(&server, fill)?;
        let mut reads = requests::repeat(RANGE, requests::read_body(requests::key("read/", 0)), 10, 50);
        reads.tls = Some(tls);
        Ok(vec![trial.measure(&server, vec![reads])?.row(RANGE_ONE.about, 0)])
    },
};
