//! The multi-version key space: which key had which value at which revision.
//!
//! The index (key → revisions) is in memory; values are in memory while the budget allows, else in the overlay of
//! uncommitted changes, else in the backend.

pub(crate) mod compaction;
pub(crate) mod go_sort;
pub mod hash;
pub mod history;
pub(crate) mod index;
pub(crate) mod key_entry;
mod key_table;
pub mod measure;
pub(crate) mod overlay;
pub mod range;
pub mod read_txn;
pub(crate) mod records;
pub(crate) mod txn;
pub mod usage;
pub(crate) mod write;
