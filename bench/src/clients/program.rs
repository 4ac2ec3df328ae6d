//! A program that uses one of the clients: started, followed line by line, its CPU time read between the lines `begin` and
//! `end`. See `bench/src/bin/client-load.rs` for what such a program does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::process;

/// A program that says nothing for so long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A client that is compared.
pub struct Client {
    pub name: String,
    pub path: PathBuf,
}

/// What one run of a program gave.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Requests or events.
    pub count: f64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    /// What else the program said, by name: `p50_us`, `p99_us`, `failed`, `longest_us`.
    pub others: BTreeMap<String, f64>,
}

impl Counted {
    /// A line for the person who waits.
    pub fn brief(&self) -> String {
        let others: Vec<String> = self.others.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let cpu = self.cpu_seconds * 1e6 / self.count.max(1.0);
        format!("{:.0}/s, CPU {cpu:.2} us each, {}", self.count / self.seconds, others.join(", "))
    }
}

/// A program that runs.
pub struct Running {
    child: Child,
    lines: Receiver<(String, Instant)>,
    cpu_at_begin: Duration,
}

impl Running {
    /// Starts a program and waits until it is set up.
    pub fn start(
        client: &Client,
        endpoints: &[SocketAddr],
        case: &str,
        seconds: f64,
        concurrency: usize,
    ) -> Result<Running, String> {
        let endpoints: Vec<String> = endpoints.iter().map(|address| format!("http://{address}")).collect();
        let mut child = Command::new(&client.path)
            .args([&endpoints.join(","), case, &seconds.to_string(), &concurrency.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", client.path.display()))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send((line, Instant::now())).is_err() {
                    return;
                }
            }
        });
        let mut running = Running { child, lines, cpu_at_begin: Duration::ZERO };
        running.wait_for("ready")?;
        Ok(running)
    }

    /// Waits until it counts.
    pub fn begin(&mut self) -> Result<(), String> {
        self.wait_for("begin")?;
        self.cpu_at_begin = process::cpu_time(self.child.id())?;
        Ok(())
    }

    /// Waits until it has counted.
    pub fn end(mut self) -> Result<Counted, String> {
        let text = self.wait_for("end ")?;
        let cpu_seconds = (process::cpu_time(self.child.id())?.saturating_sub(self.cpu_at_begin)).as_secs_f64();
        let mut others = numbers(&text)?;
        let mut take = |name: &str| others.remove(name).ok_or_else(|| format!("no {name} in {text:?}"));
        let (count, seconds) = (take("count")?, take("seconds")?);
        Ok(Counted { count, seconds, cpu_seconds, others })
    }

    /// The rest of the next line, which must begin so.
    fn wait_for(&mut self, word: &str) -> Result<String, String> {
        let (line, _) = self.lines.recv_timeout(SILENCE_MAX).map_err(|_| {
            let ended = self.child.try_wait().ok().flatten();
            ended.map_or_else(|| format!("it never said {word:?}"), |status| format!("it ended: {status}"))
        })?;
        line.strip_prefix(word).map(str::to_owned).ok_or_else(|| format!("it said {line:?} instead of {word:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends by itself with its stdin; one that hangs does not.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

fn numbers(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let pair = |word: &str| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    text.split_whitespace().map(|word| pair(word).ok_or_else(|| format!("what is {word:?}?"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_say_is_read() {
        let said = numbers("count=12 seconds=1.5 p50_us=7").expect("valid");
        assert_eq!((said["count"], said["seconds"], said["p50_us"]), (12.0, 1.5, 7.0));
        assert!(numbers("count").is_err() && numbers("count=many").is_err());
    }
}
