//! Sessions, locks, elections, transactional memory, mirrors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use kvorum_client::recipes::election::Election;
use kvorum_client::recipes::listing::{Update, list_then_watch};
use kvorum_client::recipes::mirror::Mirror;
use kvorum_client::recipes::mutex::Mutex;
use kvorum_client::recipes::session::Session;
use kvorum_client::recipes::stm::{Isolation, Stm, transact};
use kvorum_client::{Client, ErrorKind, EventExt, Header, LeaseEnd, Put};

use crate::world::{Mode, World, tests_on};

tests_on!(crate::world::CURRENT =>
    locks_exclude,
    a_lock_that_is_given_up_lets_the_next_in,
    a_lost_session_loses_the_lock,
    elections,
    observing,
    transactional_memory_keeps_sums,
    isolation,
    mirrors,
    a_copy_follows,
    keys_are_those_of_go,
);

async fn locks_exclude(world: World) {
    let inside = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (client, inside) = (world.client.clone(), Arc::clone(&inside));
        tasks.push(tokio::spawn(async move {
            let session = Session::new(&client, 30).await.unwrap();
            let mut revisions = Vec::new();
            for _ in 0..3 {
                let guard = Mutex::new(&session, "lock").lock().await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
                let done = client.txn().when([guard.is_owner()]).then(Put::new("work", "")).await.unwrap();
                assert!(done.succeeded);
                revisions.push(guard.revision());
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.unlock().await.unwrap();
            }
            session.close().await.unwrap();
            revisions
        }));
    }
    for task in tasks {
        assert!(task.await.unwrap().is_sorted());
    }
    assert_eq!(world.client.get("work").await.unwrap().kvs[0].version, 24);
    assert!(world.client.get("lock/").prefix().await.unwrap().kvs.is_empty());
}

async fn a_lock_that_is_given_up_lets_the_next_in(world: World) {
    let client = &world.client;
    let (one, two, three) =
        tokio::try_join!(Session::new(client, 30), Session::new(client, 30), Session::new(client, 30)).unwrap();
    let held = Mutex::new(&one, "lock").lock().await.unwrap();
    assert!(Mutex::new(&two, "lock").try_lock().await.unwrap().is_none());
    // One that waits and gives up.
    let mut places = client.watch("lock/").prefix().await.unwrap();
    {
        let mutex = Mutex::new(&two, "lock");
        let mut waiting = Box::pin(mutex.lock());
        tokio::select! {
            _ = &mut waiting => panic!("the lock is held"),
            event = places.next() => assert!(event.unwrap().unwrap().events[0].is_create()),
        }
    }
    let third = Mutex::new(&three, "lock");
    let (next, ()) = tokio::join!(third.lock(), async {
        drop(held);
    });
    assert!(next.unwrap().key().starts_with("lock/"));
}

async fn a_lost_session_loses_the_lock(world: World) {
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    let session = Session::new(&world.client, 1).await.unwrap();
    let guard = Mutex::new(&session, "lock").lock().await.unwrap();
    let other = Session::new(&direct, 30).await.unwrap();
    world.proxy.set(Mode::Swallow);
    assert!(matches!(guard.lost().await, LeaseEnd::Expired));
    // The other gets it, and what the first would write behind the fence is refused.
    let new = Mutex::new(&other, "lock").lock().await.unwrap();
    assert!(new.revision() > guard.revision());
    let late = direct.txn().when([guard.is_owner()]).then(Put::new("work", "late")).await.unwrap();
    assert!(!late.succeeded);
    world.proxy.set(Mode::Pass);
    let error = Mutex::new(&session, "lock").lock().await.err().unwrap();
    assert!(error.kind() == ErrorKind::LeaseLost || error.text().contains("lease not found"), "{error:?}");
}

async fn elections(world: World) {
    let client = &world.client;
    let election = Election::new(client, "election");
    let (one, two) = tokio::try_join!(Session::new(client, 30), Session::new(client, 30)).unwrap();
    assert!(election.leader().await.unwrap().is_none());
    let first = election.campaign(&one, "one").await.unwrap();
    assert_eq!(election.leader().await.unwrap().unwrap().value, "one");
    first.proclaim("uno").await.unwrap();
    assert_eq!(election.leader().await.unwrap().unwrap().value, "uno");
    let (second, ()) = tokio::join!(election.campaign(&two, "two"), async {
        assert!(client.txn().when([first.is_leader()]).await.unwrap().succeeded);
        first.resign().await.unwrap();
    });
    let second = second.unwrap();
    assert_eq!(election.leader().await.unwrap().unwrap().value, "two");
    // Campaigning again with the same session finds the place, and changes the value.
    let again = election.campaign(&two, "dos").await.unwrap();
    assert_eq!((again.key(), again.revision()), (second.key(), second.revision()));
    assert_eq!(election.leader().await.unwrap().unwrap().value, "dos");
    again.detach();
    drop(second);
    two.close().await.unwrap();
    assert!(election.leader().await.unwrap().is_none());
}

async fn observing(world: World) {
    let client = &world.client;
    let election = Election::new(client, "election");
    let mut observation = election.observe();
    let watching = tokio::spawn(async move {
        let mut seen: Vec<Bytes> = Vec::new();
        while seen.last().is_none_or(|last| last != "end") {
            let value = observation.next().await.unwrap().value;
            seen.push(value);
        }
        seen
    });
    let session = Session::new(client, 30).await.unwrap();
    let leadership = election.campaign(&session, "one").await.unwrap();
    leadership.proclaim("two").await.unwrap();
    leadership.resign().await.unwrap();
    world.proxy.cut_once();
    // What was cut off in the middle may have taken a place already, which the next attempt finds.
    let leadership = loop {
        match election.campaign(&session, "three").await {
            Ok(leadership) => break leadership,
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    };
    leadership.proclaim("end").await.unwrap();
    let seen = watching.await.unwrap();
    assert_eq!(seen.last().unwrap(), "end");
    assert!(seen.iter().all(|value| ["one", "two", "three", "end"].iter().any(|known| value == known)), "{seen:?}");
}

fn number(value: Option<Bytes>) -> i64 {
    value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap())
}

async fn transactional_memory_keeps_sums(world: World) {
    const ACCOUNTS: u64 = 5;
    for account in 0..ACCOUNTS {
        world.client.put(format!("account/{account}"), "100").await.unwrap();
    }
    let mut tasks = Vec::new();
    for worker in 0..4_u64 {
        let client = world.client.with_timeout(crate::world::LONG);
        tasks.push(tokio::spawn(async move {
            for round in 0..10 {
                let isolation = if round % 2 == 0 { Isolation::SerializableSnapshot } else { Isolation::Serializable };
                let from = format!("account/{}", (worker + round) % ACCOUNTS);
                let to = format!("account/{}", (worker + 2 * round + 1) % ACCOUNTS);
                if from == to {
                    continue;
                }
                let (from, to) = (&from, &to);
                let moved = transact(&client, isolation, |stm: Stm| async move {
                    let left = number(stm.get(from).await?);
                    let right = number(stm.get(to).await?);
                    stm.put(from, (left - 7).to_string());
                    stm.put(to, (right + 7).to_string());
                    // What was written is read back.
                    assert_eq!(number(stm.get(from).await?), left - 7);
                    Ok(())
                });
                moved.await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let all = world.client.get("account/").prefix().await.unwrap();
    let sum: i64 = all.kvs.into_iter().map(|kv| number(Some(kv.value))).sum();
    assert_eq!(sum, 500);
}

/// What each level sees of a write that comes between two reads, and whether it commits over it.
async fn isolation(world: World) {
    let client = &world.client;
    for (isolation, runs_expected) in [
        (Isolation::SerializableSnapshot, 2),
        (Isolation::Serializable, 2),
        (Isolation::RepeatableReads, 2),
        (Isolation::ReadCommitted, 1),
    ] {
        client.put("x", "0").await.unwrap();
        client.put("y", "0").await.unwrap();
        let runs = &AtomicUsize::new(0);
        let ((x, y), _) = transact(client, isolation, |stm: Stm| async move {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            let x = number(stm.get("x").await?);
            if run == 0 {
                client.txn().then((Put::new("x", "1"), Put::new("y", "1"))).await?;
            }
            let y = number(stm.get("y").await?);
            if matches!(isolation, Isolation::SerializableSnapshot | Isolation::Serializable) {
                assert_eq!(x, y, "all reads are of one revision");
            }
            stm.put("z", "written");
            Ok((x, y))
        })
        .await
        .unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), runs_expected, "{isolation:?}");
        let expected = if isolation == Isolation::ReadCommitted { (0, 1) } else { (1, 1) };
        assert_eq!((x, y), expected, "{isolation:?}");
    }
    // Only a snapshot minds that what it writes, and never read, was written meanwhile.
    for (isolation, runs_expected) in [(Isolation::SerializableSnapshot, 2), (Isolation::Serializable, 1)] {
        let runs = &AtomicUsize::new(0);
        transact(client, isolation, |stm: Stm| async move {
            stm.get("x").await?;
            if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                client.put("z", "meanwhile").await?;
            }
            stm.put("z", "mine");
            stm.delete("gone");
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), runs_expected, "{isolation:?}");
    }
    assert_eq!(client.get("z").await.unwrap().kvs[0].value, "mine");
}

async fn mirrors(world: World) {
    let client = &world.client;
    // More than a page.
    for number in 0..15 {
        let puts = (0..100).map(|key| Put::new(format!("from/{:04}", number * 100 + key), "v"));
        client.txn().then(puts.collect::<Vec<_>>()).await.unwrap();
        if number == 3 {
            client.delete("from/").prefix().await.unwrap();
        }
    }
    let mut mirror = Mirror::begin(client, "from/").await.unwrap();
    client.put("from/9999", "later").await.unwrap();
    let mut keys = mirror.base().into_keys();
    let mut count = 0;
    while let Some(kv) = keys.next().await {
        assert!(kv.unwrap().mod_revision <= mirror.revision());
        count += 1;
    }
    assert_eq!(count, 1_100);
    let mut updates = mirror.updates().await.unwrap();
    let response = updates.next().await.unwrap().unwrap();
    assert_eq!((response.events[0].key(), response.events[0].revision()), (&b"from/9999"[..], mirror.revision() + 1));
    let again = Mirror::at_revision(client, "from/", mirror.revision());
    assert_eq!(again.base().into_keys().count().await, 1_100);
}

/// A copy that is kept by list and watch is the store's, also over a compaction while it was cut off.
async fn a_copy_follows(world: World) {
    fn learn(copy: &mut BTreeMap<Bytes, Bytes>, update: Update) -> (bool, i64) {
        match update {
            Update::Listed { kvs, revision } => {
                *copy = kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
                (true, revision)
            }
            Update::Changed { events, revision } => {
                for event in events {
                    let key = Bytes::copy_from_slice(event.key());
                    if event.is_delete() {
                        copy.remove(&key);
                    } else {
                        copy.insert(key, event.value().clone());
                    }
                }
                (false, revision)
            }
            other => panic!("{other:?}"),
        }
    }
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    direct.put("copy/a", "1").await.unwrap();
    let mut updates = list_then_watch(&world.client, "copy/");
    let mut copy = BTreeMap::new();
    assert!(learn(&mut copy, updates.next().await.unwrap().unwrap()).0);
    direct.put("copy/b", "2").await.unwrap();
    let last = direct.delete("copy/a").await.unwrap().revision();
    while learn(&mut copy, updates.next().await.unwrap().unwrap()).1 < last {}
    assert_eq!(copy, BTreeMap::from([("copy/b".into(), "2".into())]));

    world.proxy.set(Mode::Cut);
    direct.put("copy/b", "3").await.unwrap();
    direct.delete("copy/b").await.unwrap();
    let last = direct.put("copy/c", "4").await.unwrap().revision();
    direct.compact(last).await.unwrap();
    world.proxy.set(Mode::Pass);
    assert_eq!(learn(&mut copy, updates.next().await.unwrap().unwrap()), (true, last), "everything is listed anew");
    assert_eq!(copy, BTreeMap::from([("copy/c".into(), "4".into())]));
    direct.put("copy/d", "5").await.unwrap();
    assert!(!learn(&mut copy, updates.next().await.unwrap().unwrap()).0 && copy.len() == 2);
}

/// Programs in Go can share locks and elections with ours: name, slash, lease in hexadecimal (`concurrency`).
async fn keys_are_those_of_go(world: World) {
    let session = Session::new(&world.client, 30).await.unwrap();
    let lock = Mutex::new(&session, "lock").lock().await.unwrap();
    assert_eq!(lock.key(), format!("lock/{:x}", session.lease().0));
    let kv = world.client.get(lock.key()).await.unwrap().kvs.remove(0);
    assert!(kv.value.is_empty() && kv.lease == session.lease().0 && kv.create_revision == lock.revision());
    assert_eq!(lock.header().revision, world.client.get("x").await.unwrap().revision());
}
