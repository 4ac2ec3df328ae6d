//! One member without I/O: consensus, the log window, request ids, lease deadlines, and the store they drive.
//!
//! It knows no clock (time comes in as milliseconds), no disk (what must be persisted goes out as values), no network, no
//! thread, and no randomness but the seed in its configuration. The `raft` crate's types stay inside this crate.
//!
//! In reading order: [`consensus`] drives raft over a [`log_window`]; [`lease_timers`] says when leases end;
//! [`request_ids`] numbers requests as etcd does; `reads` waits for confirmed read indexes; [`member`] puts them together with the store;
//! [`restart`] says what a member goes on from.

pub mod bootstrap;
pub mod consensus;
pub mod lease_timers;
pub mod limits;
mod log_window;
pub mod member;
mod passed_on;
mod reads;
pub mod request_ids;
pub mod restart;

pub use consensus::{
    Consensus, ConsensusConfig, HardState, LogEntry, PeerProgress, Persist, ReadIndex, ReadState, Role,
    SnapshotPosition, Start,
};
pub use lease_timers::LeaseTimers;
pub use member::{Member, MemberConfig};
pub use request_ids::RequestIds;
pub use restart::{RecoveredLog, Restart, restart};
