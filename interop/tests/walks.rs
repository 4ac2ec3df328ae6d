//! Client libraries of others, each taken through the same walk: members, put, get, transaction, watch, lease.

use std::process::Command;

use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;

fn start() -> Option<Member> {
    let server = tools::or_skip(tools::server_under_test())?;
    Some(Member::start(Kind::Server, &server, &[]).expect("the server must start"))
}

#[test]
fn go_client() {
    let Some(walk) = tools::or_skip(tools::go_program("walk")) else { return };
    let Some(member) = start() else { return };
    let output = tools::run(Command::new(walk).arg(format!("-endpoints={}", member.url())));
    println!("{}", output.expect("the walk must succeed"));
}

#[test]
fn rust_etcd_client() {
    let Some(member) = start() else { return };
    let manifest = tools::workspace_root().join("interop/etcd-client/Cargo.toml");
    let mut walk = Command::new(tools::cargo());
    walk.args(["run", "--quiet", "--locked", "--manifest-path"]).arg(manifest).arg("--").arg(member.url());
    walk.env("CARGO_TARGET_DIR", tools::target_folder().join("etcd-client"));
    walk.env("PROTOC", env!("CARGO_BIN_EXE_interop-protoc"));
    println!("{}", tools::run(&mut walk).expect("the walk must succeed"));
}
