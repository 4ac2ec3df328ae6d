//! Flags with which no cluster can be founded or joined: the server under test gives etcd's reason, word for word.

use std::process::Command;

use kvorum_interop::tools;

/// Flags after name and advertised URL. Nobody listens at these ports.
const MISTAKES: &[&[&str]] = &[
    &["--initial-cluster=b=http://127.0.0.1:1"],
    &["--initial-cluster=a=http://127.0.0.1:2"],
    &["--initial-cluster=a=http://127.0.0.1:2,b=http://127.0.0.1:3"],
    &["--initial-cluster=a=http://127.0.0.1:1,a=http://127.0.0.1:2"],
    &["--initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:1"],
    &["--initial-cluster=a=http://localhost:1"],
    &["--initial-cluster=a=https://127.0.0.1:1"],
    &["--initial-cluster=a=http://127.0.0.1:1", "--max-learners=-1"],
];

#[test]
fn reasons_are_etcds() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let Some(founding) = tools::or_skip(tools::go_program("founding")) else { return };
    for &mistake in MISTAKES {
        let flags: Vec<&str> =
            ["--name=a", "--initial-advertise-peer-urls=http://127.0.0.1:1"].iter().chain(mistake).copied().collect();
        let reason = tools::run(Command::new(&founding).args(&flags)).expect("etcd can be asked");
        let folder = tempfile::tempdir().expect("a folder");
        let anywhere = "http://127.0.0.1:0";
        let mut member = Command::new(&server);
        member.arg("--data-dir").arg(folder.path().join("data")).args(&flags);
        member.args(["--listen-peer-urls", anywhere, "--listen-client-urls", anywhere]);
        member.args(["--advertise-client-urls", anywhere]);
        let output = member.output().expect("the server runs");
        assert_eq!(output.status.code(), Some(1), "{flags:?}");
        let log = String::from_utf8_lossy(&output.stderr);
        let last = log.lines().rfind(|line| line.contains("\"fatal\"")).unwrap_or_default();
        let line: serde_json::Value = serde_json::from_str(last).expect("a line of the log");
        // The log's line says before the reason what failed.
        let error = line["error"].as_str().unwrap_or_default();
        assert_eq!(error.strip_prefix("discovery failed: ").unwrap_or(error), reason.trim_end(), "{flags:?}");
    }
}
