//! `cargo xtask check`: everything that must hold before a change lands. It writes nothing but build output.

use std::process::Command;
use std::time::Instant;

use crate::{codegen, dependencies, map, readme};

/// Runs every step and stops at the first that fails.
pub fn run() -> Result<(), String> {
    step("generated code is fresh", codegen::check)?;
    step("the map names every crate", map::check)?;
    step("README says the same in both languages", readme::check)?;
    step("dependency policy", dependencies::check)?;
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("tests", || cargo(&["test", "--workspace"]))?;
    // What the workspace's build leaves out.
    let client_tls = ["-p", "kvorum-client", "--features", "tls"];
    step("lints of the client with TLS", || {
        cargo(&[&["clippy", "--all-targets"], &client_tls[..], &["--", "-D", "warnings"]].concat())
    })?;
    step("the client with TLS", || cargo(&[&["test", "--test", "tls"], &client_tls[..]].concat()))
}

fn step(name: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let began = Instant::now();
    println!("== {name}");
    work().map_err(|error| format!("{name}: {error}"))?;
    println!("== {name}: ok after {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    let status = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(codegen::workspace_root())
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed", arguments.join(" "))) }
}
