//! Compaction: what it takes away, what it leaves, and a restart in its middle.

use super::*;

fn compacted(status: &tonic::Status) {
    let expected = (tonic::Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    assert_eq!((status.code(), status.message()), expected);
}

async fn hash_at(client: &Client, revision: i64) -> (u32, i64) {
    let request = pb::HashKvRequest { revision };
    let hashed = client.maintenance().hash_kv(request).await.expect("a hash").into_inner();
    (hashed.hash, hashed.compact_revision)
}

/// Puts `count` revisions over a few keys, with deletes among them; the last revision.
async fn write(client: &Client, count: usize) -> i64 {
    let mut revision = 0;
    for number in 0..count {
        let key = format!("key-{}", number % 13);
        if number % 29 == 7 {
            let request = pb::DeleteRangeRequest { key: key.into(), ..pb::DeleteRangeRequest::default() };
            client.kv().delete_range(request).await.expect("a delete succeeds");
        } else {
            revision = client.put(&key, &format!("{number}-{}", "v".repeat(50))).await;
        }
    }
    revision
}

async fn contents(client: &Client, revision: i64) -> Vec<kvorum_api::mvccpb::KeyValue> {
    let request = pb::RangeRequest { revision, ..whole_range() };
    client.kv().range(request).await.expect("a range").into_inner().kvs
}

#[test]
fn what_a_compaction_takes_and_leaves() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&config(folder.path()));
        let last = write(&client, 300).await;
        let (at, now) = (contents(&client, 200).await, contents(&client, 0).await);
        for (revision, physical) in [(100, false), (150, true), (200, true)] {
            client.compact(revision, physical).await.expect("it compacts");
            compacted(&client.compact(revision, physical).await.expect_err("it was compacted"));
        }
        assert_eq!(contents(&client, 200).await, at);
        assert_eq!(contents(&client, 0).await, now);
        let old = pb::RangeRequest { revision: 199, ..whole_range() };
        compacted(&client.kv().range(old).await.expect_err("it was compacted"));
        compacted(&client.maintenance().hash_kv(pb::HashKvRequest { revision: 199 }).await.expect_err("gone"));
        // A watch may begin at the compacted revision itself, not before it.
        let mut watch = client.watch(pb::WatchCreateRequest { start_revision: 200, ..watch_all() }).await;
        let mut seen = 0;
        while seen < last - 199 {
            let events = watch.events().await;
            let first = events[0].kv.as_ref().expect("a key").mod_revision;
            assert_eq!(first, 200 + seen);
            seen += i64::try_from(events.len()).expect("few");
        }
        let mut stream = client.watch_stream().await;
        stream.create(pb::WatchCreateRequest { start_revision: 199, ..watch_all() });
        let created = stream.next().await;
        assert!(created.created && !created.canceled, "{created:?}");
        let ended = stream.next().await;
        assert_eq!((ended.canceled, ended.compact_revision, ended.cancel_reason.as_str()), (true, 200, ""));
    });
}

/// A compaction of many small steps is stopped in its middle and goes on after the restart, unseen from outside.
#[test]
fn a_restart_in_the_middle_of_a_compaction() {
    run(async {
        let folder = folder();
        let last;
        {
            let Half { client, member } = start_with(&config(folder.path()));
            last = write(&client, 600).await;
            stop(member);
        }
        let slow = Config {
            compaction_batch_limit: 5,
            compaction_sleep_interval: Duration::from_millis(200),
            ..config(folder.path())
        };
        let Half { client, member } = start_with(&slow);
        client.compact(last, false).await.expect("it compacts");
        let hash = hash_at(&client, last).await;
        let finished = member.core().compactions_finished();
        stop(member);
        assert_eq!(finished, 0, "the compaction was over before the stop");
        // Again stopped in the middle.
        let Half { client, member } = start_with(&slow);
        assert_eq!(hash_at(&client, last).await, hash);
        compacted(&client.compact(last, true).await.expect_err("it was compacted"));
        let old = pb::RangeRequest { revision: last - 1, ..whole_range() };
        compacted(&client.kv().range(old).await.expect_err("it was compacted"));
        stop(member);
        // To the end: a physical compaction is answered after all before it.
        let Half { client, member } = start_with(&config(folder.path()));
        assert_eq!(hash_at(&client, last).await, hash);
        let newest = client.put("after", "1").await;
        client.compact(newest, true).await.expect("it compacts");
        assert_eq!(member.core().compactions_finished(), member.core().compactions_scheduled());
        let before = client.fingerprint().await;
        assert_eq!(before.compact_revision, newest);
        stop(member);
        let Half { client, member: _member } = start_with(&config(folder.path()));
        assert_eq!(client.fingerprint().await, before);
    });
}
