//! `make-mirror` from one member to another.

use super::world::{Going, World};

struct Pair {
    source: World,
    destination: World,
}

impl Pair {
    fn start() -> Self {
        Self { source: World::start(), destination: World::start() }
    }

    fn mirror(&self, flags: &str) -> Going {
        self.source.spawn(&format!("make-mirror {} {flags}", self.destination.address()))
    }

    /// All keys of the destination that begin with a prefix, each line followed by its value.
    fn copied(&self, prefix: &str) -> String {
        self.destination.output(&format!("get --prefix {prefix}"))
    }
}

#[test]
fn keys_and_then_all_changes_are_copied() {
    let pair = Pair::start();
    for number in 0..30 {
        pair.source.output(&format!("put app/{number:02} {number}"));
    }
    pair.source.output("put other x");
    let seen = pair.destination.spawn("watch --prefix '' --rev 2");
    let mirror = pair.mirror("--prefix app/");
    assert_eq!(seen.lines(90).iter().filter(|line| *line == "PUT").count(), 30);
    // Changes of one revision stay together.
    pair.source.run_with("txn", "\nput app/a 1\nput app/b 2\ndel app/00\n\n\n");
    assert_eq!(seen.lines(9).join(" "), "PUT app/a 1 PUT app/b 2 DELETE app/00 ");
    pair.source.output("put other y");
    pair.source.output("del app/01");
    assert_eq!(seen.lines(3).join(" "), "DELETE app/01 ");
    assert_eq!(
        pair.copied("app/0"),
        "app/02\n2\napp/03\n3\napp/04\n4\napp/05\n5\napp/06\n6\napp/07\n7\napp/08\n8\napp/09\n9\n"
    );
    assert_eq!(pair.copied("other"), "");
    let kept = pair.destination.output("get app/a -w fields");
    let together = pair.destination.output("get app/b -w fields");
    let revision = |text: &str| text.lines().find(|line| line.starts_with("\"ModRevision\"")).map(str::to_owned);
    assert_eq!(revision(&kept), revision(&together));
    drop(mirror);
}

#[test]
fn prefixes_are_exchanged() {
    let pair = Pair::start();
    pair.source.output("put app/a/app/ 1");
    let seen = pair.destination.spawn("watch --prefix '' --rev 2");
    let moved = pair.mirror("--prefix app/ --dest-prefix there/");
    assert_eq!(seen.lines(3), ["PUT", "there/a/app/", "1"]);
    let bare = pair.mirror("--prefix app/ --no-dest-prefix");
    assert_eq!(seen.lines(3), ["PUT", "a/app/", "1"]);
    // From a revision on, too.
    drop((moved, bare));
    let from_revision = pair.mirror("--prefix app/ --rev 2");
    assert_eq!(seen.lines(3), ["PUT", "app/a/app/", "1"]);
    drop(from_revision);
    let answer = pair.source.run("make-mirror x --dest-prefix y --no-dest-prefix");
    assert_eq!(answer.code, 128);
}

#[test]
fn large_transactions_are_cut() {
    let pair = Pair::start();
    let puts: String = (0..100).map(|number| format!("put k{number:03} v\n")).collect();
    pair.source.output("put k 0");
    let seen = pair.destination.spawn("watch --prefix k --rev 2");
    let _mirror = pair.mirror("--max-txn-ops 32");
    assert_eq!(seen.lines(3), ["PUT", "k", "0"]);
    pair.source.run_with("txn", &format!("\n{puts}\n\n"));
    seen.lines(300);
    let last = pair.destination.output("get --prefix k --order DESCEND --limit 1 -w json");
    // The base was one revision, and the hundred changes are four.
    assert!(last.contains("\"revision\":6,"), "{last}");
}

#[test]
fn a_mirror_says_why_it_ends() {
    let pair = Pair::start();
    for number in 0..5 {
        pair.source.output(&format!("put a {number}"));
    }
    pair.source.output("compaction 4");
    let answer = pair.mirror("--rev 2").finish();
    assert_eq!(answer.code, 1);
    let expected = "Error: etcdserver: mvcc: required revision has been compacted\nTo go on from here: --rev=2";
    assert_eq!(answer.errors, expected);
    // A destination that refuses.
    let answer = pair.source.run("make-mirror nobody:nothing");
    assert_ne!(answer.code, 0);
}
