//! `cargo xtask simulate`: builds the simulator as its tests do, and runs it on. It decides nothing itself.

use std::process::Command;

/// Runs with the arguments after the command's name; all go to `kvorum-sim`.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut simulate = Command::new(cargo);
    // Not optimized: a long run needs every overflow check and assertion that the tests have.
    simulate.args(["run", "--quiet", "--package", "kvorum-sim", "--"]).args(arguments);
    match simulate.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("kvorum-sim: {status}")),
        Err(error) => Err(format!("cargo: {error}")),
    }
}
