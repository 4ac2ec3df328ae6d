//! Clusters of real processes under faults: members are killed, paused, cut off, slowed down, filled up and replaced while
//! clients work, and what the clients saw is judged by the simulator's judges. A cluster runs for one round, from its
//! founding to the verdict; the next round begins with an empty one.
//!
//! The seed decides faults and requests, not when they meet: a seed that failed fails again often, not always. Time
//! decides nothing about a verdict.
//!
//! In reading order: [`process`] is one member, [`network`] what lies between members, [`cluster`] both together;
//! [`schedule`] does harm; [`clients`] and [`watchers`] work meanwhile ([`requests`] on the wire) and leave what they saw
//! with the [`recorder`]; [`verdict`] judges what is no history; [`plant`] shows that all this can fail.

pub mod clients;
pub mod cluster;
pub mod network;
pub mod plant;
pub mod process;
pub mod recorder;
pub mod requests;
pub mod schedule;
pub mod verdict;
pub mod watchers;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvorum_sim::history::{History, Outcome, Reply, Request};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::clients::Client;
use self::cluster::{Cluster, RECOVERY, Setup};
use self::plant::Plant;
use self::recorder::Recorder;
use self::schedule::{Fault, Schedule, Tally};
use self::watchers::Watcher;
use crate::random::Random;

/// Clients for each member.
const CLIENTS: usize = 3;

/// How often the last put of a round is tried, once the cluster is whole.
const LAST_PUTS_MAX: usize = 20;

/// A key that every watcher watches.
const END_KEY: &str = "k2";

/// Flags with which logs are so short that members that were away need a database.
const SHORT_LOGS: [&str; 5] = [
    "--snapshot-count=40",
    "--snapshot-catchup-entries=60",
    "--max-wals=2",
    "--max-snapshots=2",
    "--wal-segment-bytes=20000",
];

/// Logs that a member catches up from, in part from their files.
const LONG_LOGS: [&str; 3] = ["--snapshot-count=2000", "--snapshot-catchup-entries=300", "--wal-segment-bytes=200000"];

/// One round.
#[derive(Clone, Debug)]
pub struct Round {
    pub seed: u64,
    pub members: usize,
    /// How long faults are injected.
    pub length: Duration,
    pub faults: Vec<(Fault, usize)>,
    pub plant: Option<Plant>,
    pub short_logs: bool,
}

impl Round {
    /// A round with all faults that can be had.
    pub fn new(seed: u64, members: usize, length: Duration) -> Round {
        Round { seed, members, length, faults: Fault::ALL.to_vec(), plant: None, short_logs: seed % 4 < 2 }
    }
}

/// The programs that a round needs.
#[derive(Clone, Debug)]
pub struct Programs {
    pub server: PathBuf,
    /// The forgetful disk.
    pub library: PathBuf,
}

/// What happened in a round.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub operations: usize,
    pub unknown: usize,
    pub not_taken: usize,
    pub watches: usize,
    pub watch_messages: usize,
    pub tally: Tally,
}

impl Report {
    fn of(history: &History, tally: Tally) -> Report {
        let count = |wanted: Outcome| history.operations.iter().filter(|operation| operation.outcome == wanted).count();
        Report {
            operations: history.operations.len(),
            unknown: count(Outcome::Unknown),
            not_taken: count(Outcome::NotTaken),
            watches: history.watches.len(),
            watch_messages: history.watches.iter().map(|record| record.messages.len()).sum(),
            tally,
        }
    }

    /// Adds another round's figures.
    pub fn add(&mut self, other: &Report) {
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.not_taken += other.not_taken;
        self.watches += other.watches;
        self.watch_messages += other.watch_messages;
        for (fault, count) in &other.tally.faults {
            *self.tally.faults.entry(*fault).or_default() += count;
        }
        self.tally.databases += other.tally.databases;
        self.tally.leaderless.extend(&other.tally.leaderless);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: usize = self.tally.faults.values().sum();
        write!(formatter, "{} operations ({} of unknown outcome, ", self.operations, self.unknown)?;
        write!(formatter, "{} certainly not carried out), ", self.not_taken)?;
        write!(formatter, "{} watches with {} messages, {faults} faults, ", self.watches, self.watch_messages)?;
        write!(formatter, "{} databases taken over", self.tally.databases)?;
        let mut times = self.tally.leaderless.clone();
        times.sort_unstable();
        if let (Some(median), Some(longest)) = (times.get(times.len() / 2), times.last()) {
            let count = times.len();
            write!(formatter, "; without a leader after {count} kills: median {median:.0?}, longest {longest:.0?}")?;
        }
        Ok(())
    }
}

/// A round whose verdict is bad. Its folder is kept.
#[derive(Clone, Debug)]
pub struct Failure {
    pub text: String,
    pub folder: PathBuf,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\nkept: {}", self.text, self.folder.display())
    }
}

/// Runs a round to its verdict.
pub fn run(programs: &Programs, round: &Round) -> Result<Report, Failure> {
    let folder = TempDir::with_prefix("kvorum-faults-").expect("a temporary folder can be made");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let recorder = Arc::new(Recorder::default());
    let judged = runtime.block_on(play(programs, round, &folder, &recorder));
    runtime.shutdown_background();
    let history = recorder.take();
    let judged = judged.and_then(|tally| {
        history.check(0).map_err(|violation| violation.to_string())?;
        Ok(Report::of(&history, tally))
    });
    judged.map_err(|text| {
        let folder = folder.keep();
        // The folder is for people, who do without the history if it cannot be written.
        std::fs::write(folder.join("history.txt"), format!("{round:?}\n{history:#?}")).ok();
        Failure { text, folder }
    })
}

async fn play(programs: &Programs, round: &Round, folder: &TempDir, recorder: &Arc<Recorder>) -> Result<Tally, String> {
    let mut random = Random::new(round.seed);
    let mut flags: Vec<String> = vec!["--backend-batch-interval=20ms".to_owned()];
    let logs: &[&str] = if round.short_logs { &SHORT_LOGS } else { &LONG_LOGS };
    flags.extend(logs.iter().map(|flag| (*flag).to_owned()));
    let setup = Setup {
        binary: programs.server.clone(),
        library: programs.library.clone(),
        flags,
        deaf: (round.plant == Some(Plant::UnsyncedLog)).then_some("/data/member/wal"),
    };
    let mut cluster = Cluster::found(round.members, setup, folder.path())?;
    cluster.wait_until_all_serve().await?;
    let crowd = Crowd::start(&cluster, round, recorder, &mut random);
    let mut schedule = Schedule::new(&mut cluster, Random::new(random.bits()), Arc::clone(recorder), &round.faults);
    let ended = schedule.run(round.length).await;
    let mut tally = std::mem::take(&mut schedule.tally);
    ended?;
    cluster.wait_until_all_serve().await?;
    let revision = crowd.finish(&mut cluster).await?;
    tally.databases = judge_members(&mut cluster, revision).await?;
    Ok(tally)
}

/// Everybody who works with the cluster.
struct Crowd {
    stop: watch::Sender<bool>,
    last: watch::Sender<Option<i64>>,
    clients: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
    recorder: Arc<Recorder>,
}

impl Crowd {
    fn start(cluster: &Cluster, round: &Round, recorder: &Arc<Recorder>, random: &mut Random) -> Crowd {
        let (stop, last) = (watch::Sender::new(false), watch::Sender::new(None));
        let urls = cluster.urls();
        let mut clients = Vec::new();
        for number in 0..(CLIENTS * cluster.size()) as u32 {
            let random = Random::new(random.bits());
            let client = Client::new(number, &urls, Arc::clone(recorder), random, round.plant);
            clients.push(tokio::spawn(client.run(stop.subscribe())));
        }
        let mut watchers = Vec::new();
        for index in 0..=cluster.size() as u32 {
            let random = Random::new(random.bits());
            let watcher = Watcher::new(index, &urls, Arc::clone(recorder), random, round.plant);
            watchers.push(tokio::spawn(watcher.run(last.subscribe())));
        }
        Crowd { stop, last, clients, watchers, recorder: Arc::clone(recorder) }
    }

    /// Lets clients come to their ends, and watchers see all that was written.
    /// Gives the last revision.
    async fn finish(mut self, cluster: &mut Cluster) -> Result<i64, String> {
        self.stop.send_replace(true);
        for client in std::mem::take(&mut self.clients) {
            client.await.map_err(|error| format!("a client: {error}"))?;
        }
        let revision = self.mark_end(cluster).await?;
        self.last.send_replace(Some(revision));
        // Progress is told beyond that too, also to a watch that begins later than it should.
        let judged = self.mark_end(cluster).await?;
        let until = tokio::time::Instant::now() + RECOVERY;
        for watcher in self.watchers {
            match tokio::time::timeout_at(until, watcher).await {
                Ok(ended) => ended.map_err(|error| format!("a watcher: {error}"))?,
                Err(_) => return Err(format!("a watch does not come to revision {revision}")),
            }
        }
        Ok(judged)
    }
}

impl Crowd {
    /// A last write that all watchers must see. Gives its revision.
    async fn mark_end(&self, cluster: &mut Cluster) -> Result<i64, String> {
        let mut last = String::new();
        for _ in 0..LAST_PUTS_MAX {
            let request = Request::Put { key: END_KEY.into(), value: "end".into(), lease: 0 };
            let operation = self.recorder.call(u32::MAX, request);
            match cluster.put(END_KEY, "end").await {
                Ok(revision) => {
                    self.recorder.answer(operation, Outcome::Done { revision, reply: Reply::Put });
                    return Ok(revision);
                }
                Err(error) => last = error,
            }
            cluster.wait_until_all_serve().await?;
        }
        Err(last)
    }
}

/// Gives how often databases were taken over.
async fn judge_members(cluster: &mut Cluster, revision: i64) -> Result<usize, String> {
    // A linearizable read shows that a member has come so far.
    cluster.wait_until_all_serve().await?;
    let mut hashes = Vec::new();
    for member in 0..cluster.size() {
        hashes.push((cluster.members[member].name.clone(), cluster.hash_kv(member, revision).await?));
    }
    verdict::hashes_agree(&hashes)?;
    cluster.check_alive()?;
    let logs = cluster.members.iter().map(|member| verdict::log_is_clean(&member.log_path()));
    logs.sum()
}

/// The command that runs a round again.
pub fn repeat(round: &Round) -> String {
    format!(
        "cargo xtask faults --seed {} --members {} --round-seconds {} --rounds 1",
        round.seed,
        round.members,
        round.length.as_secs()
    )
}
