//! What is made of keys, leases and watches, by the same keys as in Go's `concurrency`, `namespace` and `mirror`, so that
//! programs in both languages can share locks and elections.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use kvorum_client::recipes::{mutex::Mutex, session::Session};
//!
//! let session = Session::new(&client, 10).await?;
//! let lock = Mutex::new(&session, "jobs/nightly").lock().await?;
//! // A write that counts only while the lock is ours.
//! client.txn().when([lock.is_owner()]).then(kvorum_client::Put::new("jobs/last", "now")).await?;
//! lock.unlock().await?;
//! # Ok(()) }); }
//! ```

pub mod election;
pub mod listing;
pub mod mirror;
pub mod mutex;
pub mod namespace;
pub mod session;
pub mod stm;
mod waiting;
