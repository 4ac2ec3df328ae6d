//! A member in this process, and `kvorumctl` in others that speak with it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use kvorum_interop::process::let_children_be_interrupted;
use kvorum_server::config;
use kvorum_server::start::{Running, start};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Far above what anything takes: reaching it means that it hangs.
const LONG: Duration = Duration::from_secs(60);

pub struct World {
    member: Running,
    folder: TempDir,
}

/// What a command printed, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: i32,
    pub output: String,
    pub errors: String,
}

impl World {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { member: kvorum_server::embed::start(folder.path()).expect("a member"), folder }
    }

    /// A member with flags of its own, which come after those for its folder and ports.
    pub fn start_with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut arguments = vec![format!("--data-dir={}", folder.path().display())];
        for flag in ["listen-client-urls", "advertise-client-urls", "listen-peer-urls"] {
            arguments.push(format!("--{flag}=http://127.0.0.1:0"));
        }
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        let Ok(config::Command::Serve { config, .. }) = config::parse(&arguments, &[]) else { panic!("{arguments:?}") };
        Self { member: start(&config).expect("a member"), folder }
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Where the member listens, without a scheme.
    pub fn address(&self) -> String {
        let url = self.member.client_url();
        url.split_once("://").map_or(&*url, |(_, address)| address).to_owned()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let_children_be_interrupted();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvorumctl"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("ETCDCTL_") || name.starts_with("KVORUMCTL_") {
                command.env_remove(name);
            }
        }
        command.env("KVORUMCTL_ENDPOINTS", self.member.client_url()).args(arguments);
        command
    }

    /// Runs a command to its end, without input.
    pub fn run(&self, line: &str) -> Answer {
        self.run_words(&words(line), "")
    }

    /// What a command prints that ends well.
    pub fn output(&self, line: &str) -> String {
        let answer = self.run(line);
        assert_eq!((answer.code, answer.errors.as_str()), (0, ""), "{line}");
        answer.output
    }

    pub fn run_with(&self, line: &str, input: &str) -> Answer {
        self.run_words(&words(line), input)
    }

    pub fn run_words(&self, arguments: &[&str], input: &str) -> Answer {
        finish(self.command(arguments), input)
    }

    /// Starts a command that goes on.
    pub fn spawn(&self, line: &str) -> Going {
        Going::start(self.command(&words(line)))
    }
}

/// Words at spaces; `''` is an empty one.
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().map(|word| if word == "''" { "" } else { word }).collect()
}

pub fn finish(mut command: Command, input: &str) -> Answer {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    // A command that does not read its input may be gone already.
    drop(child.stdin.take().expect("it is piped").write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    Answer {
        code: output.status.code().unwrap_or(-1),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A command that goes on, whose output and errors are read line by line. It is killed with this.
pub struct Going {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    errors: Receiver<String>,
}

impl Going {
    pub fn start(mut command: Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("it starts");
        let input = child.stdin.take();
        let output = lines(child.stdout.take().expect("it is piped"));
        let errors = lines(child.stderr.take().expect("it is piped"));
        Self { child, input, output, errors }
    }

    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it is open");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("it reads");
    }

    pub fn line(&self) -> String {
        self.output.recv_timeout(LONG).expect("a line of output")
    }

    pub fn lines(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    pub fn error_line(&self) -> String {
        self.errors.recv_timeout(LONG).expect("a line of errors")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Closes its input and waits for its end.
    pub fn finish(mut self) -> Answer {
        drop(self.input.take());
        let output: String = self.output.iter().collect::<Vec<_>>().join("\n");
        let errors: String = self.errors.iter().collect::<Vec<_>>().join("\n");
        let code = self.child.wait().expect("it ends").code().unwrap_or(-1);
        Answer { code, output, errors }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        // It has ended already where that was waited for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lines(source: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).split(b'\n') {
            let Ok(line) = line else { return };
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}
