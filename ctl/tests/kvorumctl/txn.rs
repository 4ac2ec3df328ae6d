//! `txn`, from a pipe and as someone types.

use super::world::World;

#[test]
fn a_transaction_is_read_and_sent() {
    let world = World::start();
    world.output("put a 1");
    let input = "value(\"a\") = \"1\"\nversion(\"b\") = \"0\"\n\nput a \"2 \\\"two\\\"\" --prev-kv\nget a\ndel nosuch\n\nput a 3\n\n";
    let answer = world.run_with("txn", input);
    assert_eq!(answer.output, "SUCCESS\n\nOK\na\n1\n\na\n2 \"two\"\n\n0\n");
    let answer = world.run_with("txn", input);
    assert_eq!(answer.output, "FAILURE\n\nOK\n");
    let answer = world.run_with("txn -w json", "\nput x \"\\xff\"\nget a\n\n\n");
    let json: serde_json::Value = serde_json::from_str(&answer.output).expect("JSON");
    assert_eq!(json["succeeded"], true);
    assert_eq!(json["responses"][1]["Response"]["response_range"]["count"], 1);
    assert_eq!(
        world.output("get x -w fields").lines().find(|line| line.contains("Value")),
        Some("\"Value\" : \"\\xff\"")
    );
    let id = world.output("lease grant 100")[6..22].to_owned();
    world.output(&format!("put leased 1 --lease {id}"));
    assert_eq!(world.run_with("txn", &format!("lease(\"leased\") = \"{id}\"\n\n\n\n")).output, "SUCCESS\n");
}

#[test]
fn what_is_wrong_with_a_line_is_said_at_once() {
    let world = World::start();
    let cases = [
        ("mod(\"a\")\n", "malformed comparison: mod(\"a\"); got mod(\"a\")  \"\""),
        ("mod(\"a\") > \"x\"\n", "invalid txn compare request: mod(\"a\") > \"x\""),
        ("\nput\n", "invalid txn compare request: put"),
        ("\nset a b\n", "invalid txn request: set a b"),
        ("\nput a b\n\n", "EOF"),
        ("\nput a b\n\nget a", "EOF"),
    ];
    for (input, text) in cases {
        let answer = world.run_with("txn", input);
        assert_eq!((answer.code, answer.errors), (3, format!("Error: {text}\n")), "{input:?}");
    }
    assert_eq!(world.run("txn x").code, 128);
    let answer = world.run_with("txn", "\nput a 1\nput a 2\n\n\n");
    assert_eq!((answer.code, answer.errors.as_str()), (1, "Error: etcdserver: duplicate key given in txn request\n"));
    assert_eq!(world.output("get a"), "");
}

#[test]
fn each_list_is_asked_for() {
    let world = World::start();
    let mut going = world.spawn("txn -i");
    assert_eq!(going.line(), "compares:");
    going.say("create(\"a\") = \"0\"");
    going.say("");
    assert_eq!(going.line(), "success requests (get, put, del):");
    going.say("put a 1");
    going.say("");
    assert_eq!(going.line(), "failure requests (get, put, del):");
    going.say("");
    assert_eq!(going.lines(3), ["SUCCESS", "", "OK"]);
    assert_eq!(going.finish().code, 0);
    assert_eq!(world.output("get a"), "a\n1\n");
}
