//! Runs one member as a child process in its own folder on free loopback ports. It waits for what the member says,
//! never for time alone, and leaves folder and log behind when the test fails. It must not outlive the test.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::ports::free_port;

/// How long a member may take to say that it is ready.
const READY_SECONDS: u64 = 60;

/// How often other ports are tried when a chosen one was taken meanwhile.
const START_ATTEMPTS: usize = 5;

/// Lines of the log shown when a test fails, and characters of each.
const LOG_LINES_SHOWN: usize = 10;
const LOG_CHARACTERS_SHOWN: usize = 400;

/// What etcd logs once it serves.
const READY_LINE: &str = "ready to serve client requests";

/// The two kinds of program that can be a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Takes etcd's flags and says [`READY_LINE`] on stderr.
    Server,
    /// `tests/go/cmd/oracle`: takes the same flags, chooses its ports, prints `ready <url>` and ends with its stdin.
    Oracle,
}

/// How long a member that must stop by itself may take.
const EXIT_SECONDS: u64 = 60;

/// How often an exit is looked for.
const EXIT_CHECK: Duration = Duration::from_millis(5);

/// A member with its folder and addresses. Dropping it kills it.
#[derive(Debug)]
pub struct Member {
    kind: Kind,
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, OsString)>,
    folder: Option<TempDir>,
    client_url: String,
    peer_url: String,
    place: Option<Place>,
    /// None until the first start.
    child: Option<Child>,
    /// Copy what the child says to the log, until it has ended.
    readers: Vec<JoinHandle<()>>,
}

/// Where a member of several belongs. Others know its peer URL, which therefore stays.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: String,
    /// As `--initial-cluster` takes it.
    pub initial_cluster: String,
    /// Whether the cluster is there already.
    pub existing: bool,
}

impl Member {
    /// Starts `binary` in a new folder with etcd's flags `arguments` besides those for name, folder and addresses.
    pub fn start(kind: Kind, binary: &Path, arguments: &[&str]) -> Result<Member, String> {
        let mut member = Member::prepare(kind, binary, arguments)?;
        member.restart()?;
        Ok(member)
    }

    /// Makes the folder and chooses addresses; [`Self::restart`] starts it.
    pub fn prepare(kind: Kind, binary: &Path, arguments: &[&str]) -> Result<Member, String> {
        let folder = TempDir::with_prefix("kvorum-interop-").map_err(|error| error.to_string())?;
        Ok(Member {
            kind,
            binary: binary.to_path_buf(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: Vec::new(),
            folder: Some(folder),
            client_url: free_client_url(arguments.iter().copied()),
            peer_url: free_peer_url(arguments.iter().copied()),
            place: None,
            child: None,
            readers: Vec::new(),
        })
    }

    /// Makes it one of several; without this it founds a cluster of its own.
    pub fn set_place(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// The URL for other members, as `http://127.0.0.1:port`; with https if its flags give it a certificate for them.
    pub fn peer_url(&self) -> &str {
        &self.peer_url
    }

    /// Whether the process was started and has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Sets the variables that the next start gets besides `PATH`.
    pub fn set_environment(&mut self, environment: Vec<(String, OsString)>) {
        self.environment = environment;
    }

    /// Another program for the next start.
    pub fn set_binary(&mut self, binary: &Path) {
        self.binary = binary.to_path_buf();
    }

    /// The URL for clients, as `http://127.0.0.1:port`; with https if its flags give it a certificate for them.
    pub fn url(&self) -> &str {
        &self.client_url
    }

    /// The folder that holds `data` and `log`.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("the folder is given away only by drop").path()
    }

    /// What the member has logged since its first start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// The process id of the running child.
    pub fn process_id(&self) -> u32 {
        self.child.as_ref().expect("the member was started").id()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        let child = self.child.as_mut().expect("the member was started");
        child.kill().ok();
        child.wait().expect("a child can be waited for");
        self.finish_log();
    }

    /// Waits until the log holds the last words of a child that has ended.
    fn finish_log(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader does not panic");
        }
    }

    /// Asks for a clean stop (SIGTERM; an oracle's stdin is closed), waits for it, and gives the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let child = self.child.as_mut().expect("the member was started");
        match self.kind {
            Kind::Oracle => drop(child.stdin.take()),
            Kind::Server => {
                let id = child.id().to_string();
                Command::new("kill").args(["-TERM", &id]).status().expect("kill is part of every system");
            }
        }
        let code = child.wait().expect("a child can be waited for").code();
        self.finish_log();
        code
    }

    /// Waits for a member that stops by itself, and gives the exit code. Err when it does not stop.
    pub fn wait(&mut self) -> Result<Option<i32>, String> {
        let child = self.child.as_mut().expect("the member was started");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(EXIT_SECONDS) {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                self.finish_log();
                return Ok(status.code());
            }
            std::thread::sleep(EXIT_CHECK);
        }
        Err(format!("{} still runs", self.binary.display()))
    }

    /// Starts the member, over the same folder and addresses if it ran before; then it must have been killed or stopped.
    /// An address that somebody took meanwhile is replaced.
    pub fn restart(&mut self) -> Result<(), String> {
        let folder = self.folder().to_path_buf();
        for attempt in 1.. {
            match launch(self, &folder) {
                Ok(launched) => {
                    self.child = Some(launched.child);
                    self.readers = launched.readers;
                    self.client_url = launched.client_url;
                    return Ok(());
                }
                Err(error) => {
                    let taken = error.to_lowercase().contains("address already in use");
                    if !taken || attempt == START_ATTEMPTS || self.place.is_some() {
                        return Err(error);
                    }
                    self.client_url = free_client_url(self.arguments.iter().map(String::as_str));
                    if self.child.is_none() {
                        self.peer_url = free_peer_url(self.arguments.iter().map(String::as_str));
                        fs::remove_dir_all(folder.join("data")).ok();
                    }
                }
            }
        }
        unreachable!("the last attempt returns")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            let kept = folder.keep();
            eprintln!("{} kept its data and log in {}", self.binary.display(), kept.display());
            eprintln!("{}", log_tail(&kept));
        }
    }
}

/// Sees to it that SIGINT ends the children of this process, which a shell lets its background jobs ignore: children inherit
/// that, and lose it only where their parent catches the signal.
///
/// # Panics
/// When signals cannot be caught.
pub fn let_children_be_interrupted() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if is_interrupt_ignored() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let _inside = runtime.enter();
            // Caught from now on, whether somebody listens or not.
            drop(signal(SignalKind::interrupt()).expect("SIGINT can be caught"));
        }
    });
}

/// From the mask of ignored signals that Linux tells; elsewhere none is known to be.
fn is_interrupt_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let bit = SignalKind::interrupt().as_raw_value() - 1;
    mask >> bit & 1 == 1
}

struct Launched {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    client_url: String,
}

fn launch(member: &Member, folder: &Path) -> Result<Launched, String> {
    let Member { kind, binary, arguments, client_url, peer_url, place, .. } = member;
    let kind = *kind;
    let mut command = Command::new(binary);
    command.arg(format!("--data-dir={}", folder.join("data").display()));
    if kind == Kind::Server {
        let alone =
            || Place { name: "default".to_owned(), initial_cluster: format!("default={peer_url}"), existing: false };
        let Place { name, initial_cluster, existing } = place.clone().unwrap_or_else(alone);
        command.args([
            format!("--name={name}"),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster={initial_cluster}"),
            format!("--initial-cluster-state={}", if existing { "existing" } else { "new" }),
        ]);
    }
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(member.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", binary.display()))?;
    let stdout = child.stdout.take().expect("stdout was piped");
    let stderr = child.stderr.take().expect("stderr was piped");
    let (stdout_mark, stderr_mark) = match kind {
        Kind::Oracle => ("ready http", ""),
        Kind::Server => ("", READY_LINE),
    };
    let (of_stdout, stdout_reader) = follow(BufReader::new(stdout), folder, stdout_mark);
    let (of_stderr, stderr_reader) = follow(BufReader::new(stderr), folder, stderr_mark);
    let ready = if kind == Kind::Oracle { of_stdout } else { of_stderr };
    match ready.recv_timeout(Duration::from_secs(READY_SECONDS)) {
        Ok(line) => {
            let url = line.strip_prefix("ready ").map_or_else(|| client_url.clone(), str::to_owned);
            Ok(Launched { child, readers: vec![stdout_reader, stderr_reader], client_url: url })
        }
        Err(_) => {
            child.kill().ok();
            let status = child.wait().map_err(|error| error.to_string())?;
            Err(format!("{} was not ready, {status}:\n{}", binary.display(), log_tail(folder)))
        }
    }
}

/// Copies lines to the log and reports the first that contains `mark` (none when it is empty).
fn follow(
    lines: impl BufRead + Send + 'static,
    folder: &Path,
    mark: &'static str,
) -> (Receiver<String>, JoinHandle<()>) {
    let (found, receiver) = sync_channel(1);
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log"));
    let mut log = log.expect("a new temporary folder can be written");
    let reader = std::thread::spawn(move || {
        let mut found = (!mark.is_empty()).then_some(found);
        for line in lines.lines().map_while(Result::ok) {
            writeln!(log, "{line}").ok();
            if found.is_some() && line.contains(mark) {
                found.take().expect("checked above").send(line).ok();
            }
        }
    });
    (receiver, reader)
}

fn log_tail(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    let lines: Vec<String> = log.lines().map(|line| line.chars().take(LOG_CHARACTERS_SHOWN).collect()).collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// With https where the flags give the member a certificate for clients.
fn free_client_url<'a>(mut arguments: impl Iterator<Item = &'a str>) -> String {
    let is_secure = arguments.any(|argument| argument.starts_with("--cert-file"));
    if is_secure { free_url().replace("http://", "https://") } else { free_url() }
}

/// With https where the flags give the member a certificate for others.
fn free_peer_url<'a>(mut arguments: impl Iterator<Item = &'a str>) -> String {
    let is_secure = arguments.any(|argument| argument.starts_with("--peer-cert-file") || argument == "--peer-auto-tls");
    if is_secure { free_url().replace("http://", "https://") } else { free_url() }
}

fn free_url() -> String {
    format!("http://127.0.0.1:{}", free_port())
}
