//! `get`, `put`, `del` and `compaction`.

use super::world::World;
use rustix::process::Signal;

/// An answer in JSON, with the cluster's ids as they come.
fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn keys_are_written_read_and_deleted() {
    let world = World::start();
    assert_eq!(world.output("put a 1"), "OK\n");
    assert_eq!(world.output("put a 2 --prev-kv"), "OK\na\n1\n");
    assert_eq!(world.run_with("put b", "from\ninput").output, "OK\n");
    assert_eq!(world.output("put a --ignore-value --prev-kv"), "OK\na\n2\n");
    assert_eq!(world.output("put c -- -3"), "OK\n");
    assert_eq!(world.output("get a"), "a\n2\n");
    assert_eq!(world.output("get a c"), "a\n2\nb\nfrom\ninput\n");
    assert_eq!(world.output("get --prefix '' --print-value-only"), "2\nfrom\ninput\n-3\n");
    assert_eq!(world.output("get --from-key b --keys-only --order descend"), "c\n\nb\n\n");
    assert_eq!(world.output("get --prefix '' --sort-by VALUE --limit 1"), "c\n-3\n");
    assert_eq!(world.output("get a --rev 2"), "a\n1\n");
    assert_eq!(world.output("get a --hex --consistency s"), "\\x61\n\\x32\n");
    assert_eq!(world.output("get --prefix '' --stream --keys-only"), "a\n\nb\n\nc\n\n");
    let fields = world.output("get --prefix '' --count-only -w fields");
    assert!(fields.ends_with("\"More\" : false\n\"Count\" : 3\n"), "{fields}");
    let answer = json(&world.output("get a -w json"));
    assert_eq!(answer["header"]["revision"], 6);
    assert_eq!(answer["kvs"][0]["value"], "Mg==");
    assert_eq!(world.output("del a b --range --prev-kv"), "1\na\n2\n");
    assert_eq!(world.output("del --prefix ''"), "2\n");
    assert_eq!(world.output("compaction 8 --physical"), "compacted revision 8\n");
    let answer = world.run("get a --rev 2");
    let text = "Error: etcdserver: mvcc: required revision has been compacted\n";
    assert_eq!((answer.code, answer.errors.as_str()), (1, text));
}

#[test]
fn what_is_wrong_is_said_with_etcdctls_exit_codes() {
    let world = World::start();
    let cases = [
        ("get", 128, "get command needs one argument as key and an optional argument as range_end"),
        ("get a --prefix --from-key", 128, "`--prefix` and `--from-key` cannot be set at the same time, choose one"),
        ("get a --count-only", 128, "--count-only is only for `--write-out=fields`"),
        ("get a -w json --print-value-only", 128, "print-value-only is only for `--write-out=simple`"),
        ("get a -w table", 4, "table not supported as output format"),
        ("get a -w x", 4, "unsupported output format"),
        ("get a --order x", 4, "bad sort order x"),
        ("get a --consistency x", 4, "unknown consistency flag \"x\""),
        ("get a --min-mod-rev 3 --max-mod-rev 2", 4, "getMinModRev(=3) > getMaxModRev(=2)"),
        ("get ''", 1, "etcdserver: key is not provided"),
        ("put a", 128, "put command needs 1 argument and input from stdin or 2 arguments"),
        (
            "put a b --lease x",
            128,
            "bad lease ID (strconv.ParseInt: parsing \"x\": invalid syntax), expecting ID in Hex",
        ),
        ("put a b --lease 7", 1, "etcdserver: requested lease not found"),
        ("del", 128, "del command needs one argument as key and an optional argument as range_end"),
        ("compaction x", 1, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("compaction 100", 1, "etcdserver: mvcc: required revision is a future revision"),
        ("nosuch", 1, "unknown command \"nosuch\" for \"kvorumctl\""),
        (
            "get --limit x a",
            1,
            "invalid argument \"x\" for \"--limit\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
    ];
    for (line, code, text) in cases {
        let answer = world.run(line);
        let first = answer.errors.lines().next().unwrap_or_default();
        assert_eq!((answer.code, first), (code, format!("Error: {text}").as_str()), "{line}");
        assert_eq!(answer.output, "", "{line}");
    }
}

#[test]
fn a_range_is_deleted_after_a_warning_that_can_be_heeded() {
    let world = World::start();
    world.output("put a 1");
    let going = world.spawn("del a b");
    let warning = going.error_line();
    assert!(warning.starts_with("Warning: all keys from \"a\" to \"b\" will be deleted in 2 seconds"), "{warning}");
    going.signal(Signal::INT);
    assert_eq!(going.finish().code, -1);
    assert_eq!(world.output("get a"), "a\n1\n");
}
