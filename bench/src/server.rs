//! A server under measurement: started in a folder of its own on free ports of the loopback device, stopped when dropped.
//! It never touches a server that it did not start.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use crate::tls::Files;

/// etcd's words when it begins to serve; Kvorum says the same, and so does the floor.
pub const READY_LINE: &str = "ready to serve client requests";

/// More than any case fills.
const QUOTA_BYTES: &str = "68719476736";

const READY_SECONDS_MAX: u64 = 120;
const STOP_SECONDS_MAX: u64 = 30;
const LOG_LINES_QUOTED: usize = 5;

/// A program that speaks etcd's API.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: String,
    pub path: PathBuf,
    /// The floor takes `floor --listen ADDRESS` instead of etcd's flags.
    pub floor: bool,
}

/// Where one server of a cluster lives.
#[derive(Clone, Debug)]
pub struct Placement {
    pub name: String,
    pub client: SocketAddr,
    pub peer: SocketAddr,
    /// As the flag `--initial-cluster` takes it: all members.
    pub initial_cluster: String,
    /// The cluster was formed by others.
    pub joins: bool,
}

impl Placement {
    /// `count` servers of one cluster, on ports that were free a moment ago.
    pub fn of_cluster(count: usize) -> Result<Vec<Placement>, String> {
        let addresses = free_addresses(2 * count)?;
        let name = |number: usize| if count == 1 { "default".to_owned() } else { format!("member{number}") };
        let (clients, peers) = addresses.split_at(count);
        let listed: Vec<String> =
            peers.iter().enumerate().map(|(number, peer)| format!("{}=http://{peer}", name(number))).collect();
        let initial_cluster = listed.join(",");
        let placement = |(number, (client, peer)): (usize, (&SocketAddr, &SocketAddr))| Placement {
            name: name(number),
            client: *client,
            peer: *peer,
            initial_cluster: initial_cluster.clone(),
            joins: false,
        };
        Ok(clients.iter().zip(peers).enumerate().map(placement).collect())
    }

    /// The same for servers of which each but the first is to join those before it.
    pub fn of_cluster_in_turn(count: usize) -> Result<Vec<Placement>, String> {
        let mut placements = Placement::of_cluster(count)?;
        for (number, placement) in placements.iter_mut().enumerate() {
            let members: Vec<&str> = placement.initial_cluster.split(',').take(number + 1).collect();
            placement.initial_cluster = members.join(",");
            placement.joins = number > 0;
        }
        Ok(placements)
    }
}

/// What is measured: one process, or all of a cluster's.
pub trait Processes {
    fn pids(&self) -> Vec<u32>;
}

impl Processes for Server {
    fn pids(&self) -> Vec<u32> {
        self.child.iter().map(Child::id).collect()
    }
}

/// A running server with its data.
pub struct Server {
    program: Program,
    child: Option<Child>,
    placement: Placement,
    /// Clients speak TLS if there are files for it.
    tls: Option<Files>,
    /// Where they do, if elsewhere they do not.
    secured: Option<SocketAddr>,
    /// Further flags.
    flags: Vec<String>,
    folder: TempDir,
}

/// A started server that has not said yet that it is ready.
pub struct Starting {
    started: Instant,
    lines: mpsc::Receiver<(String, Instant)>,
}

impl Server {
    /// Starts `program` on an empty folder below `parent` and waits until it says that it is ready.
    pub fn start(program: &Program, parent: &Path) -> Result<Server, String> {
        let placement = Placement::of_cluster(1)?.remove(0);
        let mut server = Server::place(program, parent, placement)?;
        server.resume()?;
        Ok(server)
    }

    /// As [`Self::start`], with TLS for clients; and what connects to it.
    pub fn start_with_tls(program: &Program, parent: &Path) -> Result<(Server, TlsConnector), String> {
        let placement = Placement::of_cluster(1)?.remove(0);
        let mut server = Server::place(program, parent, placement)?;
        let files = Files::make(server.folder.path())?;
        let connector = files.connector()?;
        server.tls = Some(files);
        server.resume()?;
        Ok((server, connector))
    }

    /// As [`Self::start`], with a further port for clients that has TLS; its address, and what connects to it.
    pub fn start_with_tls_beside(
        program: &Program,
        parent: &Path,
    ) -> Result<(Server, SocketAddr, TlsConnector), String> {
        let placement = Placement::of_cluster(1)?.remove(0);
        let mut server = Server::place(program, parent, placement)?;
        let files = Files::make(server.folder.path())?;
        let (connector, secured) = (files.connector()?, free_addresses(1)?.remove(0));
        (server.tls, server.secured) = (Some(files), Some(secured));
        server.resume()?;
        Ok((server, secured, connector))
    }

    /// As [`Self::start`], with JSON Web Tokens signed by a key of its own (P-256).
    pub fn start_with_signed_tokens(program: &Program, parent: &Path) -> Result<Server, String> {
        let placement = Placement::of_cluster(1)?.remove(0);
        let mut server = Server::place(program, parent, placement)?;
        let key = crate::tls::signing_key(server.folder.path())?;
        let option = format!("jwt,sign-method=ES256,priv-key={},ttl=1h", key.display());
        server.flags = vec!["--auth-token".to_owned(), option];
        server.resume()?;
        Ok(server)
    }

    /// A server that is to be started, on an empty folder below `parent`.
    pub fn place(program: &Program, parent: &Path, placement: Placement) -> Result<Server, String> {
        std::fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
        let folder = tempfile::Builder::new()
            .prefix("kvorum-bench-")
            .tempdir_in(parent)
            .map_err(|error| format!("temporary folder in {}: {error}", parent.display()))?;
        let (program, flags) = (program.clone(), Vec::new());
        Ok(Server { program, child: None, placement, tls: None, secured: None, flags, folder })
    }

    /// Starts the stopped server on the data it left; returns the time until it said that it is ready.
    pub fn resume(&mut self) -> Result<Duration, String> {
        self.launch()?.wait()
    }

    /// Starts the stopped server and does not wait for it.
    pub fn launch(&mut self) -> Result<Starting, String> {
        assert!(self.child.is_none(), "a running server is not started again");
        let started = Instant::now();
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start {}: {error}", self.program.path.display()))?;
        let log = child.stderr.take().expect("stderr is piped");
        let log_path = self.folder.path().join("log");
        self.child = Some(child);
        Ok(Starting { started, lines: follow(log, &log_path)? })
    }

    pub fn address(&self) -> SocketAddr {
        self.placement.client
    }

    /// Ends the server without asking it, and waits for its end.
    pub fn kill(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map(|_| ()).map_err(|error| format!("kill: {error}"))
    }

    /// Asks the server to end, and does not wait: [`Self::stop`] does.
    pub fn ask_to_stop(&self) -> Result<(), String> {
        let Some(child) = &self.child else { return Ok(()) };
        kill_process(Pid::from_child(child), Signal::TERM).map_err(|error| format!("SIGTERM: {error}"))
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("asked of a running server only").id()
    }

    /// Asks the server to end and waits for it.
    pub fn stop(&mut self) -> Result<(), String> {
        self.ask_to_stop()?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
        while Instant::now() < deadline {
            if child.try_wait().map_err(|error| error.to_string())?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().and_then(|()| child.wait()).map_err(|error| format!("kill: {error}"))?;
        Err(format!("did not end within {STOP_SECONDS_MAX} s of SIGTERM"))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program.path);
        let placement = &self.placement;
        if self.program.floor {
            command.args(["floor", "--listen", &placement.client.to_string()]);
            return command;
        }
        let client = match (&self.tls, self.secured) {
            (None, _) => format!("http://{}", placement.client),
            (Some(_), None) => format!("https://{}", placement.client),
            (Some(_), Some(secured)) => format!("http://{},https://{secured}", placement.client),
        };
        let peer = format!("http://{}", placement.peer);
        command
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--name", &placement.name])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &placement.initial_cluster])
            .args(["--initial-cluster-state", if placement.joins { "existing" } else { "new" }])
            // The quota would end the fills of the large cases; it is the same for both.
            .args(["--quota-backend-bytes", QUOTA_BYTES]);
        if let Some(files) = &self.tls {
            command.arg("--cert-file").arg(&files.certificate).arg("--key-file").arg(&files.key);
        }
        command.args(&self.flags);
        command
    }
}

impl Starting {
    /// Waits until the server says that it is ready; returns the time since its start.
    pub fn wait(self) -> Result<Duration, String> {
        self.wait_up_to(Duration::from_secs(READY_SECONDS_MAX))
    }

    /// As [`Self::wait`], for one that has more to do first.
    pub fn wait_up_to(self, longest: Duration) -> Result<Duration, String> {
        let deadline = self.started + longest;
        let mut last_lines = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((line, at)) if line.contains(READY_LINE) => return Ok(at - self.started),
                Ok((line, _)) => {
                    last_lines.push(line);
                    if last_lines.len() > LOG_LINES_QUOTED {
                        last_lines.remove(0);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Err(format!("not ready after {} s", longest.as_secs())),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("ended before it was ready: {}", last_lines.join(" | ")));
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{}: {error}", self.program.name);
        }
    }
}

/// Ports that were free a moment ago, each another one.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>, String> {
    let free = |error: std::io::Error| format!("free port: {error}");
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(free);
    let listeners = (0..count).map(bind).collect::<Result<Vec<TcpListener>, String>>()?;
    listeners.iter().map(|listener| listener.local_addr().map_err(free)).collect()
}

/// Copies the log to `path` and hands out its lines with the moment each was seen, for as long as somebody listens.
fn follow(log: impl std::io::Read + Send + 'static, path: &Path) -> Result<mpsc::Receiver<(String, Instant)>, String> {
    let mut copy =
        File::options().create(true).append(true).open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut listened_to = true;
        for line in BufReader::new(log).lines() {
            let Ok(line) = line else { return };
            if writeln!(copy, "{line}").is_err() {
                return;
            }
            listened_to = listened_to && sender.send((line, Instant::now())).is_ok();
        }
    });
    Ok(receiver)
}
