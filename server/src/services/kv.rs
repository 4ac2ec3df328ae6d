//! KV: ranges from memory on the spot, everything else through the log.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, TxnRequest,
};
use kvorum_store::{
    Access, Caller, Progress, RangeCursor, RangeReply, ReadError, Reply, RestMeasure, TxnStep, check_delete_range,
    check_put, check_range, check_txn, decode_txn, is_read_only, is_serializable_txn, quota_cost,
};

use super::{Call, on_reader_pool, read_status};
use crate::auth::Identity;
use crate::grpc::{
    PREFIX_LENGTH, Responder, Status, StreamResponder, begin_frame, decode, finish_frame, finish_head, malformed,
};
use crate::limits::{MEASURE_SLICE_KEYS, RANGE_SLICE_BYTES, SPLIT_REPLY_BYTES_MIN};
use crate::worker::{CallMeta, Worker};
use kvorum_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use tokio::sync::OwnedSemaphorePermit;

/// Field tags of `InternalRaftRequest` (length-delimited).
const PUT_TAG: u8 = 4 << 3 | 2;
const DELETE_RANGE_TAG: u8 = 5 << 3 | 2;
const TXN_TAG: u8 = 6 << 3 | 2;
const COMPACTION_TAG: u8 = 7 << 3 | 2;
/// Field 100, the header, as etcd's encoder places it: after the request.
const HEADER_TAG: [u8; 2] = [0xa2, 0x06];
const HEADER_ID_TAG: u8 = 0x08;
const HEADER_USERNAME_TAG: u8 = 0x12;
const HEADER_AUTH_REVISION_TAG: u8 = 0x18;

pub fn range(worker: &Rc<Worker>, call: Call, message: Bytes, respond: Responder) {
    let request: RangeRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return worker.finish(call.method, respond, Err(status)),
    };
    if let Err(error) = check_range(&request) {
        return worker.finish(call.method, respond, Err(error.into()));
    }
    if request.serializable {
        return begin_range(worker, call, &request, respond);
    }
    worker.linearize(move |worker, confirmed| match confirmed {
        Ok(()) => begin_range(worker, call, &request, respond),
        Err(error) => worker.finish(call.method, respond, Err(error.into())),
    });
}

fn begin_range(worker: &Rc<Worker>, call: Call, request: &RangeRequest, respond: Responder) {
    if let Err(error) = worker.check_keys(&call, Access::Read, &request.key, &request.range_end) {
        return worker.finish(call.method, respond, Err(error.into()));
    }
    let cursor = match worker.reader.range(request) {
        Ok(cursor) => cursor,
        Err(error) => return worker.finish(call.method, respond, Err(read_status(&error))),
    };
    // A reply in another order than the keys' is all in memory before its first slice.
    if request.range_end.is_empty() || is_in_key_order(request) {
        return advance_range(worker, call, cursor, None, respond);
    }
    let turns = Arc::clone(&worker.long_ranges);
    if let Ok(turn) = Arc::clone(&turns).try_acquire_owned() {
        return advance_range(worker, call, cursor, Some(turn), respond);
    }
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let turn = turns.acquire_owned().await.expect("nobody closes it");
        advance_range(&worker, call, cursor, Some(turn), respond);
    });
}

/// Whether the reply's order is that of the keys, which needs no sorting.
pub(super) fn is_in_key_order(request: &RangeRequest) -> bool {
    request.sort_order == i32::from(SortOrder::None)
        || (request.sort_target == i32::from(SortTarget::Key) && request.sort_order == i32::from(SortOrder::Ascend))
}

fn advance_range(
    worker: &Rc<Worker>,
    call: Call,
    mut cursor: RangeCursor,
    turn: Option<OwnedSemaphorePermit>,
    respond: Responder,
) {
    match cursor.advance(RANGE_SLICE_BYTES) {
        Ok(Progress::Done) => reply_range(worker, call, Vec::new(), cursor.finish(), respond),
        Ok(progress) => {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(finish_range(worker, call, cursor, progress, turn, respond));
        }
        Err(error) => worker.finish(call.method, respond, Err(read_status(&error))),
    }
}

/// A reply that is more than one slice: streamed if its length can be told, else put together first.
async fn finish_range(
    worker: Rc<Worker>,
    call: Call,
    cursor: RangeCursor,
    progress: Progress,
    turn: Option<OwnedSemaphorePermit>,
    respond: Responder,
) {
    // What waits here holds one slice. All at once, each would hold most of its reply, and a turn would take seconds.
    let turn = match turn {
        Some(turn) => turn,
        None => Arc::clone(&worker.long_ranges).acquire_owned().await.expect("nobody closes it"),
    };
    if let (Progress::More, Some(rest)) = (progress, cursor.measure_rest())
        && let Some(rest_bytes) = measure(rest).await
    {
        drop(turn);
        return stream_range(&worker, call, cursor, rest_bytes, respond).await;
    }
    match collect_range(cursor, progress).await {
        Ok((pieces, last)) => reply_range(&worker, call, pieces, last, respond),
        Err(status) => worker.finish(call.method, respond, Err(status)),
    }
}

async fn measure(mut rest: RestMeasure) -> Option<usize> {
    while !rest.advance(MEASURE_SLICE_KEYS)? {
        tokio::task::yield_now().await;
    }
    Some(rest.bytes())
}

/// Sends a reply whose length is known slice by slice, as fast as the client takes it: memory holds a slice or two of it,
/// and each slice is sent while it is still in the cache.
async fn stream_range(worker: &Rc<Worker>, call: Call, mut cursor: RangeCursor, rest_bytes: usize, respond: Responder) {
    let first = cursor.take_encoded();
    let mut head = begin_frame(64);
    worker.core.header(cursor.revision()).encode_field(&mut head);
    if let Err(error) = worker.check_unmoved(&call) {
        return worker.finish(call.method, respond, Err(error.into()));
    }
    let message_bytes = head.len() - PREFIX_LENGTH + first.len() + rest_bytes;
    let Some(mut stream) = respond.stream() else { return };
    let mut left = message_bytes + PREFIX_LENGTH;
    let mut piece = finish_head(head, message_bytes);
    let mut next = Some(Bytes::from(first));
    loop {
        left = left.saturating_sub(piece.len());
        worker.core.metrics.client_sent_bytes_total.add(piece.len() as u64);
        if !stream.send(piece).await {
            return;
        }
        piece = match next.take() {
            Some(piece) => piece,
            None => {
                // The connection's own task sends what was handed to it.
                tokio::task::yield_now().await;
                match cursor.advance(RANGE_SLICE_BYTES) {
                    Ok(Progress::More) => Bytes::from(cursor.take_encoded()),
                    Ok(progress) => break finish_stream(worker, call, cursor, progress, stream, left).await,
                    Err(_) => break stream.reset(),
                }
            }
        };
    }
}

/// Sends the last slice of a streamed reply. A reply that cannot be completed as announced is reset: its length is
/// already with the client.
async fn finish_stream(
    worker: &Rc<Worker>,
    call: Call,
    mut cursor: RangeCursor,
    progress: Progress,
    mut stream: StreamResponder,
    left: usize,
) {
    if matches!(progress, Progress::NeedsBackend) {
        let read = on_reader_pool(move || cursor.advance_with_backend().map(|()| cursor)).await;
        match read {
            Ok(Ok(finished)) => cursor = finished,
            Ok(Err(_)) | Err(_) => return stream.reset(),
        }
    }
    let rest = Bytes::from(cursor.finish().into_rest());
    if rest.len() != left {
        tracing::error!(announced = left, encoded = rest.len(), "a range reply differs from its measure");
        return stream.reset();
    }
    worker.note_sent(call.method, rest.len());
    if stream.send(rest).await {
        stream.finish(Ok(()));
    }
}

/// Goes on in slices, so that other requests of the thread run in between; on the reader pool once a value is not in
/// memory. Returns the encoded keys so far, and the rest.
async fn collect_range(mut cursor: RangeCursor, mut progress: Progress) -> Result<(Vec<Bytes>, RangeReply), Status> {
    let mut pieces = Vec::new();
    loop {
        match progress {
            Progress::Done => return Ok((pieces, cursor.finish())),
            Progress::More => {
                let piece = cursor.take_encoded();
                if !piece.is_empty() {
                    pieces.push(Bytes::from(piece));
                }
                tokio::task::yield_now().await;
                progress = cursor.advance(RANGE_SLICE_BYTES).map_err(|error| read_status(&error))?;
            }
            Progress::NeedsBackend => {
                let finished = on_reader_pool(move || {
                    cursor.advance_with_backend()?;
                    Ok::<_, ReadError>(cursor.finish())
                })
                .await?;
                return finished.map(|rest| (pieces, rest)).map_err(|error| read_status(&error));
            }
        }
    }
}

pub fn put(worker: &Rc<Worker>, call: Call, message: Bytes, respond: Responder) {
    let request: PutRequest = match decode(message.clone()) {
        Ok(request) => request,
        Err(status) => return worker.finish(call.method, respond, Err(status)),
    };
    let cost = 256 + request.key.len() as u64 + request.value.len() as u64;
    if !worker.core.has_room(cost) {
        return refuse_for_space(worker, call, respond);
    }
    match check_put(&request) {
        Ok(()) => propose(worker, call, PUT_TAG, &message, respond, false),
        Err(error) => worker.finish(call.method, respond, Err(error.into())),
    }
}

pub fn delete_range(worker: &Rc<Worker>, call: Call, message: Bytes, respond: Responder) {
    let request: DeleteRangeRequest = match decode(message.clone()) {
        Ok(request) => request,
        Err(status) => return worker.finish(call.method, respond, Err(status)),
    };
    match check_delete_range(&request) {
        Ok(()) => propose(worker, call, DELETE_RANGE_TAG, &message, respond, false),
        Err(error) => worker.finish(call.method, respond, Err(error.into())),
    }
}

pub fn txn(worker: &Rc<Worker>, call: Call, message: Bytes, respond: Responder) {
    let request: TxnRequest = match decode_txn(&message) {
        Ok(request) => request,
        // etcd's decoder takes any nesting, and then each level counts as an operation.
        Err(_) if is_nested_deeply(&message) => {
            return worker.finish(call.method, respond, Err(EtcdError::TooManyOps.into()));
        }
        Err(error) => return worker.finish(call.method, respond, Err(malformed(&error))),
    };
    if !is_read_only(&request) && worker.core.config.quota_bytes.is_some() {
        let wrapped = InternalRaftRequest { txn: Some(request), ..InternalRaftRequest::default() };
        let room = worker.core.has_room(quota_cost(&wrapped));
        let request = wrapped.txn.expect("it was put there");
        if !room {
            return refuse_for_space(worker, call, respond);
        }
        return begin_txn(worker, call, request, &message, respond);
    }
    begin_txn(worker, call, request, &message, respond);
}

fn begin_txn(worker: &Rc<Worker>, call: Call, request: TxnRequest, message: &Bytes, respond: Responder) {
    if let Err(error) = check_txn(&request, worker.core.config.max_txn_ops) {
        return worker.finish(call.method, respond, Err(error.into()));
    }
    if !is_read_only(&request) {
        return propose(worker, call, TXN_TAG, message, respond, false);
    }
    if is_serializable_txn(&request) {
        return begin_read_only_txn(worker, call, &request, respond);
    }
    worker.linearize(move |worker, confirmed| match confirmed {
        Ok(()) => begin_read_only_txn(worker, call, &request, respond),
        Err(error) => worker.finish(call.method, respond, Err(error.into())),
    });
}

fn begin_read_only_txn(worker: &Rc<Worker>, call: Call, request: &TxnRequest, respond: Responder) {
    let permitted =
        worker.auth().map_or(Ok(()), |auth| worker.reader.check_txn_permission(&auth, call.caller(), request));
    if let Err(error) = permitted {
        return worker.finish(call.method, respond, Err(error.into()));
    }
    match worker.reader.read_only_txn(request) {
        Ok(TxnStep::Done(done)) => reply(worker, call, done.revision, &Reply::Txn(done), respond),
        Ok(TxnStep::NeedsBackend(job)) => {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                match on_reader_pool(move || job.run()).await {
                    Ok(Ok(done)) => reply(&worker, call, done.revision, &Reply::Txn(done), respond),
                    Ok(Err(error)) => worker.finish(call.method, respond, Err(read_status(&error))),
                    Err(status) => worker.finish(call.method, respond, Err(status)),
                }
            });
        }
        Err(error) => worker.finish(call.method, respond, Err(read_status(&error))),
    }
}

pub fn compact(worker: &Rc<Worker>, call: Call, message: Bytes, respond: Responder) {
    match decode::<CompactionRequest>(message.clone()) {
        Ok(request) => propose(worker, call, COMPACTION_TAG, &message, respond, request.physical),
        Err(status) => worker.finish(call.method, respond, Err(status)),
    }
}

/// Levels of nested transactions that [`decode_txn`] takes for certain.
const NESTED_TXNS_MAX: usize = 128;

/// Whether an encoded `TxnRequest` nests transactions deeper than [`NESTED_TXNS_MAX`]. It only follows the framing, with
/// a stack of its own, and does not care whether anything else decodes.
pub fn is_nested_deeply(message: &[u8]) -> bool {
    let mut open: Vec<(&[u8], usize)> = vec![(message, 0)];
    while let Some((txn, depth)) = open.pop() {
        if depth > NESTED_TXNS_MAX {
            return true;
        }
        for operation in fields(txn).filter(|(number, _)| *number == 2 || *number == 3) {
            open.extend(fields(operation.1).filter(|(number, _)| *number == 4).map(|(_, txn)| (txn, depth + 1)));
        }
    }
    false
}

/// The length-delimited fields of a message; ends at anything malformed.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let tag = prost::encoding::decode_varint(&mut bytes).ok()?;
            match tag & 7 {
                0 => drop(prost::encoding::decode_varint(&mut bytes).ok()?),
                1 => bytes = bytes.get(8..)?,
                5 => bytes = bytes.get(4..)?,
                2 => {
                    let length = usize::try_from(prost::encoding::decode_varint(&mut bytes).ok()?).ok()?;
                    let (field, rest) = bytes.split_at_checked(length)?;
                    bytes = rest;
                    return Some((tag >> 3, field));
                }
                _ => return None,
            }
        }
    })
}

/// Wraps the request's own bytes into an `InternalRaftRequest` and takes it towards the log.
fn propose(worker: &Rc<Worker>, call: Call, tag: u8, message: &Bytes, respond: Responder, physical: bool) {
    let id = worker.core.ids.next_id();
    let meta = CallMeta { method: call.method, deadline: call.deadline };
    let data = wrap(tag, message, id, call.identity.as_ref());
    worker.propose(id, data, respond, &meta, physical);
}

/// The bytes of an `InternalRaftRequest` with a request as the field of this tag, and its header.
pub fn wrap(tag: u8, message: &[u8], id: u64, identity: Option<&Identity>) -> Bytes {
    let caller = identity.map_or(Caller::NOBODY, Identity::caller);
    let mut data = Vec::with_capacity(message.len() + 48 + caller.user.len());
    data.push(tag);
    prost::encoding::encode_varint(message.len() as u64, &mut data);
    data.extend_from_slice(message);
    data.extend_from_slice(&HEADER_TAG);
    let varint_length = |number: u64| 1 + prost::encoding::encoded_len_varint(number);
    let mut header_length = varint_length(id);
    if !caller.user.is_empty() {
        header_length += varint_length(caller.user.len() as u64) + caller.user.len();
    }
    if caller.revision != 0 {
        header_length += varint_length(caller.revision);
    }
    prost::encoding::encode_varint(header_length as u64, &mut data);
    data.push(HEADER_ID_TAG);
    prost::encoding::encode_varint(id, &mut data);
    if !caller.user.is_empty() {
        data.push(HEADER_USERNAME_TAG);
        prost::encoding::encode_varint(caller.user.len() as u64, &mut data);
        data.extend_from_slice(caller.user.as_bytes());
    }
    if caller.revision != 0 {
        data.push(HEADER_AUTH_REVISION_TAG);
        prost::encoding::encode_varint(caller.revision, &mut data);
    }
    Bytes::from(data)
}

/// As etcd does before a request over quota enters the log: raises the alarm for the cluster, then refuses.
fn refuse_for_space(worker: &Rc<Worker>, call: Call, respond: Responder) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        raise_no_space(&worker.core).await;
        worker.finish(call.method, respond, Err(EtcdError::NoSpace.into()));
    });
}

/// Proposes the NOSPACE alarm for this member.
pub(super) async fn raise_no_space(core: &crate::core::Core) {
    if let Err(error) = core.propose(core.no_space_request()).await {
        tracing::warn!(error = %error, "failed to raise alarm");
    }
}

/// Sends a small reply as one frame, a large one in the pieces it was encoded in.
fn reply_range(worker: &Rc<Worker>, call: Call, mut pieces: Vec<Bytes>, last: RangeReply, respond: Responder) {
    if let Err(error) = worker.check_unmoved(&call) {
        return worker.finish(call.method, respond, Err(error.into()));
    }
    if pieces.is_empty() && last.kvs.len() < SPLIT_REPLY_BYTES_MIN {
        return reply(worker, call, last.revision, &Reply::Range(last), respond);
    }
    let mut head = begin_frame(64);
    let header = worker.core.header(last.revision);
    let rest = last.split(&header, &mut head);
    pieces.push(Bytes::from(rest));
    let message_bytes = head.len() - PREFIX_LENGTH + pieces.iter().map(Bytes::len).sum::<usize>();
    pieces.insert(0, finish_head(head, message_bytes));
    worker.finish_pieces(call.method, respond, pieces);
}

/// Answers a read.
fn reply(worker: &Rc<Worker>, call: Call, revision: i64, reply: &Reply, respond: Responder) {
    if let Err(error) = worker.check_unmoved(&call) {
        return worker.finish(call.method, respond, Err(error.into()));
    }
    let header = worker.core.header(revision);
    let mut frame = begin_frame(reply.encoded_len(&header));
    reply.encode(&header, &mut frame);
    worker.finish(call.method, respond, Ok(finish_frame(frame)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::etcdserverpb::RequestHeader;
    use prost::Message;

    fn nested(levels: usize) -> Vec<u8> {
        let mut message = Vec::new();
        for _ in 0..levels {
            let mut operation = vec![4 << 3 | 2];
            prost::encoding::encode_varint(message.len() as u64, &mut operation);
            operation.append(&mut message);
            message.push(2 << 3 | 2);
            prost::encoding::encode_varint(operation.len() as u64, &mut message);
            message.append(&mut operation);
        }
        message
    }

    #[test]
    fn deep_nesting_is_told_from_garbage() {
        assert!(is_nested_deeply(&nested(200)));
        assert!(is_nested_deeply(&nested(2_000)));
        assert!(!is_nested_deeply(&nested(40)));
        let accepted = nested(NESTED_TXNS_MAX);
        assert!(!is_nested_deeply(&accepted));
        assert!(decode_txn(&accepted.clone().into()).is_ok());
        assert!(kvorum_store::decode_request(&wrap(TXN_TAG, &accepted, u64::MAX, None)).is_ok());
        assert!(is_nested_deeply(&nested(NESTED_TXNS_MAX + 1)));
        assert!(!is_nested_deeply(b"\xff\xff\xff"));
    }

    #[test]
    fn wrapping_equals_encoding_the_whole_request() {
        let put = PutRequest { key: "a".into(), value: vec![7; 300].into(), ..PutRequest::default() };
        let id = 14_909_063_221_755_161_347;
        for (user, revision) in [("", 0), ("alice", 3), ("a".repeat(300).as_str(), 1 << 40), ("", 7)] {
            let whole = InternalRaftRequest {
                header: Some(RequestHeader { id, username: user.to_owned(), auth_revision: revision }),
                put: Some(put.clone()),
                ..InternalRaftRequest::default()
            };
            let identity = Identity { user: user.into(), revision };
            let wrapped = wrap(PUT_TAG, &put.encode_to_vec(), id, Some(&identity));
            assert_eq!(wrapped.as_ref(), whole.encode_to_vec(), "{user}");
        }
    }
}
