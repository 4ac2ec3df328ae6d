//! What a watch answers, rule by rule.

use kvorum_api::etcdserverpb::watch_create_request::FilterType;
use kvorum_api::etcdserverpb::{WatchCreateRequest, WatchResponse};

use super::super::WatchConfig;
use super::world::*;

fn config() -> WatchConfig {
    WatchConfig::default()
}

fn refusal(response: &WatchResponse) -> (i64, &str) {
    assert!(response.created && response.canceled, "{response:?}");
    assert_eq!(response.compact_revision, 0);
    (response.watch_id, &response.cancel_reason)
}

#[test]
fn a_watch_from_now_sees_what_comes_after_its_created_response() {
    run(|| async {
        let world = World::new(config());
        world.put("a", "before");
        let mut client = world.client();
        let created = client.watched(create("a")).await;
        let header = created.header.expect("header");
        assert_eq!((header.revision, header.raft_term, created.watch_id), (2, TERM, 0));
        world.put("a", "1");
        world.put("other", "x");
        world.apply(&[("a", None)]);
        let first = client.next().await;
        assert_eq!((revision_of(&first), mod_revisions(&first.events)), (3, vec![3]));
        assert_eq!(first.events[0].kv.as_ref().unwrap().create_revision, 2);
        assert!(first.events[0].prev_kv.is_none());
        let second = client.next().await;
        assert_eq!((revision_of(&second), mod_revisions(&second.events)), (5, vec![5]));
        assert_eq!(second.events[0].r#type, 1);
        client.silent().await;
    });
}

#[test]
fn past_start_reads_history_then_goes_on_live() {
    run(|| async {
        let world = World::new(config());
        for value in 0..2500 {
            world.put(if value % 2 == 0 { "a" } else { "b" }, "x");
        }
        let mut client = world.client();
        let created = client.watched(WatchCreateRequest { start_revision: 2, ..create("a") }).await;
        assert_eq!(revision_of(&created), 2501);
        let mut seen = Vec::new();
        let mut headers = Vec::new();
        while seen.len() < 1250 {
            let response = client.next().await;
            assert!(response.events.len() <= 250);
            headers.push(revision_of(&response));
            seen.extend(mod_revisions(&response.events));
            assert!(headers.last() >= seen.last(), "the header covers the events");
        }
        assert_eq!(seen, (1..=1250).map(|n| 2 * n).collect::<Vec<i64>>());
        assert_eq!(headers, [2501; 10], "a header does not go back behind the one of the creation");
        world.put("a", "live");
        assert_eq!(mod_revisions(&client.next().await.events), [2502]);
        client.silent().await;
    });
}

#[test]
fn future_start_waits_for_its_revision() {
    run(|| async {
        let world = World::new(config());
        let mut client = world.client();
        client.watched(WatchCreateRequest { start_revision: 4, ..all_keys() }).await;
        client.ask_progress();
        client.silent().await;
        for _ in 0..4 {
            world.put("a", "x");
        }
        assert_eq!(mod_revisions(&client.events(2).await), [4, 5]);
        client.ask_progress();
        let progress = client.next().await;
        assert_eq!((progress.watch_id, revision_of(&progress)), (-1, 5));
    });
}

#[test]
fn refused_watches_say_why_and_leave_the_stream_open() {
    run(|| async {
        let world = World::new(config());
        world.put("a", "x");
        let mut client = world.client();
        client.watch(WatchCreateRequest { start_revision: -1, watch_id: 5, ..create("a") });
        let answer = client.next().await;
        assert_eq!(refusal(&answer), (-1, "etcdserver: mvcc: required revision has been compacted"));
        assert_eq!(revision_of(&answer), 2);
        for end in ["b", "a"] {
            client.watch(WatchCreateRequest { range_end: end.as_bytes().to_vec().into(), ..create("b") });
            assert_eq!(refusal(&client.next().await), (-1, "mvcc: watcher range is empty"));
        }
        client.watched(WatchCreateRequest { watch_id: 3, ..create("a") }).await;
        client.watch(WatchCreateRequest { watch_id: 3, ..create("a") });
        assert_eq!(refusal(&client.next().await), (-1, "mvcc: duplicate watch ID provided on the WatchStream"));
        client.send(None);
        client.cancel(99);
        client.silent().await;
        world.put("a", "y");
        assert_eq!(client.next().await.watch_id, 3);
    });
}

#[test]
fn ids_are_given_from_zero_up_past_those_taken() {
    run(|| async {
        let world = World::new(config());
        let mut client = world.client();
        let mut ids = Vec::new();
        for watch_id in [0, 2, 0, 0, -7, 0] {
            ids.push(client.watched(WatchCreateRequest { watch_id, ..create("a") }).await.watch_id);
        }
        assert_eq!(ids, [0, 2, 1, 3, -7, 4]);
        client.cancel(1);
        let canceled = client.next().await;
        assert_eq!((canceled.watch_id, canceled.canceled, canceled.created), (1, true, false));
        assert!(canceled.cancel_reason.is_empty() && revision_of(&canceled) == 1);
        // Ids are not given twice, but a client may take one again.
        assert_eq!(client.watched(create("a")).await.watch_id, 5);
        assert_eq!(client.watched(WatchCreateRequest { watch_id: 1, ..create("a") }).await.watch_id, 1);
    });
}

#[test]
fn a_canceled_watch_is_silent() {
    run(|| async {
        let world = World::new(config());
        let mut client = world.client();
        client.watched(create("a")).await;
        world.put("a", "1");
        client.cancel(0);
        assert_eq!(mod_revisions(&client.next().await.events), [2]);
        assert!(client.next().await.canceled);
        world.put("a", "2");
        client.silent().await;
        assert_eq!(world.publisher.statistics().watchers, 0);
        // The thread was passed over meanwhile; a new watch still begins at the right place.
        assert_eq!(revision_of(&client.watched(create("a")).await), 3);
        world.put("a", "3");
        assert_eq!(mod_revisions(&client.next().await.events), [4]);
    });
}

#[test]
fn empty_key_and_zero_byte_end_have_etcds_meaning() {
    run(|| async {
        let world = World::new(config());
        let mut client = world.client();
        client.watched(create("")).await;
        client.watched(all_keys()).await;
        let prefix = WatchCreateRequest { range_end: b"b".to_vec().into(), ..create("a") };
        client.watched(prefix).await;
        world.put("\0", "x");
        world.put("az", "x");
        world.put("b", "x");
        let mut seen = Vec::new();
        for _ in 0..5 {
            let response = client.next().await;
            seen.push((revision_of(&response), response.watch_id));
        }
        seen.sort_unstable();
        assert_eq!(seen, [(2, 0), (2, 1), (3, 1), (3, 2), (4, 1)]);
    });
}

#[test]
fn one_transaction_is_one_response() {
    run(|| async {
        let world = World::new(config());
        let mut client = world.client();
        client.watched(all_keys()).await;
        world.put("b", "0");
        world.apply(&[("c", Some("1")), ("a", Some("2")), ("b", None)]);
        client.next().await;
        let live = client.next().await;
        client.watched(WatchCreateRequest { start_revision: 3, ..all_keys() }).await;
        let replayed = client.next().await;
        for response in [&live, &replayed] {
            let keys: Vec<&[u8]> = response.events.iter().map(|event| &event.kv.as_ref().unwrap().key[..]).collect();
            assert_eq!(keys, [b"c", b"a", b"b"]);
        }
        assert_eq!(live.events, replayed.events);
    });
}

#[test]
fn filters_hide_kinds_of_events() {
    run(|| async {
        let world = World::new(config());
        let mut client = world.client();
        for (start_revision, filter) in [(0, FilterType::Noput), (0, FilterType::Nodelete), (2, FilterType::Noput)] {
            let filters = vec![filter as i32, 9];
            client.watched(WatchCreateRequest { start_revision, filters, ..all_keys() }).await;
        }
        world.apply(&[("a", Some("1")), ("b", Some("1"))]);
        world.apply(&[("a", None), ("c", Some("2"))]);
        world.apply(&[("b", None)]);
        let mut seen = Vec::new();
        for _ in 0..6 {
            let response = client.next().await;
            seen.push((response.watch_id, revision_of(&response), response.events.len()));
        }
        seen.sort_unstable();
        assert_eq!(seen, [(0, 3, 1), (0, 4, 1), (1, 2, 2), (1, 3, 1), (2, 3, 1), (2, 4, 1)]);
        client.silent().await;
    });
}

#[test]
fn previous_values_come_from_events_from_the_backend_and_from_history() {
    run(|| async {
        for (previous_known, start_revision) in [(true, 0), (false, 0), (true, 2), (false, 2)] {
            let world = World::new(config());
            world.store.lock().unwrap().previous_known = previous_known;
            let mut client = world.client();
            if start_revision == 0 {
                client.watched(WatchCreateRequest { prev_kv: true, ..create("a") }).await;
            }
            world.put("a", "1");
            world.put("a", "2");
            world.apply(&[("a", None)]);
            world.put("a", "3");
            if start_revision != 0 {
                client.watched(WatchCreateRequest { prev_kv: true, start_revision, ..create("a") }).await;
            }
            let events = client.events(4).await;
            assert_eq!(mod_revisions(&events), [2, 3, 4, 5]);
            let before: Vec<Option<&[u8]>> =
                events.iter().map(|event| event.prev_kv.as_ref().map(|kv| &kv.value[..])).collect();
            assert_eq!(before, [None, Some(&b"1"[..]), Some(&b"2"[..]), None]);
            client.silent().await;
            assert_eq!(world.publisher.statistics().slow_watchers, 0);
        }
    });
}

#[test]
fn a_compacted_start_is_canceled_with_the_revision_and_the_stream_stays() {
    run(|| async {
        let world = World::new(config());
        for _ in 0..9 {
            world.put("a", "x");
        }
        world.store.lock().unwrap().compact_revision = 5;
        let mut client = world.client();
        client.watched(WatchCreateRequest { start_revision: 4, ..create("a") }).await;
        let canceled = client.next().await;
        assert_eq!((canceled.canceled, canceled.compact_revision, canceled.watch_id), (true, 5, 0));
        assert!(canceled.cancel_reason.is_empty() && !canceled.created);
        // As etcd: this one response has no revision, the id stays taken until it is canceled.
        assert_eq!(revision_of(&canceled), 0);
        assert_eq!(client.watched(create("a")).await.watch_id, 1);
        client.ask_progress();
        assert_eq!(client.next().await.watch_id, -1);
        client.cancel(0);
        assert!(client.next().await.canceled);
        // The compacted revision itself can still be watched.
        client.watched(WatchCreateRequest { start_revision: 5, ..create("a") }).await;
        assert_eq!(mod_revisions(&client.events(6).await), [5, 6, 7, 8, 9, 10]);
    });
}

#[test]
fn progress_on_request_needs_every_watcher_synced() {
    run(|| async {
        let world = World::new(config());
        let mut client = world.client();
        client.ask_progress();
        client.silent().await;
        world.put("a", "x");
        client.watched(create("a")).await;
        client.ask_progress();
        let progress = client.next().await;
        assert_eq!((progress.watch_id, revision_of(&progress), progress.events.len()), (-1, 2, 0));
        // Published and not yet delivered by the pump: the answer still comes after the event.
        world.put("a", "y");
        client.ask_progress();
        assert_eq!(mod_revisions(&client.next().await.events), [3]);
        assert_eq!(revision_of(&client.next().await), 3);
        world.store.lock().unwrap().read_yields = 1000;
        client.watched(WatchCreateRequest { start_revision: 2, ..create("a") }).await;
        client.ask_progress();
        assert_eq!(mod_revisions(&client.next().await.events), [2, 3], "the request was dropped, not answered early");
        client.silent().await;
        client.ask_progress();
        assert_eq!(client.next().await.watch_id, -1);
    });
}

#[test]
fn a_watch_whose_keys_may_no_longer_be_read_is_canceled_before_the_next_event() {
    run(|| async {
        let world = World::new(config());
        world.put("b", "1");
        let mut client = world.client();
        for key in ["a", "b"] {
            client.watched(create(key)).await;
        }
        // One that is still behind.
        client.watched(WatchCreateRequest { start_revision: 2, ..create("b") }).await;
        world.put("a", "1");
        world.permit_below("b");
        world.put("b", "2");
        world.put("a", "2");
        let mut canceled = Vec::new();
        let mut events = 0;
        while canceled.len() < 2 || events < 2 {
            let response = client.next().await;
            if response.canceled {
                assert_eq!(
                    response.cancel_reason,
                    "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
                );
                canceled.push(response.watch_id);
            } else {
                // What came before may have been read before.
                let may = response.watch_id == 0 || mod_revisions(&response.events) == [2];
                assert!(may, "{response:?}");
                events += if response.watch_id == 0 { response.events.len() } else { 0 };
            }
        }
        assert_eq!(canceled, [1, 2]);
        client.silent().await;
    });
}
