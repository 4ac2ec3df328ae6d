//! A bit flipped on the disk of one member of three is found, and that member is named.

use kvorum_server::start::StartError;

use super::clusters::Cluster;
use super::*;

/// A value that is found again in the file.
const MARKED: &str = "this value is going to lose a bit";
const DAMAGED: &str = "this value is going to lose a biu";

/// Flips the lowest bit of the last byte of a value, wherever the database holds it.
fn flip(folder: &Path, value: &str) {
    let mut flipped = 0;
    for entry in std::fs::read_dir(folder.join("member")).expect("a member's folder").flatten() {
        let path = entry.path().join("data.mdb");
        let Ok(mut file) = std::fs::read(&path) else { continue };
        let mut from = 0;
        while let Some(found) = file[from..].windows(value.len()).position(|window| window == value.as_bytes()) {
            from += found + value.len();
            file[from - 1] ^= 1;
            flipped += 1;
        }
        std::fs::write(&path, file).expect("the file can be written");
    }
    assert!(flipped > 0, "the value is in the database");
}

/// A cluster of three with a damaged follower that is stopped, and its place.
async fn damaged(adjust: fn(&mut Config)) -> (Cluster, usize) {
    let mut cluster = Cluster::start(3, adjust).await;
    cluster.client(0).put("a", "1").await;
    cluster.client(1).put("marked", MARKED).await;
    cluster.client(2).put("b", "2").await;
    cluster.agree().await;
    let victim = (cluster.leader().await + 1) % 3;
    cluster.stop(victim);
    flip(cluster.folders[victim].path(), MARKED);
    (cluster, victim)
}

/// Waits for alarms and demands that they are about the victim alone.
async fn is_named(cluster: &Cluster, victim: usize) {
    let core = |index: usize| cluster.members[index].as_ref().expect("it runs").member.core();
    eventually(|| (0..3).all(|index| !core(index).reader.alarms().is_empty())).await;
    let member_id = core(victim).config.member_id;
    let alarms = core(victim).reader.alarms();
    assert_eq!(alarms, [pb::AlarmMember { member_id, alarm: pb::AlarmType::Corrupt as i32 }]);
    for index in 0..3 {
        let client = cluster.client(index);
        let refused = client.try_put(put("c", "3")).await.expect_err("the cluster is corrupt");
        let expected = (tonic::Code::DataLoss, "etcdserver: corrupt cluster");
        assert_eq!((refused.code(), refused.message()), expected);
        assert_eq!(client.get("a").await.as_deref(), Some("1"), "reads go on");
        assert_eq!(client.status().await.errors, [format!("memberID:{member_id} alarm:CORRUPT")]);
        let (code, _, body) = raw::http1(&client.address, "GET", "/readyz").await;
        assert_eq!(code, 503);
        assert!(body.contains("[-]data_corruption failed: alarm activated: CORRUPT"), "{body}");
        let (_, _, metrics) = raw::http1(&client.address, "GET", "/metrics").await;
        let sample = format!("etcd_debugging_server_alarms{{alarm_type=\"CORRUPT\",server_id=\"{member_id:x}\"}} 1\n");
        assert!(metrics.contains(&sample), "{sample}");
    }
}

#[test]
fn the_leader_compares_all_data() {
    run(async {
        let adjust = |config: &mut Config| config.corrupt_check_time = Duration::from_millis(200);
        let (mut cluster, victim) = damaged(adjust).await;
        cluster.restart(victim);
        is_named(&cluster, victim).await;
    });
}

#[test]
fn the_leader_compares_compactions_without_being_told_to() {
    run(async {
        let adjust = |config: &mut Config| config.compact_hash_check_time = Duration::from_millis(200);
        let (mut cluster, victim) = damaged(adjust).await;
        cluster.restart(victim);
        let revision = cluster.client(victim).put("d", "4").await;
        cluster.client(victim).compact(revision, true).await.expect("a compaction");
        is_named(&cluster, victim).await;
    });
}

#[test]
fn a_member_compares_itself_before_it_serves() {
    run(async {
        let adjust = |config: &mut Config| config.feature_gates.initial_corrupt_check = true;
        let (mut cluster, victim) = damaged(adjust).await;
        let healthy = (victim + 1) % 3;
        let refused: Result<Running, StartError> = cluster.try_begin(victim, |_| {});
        let reason = refused.err().expect("it is damaged").to_string();
        assert!(reason.ends_with("found data inconsistency with peers"), "{reason}");
        // The others are not disturbed, and a member that is whole comes back.
        assert_eq!(cluster.client(healthy).get("marked").await.as_deref(), Some(MARKED));
        flip(cluster.folders[victim].path(), DAMAGED);
        cluster.restart(victim);
        assert_eq!(cluster.client(victim).get("marked").await.as_deref(), Some(MARKED));
        cluster.agree().await;
    });
}
