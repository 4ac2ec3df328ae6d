//! `Maintenance.Snapshot`: the database as a stream of blobs, then its SHA-256 as the last one.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use kvorum_api::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use kvorum_api::{Code, EtcdError};
use kvorum_disk::bolt::snapshot::RunningDigest;

use super::Call;
use crate::database::CopyEvent;
use crate::grpc::{MessageReader, Responder, Status, StreamResponder, decode, frame_of};
use crate::limits::SNAPSHOT_BLOB_BYTES;
use crate::metrics::{GrpcCode, GrpcMethod};
use crate::worker::Worker;

/// Why a stream ended before its end.
pub(super) enum Ended {
    Gone,
    Failed(Status),
}

pub async fn serve(worker: &Rc<Worker>, call: &Call, mut messages: MessageReader, respond: Responder) {
    let metrics = &worker.core.metrics.grpc;
    metrics.started(GrpcMethod::Snapshot);
    let request = match poll_fn(|context| messages.poll_message(context)).await {
        Some(Ok(message)) => decode::<SnapshotRequest>(message),
        Some(Err(status)) => Err(status),
        None => Err(Status::new(Code::Internal, "EOF")),
    };
    if let Err(status) = request {
        metrics.handled(GrpcMethod::Snapshot, GrpcCode::from_number(status.code as i32));
        return respond.fail(&status);
    }
    metrics.received(GrpcMethod::Snapshot);
    let Some(mut stream) = respond.stream() else {
        return metrics.handled(GrpcMethod::Snapshot, GrpcCode::CANCELED);
    };
    let began = Instant::now();
    let sent = send(worker, call, &mut stream).await;
    worker.core.metrics.backend_snapshot_seconds.observe_duration(began.elapsed());
    match sent {
        Ok(()) => {
            metrics.handled(GrpcMethod::Snapshot, GrpcCode::OK);
            stream.finish(Ok(()));
        }
        Err(Ended::Gone) => metrics.handled(GrpcMethod::Snapshot, GrpcCode::CANCELED),
        Err(Ended::Failed(status)) => {
            metrics.handled(GrpcMethod::Snapshot, GrpcCode::from_number(status.code as i32));
            stream.finish(Err(status));
        }
    }
}

async fn send(worker: &Rc<Worker>, call: &Call, stream: &mut StreamResponder) -> Result<(), Ended> {
    let core = &worker.core;
    let began = Instant::now();
    let prepare = async {
        let turn = core.databases.turn().await;
        core.wait_for_backend_commit().await;
        turn
    };
    let _turn = unless_ended(worker, call, stream, prepare).await?;
    let mut copy = core.databases.copy();
    let mut sending = None;
    loop {
        let event = unless_ended(worker, call, stream, copy.recv()).await?;
        match event {
            Some(CopyEvent::Begun(exported)) => {
                tracing::info!(
                    total_bytes = exported.file_bytes,
                    storage_version = %exported.storage_version,
                    "sending database snapshot to client"
                );
                sending = Some(Sending {
                    remaining_bytes: exported.file_bytes,
                    version: exported.storage_version,
                    digest: RunningDigest::default(),
                });
            }
            Some(CopyEvent::Piece(piece)) => {
                let sending = sending.as_mut().expect("a copy begins before its pieces");
                sending.digest.update(&piece);
                for begin in (0..piece.len()).step_by(SNAPSHOT_BLOB_BYTES) {
                    let blob = piece.slice(begin..piece.len().min(begin + SNAPSHOT_BLOB_BYTES));
                    sending.remaining_bytes -= blob.len() as u64;
                    let frame = sending.frame(blob);
                    send_frame(worker, call, stream, frame).await?;
                }
            }
            Some(CopyEvent::Ended) => break,
            Some(CopyEvent::Failed(reason)) => return Err(Ended::Failed(Status::new(Code::Unknown, reason))),
            None => {
                let status = Status::new(Code::Internal, "the copy of the database broke off");
                return Err(Ended::Failed(status));
            }
        }
    }
    let sending = sending.expect("a copy begins before it ends");
    let digest = Bytes::copy_from_slice(&sending.digest.clone().finish());
    send_frame(worker, call, stream, sending.frame(digest)).await?;
    let took = format!("{:?}", began.elapsed());
    tracing::info!(took = %took, "successfully sent database snapshot to client");
    Ok(())
}

struct Sending {
    remaining_bytes: u64,
    version: String,
    digest: RunningDigest,
}

impl Sending {
    fn frame(&self, blob: Bytes) -> Bytes {
        let (remaining_bytes, version) = (self.remaining_bytes, self.version.clone());
        frame_of(&SnapshotResponse { header: None, remaining_bytes, blob, version })
    }
}

pub(super) async fn send_frame(
    worker: &Rc<Worker>,
    call: &Call,
    stream: &mut StreamResponder,
    frame: Bytes,
) -> Result<(), Ended> {
    let metrics = &worker.core.metrics;
    metrics.client_sent_bytes_total.add(frame.len() as u64);
    metrics.grpc.sent(call.method);
    let mut stop = worker.core.watch_stop();
    // The responder notices by itself that the client is gone.
    tokio::select! {
        sent = stream.send(frame) => if sent { Ok(()) } else { Err(Ended::Gone) },
        () = super::reached(call.deadline) => Err(Ended::Failed(Status::deadline_exceeded())),
        _ = stop.wait_for(|stopping| *stopping) => Err(Ended::Failed(EtcdError::Stopped.into())),
    }
}

/// Waits for the work, unless the stream ends before.
pub(super) async fn unless_ended<T>(
    worker: &Rc<Worker>,
    call: &Call,
    stream: &mut StreamResponder,
    work: impl Future<Output = T>,
) -> Result<T, Ended> {
    let mut stop = worker.core.watch_stop();
    tokio::select! {
        done = work => Ok(done),
        () = poll_fn(|context| stream.poll_reset(context)) => Err(Ended::Gone),
        () = super::reached(call.deadline) => Err(Ended::Failed(Status::deadline_exceeded())),
        _ = stop.wait_for(|stopping| *stopping) => Err(Ended::Failed(EtcdError::Stopped.into())),
    }
}
