//! Kills the server with SIGKILL while writers are at work, many times, and checks after each start that everything it
//! acknowledged is there, exactly once ([`kvorum_interop::crash`] says what is checked).
//!
//! `KVORUM_CRASH_ROUNDS` and `KVORUM_CRASH_SEED` choose how long and which moments.

use kvorum_interop::crash::Known;
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::random::Random;
use kvorum_interop::tools;

const ROUNDS: u64 = 50;

/// The kill comes after this many acknowledgements at most.
const ACKNOWLEDGEMENTS_MAX: usize = 300;

#[tokio::test]
async fn nothing_acknowledged_is_lost() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let seed = tools::number("KVORUM_CRASH_SEED").unwrap_or(1);
    println!("KVORUM_CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    let mut member = Member::start(Kind::Server, &server, &["--snapshot-count=500"]).expect("the server must start");
    let mut known = Known::default();
    for round in 0..tools::number("KVORUM_CRASH_ROUNDS").unwrap_or(ROUNDS) {
        let acknowledgements = 1 + random.below(ACKNOWLEDGEMENTS_MAX);
        let work = known.work(member.url(), &mut random, acknowledgements);
        work.moment().await;
        member.kill();
        let outcomes = work.end().await;
        member.restart().expect("the server must start after it was killed");
        known.check(member.url(), &outcomes).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        println!("round {round}: {} acknowledged, revision {}", outcomes.acknowledged(), known.revision());
    }
}
