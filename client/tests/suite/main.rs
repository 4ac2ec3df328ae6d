//! The client against Kvorum inside of the test, a real etcd 3.7.1 and an installed etcd (Debian:
//! 3.4), with a proxy in between that cuts, swallows and never answers. Nothing here sleeps: it waits for what must
//! happen.

#![allow(clippy::unwrap_used)]

mod auth;
mod basics;
mod clusters;
mod deadlines;
mod faults;
mod lease;
mod maintenance;
mod recipes;
mod transports;
mod watch;
mod world;
