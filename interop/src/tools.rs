//! Finds the programs a test needs: the server under test, `etcdctl`, Go and what it builds. A missing program skips
//! a test with a printed line, unless [`REQUIRE`] is set; a program that is there and fails never skips.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// With this variable set to 1, a missing program is a failure instead of a skip.
pub const REQUIRE: &str = "KVORUM_REQUIRE_TOOLS";

/// Path of an etcd-compatible binary to test instead of the workspace's `kvorum`.
pub const SERVER: &str = "KVORUM_TEST_SERVER";

/// Path of a real etcd 3.7, for tests that need one as a program of its own.
pub const ETCD: &str = "KVORUM_TEST_ETCD";

/// Path of an etcd 3.6 to cluster with; tests with it are skipped without.
pub const PREVIOUS: &str = "KVORUM_TEST_ETCD_36";

/// Path of an etcd 3.5 to take data over from; tests with it are skipped without.
pub const ETCD_35: &str = "KVORUM_TEST_ETCD_35";

/// Gives the tool, or prints why the test is skipped.
///
/// # Panics
/// When the tool is missing and [`REQUIRE`] is 1.
pub fn or_skip<T>(tool: Result<T, String>) -> Option<T> {
    match tool {
        Ok(tool) => Some(tool),
        Err(reason) => {
            assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "{reason}, and {REQUIRE}=1 demands it");
            println!("SKIPPED: {reason}");
            None
        }
    }
}

/// The number in a variable, if there is one.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// The server under test: [`SERVER`], or the workspace's `kvorum`, built in this profile when it is not fresh.
pub fn server_under_test() -> Result<PathBuf, String> {
    static SERVER_PATH: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    SERVER_PATH
        .get_or_init(|| match std::env::var_os(SERVER) {
            Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
            _ if !workspace_root().join("server/Cargo.toml").exists() => {
                Err(format!("the workspace has no server and {SERVER} names none"))
            }
            _ => Ok(build_own("kvorum-server", "kvorum")),
        })
        .clone()
}

/// The workspace's `kvorumctl`, built in this profile when it is not fresh.
pub fn kvorumctl() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build_own("kvorum-ctl", "kvorumctl")).clone()
}

/// The workspace's `kvorumutl`, built in this profile when it is not fresh.
pub fn kvorumutl() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build_own("kvorum-ctl", "kvorumutl")).clone()
}

fn build_own(package: &str, program: &str) -> PathBuf {
    let mut build = Command::new(cargo());
    build.current_dir(workspace_root()).args(["build", "--quiet", "--package", package, "--bin", program]);
    if profile_folder().ends_with("release") {
        build.arg("--release");
    }
    build.env("CARGO_TARGET_DIR", target_folder());
    run(&mut build).expect("the programs of the workspace must build");
    profile_folder().join(program)
}

/// `etcdctl` from the path.
pub fn etcdctl() -> Result<PathBuf, String> {
    on_path("etcdctl").ok_or_else(|| "etcdctl not installed".to_owned())
}

/// Every `etcdctl` of the path: versions differ in how they use the wire.
pub fn all_etcdctl() -> Result<Vec<PathBuf>, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("etcdctl"));
    let mut found: Vec<PathBuf> =
        found.filter(|file| file.is_file()).filter_map(|file| file.canonicalize().ok()).collect();
    found.sort();
    found.dedup();
    if found.is_empty() { Err("etcdctl not installed".to_owned()) } else { Ok(found) }
}

/// A member of etcd 3.7: what [`ETCD`] names, or as [`released`] finds it.
pub fn etcd() -> Result<PathBuf, String> {
    named(ETCD).map_or_else(|| released("etcd"), Ok)
}

/// Whatever `etcd` is installed; Debian's is a 3.4.
pub fn installed_etcd() -> Result<PathBuf, String> {
    on_path("etcd").ok_or_else(|| "etcd not installed".to_owned())
}

/// A member of etcd 3.6, which nobody builds here: the tests' Go programs need modules of 3.7.
pub fn previous_etcd() -> Result<PathBuf, String> {
    named(PREVIOUS).ok_or_else(|| format!("{PREVIOUS} names no etcd 3.6"))
}

/// A member of etcd 3.5, whose data are taken over; nobody builds it here either.
pub fn etcd_35() -> Result<PathBuf, String> {
    named(ETCD_35).ok_or_else(|| format!("{ETCD_35} names no etcd 3.5"))
}

fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// A program of etcd 3.7 (`etcd`, `etcdctl`, `etcdutl`): one of the path, or built from the modules that the Go programs of the tests
/// name.
pub fn released(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_released = |file: &PathBuf| {
        let version = Command::new(file).arg(if program == "etcd" { "--version" } else { "version" }).output();
        version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("ersion: 3.7."))
    };
    let mut found = std::env::split_paths(&path).map(|folder| folder.join(program)).filter(|file| file.is_file());
    if let Some(found) = found.find(is_released) {
        return Ok(found);
    }
    let package = if program == "etcd" { "server" } else { program };
    build_go(program, &format!("go.etcd.io/etcd/{package}/v3"))
}

/// One of the Go programs of `tests/go/cmd`, built into the target folder. Err when Go or its modules cannot be had.
pub fn go_program(name: &str) -> Result<PathBuf, String> {
    build_go(name, &format!("./cmd/{name}"))
}

fn build_go(name: &str, package: &str) -> Result<PathBuf, String> {
    // Tests of one executable run side by side, and a program that runs cannot be written.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let go = on_path("go").ok_or_else(|| "go not installed".to_owned())?;
    let source = workspace_root().join("tests/go");
    let modules = Command::new(&go).current_dir(&source).args(["mod", "download"]).output();
    match modules {
        Ok(output) if output.status.success() => {}
        _ => return Err("Go modules cannot be downloaded".to_owned()),
    }
    let binary = target_folder().join("go").join(name);
    let mut build = Command::new(&go);
    build.current_dir(&source).args(["build", "-buildvcs=false", "-o"]).arg(&binary).arg(package);
    run(&mut build).expect("the Go programs of the tests must build");
    Ok(binary)
}

/// The library that makes a disk forget (`shim/forgetful_disk.c`), built into the target folder. Err without a `cc`.
pub fn forgetful_disk() -> Result<PathBuf, String> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| {
            let compiler = on_path("cc").ok_or_else(|| "cc not installed".to_owned())?;
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/forgetful_disk.c");
            let folder = target_folder().join("shim");
            std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
            // A test that runs beside this one may have the library open: it is replaced, not written.
            let library = folder.join("forgetful_disk.so");
            let fresh = folder.join(format!("forgetful_disk-{}.so", std::process::id()));
            let mut build = Command::new(compiler);
            build.args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]);
            run(build.arg(&fresh).arg(source).arg("-lpthread")).expect("the forgetful disk must build");
            std::fs::rename(&fresh, &library).map_err(|error| error.to_string())?;
            Ok(library)
        })
        .clone()
}

/// Runs a command to its end; Err holds its output when it fails.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} ended with {}\nstdout:\n{stdout}\nstderr:\n{stderr}", output.status))
}

/// The root of the workspace's sources.
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("interop lies inside the workspace").to_path_buf()
}

/// The folder cargo builds into, found from where this test executable lies.
pub fn target_folder() -> PathBuf {
    profile_folder().parent().expect("a profile folder lies in the target folder").to_path_buf()
}

/// The cargo that runs this test.
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

fn profile_folder() -> PathBuf {
    let executable = std::env::current_exe().expect("a running test has a path");
    let deps = executable.parent().expect("an executable lies in a folder");
    if deps.ends_with("deps") { deps.parent().expect("deps lies in a profile folder") } else { deps }.to_path_buf()
}

/// A program of the path.
pub fn program(name: &str) -> Result<PathBuf, String> {
    on_path(name).ok_or_else(|| format!("{name} not installed"))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}
