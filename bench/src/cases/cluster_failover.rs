//! How long a cluster of three members cannot be written to when its leader goes: the longest time between two
//! acknowledgements of puts through the other two members, from the signal on. A put goes out every few milliseconds,
//! since one that was under way to the old leader is lost. The leader is killed, or asked to stop, several times in a run;
//! in between it comes back.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Case;
use crate::cluster::Cluster;
use crate::control::Control;
use crate::figures::{Figure, Row};
use crate::load;
use crate::requests::{self, PUT, VALUE_BYTES};
use crate::streams::Channel;
use crate::trial::{self, Trial};

const LOSSES: usize = 5;

/// Between two attempts to put.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(5);

/// Puts go through all members for so long before.
const BEFORE_LOSS: Duration = Duration::from_millis(200);

/// A cluster without a leader for so long is broken.
const WITHOUT_LEADER_MAX: Duration = Duration::from_secs(60);

/// Longer than an election timeout: members that just elected somebody do not listen to others for one.
const SETTLING: Duration = Duration::from_secs(2);

pub const KILLED: Case = Case {
    name: "cluster-kill",
    about: "three members: time without a leader after SIGKILL of the leader",
    floor: false,
    run: |trial| run(trial, KILLED.about, true),
};

pub const ASKED: Case = Case {
    name: "cluster-stop",
    about: "three members: time without a leader after SIGTERM of the leader",
    floor: false,
    run: |trial| run(trial, ASKED.about, false),
};

fn run(trial: &Trial, label: &str, kill: bool) -> Result<Vec<Row>, String> {
    let mut cluster = Cluster::start(trial)?;
    let mut times = Vec::new();
    for _ in 0..LOSSES {
        std::thread::sleep(SETTLING);
        times.push(lose_leader(&mut cluster, kill)?.as_secs_f64());
        cluster.settle()?;
    }
    times.sort_by(f64::total_cmp);
    let row = Row::new(label).with(Figure::WithoutLeader, times[times.len() / 2]);
    Ok(vec![row.with(Figure::WithoutLeaderLongest, times[times.len() - 1])])
}

/// Takes the leader away and brings it back; returns the longest time between two acknowledgements in between.
fn lose_leader(cluster: &mut Cluster, kill: bool) -> Result<Duration, String> {
    let leader = cluster.leader()?;
    let survivors = cluster.followers(leader);
    let (control, ended) = (Arc::new(Control::default()), Arc::new(Mutex::new(None)));
    let (sender, receiver) = mpsc::channel();
    let seen = ended.clone();
    let attempts = load::spawn_thread(&control, move |_, _| async move {
        sender.send(put_until(survivors, &seen).await?).map_err(|error| error.to_string())
    });
    std::thread::sleep(BEFORE_LOSS);
    let lost = Instant::now();
    if kill {
        cluster.members[leader].kill()?
    } else {
        cluster.members[leader].stop()?
    }
    *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    trial::finish(attempts, &control)?;
    let acknowledged = receiver.try_recv().map_err(|error| error.to_string())?;
    cluster.members[leader].resume()?;
    let after: Vec<Instant> = acknowledged.into_iter().filter(|at| *at > lost).collect();
    let begins = std::iter::once(&lost).chain(&after);
    begins.zip(&after).map(|(begin, end)| *end - *begin).max().ok_or_else(|| "nothing was acknowledged".to_owned())
}

/// Puts until one is acknowledged that was sent after the leader's end; returns when each was acknowledged.
async fn put_until(survivors: Vec<SocketAddr>, ended: &Mutex<Option<Instant>>) -> Result<Vec<Instant>, String> {
    let mut channels = Vec::new();
    for address in survivors {
        channels.push(Channel::open(address).await?);
    }
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut ticks = tokio::time::interval(ATTEMPT_INTERVAL);
    let mut next = channels.iter().cycle();
    let mut acknowledged = Vec::new();
    let began = Instant::now();
    while began.elapsed() < WITHOUT_LEADER_MAX {
        tokio::select! {
            Some((sent, at)) = receiver.recv() => {
                acknowledged.push(at);
                if ended.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|ended| sent > ended) {
                    return Ok(acknowledged);
                }
            }
            _ = ticks.tick() => {
                let (channel, sender) = (next.next().expect("there are survivors").clone(), sender.clone());
                tokio::task::spawn_local(async move {
                    let body = requests::put_body(requests::key("failover/", 0), requests::value(VALUE_BYTES, 0));
                    let sent = Instant::now();
                    // Errors are what is expected while there is no leader; nobody listens after the end.
                    if channel.call(PUT, body).await.is_ok() {
                        sender.send((sent, Instant::now())).ok();
                    }
                });
            }
        }
    }
    Err(format!("no put was acknowledged for {} s", WITHOUT_LEADER_MAX.as_secs()))
}
