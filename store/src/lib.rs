//! What the cluster remembers, as a pure state machine: the same entries in the same order give the same state, on
//! every member.
//!
//! It knows no clock, no network, no disk and no randomness; it starts no thread and iterates over no `HashMap`. What is
//! durable is reached through the traits of [`backend`]; what should happen outside is returned as values ([`event`]).

pub mod backend;
pub mod event;
pub mod revision;
pub mod watch;

pub use backend::{Backend, BackendError, Bucket, CommitBatch, Operation, ReadTransaction};
pub use event::{Event, EventBatch, EventKind, Previous};
pub use revision::{KvBytes, Revision};
