//! Transactions nested deeper than the protobuf library reads. It gives up after 100 nested messages, which are 49 levels;
//! etcd counts each level as an operation and takes 128 of them unless told otherwise. Here the levels are taken apart, and
//! the library reads what is in them. It accepts nothing else than the library would without its limit.
//!
//! The same holds of the entry around a request: a message that is read by itself, at the limit, must be read within its
//! entry as well, or all members stop at it.

use bytes::Bytes;
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::{InternalRaftRequest, RequestOp, TxnRequest};
use prost::{DecodeError, Message};

use crate::request_v2;

/// Levels taken apart here, which bounds the stack that they take. What is deeper must be within the library's limit.
const LEVELS_MAX: usize = 128;

const TXN_SUCCESS: u64 = 2;
const TXN_FAILURE: u64 = 3;
const OP_TXN: u64 = 4;
const INTERNAL_RANGE: u64 = 3;
const INTERNAL_PUT: u64 = 4;
const INTERNAL_DELETE_RANGE: u64 = 5;
const INTERNAL_TXN: u64 = 6;
const INTERNAL_COMPACTION: u64 = 7;

/// Reads a transaction that a client sent.
///
/// # Errors
/// When it is malformed, or nested too deeply even so.
pub fn decode_txn(message: &Bytes) -> Result<TxnRequest, DecodeError> {
    TxnRequest::decode(message.clone()).or_else(|_| {
        let mut txn = TxnRequest::default();
        merge_txn(&mut txn, message, LEVELS_MAX)?;
        Ok(txn)
    })
}

/// Reads an entry of the log: whatever is taken by itself, by [`decode_txn`] or as another request that a client's bytes
/// are put into the log for, is taken within its entry. An entry in v2 form becomes what took
/// its place.
///
/// # Errors
/// As for a transaction.
pub fn decode_request(message: &Bytes) -> Result<InternalRaftRequest, DecodeError> {
    InternalRaftRequest::decode(message.clone()).or_else(|_| {
        // The path of one in v2 form stands where a range is expected, and is none.
        if let Some(request) = request_v2::read(message) {
            return Ok(request);
        }
        let mut request = InternalRaftRequest::default();
        for field in Fields::of(message) {
            match field.nested {
                Some((INTERNAL_TXN, txn)) => merge_txn(request.txn.get_or_insert_default(), &txn, LEVELS_MAX)?,
                Some((INTERNAL_RANGE, range)) => request.range.get_or_insert_default().merge(range)?,
                Some((INTERNAL_PUT, put)) => request.put.get_or_insert_default().merge(put)?,
                Some((INTERNAL_DELETE_RANGE, range)) => request.delete_range.get_or_insert_default().merge(range)?,
                Some((INTERNAL_COMPACTION, compaction)) => {
                    request.compaction.get_or_insert_default().merge(compaction)?
                }
                _ => request.merge(field.whole)?,
            }
        }
        Ok(request)
    })
}

fn merge_txn(txn: &mut TxnRequest, message: &Bytes, levels: usize) -> Result<(), DecodeError> {
    for field in Fields::of(message) {
        match field.nested {
            Some((TXN_SUCCESS, op)) => txn.success.push(decode_op(&op, levels)?),
            Some((TXN_FAILURE, op)) => txn.failure.push(decode_op(&op, levels)?),
            _ => txn.merge(field.whole)?,
        }
    }
    Ok(())
}

fn decode_op(message: &Bytes, levels: usize) -> Result<RequestOp, DecodeError> {
    let mut op = RequestOp::default();
    for field in Fields::of(message) {
        match field.nested {
            Some((OP_TXN, nested)) if levels > 0 => {
                // One that is given twice is merged, and takes the place of another kind, as everywhere in protobuf.
                let mut txn = match op.request.take() {
                    Some(Request::RequestTxn(txn)) => txn,
                    _ => TxnRequest::default(),
                };
                merge_txn(&mut txn, &nested, levels - 1)?;
                op.request = Some(Request::RequestTxn(txn));
            }
            _ => op.merge(field.whole)?,
        }
    }
    Ok(op)
}

/// The fields of a message, each with its tag. What cannot be told apart here (a group, or something malformed) comes as one
/// last field together with all that follows: the library knows what to say to it.
pub(crate) struct Fields<'a> {
    message: &'a Bytes,
    position: usize,
}

pub(crate) struct Field {
    whole: Bytes,
    /// Number and content, if the field has a length.
    pub(crate) nested: Option<(u64, Bytes)>,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a Bytes) -> Self {
        Self { message, position: 0 }
    }

    /// Where the field at the front ends, and if it has a length, its number and where its content begins.
    fn measure(rest: &[u8]) -> Option<(usize, Option<(u64, usize)>)> {
        let mut bytes = rest;
        let tag = prost::encoding::decode_varint(&mut bytes).ok()?;
        let mut nested = None;
        match tag & 7 {
            0 => drop(prost::encoding::decode_varint(&mut bytes).ok()?),
            1 => bytes = bytes.get(8..)?,
            5 => bytes = bytes.get(4..)?,
            2 => {
                let length = usize::try_from(prost::encoding::decode_varint(&mut bytes).ok()?).ok()?;
                nested = Some((tag >> 3, rest.len() - bytes.len()));
                bytes = bytes.get(length..)?;
            }
            _ => return None,
        }
        Some((rest.len() - bytes.len(), nested))
    }
}

impl Iterator for Fields<'_> {
    type Item = Field;

    fn next(&mut self) -> Option<Field> {
        let rest = &self.message[self.position..];
        if rest.is_empty() {
            return None;
        }
        let (length, nested) = Self::measure(rest).unwrap_or((rest.len(), None));
        let (begin, end) = (self.position, self.position + length);
        self.position = end;
        let nested = nested.map(|(number, content)| (number, self.message.slice(begin + content..end)));
        Some(Field { whole: self.message.slice(begin..end), nested })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestHeader};
    use proptest::prelude::*;

    fn put(value: usize) -> RequestOp {
        let put = PutRequest { key: "k".into(), value: vec![7; value].into(), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn nested(levels: usize) -> TxnRequest {
        let mut txn = TxnRequest { success: vec![put(1)], ..Default::default() };
        for level in 0..levels {
            let op = RequestOp { request: Some(Request::RequestTxn(txn)) };
            txn = TxnRequest { compare: vec![Compare::default()], ..Default::default() };
            let branch = if level % 2 == 0 { &mut txn.success } else { &mut txn.failure };
            branch.extend([put(level), op]);
        }
        txn
    }

    fn in_entry(txn: TxnRequest) -> InternalRaftRequest {
        let header = Some(RequestHeader { id: 5, ..Default::default() });
        InternalRaftRequest { header, txn: Some(txn), ..Default::default() }
    }

    #[test]
    fn deep_levels_are_read_like_shallow_ones() {
        for levels in [0, 1, 48, 49, 50, 51, 100, 127, 128, 170] {
            let txn = nested(levels);
            assert_eq!(decode_txn(&txn.encode_to_vec().into()), Ok(txn.clone()), "{levels}");
            let entry = in_entry(txn);
            assert_eq!(decode_request(&entry.encode_to_vec().into()), Ok(entry), "{levels}");
        }
        for levels in [200, 1000, 5000] {
            let mut message = Vec::new();
            for _ in 0..levels {
                for number in [OP_TXN, TXN_SUCCESS] {
                    let mut outer = vec![(number << 3 | 2) as u8];
                    prost::encoding::encode_varint(message.len() as u64, &mut outer);
                    outer.append(&mut message);
                    message = outer;
                }
            }
            assert!(decode_txn(&message.into()).is_err());
        }
    }

    /// A client may send what this version does not know, nested as deeply as the library takes it.
    #[test]
    fn what_is_read_by_itself_is_read_within_its_entry() {
        let groups = |count: usize| [vec![0x7b; count], vec![0x7c; count]].concat();
        let deepest = (1..200).rev().find(|count| PutRequest::decode(groups(*count).as_slice()).is_ok());
        let unknown = groups(deepest.expect("some are taken"));
        for kind in [INTERNAL_RANGE, INTERNAL_PUT, INTERNAL_DELETE_RANGE, INTERNAL_TXN, INTERNAL_COMPACTION] {
            let mut entry = vec![(kind << 3 | 2) as u8];
            prost::encoding::encode_varint(unknown.len() as u64, &mut entry);
            entry.extend(&unknown);
            assert!(InternalRaftRequest::decode(entry.as_slice()).is_err(), "the library alone would not");
            assert!(decode_request(&entry.into()).is_ok(), "{kind}");
        }
    }

    fn any_txn() -> impl Strategy<Value = TxnRequest> {
        let leaf = prop_oneof![
            Just(None),
            (0..20usize).prop_map(|length| put(length).request),
            (0..5i64).prop_map(|limit| Some(Request::RequestRange(RangeRequest { limit, ..Default::default() }))),
        ];
        let txn_of = |success: Vec<RequestOp>, failure: Vec<RequestOp>, compares: usize| TxnRequest {
            compare: vec![Compare { key: "c".into(), ..Default::default() }; compares],
            success,
            failure,
        };
        let op = leaf.prop_map(|request| RequestOp { request }).prop_recursive(4, 20, 3, move |op| {
            let branch = || proptest::collection::vec(op.clone(), 0..3);
            (branch(), branch(), 0..2usize).prop_map(move |(success, failure, compares)| RequestOp {
                request: Some(Request::RequestTxn(txn_of(success, failure, compares))),
            })
        });
        proptest::collection::vec(op, 0..4).prop_map(move |success| txn_of(success, Vec::new(), 1))
    }

    /// Read level by level, whatever the library would say.
    fn apart(message: &Bytes) -> Result<TxnRequest, DecodeError> {
        let mut txn = TxnRequest::default();
        merge_txn(&mut txn, message, LEVELS_MAX).map(|()| txn)
    }

    proptest! {
        /// Taken apart, a message is what the library reads, also when it is damaged.
        #[test]
        fn agrees_with_the_library(txn in any_txn(), flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..3)) {
            let mut message = txn.encode_to_vec();
            for (position, mask) in flips {
                if !message.is_empty() {
                    let position = position % message.len();
                    message[position] ^= mask;
                }
            }
            let message = Bytes::from(message);
            prop_assert_eq!(apart(&message).ok(), TxnRequest::decode(message.clone()).ok());
        }
    }
}
