//! Runs one member as a child process in its own folder on free loopback ports. It waits for what the member says,
//! never for time alone, and leaves folder and log behind when the test fails. It must not outlive the test.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use tempfile::TempDir;

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

/// A running member. Dropping it kills it.
#[derive(Debug)]
pub struct Member {
    kind: Kind,
    binary: PathBuf,
    arguments: Vec<String>,
    folder: Option<TempDir>,
    client_url: String,
    peer_url: String,
    child: Child,
}

impl Member {
    /// Starts `binary` in a new folder with etcd's flags `arguments` besides those for name, folder and addresses.
    pub fn start(kind: Kind, binary: &Path, arguments: &[&str]) -> Result<Member, String> {
        let folder = TempDir::with_prefix("kvorum-interop-").map_err(|error| error.to_string())?;
        let mut last = String::new();
        for _ in 0..START_ATTEMPTS {
            let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
            let (client_url, peer_url) = (free_url(), free_url());
            match launch(kind, binary, &arguments, folder.path(), &client_url, &peer_url) {
                Ok((child, client_url)) => {
                    let (folder, binary) = (Some(folder), binary.to_path_buf());
                    return Ok(Member { kind, binary, arguments, folder, client_url, peer_url, child });
                }
                Err(error) => {
                    let taken = error.contains("in use") || error.contains("EADDRINUSE");
                    last = error;
                    if !taken {
                        break;
                    }
                    fs::remove_dir_all(folder.path().join("data")).ok();
                }
            }
        }
        Err(last)
    }

    /// The URL for clients, as `http://127.0.0.1:port`.
    pub fn url(&self) -> &str {
        &self.client_url
    }

    /// The folder that holds `data` and `log`.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("the folder is given away only by drop").path()
    }

    /// The process id of the running child.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().expect("a child can be waited for");
    }

    /// Asks for a clean stop (SIGTERM; an oracle's stdin is closed), waits for it, and gives the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        match self.kind {
            Kind::Oracle => drop(self.child.stdin.take()),
            Kind::Server => {
                let id = self.child.id().to_string();
                Command::new("kill").args(["-TERM", &id]).status().expect("kill is part of every system");
            }
        }
        self.child.wait().expect("a child can be waited for").code()
    }

    /// Starts the member again over the same folder and addresses; it must have been killed or stopped.
    pub fn restart(&mut self) -> Result<(), String> {
        let folder = self.folder().to_path_buf();
        let started = launch(self.kind, &self.binary, &self.arguments, &folder, &self.client_url, &self.peer_url);
        let (child, client_url) = started?;
        self.child = child;
        self.client_url = client_url;
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            let kept = folder.keep();
            eprintln!("{} kept its data and log in {}", self.binary.display(), kept.display());
            eprintln!("{}", log_tail(&kept));
        }
    }
}

fn launch(
    kind: Kind,
    binary: &Path,
    arguments: &[String],
    folder: &Path,
    client_url: &str,
    peer_url: &str,
) -> Result<(Child, String), String> {
    let mut command = Command::new(binary);
    command.arg(format!("--data-dir={}", folder.join("data").display()));
    if kind == Kind::Server {
        command.args([
            "--name=default".to_owned(),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster=default={peer_url}"),
        ]);
    }
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", binary.display()))?;
    let stdout = child.stdout.take().expect("stdout was piped");
    let stderr = child.stderr.take().expect("stderr was piped");
    let ready = match kind {
        Kind::Oracle => {
            follow(BufReader::new(stderr), folder, "");
            follow(BufReader::new(stdout), folder, "ready http")
        }
        Kind::Server => {
            follow(BufReader::new(stdout), folder, "");
            follow(BufReader::new(stderr), folder, READY_LINE)
        }
    };
    match ready.recv_timeout(Duration::from_secs(READY_SECONDS)) {
        Ok(line) => {
            let url = line.strip_prefix("ready ").map_or_else(|| client_url.to_owned(), str::to_owned);
            Ok((child, url))
        }
        Err(_) => {
            child.kill().ok();
            let status = child.wait().map_err(|error| error.to_string())?;
            Err(format!("{} was not ready, {status}:\n{}", binary.display(), log_tail(folder)))
        }
    }
}

/// Copies lines to the log and reports the first that contains `mark` (none when it is empty).
fn follow(lines: impl BufRead + Send + 'static, folder: &Path, mark: &'static str) -> Receiver<String> {
    let (found, receiver) = sync_channel(1);
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log"));
    let mut log = log.expect("a new temporary folder can be written");
    std::thread::spawn(move || {
        let mut found = (!mark.is_empty()).then_some(found);
        for line in lines.lines().map_while(Result::ok) {
            writeln!(log, "{line}").ok();
            if found.is_some() && line.contains(mark) {
                found.take().expect("checked above").send(line).ok();
            }
        }
    });
    receiver
}

fn log_tail(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    let lines: Vec<String> = log.lines().map(|line| line.chars().take(LOG_CHARACTERS_SHOWN).collect()).collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports");
    format!("http://{}", listener.local_addr().expect("a bound listener has an address"))
}
