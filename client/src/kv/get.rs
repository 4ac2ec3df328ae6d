//! Reading: [`Get`] and everything a range can be asked.

use std::future::IntoFuture;

use bytes::Bytes;
use kvorum_api::etcdserverpb::RangeRequest;
use kvorum_api::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::{Chunks, Kv, Pages};
use crate::error::Result;
use crate::keys::{self, IntoBytes};
use crate::method;
use crate::response::GetResponse;
use crate::transport::BoxFuture;

/// What a range is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// The key itself.
    Key,
    /// How often the key was written since it was created.
    Version,
    /// The revision of its creation.
    CreateRevision,
    /// The revision of its last change.
    ModRevision,
    /// The value.
    Value,
}

impl SortBy {
    fn target(self) -> SortTarget {
        match self {
            Self::Key => SortTarget::Key,
            Self::Version => SortTarget::Version,
            Self::CreateRevision => SortTarget::Create,
            Self::ModRevision => SortTarget::Mod,
            Self::Value => SortTarget::Value,
        }
    }
}

/// A read of one key or a range of keys. `.await` sends it when it came from [`Kv::get`].
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
/// # fn main() { doc_test(async |client: kvorum_client::Client| {
/// let before = client.put("a", "1").await?.header.unwrap().revision;
/// client.put("a", "2").await?;
/// let old = client.get("a").at_revision(before).await?;
/// assert_eq!(old.kvs[0].value, "1");
/// assert_eq!(client.get("").prefix().count_only().await?.count, 1);
/// # Ok(()) }); }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a read does nothing until it is awaited"]
pub struct Get<B = ()> {
    pub(super) request: RangeRequest,
    pub(super) owner: B,
}

impl Get {
    /// A read that nothing sends yet, for [`super::Txn`] and [`Kv::perform`].
    pub fn new(key: impl IntoBytes) -> Self {
        Self { request: RangeRequest { key: key.into_bytes(), ..RangeRequest::default() }, owner: () }
    }
}

impl<B> Get<B> {
    pub(super) fn bound(self, kv: &Kv) -> Get<Kv> {
        Get { request: self.request, owner: kv.clone() }
    }

    keys::range_methods!();

    /// At most so many keys; `more` in the answer says whether there were others. 0 is no limit.
    pub fn limit(mut self, keys: i64) -> Self {
        self.request.limit = keys;
        self
    }

    /// As the store was at a revision. [`crate::EtcdError::Compacted`] when that is forgotten,
    /// [`crate::EtcdError::FutureRev`] when it is not reached.
    pub fn at_revision(mut self, revision: i64) -> Self {
        self.request.revision = revision;
        self
    }

    /// From the member that is asked, as far as it has come: quicker, and possibly old.
    pub fn serializable(mut self) -> Self {
        self.request.serializable = true;
        self
    }

    /// Without values.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Only how many there are.
    pub fn count_only(mut self) -> Self {
        self.request.count_only = true;
        self
    }

    /// Sorted upwards. By key this is the order anyway.
    pub fn ascending_by(mut self, by: SortBy) -> Self {
        // clientv3: ascending by key is what the store gives without sorting.
        let order = if by == SortBy::Key { SortOrder::None } else { SortOrder::Ascend };
        self.request.sort_order = order.into();
        self.request.sort_target = by.target().into();
        self
    }

    /// Sorted downwards.
    pub fn descending_by(mut self, by: SortBy) -> Self {
        self.request.sort_order = SortOrder::Descend.into();
        self.request.sort_target = by.target().into();
        self
    }

    /// The last key first.
    pub fn descending_by_key(self) -> Self {
        self.descending_by(SortBy::Key)
    }

    /// Leaves out keys last changed before this revision.
    pub fn min_mod_revision(mut self, revision: i64) -> Self {
        self.request.min_mod_revision = revision;
        self
    }

    /// Leaves out keys last changed after this revision.
    pub fn max_mod_revision(mut self, revision: i64) -> Self {
        self.request.max_mod_revision = revision;
        self
    }

    /// Leaves out keys created before this revision.
    pub fn min_create_revision(mut self, revision: i64) -> Self {
        self.request.min_create_revision = revision;
        self
    }

    /// Leaves out keys created after this revision.
    pub fn max_create_revision(mut self, revision: i64) -> Self {
        self.request.max_create_revision = revision;
        self
    }

    /// Of the keys that begin with the key, the one with the greatest (clientv3's `WithLastKey`, `WithLastRev` and the like).
    pub fn last_by(self, by: SortBy) -> Self {
        self.prefix().descending_by(by).limit(1)
    }

    /// Of the keys that begin with the key, the one with the smallest (clientv3's `WithFirstKey` and the like).
    pub fn first_by(self, by: SortBy) -> Self {
        self.prefix().ascending_by(by).limit(1)
    }
}

impl Get<Kv> {
    /// Reads a range page by page, all of one revision.
    pub fn pages(self, keys_per_page: i64) -> Pages {
        Pages::new(self.owner, self.request, keys_per_page)
    }

    /// Reads a range in pieces as the server makes them (etcd 3.7's `RangeStream`), or in pages from servers without it.
    pub fn stream(self) -> Chunks {
        Chunks::new(self.owner, self.request)
    }
}

impl Kv {
    pub(super) async fn send_get(&self, mut request: RangeRequest) -> Result<GetResponse> {
        self.enter(&mut request.key, &mut request.range_end);
        self.send_entered_get(&request).await
    }

    /// Of a range that is below the namespace already.
    pub(super) async fn send_entered_get(&self, request: &RangeRequest) -> Result<GetResponse> {
        let method = if request.serializable { method::RANGE.without_leader() } else { method::RANGE };
        let mut response: GetResponse = self.connection.call(method, request).await?;
        self.leave_all(&mut response.kvs);
        Ok(response)
    }

    pub(super) fn entered(&self, mut request: RangeRequest) -> RangeRequest {
        self.enter(&mut request.key, &mut request.range_end);
        request
    }

    /// A key as the server knows it.
    pub(super) fn entered_key(&self, key: &[u8]) -> Bytes {
        let mut key = Bytes::copy_from_slice(key);
        self.enter(&mut key, &mut Bytes::new());
        key
    }
}

impl IntoFuture for Get<Kv> {
    type Output = Result<GetResponse>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.owner.send_get(self.request).await })
    }
}
