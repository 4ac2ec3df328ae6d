//! `cargo xtask compare`: builds release binaries and hands over to `kvorum-bench compare`. It measures nothing itself.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs with the arguments after the command's name; all go to `kvorum-bench compare`.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    let target = target_folder()?;
    // Each alone, so that no feature of one gets into the other.
    build("kvorum-bench")?;
    let mut bench = Command::new(target.join("release/kvorum-bench"));
    bench.arg("compare").args(arguments);
    if !arguments.contains(&"--kvorum") {
        build("kvorum-server")?;
        bench.arg("--kvorum").arg(target.join("release/kvorum"));
    }
    if !arguments.contains(&"--dir") {
        bench.arg("--dir").arg(target.join("bench"));
    }
    succeed(&mut bench)
}

pub fn build(package: &str) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    succeed(Command::new(cargo).args(["build", "--release", "--package", package]))
}

pub fn succeed(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}: {status}")),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// This program lies in `TARGET/PROFILE/`, wherever cargo was told to build.
pub fn target_folder() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = program.parent().and_then(Path::parent);
    target.map(Path::to_path_buf).ok_or_else(|| format!("{} is not in a target folder", program.display()))
}
