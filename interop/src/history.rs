//! A history of a store as its watchers saw it, and what follows from it: the state at its end and etcd's `HashKV`. It
//! must not ask a server anything, since it is what a server is checked against.
//!
//! `HashKV` covers "key", then the key and value bytes of each stored revision as they lie in etcd's backend: the
//! revision as 8 bytes big-endian, `_`, 8 bytes, and `t` for a tombstone; the value is the encoded `KeyValue`, which in
//! a tombstone holds the key alone. Of revisions up to the compacted one, only those count that a compaction at the
//! hashed revision would keep; a tombstone at the compacted revision never counts.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_api::mvccpb;
use mvccpb::event::EventType;
use prost::Message;

/// One change: revisions are (main, sub).
#[derive(Clone, Debug, PartialEq)]
struct Change {
    main: i64,
    sub: i64,
    tombstone: bool,
    kv: mvccpb::KeyValue,
}

/// All changes of a store since it was created.
#[derive(Clone, Debug, Default)]
pub struct History {
    changes: Vec<Change>,
}

/// What one revision did: for each change in order, the key and its new value, or None when it was deleted.
pub type Effects = Vec<(Bytes, Option<Bytes>)>;

impl History {
    /// Appends events as a watcher of all keys gets them. Err when they are not the next revisions, each once and whole.
    pub fn append(&mut self, events: &[mvccpb::Event]) -> Result<(), String> {
        for event in events {
            let kv = event.kv.clone().unwrap_or_default();
            let main = kv.mod_revision;
            let (last, last_sub) = self.changes.last().map_or((1, -1), |change| (change.main, change.sub));
            if main != last && main != last + 1 || main < 2 {
                return Err(format!("revision {main} follows {last}: {event:?}"));
            }
            let sub = if main == last { last_sub + 1 } else { 0 };
            let tombstone = event.r#type == EventType::Delete as i32;
            self.check_versions(&kv, tombstone)?;
            self.changes.push(Change { main, sub, tombstone, kv });
        }
        Ok(())
    }

    /// The last revision.
    pub fn revision(&self) -> i64 {
        self.changes.last().map_or(1, |change| change.main)
    }

    /// What a revision did; empty when it is not in the history.
    pub fn effects(&self, revision: i64) -> Effects {
        let changes = self.changes.iter().filter(|change| change.main == revision);
        changes.map(|change| (change.kv.key.clone(), (!change.tombstone).then(|| change.kv.value.clone()))).collect()
    }

    /// The keys at the end, in order.
    pub fn state(&self) -> Vec<mvccpb::KeyValue> {
        self.kept(i64::MAX).into_values().map(|change| change.kv.clone()).collect()
    }

    /// etcd's `HashKV` at `revision` of a store compacted at `compacted` (-1 when it never was).
    pub fn hash_kv(&self, compacted: i64, revision: i64) -> u32 {
        let kept = self.kept(revision);
        let keeps = |change: &Change| {
            kept.get(&change.kv.key).is_some_and(|kept| (kept.main, kept.sub) == (change.main, change.sub))
        };
        let counted = self.changes.iter().filter(|change| {
            let tombstone_of_compaction = change.tombstone && change.main == compacted;
            change.main <= revision && (change.main > compacted || keeps(change)) && !tombstone_of_compaction
        });
        counted.fold(crc32c::crc32c(b"key"), |crc, change| {
            let mut bytes = Vec::with_capacity(18);
            bytes.extend(change.main.to_be_bytes());
            bytes.push(b'_');
            bytes.extend(change.sub.to_be_bytes());
            let value = if change.tombstone {
                bytes.push(b't');
                mvccpb::KeyValue { key: change.kv.key.clone(), ..Default::default() }
            } else {
                change.kv.clone()
            };
            bytes.extend(value.encode_to_vec());
            crc32c::crc32c_append(crc, &bytes)
        })
    }

    /// The last change of each key up to `revision`, without the deleted ones.
    fn kept(&self, revision: i64) -> BTreeMap<Bytes, &Change> {
        let mut kept = BTreeMap::new();
        for change in self.changes.iter().take_while(|change| change.main <= revision) {
            if change.tombstone {
                kept.remove(&change.kv.key);
            } else {
                kept.insert(change.kv.key.clone(), change);
            }
        }
        kept
    }

    /// Create revision and version follow from the previous change of the key.
    fn check_versions(&self, kv: &mvccpb::KeyValue, tombstone: bool) -> Result<(), String> {
        let previous = self.changes.iter().rev().find(|change| change.kv.key == kv.key);
        let wanted = match previous.filter(|change| !change.tombstone) {
            _ if tombstone => (0, 0),
            Some(change) => (change.kv.create_revision, change.kv.version + 1),
            None => (kv.mod_revision, 1),
        };
        let found = (kv.create_revision, kv.version);
        if wanted == found { Ok(()) } else { Err(format!("want create revision and version {wanted:?}: {kv:?}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(main: i64, key: &'static str, version: i64, create: i64) -> mvccpb::Event {
        let kv = mvccpb::KeyValue {
            key: key.into(),
            value: "v".into(),
            mod_revision: main,
            create_revision: create,
            version,
            lease: 0,
        };
        mvccpb::Event { r#type: EventType::Put as i32, kv: Some(kv), prev_kv: None }
    }

    fn delete(main: i64, key: &'static str) -> mvccpb::Event {
        let kv = mvccpb::KeyValue { key: key.into(), mod_revision: main, ..Default::default() };
        mvccpb::Event { r#type: EventType::Delete as i32, kv: Some(kv), prev_kv: None }
    }

    fn history() -> History {
        let mut history = History::default();
        let events = [put(2, "a", 1, 2), put(3, "a", 2, 2), put(3, "b", 1, 3), delete(4, "b"), put(5, "b", 1, 5)];
        history.append(&events).expect("the revisions follow each other");
        history
    }

    #[test]
    fn what_does_not_follow_is_refused() {
        for wrong in [put(5, "a", 4, 2), put(7, "a", 3, 2), put(6, "a", 2, 2), put(6, "b", 2, 3), put(3, "c", 1, 3)] {
            assert!(history().append(std::slice::from_ref(&wrong)).is_err(), "{wrong:?}");
        }
        assert_eq!(history().append(&[put(6, "a", 3, 2)]), Ok(()));
    }

    #[test]
    fn the_state_is_what_was_put_last() {
        let state: Vec<_> = history().state().into_iter().map(|kv| (kv.key, kv.mod_revision)).collect();
        assert_eq!(state, [(Bytes::from("a"), 3), (Bytes::from("b"), 5)]);
    }

    #[test]
    fn a_hash_covers_what_it_should() {
        let history = history();
        let whole = history.hash_kv(-1, 5);
        assert_ne!(whole, history.hash_kv(-1, 4));
        assert_ne!(whole, history.hash_kv(2, 5), "a@2 is superseded");
        assert_eq!(history.hash_kv(3, 5), {
            let mut changes = history.changes[1..].to_vec();
            changes.retain(|change| (change.main, change.sub) != (3, 1));
            let shorter = History { changes };
            shorter.hash_kv(-1, 5)
        });
        let empty = History::default().hash_kv(-1, 1);
        assert_eq!(empty, crc32c::crc32c(b"key"));
    }
}
