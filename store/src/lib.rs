//! What the cluster remembers, as a pure state machine: the same entries in the same order give the same state, on
//! every member.
//!
//! It knows no clock, no network, no disk and no randomness; it starts no thread and iterates over no `HashMap`. What is
//! durable is reached through the traits of [`backend`]; what should happen outside is returned as values ([`event`],
//! [`apply::Effects`]).
//!
//! One [`Writer`] changes state, one log entry after the other ([`Writer::apply`]); any number of [`Reader`]s look at it
//! meanwhile. Applied changes reach the backend later, in batches ([`Writer::take_commit`]); until then they live in an
//! overlay that readers consult first.

pub mod apply;
pub mod auth;
pub mod backend;
pub mod check;
pub mod event;
pub mod keyspace;
pub mod member;
pub mod memory;
pub mod reply;
pub mod revision;
pub mod version;
pub mod watch;

mod alarm;
mod error;
mod kv;
mod lease;
mod nested;
mod open;
mod reader;
mod request_v2;
mod shared;

pub use apply::{Applied, Effects, LeaseChange, Position, Writer};
pub use auth::{AUTH_NAME_BYTES_MAX, Access, AuthState, Caller, Token, TokenChange};
pub use backend::{Backend, BackendError, Bucket, CommitBatch, Operation, ReadTransaction};
pub use check::{check_delete_range, check_put, check_range, check_txn, is_read_only, is_serializable_txn, quota_cost};
pub use error::{ApplyError, ApplyFailure, HistoryError, OpenError, ReadError};
pub use event::{Event, EventBatch, EventKind, Previous};
pub use keyspace::membership_v2::membership_v2_json;
pub use kv::compaction::{CompactionStep, HashJob};
pub use kv::hash::{FinishedHash, HashKv};
pub use kv::history::History;
pub use kv::measure::RestMeasure;
pub use kv::range::{Progress, RangeCursor};
pub use kv::read_txn::{ReadTxnJob, TxnStep};
pub use kv::usage::{PrefixUse, SpaceUse};
pub use lease::LeaseInfo;
pub use member::{Downgrade, Member, MemberChange, Membership, members_from_json, members_to_json};
pub use nested::{decode_request, decode_txn};
pub use open::{Received, Restored, RestoredLease, StoreConfig, membership_of, open};
pub use reader::{Reader, Statistics};
pub use reply::{Header, OpReply, RangeReply, Reply, TxnReply};
pub use request_v2::check_entry_data;
pub use revision::{KvBytes, Revision};
pub use version::Version;
