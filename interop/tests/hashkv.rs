//! `HashKV` is equal to etcd's over seeded histories with compactions: at many revisions, while a compaction is under
//! way, and after the server under test was killed and started again. The model of the harness agrees with both.
//!
//! `KVORUM_HASH_HISTORIES` sets how many histories, `KVORUM_DIFF_SEED` the seed of the first.

use bytes::Bytes;
use kvorum_api::etcdserverpb as pb;
use kvorum_interop::call::{Call, Reply};
use kvorum_interop::history::History;
use kvorum_interop::pair::{Half, both};
use kvorum_interop::process::Kind;
use kvorum_interop::random::Random;
use kvorum_interop::tools;
use kvorum_interop::watching::{ARRIVAL, WatchStream};
use pb::request_op::Request;

const HISTORIES: u64 = 20;
const STEPS: usize = 60;
const PUTS_IN_A_LARGE_TXN: usize = 100;

/// Small steps make a compaction last, so that hashes fall in the middle of it.
const FLAGS: &[&str] = &["--compaction-batch-limit=50"];

fn put(random: &mut Random, lease: i64) -> pb::PutRequest {
    let key = format!("key/{:03}", random.below(150)).into();
    let value = Bytes::from(random.bits().to_be_bytes().to_vec());
    pb::PutRequest { key, value, lease, ..Default::default() }
}

fn delete(random: &mut Random) -> pb::DeleteRangeRequest {
    let low = random.below(150);
    let high = low + random.below(4);
    pb::DeleteRangeRequest {
        key: format!("key/{low:03}").into(),
        range_end: format!("key/{high:03}").into(),
        prev_kv: false,
    }
}

/// A step of a history. Leases that do not exist and keys given twice make some fail, on both sides alike.
fn step(random: &mut Random) -> Call {
    let lease = random.between(1, 6);
    match random.below(10) {
        0..3 => Call::Put(put(random, 0)),
        3 => Call::Put(put(random, lease)),
        4 | 5 => Call::DeleteRange(delete(random)),
        6 => Call::LeaseGrant(pb::LeaseGrantRequest { ttl: 100_000, id: lease }),
        7 => Call::LeaseRevoke(pb::LeaseRevokeRequest { id: lease }),
        8 => {
            let operations = [Request::RequestDeleteRange(delete(random)), Request::RequestPut(put(random, 0))];
            let success = operations.map(|request| pb::RequestOp { request: Some(request) }).to_vec();
            Call::Txn(pb::TxnRequest { success, ..Default::default() })
        }
        _ => {
            let start = random.below(150);
            let keys = (0..PUTS_IN_A_LARGE_TXN).map(|number| format!("key/{:03}", (start + number) % 150));
            let puts = keys.map(|key| pb::PutRequest { key: key.into(), value: "many".into(), ..Default::default() });
            let success = puts.map(|put| pb::RequestOp { request: Some(Request::RequestPut(put)) }).collect();
            Call::Txn(pb::TxnRequest { success, ..Default::default() })
        }
    }
}

/// Hashes at the end, at the compacted revision's successor, and at some revisions between.
async fn hashes(left: &Half, right: &Half, random: &mut Random, history: &History, compactions: &[i64]) {
    let compacted = compactions.last().copied().unwrap_or(-1);
    let current = left.revision().await;
    let low = (compacted + 1).clamp(1, current);
    let mut revisions = vec![0, current, low];
    revisions.extend((0..4).map(|_| random.between(low, current)));
    // At a compacted revision etcd gives a hash it took earlier, or not, depending on when it is asked.
    for revision in revisions.into_iter().filter(|revision| !compactions.contains(revision)) {
        let reply = both(left, right, &Call::HashKv(pb::HashKvRequest { revision })).await;
        let Ok(Reply::HashKv(reply)) = reply else { panic!("the hash at {revision} must exist: {reply:?}") };
        assert_eq!(reply.compact_revision, compacted);
        let wanted = history.hash_kv(compacted, if revision == 0 { current } else { revision });
        assert_eq!(reply.hash, wanted, "the model's hash at {revision} of {current}, compacted at {compacted}");
    }
    for revision in [current + 1, (compacted - 1).max(1), -1] {
        if !compactions.contains(&revision) {
            both(left, right, &Call::HashKv(pb::HashKvRequest { revision })).await.ok();
        }
    }
}

/// Appends what happened since the last call.
async fn follow(side: &Half, history: &mut History) {
    let current = side.revision().await;
    let start_revision = history.revision() + 1;
    if start_revision > current {
        return;
    }
    let stream = WatchStream::open(&side.channel, side.identity);
    let everything = Bytes::from_static(b"\0");
    let (key, range_end) = (everything.clone(), everything);
    stream.create(pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() }).await;
    let complete = |seen: &kvorum_interop::watching::Seen| {
        let last = seen.events.get(&0).and_then(|events| events.last());
        last.and_then(|event| event.kv.as_ref()).is_some_and(|kv| kv.mod_revision >= current)
    };
    assert!(stream.wait(ARRIVAL, complete).await, "the watch must reach {current}: {:?}", stream.seen().ended);
    history.append(&stream.seen().events[&0]).expect("every revision, once");
}

#[tokio::test]
async fn hashes_are_etcds() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let Some(oracle) = tools::or_skip(tools::go_program("oracle")) else { return };
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let first_seed = number("KVORUM_DIFF_SEED").unwrap_or(1);
    let left = Half::start(Kind::Oracle, &oracle, FLAGS).await;
    let mut right = Half::start(Kind::Server, &server, FLAGS).await;
    let (mut history, mut compactions) = (History::default(), Vec::new());

    for seed in first_seed..first_seed + number("KVORUM_HASH_HISTORIES").unwrap_or(HISTORIES) {
        println!("history of seed {seed} from revision {}", history.revision());
        let mut random = Random::new(seed);
        for _ in 0..STEPS {
            both(&left, &right, &step(&mut random)).await.ok();
        }
        follow(&left, &mut history).await;
        hashes(&left, &right, &mut random, &history, &compactions).await;
        for _ in 0..2 {
            let current = left.revision().await;
            let low = compactions.last().copied().unwrap_or(0) + 1;
            if current >= low {
                let compact = random.between(low, current);
                let request = pb::CompactionRequest { revision: compact, physical: random.chance(30) };
                both(&left, &right, &Call::Compact(request)).await.expect("the revision can be compacted");
                compactions.push(compact);
                hashes(&left, &right, &mut random, &history, &compactions).await;
            }
        }
        if random.chance(50) {
            right.member.kill();
        } else {
            right.member.stop();
        }
        right.member.restart().expect("the server must start again");
        right.identify().await;
        hashes(&left, &right, &mut random, &history, &compactions).await;
    }
}
