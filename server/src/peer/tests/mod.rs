//! Tests of the transport: whole ones that talk to each other, to raw sockets and to a real etcd.

mod etcd;
mod exchange;
mod framing;
mod kept;
mod pages;
mod redirects;
mod refusals;
mod snapshots;
mod world;
