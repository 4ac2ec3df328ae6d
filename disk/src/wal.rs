//! The write-ahead log in etcd's format: what raft must not forget before it may speak.
//!
//! One [`Wal`] owns the folder's segments for writing. [`Wal::append`] encodes a batch into one buffer and writes it in
//! one call; [`Wal::sync`] makes it durable. It decides nothing about batching and starts no thread. A failed write or
//! sync is final: the log refuses every later call with the first error, because after it nobody knows what the disk
//! holds. Opening verifies every checksum from the chosen snapshot on, repairs a torn tail as etcd does, and refuses
//! anything else, naming file and offset.

mod error;
mod open;
mod purge;
mod read;
mod record;
mod scan;
#[cfg(test)]
mod tests;
mod write;

pub use error::{CorruptReason, WalOpenError};
pub use open::{Recovered, Repair, valid_snapshot_entries};
pub use purge::purge;
pub use read::{first_index, read_entries};
pub use record::{HardState, WalEntry, WalMetadata, WalSnapshot};
pub use write::{Appended, Wal, WalOptions, WalStatistics};

/// etcd's segment size (`SegmentSizeBytes`). A segment is left once it has grown to this size, so it may be larger.
pub const SEGMENT_SIZE_BYTES: u64 = 64 * 1000 * 1000;

/// The unit in which a disk writes or does not write. etcd's tear detection is built on it (`minSectorSize`).
pub const SECTOR_BYTES: usize = 512;

/// The first space that is zeroed ahead of the tail of a segment; it doubles up to [`ZERO_WINDOW_BYTES_MAX`], so that
/// small members stay small and busy ones sync into blocks that the file system has already recorded.
pub const ZERO_WINDOW_BYTES_MIN: u64 = 64 * 1024;

/// The largest space that is zeroed at once.
pub const ZERO_WINDOW_BYTES_MAX: u64 = 1024 * 1024;

/// See [`WalOptions::large_batch_bytes_min`]: a few dozen requests of usual size.
pub const LARGE_BATCH_BYTES_MIN: usize = 16 * 1024;

/// See [`WalOptions::small_batches_min`]. Of a busy log's batches always some are small,
/// and the window that one of them had zeroed would be for large ones, which do not need it.
pub const SMALL_BATCHES_MIN: u32 = 8;

/// The encoding buffer is given back after a batch that made it larger than this.
pub const KEPT_BUFFER_BYTES_MAX: usize = 1024 * 1024;

/// The name of a segment: its number, and the index of the first entry that may lie in it.
pub fn segment_name(sequence: u64, first_index: u64) -> String {
    format!("{sequence:016x}-{first_index:016x}.wal")
}

/// Reads a segment's name; `None` for other files.
pub fn parse_segment_name(name: &str) -> Option<(u64, u64)> {
    let (sequence, first_index) = name.strip_suffix(".wal")?.split_once('-')?;
    if sequence.len() < 16 || first_index.len() < 16 {
        return None;
    }
    Some((u64::from_str_radix(sequence, 16).ok()?, u64::from_str_radix(first_index, 16).ok()?))
}
