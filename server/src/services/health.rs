//! The standard gRPC health service: the server as a whole, which is serving as long as it answers.

use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use kvorum_api::Code;
use kvorum_api::healthpb::health_check_response::ServingStatus;
use kvorum_api::healthpb::{HealthCheckRequest, HealthCheckResponse, HealthListResponse};

use super::Call;
use crate::grpc::{MessageReader, Responder, Status, decode, frame_of};
use crate::worker::Worker;

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving as i32 }
}

/// Only the empty service name is known.
pub fn check(message: Bytes) -> Result<Bytes, Status> {
    let request: HealthCheckRequest = decode(message)?;
    if request.service.is_empty() {
        return Ok(frame_of(&serving()));
    }
    Err(Status::new(Code::NotFound, "unknown service"))
}

pub fn list() -> Bytes {
    frame_of(&HealthListResponse { statuses: HashMap::from([(String::new(), serving())]) })
}

/// Sends the status once, and its end at a stop.
pub async fn watch(worker: &Rc<Worker>, call: &Call, mut messages: MessageReader, respond: Responder) {
    let request = match poll_fn(|context| messages.poll_message(context)).await {
        Some(Ok(message)) => decode::<HealthCheckRequest>(message),
        Some(Err(status)) => Err(status),
        None => Err(Status::new(Code::Internal, "EOF")),
    };
    let first = match request {
        Ok(request) if request.service.is_empty() => serving(),
        Ok(_) => HealthCheckResponse { status: ServingStatus::ServiceUnknown as i32 },
        Err(status) => return respond.fail(&status),
    };
    let Some(mut stream) = respond.stream() else { return };
    if !stream.send(frame_of(&first)).await {
        return;
    }
    let mut stop = worker.core.watch_stop();
    tokio::select! {
        _ = stop.wait_for(|stopping| *stopping) => {
            let last = HealthCheckResponse { status: ServingStatus::NotServing as i32 };
            if stream.send(frame_of(&last)).await {
                stream.finish(Ok(()));
            }
        }
        () = super::reached(call.deadline) => stream.finish(Err(Status::deadline_exceeded())),
        () = poll_fn(|context| stream.poll_reset(context)) => {}
    }
}
