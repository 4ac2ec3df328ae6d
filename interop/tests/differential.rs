//! One seeded stream of random requests goes to etcd and to the server under test; every answer must be the same.
//!
//! `KVORUM_DIFF_SEED` (a number) and `KVORUM_DIFF_REQUESTS` choose the stream. `KVORUM_DIFF_LEFT` and
//! `KVORUM_DIFF_RIGHT` replace a side by a path of an etcd-compatible binary or by the URL of a fresh member; left is
//! otherwise the oracle of `tests/go/cmd/oracle`, right the server under test.

use std::path::Path;

use kvorum_interop::differ::{Differ, Side};
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;

const REQUESTS: usize = 20_000;
const SEED: u64 = 20_260_723;

/// Long elections make even the shortest lease outlive the request that revokes it; nothing here needs the disk.
const FLAGS: &[&str] = &["--heartbeat-interval=300", "--election-timeout=3000", "--unsafe-no-fsync"];

fn number<T: std::str::FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().ok().unwrap_or_else(|| panic!("{variable} must be a number, not {text:?}")),
        Err(_) => default,
    }
}

/// A member, when this test starts it, and its URL.
fn start(
    variable: &str,
    default: impl FnOnce() -> Result<(Kind, std::path::PathBuf), String>,
) -> Option<(Option<Member>, String)> {
    let (kind, binary) = match std::env::var(variable) {
        Ok(url) if url.starts_with("http://") => return Some((None, url)),
        Ok(path) if !path.is_empty() => (Kind::Server, Path::new(&path).to_path_buf()),
        _ => tools::or_skip(default())?,
    };
    let member = Member::start(kind, &binary, FLAGS).expect("the member must start");
    let url = member.url().to_owned();
    Some((Some(member), url))
}

#[tokio::test]
async fn every_answer_is_the_same() {
    let right = start("KVORUM_DIFF_RIGHT", || Ok((Kind::Server, tools::server_under_test()?)));
    let Some((_right, right_url)) = right else { return };
    let left = start("KVORUM_DIFF_LEFT", || Ok((Kind::Oracle, tools::go_program("oracle")?)));
    let Some((_left, left_url)) = left else { return };
    let (seed, requests) = (number("KVORUM_DIFF_SEED", SEED), number("KVORUM_DIFF_REQUESTS", REQUESTS));

    let left = Side::connect("etcd", &left_url).await.expect("the left side must be fresh");
    let right = Side::connect("under test", &right_url).await.expect("the right side must be fresh");
    let begun = std::time::Instant::now();
    match Differ::new(left, right, seed).run(requests).await {
        Ok(summary) => println!("seed {seed}: {summary:?} in {:?}", begun.elapsed()),
        Err(difference) => panic!(
            "seed {seed}, {difference}\n\nrepeat with: KVORUM_DIFF_SEED={seed} KVORUM_DIFF_REQUESTS={requests} \
             cargo test -p kvorum-interop --test differential"
        ),
    }
}

/// The whole harness, seen failing: an etcd that allows two operations in a transaction is not like one that allows 128.
#[tokio::test]
async fn a_server_that_differs_is_found() {
    let Some(oracle) = tools::or_skip(tools::go_program("oracle")) else { return };
    let one = Member::start(Kind::Oracle, &oracle, FLAGS).expect("the oracle must start");
    let flags = [FLAGS, &["--max-txn-ops=2"]].concat();
    let other = Member::start(Kind::Oracle, &oracle, &flags).expect("the oracle must start");
    let left = Side::connect("etcd", one.url()).await.expect("the left side must be fresh");
    let right = Side::connect("two operations", other.url()).await.expect("the right side must be fresh");
    let difference = Differ::new(left, right, SEED).run(REQUESTS).await.expect_err("the difference must be found");
    assert!(difference.contains("too many operations in txn request"), "{difference}");
    assert!(difference.contains("one side succeeds, the other fails"), "{difference}");
}
