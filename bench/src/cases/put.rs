//! Durable puts: a 43-byte key out of 10,000 and a 256-byte value, on a server that starts empty. Three shapes: many
//! streams on few connections (server CPU decides), many connections (system calls decide), and one client at a time
//! (latency of one put decides).

use super::Case;
use crate::figures::Row;
use crate::requests;
use crate::trial::Trial;

pub const TEN_BY_FIFTY: Case = Case {
    name: "put-10x50",
    about: "put 256 B, 10 connections x 50 streams",
    floor: true,
    run: |trial| run(trial, TEN_BY_FIFTY.about, 10, 50),
};

pub const HUNDRED_BY_ONE: Case = Case {
    name: "put-100x1",
    about: "put 256 B, 100 connections x 1",
    floor: true,
    run: |trial| run(trial, HUNDRED_BY_ONE.about, 100, 1),
};

pub const ONE_BY_ONE: Case = Case {
    name: "put-1x1",
    about: "put 256 B, one client at a time",
    floor: true,
    run: |trial| run(trial, ONE_BY_ONE.about, 1, 1),
};

fn run(trial: &Trial, label: &str, connections: usize, streams: usize) -> Result<Vec<Row>, String> {
    let server = trial.start()?;
    let measured = trial.measure(&server, vec![requests::puts(connections, streams)])?;
    Ok(vec![measured.row(label, 0)])
}
