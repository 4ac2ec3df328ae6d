//! `kvorum demo-cluster`: three members on this machine, to try out what happens when one is killed. Each is a process of
//! this program with ordinary flags; nothing here is used by a member.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// The names and ports of etcd's own Procfile.
const MEMBERS: [(&str, u16, u16); 3] = [("infra1", 2379, 2380), ("infra2", 22379, 22380), ("infra3", 32379, 32380)];

const FOLDER: &str = "demo-cluster.etcd";

/// How often members are looked at.
const CHECK: Duration = Duration::from_millis(100);

/// How long a member may take to serve.
const READY_CHECKS_MAX: usize = 300;

struct Member {
    name: &'static str,
    client_port: u16,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Member {
    fn start(&mut self, program: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.log.display());
        let log = File::options().create(true).append(true).open(&self.log).map_err(failed)?;
        let child = Command::new(program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// What `/readyz` says.
    fn is_ready(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.client_port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.starts_with("HTTP/1.1 200"))
        };
        ask().unwrap_or(false)
    }

    /// Says once that a member ended, and how.
    fn look(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status.to_string())
    }
}

pub fn run(arguments: &[String]) -> ExitCode {
    if !arguments.is_empty() {
        eprintln!("usage: kvorum demo-cluster");
        return ExitCode::from(2);
    }
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder).map_err(|error| format!("{FOLDER}: {error}"))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let mut members: Vec<Member> = MEMBERS.iter().map(|member| describe(folder, *member)).collect();
    let started = members.iter_mut().try_for_each(|member| member.start(&program));
    let ended = started.and_then(|()| runtime.block_on(watch(&mut members, &program)));
    stop(&mut members);
    ended
}

fn describe(folder: &Path, (name, client_port, peer_port): (&'static str, u16, u16)) -> Member {
    let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    let cluster: Vec<String> =
        MEMBERS.iter().map(|(name, _, port)| format!("{name}=http://127.0.0.1:{port}")).collect();
    let flags = [
        ("name", name.to_owned()),
        ("data-dir", folder.join(name).display().to_string()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer),
        ("initial-cluster-token", "demo-cluster".to_owned()),
        ("initial-cluster", cluster.join(",")),
        ("initial-cluster-state", "new".to_owned()),
    ];
    let arguments = flags.into_iter().flat_map(|(flag, value)| [format!("--{flag}"), value]).collect();
    Member { name, client_port, arguments, log: folder.join(format!("{name}.log")), child: None }
}

/// Prints what there is and what happens, until a signal.
async fn watch(members: &mut [Member], program: &Path) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| error.to_string();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut announced = false;
    let mut checks = 0;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            () = tokio::time::sleep(CHECK) => {}
        }
        for member in members.iter_mut() {
            let Some(status) = member.look() else { continue };
            if !announced {
                return Err(format!("{} ended ({status}); see {}", member.name, member.log.display()));
            }
            println!("{} ended ({status}); to start it again:\n  {}", member.name, command(program, &member.arguments));
        }
        if !announced && members.iter().all(Member::is_ready) {
            announce(members);
            announced = true;
        }
        checks += 1;
        if !announced && checks > READY_CHECKS_MAX {
            return Err(format!("the members did not become ready; see the logs in {FOLDER}"));
        }
    }
}

fn announce(members: &[Member]) {
    let endpoints: Vec<String> =
        members.iter().map(|member| format!("http://127.0.0.1:{}", member.client_port)).collect();
    println!("three members serve, with their data and logs in {FOLDER}:");
    for member in members {
        let process = member.child.as_ref().map_or(0, Child::id);
        println!("  {}  http://127.0.0.1:{}  process {process}", member.name, member.client_port);
    }
    println!("try:\n  etcdctl --endpoints {} endpoint status -w table", endpoints.join(","));
    if let Some(child) = &members[0].child {
        println!("  kill -9 {}   # then put and get through the others", child.id());
    }
    println!("Ctrl-C stops all.");
}

fn command(program: &Path, arguments: &[String]) -> String {
    format!("{} {}", program.display(), arguments.join(" "))
}

fn stop(members: &mut [Member]) {
    for member in members.iter() {
        let id = member.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).and_then(Pid::from_raw);
        // One that ended meanwhile needs no signal.
        id.map(|id| kill_process(id, Signal::TERM)).transpose().ok();
    }
    for member in members {
        if let Some(mut child) = member.child.take() {
            drop(child.wait());
        }
    }
}
