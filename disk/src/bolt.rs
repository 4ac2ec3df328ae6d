//! Files in bbolt's format: etcd's `db`, the snapshots that members send each other and those that operators save.
//!
//! [`BoltFile`] reads, [`BoltWriter`] writes a fresh file in one pass, [`snapshot`] knows the checksum behind a snapshot
//! and what `snapshot status` says of it. All work with bounded memory and plain reads and writes: a file is never mapped
//! and never held. Nothing that a file says is trusted: whatever is not as it must be is an error with file and page.
//! A file is never changed in place. The bytes are drawn in `docs/formats.md`.

mod error;
mod format;
mod page_set;
mod reader;
pub mod snapshot;
mod writer;

pub use error::BoltError;
pub use reader::{BoltBucket, BoltCursor, BoltEntry, BoltFile, Walk};
pub use writer::BoltWriter;

/// Longest key that bbolt takes.
pub const KEY_BYTES_MAX: usize = 32_768;

/// Longest value that is read. No request that a server takes is longer, and memory for it is asked for at once.
pub const VALUE_BYTES_MAX: usize = 512 << 20;

/// Levels of a tree of pages; with two children for each page this is more than any file can hold.
pub const TREE_DEPTH_MAX: usize = 48;

/// Buckets within buckets. etcd has none.
pub const BUCKET_DEPTH_MAX: usize = 16;

#[cfg(test)]
mod tests;
