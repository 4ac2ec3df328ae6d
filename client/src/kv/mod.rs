//! Keys and values: get, put, delete, compare-and-write transactions, compaction. Requests are values that read like
//! sentences; bound to a client they are sent by `.await`, unbound they are the parts of a transaction.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use kvorum_client::{Compare, Get, KeyValueExt, Put};
//!
//! client.put("fruit/apple", "red").await?;
//! client.put("fruit/pear", "green").await?;
//! let fruits = client.get("fruit/").prefix().descending_by_key().limit(10).await?;
//! assert_eq!(fruits.kvs[0].key_text(), "fruit/pear");
//!
//! let outcome = client
//!     .txn()
//!     .when([Compare::value("fruit/apple").equals("red")])
//!     .then((Put::new("fruit/apple", "eaten"), Get::new("fruit/pear")))
//!     .otherwise(Get::new("fruit/apple"))
//!     .await?;
//! assert!(outcome.succeeded);
//! # Ok(()) }); }
//! ```
//!
//! Reads are linearizable unless they say [`Get::serializable`]. A write is sent again only when it was surely not
//! executed (see [`crate::Connection`]); `at_least_once` changes that for one put or delete.

mod get;
mod pages;
mod txn;
mod write;

use bytes::Bytes;
use kvorum_api::etcdserverpb::{CompactionRequest, RequestOp, ResponseOp};

use crate::connection::Connection;
use crate::error::Result;
use crate::keys::IntoBytes;
use crate::method;
use crate::recipes::namespace;
use crate::response::CompactResponse;

pub use get::{Get, SortBy};
pub use pages::{Chunks, Pages};
pub use txn::{Compare, CompareWith, IntoOps, Op, OpResponse, Txn, TxnResponse};
pub use write::{Compact, Delete, Put};

/// Keys and values of a cluster.
#[derive(Clone)]
pub struct Kv {
    pub(crate) connection: Connection,
    namespace: Option<Bytes>,
}

impl Kv {
    /// Over a connection that others may use too.
    #[must_use]
    pub fn new(connection: &Connection) -> Self {
        Self { connection: connection.clone(), namespace: None }
    }

    /// The same keys, each behind `prefix`: see [`crate::recipes::namespace`].
    #[must_use]
    pub fn in_namespace(&self, prefix: impl IntoBytes) -> Self {
        let inner = prefix.into_bytes();
        let outer = self.namespace.as_deref().unwrap_or_default();
        Self { namespace: Some([outer, &inner].concat().into()), ..self.clone() }
    }

    pub(crate) fn with_connection(&self, connection: Connection) -> Self {
        Self { connection, ..self.clone() }
    }

    /// Reads a key, or with [`Get::prefix`], [`Get::to`] and [`Get::from_key`] several.
    pub fn get(&self, key: impl IntoBytes) -> Get<Kv> {
        Get::new(key).bound(self)
    }

    /// A read that was made by [`Get::new`], to be sent here.
    pub fn read(&self, get: Get) -> Get<Kv> {
        get.bound(self)
    }

    /// Writes a key.
    pub fn put(&self, key: impl IntoBytes, value: impl IntoBytes) -> Put<Kv> {
        Put::new(key, value).bound(self)
    }

    /// Deletes a key, or with [`Delete::prefix`], [`Delete::to`] and [`Delete::from_key`] several.
    pub fn delete(&self, key: impl IntoBytes) -> Delete<Kv> {
        Delete::new(key).bound(self)
    }

    /// A transaction: compares, and what to do then or otherwise.
    pub fn txn(&self) -> Txn<Kv> {
        Txn::new().bound(self)
    }

    /// Forgets what was overwritten or deleted before `revision`.
    pub fn compact(&self, revision: i64) -> Compact {
        Compact::new(self, revision)
    }

    /// Any operation: the enum the builders turn into. Clientv3's `Do`.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn perform(&self, operation: impl Into<Op>) -> Result<OpResponse> {
        match operation.into() {
            Op::Get(get) => get.bound(self).await.map(OpResponse::Get),
            Op::Put(put) => put.bound(self).await.map(OpResponse::Put),
            Op::Delete(delete) => delete.bound(self).await.map(OpResponse::Delete),
            Op::Txn(txn) => txn.bound(self).await.map(OpResponse::Txn),
        }
    }

    async fn send_compact(self, revision: i64, physical: bool) -> Result<CompactResponse> {
        self.connection.call(method::COMPACT, &CompactionRequest { revision, physical }).await
    }

    /// Moves a key range below the namespace.
    fn enter(&self, key: &mut Bytes, end: &mut Bytes) {
        if let Some(prefix) = &self.namespace {
            namespace::enter(prefix, key, end);
        }
    }

    fn enter_operation(&self, operation: &mut RequestOp) {
        if let Some(prefix) = &self.namespace {
            namespace::enter_operation(prefix, operation);
        }
    }

    fn leave(&self, kv: &mut kvorum_api::mvccpb::KeyValue) {
        if let Some(prefix) = &self.namespace {
            namespace::leave(prefix, kv);
        }
    }

    fn leave_all(&self, kvs: &mut [kvorum_api::mvccpb::KeyValue]) {
        if self.namespace.is_some() {
            kvs.iter_mut().for_each(|kv| self.leave(kv));
        }
    }

    fn leave_operation(&self, response: &mut ResponseOp) {
        if let Some(prefix) = &self.namespace {
            namespace::leave_operation(prefix, response);
        }
    }
}
