//! The server of Kvorum as a library: the shell that gives one member its network, disk, clock and threads.
//!
//! In reading order: what an operator asked for ([`config`]), who this member is ([`urls`], [`ids`]), what it says about
//! itself ([`log`], [`metrics`]), how it founds or joins a cluster and what may change there ([`cluster`]); how it starts
//! and stops ([`start`], `ports`, `opening`, `take_over`, [`embed`]); the member behind its locks ([`core`]) and its background
//! threads ([`background`], `auto_compaction`, `shrinking`, `space`); its peers ([`peer`], `links`, `snapshots`, `leases`,
//! `changes`, `housekeeping`), and whether they hold the same (`corruption`); connection threads ([`worker`], [`connection`],
//! [`tls`], [`socket`], [`authority`], [`grpc`]) and what connections may take of the process (`limits`, [`descriptors`],
//! `held`), the services they carry ([`services`], [`watch`]), and the plain HTTP pages ([`http1`], `pages`, `access`).
//!
//! Nothing here decides what the cluster remembers: `store` does. Nothing here may panic on input from outside.

mod access;
pub mod auth;
mod authority;
mod auto_compaction;
pub mod background;
mod changes;
pub mod cluster;
pub mod config;
mod connection;
pub mod core;
mod corruption;
mod database;
pub mod descriptors;
pub mod embed;
#[doc(hidden)]
pub mod from_outside;
mod grpc;
mod health;
mod held;
mod housekeeping;
pub mod http1;
mod http1_connection;
pub mod ids;
mod leases;
mod limits;
mod links;
pub mod log;
mod mailbox;
pub mod metrics;
mod opening;
mod pages;
mod payload;
pub mod peer;
mod pings;
#[cfg(test)]
mod planted;
mod ports;
mod scheduling;
mod services;
mod shrinking;
mod snapshots;
mod socket;
mod space;
pub mod start;
mod take_over;
pub mod tls;
pub mod urls;
pub mod watch;
mod worker;
mod worker_thread;

/// The release of etcd whose behaviour this server has on the wire, in its files and on its command line.
pub const ETCD_VERSION: &str = "3.7.1";

/// The version of the cluster and of its storage that this release brings about.
pub const STORAGE_VERSION: &str = "3.7.0";

/// Kvorum's own version.
pub const KVORUM_VERSION: &str = env!("CARGO_PKG_VERSION");
