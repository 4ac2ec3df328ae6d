//! Transactions: compares, operations, and the answer to each.

use std::future::IntoFuture;

use kvorum_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvorum_api::etcdserverpb::{self as pb, RequestOp, ResponseOp, TxnRequest, request_op, response_op};

use super::{Delete, Get, Kv, Put};
use crate::error::{Error, Result};
use crate::keys::{self, IntoBytes};
use crate::method;
use crate::response::{DeleteResponse, GetResponse, Header, LeaseId, PutResponse, ResponseHeader};
use crate::transport::BoxFuture;

/// A condition of a transaction on one key, or on every key of a range. It begins with what is compared.
///
/// ```
/// use kvorum_client::Compare;
///
/// let absent = Compare::version("key").equals(0);
/// let unchanged = Compare::mod_revision("key").equals(17);
/// let no_old_ones = Compare::create_revision("dir/").greater_than(100).prefix();
/// # let _ = (absent, unchanged, no_old_ones);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(pb::Compare);

/// A key and what of it is compared; it becomes a [`Compare`] by saying how.
#[derive(Clone, Debug)]
#[must_use]
pub struct CompareWith<T> {
    key: bytes::Bytes,
    target: CompareTarget,
    union: fn(T) -> TargetUnion,
}

impl Compare {
    /// How often the key was written since its creation; 0 when it does not exist.
    pub fn version(key: impl IntoBytes) -> CompareWith<i64> {
        CompareWith { key: key.into_bytes(), target: CompareTarget::Version, union: TargetUnion::Version }
    }

    /// The revision of its creation; 0 when it does not exist.
    pub fn create_revision(key: impl IntoBytes) -> CompareWith<i64> {
        CompareWith { key: key.into_bytes(), target: CompareTarget::Create, union: TargetUnion::CreateRevision }
    }

    /// The revision of its last change; 0 when it does not exist.
    pub fn mod_revision(key: impl IntoBytes) -> CompareWith<i64> {
        CompareWith { key: key.into_bytes(), target: CompareTarget::Mod, union: TargetUnion::ModRevision }
    }

    /// The lease it is attached to; 0 for none.
    pub fn lease(key: impl IntoBytes) -> CompareWith<i64> {
        CompareWith { key: key.into_bytes(), target: CompareTarget::Lease, union: TargetUnion::Lease }
    }

    /// Its value. A key that does not exist never holds, whatever it is compared with.
    pub fn value<V: IntoBytes>(key: impl IntoBytes) -> CompareWith<V> {
        CompareWith {
            key: key.into_bytes(),
            target: CompareTarget::Value,
            union: |value: V| TargetUnion::Value(value.into_bytes()),
        }
    }

    /// Holds when the key exists.
    pub fn exists(key: impl IntoBytes) -> Self {
        Self::version(key).greater_than(0)
    }

    /// Holds when the key does not exist.
    pub fn is_missing(key: impl IntoBytes) -> Self {
        Self::version(key).equals(0)
    }

    /// Holds when it holds for every key that begins with the key; where there is none, as for a missing key.
    #[must_use]
    pub fn prefix(mut self) -> Self {
        keys::make_prefix(&mut self.0.key, &mut self.0.range_end);
        self
    }

    /// Holds when it holds for every key from the key up to and without `end`; where there is none, as for a missing key.
    #[must_use]
    pub fn to(mut self, end: impl IntoBytes) -> Self {
        self.0.range_end = end.into_bytes();
        self
    }
}

impl<T> CompareWith<T> {
    fn with(self, result: CompareResult, value: T) -> Compare {
        Compare(pb::Compare {
            result: result.into(),
            target: self.target.into(),
            key: self.key,
            range_end: bytes::Bytes::new(),
            target_union: Some((self.union)(value)),
        })
    }

    /// Holds when it is the same.
    pub fn equals(self, value: T) -> Compare {
        self.with(CompareResult::Equal, value)
    }

    /// Holds when it is another.
    pub fn differs_from(self, value: T) -> Compare {
        self.with(CompareResult::NotEqual, value)
    }

    /// Holds when the key's is greater.
    pub fn greater_than(self, value: T) -> Compare {
        self.with(CompareResult::Greater, value)
    }

    /// Holds when the key's is less.
    pub fn less_than(self, value: T) -> Compare {
        self.with(CompareResult::Less, value)
    }
}

/// An operation of a transaction.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Op {
    Get(Get),
    Put(Put),
    Delete(Delete),
    Txn(Txn),
}

impl<B> From<Get<B>> for Op {
    fn from(get: Get<B>) -> Self {
        Self::Get(Get { request: get.request, owner: () })
    }
}

impl<B> From<Put<B>> for Op {
    fn from(put: Put<B>) -> Self {
        Self::Put(put.unbound())
    }
}

impl<B> From<Delete<B>> for Op {
    fn from(delete: Delete<B>) -> Self {
        Self::Delete(delete.unbound())
    }
}

impl<B> From<Txn<B>> for Op {
    fn from(txn: Txn<B>) -> Self {
        Self::Txn(Txn { request: txn.request, owner: () })
    }
}

impl From<Op> for RequestOp {
    fn from(operation: Op) -> Self {
        let request = match operation {
            Op::Get(get) => request_op::Request::RequestRange(get.request),
            Op::Put(put) => request_op::Request::RequestPut(put.request),
            Op::Delete(delete) => request_op::Request::RequestDeleteRange(delete.request),
            Op::Txn(txn) => request_op::Request::RequestTxn(txn.request),
        };
        Self { request: Some(request) }
    }
}

/// What [`Txn::then`] and [`Txn::otherwise`] take: one operation, a tuple of up to eight, an array or a vector.
pub trait IntoOps {
    /// The operations in order.
    fn into_ops(self) -> Vec<Op>;
}

macro_rules! single_into_ops {
    ($($type:ident),*) => {
        $(impl<B> IntoOps for $type<B> {
            fn into_ops(self) -> Vec<Op> {
                vec![self.into()]
            }
        })*
    };
}

single_into_ops!(Get, Put, Delete, Txn);

impl IntoOps for Op {
    fn into_ops(self) -> Vec<Op> {
        vec![self]
    }
}

impl<T: Into<Op>> IntoOps for Vec<T> {
    fn into_ops(self) -> Vec<Op> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: Into<Op>, const N: usize> IntoOps for [T; N] {
    fn into_ops(self) -> Vec<Op> {
        self.into_iter().map(Into::into).collect()
    }
}

macro_rules! tuple_into_ops {
    ($(($($name:ident)*))*) => {
        $(impl<$($name: Into<Op>),*> IntoOps for ($($name,)*) {
            #[allow(non_snake_case)]
            fn into_ops(self) -> Vec<Op> {
                let ($($name,)*) = self;
                vec![$($name.into()),*]
            }
        })*
    };
}

tuple_into_ops!((A)(A B)(A B C)(A B C D)(A B C D E)(A B C D E F)(A B C D E F G)(A B C D E F G H));

/// A transaction: when all compares hold, one list of operations is executed, otherwise the other; at one revision, or
/// not at all. `.await` sends it when it came from [`Kv::txn`]. It can be part of another one.
///
/// It is never sent again unless it was surely not executed: what a second execution compares is not what the first did.
#[derive(Clone, Debug)]
#[must_use = "a transaction does nothing until it is awaited"]
pub struct Txn<B = ()> {
    request: TxnRequest,
    owner: B,
}

impl Txn {
    /// A transaction that nothing sends yet, to be part of another.
    pub fn new() -> Self {
        Self { request: TxnRequest::default(), owner: () }
    }
}

impl Default for Txn {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> Txn<B> {
    pub(super) fn bound(self, kv: &Kv) -> Txn<Kv> {
        Txn { request: self.request, owner: kv.clone() }
    }

    /// Adds compares. All must hold; none at all holds.
    pub fn when(mut self, compares: impl IntoIterator<Item = Compare>) -> Self {
        self.request.compare.extend(compares.into_iter().map(|compare| compare.0));
        self
    }

    /// Adds operations for when all compares hold.
    pub fn then(mut self, operations: impl IntoOps) -> Self {
        self.request.success.extend(operations.into_ops().into_iter().map(RequestOp::from));
        self
    }

    /// Adds operations for when one compare does not hold.
    pub fn otherwise(mut self, operations: impl IntoOps) -> Self {
        self.request.failure.extend(operations.into_ops().into_iter().map(RequestOp::from));
        self
    }
}

impl IntoFuture for Txn<Kv> {
    type Output = Result<TxnResponse>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let kv = self.owner;
            let mut operation = RequestOp { request: Some(request_op::Request::RequestTxn(self.request)) };
            kv.enter_operation(&mut operation);
            let Some(request_op::Request::RequestTxn(request)) = operation.request else {
                return Err(Error::configuration("a transaction stays one"));
            };
            // Reads alone may be repeated, as in clientv3 (`txn.go`, `isWriteOp`).
            let repeatable = request.success.iter().chain(&request.failure).all(is_read);
            let method = if repeatable { method::TXN.repeated(method::Repeat::Always) } else { method::TXN };
            let mut response: pb::TxnResponse = kv.connection.call(method, &request).await?;
            response.responses.iter_mut().for_each(|response| kv.leave_operation(response));
            TxnResponse::from_message(response)
        })
    }
}

fn is_read(operation: &RequestOp) -> bool {
    match &operation.request {
        Some(request_op::Request::RequestRange(_)) => true,
        Some(request_op::Request::RequestTxn(txn)) => txn.success.iter().chain(&txn.failure).all(is_read),
        _ => false,
    }
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TxnResponse {
    /// Cluster, member, revision and term.
    pub header: ResponseHeader,
    /// Whether all compares held.
    pub succeeded: bool,
    /// The answers to the operations that were executed, in order.
    pub responses: Vec<OpResponse>,
}

impl Header for TxnResponse {
    fn header(&self) -> ResponseHeader {
        self.header
    }
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum OpResponse {
    Get(GetResponse),
    Put(PutResponse),
    Delete(DeleteResponse),
    Txn(TxnResponse),
}

impl OpResponse {
    /// The answer to a get.
    #[must_use]
    pub fn into_get(self) -> Option<GetResponse> {
        if let Self::Get(response) = self { Some(response) } else { None }
    }

    /// The answer to a put.
    #[must_use]
    pub fn into_put(self) -> Option<PutResponse> {
        if let Self::Put(response) = self { Some(response) } else { None }
    }

    /// The answer to a deletion.
    #[must_use]
    pub fn into_delete(self) -> Option<DeleteResponse> {
        if let Self::Delete(response) = self { Some(response) } else { None }
    }

    /// The answer to a nested transaction.
    #[must_use]
    pub fn into_txn(self) -> Option<TxnResponse> {
        if let Self::Txn(response) = self { Some(response) } else { None }
    }
}

impl TxnResponse {
    fn from_message(message: pb::TxnResponse) -> Result<Self> {
        let responses = message.responses.into_iter().map(|ResponseOp { response }| {
            Ok(match response {
                Some(response_op::Response::ResponseRange(response)) => OpResponse::Get(response),
                Some(response_op::Response::ResponsePut(response)) => OpResponse::Put(response),
                Some(response_op::Response::ResponseDeleteRange(response)) => OpResponse::Delete(response),
                Some(response_op::Response::ResponseTxn(response)) => OpResponse::Txn(Self::from_message(response)?),
                None => return Err(Error::protocol("a transaction's answer lacks a part")),
            })
        });
        Ok(Self {
            header: message.header.unwrap_or_default(),
            succeeded: message.succeeded,
            responses: responses.collect::<Result<_>>()?,
        })
    }
}

impl CompareWith<i64> {
    /// Holds when it is this lease.
    pub fn is_lease(self, lease: impl Into<LeaseId>) -> Compare {
        self.equals(lease.into().0)
    }
}
