//! Watches: order, resumption, compaction, back-pressure, sharing, cancelling.

use std::collections::BTreeSet;
use std::task::Poll;

use futures_util::StreamExt;
use kvorum_client::watcher::BUFFERED_EVENTS_MAX;
use kvorum_client::{Client, EventExt, Header, Put, Watch, WatchError, Watcher};

use crate::world::{Mode, World, tests_on};

tests_on!(crate::world::EVERY =>
    events_in_order,
    filters_and_previous_values,
    from_a_revision_of_the_past,
    survives_cuts_without_losing_or_repeating,
    from_now_survives_a_cut_before_the_first_event,
    survives_a_restart,
    compaction_is_a_typed_error,
    compaction_while_disconnected,
    progress,
    slow_consumers_hold_back_nobody,
    large_revisions_come_whole,
    ten_thousand_watches,
    cancelling_disturbs_nobody,
);

/// The mod revisions of the next events.
async fn next_revisions(watch: &mut Watch, count: usize) -> Vec<i64> {
    let mut revisions = Vec::new();
    while revisions.len() < count {
        let response = watch.next().await.expect("a watch goes on").expect("nothing is wrong");
        revisions.extend(response.events.iter().map(EventExt::revision));
    }
    assert_eq!(revisions.len(), count);
    revisions
}

async fn put(client: &Client, key: &str) -> i64 {
    client.put(key, "value").await.unwrap().revision()
}

async fn events_in_order(world: World) {
    let client = &world.client;
    let mut watch = client.watch("a/").prefix().await.unwrap();
    assert!(watch.created().revision > 0);
    let first = put(client, "a/1").await;
    put(client, "b").await;
    client.put("a/1", "2").await.unwrap();
    client.delete("a/1").await.unwrap();
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(watch.next().await.unwrap().unwrap().events);
    }
    assert!(events[0].is_create() && events[1].is_modify() && events[2].is_delete());
    assert_eq!(events.iter().map(EventExt::revision).collect::<Vec<_>>(), [first, first + 2, first + 3]);
    assert_eq!(events[1].value(), "2");
    // It is a stream, and can be moved to another task.
    let reader = tokio::spawn(async move { watch.take(1).collect::<Vec<_>>().await });
    put(client, "a/9").await;
    assert_eq!(reader.await.unwrap().len(), 1);
}

async fn filters_and_previous_values(world: World) {
    let client = &world.client;
    put(client, "a").await;
    let mut deletes = client.watch("a").without_puts().with_previous().await.unwrap();
    let mut puts = client.watch("a").without_deletes().await.unwrap();
    client.delete("a").await.unwrap();
    put(client, "a").await;
    let event = deletes.next().await.unwrap().unwrap().events.remove(0);
    assert!(event.is_delete() && event.prev_kv.as_ref().unwrap().value == "value");
    // The same from history.
    for before in 0..3 {
        let mut again = client.watch("a").without_puts().from_revision(event.revision() - before).await.unwrap();
        assert_eq!(next_revisions(&mut again, 1).await, [event.revision()]);
    }
    assert!(puts.next().await.unwrap().unwrap().events[0].is_create());
}

async fn from_a_revision_of_the_past(world: World) {
    let client = &world.client;
    let first = put(client, "a").await;
    for _ in 0..9 {
        put(client, "a").await;
    }
    let mut watch = client.watch("a").from_revision(first).await.unwrap();
    assert_eq!(next_revisions(&mut watch, 10).await, (first..first + 10).collect::<Vec<_>>());
}

async fn survives_cuts_without_losing_or_repeating(world: World) {
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    let mut watch = world.client.watch("a").await.unwrap();
    let first = put(&direct, "a").await;
    let mut seen = next_revisions(&mut watch, 1).await;
    for round in 0..10 {
        world.proxy.cut_once();
        for _ in 0..5 {
            put(&direct, "a").await;
        }
        if round % 2 == 0 {
            world.proxy.cut_once();
        }
        seen.extend(next_revisions(&mut watch, 5).await);
    }
    assert_eq!(seen, (first..first + 51).collect::<Vec<_>>());
}

async fn from_now_survives_a_cut_before_the_first_event(world: World) {
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    let mut watch = world.client.watch("a").await.unwrap();
    world.proxy.set(Mode::Cut);
    let revision = put(&direct, "a").await;
    world.proxy.set(Mode::Pass);
    assert_eq!(next_revisions(&mut watch, 1).await, [revision]);
}

async fn survives_a_restart(mut world: World) {
    let client = world.client.clone();
    let mut watch = client.watch("a").await.unwrap();
    let first = put(&client, "a").await;
    assert_eq!(next_revisions(&mut watch, 1).await, [first]);
    world.restart();
    // The client found back by itself for both.
    let second = loop {
        match client.put("a", "value").await {
            Ok(response) => break response.revision(),
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    };
    let seen = next_revisions(&mut watch, usize::try_from(second - first).unwrap()).await;
    assert_eq!(seen, (first + 1..=second).collect::<Vec<_>>());
}

async fn compaction_is_a_typed_error(world: World) {
    let client = &world.client;
    let first = put(client, "a").await;
    let last = put(client, "a").await;
    client.compact(last).await.unwrap();
    let mut watch = client.watch("a").from_revision(first).await.unwrap();
    match watch.next().await {
        Some(Err(WatchError::Compacted { revision, .. })) => assert_eq!(revision, last),
        other => panic!("{other:?}"),
    }
    assert!(watch.next().await.is_none(), "it ends after an error");
    let mut behind = client.watch("a").from_revision(last).await.unwrap();
    assert_eq!(next_revisions(&mut behind, 1).await, [last]);
    // The one that ended does not hold up the progress of others. (These are told apart from those that catch up.)
    drop(behind);
    let mut live = client.watch("a").await.unwrap();
    client.watcher().request_progress();
    assert!(live.next().await.unwrap().unwrap().is_progress());
}

async fn compaction_while_disconnected(world: World) {
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    let mut watch = world.client.watch("a").await.unwrap();
    world.proxy.set(Mode::Cut);
    let mut last = 0;
    for _ in 0..3 {
        last = put(&direct, "a").await;
    }
    direct.compact(last).await.unwrap();
    world.proxy.set(Mode::Pass);
    match watch.next().await {
        Some(Err(WatchError::Compacted { revision, .. })) => assert_eq!(revision, last),
        other => panic!("{other:?}"),
    }
}

async fn progress(world: World) {
    let client = &world.client;
    let mut watch = client.watch("a").await.unwrap();
    let revision = put(client, "other").await;
    client.watcher().request_progress();
    let response = watch.next().await.unwrap().unwrap();
    assert!(response.is_progress() && response.header.revision == revision, "{response:?}");
    // It goes on from there after a cut: behind a compaction of everything before.
    client.compact(revision).await.unwrap();
    world.proxy.cut_once();
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    let next = put(&direct, "a").await;
    assert_eq!(next_revisions(&mut watch, 1).await, [next]);
}

async fn slow_consumers_hold_back_nobody(world: World) {
    // As many in one revision as etcd allows by default.
    const EVENTS_PER_REVISION: usize = 128;
    let client = &world.client;
    let revisions = BUFFERED_EVENTS_MAX * 3 / EVENTS_PER_REVISION;
    let put_all =
        || client.txn().then((0..EVENTS_PER_REVISION).map(|n| Put::new(format!("a/{n}"), "")).collect::<Vec<_>>());
    let mut slow = client.watch("a/").prefix().await.unwrap();
    let mut quick = client.watch("a/").prefix().await.unwrap();
    let mut expected = Vec::new();
    for _ in 0..revisions {
        let revision = put_all().await.unwrap().revision();
        assert_eq!(next_revisions(&mut quick, EVENTS_PER_REVISION).await, [revision; EVENTS_PER_REVISION]);
        expected.extend([revision; EVENTS_PER_REVISION]);
    }
    // The slow one reads late and still sees everything once.
    assert_eq!(next_revisions(&mut slow, expected.len()).await, expected);
    let revision = put(client, "a/0").await;
    assert_eq!(next_revisions(&mut slow, 1).await, [revision]);
}

async fn large_revisions_come_whole(world: World) {
    let client = &world.client;
    let mut watch = client.watch("large/").prefix().with_previous().await.unwrap();
    let puts = |round: u8| -> Vec<_> {
        (0..10).map(|number| Put::new(format!("large/{number}"), vec![round; 140_000])).collect()
    };
    // With the previous values the answer is above what the server sends at once, and comes in fragments.
    for round in 0..3 {
        client.txn().then(puts(round)).await.unwrap();
    }
    for _ in 0..3 {
        let mut events = Vec::new();
        while events.is_empty() {
            events = watch.next().await.unwrap().unwrap().events;
        }
        let mut by_revision: Vec<i64> = events.iter().map(EventExt::revision).collect();
        let total = by_revision.len();
        by_revision.dedup();
        assert_eq!(total, by_revision.len() * 10, "every revision is whole");
        if by_revision.len() == 3 {
            return;
        }
    }
}

async fn ten_thousand_watches(world: World) {
    const WATCHES: usize = 10_000;
    let client = &world.client;
    let watcher = Watcher::new(&client.connection().with_timeout(crate::world::LONG));
    let mut making = Vec::new();
    for number in 0..WATCHES {
        making.push(watcher.watch(format!("k{number}")));
    }
    let mut watches =
        futures_util::future::try_join_all(making.into_iter().map(IntoFuture::into_future)).await.unwrap();
    for number in (0..WATCHES).step_by(997) {
        put(client, &format!("k{number}")).await;
    }
    for number in (0..WATCHES).step_by(997) {
        let event = watches[number].next().await.unwrap().unwrap().events.remove(0);
        assert_eq!(event.key(), format!("k{number}").as_bytes());
    }
    // All of them survive a cut.
    world.proxy.cut_once();
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    let mut expected = BTreeSet::new();
    for number in (0..WATCHES).step_by(499) {
        put(&direct, &format!("k{number}")).await;
        expected.insert(number);
    }
    for number in expected {
        let event = watches[number].next().await.unwrap().unwrap().events.remove(0);
        assert_eq!(event.key(), format!("k{number}").as_bytes());
    }
}

async fn cancelling_disturbs_nobody(world: World) {
    let client = &world.client;
    let mut kept = client.watch("a").await.unwrap();
    for round in 0..50 {
        let watch = client.watch("a").await.unwrap();
        // One that is given up while it is made, at another moment each time.
        let making = client.watch("a").into_future();
        for_a_few_polls(making, round % 5).await;
        drop(watch);
        let revision = put(client, "a").await;
        assert_eq!(next_revisions(&mut kept, 1).await, [revision]);
    }
}

/// Polls a future a few times and drops it.
pub async fn for_a_few_polls<T>(future: impl Future<Output = T>, polls: usize) {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready()));
        if polled.await {
            return;
        }
        tokio::task::yield_now().await;
    }
}
