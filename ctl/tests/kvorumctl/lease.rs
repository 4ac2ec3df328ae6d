//! `lease`.

use super::world::World;

#[test]
fn leases_are_granted_shown_and_revoked() {
    let world = World::start();
    let granted = world.output("lease grant 100");
    let id = granted.strip_prefix("lease ").and_then(|rest| rest.strip_suffix(" granted with TTL(100s)\n"));
    let id = id.unwrap_or_else(|| panic!("{granted}"));
    world.output(&format!("put b 1 --lease {id}"));
    world.output(&format!("put a 1 --lease {id}"));
    let shown = world.output(&format!("lease timetolive {id} --keys"));
    let beginning = format!("lease {id} granted with TTL(100s), remaining(");
    assert!(shown.starts_with(&beginning) && shown.ends_with("s), attached keys([a b])\n"), "{shown}");
    assert_eq!(world.output("lease list"), format!("found 1 leases\n{id}\n"));
    assert_eq!(
        world.output(&format!("lease keep-alive --once {id}")),
        format!("lease {id} keepalived with TTL(100)\n")
    );
    let going = world.spawn(&format!("lease keep-alive {id}"));
    assert_eq!(going.line(), format!("lease {id} keepalived with TTL(100)"));
    assert_eq!(world.output(&format!("lease revoke {id}")), format!("lease {id} revoked\n"));
    assert_eq!(world.output("get a"), "");
    assert_eq!(world.output(&format!("lease timetolive {id}")), format!("lease {id} already expired\n"));
    assert_eq!(world.output(&format!("lease keep-alive {id}")), format!("lease {id} expired or revoked.\n"));
    assert_eq!(world.output(&format!("lease keep-alive {id} -w json")), "");
    let cases = [
        (format!("lease revoke {id}"), 1, "failed to revoke lease (etcdserver: requested lease not found)"),
        (format!("lease keep-alive --once {id}"), 2, "etcdserver: requested lease not found"),
        ("lease revoke".to_owned(), 128, "lease revoke command needs 1 argument"),
        ("lease grant x".to_owned(), 128, "bad TTL (strconv.ParseInt: parsing \"x\": invalid syntax)"),
        ("lease grant 9999999999".to_owned(), 1, "failed to grant lease (etcdserver: too large lease TTL)"),
        (
            "lease timetolive x".to_owned(),
            128,
            "bad lease ID arg (strconv.ParseInt: parsing \"x\": invalid syntax), expecting ID in Hex",
        ),
    ];
    for (line, code, text) in cases {
        let answer = world.run(&line);
        assert_eq!((answer.code, answer.errors), (code, format!("Error: {text}\n")), "{line}");
    }
}

#[test]
fn leases_as_json_and_fields() {
    let world = World::start();
    let json: serde_json::Value = serde_json::from_str(&world.output("lease grant 100 -w json")).expect("JSON");
    let id = json["ID"].as_i64().expect("an id");
    assert_eq!(
        (json["TTL"].as_i64(), json["Error"].as_str(), json["revision"].as_i64()),
        (Some(100), Some(""), Some(1))
    );
    let json: serde_json::Value =
        serde_json::from_str(&world.output(&format!("lease timetolive {id:x} -w json"))).expect("JSON");
    assert_eq!(
        (json["id"].as_i64(), json["granted-ttl"].as_i64(), json["keys"].is_null()),
        (Some(id), Some(100), true)
    );
    let json: serde_json::Value = serde_json::from_str(&world.output("lease list -w json")).expect("JSON");
    assert_eq!(json["leases"][0]["id"].as_i64(), Some(id));
    let fields = world.output("lease list -w fields --hex");
    assert!(fields.ends_with(&format!("\"ID\" : {id:016x}\n")), "{fields}");
}
