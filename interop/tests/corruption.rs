//! Members of Kvorum and of etcd compare what they hold: a bit flipped on the disk of one is found by a leader of either
//! program and the member is named, at a start the member finds it itself, and nobody blames healthy members under load.
//!
//! `KVORUM_TEST_ETCD` names the etcd to cluster with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_api::etcdserverpb as pb;
use kvorum_interop::cluster::{Cluster, Program, until};
use kvorum_interop::load::Load;
use kvorum_interop::tools;

/// A value that is found again in a file, and the same with a bit flipped.
const MARKED: &[u8] = b"this value is going to lose a bit";
const DAMAGED: &[u8] = b"this value is going to lose a biu";

/// Puts, deletes, transactions and compactions while members compare each other every second, for each leader.
const OPERATIONS: u64 = 1_200;

const ALL_DATA: &[&str] =
    &["--strict-reconfig-check=false", "--corrupt-check-time=1s", "--feature-gates=CompactHashCheck=false"];
const COMPACTIONS: &[&str] =
    &["--strict-reconfig-check=false", "--compact-hash-check-time=1s", "--feature-gates=CompactHashCheck=true"];
const BOTH: &[&str] = &[
    "--strict-reconfig-check=false",
    "--corrupt-check-time=1s",
    "--compact-hash-check-time=1s",
    "--feature-gates=CompactHashCheck=true",
];
const AT_START: &[&str] = &["--strict-reconfig-check=false", "--feature-gates=InitialCorruptCheck=true"];

fn programs() -> Option<(Program, Program)> {
    let kvorum = Program::new("kvorum", &tools::or_skip(tools::server_under_test())?);
    let etcd = Program::new("etcd", &tools::or_skip(tools::etcd())?);
    Some((kvorum, etcd))
}

/// The databases in a member's folder, of either program.
fn databases(folder: &Path) -> Vec<PathBuf> {
    let member = folder.join("data/member");
    let entries = std::fs::read_dir(&member).expect("a member's folder").flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path().join("data.mdb")).collect();
    found.push(member.join("snap/db"));
    found.retain(|path| path.exists());
    found
}

/// Flips the lowest bit of the last byte of a value, wherever a database holds it.
fn flip(folder: &Path, value: &[u8]) {
    let mut flipped = 0;
    for path in databases(folder) {
        let mut file = std::fs::read(&path).expect("a database");
        let mut from = 0;
        while let Some(found) = file[from..].windows(value.len()).position(|window| window == value) {
            from += found + value.len();
            file[from - 1] ^= 1;
            flipped += 1;
        }
        std::fs::write(&path, file).expect("the file can be written");
    }
    assert!(flipped > 0, "the value is in the database");
}

async fn alarms(cluster: &Cluster, through: usize) -> Result<Vec<pb::AlarmMember>, tonic::Status> {
    Ok(cluster.nodes[through].maintenance().alarm(pb::AlarmRequest::default()).await?.into_inner().alarms)
}

async fn compact(cluster: &Cluster, through: usize) {
    let revision = cluster.nodes[through].put("behind", b"x").await.expect("a put").header.unwrap_or_default().revision;
    let request = pb::CompactionRequest { revision, physical: true };
    cluster.nodes[through].kv().compact(request).await.expect("a compaction");
}

/// Damages the member at `victim` while the one at `leader` leads, and waits until it is named.
async fn find_damage(programs: [&Program; 3], flags: &[&str], leader: usize, victim: usize) {
    let mut cluster = Cluster::found(&programs, flags).await;
    cluster.nodes[0].put("a", b"1").await.expect("a put");
    cluster.nodes[1].put("marked", MARKED).await.expect("a put");
    cluster.nodes[2].put("b", b"2").await.expect("a put");
    cluster.settle().await;
    cluster.move_leader(leader).await;
    cluster.nodes[victim].process.stop();
    flip(cluster.nodes[victim].process.folder(), MARKED);
    cluster.nodes[victim].process.restart().expect("it starts");
    assert_eq!(cluster.leader().await, leader);
    if flags == COMPACTIONS {
        compact(&cluster, leader).await;
    }
    let raised = until(async || match alarms(&cluster, leader).await?.as_slice() {
        [] => Err(tonic::Status::unavailable("no alarm yet")),
        alarms => Ok(alarms.to_vec()),
    });
    let member_id = cluster.nodes[victim].id;
    let expected = pb::AlarmMember { member_id, alarm: pb::AlarmType::Corrupt as i32 };
    assert_eq!(raised.await.expect("it is found"), [expected]);
    for node in &cluster.nodes {
        let refused = until(async || match node.put("c", b"3").await {
            Err(status) if status.message() == "etcdserver: corrupt cluster" => Ok(()),
            _ => Err(tonic::Status::unavailable("not applied yet")),
        });
        refused.await.expect("every member refuses");
    }
}

#[tokio::test]
async fn kvorum_finds_damage_in_all_data_of_etcd() {
    let Some((kvorum, etcd)) = programs() else { return };
    find_damage([&kvorum, &etcd, &kvorum], ALL_DATA, 0, 1).await;
}

#[tokio::test]
async fn etcd_finds_damage_in_all_data_of_kvorum() {
    let Some((kvorum, etcd)) = programs() else { return };
    find_damage([&kvorum, &etcd, &etcd], ALL_DATA, 1, 0).await;
}

#[tokio::test]
async fn kvorum_finds_damage_in_a_compaction_of_etcd() {
    let Some((kvorum, etcd)) = programs() else { return };
    find_damage([&kvorum, &etcd, &etcd], COMPACTIONS, 0, 1).await;
}

#[tokio::test]
async fn etcd_finds_damage_in_a_compaction_of_kvorum() {
    let Some((kvorum, etcd)) = programs() else { return };
    find_damage([&kvorum, &etcd, &kvorum], COMPACTIONS, 1, 0).await;
}

#[tokio::test]
async fn a_damaged_member_of_either_program_does_not_start() {
    let Some((kvorum, etcd)) = programs() else { return };
    let mut cluster = Cluster::found(&[&kvorum, &etcd, &kvorum], AT_START).await;
    cluster.nodes[1].put("marked", MARKED).await.expect("a put");
    cluster.settle().await;
    for victim in [0, 1] {
        let process = &mut cluster.nodes[victim].process;
        process.stop();
        flip(process.folder(), MARKED);
        let refused = process.restart().expect_err("it is damaged");
        assert!(refused.contains("found data inconsistency with peers"), "{refused}");
        flip(process.folder(), DAMAGED);
        process.restart().expect("it is whole again");
        cluster.leader().await;
        cluster.settle().await;
    }
}

#[tokio::test]
async fn nobody_is_blamed_under_load() {
    let Some((kvorum, etcd)) = programs() else { return };
    let cluster = Cluster::found(&[&kvorum, &etcd, &kvorum], BOTH).await;
    for leader in [0, 1] {
        cluster.move_leader(leader).await;
        let channels = cluster.nodes.iter().map(|node| node.channel.clone()).collect();
        Arc::new(Load::new(channels, 11 + leader as u64, OPERATIONS)).run().await;
        compact(&cluster, leader).await;
        let log = || cluster.nodes[leader].process.log();
        let compared = until(async || {
            let is_done = log().contains("finished peer corruption check")
                && log().contains("successfully checked hash on whole cluster");
            if is_done { Ok(()) } else { Err(tonic::Status::unavailable("not compared yet")) }
        });
        compared.await.expect("the leader compares");
        assert_eq!(alarms(&cluster, leader).await.expect("alarms"), []);
    }
    cluster.settle().await;
}
