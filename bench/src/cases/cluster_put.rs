//! Puts into a cluster of three members: through the leader, and over all members, who pass them on. CPU, memory and bytes
//! written are those of all three.

use std::sync::Arc;

use super::Case;
use crate::cluster::Cluster;
use crate::control::Control;
use crate::figures::{Figure, Row};
use crate::requests;
use crate::trial::Trial;

pub const LEADER: Case = Case {
    name: "cluster-put",
    about: "three members: put 256 B through the leader, 10 connections x 50 streams",
    floor: false,
    run: |trial| run(trial, LEADER.about, false),
};

pub const SPREAD: Case = Case {
    name: "cluster-put-spread",
    about: "three members: put 256 B spread over all members, 10 connections x 50 streams",
    floor: false,
    run: |trial| run(trial, SPREAD.about, true),
};

fn run(trial: &Trial, label: &str, spread: bool) -> Result<Vec<Row>, String> {
    let cluster = Cluster::start(trial)?;
    let leader = cluster.leader()?;
    let mut addresses = vec![cluster.members[leader].address()];
    if spread {
        addresses.extend(cluster.followers(leader));
    }
    let control = Arc::new(Control::default());
    let puts = requests::puts(10, 50).spawn_over(addresses, &control);
    let measured = trial.record(&cluster, &control, vec![puts])?;
    Ok(vec![measured.row(label, 0).with(Figure::WrittenPerPut, measured.written_per_request(0))])
}
