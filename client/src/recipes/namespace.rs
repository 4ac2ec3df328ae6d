//! Keys below a prefix, seen as if there were no others: `client.in_namespace("app/")` reads and writes "app/x" as "x",
//! in gets, puts, transactions and watches, and in every recipe made of it (clientv3's `namespace`). Leases, members and
//! users have no namespaces.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! let app = client.in_namespace("app/");
//! app.put("x", "1").await?;
//! assert_eq!(client.get("app/x").await?.kvs[0].value, "1");
//! assert_eq!(app.get("").prefix().await?.kvs[0].key, "x");
//! # Ok(()) }); }
//! ```

use bytes::Bytes;
use kvorum_api::etcdserverpb::{RequestOp, ResponseOp, request_op, response_op};
use kvorum_api::mvccpb::KeyValue;

use crate::keys::prefix_end;

/// The end that means "to the last key".
const TO_LAST: &[u8] = &[0];

/// Moves a key, or a range, below `prefix`. An end of "to the last key" becomes the end of the prefix.
pub(crate) fn enter(prefix: &[u8], key: &mut Bytes, end: &mut Bytes) {
    // The smallest key is written as one zero byte; below a prefix it is the prefix itself.
    let is_first = *key == TO_LAST && !end.is_empty();
    *key = [prefix, if is_first { &[] } else { key.as_ref() }].concat().into();
    if *end == TO_LAST {
        *end = prefix_end(prefix);
    } else if !end.is_empty() {
        *end = [prefix, end.as_ref()].concat().into();
    }
}

/// Moves everything an operation names below `prefix`.
pub(crate) fn enter_operation(prefix: &[u8], operation: &mut RequestOp) {
    match &mut operation.request {
        Some(request_op::Request::RequestRange(range)) => enter(prefix, &mut range.key, &mut range.range_end),
        Some(request_op::Request::RequestPut(put)) => enter(prefix, &mut put.key, &mut Bytes::new()),
        Some(request_op::Request::RequestDeleteRange(range)) => enter(prefix, &mut range.key, &mut range.range_end),
        Some(request_op::Request::RequestTxn(txn)) => {
            for compare in &mut txn.compare {
                enter(prefix, &mut compare.key, &mut compare.range_end);
            }
            for operation in txn.success.iter_mut().chain(&mut txn.failure) {
                enter_operation(prefix, operation);
            }
        }
        None => {}
    }
}

/// Takes the prefix off a key.
pub(crate) fn leave(prefix: &[u8], kv: &mut KeyValue) {
    if kv.key.starts_with(prefix) {
        kv.key = kv.key.slice(prefix.len()..);
    }
}

/// Takes the prefix off everything an answer names.
pub(crate) fn leave_operation(prefix: &[u8], response: &mut ResponseOp) {
    match &mut response.response {
        Some(response_op::Response::ResponseRange(range)) => range.kvs.iter_mut().for_each(|kv| leave(prefix, kv)),
        Some(response_op::Response::ResponsePut(put)) => put.prev_kv.iter_mut().for_each(|kv| leave(prefix, kv)),
        Some(response_op::Response::ResponseDeleteRange(range)) => {
            range.prev_kvs.iter_mut().for_each(|kv| leave(prefix, kv));
        }
        Some(response_op::Response::ResponseTxn(txn)) => {
            txn.responses.iter_mut().for_each(|response| leave_operation(prefix, response));
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_below_the_prefix() {
        for (key, end, entered_key, entered_end) in [
            ("a", "", "p/a", ""),
            ("a", "c", "p/a", "p/c"),
            ("a", "\0", "p/a", "p0"),
            ("\0", "\0", "p/", "p0"),
            ("\0", "b", "p/", "p/b"),
            ("\0", "", "p/\0", ""),
        ] {
            let (mut one, mut other) = (Bytes::from(key), Bytes::from(end));
            enter(b"p/", &mut one, &mut other);
            assert_eq!((one, other), (Bytes::from(entered_key), Bytes::from(entered_end)), "{key:?} {end:?}");
        }
    }
}
