//! TLS between Kvorum and etcd's programs: members of both in one cluster, and every `etcdctl` against Kvorum.

use std::process::Command;
use std::sync::Arc;

use kvorum_interop::certificates::{Authority, Wanted, write, write_pair};
use kvorum_interop::cluster::{Cluster, Program};
use kvorum_interop::load::Load;
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;
use tempfile::TempDir;

const OPERATIONS: u64 = 200;

/// A folder with an authority's `ca.crt`, a pair for members, one for clients, and one that nobody knows.
fn folder() -> TempDir {
    let folder = TempDir::with_prefix("kvorum-interop-tls-").expect("a temporary folder");
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    write(folder.path(), "ca.crt", authority.pem());
    let names = &["127.0.0.1", "localhost"];
    let member = Wanted { common_name: "member", names, ..Wanted::p521() };
    write_pair(folder.path(), "member", &authority.issue(member));
    write_pair(folder.path(), "client", &authority.issue(Wanted { common_name: "client", ..Wanted::default() }));
    write_pair(folder.path(), "stranger", &stranger.issue(Wanted { names, ..Wanted::default() }));
    folder
}

/// `@` stands for the folder.
fn flags(folder: &TempDir, flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| flag.replace('@', &folder.path().display().to_string())).collect()
}

fn programs() -> Option<(Program, Program)> {
    let kvorum = Program::new("kvorum", &tools::or_skip(tools::server_under_test())?);
    Some((kvorum, Program::new("etcd", &tools::or_skip(tools::etcd())?)))
}

/// Every member leads once, and all hold the same in the end.
async fn work(cluster: &Cluster, seed: u64) {
    for index in 0..cluster.nodes.len() {
        cluster.move_leader(index).await;
        let channels = cluster.nodes.iter().map(|node| node.channel.clone()).collect();
        Arc::new(Load::new(channels, seed + index as u64, OPERATIONS)).run().await;
    }
    cluster.settle().await;
}

#[tokio::test]
async fn members_of_both_kinds_demand_certificates_of_each_other() {
    let Some((kvorum, etcd)) = programs() else { return };
    let folder = folder();
    let flags = flags(
        &folder,
        &[
            "--peer-cert-file=@/member.crt",
            "--peer-key-file=@/member.key",
            "--peer-trusted-ca-file=@/ca.crt",
            "--peer-client-cert-auth",
            "--peer-cert-allowed-cn=member",
            "--strict-reconfig-check=false",
        ],
    );
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut cluster = Cluster::found(&[&etcd, &kvorum, &kvorum], &flags).await;
    work(&cluster, 1).await;
    let joined = cluster.join(&etcd, true, 1).await;
    cluster.promote(joined, 1).await;
    cluster.settle().await;
}

/// Each shows the certificate that it made for itself, which is of P-521.
#[tokio::test]
async fn members_of_both_kinds_with_peer_auto_tls() {
    let Some((kvorum, etcd)) = programs() else { return };
    let cluster = Cluster::found(&[&etcd, &kvorum], &["--peer-auto-tls"]).await;
    work(&cluster, 10).await;
}

#[test]
fn every_etcdctl_speaks_tls_and_is_refused_without_a_certificate() {
    let (Some(tools_found), Some(server)) =
        (tools::or_skip(tools::all_etcdctl()), tools::or_skip(tools::server_under_test()))
    else {
        return;
    };
    let folder = folder();
    let port = kvorum_interop::ports::free_port();
    let url = format!("https://127.0.0.1:{port}");
    let listen = [format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")];
    let mut arguments = flags(
        &folder,
        &["--cert-file=@/member.crt", "--key-file=@/member.key", "--trusted-ca-file=@/ca.crt", "--client-cert-auth"],
    );
    // Of flags given twice the last counts.
    arguments.extend(listen);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let _member = Member::start(Kind::Server, &server, &arguments).expect("the server must start");
    for tool in &tools_found {
        let run = |identity: &[&str], arguments: &[&str]| {
            let mut command = Command::new(tool);
            command.env("ETCDCTL_API", "3").arg(format!("--endpoints={url}"));
            command.args(["--dial-timeout=2s", "--command-timeout=2s"]);
            command.args(flags(&folder, identity)).args(arguments);
            tools::run(&mut command)
        };
        let known = ["--cacert=@/ca.crt", "--cert=@/client.crt", "--key=@/client.key"];
        assert_eq!(run(&known, &["put", "a", "b"]).as_deref(), Ok("OK\n"), "{}", tool.display());
        assert_eq!(run(&known, &["get", "a"]).as_deref(), Ok("a\nb\n"));
        for arguments in [&["endpoint", "status"][..], &["endpoint", "health"], &["member", "list"]] {
            run(&known, arguments).expect("the command must succeed");
        }
        for refused in [
            &["--cacert=@/ca.crt"][..],
            &["--insecure-skip-tls-verify", "--cert=@/stranger.crt", "--key=@/stranger.key"],
            &["--cacert=@/stranger.crt", "--cert=@/client.crt", "--key=@/client.key"],
        ] {
            run(refused, &["get", "a"]).expect_err("refused");
        }
    }
}
