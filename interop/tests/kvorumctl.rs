//! Go's `etcdctl` 3.7 and `kvorumctl` with the same command lines against the same server: output and exit code must be
//! equal, byte for byte. The command lines are in `tests/kvorumctl`; `KVORUM_TEST_CTL` names another program to compare
//! with (Go's own, to see what no two runs share).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;
use kvorum_interop::transcript::{Outcome, Session, Step, difference, parse};

/// Command lines that take longer are named: the whole must stay quick.
const SLOW_MIN: Duration = Duration::from_secs(1);

/// What a script runs against.
#[derive(Clone, Copy)]
enum Server {
    Kvorum,
    /// For what Kvorum does not serve yet.
    Etcd,
}

/// The programs to compare; None when Go is missing.
fn programs() -> Option<(PathBuf, PathBuf)> {
    static ETCDCTL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let etcdctl = tools::or_skip(ETCDCTL.get_or_init(|| tools::released("etcdctl")).clone())?;
    let found = std::env::var_os("KVORUM_TEST_CTL").filter(|path| !path.is_empty());
    Some((etcdctl, found.map_or_else(tools::kvorumctl, PathBuf::from)))
}

fn compare(server: Server, script: &str) {
    let steps = parse(script).expect("the script must be one");
    let Some((etcdctl, kvorumctl)) = programs() else { return };
    let binary = match server {
        Server::Kvorum => tools::server_under_test(),
        Server::Etcd => tools::released("etcd"),
    };
    let Some(binary) = tools::or_skip(binary) else { return };
    let mut member = Member::start(Kind::Server, &binary, &[]).expect("the server must start");
    let url = member.url().to_owned();
    let expected = transcript(&etcdctl, &steps, &url);
    member.kill();
    std::fs::remove_dir_all(member.folder().join("data")).expect("a killed member's data can be removed");
    member.restart().expect("the server must start again");
    assert_eq!(member.url(), url, "somebody took the address between two starts");
    let found = transcript(&kvorumctl, &steps, &url);
    let differences: Vec<String> = steps
        .iter()
        .zip(expected.iter().zip(&found))
        .filter_map(|(step, outcomes)| match outcomes {
            (Ok(expected), Ok(found)) => difference(step, expected, found),
            (Err(error), _) => panic!("line {}: {}: {error}", step.line, step.text),
            (_, Err(error)) => Some(format!("line {}: {}\n  {error}\n", step.line, step.text)),
        })
        .collect();
    let count = differences.len();
    assert!(differences.is_empty(), "{count} of {} differ\n{}", steps.len(), differences.join("\n"));
    println!("{} command lines agree", steps.len());
}

fn transcript(program: &Path, steps: &[Step], url: &str) -> Vec<Result<Outcome, String>> {
    let mut session = Session::new(program, url);
    let run = |step: &Step| {
        let began = Instant::now();
        let outcome = session.run(step);
        if began.elapsed() > SLOW_MIN {
            println!("{:?}: line {}: {}", began.elapsed(), step.line, step.text);
        }
        outcome
    };
    steps.iter().map(run).collect()
}

#[test]
fn keys() {
    compare(Server::Kvorum, include_str!("kvorumctl/keys.txt"));
}

#[test]
fn transactions() {
    compare(Server::Kvorum, include_str!("kvorumctl/transactions.txt"));
}

#[test]
fn watches() {
    compare(Server::Kvorum, include_str!("kvorumctl/watches.txt"));
}

#[test]
fn leases_locks_and_elections() {
    compare(Server::Kvorum, include_str!("kvorumctl/leases.txt"));
}

#[test]
fn command_line() {
    compare(Server::Kvorum, include_str!("kvorumctl/command_line.txt"));
}

#[test]
fn members() {
    compare(Server::Kvorum, include_str!("kvorumctl/members.txt"));
}

#[test]
fn maintenance() {
    compare(Server::Kvorum, include_str!("kvorumctl/maintenance.txt"));
}

#[test]
fn users_and_roles() {
    compare(Server::Etcd, include_str!("kvorumctl/auth.txt"));
}

#[test]
fn defragmentation() {
    compare(Server::Etcd, include_str!("kvorumctl/defrag.txt"));
}
