//! Debian's `etcdctl` works against the server under test, command by command, and prints what it prints for etcd.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;
use serde_json::Value;

/// A member and the tool pointed at it.
struct Etcdctl {
    member: Member,
    path: PathBuf,
}

/// Starts a member, unless the tool or the server is missing.
fn start() -> Option<Etcdctl> {
    let path = tools::or_skip(tools::etcdctl())?;
    let server = tools::or_skip(tools::server_under_test())?;
    let member = Member::start(Kind::Server, &server, &[]).expect("the server must start");
    Some(Etcdctl { member, path })
}

impl Etcdctl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.member.url())).args(arguments);
        command
    }

    /// Standard output of a command that must succeed.
    fn run(&self, arguments: &[&str]) -> String {
        tools::run(&mut self.command(arguments)).expect("the command must succeed")
    }

    fn lines(&self, arguments: &[&str]) -> Vec<String> {
        self.run(arguments).lines().map(str::to_owned).collect()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["-w", "json"]].concat());
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// What a command that must fail prints on standard error.
    fn fail(&self, arguments: &[&str]) -> String {
        tools::run(&mut self.command(arguments)).expect_err("the command must fail")
    }

    /// Output of a command that reads `input`.
    fn run_with(&self, arguments: &[&str], input: &str) -> String {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("etcdctl starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("etcdctl reads its input");
        let mut output = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut output).expect("etcdctl prints text");
        assert!(child.wait().expect("etcdctl ends").success(), "{output}");
        output
    }

    fn follow(&self, arguments: &[&str]) -> Following {
        let mut child =
            self.command(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("etcdctl starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Following { child, lines }
    }

    fn revision(&self) -> i64 {
        number(&self.json(&["get", "nothing"])["header"]["revision"])
    }
}

/// A command that keeps printing. Dropping it ends it.
struct Following {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Following {
    fn next(&mut self, count: usize) -> Vec<String> {
        let line = |_| {
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("etcdctl prints text");
            line.trim_end().to_owned()
        };
        (0..count).map(line).collect()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("want a number, got {value}"))
}

#[test]
fn put_get_del() {
    let Some(etcdctl) = start() else { return };
    for (key, value) in [("a", "1"), ("b", "3"), ("b/1", "2"), ("c", "4")] {
        assert_eq!(etcdctl.run(&["put", key, value]), "OK\n");
    }
    assert_eq!(etcdctl.lines(&["put", "a", "5", "--prev-kv"]), ["OK", "a", "1"]);
    assert_eq!(etcdctl.lines(&["get", "a"]), ["a", "5"]);
    assert_eq!(etcdctl.lines(&["get", "a", "--print-value-only"]), ["5"]);
    assert_eq!(etcdctl.lines(&["get", "a", "--rev=2"]), ["a", "1"]);
    assert_eq!(etcdctl.lines(&["get", "b", "--prefix"]), ["b", "3", "b/1", "2"]);
    assert_eq!(etcdctl.lines(&["get", "b", "--prefix", "--keys-only"]), ["b", "", "b/1", ""]);
    assert_eq!(etcdctl.lines(&["get", "b", "--from-key", "--limit=2"]), ["b", "3", "b/1", "2"]);
    assert_eq!(etcdctl.lines(&["get", "a", "b/"]), ["a", "5", "b", "3"]);
    let sorted = ["get", "", "--prefix", "--order=DESCEND", "--sort-by=VALUE", "--consistency=s"];
    assert_eq!(etcdctl.lines(&sorted), ["a", "5", "c", "4", "b", "3", "b/1", "2"]);
    let modified = ["get", "", "--prefix", "--order=ASCEND", "--sort-by=MODIFY", "--limit=1", "--print-value-only"];
    assert_eq!(etcdctl.lines(&modified), ["3"]);
    assert_eq!(etcdctl.run(&["get", "missing"]), "");
    let json = etcdctl.json(&["get", "b", "--prefix", "--limit=1"]);
    assert_eq!(
        (number(&json["count"]), &json["more"], number(&json["kvs"][0]["mod_revision"])),
        (2, &Value::Bool(true), 3)
    );
    assert!(etcdctl.fail(&["get", "a", "--rev=100"]).contains("required revision is a future revision"));

    assert_eq!(etcdctl.run(&["put", "a", "--ignore-value"]), "OK\n");
    assert_eq!(etcdctl.lines(&["get", "a", "--print-value-only"]), ["5"]);
    assert!(etcdctl.fail(&["put", "none", "--ignore-value"]).contains("etcdserver: key not found"));
    assert!(etcdctl.fail(&["put", "a", "x", "--lease=77"]).contains("etcdserver: requested lease not found"));
    assert_eq!(etcdctl.lines(&["del", "a", "--prev-kv"]), ["1", "a", "5"]);
    assert_eq!(etcdctl.lines(&["del", "b", "--prefix"]), ["2"]);
    assert_eq!(etcdctl.lines(&["del", "b", "--from-key"]), ["1"]);
    assert_eq!(etcdctl.lines(&["del", "b"]), ["0"]);
}

#[test]
fn txn() {
    let Some(etcdctl) = start() else { return };
    let script = "value(\"a\") = \"1\"\n\nput b yes\nget a\n\nput b no\n\n";
    assert_eq!(etcdctl.run_with(&["txn"], script), "FAILURE\n\nOK\n");
    etcdctl.run(&["put", "a", "1"]);
    assert_eq!(etcdctl.run_with(&["txn"], script), "SUCCESS\n\nOK\n\na\n1\n");
    let revisions = "mod(\"a\") > \"1\"\ncreate(\"b\") = \"2\"\nver(\"b\") < \"3\"\n\ndel b\nget b\n\nget a\n\n";
    assert_eq!(etcdctl.run_with(&["txn"], revisions), "SUCCESS\n\n1\n\n");
}

#[test]
fn watch() {
    let Some(etcdctl) = start() else { return };
    etcdctl.run(&["put", "a", "1"]);
    etcdctl.run(&["put", "a", "2"]);
    etcdctl.run(&["del", "a"]);
    let mut past = etcdctl.follow(&["watch", "a", "--rev=2"]);
    assert_eq!(past.next(8), ["PUT", "a", "1", "PUT", "a", "2", "DELETE", "a"]);
    etcdctl.run(&["put", "a", "3"]);
    assert_eq!(past.next(4), ["", "PUT", "a", "3"]);

    // A watch of a later revision has begun when it shows an event that the test made before.
    let rev = format!("--rev={}", etcdctl.revision());
    let mut prefix = etcdctl.follow(&["watch", "a", "--prefix", "--prev-kv", &rev]);
    assert_eq!(prefix.next(3), ["PUT", "a", "3"]);
    etcdctl.run(&["put", "ab", "4"]);
    assert_eq!(prefix.next(3), ["PUT", "ab", "4"]);
    etcdctl.run(&["del", "ab"]);
    assert_eq!(prefix.next(5), ["DELETE", "ab", "4", "ab", ""]);
    let mut exec = etcdctl.follow(&["watch", "a", &rev, "--", "sh", "-c", "echo seen $ETCD_WATCH_VALUE"]);
    assert_eq!(exec.next(4), ["PUT", "a", "3", "seen \"3\""]);
}

#[test]
fn lease() {
    let Some(etcdctl) = start() else { return };
    let granted = etcdctl.run(&["lease", "grant", "600"]);
    let words: Vec<&str> = granted.split_whitespace().collect();
    assert_eq!((words[0], &words[2..]), ("lease", &["granted", "with", "TTL(600s)"][..]), "{granted}");
    let id = words[1];
    etcdctl.run(&["put", "leased/b", "1", &format!("--lease={id}")]);
    etcdctl.run(&["put", "leased/a", "1", &format!("--lease={id}")]);
    let left = etcdctl.run(&["lease", "timetolive", id, "--keys"]);
    assert!(left.starts_with(&format!("lease {id} granted with TTL(600s), remaining(")), "{left}");
    assert!(left.contains("leased/a") && left.contains("leased/b"), "{left}");
    assert!(!etcdctl.run(&["lease", "timetolive", id]).contains("attached keys"));
    assert_eq!(etcdctl.lines(&["lease", "list"]), ["found 1 leases", id]);
    let renewed = etcdctl.run(&["lease", "keep-alive", "--once", id]);
    assert_eq!(renewed, format!("lease {id} keepalived with TTL(600)\n"));
    let mut renewals = etcdctl.follow(&["lease", "keep-alive", id]);
    assert_eq!(renewals.next(1), [format!("lease {id} keepalived with TTL(600)")]);
    assert_eq!(etcdctl.run(&["lease", "revoke", id]), format!("lease {id} revoked\n"));
    assert_eq!(etcdctl.run(&["get", "leased", "--prefix"]), "");
    assert_eq!(etcdctl.lines(&["lease", "timetolive", id]), [format!("lease {id} already expired")]);
    assert!(etcdctl.fail(&["lease", "revoke", id]).contains("etcdserver: requested lease not found"));
    assert_eq!(etcdctl.lines(&["lease", "list"]), ["found 0 leases"]);
}

#[test]
fn compaction() {
    let Some(etcdctl) = start() else { return };
    for value in ["1", "2", "3"] {
        etcdctl.run(&["put", "a", value]);
    }
    assert_eq!(etcdctl.run(&["compaction", "3"]), "compacted revision 3\n");
    assert!(etcdctl.fail(&["get", "a", "--rev=2"]).contains("required revision has been compacted"));
    assert_eq!(etcdctl.lines(&["get", "a", "--rev=3"]), ["a", "2"]);
    assert_eq!(etcdctl.run(&["compaction", "--physical", "4"]), "compacted revision 4\n");
    assert!(etcdctl.fail(&["compaction", "4"]).contains("required revision has been compacted"));
    assert!(etcdctl.fail(&["compaction", "9"]).contains("required revision is a future revision"));
    assert!(etcdctl.fail(&["watch", "a", "--rev=2"]).contains("required revision has been compacted"));
}

#[test]
fn endpoint() {
    let Some(etcdctl) = start() else { return };
    etcdctl.run(&["put", "a", "1"]);
    let url = etcdctl.member.url();
    etcdctl.run(&["endpoint", "health"]);
    let health = etcdctl.json(&["endpoint", "health"]);
    assert_eq!((&health[0]["endpoint"], &health[0]["health"]), (&Value::from(url), &Value::Bool(true)));

    let status = etcdctl.json(&["endpoint", "status"])[0]["Status"].clone();
    assert_eq!(status["version"], "3.7.1");
    assert_eq!(status["leader"], status["header"]["member_id"]);
    assert_eq!(number(&status["header"]["revision"]), 2);
    assert!(number(&status["dbSize"]) > 0 && number(&status["raftIndex"]) > 0, "{status}");
    let table = etcdctl.run(&["endpoint", "status", "-w", "table"]);
    let row: Vec<&str> = table.lines().nth(3).expect("one row").split('|').map(str::trim).collect();
    assert_eq!((row[1], row[3], row[5], row[6]), (url, "3.7.1", "true", "false"), "{table}");

    let hash = etcdctl.json(&["endpoint", "hashkv"])[0]["HashKV"].clone();
    assert_eq!((number(&hash["header"]["revision"]), number(&hash["compact_revision"])), (2, -1));
    let table = etcdctl.run(&["endpoint", "hashkv", "-w", "table"]);
    assert!(table.contains(url) && table.contains(&hash["hash"].to_string()), "{table}");
    assert_eq!(etcdctl.run(&["endpoint", "hashkv", "--rev=2"]), format!("{url}, {}\n", hash["hash"]));
}

#[test]
fn member_and_alarm() {
    let Some(etcdctl) = start() else { return };
    let line = etcdctl.run(&["member", "list"]);
    let fields: Vec<&str> = line.trim_end().split(", ").collect();
    assert_eq!((fields[1], fields[2], fields[4], fields[5]), ("started", "default", etcdctl.member.url(), "false"));
    let list = etcdctl.json(&["member", "list"]);
    assert_eq!(list["members"][0]["ID"], list["header"]["member_id"]);
    assert!(etcdctl.run(&["member", "list", "-w", "table"]).contains("| started | default |"));
    assert_eq!(etcdctl.run(&["alarm", "list"]), "");
    assert_eq!(etcdctl.json(&["alarm", "list"])["alarms"], Value::Null);
}

#[test]
fn users_roles_and_logins() {
    let Some(path) = tools::or_skip(tools::etcdctl()) else { return };
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let member = Member::start(Kind::Server, &server, &["--bcrypt-cost=4"]).expect("the server must start");
    let etcdctl = Etcdctl { member, path };
    assert_eq!(etcdctl.run(&["user", "add", "root:pw-root"]), "User root created\n");
    assert_eq!(etcdctl.run(&["role", "add", "root"]), "Role root created\n");
    assert_eq!(etcdctl.run(&["user", "grant-role", "root", "root"]), "Role root is granted to user root\n");
    assert_eq!(etcdctl.run_with(&["user", "add", "app", "--interactive=false"], "pw-app\n"), "User app created\n");
    assert_eq!(etcdctl.run(&["user", "add", "cert", "--no-password"]), "User cert created\n");
    assert_eq!(etcdctl.run(&["role", "add", "app"]), "Role app created\n");
    let grant = ["role", "grant-permission", "app", "readwrite", "app/", "--prefix"];
    assert_eq!(etcdctl.run(&grant), "Role app updated\n");
    assert_eq!(etcdctl.run(&["role", "grant-permission", "app", "read", "k"]), "Role app updated\n");
    assert_eq!(etcdctl.run(&["user", "grant-role", "app", "app"]), "Role app is granted to user app\n");
    assert_eq!(etcdctl.run(&["auth", "enable"]), "Authentication Enabled\n");
    assert!(etcdctl.fail(&["put", "app/a", "1"]).contains("etcdserver: user name is empty"));
    assert!(etcdctl.fail(&["--user=app:wrong", "put", "app/a", "1"]).contains("authentication failed"));
    assert_eq!(etcdctl.run(&["--user=app:pw-app", "put", "app/a", "1"]), "OK\n");
    assert_eq!(etcdctl.lines(&["--user=app:pw-app", "get", "app/", "--prefix"]), ["app/a", "1"]);
    assert!(etcdctl.fail(&["--user=app:pw-app", "put", "k", "1"]).contains("etcdserver: permission denied"));
    assert!(etcdctl.fail(&["--user=app:pw-app", "user", "list"]).contains("etcdserver: permission denied"));
    assert_eq!(etcdctl.lines(&["--user=root:pw-root", "user", "list"]), ["app", "cert", "root"]);
    assert_eq!(etcdctl.lines(&["--user=root:pw-root", "role", "list"]), ["app", "root"]);
    assert_eq!(etcdctl.lines(&["--user=app:pw-app", "user", "get", "app"]), ["User: app", "Roles: app"]);
    let role = etcdctl.run(&["--user=app:pw-app", "role", "get", "app"]);
    assert!(role.contains("Role app") && role.contains("[app/, app0) (prefix app/)") && role.contains("\tk"), "{role}");
    let revoke = ["--user=root:pw-root", "role", "revoke-permission", "app", "k"];
    assert!(etcdctl.run(&revoke).contains("Permission of key k is revoked from role app"));
    let passwd = ["--user=root:pw-root", "user", "passwd", "app", "--interactive=false"];
    assert_eq!(etcdctl.run_with(&passwd, "pw-new\n"), "Password updated\n");
    assert_eq!(etcdctl.run(&["--user=app:pw-new", "put", "app/a", "2"]), "OK\n");
    let revoke = ["--user=root:pw-root", "user", "revoke-role", "app", "app"];
    assert_eq!(etcdctl.run(&revoke), "Role app is revoked from user app\n");
    assert!(etcdctl.fail(&["--user=app:pw-new", "get", "app/a"]).contains("etcdserver: permission denied"));
    assert_eq!(etcdctl.run(&["--user=root:pw-root", "role", "delete", "app"]), "Role app deleted\n");
    assert_eq!(etcdctl.run(&["--user=root:pw-root", "user", "delete", "app"]), "User app deleted\n");
    assert_eq!(etcdctl.run(&["--user=root:pw-root", "auth", "disable"]), "Authentication Disabled\n");
    assert_eq!(etcdctl.run(&["put", "k", "1"]), "OK\n");
    // Nothing of a password or a token is in the log.
    let log = etcdctl.member.log();
    for secret in ["pw-root", "pw-app", "pw-new"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
