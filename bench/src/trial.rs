//! One run of one case on one server: starting the server, running loads for a set time, reading what they cost. It
//! never reads a clock or a counter outside of the recorded time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_rustls::TlsConnector;

use crate::control::Control;
use crate::figures::{Figure, Row};
use crate::load::{self, Load, Tally};
use crate::process;
use crate::server::{Processes, Program, Server};
use crate::streams::Channel;

/// Longer than it takes etcd to store some millions of keys.
pub const PREPARATION_TIME_MAX: Duration = Duration::from_secs(900);

/// Settings of a run, the same for all servers.
#[derive(Clone, Debug)]
pub struct Trial {
    pub program: Program,
    /// Servers keep their data in folders below this one.
    pub folder: PathBuf,
    /// How long is recorded.
    pub time: Duration,
    /// How many keys the large cases hold.
    pub keys: u64,
}

/// What was seen while recording.
pub struct Measured {
    /// One for each load, in the order they were given.
    pub tallies: Vec<Tally>,
    elapsed: Duration,
    server_cpu: Duration,
    client_cpu: Duration,
    /// What everything else on the machine used.
    foreign_cpu: Duration,
    /// The sum over the processes.
    peak_memory_bytes: u64,
    written_bytes: u64,
}

pub type Running = JoinHandle<Result<Tally, String>>;

impl Trial {
    /// A fresh server without data.
    pub fn start(&self) -> Result<Server, String> {
        Server::start(&self.program, &self.folder)
    }

    /// The same with TLS for clients, and what connects to it.
    pub fn start_with_tls(&self) -> Result<(Server, TlsConnector), String> {
        Server::start_with_tls(&self.program, &self.folder)
    }

    /// A fresh server that hands out JSON Web Tokens.
    pub fn start_with_signed_tokens(&self) -> Result<Server, String> {
        Server::start_with_signed_tokens(&self.program, &self.folder)
    }

    /// Runs `loads` together: a while unrecorded, then the time of the trial.
    pub fn measure(&self, server: &Server, loads: Vec<Load>) -> Result<Measured, String> {
        let control = Arc::new(Control::default());
        let running = loads.into_iter().map(|load| load.spawn(server.address(), &control)).collect();
        self.record(server, &control, running)
    }

    /// Records what the threads in `running` do, and stops them.
    pub fn record(
        &self,
        server: &dyn Processes,
        control: &Arc<Control>,
        running: Vec<Running>,
    ) -> Result<Measured, String> {
        self.record_while(server, control, running, || control.wait(self.time)).map(|(measured, ())| measured)
    }

    /// Records what the threads in `running` do while `work` is done, and stops them.
    pub fn record_while<Done>(
        &self,
        server: &dyn Processes,
        control: &Arc<Control>,
        running: Vec<Running>,
        work: impl FnOnce() -> Result<Done, String>,
    ) -> Result<(Measured, Done), String> {
        let window = self.record_window(server, control, work);
        control.stop();
        let mut tallies = Vec::new();
        for thread in running {
            let tally = thread.join().map_err(|_| "a load thread panicked".to_owned())?;
            // When a load failed, `window` holds the first error.
            tallies.extend(tally.ok());
        }
        let (elapsed, used, done) = window?;
        let memories = server.pids().into_iter().map(process::memory).collect::<Result<Vec<_>, String>>()?;
        let peak_memory_bytes = memories.iter().map(|memory| memory.peak_bytes).sum();
        let foreign_cpu = used.machine.saturating_sub(used.server + used.client);
        let measured = Measured {
            tallies,
            elapsed,
            server_cpu: used.server,
            client_cpu: used.client,
            foreign_cpu,
            peak_memory_bytes,
            written_bytes: used.written_bytes,
        };
        Ok((measured, done))
    }

    fn record_window<Done>(
        &self,
        server: &dyn Processes,
        control: &Control,
        work: impl FnOnce() -> Result<Done, String>,
    ) -> Result<(Duration, Used, Done), String> {
        control.wait(self.warm_up())?;
        let before = Used::now(server)?;
        let started = Instant::now();
        control.record(true);
        let done = work();
        control.record(false);
        // A load that failed is the better reason.
        control.wait(Duration::ZERO)?;
        let done = done?;
        let elapsed = started.elapsed();
        let after = Used::now(server)?;
        let used = Used {
            server: after.server.saturating_sub(before.server),
            client: after.client.saturating_sub(before.client),
            machine: after.machine.saturating_sub(before.machine),
            written_bytes: after.written_bytes.saturating_sub(before.written_bytes),
        };
        Ok((elapsed, used, done))
    }

    fn warm_up(&self) -> Duration {
        (self.time / 4).min(Duration::from_secs(1))
    }

    /// Runs `load` until its sources are exhausted, to prepare data.
    pub fn fill(&self, server: &Server, load: Load) -> Result<(), String> {
        let control = Arc::new(Control::default());
        finish(load.spawn(server.address(), &control), &control)
    }

    /// One request, one reply, on a connection of its own.
    pub fn call(&self, server: &Server, path: &'static str, body: Bytes) -> Result<Bytes, String> {
        call(server.address(), path, body, None)
    }
}

/// One request, one reply, on a connection of its own, by whom the token is.
pub fn call(address: SocketAddr, path: &'static str, body: Bytes, token: Option<&str>) -> Result<Bytes, String> {
    let control = Arc::new(Control::default());
    let (sender, receiver) = mpsc::channel();
    let token = token.map(str::to_owned);
    let running = load::spawn_thread(&control, move |_, _| async move {
        let mut channel = Channel::open(address).await?;
        channel.token = token.as_deref().map(Rc::from);
        let reply = channel.call(path, body).await?;
        sender.send(reply).map_err(|error| error.to_string())
    });
    finish(running, &control)?;
    receiver.try_recv().map_err(|error| error.to_string())
}

/// Waits for a load that ends by itself, but not for ever: a server may not answer.
pub fn finish(running: Running, control: &Control) -> Result<(), String> {
    let deadline = Instant::now() + PREPARATION_TIME_MAX;
    while !running.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let late = !running.is_finished();
    control.stop();
    running.join().map_err(|_| "a load thread panicked".to_owned())??;
    if late { Err(format!("preparation took more than {} s", PREPARATION_TIME_MAX.as_secs())) } else { Ok(()) }
}

/// Readings of the CPU clocks and of the disk's counter, the servers' summed up.
struct Used {
    server: Duration,
    client: Duration,
    machine: Duration,
    written_bytes: u64,
}

impl Used {
    fn now(server: &dyn Processes) -> Result<Used, String> {
        let (mut cpu, mut written_bytes) = (Duration::ZERO, 0);
        for pid in server.pids() {
            cpu += process::cpu_time(pid)?;
            written_bytes += process::written_bytes(pid)?;
        }
        let (client, machine) = (process::own_cpu_time()?, process::machine_cpu_time()?);
        Ok(Used { server: cpu, client, machine, written_bytes })
    }
}

impl Measured {
    /// Adds what was seen in another stretch of time, of the same loads on the same server.
    pub fn add(&mut self, other: Measured) {
        for (tally, further) in self.tallies.iter_mut().zip(other.tallies) {
            tally.latency.add(&further.latency);
            tally.count += further.count;
        }
        self.elapsed += other.elapsed;
        self.server_cpu += other.server_cpu;
        self.client_cpu += other.client_cpu;
        self.foreign_cpu += other.foreign_cpu;
        self.peak_memory_bytes = self.peak_memory_bytes.max(other.peak_memory_bytes);
        self.written_bytes += other.written_bytes;
    }

    /// All figures, of the load of that number; CPU is per request of that load.
    pub fn row(&self, label: impl Into<String>, load: usize) -> Row {
        let tally = &self.tallies[load];
        let mut figures = BTreeMap::new();
        figures.insert(Figure::PerSecond, tally.count as f64 / self.elapsed.as_secs_f64());
        for (figure, share) in [(Figure::P50, 0.5), (Figure::P99, 0.99), (Figure::P999, 0.999)] {
            if let Some(latency) = tally.latency.percentile(share) {
                figures.insert(figure, latency.as_secs_f64());
            }
        }
        let hundred_thousands = tally.count as f64 / 1e5;
        if tally.count > 0 {
            figures.insert(Figure::ServerCpu, self.server_cpu.as_secs_f64() / hundred_thousands);
            figures.insert(Figure::ClientCpu, self.client_cpu.as_secs_f64() / hundred_thousands);
        }
        figures.insert(Figure::ForeignCpu, self.foreign_share());
        figures.insert(Figure::PeakMemory, self.peak_memory_bytes as f64);
        Row { label: label.into(), figures }
    }

    /// Bytes written to the disk while recording, for each request of the load of that number.
    pub fn written_per_request(&self, load: usize) -> f64 {
        self.written_bytes as f64 / self.tallies[load].count.max(1) as f64
    }

    /// What everything else used of the machine, from 0 to 1.
    pub fn foreign_share(&self) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get()) as f64;
        self.foreign_cpu.as_secs_f64() / (self.elapsed.as_secs_f64() * cores)
    }

    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Only the latencies of a load that shares the server with a heavier one: its rate and its CPU say nothing.
    pub fn latency_row(&self, label: impl Into<String>, load: usize) -> Row {
        self.row(label, load).without(Figure::ServerCpu).without(Figure::ClientCpu)
    }
}
