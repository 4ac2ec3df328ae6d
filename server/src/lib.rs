//! The server of Kvorum as a library: what surrounds the core. In reading order: what an operator asked for
//! (`config`), who this member is (`urls`, `ids`), what it says about itself (`log`, `metrics`), and the plain HTTP
//! pages of the client port (`http1`).
//!
//! Nothing here decides what the cluster remembers: that is the core's. Nothing here may panic on input from outside.

pub mod config;
pub mod http1;
pub mod ids;
pub mod log;
pub mod metrics;
pub mod urls;

/// The release of etcd whose behaviour this server has on the wire, in its files and on its command line.
pub const ETCD_VERSION: &str = "3.7.1";

/// Kvorum's own version.
pub const KVORUM_VERSION: &str = env!("CARGO_PKG_VERSION");
