//! A real process is killed while it shrinks its database under load, as a member of a cluster: it comes back with everything
//! that was acknowledged, and holds what the others hold.

use std::time::Duration;

use kvorum_api::etcdserverpb as pb;
use kvorum_interop::cluster::{Cluster, Program, until};
use kvorum_interop::tools;

/// Kills, each a bit later in the shrink.
const ROUNDS: u64 = 3;

/// Of which most are deleted again: the rest is what a shrink copies.
const VALUES: usize = 160;
const VALUE_BYTES: usize = 100_000;

#[tokio::test]
async fn a_member_is_killed_while_it_shrinks() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let kvorum = Program::new("kvorum", &server);
    let mut cluster = Cluster::found(&[&kvorum, &kvorum, &kvorum], &[]).await;
    let mut in_the_middle = 0;
    for round in 0..ROUNDS {
        let value = vec![b'v'; VALUE_BYTES];
        for number in 0..VALUES {
            cluster.nodes[0].put(&format!("large/{number}"), &value).await.expect("a large value is put");
        }
        let request = pb::DeleteRangeRequest { key: "large/2".into(), range_end: "large0".into(), prev_kv: false };
        let deleted = cluster.nodes[0].kv().delete_range(request).await.expect("most are deleted").into_inner();
        let revision = deleted.header.unwrap_or_default().revision;
        let request = pb::CompactionRequest { revision, physical: true };
        cluster.nodes[0].kv().compact(request).await.expect("a compaction");

        // Writes go through the member that shrinks.
        let node = &cluster.nodes[2];
        let (maintenance, kv) = (node.maintenance(), node.kv());
        let shrink = tokio::spawn({
            let mut maintenance = maintenance.clone();
            async move { maintenance.defragment(pb::DefragmentRequest {}).await }
        });
        let writer = tokio::spawn({
            let mut kv = kv.clone();
            async move {
                let mut acknowledged = 0_u64;
                loop {
                    let key = format!("small/{round}/{acknowledged}").into();
                    let request = pb::PutRequest { key, value: "here".into(), ..Default::default() };
                    if kv.put(request).await.is_err() {
                        return acknowledged;
                    }
                    acknowledged += 1;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(5 + 25 * round)).await;
        let node = &mut cluster.nodes[2];
        node.process.kill();
        let member = node.process.folder().join("data/member");
        let names = std::fs::read_dir(&member).expect("a folder").flatten();
        let unfinished = names.filter(|entry| entry.file_name().to_string_lossy().ends_with(".tmp")).count();
        in_the_middle += usize::from(unfinished > 0);
        drop(shrink.await.expect("no panic"));
        let acknowledged = writer.await.expect("no panic");
        node.process.restart().expect("it starts again");
        let names = std::fs::read_dir(&member).expect("a folder").flatten();
        assert!(names.into_iter().all(|entry| !entry.file_name().to_string_lossy().ends_with(".tmp")));
        cluster.settle().await;
        for number in 0..acknowledged {
            let key = format!("small/{round}/{number}");
            let value = until(async || cluster.nodes[2].value(&key).await).await.expect("a read");
            assert_eq!(value.as_deref(), Some(&b"here"[..]), "{key} was acknowledged");
        }
        println!("round {round}: {acknowledged} acknowledged, {unfinished} unfinished environments");
    }
    assert!(in_the_middle > 0, "no kill came in the middle of a shrink");
}
