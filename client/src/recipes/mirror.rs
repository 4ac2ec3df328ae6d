//! Following a range: first everything there is, of one revision, then every change behind it (Go's `mirror`). What
//! `make-mirror` is made of.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use kvorum_client::EventExt;
//! use kvorum_client::recipes::mirror::Mirror;
//!
//! client.put("app/a", "1").await?;
//! let mut mirror = Mirror::begin(&client, "app/").await?;
//! client.put("app/b", "2").await?;
//!
//! let mut base = mirror.base();
//! while let Some(page) = base.next().await {
//!     assert_eq!(page?.kvs[0].key, "app/a");
//! }
//! let mut updates = mirror.updates().await?;
//! assert_eq!(updates.next().await.unwrap()?.events[0].key(), b"app/b");
//! # Ok(()) }); }
//! ```

use bytes::Bytes;

use crate::client::Client;
use crate::error::Result;
use crate::keys::IntoBytes;
use crate::kv::Pages;
use crate::response::Header;
use crate::watcher::{Watch, WatchError};

/// Keys in a page of the base (Go's `mirror`).
const PAGE_KEYS: i64 = 1_000;

/// All keys that begin with a prefix, from a revision on.
#[derive(Clone)]
pub struct Mirror {
    client: Client,
    prefix: Bytes,
    revision: i64,
}

impl Mirror {
    /// Begins with what there is now.
    ///
    /// # Errors
    /// What reading may fail with.
    pub async fn begin(client: &Client, prefix: impl IntoBytes) -> Result<Self> {
        let prefix = prefix.into_bytes();
        let revision = client.get(&prefix).prefix().count_only().await?.revision();
        Ok(Self { client: client.clone(), prefix, revision })
    }

    /// Begins with what there was at a revision: to go on where another mirror ended.
    #[must_use]
    pub fn at_revision(client: &Client, prefix: impl IntoBytes, revision: i64) -> Self {
        Self { client: client.clone(), prefix: prefix.into_bytes(), revision }
    }

    /// The revision that the base is of.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Everything there was at the revision.
    pub fn base(&self) -> Pages {
        self.client.get(&self.prefix).prefix().at_revision(self.revision).pages(PAGE_KEYS)
    }

    /// Every change behind the revision.
    ///
    /// # Errors
    /// What watching may fail with.
    pub async fn updates(&mut self) -> Result<Watch, WatchError> {
        self.client.watch(&self.prefix).prefix().from_revision(self.revision + 1).await
    }
}
