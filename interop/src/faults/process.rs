//! One member of a cluster: a process in a folder of its own, on ports that stay the same whatever happens to it, and a disk
//! that can forget, be slow or be full. It decides nothing and waits for nothing. Its process does not outlive the value.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::disk::{ForgetfulDisk, Forgetting};
use crate::ports::free_port;
use crate::random::Random;

/// What the ports of a member are for.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub client: u16,
    /// Where it listens for other members.
    pub peer: u16,
    /// What it says where it listens for them.
    pub proxy: u16,
}

impl Ports {
    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    pub fn advertised_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.proxy)
    }
}

pub fn free_ports() -> Ports {
    Ports { client: free_port(), peer: free_port(), proxy: free_port() }
}

/// Whether a member runs, as far as the harness made it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Running,
    /// SIGSTOP.
    Stopped,
    Down,
}

/// A member's process, disk and ports.
#[derive(Debug)]
pub struct MemberProcess {
    pub name: String,
    pub ports: Ports,
    pub condition: Condition,
    /// Its disk is or was full: it may have ended by itself.
    pub may_have_ended: bool,
    /// It was added and has not served yet: as etcd, it does not start when the member it asks has not heard of it, and is
    /// started again.
    pub is_joining: bool,
    /// What its first start is told of the cluster: `--initial-cluster` and `-state`.
    pub cluster: (String, &'static str),
    round_folder: PathBuf,
    incarnation: usize,
    disk: Option<ForgetfulDisk>,
    child: Option<Child>,
}

impl MemberProcess {
    /// Nothing runs yet. `library` is that of the forgetful disk.
    pub fn new(name: String, ports: Ports, round_folder: &Path, library: &Path) -> Result<Self, String> {
        let mut member = MemberProcess {
            name,
            ports,
            condition: Condition::Down,
            may_have_ended: false,
            is_joining: false,
            cluster: (String::new(), "new"),
            round_folder: round_folder.to_owned(),
            incarnation: 0,
            disk: None,
            child: None,
        };
        member.begin_anew(library)?;
        Ok(member)
    }

    /// A new empty folder in the old one's place.
    pub fn begin_anew(&mut self, library: &Path) -> Result<(), String> {
        self.incarnation += 1;
        let folder = self.folder();
        std::fs::create_dir(&folder).map_err(|error| error.to_string())?;
        let disk = ForgetfulDisk::new(library, &folder).map_err(|error| error.to_string())?;
        self.disk = Some(disk);
        Ok(())
    }

    fn folder(&self) -> PathBuf {
        self.round_folder.join(format!("{}-{}", self.name, self.incarnation))
    }

    pub fn log_path(&self) -> PathBuf {
        self.round_folder.join(format!("{}.log", self.name))
    }

    /// Starts the process; it is not ready when this returns. It connects from `source`. Syncs of paths that contain `deaf`
    /// do nothing.
    pub fn start(
        &mut self,
        binary: &Path,
        flags: &[String],
        source: Ipv4Addr,
        deaf: Option<&str>,
    ) -> Result<(), String> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path());
        let log = log.map_err(|error| error.to_string())?;
        let copy = |log: &File| log.try_clone().map(Stdio::from).map_err(|error| error.to_string());
        let (initial_cluster, state) = &self.cluster;
        let peer_url = format!("http://127.0.0.1:{}", self.ports.peer);
        let mut command = Command::new(binary);
        command
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.folder().join("data").display()))
            .arg(format!("--listen-client-urls={}", self.ports.client_url()))
            .arg(format!("--advertise-client-urls={}", self.ports.client_url()))
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={}", self.ports.advertised_url()))
            .arg(format!("--initial-cluster={initial_cluster}"))
            .arg(format!("--initial-cluster-state={state}"))
            .args(flags);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("RUST_BACKTRACE", "1");
        command.envs(self.environment(deaf)).env("KVORUM_SHIM_SOURCE", source.to_string());
        command.stdin(Stdio::null()).stdout(copy(&log)?).stderr(copy(&log)?);
        let child = command.spawn().map_err(|error| format!("{}: {error}", binary.display()))?;
        self.child = Some(child);
        self.condition = Condition::Running;
        Ok(())
    }

    fn environment(&self, deaf: Option<&str>) -> Vec<(String, OsString)> {
        self.disk.as_ref().map(|disk| disk.environment(deaf, None)).unwrap_or_default()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            child.kill().ok();
            child.wait().ok();
        }
        self.condition = Condition::Down;
    }

    /// The machine loses its power: what was not synced is gone.
    pub fn lose_power(&mut self, random: &mut Random) -> Result<(), String> {
        self.kill();
        let forgetting = if random.chance(50) { Forgetting::Everything } else { Forgetting::AnyPart };
        match &self.disk {
            Some(disk) => disk.crash(forgetting, random).map_err(|error| format!("{}: {error}", self.name)),
            None => Ok(()),
        }
    }

    /// Sends a signal, if the process is there.
    pub fn signal(&mut self, signal: Signal) {
        let id = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may have ended already, and is not waited for yet, so the number is still its own.
            kill_process(id, signal).ok();
            match signal {
                Signal::STOP => self.condition = Condition::Stopped,
                Signal::CONT => self.condition = Condition::Running,
                _ => {}
            }
        }
    }

    /// How the process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        self.condition = Condition::Down;
        Some(status)
    }

    /// Every sync takes so much longer from now on.
    pub fn slow_disk(&self, delay: Option<Duration>) -> Result<(), String> {
        let text = delay.map(|delay| delay.as_millis().to_string());
        self.control(|disk| disk.slow(text.as_deref()))
    }

    /// Writes find no space from now on.
    pub fn full_disk(&self, full: bool) -> Result<(), String> {
        self.control(|disk| disk.full(full))
    }

    fn control(&self, act: impl FnOnce(&ForgetfulDisk) -> std::io::Result<()>) -> Result<(), String> {
        self.disk.as_ref().map_or(Ok(()), act).map_err(|error| format!("{}: {error}", self.name))
    }
}

impl Drop for MemberProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
