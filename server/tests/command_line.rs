//! The binary as an operator meets it: exit codes, and what goes to which stream. What each flag means is tested in
//! the library.

use std::process::{Command, Output};

fn kvorum(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvorum"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the binary was built for this test")
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("output is text");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn usage_errors_end_with_2_and_the_usage() {
    for (arguments, first_line) in [
        (vec!["--foo"], "flag provided but not defined: -foo"),
        (vec!["--name"], "flag needs an argument: -name"),
        (vec!["--pre-vote=x"], "invalid boolean value \"x\" for -pre-vote: parse error"),
    ] {
        let (code, stdout, stderr) = texts(&kvorum(&arguments, &[]));
        assert_eq!(code, Some(2));
        assert!(stdout.is_empty(), "{stdout}");
        assert_eq!(stderr.lines().next(), Some(first_line));
        assert_eq!(stderr.lines().nth(1), Some("Usage:"));
    }
}

#[test]
fn refused_flags_end_with_1_and_a_log_line() {
    let (code, stdout, stderr) = texts(&kvorum(&["--backend-bbolt-freelist-type", "array"], &[]));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let line: serde_json::Value = serde_json::from_str(stderr.trim_end()).expect("one line of JSON");
    assert_eq!(line["level"], "warn");
    assert_eq!(line["msg"], "failed to verify flags");
    let error = "--backend-bbolt-freelist-type is not supported by this version of Kvorum yet (only its default 'map' is accepted)";
    assert_eq!(line["error"], error);
    assert!(line["ts"].as_str().is_some_and(|ts| ts.len() == 27 && ts.ends_with('Z')), "{line}");
    assert!(line["caller"].as_str().is_some_and(|caller| caller.starts_with("server/main.rs:")), "{line}");

    let arguments = ["--heartbeat-interval", "0", "--log-format", "console", "--log-outputs", "stdout"];
    let (code, stdout, stderr) = texts(&kvorum(&arguments, &[]));
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    assert!(stdout.contains("\twarn\tserver/main.rs:"), "{stdout}");
    assert!(
        stdout.ends_with("\tfailed to verify flags\t{\"error\": \"--heartbeat-interval must be >0 (set to 0ms)\"}\n")
    );
}

#[test]
fn a_variable_and_its_flag_together_are_fatal() {
    let (code, _, stderr) = texts(&kvorum(&["--name", "a"], &[("ETCD_NAME", "b"), ("ETCD_FOO", "c")]));
    assert_eq!(code, Some(1));
    let lines: Vec<serde_json::Value> =
        stderr.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let last = lines.last().expect("at least the fatal line");
    assert_eq!((&last["level"], &last["environment-variable"]), (&"fatal".into(), &"ETCD_NAME".into()));
}

#[test]
fn an_unwritable_log_is_an_error() {
    let (code, _, stderr) = texts(&kvorum(&["--log-outputs", "/nonexistent/log"], &[]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no such file or directory"), "{stderr}");
}

#[test]
fn version_and_help_end_with_0() {
    let (code, stdout, stderr) = texts(&kvorum(&["--version"], &[("ETCD_NAME", "ignored")]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let keys: Vec<&str> = stdout.lines().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(keys, ["etcd Version", "Kvorum Version", "Git SHA", "Rust Version", "Rust OS/Arch"]);
    assert_eq!(stdout.lines().next(), Some("etcd Version: 3.7.1"));

    let (code, stdout, stderr) = texts(&kvorum(&["--help"], &[]));
    assert_eq!(code, Some(0));
    assert!(stderr.starts_with("Usage:") && stdout.contains("--listen-client-urls 'http://localhost:2379'"));
}
