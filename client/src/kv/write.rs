//! Writing outside of transactions: [`Put`], [`Delete`] and [`Compact`].

use std::future::IntoFuture;

use kvorum_api::etcdserverpb::{DeleteRangeRequest, PutRequest};

use super::Kv;
use crate::error::Result;
use crate::keys::{self, IntoBytes};
use crate::method::{self, Repeat};
use crate::response::{CompactResponse, DeleteResponse, LeaseId, PutResponse};
use crate::transport::BoxFuture;

/// A write of one key. `.await` sends it when it came from [`Kv::put`].
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
/// # fn main() { doc_test(async |client: kvorum_client::Client| {
/// client.put("a", "1").await?;
/// let previous = client.put("a", "2").with_previous().await?.prev_kv.unwrap();
/// assert_eq!(previous.value, "1");
/// # Ok(()) }); }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a write does nothing until it is awaited"]
pub struct Put<B = ()> {
    pub(super) request: PutRequest,
    at_least_once: bool,
    owner: B,
}

impl Put {
    /// A write that nothing sends yet, for [`super::Txn`] and [`Kv::perform`].
    pub fn new(key: impl IntoBytes, value: impl IntoBytes) -> Self {
        let request = PutRequest { key: key.into_bytes(), value: value.into_bytes(), ..PutRequest::default() };
        Self { request, at_least_once: false, owner: () }
    }
}

impl<B> Put<B> {
    pub(super) fn unbound(self) -> Put {
        Put { request: self.request, at_least_once: self.at_least_once, owner: () }
    }

    pub(super) fn bound(self, kv: &Kv) -> Put<Kv> {
        Put { request: self.request, at_least_once: self.at_least_once, owner: kv.clone() }
    }

    /// Attaches the key to a lease, with which it ends.
    pub fn with_lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.request.lease = lease.into().0;
        self
    }

    /// Asks for what the key held before.
    pub fn with_previous(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// Keeps the value and changes the lease. The key must exist, and the given value be empty.
    pub fn keep_value(mut self) -> Self {
        self.request.ignore_value = true;
        self
    }

    /// Keeps the lease and changes the value. The key must exist.
    pub fn keep_lease(mut self) -> Self {
        self.request.ignore_lease = true;
        self
    }

    /// Sends it again after failures that leave open whether it was executed. It may then be executed twice, and the second
    /// time over somebody else's write in between: only for keys that one writer alone writes, always with what it means.
    pub fn at_least_once(mut self) -> Self {
        self.at_least_once = true;
        self
    }
}

impl IntoFuture for Put<Kv> {
    type Output = Result<PutResponse>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            let kv = &self.owner;
            kv.enter(&mut self.request.key, &mut bytes::Bytes::new());
            let method = repeated(method::PUT, self.at_least_once);
            let mut response: PutResponse = kv.connection.call(method, &self.request).await?;
            response.prev_kv.iter_mut().for_each(|previous| kv.leave(previous));
            Ok(response)
        })
    }
}

/// A deletion of one key or a range of keys. `.await` sends it when it came from [`Kv::delete`].
#[derive(Clone, Debug)]
#[must_use = "a deletion does nothing until it is awaited"]
pub struct Delete<B = ()> {
    pub(super) request: DeleteRangeRequest,
    at_least_once: bool,
    owner: B,
}

impl Delete {
    /// A deletion that nothing sends yet, for [`super::Txn`] and [`Kv::perform`].
    pub fn new(key: impl IntoBytes) -> Self {
        let request = DeleteRangeRequest { key: key.into_bytes(), ..DeleteRangeRequest::default() };
        Self { request, at_least_once: false, owner: () }
    }
}

impl<B> Delete<B> {
    pub(super) fn unbound(self) -> Delete {
        Delete { request: self.request, at_least_once: self.at_least_once, owner: () }
    }

    pub(super) fn bound(self, kv: &Kv) -> Delete<Kv> {
        Delete { request: self.request, at_least_once: self.at_least_once, owner: kv.clone() }
    }

    keys::range_methods!();

    /// Asks for what was deleted.
    pub fn with_previous(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// Sends it again after failures that leave open whether it was executed: see [`Put::at_least_once`].
    pub fn at_least_once(mut self) -> Self {
        self.at_least_once = true;
        self
    }
}

impl IntoFuture for Delete<Kv> {
    type Output = Result<DeleteResponse>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            let kv = &self.owner;
            kv.enter(&mut self.request.key, &mut self.request.range_end);
            let method = repeated(method::DELETE_RANGE, self.at_least_once);
            let mut response: DeleteResponse = kv.connection.call(method, &self.request).await?;
            kv.leave_all(&mut response.prev_kvs);
            Ok(response)
        })
    }
}

fn repeated(method: method::Method, at_least_once: bool) -> method::Method {
    if at_least_once { method.repeated(Repeat::Always) } else { method }
}

/// A compaction. It comes from [`Kv::compact`]; `.await` sends it.
#[derive(Clone)]
#[must_use = "a compaction does nothing until it is awaited"]
pub struct Compact {
    kv: Kv,
    revision: i64,
    physical: bool,
}

impl Compact {
    pub(super) fn new(kv: &Kv, revision: i64) -> Self {
        Self { kv: kv.clone(), revision, physical: false }
    }

    /// Waits until the space is free on the member that answers, not just until the old revisions cannot be read. Give it a
    /// timeout that is long enough ([`crate::Client::with_timeout`]).
    pub fn physical(mut self) -> Self {
        self.physical = true;
        self
    }
}

impl IntoFuture for Compact {
    type Output = Result<CompactResponse>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.kv.send_compact(self.revision, self.physical))
    }
}
