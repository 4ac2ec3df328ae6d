//! Members, endpoints, alarms, snapshots: what operators ask.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;

use super::world::World;

#[test]
fn a_member_is_shown() {
    let world = World::start();
    let list = world.output("member list");
    let cells: Vec<&str> = list.trim_end().split(", ").collect();
    assert_eq!((cells.len(), cells[1], cells[5]), (6, "started", "false"), "{list}");
    let id = u64::from_str_radix(cells[0], 16).expect("an id");
    let json: serde_json::Value = serde_json::from_str(&world.output("member list -w json")).expect("JSON");
    assert_eq!(json["members"][0]["ID"], id);
    let json: serde_json::Value = serde_json::from_str(&world.output("member list -w json --hex")).expect("JSON");
    assert_eq!(json["members"][0]["ID"], cells[0]);
    assert!(world.output("member list -w table").starts_with("┌───"));
    let status = world.output("endpoint status --cluster");
    assert_eq!(status.split(", ").count(), 16, "{status}");
    assert_eq!(status.split(", ").nth(1), Some(cells[0]), "{status}");
    let health = world.output("endpoint health");
    assert!(health.contains(" is healthy: successfully committed proposal: took = "), "{health}");
    assert_eq!(world.output(&format!("move-leader {}", cells[0])).split(' ').count(), 6);
}

#[test]
fn a_learner_comes_and_goes() {
    let world = World::start();
    let added = world.output("member add new --learner --peer-urls http://127.0.0.1:9");
    assert!(added.starts_with("Member ") && added.contains(" added as learner to cluster "), "{added}");
    assert!(added.contains("\nETCD_NAME=\"new\"\nETCD_INITIAL_CLUSTER=\""), "{added}");
    assert!(added.contains("new=http://127.0.0.1:9"), "{added}");
    let id = added.split_whitespace().nth(1).expect("an id");
    let updated = world.output(&format!("member update {id} --peer-urls http://127.0.0.1:8"));
    assert!(updated.contains(" updated in cluster "), "{updated}");
    let answer = world.run(&format!("member promote {id}"));
    assert_eq!(answer.code, 1, "it never caught up: {answer:?}");
    let removed = world.output(&format!("member remove {id}"));
    assert!(removed.contains(" removed from cluster "), "{removed}");
    assert_eq!(world.output("member list").lines().count(), 1);
    for (line, code) in [("member add x", 128), ("member add x --peer-urls nonsense", 1), ("member remove x", 128)] {
        assert_eq!(world.run(line).code, code, "{line}");
    }
}

#[test]
fn hashes_agree_and_unreachable_members_are_named() {
    let world = World::start();
    world.output("put a 1");
    let address = world.address();
    let both = world.output(&format!("endpoint hashkv --endpoints {address},http://{address}"));
    let rows: Vec<Vec<&str>> = both.lines().map(|line| line.split(", ").collect()).collect();
    assert_eq!((rows.len(), &rows[0][1..]), (2, &rows[1][1..]), "{both}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let answer = world.run(&format!("endpoint status --endpoints {free},{address} --command-timeout 1s"));
    assert_eq!((answer.code, answer.output.lines().count()), (1, 1), "{answer:?}");
    let expected = format!("Failed to get the status of endpoint {free} (context deadline exceeded)");
    assert_eq!(answer.errors.trim_end(), expected);
    let answer = world.run(&format!("endpoint health --endpoints {free},{address} --command-timeout 1s"));
    assert_eq!((answer.code, answer.output.lines().count()), (1, 1), "{answer:?}");
    assert!(answer.errors.ends_with("Error: unhealthy cluster\n"), "{answer:?}");
}

#[test]
fn alarms_and_downgrades() {
    let world = World::start();
    assert_eq!(world.output("alarm list"), "");
    assert_eq!(world.output("alarm disarm -w json"), "{}\n");
    let answer = world.run("downgrade validate 3.2");
    assert_eq!((answer.code, answer.errors.as_str()), (1, "Error: etcdserver: invalid downgrade target version\n"));
    assert_eq!(world.run("downgrade validate").code, 128);
}

#[test]
fn a_snapshot_is_whole_or_not_there() {
    let world = World::start();
    for number in 0..20 {
        world.output(&format!("put key{number} value{number}"));
    }
    let path = world.folder().join("backup.db");
    let shown = path.display();
    let saved = world.output(&format!("snapshot save {shown}"));
    assert!(saved.starts_with(&format!("Snapshot saved at {shown}\nServer version 3.7")), "{saved}");
    let metadata = std::fs::metadata(&path).expect("it is there");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(metadata.len() % 512, 32, "a checksum stands behind the pages");
    let mut status = std::process::Command::new(env!("CARGO_BIN_EXE_kvorumutl"));
    let status = status.args(["snapshot", "status"]).arg(&path).args(["-w", "json"]).output().expect("it runs");
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["revision"], 21);
    // What fails leaves nothing behind, and what was there as it was.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    for flags in ["--command-timeout 100ms", "--dial-timeout 100ms"] {
        let answer = world.run(&format!("snapshot save {shown} --endpoints {free} {flags}"));
        assert_eq!(answer.code, 5, "{answer:?}");
    }
    let answer = world.run(&format!("snapshot save {}", world.folder().display()));
    assert!(answer.errors.contains("could not rename"), "{answer:?}");
    assert_eq!(std::fs::metadata(&path).expect("it is there").len(), metadata.len());
    let parts = |folder: &std::path::Path| {
        let entries = std::fs::read_dir(folder).expect("a folder").flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "part")).count()
    };
    assert_eq!((parts(world.folder()), parts(world.folder().parent().expect("a parent"))), (0, 0));
}

#[test]
fn checks_want_a_prefix_of_their_own() {
    let world = World::start();
    world.output("put /there/x 1");
    for (line, code) in
        [("check perf --load huge", 4), ("check perf --prefix /there/", 3), ("check datascale --prefix /there/", 3)]
    {
        assert_eq!(world.run(line).code, code, "{line}");
    }
    assert_eq!(world.output("get /there/x"), "/there/x\n1\n");
}

/// It goes on for a minute unless it is interrupted: then it judges what there was, and cleans up all the same.
#[test]
fn an_interrupted_measurement_is_judged() {
    let world = World::start();
    let written = world.spawn("watch --prefix /etcdctl-check-perf/ --rev 1");
    let check = world.spawn("check perf");
    written.line();
    check.signal(Signal::INT);
    let answer = check.finish();
    let lines: Vec<&str> = answer.output.lines().collect();
    assert_eq!((lines.len(), &*answer.errors), (4, ""), "{answer:?}");
    assert!(lines[0].contains("Throughput"), "{answer:?}");
    let passes = lines[..3].iter().all(|line| line.starts_with("PASS: "));
    assert_eq!((lines[3], answer.code), if passes { ("PASS", 0) } else { ("FAIL", 1) }, "{answer:?}");
    assert_eq!(world.output("get --prefix --keys-only /etcdctl-check-perf/"), "");
}

#[test]
fn a_scale_is_measured() {
    let world = World::start();
    let answer = world.run("check datascale --auto-compact");
    let lines: Vec<&str> = answer.output.lines().collect();
    let begin = "Start data scale check for work load [10000 key-value pairs, 1024 bytes per key-value, 50 concurrent clients].";
    assert_eq!((answer.code, lines.first()), (0, Some(&begin)), "{answer:?}");
    assert!(lines.contains(&"Compacted with revision 10002"), "{answer:?}");
    assert!(lines.last().is_some_and(|line| line.starts_with("PASS: Approximate system memory used : ")), "{answer:?}");
    assert_eq!(answer.errors, "", "no bar where nobody sees it");
    assert_eq!(world.output("get --prefix --keys-only /etcdctl-check-datascale/"), "");
}
