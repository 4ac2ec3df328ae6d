//! `KV.RangeStream`: a range in pieces, so that neither side holds all of it. All pieces are of one revision; header,
//! count and `more` come with the last (etcd 3.7, `v3rpc/key.go`). Pieces have a size in bytes here; etcd's grow in keys.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use kvorum_api::Code;
use kvorum_api::etcdserverpb::RangeRequest;
use kvorum_store::{Access, Progress, RangeCursor, ReadError, Reply, check_range};

use super::kv::is_in_key_order;
use super::snapshot::{Ended, send_frame, unless_ended};
use super::{Call, linearize, on_reader_pool, read_status};
use crate::grpc::{MessageReader, Responder, Status, StreamResponder, begin_frame, decode, finish_frame};
use crate::limits::RANGE_SLICE_BYTES;
use crate::metrics::{GrpcCode, GrpcMethod};
use crate::worker::Worker;

/// `RangeStreamResponse.range_response` (field 1, length-delimited).
const RANGE_RESPONSE_TAG: u8 = 1 << 3 | 2;

pub async fn serve(worker: &Rc<Worker>, call: &Call, mut messages: MessageReader, respond: Responder) {
    let metrics = &worker.core.metrics.grpc;
    metrics.started(GrpcMethod::RangeStream);
    let request = match poll_fn(|context| messages.poll_message(context)).await {
        Some(message) => message.and_then(decode::<RangeRequest>),
        None => Err(Status::new(Code::Internal, "EOF")),
    };
    let cursor = match request {
        Ok(request) => {
            metrics.received(GrpcMethod::RangeStream);
            begin(worker, call, &request).await
        }
        Err(status) => Err(status),
    };
    let cursor = match cursor {
        Ok(cursor) => cursor,
        Err(status) => {
            metrics.handled(GrpcMethod::RangeStream, GrpcCode::from_number(status.code as i32));
            return respond.fail(&status);
        }
    };
    let Some(mut stream) = respond.stream() else {
        return metrics.handled(GrpcMethod::RangeStream, GrpcCode::CANCELED);
    };
    match send(worker, call, cursor, &mut stream).await {
        Ok(()) => {
            metrics.handled(GrpcMethod::RangeStream, GrpcCode::OK);
            stream.finish(Ok(()));
        }
        Err(Ended::Gone) => metrics.handled(GrpcMethod::RangeStream, GrpcCode::CANCELED),
        Err(Ended::Failed(status)) => {
            metrics.handled(GrpcMethod::RangeStream, GrpcCode::from_number(status.code as i32));
            stream.finish(Err(status));
        }
    }
}

async fn begin(worker: &Rc<Worker>, call: &Call, request: &RangeRequest) -> Result<RangeCursor, Status> {
    check_range(request)?;
    if !is_in_key_order(request) {
        return Err(Status::new(Code::Unimplemented, "RangeStream does not support custom sort orders"));
    }
    let filters =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if filters.iter().any(|&revision| revision != 0) {
        return Err(Status::new(Code::Unimplemented, "RangeStream does not support revision filters"));
    }
    if !request.serializable {
        linearize(&worker.core).await?;
    }
    worker.check_keys(call, Access::Read, &request.key, &request.range_end)?;
    worker.reader.range(request).map_err(|error| read_status(&error))
}

async fn send(
    worker: &Rc<Worker>,
    call: &Call,
    mut cursor: RangeCursor,
    stream: &mut StreamResponder,
) -> Result<(), Ended> {
    let failed = |error: &ReadError| Ended::Failed(read_status(error));
    let mut progress = cursor.advance(RANGE_SLICE_BYTES).map_err(|error| failed(&error))?;
    loop {
        let piece = match progress {
            Progress::Done => break,
            Progress::More => cursor.take_encoded(),
            Progress::NeedsBackend => {
                let read = on_reader_pool(move || {
                    let progress = cursor.advance_slice_with_backend(RANGE_SLICE_BYTES);
                    progress.map(|progress| (progress, cursor))
                });
                let read = unless_ended(worker, call, stream, read).await?.map_err(Ended::Failed)?;
                (progress, cursor) = read.map_err(|error| failed(&error))?;
                continue;
            }
        };
        if !piece.is_empty() {
            send_frame(worker, call, stream, frame(&piece)).await?;
        }
        // Other requests of the thread run in between.
        tokio::task::yield_now().await;
        progress = cursor.advance(RANGE_SLICE_BYTES).map_err(|error| failed(&error))?;
    }
    let last = cursor.finish();
    worker.check_unmoved(call).map_err(|error| Ended::Failed(error.into()))?;
    let header = worker.core.header(last.revision);
    let reply = Reply::Range(last);
    let mut message = Vec::with_capacity(reply.encoded_len(&header));
    reply.encode(&header, &mut message);
    send_frame(worker, call, stream, frame(&message)).await
}

/// A `RangeStreamResponse` around an encoded `RangeResponse`, or around a part of its keys, which is one too.
fn frame(response: &[u8]) -> Bytes {
    let mut frame = begin_frame(response.len() + 8);
    frame.push(RANGE_RESPONSE_TAG);
    prost::encoding::encode_varint(response.len() as u64, &mut frame);
    frame.extend_from_slice(response);
    finish_frame(frame)
}
