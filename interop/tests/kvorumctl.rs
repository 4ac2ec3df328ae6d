//! Go's `etcdctl` 3.7 and `kvorumctl` with the same command lines against the same server: output and exit code must be
//! equal, byte for byte. The command lines are in `tests/kvorumctl`; `KVORUM_TEST_CTL` names another program to compare
//! with (Go's own, to see what no two runs share).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kvorum_interop::certificates::{Authority, Wanted, write, write_pair};
use kvorum_interop::cluster::{Cluster, Program};
use kvorum_interop::ports::free_port;
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;
use kvorum_interop::transcript::{Outcome, Session, Step, difference, parse};
use tempfile::TempDir;

/// Command lines that take longer are named: the whole must stay quick.
const SLOW_MIN: Duration = Duration::from_secs(1);

/// The programs to compare; None when Go is missing.
fn programs() -> Option<(PathBuf, PathBuf)> {
    static ETCDCTL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let etcdctl = tools::or_skip(ETCDCTL.get_or_init(|| tools::released("etcdctl")).clone())?;
    let found = std::env::var_os("KVORUM_TEST_CTL").filter(|path| !path.is_empty());
    Some((etcdctl, found.map_or_else(tools::kvorumctl, PathBuf::from)))
}

fn compare(script: &str) {
    compare_at(None, script, &[], |_| {});
}

/// At a URL that the flags of the server name, with variables of the script's own.
fn compare_at(url: Option<&str>, script: &str, flags: &[&str], prepare: impl Fn(&mut Session)) {
    let steps = parse(script).expect("the script must be one");
    let Some((etcdctl, kvorumctl)) = programs() else { return };
    let Some(binary) = tools::or_skip(tools::server_under_test()) else { return };
    let mut member = Member::start(Kind::Server, &binary, flags).expect("the server must start");
    let own = member.url().to_owned();
    let transcript = |program: &Path| {
        let mut session = Session::new(program, url.unwrap_or(&own));
        prepare(&mut session);
        run_all(&mut session, &steps)
    };
    let expected = transcript(&etcdctl);
    member.kill();
    std::fs::remove_dir_all(member.folder().join("data")).expect("a killed member's data can be removed");
    member.restart().expect("the server must start again");
    assert_eq!(member.url(), own, "somebody took the address between two starts");
    let found = transcript(&kvorumctl);
    judge(&steps, &expected, &found);
}

fn judge(steps: &[Step], expected: &[Result<Outcome, String>], found: &[Result<Outcome, String>]) {
    let differences: Vec<String> = steps
        .iter()
        .zip(expected.iter().zip(found))
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

fn run_all(session: &mut Session, steps: &[Step]) -> Vec<Result<Outcome, String>> {
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
    compare(include_str!("kvorumctl/keys.txt"));
}

#[test]
fn transactions() {
    compare(include_str!("kvorumctl/transactions.txt"));
}

#[test]
fn watches() {
    compare(include_str!("kvorumctl/watches.txt"));
}

#[test]
fn leases_locks_and_elections() {
    compare(include_str!("kvorumctl/leases.txt"));
}

#[test]
fn command_line() {
    compare(include_str!("kvorumctl/command_line.txt"));
}

#[test]
fn members() {
    compare(include_str!("kvorumctl/members.txt"));
}

#[test]
fn maintenance() {
    compare(include_str!("kvorumctl/maintenance.txt"));
}

#[test]
fn users_and_roles() {
    compare(include_str!("kvorumctl/auth.txt"));
}

#[test]
fn defragmentation() {
    compare(include_str!("kvorumctl/defrag.txt"));
}

#[test]
fn certificates() {
    let folder = TempDir::with_prefix("kvorum-interop-tls-").expect("a temporary folder");
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    write(folder.path(), "ca.crt", authority.pem());
    write(folder.path(), "stranger-ca.crt", stranger.pem());
    let client = || Wanted { common_name: "client", ..Wanted::default() };
    // Not for `localhost`.
    write_pair(folder.path(), "server", &authority.issue(Wanted { names: &["127.0.0.1"], ..Wanted::default() }));
    write_pair(folder.path(), "client", &authority.issue(client()));
    write_pair(folder.path(), "expired", &authority.issue(Wanted { years: (2000, 2001), ..client() }));
    write_pair(folder.path(), "stranger", &stranger.issue(client()));
    let files = folder.path().display().to_string();
    let port = free_port().to_string();
    let url = format!("https://127.0.0.1:{port}");
    let flags = [
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--cert-file={files}/server.crt"),
        format!("--key-file={files}/server.key"),
        format!("--trusted-ca-file={files}/ca.crt"),
        "--client-cert-auth".to_owned(),
        "--bcrypt-cost=4".to_owned(),
    ];
    let script = include_str!("kvorumctl/tls.txt")
        .replace("KNOWN", "--cacert=$tls/ca.crt --cert=$tls/client.crt --key=$tls/client.key")
        .replace("ENVIRONMENT", "ETCDCTL_CACERT=$tls/ca.crt ETCDCTL_CERT=$tls/client.crt ETCDCTL_KEY=$tls/client.key")
        .replace("REFUSED", "--command-timeout=300ms --dial-timeout=300ms");
    compare_at(Some(&url), &script, &flags.each_ref().map(String::as_str), |session| {
        session.set("tls", &files);
        session.set("port", &port);
    });
}

/// Runs steps that must succeed, or go on until their interrupt.
fn must(session: &mut Session, script: &str) -> Vec<Outcome> {
    let steps = parse(script).expect("the script must be one");
    let outcome = |step: &Step| {
        let outcome = session.run(step).expect("the command must end");
        let is_interrupted = outcome.exit_code == Some(-2) && step.is_followed();
        assert!(outcome.exit_code == Some(0) || is_interrupted, "{}: {outcome:?}", step.text);
        outcome
    };
    steps.iter().map(outcome).collect()
}

#[tokio::test]
async fn clusters() {
    let Some((etcdctl, kvorumctl)) = programs() else { return };
    let Some(binary) = tools::or_skip(tools::server_under_test()) else { return };
    let program = Program::new("kvorum", &binary);
    let cluster = Cluster::found(&[&program, &program, &program], &[]).await;
    let leader = cluster.leader().await;
    let url = |index: usize| cluster.nodes[index].process.url();
    let followers: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    let id = |index: usize| format!("{:x}", cluster.nodes[index].id);
    let session = |program: &Path| {
        let mut session = Session::new(program, url(leader));
        session.set("all", &[url(0), url(1), url(2)].join(","));
        session.set("followers", &followers.iter().map(|index| url(*index)).collect::<Vec<_>>().join(","));
        session.set("second", url(followers[0]));
        session.set("leader", &id(leader));
        session.set("target", &id(followers[1]));
        session
    };
    let (mut theirs, mut ours) = (session(&etcdctl), session(&kvorumctl));
    must(&mut theirs, "put a 1\nput b 2\nput a 3");
    cluster.settle().await;
    let steps = parse(include_str!("kvorumctl/cluster.txt")).expect("the script must be one");
    let expected = run_all(&mut theirs, &steps);
    judge(&steps, &expected, &run_all(&mut ours, &steps));
    // A leader that moves, and is moved back in between.
    let there = "move-leader $target --endpoints=$all";
    let expected = must(&mut theirs, there);
    cluster.leader().await;
    must(&mut ours, "move-leader $leader --endpoints=$all");
    cluster.leader().await;
    assert_eq!(must(&mut ours, there), expected);
}

/// What a mirror made by a program leaves in the destination.
fn mirrored(program: &Path, etcdctl: &Path, binary: &Path, flags: &[&str]) -> Vec<Outcome> {
    let start = || Member::start(Kind::Server, binary, &[]).expect("the server must start");
    let (source, destination) = (start(), start());
    let mut at_source = Session::new(etcdctl, source.url());
    let mut at_destination = Session::new(etcdctl, destination.url());
    must(&mut at_source, "put a/1 one\nput a/2 two\nput b other");
    let mut mirror = Command::new(program);
    mirror.arg(format!("--endpoints={}", source.url())).arg("make-mirror").args(flags);
    mirror.arg(destination.url().trim_start_matches("http://")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut mirror = mirror.spawn().expect("the program must start");
    // The base, and then what changes: its last change tells when all is there.
    must(&mut at_destination, "@lines 6\nwatch --prefix '' --rev=2");
    must(&mut at_source, include_str!("kvorumctl/mirror.txt"));
    let last = "@lines 3\nwatch --rev=2 a/end";
    must(
        &mut at_destination,
        &last.replace("a/end", if flags.contains(&"--dest-prefix=z/") { "z/end" } else { "a/end" }),
    );
    let copied = must(&mut at_destination, "get --prefix ''\nget --prefix '' --hex");
    mirror.kill().expect("the mirror still runs");
    mirror.wait().expect("a child can be waited for");
    copied
}

#[test]
fn mirrors() {
    let Some((etcdctl, kvorumctl)) = programs() else { return };
    let Some(binary) = tools::or_skip(tools::server_under_test()) else { return };
    for flags in [&["--prefix=a/"][..], &["--prefix=a/", "--dest-prefix=z/", "--max-txn-ops=1"]] {
        let expected = mirrored(&etcdctl, &etcdctl, &binary, flags);
        assert_eq!(mirrored(&kvorumctl, &etcdctl, &binary, flags), expected, "{flags:?}");
    }
}
