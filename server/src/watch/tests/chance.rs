//! Everything at once: watchers of all kinds come and go, clients read or do not, reads take their time, queues and outboxes
//! are tiny. Whatever the seed, every watcher receives exactly what it asked for, once and in order.

use std::collections::BTreeMap;
use std::time::Duration;

use kvorum_api::etcdserverpb::{WatchCreateRequest, WatchResponse};
use kvorum_api::mvccpb;
use kvorum_store::{EventBatch, EventKind};

use super::super::{WatchConfig, WatchLimits};
use super::world::*;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What a client knows of one of its watches.
struct Expectation {
    request: WatchCreateRequest,
    /// The next revision it may see.
    next: i64,
    /// That of the last response.
    header: i64,
    canceled: bool,
}

impl Expectation {
    fn wants(&self, key: &[u8], kind: EventKind) -> bool {
        let in_range = match &self.request.range_end[..] {
            [] => self.request.key == key,
            [0] => self.request.key <= key,
            end => self.request.key <= key && key < end,
        };
        let number = i32::from(kind == EventKind::Delete);
        in_range && !self.request.filters.contains(&number)
    }

    /// The events from `next` up to this revision.
    fn expected(&self, batches: &[EventBatch], up_to: i64) -> Vec<(i64, Vec<u8>)> {
        batches
            .iter()
            .filter(|batch| batch.revision >= self.next && batch.revision <= up_to)
            .flat_map(|batch| batch.events.iter().map(move |event| (batch.revision, event)))
            .filter(|(_, event)| self.wants(event.key(), event.kind))
            .map(|(revision, event)| (revision, event.key().to_vec()))
            .collect()
    }
}

struct Reader {
    client: Client,
    watches: BTreeMap<i64, Expectation>,
    created: std::collections::VecDeque<WatchCreateRequest>,
}

impl Reader {
    fn take(&mut self, world: &World, response: &WatchResponse) {
        let header = revision_of(response);
        if response.created {
            let request = self.created.pop_front().expect("it was asked for");
            let next = if request.start_revision == 0 { header + 1 } else { request.start_revision };
            let watch = Expectation { request, next, header, canceled: false };
            assert!(self.watches.insert(response.watch_id, watch).is_none());
            return;
        }
        let store = world.store.lock().unwrap();
        if response.watch_id == -1 {
            for watch in self.watches.values().filter(|watch| !watch.canceled) {
                assert_eq!(watch.expected(&store.batches, header), [], "progress covers what was delivered");
            }
            return;
        }
        let watch = self.watches.get_mut(&response.watch_id).expect("a watch of ours");
        if response.canceled {
            // A watch that a compaction canceled may still be canceled by the client.
            assert!(response.compact_revision == 0 || !watch.canceled && watch.next < response.compact_revision);
            watch.canceled = true;
            return;
        }
        assert!(!watch.canceled, "nothing follows a cancellation");
        let seen: Vec<(i64, Vec<u8>)> = response.events.iter().map(place).collect();
        assert!(watch.header <= header, "a watch's headers never go back");
        watch.header = header;
        let last = seen.last().map_or(0, |(revision, _)| *revision);
        assert!(last <= header, "a header covers its events");
        assert_eq!(seen, watch.expected(&store.batches, last), "watch {} next {}", response.watch_id, watch.next);
        watch.next = last + 1;
        for event in &response.events {
            check_previous(&store.batches, event, watch.request.prev_kv);
        }
    }
}

fn place(event: &mvccpb::Event) -> (i64, Vec<u8>) {
    let kv = event.kv.as_ref().expect("an event has a kv");
    (kv.mod_revision, kv.key.to_vec())
}

fn check_previous(batches: &[EventBatch], event: &mvccpb::Event, wanted: bool) {
    let (revision, key) = place(event);
    let before = batches.iter().rev().filter(|batch| batch.revision < revision).find_map(|batch| {
        batch.events.iter().find(|event| event.key() == key).map(|event| (batch.revision, event.kind))
    });
    let expected = match before {
        Some((at, EventKind::Put)) if wanted => Some(at),
        _ => None,
    };
    assert_eq!(event.prev_kv.as_ref().map(|kv| kv.mod_revision), expected, "prev_kv of {key:?} at {revision}");
}

fn random_request(random: &mut Random, revision: i64) -> WatchCreateRequest {
    let range_end: &[u8] = [&b""[..], b"d", b"\0"][random.below(3) as usize];
    let key = KEYS[random.below(3) as usize];
    let start_revision = match random.below(4) {
        0 | 1 => 0,
        2 => 1 + random.below(revision as u64) as i64,
        _ => revision + random.below(8) as i64,
    };
    let filters = if random.one_in(4) { vec![random.below(2) as i32] } else { Vec::new() };
    let range_end = range_end.to_vec().into();
    WatchCreateRequest { range_end, start_revision, filters, prev_kv: random.one_in(3), ..create(key) }
}

fn random_limits(random: &mut Random) -> WatchLimits {
    WatchLimits {
        outbox_bytes: 200 + random.below(4000) as usize,
        outbox_messages: 1 + random.below(20) as usize,
        chunk_bytes: 1 + random.below(400) as usize,
        queue_batches: 1 + random.below(10) as usize,
        history_revisions: 1 + random.below(30) as usize,
        deliveries_per_turn: 1 + random.below(20) as usize,
        moves_per_turn: 1 + random.below(5) as usize,
        ..WatchLimits::default()
    }
}

fn apply_something(random: &mut Random, world: &World) {
    let mut changes: Vec<Change<'_>> = Vec::new();
    for key in KEYS {
        if random.one_in(3) {
            let exists = {
                let store = world.store.lock().unwrap();
                let last = store
                    .batches
                    .iter()
                    .rev()
                    .find_map(|batch| batch.events.iter().find(|event| event.key() == key.as_bytes()));
                last.is_some_and(|event| event.kind == EventKind::Put)
            };
            changes.push((key, if exists && random.one_in(3) { None } else { Some("value") }));
        }
    }
    if !changes.is_empty() {
        world.store.lock().unwrap().previous_known = random.one_in(2);
        world.apply(&changes);
    }
}

async fn run_seed(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let world = World::new(WatchConfig { limits: random_limits(&mut random), ..WatchConfig::default() });
    let mut readers: Vec<Reader> = (0..3)
        .map(|_| Reader { client: world.client(), watches: BTreeMap::new(), created: Default::default() })
        .collect();
    for _ in 0..400 {
        let index = random.below(3) as usize;
        match random.below(12) {
            0..=4 => apply_something(&mut random, &world),
            5 => {
                let revision = world.store.lock().unwrap().revision();
                let request = random_request(&mut random, revision);
                readers[index].created.push_back(request.clone());
                readers[index].client.watch(request);
            }
            6 => readers[index].client.cancel(random.below(12) as i64),
            7 => readers[index].client.ask_progress(),
            8 => world.store.lock().unwrap().read_yields = random.below(30) as usize,
            9 if random.one_in(8) => {
                let mut store = world.store.lock().unwrap();
                let room = store.revision() - store.compact_revision;
                store.compact_revision += random.below(room as u64) as i64;
            }
            9 | 10 => {
                for _ in 0..random.below(20) {
                    tokio::task::yield_now().await;
                }
            }
            _ => {
                for _ in 0..random.below(30) {
                    let next = readers[index].client.next_or_end();
                    let Ok(response) = tokio::time::timeout(Duration::from_micros(1), next).await else { break };
                    readers[index].take(&world, &response.expect("open"));
                }
            }
        }
    }
    let mut quiet = 0;
    while quiet < readers.len() {
        quiet = 0;
        for reader in &mut readers {
            let next = reader.client.next_or_end();
            match tokio::time::timeout(Duration::from_millis(50), next).await {
                Ok(response) => reader.take(&world, &response.expect("open")),
                Err(_) => quiet += 1,
            }
        }
    }
    let store = world.store.lock().unwrap();
    let mut live = 0;
    for reader in &readers {
        assert!(reader.created.is_empty(), "every request was answered");
        for (id, watch) in reader.watches.iter().filter(|(_, watch)| !watch.canceled) {
            live += 1;
            assert_eq!(watch.expected(&store.batches, i64::MAX), [], "watch {id} was given everything");
        }
    }
    let statistics = world.publisher.statistics();
    assert_eq!((statistics.watchers, statistics.slow_watchers, statistics.pending_events), (live, 0, 0));
}

#[test]
fn every_watcher_receives_exactly_its_events() {
    for seed in 1..=80 {
        println!("seed {seed}");
        run(|| run_seed(seed));
    }
}
