//! A follower fell behind what the leader's log still holds, gets its database, and is killed at one step after another of
//! taking it in; what it had not synced is gone. Started again, it holds what the others hold, with everything that was
//! acknowledged.

use std::collections::BTreeMap;

use kvorum_api::etcdserverpb as pb;
use kvorum_interop::cluster::{Cluster, Program, until};
use kvorum_interop::disk::{Calls, Fault, ForgetfulDisk, Forgetting, Strike};
use kvorum_interop::machine::Programs;
use kvorum_interop::random::Random;

/// Snapshots come often, and no more of the log is kept than they need.
const FLAGS: [&str; 5] = [
    "--snapshot-count=20",
    "--snapshot-catchup-entries=5",
    "--max-wals=1",
    "--max-snapshots=1",
    "--wal-segment-bytes=5000",
];

/// So many puts are in several segments of the log.
const PUTS: usize = 60;
const VALUE_BYTES: usize = 500;

/// The follower that is killed.
const VICTIM: usize = 2;

use Calls::{Any, Sync, Write};
use Strike::{KillAfter, KillBefore};

/// What is under way, the calls that are counted, the files they are about (`<old>`: the environment that was the live one),
/// and at which of them the process ends.
const STEPS: &[(&str, Calls, &str, u64, Strike)] = &[
    ("receiving: the file is there", Any, "/snap/tmp", 1, KillAfter),
    ("receiving: a piece is written", Any, "/snap/tmp", 2, KillAfter),
    ("received: not synced", Sync, "/snap/tmp", 1, KillBefore),
    ("received: synced, without its name", Sync, "/snap/tmp", 1, KillAfter),
    ("received: it has its name", Sync, "member/snap$", 1, KillAfter),
    ("import: begun", Any, ".tmp/data.mdb", 1, KillAfter),
    ("import: pages are written", Write, ".tmp/data.mdb", 3, KillAfter),
    ("import: synced", Sync, ".tmp/data.mdb", 1, KillAfter),
    ("import: about to be marked", Any, ".tmp/received", 1, KillBefore),
    ("import: marked", Sync, ".tmp/received", 1, KillAfter),
    ("switch: about to be renamed", Write, ".tmp$", 2, KillBefore),
    ("switch: renamed, not synced", Write, ".tmp$", 2, KillAfter),
    ("record: the snap file is begun", Any, ".snap.tmp", 1, KillAfter),
    ("record: the snap file is renamed, the log knows nothing", Write, ".snap.tmp", 3, KillAfter),
    ("record: the log knows, the mark is there", Write, "/received", 2, KillBefore),
    ("record: the mark is cleared", Write, "/received", 2, KillAfter),
    ("retired: files are removed, the folder is there", Write, "<old>$", 1, KillBefore),
    ("retired: removed", Write, "<old>$", 1, KillAfter),
];

/// The folder of the live environment, as the end of a path.
fn live(cluster: &Cluster) -> String {
    let member = cluster.nodes[VICTIM].process.folder().join("data/member");
    let names = std::fs::read_dir(&member).expect("a folder").flatten().map(|entry| entry.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.starts_with("backend"));
    let number = |name: &String| name.strip_prefix("backend.").and_then(|number| number.parse::<u64>().ok());
    format!("member/{}", names.max_by_key(number).expect("there is one"))
}

/// Starts the victim again so that it is killed at the step, and takes back what it had not synced.
async fn strike(cluster: &mut Cluster, disk: &ForgetfulDisk, fault: &Fault, seed: u64) {
    let victim = &mut cluster.nodes[VICTIM].process;
    disk.arm(true).expect("a file can be made");
    victim.set_environment(disk.environment(None, Some(fault)));
    // It may be killed before it is ready, or after.
    match victim.restart().and_then(|()| victim.wait()) {
        Ok(code) => assert_eq!(code, None, "{fault:?}: it was killed"),
        Err(error) => assert!(error.contains("signal: 9"), "{fault:?}: {error}"),
    }
    let forgetting = if seed.is_multiple_of(2) { Forgetting::Everything } else { Forgetting::AnyPart };
    disk.crash(forgetting, &mut Random::new(seed)).expect("what was not synced is taken back");
    victim.set_environment(Vec::new());
    victim.restart().unwrap_or_else(|error| panic!("after {fault:?}: {error}"));
}

async fn keys(cluster: &Cluster, through: usize) -> BTreeMap<String, Vec<u8>> {
    let request = pb::RangeRequest { key: "key/".into(), range_end: "key0".into(), ..Default::default() };
    let found = until(async || cluster.nodes[through].kv().range(request.clone()).await).await.expect("a read");
    let kvs = found.into_inner().kvs.into_iter();
    kvs.map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv.value.to_vec())).collect()
}

#[tokio::test]
async fn a_follower_is_killed_while_it_takes_a_database_in() {
    let Some(programs) = Programs::find() else { return };
    let kvorum = Program::new("kvorum", &programs.server);
    let mut cluster = Cluster::found(&[&kvorum, &kvorum, &kvorum], &FLAGS).await;
    let disk = ForgetfulDisk::new(&programs.library, cluster.nodes[VICTIM].process.folder()).expect("a folder");
    let mut expected = BTreeMap::new();
    for (round, (name, calls, path, number, strike_at)) in STEPS.iter().enumerate() {
        cluster.move_leader(0).await;
        cluster.nodes[VICTIM].process.kill();
        for put in 0..PUTS {
            let (key, value) = (format!("key/{:02}", put % 40), vec![(round * PUTS + put) as u8; VALUE_BYTES]);
            until(async || cluster.nodes[put % 2].put(&key, &value).await).await.expect("two of three take a put");
            expected.insert(key, value);
        }
        let path = path.replace("<old>", &live(&cluster));
        let fault = Fault { calls: *calls, path, number: *number, strike: *strike_at };
        strike(&mut cluster, &disk, &fault, round as u64).await;
        // Everybody's `HashKV` is compared here.
        cluster.settle().await;
        assert!(keys(&cluster, VICTIM).await == expected, "{name}: what was acknowledged is there");
        println!("{name}: well");
    }
    let log = cluster.nodes[VICTIM].process.log();
    assert!(log.contains("Recovering from snapshot backend"), "some start wrote the record that the log lacked");
    assert!(log.contains("is here already"), "a database whose arrival the leader had not heard of is taken in once");
}
