//! The client: one connection and the six modules over it.

use std::time::Duration;

use crate::auth::Auth;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::connection::Connection;
use crate::error::Result;
use crate::keys::IntoBytes;
use crate::kv::{Compact, Delete, Get, Kv, Put, Txn};
use crate::lease::Lease;
use crate::maintenance::Maintenance;
use crate::watcher::{WatchRequest, Watcher};

/// A client of a cluster: cheap to clone, to be shared by everything in a program. All its calls take `&self`.
///
/// Dropping the last clone, and what was made of it, closes the connections.
#[derive(Clone)]
pub struct Client {
    connection: Connection,
    cluster: Cluster,
    kv: Kv,
    lease: Lease,
    watcher: Watcher,
    auth: Auth,
    maintenance: Maintenance,
}

impl Client {
    /// Connects to a cluster with the default configuration, and waits until one endpoint answers.
    ///
    /// # Errors
    /// When an endpoint is none, or none answers within 5 s; the text says why for each.
    pub async fn connect<I: IntoIterator>(endpoints: I) -> Result<Self>
    where
        I::Item: Into<String>,
    {
        Self::connect_with(Config::new(endpoints)).await
    }

    /// Connects, and waits until one endpoint answers. It must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot work, or no endpoint answers within the dial timeout; the text says why for each.
    pub async fn connect_with(config: Config) -> Result<Self> {
        Ok(Self::over(&Connection::open(config).await?))
    }

    /// Begins to connect and returns at once: calls wait for a connection as long as they may take. It must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn lazy(config: Config) -> Result<Self> {
        Ok(Self::over(&Connection::lazy(config)?))
    }

    /// The six modules over a connection.
    #[must_use]
    pub fn over(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            cluster: Cluster::new(connection),
            kv: Kv::new(connection),
            lease: Lease::new(connection),
            watcher: Watcher::new(connection),
            auth: Auth::new(connection),
            maintenance: Maintenance::new(connection),
        }
    }

    /// The same client, whose calls may take this long each. Watches and leases go on sharing their streams.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let connection = self.connection.with_timeout(timeout);
        Self {
            cluster: Cluster::new(&connection),
            kv: self.kv.with_connection(connection.clone()),
            lease: self.lease.with_connection(connection.clone()),
            watcher: self.watcher.with_connection(connection.clone()),
            auth: Auth::new(&connection),
            maintenance: Maintenance::new(&connection),
            connection,
        }
    }

    /// The same client, with keys below a prefix: see [`crate::recipes::namespace`].
    #[must_use]
    pub fn in_namespace(&self, prefix: impl IntoBytes) -> Self {
        let prefix = prefix.into_bytes();
        Self { kv: self.kv.in_namespace(&prefix), watcher: self.watcher.in_namespace(&prefix), ..self.clone() }
    }

    /// The connection below.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The endpoints in use.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.connection.endpoints()
    }

    /// The cluster's members.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Keys and values.
    #[must_use]
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// Leases.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Watches.
    #[must_use]
    pub fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// Users, roles and permissions.
    #[must_use]
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Status, alarms, snapshots and the like.
    #[must_use]
    pub fn maintenance(&self) -> &Maintenance {
        &self.maintenance
    }

    /// [`Kv::get`].
    pub fn get(&self, key: impl IntoBytes) -> Get<Kv> {
        self.kv.get(key)
    }

    /// [`Kv::put`].
    pub fn put(&self, key: impl IntoBytes, value: impl IntoBytes) -> Put<Kv> {
        self.kv.put(key, value)
    }

    /// [`Kv::delete`].
    pub fn delete(&self, key: impl IntoBytes) -> Delete<Kv> {
        self.kv.delete(key)
    }

    /// [`Kv::txn`].
    pub fn txn(&self) -> Txn<Kv> {
        self.kv.txn()
    }

    /// [`Kv::compact`].
    pub fn compact(&self, revision: i64) -> Compact {
        self.kv.compact(revision)
    }

    /// [`Watcher::watch`].
    pub fn watch(&self, key: impl IntoBytes) -> WatchRequest {
        self.watcher.watch(key)
    }
}
