//! What is made of keys, leases and watches, by the same keys as in Go's `concurrency`, `namespace` and `mirror`, so that
//! programs in both languages can share locks and elections.

pub mod election;
pub mod listing;
pub mod mirror;
pub mod mutex;
pub mod namespace;
pub mod session;
pub mod stm;
mod waiting;
