//! Revisions, and the encoded `KeyValue` that a revision stands for.

use std::sync::Arc;

/// The wire form of an `mvccpb.KeyValue`, encoded once and shared by index, overlay, replies and events.
pub type KvBytes = Arc<[u8]>;

/// The length of a revision key in the backend: 8 bytes main, `_`, 8 bytes sub.
pub const REVISION_KEY_LENGTH: usize = 17;

/// The length of a tombstone's key: a revision key followed by `t`.
pub const TOMBSTONE_KEY_LENGTH: usize = 18;

/// A point in the store's history: `main` counts transactions that wrote, `sub` the writes within one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

impl Revision {
    pub const fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }

    /// The backend key of this revision in etcd's form. The tombstone mark is a further byte, see [`Self::to_tombstone_key`].
    pub fn to_key(self) -> [u8; REVISION_KEY_LENGTH] {
        let mut key = [0; REVISION_KEY_LENGTH];
        key[..8].copy_from_slice(&self.main.to_be_bytes());
        key[8] = b'_';
        key[9..].copy_from_slice(&self.sub.to_be_bytes());
        key
    }

    pub fn to_tombstone_key(self) -> [u8; TOMBSTONE_KEY_LENGTH] {
        let mut key = [0; TOMBSTONE_KEY_LENGTH];
        key[..REVISION_KEY_LENGTH].copy_from_slice(&self.to_key());
        key[REVISION_KEY_LENGTH] = b't';
        key
    }

    /// Reads a backend key: the revision and whether it is a tombstone. `None` if the bytes are not a revision key.
    pub fn from_key(key: &[u8]) -> Option<(Self, bool)> {
        let tombstone = match key.len() {
            REVISION_KEY_LENGTH => false,
            TOMBSTONE_KEY_LENGTH if key[REVISION_KEY_LENGTH] == b't' => true,
            _ => return None,
        };
        if key[8] != b'_' {
            return None;
        }
        let main = i64::from_be_bytes(key[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(key[9..REVISION_KEY_LENGTH].try_into().ok()?);
        Some((Self { main, sub }, tombstone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_etcds_bytes_and_come_back() {
        let revision = Revision::new(5, 2);
        assert_eq!(&revision.to_key(), b"\0\0\0\0\0\0\0\x05_\0\0\0\0\0\0\0\x02");
        assert_eq!(Revision::from_key(&revision.to_key()), Some((revision, false)));
        assert_eq!(Revision::from_key(&revision.to_tombstone_key()), Some((revision, true)));
        assert_eq!(Revision::from_key(b"short"), None);
        assert_eq!(Revision::from_key(&[0; 17]), None);
    }
}
