//! A client for Kvorum and for etcd 3.4 and later.
//!
//! Who knows Go's `clientv3` is at home here: one [`Client`] with six modules — [`kv`], [`watcher`], [`lease`],
//! [`cluster`], [`auth`] and [`maintenance`] — and [`recipes`] on top of them. Who does not needs to know only this: make one
//! client, clone it freely, `.await` what it offers. It connects again by itself, leaves members that are dead or have no
//! leader, repeats what is safe to repeat and nothing else, and everything it starts ends in time.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! // let client = kvorum_client::Client::connect(["localhost:2379"]).await?;
//! let mut watch = client.watch("greeting").await?;
//! client.put("greeting", "hello").await?;
//! assert_eq!(client.get("greeting").await?.kvs[0].value, "hello");
//! println!("{:?}", watch.next().await.unwrap()?.events);
//! # Ok(()) }); }
//! ```
//!
//! # What may be relied on
//!
//! - **Time.** Every call ends within [`Config::request_timeout`], whatever the network does, with what it waited for in
//!   the error. Streams (watches, keep-alives) go on for ever by design, and can be dropped at any moment; making one is a
//!   call. Waiting for a lock or an election is the one thing that has no end of its own.
//! - **Cancelling.** Any future may be dropped at any time. That cancels its own call and disturbs no other.
//! - **Repeating.** Reads are repeated; writes only when they were surely not executed: the table is at [`Connection`]. An
//!   [`Error`] says whether the request may have been executed.
//! - **Memory.** Nothing grows with a slow consumer or a silent server; the bounds are named constants.
//! - **Secrets** are neither logged nor part of an error.
//!
//! # From clientv3 to here
//!
//! | clientv3 | here |
//! |---|---|
//! | `clientv3.New(Config{…})` | [`Client::connect_with`], or [`Client::lazy`] |
//! | `cli.Get(ctx, k, WithPrefix(), WithRev(r))` | `client.get(k).prefix().at_revision(r).await` |
//! | `cli.Txn(ctx).If(…).Then(…).Else(…).Commit()` | `client.txn().when(…).then(…).otherwise(…).await` |
//! | `cli.Watch(ctx, k, WithRev(r))` | `client.watch(k).from_revision(r).await` |
//! | `cli.KeepAlive(ctx, id)` | `client.lease().keep_alive(id)`, or [`lease::Lease::hold`] |
//! | `context.WithTimeout` | [`Client::with_timeout`], or dropping the future |
//! | `rpctypes.ErrCompacted` | [`EtcdError::Compacted`] in [`Error::kind`] |
//! | `concurrency`, `namespace`, `mirror` | [`recipes`] |
//! | (Kubernetes' reflector) | [`recipes::listing`] |
//!
//! # Features
//!
//! | feature | default | what |
//! |---|---|---|
//! | `tls` | off | `https://` endpoints, on rustls; bring any provider with `Tls::rustls` |
//!
//! The minimum supported Rust version is 1.88 (clippy's `incompatible_msrv` watches it); raising it is a minor version. There is
//! no `unsafe`.
//!
//! Every call has a `tracing` span `call` with its path, at level debug; keys, values, passwords and tokens are in none.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

// In reading order.
pub mod auth;
mod client;
pub mod cluster;
pub mod config;
mod connection;
pub mod error;
mod keys;
pub mod kv;
pub mod lease;
pub mod maintenance;
pub mod recipes;
pub mod response;
pub mod transport;
pub mod watcher;

mod backoff;
mod buffer;
mod login;
mod method;
mod streaming;

pub use auth::{Auth, Permission};
pub use client::Client;
pub use cluster::Cluster;
pub use config::{Config, TokenSource};
pub use connection::Connection;
pub use error::{Code, Error, ErrorKind, EtcdError, Result};
pub use keys::{IntoBytes, prefix_end};
pub use kv::{Compare, Delete, Get, Kv, Op, OpResponse, Put, SortBy, Txn, TxnResponse};
pub use lease::{KeepAlive, Lease, LeaseEnd, LeaseGuard};
pub use maintenance::{Maintenance, Snapshot};
pub use response::{Event, EventExt, EventType, Header, KeyValue, KeyValueExt, LeaseId, MemberId, ResponseHeader};
#[cfg(feature = "tls")]
pub use transport::Tls;
pub use transport::Transport;
pub use watcher::{Watch, WatchError, WatchResponse, Watcher};
