//! A live cluster goes from etcd to Kvorum and back while clients work: in place, on the same data directories, and by
//! members that take each other's places. TLS is on for clients and members, and authentication. What an operator does is done
//! by the operator's script, `docs/operating/migrate.sh`.
//!
//! Nothing that was acknowledged may be lost, no event of a watch lost or repeated, no lease lost: [`run`] fails then. How many
//! requests failed is counted, beside what the same steps cost a cluster that stays etcd's.

mod clients;
mod site;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kvorum_client::Client;

pub use clients::Counts;
use clients::{END, PARKED_SECONDS, PREFIX, Shared, Told};
use site::{ROOT, Site, USER};

/// The two that take turns.
#[derive(Clone, Debug)]
pub struct Programs {
    pub kvorum: PathBuf,
    pub etcd: PathBuf,
}

/// One way to go, over all three members, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The yardstick: etcd is stopped and etcd is started, in place.
    EtcdRestarts,
    /// etcd is stopped and Kvorum started on its data.
    TakeOver,
    /// Kvorum is stopped and started.
    KvorumRestarts,
    /// Kvorum is stopped, its data are written out, and etcd started on them.
    GiveBack,
    /// The yardstick: members of etcd take the places of members of etcd.
    EtcdReplaced,
    /// Members of Kvorum take the places of members of etcd.
    ReplacedByKvorum,
    /// Members of etcd take the places of members of Kvorum.
    ReplacedByEtcd,
}

impl Step {
    /// An order in which each begins with what the one before left.
    pub const ALL: [Step; 7] = [
        Step::EtcdRestarts,
        Step::TakeOver,
        Step::KvorumRestarts,
        Step::GiveBack,
        Step::EtcdReplaced,
        Step::ReplacedByKvorum,
        Step::ReplacedByEtcd,
    ];

    pub fn is_in_place(self) -> bool {
        matches!(self, Step::EtcdRestarts | Step::TakeOver | Step::KvorumRestarts | Step::GiveBack)
    }

    fn is_to_kvorum(self) -> bool {
        matches!(self, Step::TakeOver | Step::KvorumRestarts | Step::ReplacedByKvorum)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Step::EtcdRestarts => "etcd stopped, etcd started (yardstick)",
            Step::TakeOver => "etcd stopped, Kvorum started on its data",
            Step::KvorumRestarts => "Kvorum stopped, Kvorum started",
            Step::GiveBack => "Kvorum stopped, data exported, etcd started on them",
            Step::EtcdReplaced => "etcd's members replaced by etcd's (yardstick)",
            Step::ReplacedByKvorum => "etcd's members replaced by Kvorum's",
            Step::ReplacedByEtcd => "Kvorum's members replaced by etcd's",
        })
    }
}

/// How much goes on meanwhile.
#[derive(Clone, Debug)]
pub struct Pace {
    pub writers: usize,
    /// Between two requests of a writer.
    pub pause: Duration,
    pub watchers: usize,
    pub leases: usize,
    /// For which the leases last: far longer than a cluster is without a leader, also on a machine that stands still at times.
    pub lease_seconds: i64,
    /// Work before and behind each change of a member.
    pub calm: Duration,
}

/// One journey.
#[derive(Clone, Debug)]
pub struct Journey {
    pub programs: Programs,
    pub steps: Vec<Step>,
    pub pace: Pace,
    /// Of all members, besides those for addresses and certificates.
    pub flags: Vec<String>,
}

/// What a step cost.
#[derive(Clone, Debug)]
pub struct Report {
    pub step: Step,
    pub counts: Counts,
    pub took: Duration,
    /// New members that the leader sent a database, not entries alone.
    pub databases_received: usize,
}

/// What a journey showed.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    pub steps: Vec<Report>,
    /// Events of the history, which each watcher has seen once and in order.
    pub events: usize,
    pub watchers: usize,
    pub leases: usize,
}

/// Goes the journey.
///
/// # Errors
/// What was lost, repeated or wrong, and what the clients were told meanwhile.
///
/// # Panics
/// When a member does not start, or the operator's script fails.
pub async fn run(journey: &Journey) -> Result<Reports, String> {
    let Journey { programs, pace, .. } = journey;
    let mut site = Site::found(programs, &journey.flags).await;
    let control = site.client(USER).await;
    let shared = Shared::new();
    let parked = control.lease().grant(PARKED_SECONDS).await.map_err(|error| error.to_string())?;
    let put = control.put(format!("{PREFIX}parked"), "here").with_lease(parked.id).await;
    let first = put.map_err(|error| error.to_string())?.header.unwrap_or_default().revision + 1;

    let (mut writers, mut watchers, mut holders) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pace.watchers {
        watchers.push(tokio::spawn(clients::watch(site.client(USER).await, shared.clone(), first)));
    }
    for number in 0..pace.leases {
        holders.push(clients::hold(number, pace.lease_seconds, site.client(USER).await, shared.clone()));
    }
    for number in 0..pace.writers {
        writers.push(tokio::spawn(clients::write(number, site.client(USER).await, shared.clone(), pace.pause)));
    }
    tokio::time::sleep(pace.calm).await;
    let mut reports = Reports { watchers: pace.watchers, leases: pace.leases, ..Reports::default() };
    let mut numbered = Vec::new();
    for &step in &journey.steps {
        let began = Instant::now();
        let number = shared.turn();
        let databases_received = go(&mut site, programs, step, pace.calm).await;
        let report = Report { step, counts: Counts::default(), took: began.elapsed(), databases_received };
        numbered.push((number, report));
        match clients::held(&control).await {
            Ok(count) if count == pace.leases => {}
            other => {
                shared.say_wrong(format!("after {step:?}, of {} keys with leases there are {other:?}", pace.leases))
            }
        }
    }
    shared.end();
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("a writer does not panic"));
    }
    for holder in holders {
        holder.await.expect("a holder does not panic");
    }
    reports.steps =
        numbered.into_iter().map(|(number, report)| Report { counts: shared.counts(number), ..report }).collect();
    let history = finish(&site, &control, first, &shared, parked.id).await?;
    for watcher in watchers {
        let told = watcher.await.expect("a watcher does not panic");
        compare(&told, &history, &shared);
    }
    reports.events = history.len();
    judge(&history, &acknowledged, &shared);
    let wrong = shared.take_wrong();
    if wrong.is_empty() { Ok(reports) } else { Err(format!("{}\n{reports}", wrong.join("\n"))) }
}

/// One member after the other. Gives how many new ones received a database.
async fn go(site: &mut Site, programs: &Programs, step: Step, calm: Duration) -> usize {
    let binary = if step.is_to_kvorum() { &programs.kvorum } else { &programs.etcd };
    let mut databases_received = 0;
    for index in 0..site.seats.len() {
        if step.is_in_place() {
            site.in_place(index, binary, step == Step::GiveBack).await;
        } else {
            site.replace(0, binary).await;
            let log = site.seats.last().expect("the new one").log().await;
            assert!(step.is_to_kvorum() || log.contains("published local member"), "the new member joined: {log}");
            databases_received += usize::from(log.contains("received and saved database snapshot"));
        }
        tokio::time::sleep(calm).await;
    }
    for seat in &site.seats {
        let log = seat.log().await;
        let took_over = log.contains("took over the data of etcd");
        assert!(step != Step::TakeOver || took_over, "{} took over", seat.name);
    }
    databases_received
}

/// The last write, and the whole history as one new watcher sees it.
async fn finish(
    site: &Site,
    control: &Client,
    first: i64,
    shared: &std::sync::Arc<Shared>,
    parked: i64,
) -> Result<Vec<Told>, String> {
    let lease = control.lease().time_to_live(parked).with_keys().await.map_err(|error| error.to_string())?;
    if lease.granted_ttl != PARKED_SECONDS || lease.ttl <= 0 || lease.keys.len() != 1 {
        shared.say_wrong(format!("the lease that nobody renews: {lease:?}"));
    }
    // Retried: it is the same write.
    let last = control.put(END, "").at_least_once().await.map_err(|error| error.to_string())?;
    let history = clients::watch(site.client(ROOT).await, shared.clone(), first).await;
    let hashes = site.hashes(last.header.unwrap_or_default().revision).await;
    if hashes.iter().any(|hash| *hash != hashes[0]) {
        shared.say_wrong(format!("members hold different data: {hashes:?}"));
    }
    Ok(history)
}

/// A watcher has seen the history: each event once, in order.
fn compare(told: &[Told], history: &[Told], shared: &Shared) {
    let mut seen = BTreeMap::<&Told, usize>::new();
    for event in told {
        *seen.entry(event).or_default() += 1;
    }
    let repeated = seen.values().map(|count| count - 1).sum::<usize>();
    let lost = history.iter().filter(|event| !seen.contains_key(event)).count();
    if told != history {
        shared.say_wrong(format!("of {} events a watch lost {lost} and repeated {repeated}", history.len()));
    }
}

/// What was acknowledged is in the history.
fn judge(history: &[Told], acknowledged: &[Told], shared: &Shared) {
    let known: std::collections::BTreeSet<&Told> = history.iter().collect();
    let lost: Vec<&Told> = acknowledged.iter().filter(|write| !known.contains(write)).collect();
    if !lost.is_empty() {
        shared.say_wrong(format!("{} acknowledged writes are lost, the first is {:?}", lost.len(), lost[0]));
    }
}

impl fmt::Display for Reports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Report { step, counts, took, .. } in &self.steps {
            let Counts { writes, reads, failed, in_doubt, longest_pause, slowest } = counts;
            writeln!(
                formatter,
                "{step:?}: {writes} writes, {reads} reads, {} failed ({in_doubt} in doubt), longest pause {longest_pause:.1?}, \
                 slowest {slowest:.1?}, took {took:.1?} {failed:?}",
                counts.failures(),
            )?;
        }
        write!(formatter, "{} events for each of {} watchers, {} leases", self.events, self.watchers, self.leases)
    }
}
