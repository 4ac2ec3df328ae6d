//! `kvorumctl` as a process against a member in this one. What it prints is compared with what etcdctl prints elsewhere
//! (`interop`); here is that it works, waits, is interrupted and ends as it should.

mod concurrency;
mod keys;
mod lease;
mod maintenance;
mod mirror;
mod terminal;
mod tls;
mod tool;
mod txn;
mod watch;
mod world;
