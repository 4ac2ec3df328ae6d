use std::sync::Arc;

use kvorum_api::mvccpb::KeyValue;
use prost::Message;

use super::*;
use crate::event::Previous;
use crate::revision::Revision;

/// A small generator with a seed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn key(&mut self) -> Vec<u8> {
        let length = 1 + self.below(3);
        (0..length).map(|_| b'a' + self.below(4) as u8).collect()
    }
}

fn event(kind: EventKind, key: &[u8], revision: Revision) -> Event {
    let kv = KeyValue { key: key.to_vec().into(), mod_revision: revision.main, ..KeyValue::default() };
    Event { kind, revision, kv: Arc::from(kv.encode_to_vec()), created: false, previous: Previous::None }
}

fn watch(watcher: u32, key: &[u8], end: WatchEnd) -> Watch {
    Watch {
        watcher,
        key: Arc::from(key),
        end,
        filters: WatchFilters::default(),
        minimum_revision: 0,
        wants_previous: false,
    }
}

fn batch(revision: i64, events: &[(EventKind, &[u8])]) -> EventBatch {
    let events =
        events.iter().zip(0..).map(|((kind, key), sub)| event(*kind, key, Revision::new(revision, sub))).collect();
    EventBatch { revision, events }
}

fn concerned(watch: &Watch, key: &[u8]) -> bool {
    match &watch.end {
        WatchEnd::Single => *watch.key == *key,
        WatchEnd::Before(end) => *watch.key <= *key && *key < **end,
        WatchEnd::Unbounded => *watch.key <= *key,
    }
}

fn random_watch(random: &mut Random, watcher: u32) -> Watch {
    let key = random.key();
    let end = match random.below(3) {
        0 => WatchEnd::Single,
        1 => WatchEnd::Unbounded,
        _ => {
            let mut end = random.key();
            if end <= key {
                end.clone_from(&key);
                end.push(0);
            }
            WatchEnd::Before(Arc::from(end))
        }
    };
    let filters = WatchFilters { no_put: random.below(4) == 0, no_delete: random.below(4) == 0 };
    Watch { filters, minimum_revision: random.below(20) as i64, ..watch(watcher, &key, end) }
}

fn check_against_model(registry: &Registry, model: &[(WatchSlot, Watch)], batches: &[EventBatch]) {
    let mut deliveries = Deliveries::default();
    for (name, batch) in batches.iter().enumerate() {
        registry.matches(batch, name as u32, &mut deliveries);
    }
    let mut found: Vec<Delivery> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for group in deliveries.by_watcher() {
        assert!(group.is_sorted(), "events of a watcher come as they happened");
        assert!(seen.insert(group[0].watcher), "all events of a watcher are in one group");
        found.extend(group);
    }
    found.sort_unstable();
    let mut expected = Vec::new();
    for (_, watch) in model {
        for (name, batch) in batches.iter().enumerate() {
            for (position, event) in batch.events.iter().enumerate() {
                if concerned(watch, event.key())
                    && batch.revision >= watch.minimum_revision
                    && watch.filters.passes(event.kind)
                {
                    expected.push(Delivery { watcher: watch.watcher, batch: name as u32, event: position as u32 });
                }
            }
        }
    }
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn registry_agrees_with_a_list_of_all_watchers() {
    for seed in 1..=60u64 {
        let mut random = Random(seed * 0x1234_5678_9abc);
        let mut registry = Registry::new();
        let mut model: Vec<(WatchSlot, Watch)> = Vec::new();
        for step in 0..300u32 {
            match random.below(5) {
                0 | 1 => {
                    let watch = random_watch(&mut random, step);
                    model.push((registry.insert(watch.clone()), watch));
                }
                2 if !model.is_empty() => {
                    let at = random.below(model.len() as u64) as usize;
                    let (slot, watch) = model.swap_remove(at);
                    assert_eq!(registry.remove(slot).watcher, watch.watcher);
                }
                _ => {
                    let batches: Vec<EventBatch> = (0..=random.below(3))
                        .map(|_| {
                            let events: Vec<(EventKind, Vec<u8>)> = (0..=random.below(4))
                                .map(|_| {
                                    let kind = if random.below(3) == 0 { EventKind::Delete } else { EventKind::Put };
                                    (kind, random.key())
                                })
                                .collect();
                            let borrowed: Vec<(EventKind, &[u8])> =
                                events.iter().map(|(kind, key)| (*kind, &key[..])).collect();
                            batch(random.below(25) as i64, &borrowed)
                        })
                        .collect();
                    check_against_model(&registry, &model, &batches);
                }
            }
            assert_eq!(registry.len(), model.len(), "seed {seed}");
        }
        let mut left: Vec<u32> = model.iter().map(|(_, watch)| watch.watcher).collect();
        let mut popped: Vec<u32> = std::iter::from_fn(|| registry.pop()).map(|watch| watch.watcher).collect();
        left.sort_unstable();
        popped.sort_unstable();
        assert_eq!(left, popped, "seed {seed}: all that remained came out");
        assert!(registry.is_empty());
    }
}

#[test]
fn all_events_of_a_batch_come_together_and_in_order() {
    let mut registry = Registry::new();
    registry.insert(watch(7, b"a", WatchEnd::Unbounded));
    registry.insert(watch(3, b"b", WatchEnd::Single));
    let mut deliveries = Deliveries::default();
    registry.matches(
        &batch(5, &[(EventKind::Put, b"b"), (EventKind::Delete, b"a"), (EventKind::Put, b"c")]),
        0,
        &mut deliveries,
    );
    let groups: Vec<Vec<(u32, u32)>> =
        deliveries.by_watcher().map(|group| group.iter().map(|entry| (entry.watcher, entry.event)).collect()).collect();
    assert_eq!(groups, vec![vec![(3, 0)], vec![(7, 0), (7, 1), (7, 2)]]);
}

#[test]
fn watchers_of_one_key_join_and_leave_in_constant_time() {
    let mut registry = Registry::new();
    let slots: Vec<WatchSlot> = (0..100_000).map(|id| registry.insert(watch(id, b"same", WatchEnd::Single))).collect();
    let mut deliveries = Deliveries::default();
    registry.matches(&batch(1, &[(EventKind::Put, b"same")]), 0, &mut deliveries);
    assert_eq!(deliveries.len(), 100_000);
    for slot in slots {
        registry.remove(slot);
    }
    deliveries.clear();
    registry.matches(&batch(2, &[(EventKind::Put, b"same")]), 0, &mut deliveries);
    assert!(deliveries.is_empty());
}

#[test]
fn disjoint_ranges_do_not_see_each_other() {
    let mut registry = Registry::new();
    for id in 0..20_000u32 {
        let start = format!("range/{id:05}/");
        let end = format!("range/{id:05}0");
        registry.insert(watch(id, start.as_bytes(), WatchEnd::Before(Arc::from(end.as_bytes()))));
    }
    let mut deliveries = Deliveries::default();
    for id in (0..20_000u32).step_by(7) {
        let key = format!("range/{id:05}/key");
        deliveries.clear();
        registry.matches(&batch(1, &[(EventKind::Put, key.as_bytes())]), 0, &mut deliveries);
        assert_eq!(deliveries.iter().map(|entry| entry.watcher).collect::<Vec<_>>(), vec![id]);
    }
}
