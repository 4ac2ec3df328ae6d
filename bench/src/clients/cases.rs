//! What is asked of each client, and what happens to the servers meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::program::{Client, Counted, Running};
use crate::cluster::Cluster;
use crate::control::Control;
use crate::load::{Load, Source};
use crate::requests::{self, PUT, VALUE_BYTES};
use crate::server::{Program, Server};
use crate::trial::Trial;

/// The same for all.
pub struct Settings {
    /// How long is counted.
    pub seconds: f64,
    pub folder: PathBuf,
}

/// How long a program of a failover case runs: a request into a hole takes 5 s.
const FAILOVER_SECONDS: f64 = 8.0;

/// Requests succeed for so long before a member dies.
const BEFORE_HARM: Duration = Duration::from_millis(500);

/// What the watched key is called by the programs.
const WATCHED_KEY: &str = "load/watched";

pub struct Case {
    pub name: &'static str,
    pub about: &'static str,
    /// What the programs call it.
    call: &'static str,
    /// Requests under way, or watches.
    concurrency: usize,
    harm: Option<Harm>,
}

#[derive(Clone, Copy)]
enum Harm {
    KillFollower,
    KillLeader,
    /// Its sockets live, and nobody answers.
    StopFollower,
}

const fn load(name: &'static str, about: &'static str, call: &'static str, concurrency: usize) -> Case {
    Case { name, about, call, concurrency, harm: None }
}

const fn failover(name: &'static str, about: &'static str, call: &'static str, harm: Harm) -> Case {
    Case { name, about, call, concurrency: 1, harm: Some(harm) }
}

pub const ALL: &[Case] = &[
    load("put-1", "put 256 B, one at a time", "put", 1),
    load("get-1", "get one key, one at a time", "get", 1),
    load("put-256", "put 256 B, 256 under way", "put", 256),
    load("get-256", "get one key, 256 under way", "get", 256),
    load("watch", "events of one key to 200 watches", "watch", 200),
    failover("kill-get", "gets, a follower is killed", "failover-get", Harm::KillFollower),
    failover("kill-put", "puts, a follower is killed", "failover-put", Harm::KillFollower),
    failover("leader-put", "puts, the leader is killed", "failover-put", Harm::KillLeader),
    failover("silent-get", "gets, a follower falls silent", "failover-get", Harm::StopFollower),
    failover("silent-put", "puts, a follower falls silent", "failover-put", Harm::StopFollower),
];

/// The servers of one run.
pub enum Stage {
    One(Server),
    Three(Cluster),
}

impl Case {
    pub fn is_failover(&self) -> bool {
        self.harm.is_some()
    }

    /// Starts what the case needs.
    pub fn prepare(&self, server: &Program, settings: &Settings) -> Result<Stage, String> {
        if self.harm.is_none() {
            return Server::start(server, &settings.folder).map(Stage::One);
        }
        let trial = Trial { program: server.clone(), folder: settings.folder.clone(), time: Duration::ZERO, keys: 0 };
        Cluster::start(&trial).map(Stage::Three)
    }
}

impl Stage {
    /// One program's run.
    pub fn run(&mut self, case: &Case, client: &Client, settings: &Settings) -> Result<Counted, String> {
        match (self, case.harm) {
            (Stage::One(server), _) if case.call == "watch" => watched(server, case, client, settings),
            (Stage::One(server), _) => {
                let endpoints = [server.address()];
                let mut running = Running::start(client, &endpoints, case.call, settings.seconds, case.concurrency)?;
                running.begin()?;
                running.end()
            }
            (Stage::Three(cluster), Some(harm)) => harmed(cluster, harm, case, client),
            (Stage::Three(_), None) => Err("a cluster without harm".to_owned()),
        }
    }
}

/// Puts under way in the watch case: more than one, so that the server is never idle, and few, so that etcd's watchers do
/// not overflow and wait for its catch-up loop.
const PUTS_UNDER_WAY: usize = 2;

/// Somebody else puts the watched key.
fn watched(server: &Server, case: &Case, client: &Client, settings: &Settings) -> Result<Counted, String> {
    struct Puts;
    impl Source for Puts {
        fn request(&mut self, _stream: usize) -> Option<bytes::Bytes> {
            Some(requests::put_body(bytes::Bytes::from_static(WATCHED_KEY.as_bytes()), requests::value(VALUE_BYTES, 0)))
        }
    }
    let endpoints = [server.address()];
    let mut running = Running::start(client, &endpoints, case.call, settings.seconds, case.concurrency)?;
    let control = Arc::new(Control::default());
    let puts = Load {
        path: PUT,
        connections: 1,
        streams: PUTS_UNDER_WAY,
        source: Box::new(|_| Box::new(Puts)),
        tls: None,
        token: None,
    };
    let putting = puts.spawn(server.address(), &control);
    let counted = running.begin().and_then(|()| running.end());
    control.stop();
    putting.join().map_err(|_| "a load thread panicked".to_owned())??;
    counted
}

fn harmed(cluster: &mut Cluster, harm: Harm, case: &Case, client: &Client) -> Result<Counted, String> {
    let leader = cluster.settle()?;
    let victim = match harm {
        Harm::KillLeader => leader,
        Harm::KillFollower | Harm::StopFollower => (leader + 1) % cluster.members.len(),
    };
    let endpoints: Vec<_> = cluster.members.iter().map(Server::address).collect();
    let mut running = Running::start(client, &endpoints, case.call, FAILOVER_SECONDS, case.concurrency)?;
    running.begin()?;
    std::thread::sleep(BEFORE_HARM);
    let silent = matches!(harm, Harm::StopFollower);
    let member = &mut cluster.members[victim];
    if silent {
        signal(member, Signal::STOP)?
    } else {
        member.kill()?
    }
    let counted = running.end();
    let member = &mut cluster.members[victim];
    if silent {
        signal(member, Signal::CONT)?
    } else {
        member.resume().map(drop)?
    }
    counted
}

fn signal(server: &Server, signal: Signal) -> Result<(), String> {
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw).ok_or("a process id out of range")?;
    kill_process(pid, signal).map_err(|error| format!("{signal:?}: {error}"))
}
