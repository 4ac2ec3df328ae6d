//! Streams under load and at their end: slow readers, many watchers, fragments, progress by time, failures.

use std::sync::Arc;
use std::time::Duration;

use kvorum_api::etcdserverpb::WatchCreateRequest;

use super::super::{StreamEnd, WatchConfig, WatchLimits};
use super::world::*;

fn small_limits() -> WatchConfig {
    let limits = WatchLimits {
        outbox_bytes: 2000,
        outbox_messages: 8,
        chunk_bytes: 300,
        history_revisions: 50,
        ..WatchLimits::default()
    };
    WatchConfig { limits, ..WatchConfig::default() }
}

#[test]
fn a_stream_that_is_not_read_goes_to_history_and_comes_back() {
    run(|| async {
        let world = World::new(small_limits());
        let mut slow = world.client();
        let mut quick = world.client();
        slow.watched(all_keys()).await;
        slow.watched(create("a")).await;
        quick.watched(create("a")).await;
        for round in 0..3 {
            for value in 0..500 {
                let revision = world.put("a", "a value of some length");
                assert_eq!(mod_revisions(&quick.next().await.events), [revision], "round {round}, put {value}");
            }
            let statistics = world.publisher.statistics();
            assert_eq!(statistics.slow_watchers, 2);
            assert!(statistics.pending_events <= 8 + 1, "memory is bounded: {statistics:?}");
            let mut seen = [Vec::new(), Vec::new()];
            while seen[0].len() < 500 || seen[1].len() < 500 {
                let response = slow.next().await;
                seen[response.watch_id as usize].extend(mod_revisions(&response.events));
            }
            let first = 2 + round * 500;
            let expected: Vec<i64> = (first..first + 500).collect();
            assert_eq!(seen, [expected.clone(), expected]);
            slow.silent().await;
            assert_eq!(world.publisher.statistics().slow_watchers, 0);
            assert_eq!(world.publisher.statistics().pending_events, 0);
        }
    });
}

#[test]
fn a_thread_has_one_budget_for_all_its_streams() {
    run(|| async {
        let limits = WatchLimits { thread_bytes: 20_000, outbox_bytes_floor: 500, ..WatchLimits::default() };
        let world = World::new(WatchConfig { limits, ..WatchConfig::default() });
        let mut clients: Vec<Client> = (0..10).map(|_| world.client()).collect();
        for client in &mut clients {
            client.watched(create("a")).await;
        }
        let value = "v".repeat(100);
        for _ in 0..1000 {
            world.put("a", &value);
            tokio::task::yield_now().await;
        }
        let statistics = world.publisher.statistics();
        assert!(statistics.pending_events < 200, "{statistics:?}");
        assert_eq!(statistics.slow_watchers, 10);
        for client in &mut clients {
            assert_eq!(mod_revisions(&client.events(1000).await), (2..=1001).collect::<Vec<i64>>());
        }
        assert_eq!(world.publisher.statistics().slow_watchers, 0);
    });
}

#[test]
fn requests_are_not_read_while_the_outbox_is_full() {
    run(|| async {
        let world = World::new(small_limits());
        let mut client = world.client();
        for _ in 0..1000 {
            client.watch(create("a"));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.publisher.statistics().watchers <= 9);
        for id in 0..1000 {
            assert_eq!(client.next().await.watch_id, id);
        }
    });
}

#[test]
fn a_thread_that_does_not_keep_up_reads_history() {
    run(|| async {
        let limits = WatchLimits { queue_batches: 10, ..WatchLimits::default() };
        let world = World::new(WatchConfig { limits, ..WatchConfig::default() });
        let mut client = world.client();
        client.watched(all_keys()).await;
        client.watched(WatchCreateRequest { start_revision: 30, ..all_keys() }).await;
        for _ in 0..50 {
            world.put("a", "x");
        }
        let mut seen = [Vec::new(), Vec::new()];
        while seen[0].len() < 50 || seen[1].len() < 22 {
            let response = client.next().await;
            seen[response.watch_id as usize].extend(mod_revisions(&response.events));
        }
        assert_eq!(seen, [(2..=51).collect::<Vec<i64>>(), (30..=51).collect()]);
        assert_eq!(world.publisher.statistics().queue_overflows_total, 1);
        world.put("a", "y");
        assert_eq!(revision_of(&client.next().await), 52);
    });
}

#[test]
fn compaction_while_behind_cancels_and_the_stream_stays() {
    run(|| async {
        let world = World::new(small_limits());
        let mut client = world.client();
        client.watched(create("a")).await;
        for _ in 0..500 {
            world.put("a", "a value of some length");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.store.lock().unwrap().compact_revision = 400;
        let mut last = 1;
        loop {
            let response = client.next().await;
            if response.canceled {
                assert_eq!(response.compact_revision, 400);
                break;
            }
            for revision in mod_revisions(&response.events) {
                assert_eq!(revision, last + 1, "in order up to the cancellation");
                last = revision;
            }
        }
        assert!(last < 400);
        client.watched(WatchCreateRequest { start_revision: 500, ..create("a") }).await;
        assert_eq!(mod_revisions(&client.events(2).await), [500, 501]);
    });
}

/// Found by chance: the queue ran over, the watcher that had not begun yet went to history with the others, and a compaction
/// below its start canceled it.
#[test]
fn compaction_spares_a_watcher_that_begins_later() {
    run(|| async {
        let limits = WatchLimits { queue_batches: 5, ..WatchLimits::default() };
        let world = World::new(WatchConfig { limits, ..WatchConfig::default() });
        let mut client = world.client();
        client.watched(create("a")).await;
        for start_revision in [8, 15] {
            client.watched(WatchCreateRequest { start_revision, ..create("a") }).await;
        }
        for _ in 0..10 {
            world.put("a", "x");
        }
        world.store.lock().unwrap().compact_revision = 6;
        let canceled = client.next().await;
        assert_eq!((canceled.watch_id, canceled.compact_revision), (0, 6));
        assert_eq!(mod_revisions(&client.events(4).await), [8, 9, 10, 11]);
        for _ in 12..15 {
            world.put("a", "y");
            assert_eq!(client.next().await.watch_id, 1);
        }
        world.put("a", "z");
        let mut both = [client.next().await.watch_id, client.next().await.watch_id];
        both.sort_unstable();
        assert_eq!(both, [1, 2]);
    });
}

#[test]
fn idle_watchers_hear_of_progress_and_busy_ones_do_not() {
    run(|| async {
        let interval = Duration::from_secs(60);
        let world = World::new(WatchConfig { progress_interval: interval, ..WatchConfig::default() });
        let mut client = world.client();
        for key in ["idle", "busy"] {
            client.watched(WatchCreateRequest { progress_notify: true, ..create(key) }).await;
        }
        client.watched(create("idle")).await;
        client.watched(WatchCreateRequest { progress_notify: true, start_revision: 100, ..create("idle") }).await;
        world.put("busy", "1");
        assert_eq!(client.next().await.watch_id, 1);
        let began = tokio::time::Instant::now();
        let progress = client.next().await;
        let waited = began.elapsed();
        assert!(waited >= interval && waited <= interval * 11 / 10 + Duration::from_millis(1), "{waited:?}");
        assert_eq!((progress.watch_id, revision_of(&progress), progress.events.len()), (0, 2, 0));
        assert!(!progress.created && !progress.canceled);
        client.silent().await;
        // Nothing happened in the next interval: both hear.
        assert_eq!([client.next().await.watch_id, client.next().await.watch_id], [0, 1]);
        assert!(began.elapsed() >= 2 * interval);
    });
}

#[test]
fn fragments_split_a_large_response_between_events() {
    run(|| async {
        let world = World::new(WatchConfig { fragment_bytes: 1000, ..WatchConfig::default() });
        let mut client = world.client();
        client.watched(WatchCreateRequest { fragment: true, ..all_keys() }).await;
        client.watched(all_keys()).await;
        let large = "v".repeat(400);
        let huge = "v".repeat(3000);
        let huger = "w".repeat(40_000);
        world.apply(&[
            ("a", Some(&large)),
            ("b", Some(&large)),
            ("c", Some(&large)),
            ("d", Some(&huge)),
            ("e", Some(&huger)),
        ]);
        world.put("f", &huger);
        let mut pieces = Vec::new();
        let mut whole = Vec::new();
        for _ in 0..7 {
            let response = client.next().await;
            assert_ne!(revision_of(&response), 0);
            if response.watch_id == 0 {
                pieces.push((response.fragment, response.events.len()));
            } else {
                whole.push((response.fragment, response.events.len()));
            }
        }
        assert_eq!(pieces, [(true, 2), (true, 1), (true, 1), (false, 1), (false, 1)]);
        assert_eq!(whole, [(false, 5), (false, 1)]);
        assert_eq!(world.publisher.statistics().pending_events, 0);
    });
}

#[test]
fn many_frames_travel_in_few_chunks() {
    run(|| async {
        let world = World::new(WatchConfig::default());
        let mut client = world.client();
        for _ in 0..100 {
            client.watched(create("a")).await;
        }
        world.put("a", "x");
        let length = client.chunk().await.expect("open");
        assert!(length > 100 * 40, "all hundred responses in one piece: {length}");
        for id in 0..100 {
            assert_eq!(client.next().await.watch_id, id);
        }
    });
}

#[test]
fn a_hundred_thousand_watchers_of_one_key_each() {
    run(|| async {
        let world = World::new(WatchConfig::default());
        let mut clients: Vec<Client> = (0..10).map(|_| world.client()).collect();
        for index in 0..100_000 {
            clients[index % 10].watch(create(&format!("key/{index}")));
        }
        for client in &mut clients {
            for _ in 0..10_000 {
                assert!(client.next().await.created);
            }
        }
        for index in (0..100_000).step_by(97) {
            world.put(&format!("key/{index}"), "x");
            let response = clients[index % 10].next().await;
            assert_eq!(response.watch_id, (index / 10) as i64);
        }
        assert_eq!(world.publisher.statistics().watchers, 100_000);
        drop(clients);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let statistics = world.publisher.statistics();
        assert_eq!((statistics.watchers, statistics.streams, statistics.pending_events), (0, 0, 0));
    });
}

#[test]
fn watchers_at_many_revisions_share_their_reads() {
    run(|| async {
        let world = World::new(WatchConfig::default());
        for _ in 0..800 {
            world.put("a", "x");
        }
        let mut client = world.client();
        for start_revision in 2..=801 {
            client.watch(WatchCreateRequest { start_revision, ..create("a") });
        }
        let mut next: Vec<i64> = (2..=801).collect();
        let mut left: i64 = next.iter().map(|start| 802 - start).sum();
        while left > 0 {
            let response = client.next().await;
            for revision in mod_revisions(&response.events) {
                let expected = &mut next[response.watch_id as usize];
                assert_eq!(revision, *expected);
                *expected += 1;
                left -= 1;
            }
        }
        client.silent().await;
        let reads = world.store.lock().unwrap().reads;
        assert!(reads < 400, "{reads} reads for 800 watchers");
        assert_eq!(world.publisher.statistics().slow_watchers, 0);
    });
}

#[test]
fn a_half_closed_stream_keeps_its_watchers_and_a_dropped_one_does_not() {
    run(|| async {
        let world = World::new(WatchConfig::default());
        let mut client = world.client();
        client.watched(create("a")).await;
        client.requests = None;
        client.silent().await;
        world.put("a", "x");
        assert_eq!(revision_of(&client.next().await), 2);
        client.receiver = None;
        assert_eq!(client.service.await.expect("ended"), StreamEnd::ReceiverGone);
        assert_eq!(
            world.publisher.statistics(),
            super::super::WatchStatistics { events_total: 1, ..Default::default() }
        );
    });
}

#[test]
fn a_broken_request_stream_ends_the_service_with_its_error() {
    run(|| async {
        let world = World::new(WatchConfig::default());
        let mut client = world.client();
        client.watched(create("a")).await;
        world.put("a", "x");
        client.next().await;
        client.requests.as_ref().expect("open").send(Err("reset".to_owned())).expect("open");
        assert!(client.next_or_end().await.is_none());
        assert_eq!(client.service.await.expect("ended"), StreamEnd::RequestFailed("reset".to_owned()));
        assert_eq!(world.publisher.statistics().watchers, 0);
    });
}

#[test]
fn a_backend_that_cannot_be_read_ends_the_stream() {
    run(|| async {
        let world = World::new(WatchConfig::default());
        world.put("a", "x");
        world.store.lock().unwrap().broken = true;
        let mut client = world.client();
        let mut other = world.client();
        other.watched(create("a")).await;
        client.watched(WatchCreateRequest { start_revision: 2, ..create("a") }).await;
        assert!(client.next_or_end().await.is_none());
        assert_eq!(client.service.await.expect("ended"), StreamEnd::HistoryFailed("broken".to_owned()));
        world.put("a", "y");
        assert_eq!(revision_of(&other.next().await), 3, "others go on");
    });
}

#[test]
fn a_service_that_is_dropped_leaves_nothing_behind() {
    run(|| async {
        let world = World::new(small_limits());
        let mut client = world.client();
        client.watched(create("a")).await;
        for _ in 0..100 {
            world.put("a", "a value of some length");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.service.abort();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.publisher.statistics().watchers, 0);
        while client.next_or_end().await.is_some() {}
        assert_eq!(world.publisher.statistics().pending_events, 0);
    });
}

/// Publishing from another thread while watches come and go: the first event is always the one after the created response.
#[test]
fn creation_races_with_publishing() {
    let (worlds, published) = std::sync::mpsc::channel();
    let watching = std::thread::spawn(move || {
        run(|| async {
            let world = World::new(WatchConfig::default());
            worlds.send((Arc::clone(&world.store), world.publisher.clone())).unwrap();
            for _ in 0..300 {
                let mut client = world.client();
                // Without a timeout: the paused clock would jump while the other thread is at work.
                client.watch(all_keys());
                let created = client.next_or_end().await.expect("open");
                let mut expected = revision_of(&created) + 1;
                for _ in 0..5 {
                    for revision in mod_revisions(&client.next_or_end().await.expect("open").events) {
                        assert_eq!(revision, expected);
                        expected += 1;
                    }
                }
                drop(client);
                tokio::task::yield_now().await;
            }
        });
    });
    let (store, publisher) = published.recv().unwrap();
    while !watching.is_finished() {
        let batch = store.lock().unwrap().apply(&[("a", Some("x"))]);
        publisher.publish(Arc::from(vec![batch]));
        std::thread::yield_now();
    }
    watching.join().unwrap();
}

/// Watches cost memory for as long as their stream lasts: one beyond the bound is refused, and those that end make room.
#[test]
fn watches_of_a_stream_and_of_a_thread_are_bounded() {
    run(|| async {
        let limits = WatchLimits { stream_watches: 3, thread_watchers: 5, ..WatchLimits::default() };
        let world = World::new(WatchConfig { limits, ..WatchConfig::default() });
        let (mut first, mut second) = (world.client(), world.client());
        for _ in 0..3 {
            assert!(!first.watched(create("a")).await.canceled);
        }
        let refuse = |response: kvorum_api::etcdserverpb::WatchResponse| {
            assert!(response.created && response.canceled, "{response:?}");
            assert_eq!((response.watch_id, response.cancel_reason.as_str()), (-1, "etcdserver: too many requests"));
        };
        first.watch(create("a"));
        refuse(first.next().await);
        for _ in 0..2 {
            assert!(!second.watched(create("a")).await.canceled);
        }
        second.watch(create("a"));
        refuse(second.next().await);
        first.cancel(1);
        assert!(first.next().await.canceled);
        assert!(!second.watched(create("a")).await.canceled, "there is room again");
        world.put("a", "1");
        assert_eq!(first.next().await.events.len(), 1);
    });
}

/// Watches that come and go by the thousand leave nothing behind.
#[test]
fn watches_that_are_canceled_leave_nothing() {
    run(|| async {
        let world = World::new(WatchConfig::default());
        let mut client = world.client();
        for round in 0..2_000 {
            let created = client.watched(create("a")).await;
            client.cancel(created.watch_id);
            // One that is not there is not answered, as in etcd.
            client.cancel(created.watch_id + 1_000_000);
            assert!(client.next().await.canceled, "round {round}");
        }
        let statistics = world.publisher.statistics();
        assert_eq!((statistics.watchers, statistics.slow_watchers, statistics.pending_events), (0, 0, 0));
    });
}
