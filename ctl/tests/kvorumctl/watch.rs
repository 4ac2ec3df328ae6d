//! `watch`, with commands and as someone types.

use super::world::{Going, World, words};

#[test]
fn events_are_printed_as_they_happen() {
    let world = World::start();
    world.output("put a 1");
    let going = world.spawn("watch a --rev 2 --prev-kv");
    // From history first, and then live.
    assert_eq!(going.lines(3), ["PUT", "a", "1"]);
    world.output("put a 2");
    assert_eq!(going.lines(5), ["PUT", "a", "1", "a", "2"]);
    world.output("del a");
    assert_eq!(going.lines(5), ["DELETE", "a", "2", "a", ""]);
    let going = world.spawn("watch '' --prefix --rev 3 -w json");
    let json: serde_json::Value = serde_json::from_str(&going.line()).expect("JSON");
    assert_eq!(json["Events"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["Events"][1]["type"], 1);
    world.output("compaction 4");
    let answer = world.run("watch a --rev 2");
    let text = "watch was canceled (etcdserver: mvcc: required revision has been compacted)\n\
                Error: watch is canceled by the server\n";
    assert_eq!((answer.code, answer.output.as_str(), answer.errors.as_str()), (5, "", text));
}

#[test]
fn a_command_is_run_for_each_event() {
    let world = World::start();
    world.output("put a 1");
    world.output("put a 2");
    let script = "echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE; cat";
    let arguments = ["watch", "a", "--rev", "2", "--", "sh", "-c", script];
    let going = Going::start(world.command(&arguments));
    assert_eq!(going.lines(6), ["PUT", "a", "1", "PUT", "a", "2"]);
    assert_eq!(going.lines(2), ["3 \"PUT\" \"a\" \"1\"", "3 \"PUT\" \"a\" \"2\""]);
    world.output("del a");
    assert_eq!(going.lines(4), ["DELETE", "a", "", "4 \"DELETE\" \"a\" \"\""]);
    let answer = world.run("watch a --rev 4 -- sh -c false");
    assert_eq!((answer.code, answer.errors.as_str()), (1, "command [\"sh\" \"-c\" \"false\"] error (exit status 1)\n"));
    let answer = world.run("watch a --rev 4 -- /nonexistent/command");
    assert_eq!(answer.code, 1);
}

#[test]
fn keys_come_from_the_environment_too() {
    let world = World::start();
    world.output("put a 1");
    world.output("put b 1");
    let start = |line: &str, end: &str| {
        let mut command = world.command(&words(line));
        command.env("KVORUMCTL_WATCH_KEY", "a").env("ETCDCTL_WATCH_RANGE_END", end);
        Going::start(command)
    };
    assert_eq!(start("watch --rev 2", "c").lines(6), ["PUT", "a", "1", "PUT", "b", "1"]);
    assert_eq!(start("watch --rev 2 -- echo hi", "").lines(4), ["PUT", "a", "1", "hi"]);
    let answer = start("watch a", "").finish();
    assert_eq!(
        (answer.code, answer.errors.as_str()),
        (128, "Error: bad number of arguments (found conflicting environment key)")
    );
    assert_eq!(world.run("watch").code, 128);
    assert_eq!(world.run("watch a --").code, 128);
}

#[test]
fn watches_are_made_line_by_line() {
    let world = World::start();
    world.output("put a 1");
    world.output("put b 1");
    let mut going = world.spawn("watch -i");
    going.say("watch a --rev 2");
    assert_eq!(going.lines(3), ["PUT", "a", "1"]);
    going.say("watch 'b' --prefix --rev=3 -- echo \"event of b\"");
    assert_eq!(going.lines(4), ["PUT", "b", "1", "event of b"]);
    for (line, text) in [
        ("watch", "Invalid command watch (command type or key is not provided)"),
        ("look a", "Invalid command look a (only support watch)"),
        ("", "Invalid command:  (watch and progress supported)"),
    ] {
        going.say(line);
        assert_eq!(going.error_line(), text);
    }
    // An event behind what both have seen says that both are live, and so are told how far they are.
    world.output("put bb 1");
    assert_eq!(going.lines(4), ["PUT", "bb", "1", "event of b"]);
    going.say("progress");
    assert_eq!(going.lines(2), ["progress notify: 4", "progress notify: 4"]);
}

#[test]
fn a_line_that_is_wrong_ends_the_interactive_watch() {
    let world = World::start();
    for (line, code, text) in [
        ("watch a --x", 128, "unknown flag: --x"),
        ("watch a --", 128, "bad number of arguments (found separator --, but no commands)"),
    ] {
        let mut going = world.spawn("watch -i");
        going.say(line);
        let answer = going.finish();
        assert_eq!((answer.code, answer.errors), (code, format!("Error: {text}")), "{line}");
    }
    let answer = world.spawn("watch -i").finish();
    assert_eq!((answer.code, answer.errors.as_str()), (3, "Error: error reading watch request line: EOF"));
}
