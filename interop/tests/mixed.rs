//! Members of Kvorum and of etcd in one cluster, as processes: each joins the other's, is promoted, leads and is removed,
//! and all hold the same after the same load. The peer protocol and every entry of the log are proved here from outside.
//!
//! `KVORUM_TEST_ETCD` and `KVORUM_TEST_ETCD_36` name the etcd to cluster with, `KVORUM_MIXED_OPERATIONS` and
//! `KVORUM_MIXED_SEED` set the load.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kvorum_api::etcdserverpb as pb;
use kvorum_interop::cluster::{Cluster, Program, cluster_version, until};
use kvorum_interop::load::{Load, Tally};
use kvorum_interop::tools;

const OPERATIONS: u64 = 1_500;

/// Written to fill segments of 64 MB.
const SNAPSHOT_MEGABYTES: usize = 150;

/// Changes need not wait until connections are five seconds old.
const LENIENT: &[&str] = &["--strict-reconfig-check=false"];

fn operations() -> u64 {
    tools::number("KVORUM_MIXED_OPERATIONS").unwrap_or(OPERATIONS)
}

fn kvorum() -> Option<Program> {
    Some(Program::new("kvorum", &tools::or_skip(tools::server_under_test())?))
}

fn etcd() -> Option<Program> {
    Some(Program::new("etcd", &tools::or_skip(tools::etcd())?))
}

/// Not demanded where every tool is: nobody can install it by name.
fn previous_etcd() -> Option<Program> {
    match tools::previous_etcd() {
        Ok(binary) => Some(Program::new("etcd36", &binary)),
        Err(reason) => {
            println!("SKIPPED: {reason}");
            None
        }
    }
}

/// Runs the load over all voters and compares them.
async fn load(cluster: &Cluster, what: &str, seed: u64, operations: u64) {
    let channels = cluster.voters().await.iter().map(|node| node.channel.clone()).collect();
    let seed = tools::number("KVORUM_MIXED_SEED").unwrap_or(1) * 100 + seed;
    let began = Instant::now();
    let Tally { done, failed } = Arc::new(Load::new(channels, seed, operations)).run().await;
    let took = began.elapsed();
    let (revision, hash) = cluster.settle().await;
    println!("{what}, seed {seed}: {done:?} failed {failed:?} in {took:.1?}; revision {revision} hash {hash}");
}

/// A joiner is taken into a cluster of three, catches up from the log, is promoted, and the load goes over all four while
/// old and new members lead.
async fn join_and_lead(founders: [&Program; 3], joiner: &Program) {
    let mut cluster = Cluster::found(&founders, LENIENT).await;
    let joined = cluster.join(joiner, true, 0).await;
    cluster.promote(joined, 1).await;
    load(&cluster, "joined", 2, operations() / 2).await;
    cluster.move_leader(joined).await;
    load(&cluster, "the joiner leads", 3, operations() / 2).await;
    cluster.move_leader(0).await;
    load(&cluster, "an old member leads", 4, operations() / 5).await;

    // An update travels as a change of the configuration as well.
    let id = cluster.nodes[joined].id;
    let mut peer_urls = vec![cluster.nodes[joined].process.peer_url().to_owned()];
    peer_urls.push(peer_urls[0].replace("127.0.0.1", "localhost"));
    for through in [joined, 0] {
        let request = pb::MemberUpdateRequest { id, peer_urls: peer_urls.clone() };
        cluster.nodes[through].cluster().member_update(request).await.expect("a member is updated");
        peer_urls.truncate(1);
        cluster.settle().await;
    }

    // The joiner removes an old member, another old member removes the joiner.
    cluster.remove(2, joined).await;
    let joined = joined - 1;
    cluster.settle().await;
    load(&cluster, "one old member less", 5, operations() / 5).await;
    cluster.remove(joined, 0).await;
    load(&cluster, "the joiner is gone", 6, operations() / 5).await;

    // One that comes late gets a snapshot where the log no longer begins at its beginning; in etcd, after 100 entries.
    let joined = cluster.join(joiner, true, 0).await;
    load(&cluster, "a late joiner learns", 7, operations() / 5).await;
    cluster.promote(joined, 1).await;
    cluster.move_leader(joined).await;
    load(&cluster, "a late joiner leads", 8, operations() / 5).await;
}

#[tokio::test]
async fn kvorum_joins_etcd() {
    let (Some(kvorum), Some(etcd)) = (kvorum(), etcd()) else { return };
    join_and_lead([&etcd; 3], &kvorum).await;
}

#[tokio::test]
async fn etcd_joins_kvorum() {
    let (Some(kvorum), Some(etcd)) = (kvorum(), etcd()) else { return };
    join_and_lead([&kvorum; 3], &etcd).await;
}

#[tokio::test]
async fn kvorum_joins_the_previous_etcd() {
    let (Some(kvorum), Some(etcd)) = (kvorum(), previous_etcd()) else { return };
    join_and_lead([&etcd; 3], &kvorum).await;
}

/// An older release is taken in only where one is there already: it keeps the cluster version down.
#[tokio::test]
async fn the_previous_etcd_joins_kvorum() {
    let (Some(kvorum), Some(etcd)) = (kvorum(), previous_etcd()) else { return };
    join_and_lead([&kvorum, &etcd, &kvorum], &etcd).await;
}

/// The way back to the release before: a downgrade lowers the cluster version, a member of etcd is started again as 3.6, and
/// once the downgrade is called off, others of 3.6 can join. They must not be given entries of the time before.
#[tokio::test]
async fn a_cluster_goes_back_to_the_release_before() {
    let (Some(kvorum), Some(etcd), Some(previous)) = (kvorum(), etcd(), previous_etcd()) else { return };
    let mut cluster = Cluster::found(&[&kvorum, &kvorum, &etcd], LENIENT).await;
    load(&cluster, "before the downgrade", 21, operations() / 5).await;
    cluster.move_leader(0).await;
    downgrade(&cluster, 1, pb::downgrade_request::DowngradeAction::Enable).await;
    let lowered = until(async || {
        let version = cluster_version(&cluster.nodes[2]).await;
        let storage = cluster.nodes[2].status().await?.storage_version;
        let waiting = || tonic::Status::unavailable(format!("cluster version {version}, storage version {storage}"));
        if version == "3.6.0" && storage == "3.6.0" { Ok(()) } else { Err(waiting()) }
    });
    lowered.await.expect("the versions are lowered");
    cluster.nodes[2].process.stop();
    cluster.nodes[2].process.set_binary(&previous.binary);
    cluster.nodes[2].process.restart().expect("3.6 starts over the folder of 3.7");
    downgrade(&cluster, 0, pb::downgrade_request::DowngradeAction::Cancel).await;
    load(&cluster, "one is of the release before", 22, operations() / 5).await;
    cluster.move_leader(0).await;
    for _ in 0..2 {
        let joined = cluster.join(&previous, true, 0).await;
        cluster.promote(joined, 0).await;
        cluster.remove(0, joined).await;
    }
    load(&cluster, "all are", 23, operations() / 5).await;
}

async fn downgrade(cluster: &Cluster, through: usize, action: pb::downgrade_request::DowngradeAction) {
    let request = pb::DowngradeRequest { action: action as i32, version: "3.6".to_owned() };
    let done = until(async || cluster.nodes[through].maintenance().downgrade(request.clone()).await);
    done.await.expect("a downgrade begins and ends");
}

/// Fills more than one segment of a write-ahead log, of which only the last is kept: a joiner cannot begin at the log's
/// beginning, and gets the database from a leader that is Kvorum.
async fn join_by_snapshot(founders: [&Program; 3], joiner: &Program) {
    let flags = ["--strict-reconfig-check=false", "--snapshot-count=20", "--max-wals=1", "--max-snapshots=1"];
    let mut cluster = Cluster::found(&founders, &flags).await;
    load(&cluster, "before", 31, operations() / 5).await;
    cluster.move_leader(0).await;
    let value = vec![b'v'; 1_000_000];
    for number in 0..SNAPSHOT_MEGABYTES {
        let key = format!("large/{}", number % 10);
        cluster.nodes[number % 3].put(&key, &value).await.expect("a large value is put");
    }
    cluster.settle().await;
    cluster.move_leader(0).await;
    let joined = cluster.join(joiner, true, 0).await;
    cluster.promote(joined, 0).await;
    let log = cluster.nodes[joined].process.log();
    assert!(log.contains("received and saved database snapshot"), "the joiner gets a snapshot");
    load(&cluster, "joined by snapshot", 32, operations() / 5).await;
    cluster.move_leader(joined).await;
    load(&cluster, "it leads", 33, operations() / 5).await;
}

#[tokio::test]
async fn etcd_takes_kvorums_snapshot() {
    let (Some(kvorum), Some(etcd)) = (kvorum(), etcd()) else { return };
    join_by_snapshot([&kvorum; 3], &etcd).await;
}

#[tokio::test]
async fn the_previous_etcd_takes_kvorums_snapshot() {
    let (Some(kvorum), Some(etcd)) = (kvorum(), previous_etcd()) else { return };
    join_by_snapshot([&kvorum, &kvorum, &etcd], &etcd).await;
}

/// Every member is replaced by one of the other program, and back, while clients go on.
#[tokio::test]
async fn a_cluster_is_replaced_member_by_member() {
    let (Some(kvorum), Some(etcd)) = (kvorum(), etcd()) else { return };
    let mut cluster = Cluster::found(&[&etcd, &etcd, &etcd], LENIENT).await;
    let channels = cluster.nodes.iter().map(|node| node.channel.clone()).collect();
    let mut light = Load::new(channels, 7, u64::MAX);
    light.tolerant = true;
    light.pause = Duration::from_millis(100);
    let light = Arc::new(light);
    let running = tokio::spawn({
        let light = Arc::clone(&light);
        async move { light.run().await }
    });
    for program in [&kvorum, &etcd] {
        for _ in 0..3 {
            let joined = cluster.join(program, true, 0).await;
            cluster.promote(joined, 0).await;
            // The one that goes is asked no more, and goes while it may lead.
            let staying = cluster.nodes[1..].iter().map(|node| node.channel.clone()).collect();
            *light.channels.lock().expect("no panic") = staying;
            cluster.remove(0, joined).await;
        }
        let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        println!("now {names:?}");
    }
    light.stop.store(true, Ordering::Relaxed);
    let Tally { done, failed } = running.await.expect("no wrong answer");
    let (revision, hash) = cluster.settle().await;
    println!("replaced twice: {done:?} failed {failed:?}; revision {revision} hash {hash}");
}

/// A full store, a corrupt one and a downgrade, as each member takes them from the other's entries.
#[tokio::test]
async fn alarms_quotas_and_downgrades() {
    let (Some(kvorum), Some(etcd)) = (kvorum(), etcd()) else { return };
    let flags = ["--strict-reconfig-check=false", "--quota-backend-bytes=4194304"];
    let cluster = Cluster::found(&[&etcd, &kvorum, &etcd], &flags).await;
    for leader in [0, 1] {
        cluster.move_leader(leader).await;
        fill_and_free(&cluster).await;
        corrupt_and_heal(&cluster).await;
        downgrade_and_cancel(&cluster, leader).await;
    }
}

async fn fill_and_free(cluster: &Cluster) {
    let value = vec![b'v'; 200_000];
    let mut number = 0;
    let refused = loop {
        let node = &cluster.nodes[number % cluster.nodes.len()];
        match node.put(&format!("large/{number}"), &value).await {
            Ok(_) => number += 1,
            Err(status) => break status,
        }
        assert!(number < 100, "the quota is reached");
    };
    assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");
    let raised = until(async || {
        let alarms = cluster.nodes[1].maintenance().alarm(pb::AlarmRequest::default()).await?.into_inner().alarms;
        alarms.first().copied().ok_or_else(|| tonic::Status::unavailable("no alarm yet"))
    });
    assert_eq!(raised.await.expect("an alarm").alarm, pb::AlarmType::Nospace as i32);
    cluster.settle().await;
    for node in &cluster.nodes {
        let refused = node.put("small", b"").await.expect_err("no space");
        assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded", "{}", node.name);
        let grant = pb::LeaseGrantRequest { ttl: 100, id: 0 };
        let refused = node.lease().lease_grant(grant).await.expect_err("no space");
        assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded", "{}", node.name);
    }
    let request = pb::DeleteRangeRequest { key: "large/".into(), range_end: "large0".into(), prev_kv: false };
    let deleted = cluster.nodes[1].kv().delete_range(request).await.expect("deletes go on").into_inner();
    let revision = deleted.header.unwrap_or_default().revision;
    let request = pb::CompactionRequest { revision, physical: true };
    cluster.nodes[0].kv().compact(request).await.expect("compactions go on");
    for node in &cluster.nodes {
        // Every member frees its own file.
        node.maintenance().defragment(pb::DefragmentRequest {}).await.expect("it is shrunk");
    }
    let disarmed = until(async || {
        let alarms = cluster.nodes[1].maintenance().alarm(pb::AlarmRequest::default()).await?.into_inner().alarms;
        for alarm in alarms {
            let action = pb::alarm_request::AlarmAction::Deactivate as i32;
            let request = pb::AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm };
            cluster.nodes[2].maintenance().alarm(request).await?;
        }
        cluster.nodes[0].put("small", b"again").await?;
        cluster.nodes[1].put("small", b"and again").await
    });
    disarmed.await.expect("writes go on");
    cluster.settle().await;
}

async fn corrupt_and_heal(cluster: &Cluster) {
    let member_id = cluster.nodes[1].id;
    let alarm = pb::AlarmType::Corrupt as i32;
    for (through, action) in
        [(0, pb::alarm_request::AlarmAction::Activate), (1, pb::alarm_request::AlarmAction::Deactivate)]
    {
        let request = pb::AlarmRequest { action: action as i32, member_id, alarm };
        cluster.nodes[through].maintenance().alarm(request).await.expect("alarms can be set");
        if through == 0 {
            for node in &cluster.nodes {
                let refused = node.put("small", b"").await.expect_err("corrupt");
                assert_eq!(refused.message(), "etcdserver: corrupt cluster", "{}", node.name);
                // Reads go on, as in etcd.
                let read = node.value("small").await.unwrap_or_else(|status| panic!("{}: {status}", node.name));
                assert_eq!(read.as_deref(), Some(&b"and again"[..]), "{}", node.name);
            }
        }
    }
    cluster.nodes[2].put("small", b"and again").await.expect("healed");
    cluster.settle().await;
}

async fn downgrade_and_cancel(cluster: &Cluster, through: usize) {
    use pb::downgrade_request::DowngradeAction;
    let version = "3.6.0".to_owned();
    for (action, enabled) in [(DowngradeAction::Enable, true), (DowngradeAction::Cancel, false)] {
        let request = pb::DowngradeRequest { action: action as i32, version: version.clone() };
        let answer = cluster.nodes[through].maintenance().downgrade(request).await.expect("downgraded or cancelled");
        assert!(["3.7", "3.6"].contains(&answer.into_inner().version.as_str()));
        cluster.settle().await;
        for node in &cluster.nodes {
            let downgrade = node.status().await.expect("a status").downgrade_info.expect("the status has it");
            assert_eq!(downgrade.enabled, enabled, "{}", node.name);
        }
    }
}

/// A checkpoint of a lease that one leader writes counts for its successor of the other program. Leaders write them
/// every five minutes, so this runs only if it is asked for.
#[tokio::test]
async fn checkpoints_of_leases_outlive_a_leader() {
    if tools::number("KVORUM_MIXED_SLOW") != Some(1) {
        return println!("SKIPPED: takes five minutes, KVORUM_MIXED_SLOW=1 asks for it");
    }
    let (Some(kvorum), Some(etcd)) = (kvorum(), etcd()) else { return };
    tokio::join!(checkpoint_and_hand_over(&etcd, &kvorum), checkpoint_and_hand_over(&kvorum, &etcd));
}

async fn checkpoint_and_hand_over(first: &Program, second: &Program) {
    const TTL: i64 = 700;
    const CHECKPOINT_SECONDS: u64 = 300;
    let gates = "--feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true";
    let cluster = Cluster::found(&[first, second, first], &[gates]).await;
    cluster.move_leader(0).await;
    let grant = pb::LeaseGrantRequest { ttl: TTL, id: 7 };
    cluster.nodes[0].lease().lease_grant(grant).await.expect("a lease is granted");
    tokio::time::sleep(Duration::from_secs(CHECKPOINT_SECONDS + 10)).await;
    cluster.move_leader(1).await;
    let ask = pb::LeaseTimeToLiveRequest { id: 7, keys: false };
    let left = cluster.nodes[1].lease().lease_time_to_live(ask).await.expect("it is there").into_inner();
    println!("led by {}, then by {}: {left:?}", cluster.nodes[0].name, cluster.nodes[1].name);
    assert_eq!(left.granted_ttl, TTL);
    assert!(left.ttl < TTL - 200, "the lease goes on where it was: {left:?}");
    let renewals = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id: 7 }]);
    let renewed =
        cluster.nodes[1].lease().lease_keep_alive(renewals).await.expect("a stream").into_inner().message().await;
    assert_eq!(renewed.expect("an answer").expect("a renewal").ttl, TTL);
    // A renewal takes the checkpoint back.
    cluster.move_leader(0).await;
    let left = cluster.nodes[0].lease().lease_time_to_live(ask).await.expect("it is there").into_inner();
    assert!(left.ttl > TTL - 30, "the lease was renewed: {left:?}");
}

/// What this version does not know must not be skipped: the member stops and says where. The others go on.
#[tokio::test]
async fn an_entry_of_the_unknown_stops_the_member() {
    let (Some(kvorum), Some(etcd)) = (kvorum(), etcd()) else { return };
    let mut cluster = Cluster::found(&[&etcd, &kvorum, &etcd], LENIENT).await;
    cluster.settle().await;
    let applied = cluster.nodes[1].status().await.expect("a status").raft_applied_index;
    // etcd takes longer names than this version.
    let request = pb::AuthRoleAddRequest { name: "x".repeat(1025) };
    let mut auth = pb::auth_client::AuthClient::new(cluster.nodes[0].channel.clone());
    auth.role_add(request).await.expect("etcd takes a role");
    let mut stopped = cluster.nodes.remove(1);
    let code = stopped.process.wait().expect("the member stops by itself");
    assert_eq!(code, Some(1));
    let log = stopped.process.log();
    let said = log.lines().find(|line| line.contains("auth_role_add")).expect("the log names the field");
    assert!(said.contains(&format!("{}", applied + 1)), "{said}");
    println!("{said}");
    for node in &cluster.nodes {
        // It may have led.
        until(async || node.put("still", b"here").await).await.expect("the others go on");
    }
    cluster.settle().await;
}
