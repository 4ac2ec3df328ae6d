//! Bucket `meta`: what the other buckets are consistent with.

use crate::revision::Revision;

/// 8 bytes big-endian: the index of the last entry whose effects are stored.
pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
/// 8 bytes big-endian: that entry's term.
pub const TERM: &[u8] = b"term";
/// JSON of `raftpb.ConfState`.
pub const CONF_STATE: &[u8] = b"confState";
/// A revision key: the compaction that was last asked for.
pub const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
/// A revision key: the compaction that was last completed.
pub const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
/// `3.7.0`: which etcd's schema this is; written once the cluster version is known.
pub const STORAGE_VERSION: &[u8] = b"storageVersion";

pub fn number(value: u64) -> Box<[u8]> {
    Box::new(value.to_be_bytes())
}

pub fn parse_number(value: &[u8]) -> Result<u64, String> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| format!("expected 8 bytes, found {}", value.len()))
}

pub fn compaction(main: i64) -> Box<[u8]> {
    Box::new(Revision::new(main, 0).to_key())
}

pub fn parse_compaction(value: &[u8]) -> Result<i64, String> {
    Revision::from_key(value).map(|(revision, _)| revision.main).ok_or_else(|| "not a revision".to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn round_trip() {
        assert_eq!(&*super::number(258), &[0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(super::parse_number(&super::number(258)), Ok(258));
        assert!(super::parse_number(b"short").is_err());
        assert_eq!(&*super::compaction(5), b"\0\0\0\0\0\0\0\x05_\0\0\0\0\0\0\0\0");
        assert_eq!(super::parse_compaction(&super::compaction(5)), Ok(5));
        assert!(super::parse_compaction(b"short").is_err());
    }
}
