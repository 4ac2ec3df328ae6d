//! What watchers are told: for each revision its changes, in order, encoded once.

use crate::revision::{KvBytes, Revision};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// The key's value before an event, for watchers that ask for `prev_kv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Previous {
    /// The key did not exist before.
    None,
    Known(KvBytes),
    /// It exists and lies in the overlay or the backend under this revision.
    Stored(Revision),
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: EventKind,
    pub revision: Revision,
    /// The encoded `KeyValue` as the event carries it; of a deletion it holds key and mod revision only.
    pub kv: KvBytes,
    /// Whether the put created the key (etcd's `IsCreate`); false for deletions.
    pub created: bool,
    pub previous: Previous,
}

impl Event {
    /// The key, read out of the encoded `KeyValue`.
    pub fn key(&self) -> &[u8] {
        key_of(&self.kv)
    }
}

/// All changes of one main revision. Watchers receive a batch whole or not at all.
#[derive(Clone, Debug)]
pub struct EventBatch {
    pub revision: i64,
    pub events: Vec<Event>,
}

/// What an encoded `KeyValue` begins with: field 1, of a length.
pub(crate) const KEY_TAG: u8 = 0x0a;

/// The key of an encoded `KeyValue` that this crate wrote: field 1 is present and stands first.
#[inline]
pub fn key_of(kv: &[u8]) -> &[u8] {
    assert_eq!(kv.first(), Some(&KEY_TAG), "a stored KeyValue begins with its key");
    let mut length = 0usize;
    let mut shift = 0;
    let mut position = 1;
    loop {
        let byte = kv[position];
        length |= usize::from(byte & 0x7f) << shift;
        position += 1;
        if byte & 0x80 == 0 {
            return &kv[position..position + length];
        }
        shift += 7;
    }
}

/// As [`key_of`], of bytes that a disk may have damaged.
pub(crate) fn checked_key_of(kv: &[u8]) -> Option<&[u8]> {
    let mut rest = kv.strip_prefix(&[KEY_TAG])?;
    let length = prost::encoding::decode_varint(&mut rest).ok()?;
    rest.get(..usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::{checked_key_of, key_of};
    use kvorum_api::mvccpb::KeyValue;
    use prost::Message;

    #[test]
    fn damaged_bytes_have_no_key() {
        assert_eq!(checked_key_of(&[0x0a, 2, b'a', b'b', 0x10]), Some(&b"ab"[..]));
        for damaged in [&b""[..], &[0x0a], &[0x0b, 1, b'a'], &[0x0a, 3, b'a', b'b'], &[0x0a, 0xff, 0xff]] {
            assert_eq!(checked_key_of(damaged), None, "{damaged:?}");
        }
    }

    #[test]
    fn key_is_read_from_the_encoding() {
        for length in [1, 127, 128, 20_000] {
            let key = vec![b'k'; length];
            let kv = KeyValue { key: key.clone().into(), mod_revision: 7, ..KeyValue::default() };
            assert_eq!(key_of(&kv.encode_to_vec()), key);
        }
    }
}
