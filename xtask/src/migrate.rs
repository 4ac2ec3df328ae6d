//! `cargo xtask migrate`: builds release binaries and hands over to the harness in `interop`. It judges nothing itself.

use std::process::Command;

/// Runs with the arguments after the command's name; all go to the harness.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    let mut harness = Command::new(env!("CARGO"));
    harness.args(["run", "--release", "--quiet", "--package", "kvorum-interop", "--bin", "interop-migrate", "--"]);
    match harness.args(arguments).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("migrate: {status}")),
        Err(error) => Err(format!("cargo: {error}")),
    }
}
