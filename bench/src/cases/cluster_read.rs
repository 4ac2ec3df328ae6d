//! Linearizable reads of one key in a cluster of three members: through a follower, which must ask the leader, and at the
//! leader and a follower while writers run flat out.

use std::sync::Arc;

use super::Case;
use crate::cluster::Cluster;
use crate::control::Control;
use crate::figures::Row;
use crate::load::Load;
use crate::requests::{self, RANGE, VALUE_BYTES};
use crate::trial::Trial;

pub const FOLLOWER: Case = Case {
    name: "cluster-range",
    about: "three members: range of one key, linearizable, through a follower, 10 x 50",
    floor: false,
    run: through_follower,
};

pub const UNDER_WRITE: Case = Case {
    name: "cluster-read-under-write",
    about: "three members: linearizable one-key reads while writers run flat out",
    floor: false,
    run: under_write,
};

fn reads(connections: usize, streams: usize) -> Load {
    requests::repeat(RANGE, requests::read_body(requests::key("read/", 0)), connections, streams)
}

fn start(trial: &Trial) -> Result<Cluster, String> {
    let cluster = Cluster::start(trial)?;
    trial.fill(&cluster.members[0], requests::fill("read/", 1, VALUE_BYTES))?;
    Ok(cluster)
}

fn through_follower(trial: &Trial) -> Result<Vec<Row>, String> {
    let cluster = start(trial)?;
    let follower = cluster.followers(cluster.leader()?)[0];
    let control = Arc::new(Control::default());
    let reads = reads(10, 50).spawn(follower, &control);
    Ok(vec![trial.record(&cluster, &control, vec![reads])?.row(FOLLOWER.about, 0)])
}

/// One reader with one request at a time at each of the two members, each on a thread of its own, beside the writers.
fn under_write(trial: &Trial) -> Result<Vec<Row>, String> {
    let cluster = start(trial)?;
    let place = cluster.leader()?;
    let (leader, follower) = (cluster.members[place].address(), cluster.followers(place)[0]);
    let control = Arc::new(Control::default());
    let running = vec![
        reads(1, 1).spawn(leader, &control),
        reads(1, 1).spawn(follower, &control),
        requests::puts(10, 50).spawn(leader, &control),
    ];
    let measured = trial.record(&cluster, &control, running)?;
    Ok(vec![
        measured.latency_row("three members: linearizable one-key read at the leader while writers run flat out", 0),
        measured.latency_row("three members: the same at a follower", 1),
        measured.latency_row("three members: the writers meanwhile, put 10 x 50 through the leader", 2),
    ])
}
