//! `check`: puts load on the cluster and judges how it bears it. All keys are written under a prefix that must be empty, and
//! are deleted at the end.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use kvorum_client::{Client, Header as _};

use super::global::Settings;
use super::output::print_bytes;
use super::progress::Progress;
use super::session::error_text;
use super::{UTILITY, page, session};
use crate::command::{Action, Command, EXIT_BAD_ARGUMENTS, EXIT_BAD_FEATURE, EXIT_ERROR, EXIT_INVALID_INPUT};
use crate::command::{Failure, Flag, Parsed};
use crate::golang;

/// How long deleting and compacting may take.
const CLEANUP_TIME_MAX: Duration = Duration::from_secs(30);

const LOAD: Flag = Flag::text("load", "how much: s(small), m(medium), l(large) or xl(xLarge)").or("s");
const PERF_PREFIX: Flag = Flag::text("prefix", "what the keys begin with").or("/etcdctl-check-perf/");
const SCALE_PREFIX: Flag = Flag::text("prefix", "what the keys begin with").or("/etcdctl-check-datascale/");
const AUTO_COMPACT: Flag = Flag::switch("auto-compact", "compact the history at the end");
const AUTO_DEFRAG: Flag = Flag::switch("auto-defrag", "defragment the members of --endpoints at the end");

pub const COMMAND: Command = Command {
    name: "check",
    operands: "<subcommand>",
    about: "Checks what the cluster can bear",
    heading: UTILITY,
    action: Action::Group(&[
        Command {
            name: "perf",
            operands: "[options]",
            about: "Writes for a minute and judges throughput and latency",
            flags: &[LOAD, PERF_PREFIX, AUTO_COMPACT, AUTO_DEFRAG],
            action: Action::Perform(perf),
            ..Command::EMPTY
        },
        Command {
            name: "datascale",
            operands: "[options]",
            about: "Writes many keys and tells how much memory the first member of --endpoints holds them in",
            flags: &[LOAD, SCALE_PREFIX, AUTO_COMPACT, AUTO_DEFRAG],
            action: Action::Perform(data_scale),
            ..Command::EMPTY
        },
    ]),
    ..Command::EMPTY
};

/// What is written, and by how many clients.
#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    /// Writes in a second (`check perf`), or in all (`check datascale`).
    writes: u64,
    key_bytes: usize,
    value_bytes: usize,
}

/// `check perf` writes as long as this.
const PERF_TIME: Duration = Duration::from_secs(60);

/// The loads small to xLarge, as etcdctl has them.
const PERF_LOADS: [(usize, u64); 4] = [(50, 150), (200, 1_000), (500, 8_000), (1_000, 15_000)];
const SCALE_LOADS: [(usize, u64); 4] = [(50, 10_000), (200, 100_000), (500, 1_000_000), (1_000, 3_000_000)];

fn load(parsed: &Parsed, loads: [(usize, u64); 4]) -> Result<(usize, u64), Failure> {
    let index = match parsed.value(&LOAD) {
        "s" | "small" => 0,
        "m" | "medium" => 1,
        "l" | "large" => 2,
        "xl" | "xLarge" => 3,
        other => return Err(Failure::new(EXIT_BAD_FEATURE, format!("unknown load option {other}"))),
    };
    Ok(loads[index])
}

fn perf(parsed: &Parsed) -> Result<(), Failure> {
    let (clients, writes) = load(parsed, PERF_LOADS)?;
    let load = Load { clients, writes, key_bytes: 256, value_bytes: 1024 };
    let settings = Settings::read(parsed)?;
    session::block_on(async {
        let (text, is_passed) = measure(parsed, &settings, &load, PERF_TIME).await?;
        print_bytes(text.as_bytes())?;
        if is_passed { Ok(()) } else { Err(Failure::silent(EXIT_ERROR)) }
    })
}

/// Writes for so long and cleans up. Gives what is to be said of it, and whether it was good enough.
async fn measure(
    parsed: &Parsed,
    settings: &Settings,
    load: &Load,
    duration: Duration,
) -> Result<(String, bool), Failure> {
    let prefix = parsed.value(&PERF_PREFIX);
    let clients = connect(settings, load.clients).await?;
    refuse_used_prefix(&clients[0], prefix, "'").await?;
    let run = Run::new(load, prefix, Some(duration));
    let seconds = |count: u64| format!("{count} s");
    let took = run.write_all(&clients, Progress::new(seconds)).await;
    if let Some(revision) = delete_all(&clients[0], prefix).await?
        && parsed.is_set(&AUTO_COMPACT)
    {
        compact(&clients[0], revision).await?;
    }
    if parsed.is_set(&AUTO_DEFRAG) {
        defragment(settings, &clients[0]).await?;
    }
    Ok(judged(&run.into_results(), took, load.writes))
}

/// What `check perf` says of the results, and whether they are good enough.
fn judged(results: &Results, took: Duration, writes_per_second: u64) -> (String, bool) {
    const THROUGHPUT_MIN: f64 = 0.9;
    const SLOWEST_SECONDS_MAX: f64 = 0.5;
    const DEVIATION_SECONDS_MAX: f64 = 0.1;
    let (mut text, mut is_passed) = error_lines(&results.errors);
    let throughput = results.seconds.len() as f64 / took.as_secs_f64().max(f64::EPSILON);
    let slowest = results.seconds.iter().copied().fold(0.0, f64::max);
    let deviation = deviation(&results.seconds);
    let shown = throughput as u64 + 1;
    let judgements = [
        (
            throughput / writes_per_second as f64 > THROUGHPUT_MIN,
            format!("PASS: Throughput is {shown} writes/s"),
            format!("FAIL: Throughput too low: {shown} writes/s"),
        ),
        (
            slowest <= SLOWEST_SECONDS_MAX,
            format!("PASS: Slowest request took {slowest:.6}s"),
            format!("Slowest request took too long: {slowest:.6}s"),
        ),
        (
            deviation <= DEVIATION_SECONDS_MAX,
            format!("PASS: Stddev is {deviation:.6}s"),
            format!("Stddev too high: {deviation:.6}s"),
        ),
    ];
    for (is_good, good, bad) in judgements {
        is_passed &= is_good;
        text += &(if is_good { good } else { bad } + "\n");
    }
    text += if is_passed { "PASS\n" } else { "FAIL\n" };
    (text, is_passed)
}

fn error_lines(errors: &BTreeMap<String, u64>) -> (String, bool) {
    if errors.is_empty() {
        return (String::new(), true);
    }
    let lines = errors.iter().map(|(error, count)| format!("FAIL: ERROR({error}) -> {count}\n"));
    ("FAIL: too many errors\n".to_owned() + &lines.collect::<String>(), false)
}

fn deviation(values: &[f64]) -> f64 {
    let count = values.len().max(1) as f64;
    let average = values.iter().sum::<f64>() / count;
    (values.iter().map(|value| (value - average).powi(2)).sum::<f64>() / count).sqrt()
}

fn data_scale(parsed: &Parsed) -> Result<(), Failure> {
    let (clients, writes) = load(parsed, SCALE_LOADS)?;
    let load = Load { clients, writes, key_bytes: 512, value_bytes: 512 };
    let settings = Settings::read(parsed)?;
    session::block_on(async {
        let prefix = parsed.value(&SCALE_PREFIX);
        let clients = connect(&settings, load.clients).await?;
        refuse_used_prefix(&clients[0], prefix, "").await?;
        let before = memory_bytes(&settings, "before").await?;
        let bytes = load.key_bytes + load.value_bytes;
        let text = format!(
            "Start data scale check for work load [{writes} key-value pairs, {bytes} bytes per key-value, {} concurrent \
             clients].\n",
            load.clients
        );
        print_bytes(text.as_bytes())?;
        let run = Run::new(&load, prefix, None);
        run.write_all(&clients, Progress::new(|count| count.to_string())).await;
        let after = memory_bytes(&settings, "after").await?;
        let revision = clients[0].with_timeout(CLEANUP_TIME_MAX).delete(prefix).prefix().await?.revision();
        if parsed.is_set(&AUTO_COMPACT) {
            compact(&clients[0], revision).await?;
        }
        if parsed.is_set(&AUTO_DEFRAG) {
            defragment(&settings, &clients[0]).await?;
        }
        let (text, is_passed) = error_lines(&run.into_results().errors);
        if !is_passed {
            print_bytes(text.as_bytes())?;
            return Err(Failure::silent(EXIT_ERROR));
        }
        let megabytes = (after - before) / (1024.0 * 1024.0);
        print_bytes(format!("PASS: Approximate system memory used : {megabytes:.2} MB.\n").as_bytes())
    })
}

/// Clients that share no connection.
async fn connect(settings: &Settings, count: usize) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let client = Client::lazy(settings.config()?).map_err(|error| session::failure(EXIT_BAD_ARGUMENTS, &error))?;
        if settings.logs_in() {
            session::log_in(&client, settings.dial_timeout).await?;
        }
        clients.push(client);
    }
    Ok(clients)
}

async fn refuse_used_prefix(client: &Client, prefix: &str, quote: &str) -> Result<(), Failure> {
    if client.get(prefix).prefix().limit(1).await?.kvs.is_empty() {
        return Ok(());
    }
    let shown = golang::quote(prefix.as_bytes());
    let text = format!("prefix {shown} has keys. Delete with {quote}etcdctl del --prefix {prefix}{quote} first");
    Err(Failure::new(EXIT_INVALID_INPUT, text))
}

/// Gives the revision of the deletion; what went wrong with it is printed.
async fn delete_all(client: &Client, prefix: &str) -> Result<Option<i64>, Failure> {
    match client.with_timeout(CLEANUP_TIME_MAX).delete(prefix).prefix().await {
        Ok(answer) => Ok(Some(answer.revision())),
        Err(error) => {
            let text = format!("FAIL: Cleanup failed during key deletion: ERROR({})\n", error_text(&error));
            print_bytes(text.as_bytes()).map(|()| None)
        }
    }
}

async fn compact(client: &Client, revision: i64) -> Result<(), Failure> {
    print_bytes(format!("Compacting with revision {revision}\n").as_bytes())?;
    client.with_timeout(CLEANUP_TIME_MAX).compact(revision).physical().await?;
    print_bytes(format!("Compacted with revision {revision}\n").as_bytes())
}

async fn defragment(settings: &Settings, client: &Client) -> Result<(), Failure> {
    for endpoint in &settings.endpoints {
        let shown = golang::quote(endpoint.as_bytes());
        print_bytes(format!("Defragmenting {shown}\n").as_bytes())?;
        client.with_timeout(CLEANUP_TIME_MAX).maintenance().at(endpoint).defragment().await?;
        print_bytes(format!("Defragmented {shown}\n").as_bytes())?;
    }
    Ok(())
}

/// What became of the writes.
#[derive(Default)]
struct Results {
    /// Of each write that succeeded.
    seconds: Vec<f64>,
    errors: BTreeMap<String, u64>,
}

/// Writes under way. The n-th one is due at its time, or at once if there is no hurry but the number of clients.
struct Run<'a> {
    load: &'a Load,
    prefix: &'a str,
    /// For so long; without it, until all are written.
    duration: Option<Duration>,
    seed: u64,
    next: AtomicU64,
    is_stopped: AtomicBool,
    results: Mutex<Results>,
}

impl<'a> Run<'a> {
    fn new(load: &'a Load, prefix: &'a str, duration: Option<Duration>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (next, is_stopped, results) = Default::default();
        Self { load, prefix, duration, seed: now.as_nanos() as u64, next, is_stopped, results }
    }

    /// Writes with all clients until everything is written, the time is over, or an interrupt comes. Gives how long it took.
    async fn write_all(&self, clients: &[Client], mut progress: Progress) -> Duration {
        let began = Instant::now();
        let writing = join_all(clients.iter().map(|client| self.write(client, began)));
        tokio::pin!(writing);
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        loop {
            tokio::select! {
                _ = &mut writing => return began.elapsed(),
                _ = &mut interrupt, if !self.is_stopped.load(Ordering::Relaxed) => {
                    self.is_stopped.store(true, Ordering::Relaxed);
                }
                _ = ticks.tick() => match self.duration {
                    Some(duration) => progress.set(began.elapsed().as_secs().min(duration.as_secs()), duration.as_secs()),
                    None => progress.set(self.next.load(Ordering::Relaxed).min(self.load.writes), self.load.writes),
                },
            }
        }
    }

    async fn write(&self, client: &Client, began: Instant) {
        let value = vec![0; self.load.value_bytes];
        while !self.is_stopped.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            match self.duration {
                Some(duration) => {
                    let due = Duration::from_secs_f64(number as f64 / self.load.writes as f64);
                    if due.max(began.elapsed()) >= duration {
                        return;
                    }
                    tokio::time::sleep_until((began + due).into()).await;
                }
                None if number >= self.load.writes => return,
                None => {}
            }
            let sent = Instant::now();
            let outcome = client.put(self.key(number), value.clone()).await;
            let mut results = self.results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match outcome {
                Ok(_) => results.seconds.push(sent.elapsed().as_secs_f64()),
                Err(error) => *results.errors.entry(error_text(&error)).or_default() += 1,
            }
        }
    }

    /// A key of the length that is wanted behind the prefix, all over the range.
    fn key(&self, number: u64) -> Vec<u8> {
        let mut scattered = number.wrapping_add(self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        scattered ^= scattered >> 29;
        let mut key = self.prefix.as_bytes().to_vec();
        key.extend_from_slice(&scattered.to_le_bytes());
        key.extend_from_slice(&number.to_le_bytes());
        key.resize(self.prefix.len() + self.load.key_bytes, 0);
        key
    }

    fn into_results(self) -> Results {
        self.results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// How much memory the first endpoint's member has, as its metrics say.
async fn memory_bytes(settings: &Settings, when: &str) -> Result<f64, Failure> {
    let asked = tokio::time::timeout(settings.command_timeout, fetch_memory_bytes(settings)).await;
    let found = asked.unwrap_or_else(|_| Err("fetch error: no answer in time".to_owned()));
    match found {
        Ok(bytes) if bytes > 0.0 => return Ok(bytes),
        Ok(_) => {}
        Err(text) => print_bytes(format!("{text}\n").as_bytes())?,
    }
    let text = format!("FAIL: Could not read process_resident_memory_bytes {when} the put operations.\n");
    print_bytes(text.as_bytes())?;
    Err(Failure::silent(EXIT_ERROR))
}

async fn fetch_memory_bytes(settings: &Settings) -> Result<f64, String> {
    const NAME: &str = "process_resident_memory_bytes";
    let endpoint = settings.endpoints.first().map_or("", String::as_str);
    let answer = page::fetch(endpoint, "/metrics", &settings.tls).await;
    let answer = answer.map_err(|error| format!("fetch error: {error}"))?;
    let value = answer.lines().find_map(|line| line.strip_prefix(NAME));
    let value = value.ok_or_else(|| format!("could not find: {NAME}"))?;
    value.trim().parse().map_err(|_| format!("parse error: {}", value.trim()))
}

#[cfg(test)]
mod tests {
    use super::super::global::ENDPOINTS;
    use super::*;

    #[test]
    fn a_check_is_passed_or_not() {
        let results = |seconds: &[f64], errors: &[(&str, u64)]| Results {
            seconds: seconds.to_vec(),
            errors: errors.iter().map(|(error, count)| ((*error).to_owned(), *count)).collect(),
        };
        let second = Duration::from_secs(1);
        let good =
            "PASS: Throughput is 3 writes/s\nPASS: Slowest request took 0.300000s\nPASS: Stddev is 0.100000s\nPASS\n";
        assert_eq!(judged(&results(&[0.1, 0.3], &[]), second, 2), (good.to_owned(), true));
        let bad = "FAIL: too many errors\nFAIL: ERROR(no) -> 2\nFAIL: Throughput too low: 3 writes/s\n\
                   Slowest request took too long: 0.700000s\nStddev too high: 0.300000s\nFAIL\n";
        assert_eq!(judged(&results(&[0.1, 0.7], &[("no", 2)]), second, 3), (bad.to_owned(), false));
    }

    /// The check itself, in a moment instead of a minute.
    #[test]
    fn a_member_is_measured() {
        let folder = tempfile::tempdir().expect("a folder");
        let member = kvorum_server::embed::start(folder.path()).expect("a member");
        let mut parsed = Parsed::default();
        for (flag, value) in [(&ENDPOINTS, &*member.client_url()), (&AUTO_COMPACT, "true"), (&AUTO_DEFRAG, "true")] {
            parsed.set(flag, value).expect("a value");
        }
        let settings = Settings::from_flags(parsed.clone()).expect("settings");
        let load = Load { clients: 5, writes: 100, key_bytes: 64, value_bytes: 128 };
        session::block_on(async {
            let (text, _) = measure(&parsed, &settings, &load, Duration::from_millis(300)).await?;
            let lines: Vec<&str> = text.lines().collect();
            // Whether it passes is this machine's affair.
            assert!(lines.len() == 4 && lines[0].contains("Throughput") && !text.contains("ERROR"), "{text}");
            let client = &connect(&settings, 1).await?[0];
            let answer = client.get("").prefix().await?;
            assert!(answer.kvs.is_empty(), "it deletes what it wrote");
            // The first revision is 1, and the deletion has one too.
            assert!((3..=32).contains(&answer.revision()), "at most as many as are due: {}", answer.revision());
            let compacted = client.get("a").at_revision(2).await.expect_err("it was compacted");
            assert!(compacted.is(kvorum_client::EtcdError::Compacted), "{compacted:?}");
            Ok(())
        })
        .expect("it is measured");
    }
}
