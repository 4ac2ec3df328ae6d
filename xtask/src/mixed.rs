//! `cargo xtask mixed`: the tests with members of Kvorum and of etcd in one cluster, at length and with releases that CI
//! does not have. It only names the binaries and runs them.

use std::process::Command;

const TESTS: &[&str] = &["mixed", "refusals", "corruption"];

/// Operations unless `--operations` says another number.
const OPERATIONS: &str = "10000";

/// Runs with the arguments after the command's name.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tests = Command::new(cargo);
    tests.args(["test", "--package", "kvorum-interop"]);
    for test in TESTS {
        tests.args(["--test", test]);
    }
    // One after the other: each is a cluster of four or more.
    tests.args(["--", "--nocapture", "--test-threads=1"]);
    tests.env("KVORUM_MIXED_OPERATIONS", OPERATIONS);
    let mut rest = arguments.iter();
    while let Some(&argument) = rest.next() {
        let variable = match argument {
            "--etcd" => "KVORUM_TEST_ETCD",
            "--etcd36" => "KVORUM_TEST_ETCD_36",
            "--kvorum" => "KVORUM_TEST_SERVER",
            "--operations" => "KVORUM_MIXED_OPERATIONS",
            "--slow" => {
                tests.env("KVORUM_MIXED_SLOW", "1");
                continue;
            }
            unknown => return Err(format!("mixed: what is {unknown:?}?")),
        };
        let value = rest.next().ok_or_else(|| format!("mixed: {argument} needs a value"))?;
        tests.env(variable, value);
    }
    match tests.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the tests: {status}")),
        Err(error) => Err(format!("cargo: {error}")),
    }
}
