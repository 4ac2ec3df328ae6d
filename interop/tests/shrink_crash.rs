//! A real process is killed while it shrinks its database under load, as a member of a cluster: it comes back with everything
//! that was acknowledged, and holds what the others hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::future::join_all;
use kvorum_api::etcdserverpb as pb;
use kvorum_interop::cluster::{Cluster, Node, Program, until};
use kvorum_interop::disk::{Calls, Fault, ForgetfulDisk, Forgetting, Strike};
use kvorum_interop::machine::Programs;
use kvorum_interop::random::Random;
use tokio::sync::Notify;

/// The member that shrinks, takes the writes and is killed.
const VICTIM: usize = 2;

/// Most of which are deleted again: the rest is what a shrink copies.
const VALUES: usize = 40;
const VALUE_BYTES: usize = 100_000;

const WRITERS: u64 = 4;

/// Writes that were acknowledged when the shrink begins; and once it is done, if the kill comes so late.
const ACKNOWLEDGED_MIN: u64 = 300;

/// The kills: at one of the calls to the disk that a shrink makes, or behind its end.
const KILLS: [(&str, Option<(Calls, &str, u64, Strike)>); 5] = [
    ("the copy is begun", Some((Calls::Write, ".tmp/data.mdb", 8, Strike::KillAfter))),
    ("the copy is synced", Some((Calls::Sync, ".tmp/data.mdb", 1, Strike::KillAfter))),
    ("the copy is about to take its place", Some((Calls::Write, ".tmp$", 2, Strike::KillBefore))),
    ("the copy has taken its place", Some((Calls::Write, ".tmp$", 2, Strike::KillAfter))),
    ("writes went on in the copy", None),
];

/// What several writers were told, and a word to whoever waits for a number of it.
#[derive(Default)]
struct Acknowledged {
    count: AtomicU64,
    grew: Notify,
}

impl Acknowledged {
    async fn reach(&self, count: u64) {
        while self.count.load(Ordering::Acquire) < count {
            self.grew.notified().await;
        }
    }
}

/// Puts one key after the other until one fails or it should end; gives how many were acknowledged.
async fn write(mut kv: Kv, prefix: String, acknowledged: Arc<Acknowledged>, end: Arc<AtomicBool>) -> u64 {
    for number in 0.. {
        let key = format!("{prefix}{number}").into();
        let request = pb::PutRequest { key, value: "here".into(), ..Default::default() };
        if end.load(Ordering::Acquire) || kv.put(request).await.is_err() {
            return number;
        }
        acknowledged.count.fetch_add(1, Ordering::AcqRel);
        acknowledged.grew.notify_one();
    }
    unreachable!("it writes until something fails")
}

type Kv = pb::kv_client::KvClient<tonic::transport::Channel>;

/// Free pages, and some that are not.
async fn fill(node: &Node) {
    let value = vec![b'v'; VALUE_BYTES];
    for number in 0..VALUES {
        node.put(&format!("large/{number}"), &value).await.expect("a large value is put");
    }
    let request = pb::DeleteRangeRequest { key: "large/2".into(), range_end: "large0".into(), prev_kv: false };
    let deleted = node.kv().delete_range(request).await.expect("most are deleted").into_inner();
    let revision = deleted.header.unwrap_or_default().revision;
    let request = pb::CompactionRequest { revision, physical: true };
    node.kv().compact(request).await.expect("a compaction");
}

fn unfinished(cluster: &Cluster) -> usize {
    let member = cluster.nodes[VICTIM].process.folder().join("data/member");
    let names = std::fs::read_dir(member).expect("a folder").flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().ends_with(".tmp")).count()
}

#[tokio::test]
async fn a_member_is_killed_while_it_shrinks() {
    let Some(programs) = Programs::find() else { return };
    let kvorum = Program::new("kvorum", &programs.server);
    let mut cluster = Cluster::found(&[&kvorum, &kvorum, &kvorum], &[]).await;
    let disk = ForgetfulDisk::new(&programs.library, cluster.nodes[VICTIM].process.folder()).expect("a folder");
    for (round, (name, kill)) in KILLS.iter().enumerate() {
        cluster.move_leader(0).await;
        fill(&cluster.nodes[0]).await;
        let fault = kill.map(|(calls, path, number, strike)| Fault { calls, path: path.to_owned(), number, strike });
        disk.arm(false).expect("a file can be removed");
        let victim = &mut cluster.nodes[VICTIM].process;
        victim.kill();
        victim.set_environment(disk.environment(None, fault.as_ref()));
        victim.restart().expect("it starts again");
        cluster.settle().await;

        let node = &cluster.nodes[VICTIM];
        let (acknowledged, end) = (Arc::new(Acknowledged::default()), Arc::new(AtomicBool::new(false)));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| write(node.kv(), format!("small/{round}/{writer}/"), acknowledged.clone(), end.clone()))
            .map(tokio::spawn)
            .collect();
        acknowledged.reach(ACKNOWLEDGED_MIN).await;
        disk.arm(true).expect("a file can be made");
        let mut maintenance = node.maintenance();
        let shrunk = maintenance.defragment(pb::DefragmentRequest {}).await;
        assert_eq!(shrunk.is_err(), kill.is_some(), "{name}: {shrunk:?}");
        if kill.is_some() {
            let code = cluster.nodes[VICTIM].process.wait().expect("it was killed");
            assert_eq!(code, None, "{name}: it was killed");
        } else {
            acknowledged.reach(acknowledged.count.load(Ordering::Acquire) + ACKNOWLEDGED_MIN).await;
            cluster.nodes[VICTIM].process.kill();
        }
        end.store(true, Ordering::Release);
        let counts: Vec<u64> = join_all(writers).await.into_iter().map(|count| count.expect("no panic")).collect();
        disk.crash(Forgetting::Everything, &mut Random::new(round as u64)).expect("what was not synced is taken back");
        println!(
            "{name}: {} acknowledged, {} unfinished environments",
            counts.iter().sum::<u64>(),
            unfinished(&cluster)
        );
        let victim = &mut cluster.nodes[VICTIM].process;
        victim.set_environment(Vec::new());
        victim.restart().expect("it starts again");
        assert_eq!(unfinished(&cluster), 0, "{name}: a start removes what is left");
        cluster.settle().await;
        for (writer, count) in counts.iter().enumerate() {
            let prefix = format!("small/{round}/{writer}/");
            let range_end = format!("small/{round}/{writer}0").into();
            let request =
                pb::RangeRequest { key: prefix.clone().into(), range_end, keys_only: true, ..Default::default() };
            let found = until(async || cluster.nodes[VICTIM].kv().range(request.clone()).await).await.expect("a read");
            let found: std::collections::BTreeSet<_> = found.into_inner().kvs.into_iter().map(|kv| kv.key).collect();
            for number in 0..*count {
                let key = bytes::Bytes::from(format!("{prefix}{number}"));
                assert!(found.contains(&key), "{name}: {key:?} was acknowledged");
            }
        }
    }
}
