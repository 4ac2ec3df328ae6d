//! etcd's wire: the messages and services of etcd 3.7 and the texts of its errors.
//!
//! Generated from `api/proto` by `cargo xtask codegen`. There is no logic here; with the feature `grpc` the generated
//! tonic clients and servers are included.

#![allow(clippy::all)]

mod error;
mod secrets;

pub use error::{Code, EtcdError};

/// The client API and the requests that travel through the log.
pub mod etcdserverpb {
    include!("generated/etcdserverpb.rs");
}

/// Stored keys and events.
pub mod mvccpb {
    include!("generated/mvccpb.rs");
}

/// Users, roles, permissions.
pub mod authpb {
    include!("generated/authpb.rs");
}

/// Membership changes in the log.
pub mod membershippb {
    include!("generated/membershippb.rs");
}

/// Stored leases.
pub mod leasepb {
    include!("generated/leasepb.rs");
}

/// Raft entries and messages.
pub mod raftpb {
    include!("generated/raftpb.rs");
}

/// Records of the write-ahead log.
pub mod walpb {
    include!("generated/walpb.rs");
}

/// The envelope of a `.snap` file.
pub mod snappb {
    include!("generated/snappb.rs");
}

/// The standard gRPC health service.
pub mod healthpb {
    include!("generated/grpc.health.v1.rs");
}

pub use prost;
