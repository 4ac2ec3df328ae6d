//! Tells the compiler which Rust and which commit it builds, for `--version`. The commit is asked for in release
//! builds only: elsewhere every commit would rebuild the crate. `KVORUM_GIT_SHA` in the environment wins.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=KVORUM_GIT_SHA");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = output(Command::new(rustc).arg("--version")).unwrap_or_else(|| "unknown".to_owned());
    let number = version.split_whitespace().nth(1).unwrap_or("unknown").to_owned();
    println!("cargo::rustc-env=KVORUM_RUSTC_VERSION={number}");

    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if std::env::var_os("KVORUM_GIT_SHA").is_none() && is_release {
        if let Some(path) = output(Command::new("git").args(["rev-parse", "--git-path", "logs/HEAD"])) {
            println!("cargo::rerun-if-changed={path}");
        }
        if let Some(revision) = output(Command::new("git").args(["rev-parse", "--short=9", "HEAD"])) {
            println!("cargo::rustc-env=KVORUM_GIT_SHA={revision}");
        }
    }
}

/// What a command prints, if it runs and says anything.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
