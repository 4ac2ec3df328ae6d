//! `cargo xtask compare-clients`: builds the programs that use etcd's Go client, the crate `etcd-client` and ours, and
//! hands them to `kvorum-bench compare-clients`. It measures nothing itself.

use std::process::Command;

use crate::codegen::workspace_root;
use crate::compare::{build, succeed, target_folder};

/// Runs with the arguments after the command's name; all go to `kvorum-bench compare-clients`.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    let target = target_folder()?;
    build("kvorum-bench")?;
    // Stands in for `protoc`, which the build of `etcd-client` insists on.
    succeed(Command::new(env!("CARGO")).args(["build", "--package", "kvorum-interop", "--bin", "interop-protoc"]))?;
    let theirs = target.join("etcd-client");
    let manifest = workspace_root().join("interop/etcd-client/Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--locked", "--bin", "load", "--manifest-path"]).arg(manifest);
    succeed(cargo.env("CARGO_TARGET_DIR", &theirs).env("PROTOC", target.join("debug/interop-protoc")))?;
    let go = target.join("go/load");
    let mut go_build = Command::new("go");
    go_build.current_dir(workspace_root().join("tests/go")).args(["build", "-buildvcs=false", "-o"]).arg(&go);
    succeed(go_build.arg("./cmd/load"))?;

    let mut bench = Command::new(target.join("release/kvorum-bench"));
    bench.arg("compare-clients").args(arguments);
    let clients = [
        ("clientv3", go),
        ("etcd-client", theirs.join("release/load")),
        ("kvorum", target.join("release/client-load")),
    ];
    for (name, path) in clients {
        bench.arg("--client").arg(format!("{name}={}", path.display()));
    }
    if !arguments.contains(&"--kvorum") {
        build("kvorum-server")?;
        bench.arg("--kvorum").arg(target.join("release/kvorum"));
    }
    if !arguments.contains(&"--dir") {
        bench.arg("--dir").arg(target.join("bench"));
    }
    succeed(&mut bench)
}
