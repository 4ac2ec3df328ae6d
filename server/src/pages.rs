//! The plain pages, and how they go out over HTTP/2: a client that speaks TLS may ask for them so, as curl and Prometheus do,
//! since Go's server offers it to them. Without TLS they are on HTTP/1.1 alone.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};

use crate::connection::{ConnectionInfo, Serves};
use crate::health::MemberHealth;
use crate::http1;
use crate::payload::Payload;
use crate::worker::Worker;

/// The page that a request asks for; `target` is path and query.
pub async fn page(worker: &Rc<Worker>, info: &ConnectionInfo, method: &Method, target: &str) -> Response<Bytes> {
    let source = MemberHealth::new(worker);
    let metrics = &worker.core.metrics;
    match info.serves {
        Serves::Everything | Serves::Calls | Serves::Pages => http1::respond(&source, metrics, method, target).await,
        Serves::Metrics => http1::respond_to_metrics_port(&source, metrics, method, target).await,
    }
}

/// Answers a request of HTTP/2 that is no call, on a task of its own.
pub fn begin(
    worker: &Rc<Worker>,
    info: &Rc<ConnectionInfo>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Payload>,
) {
    let (worker, info) = (Rc::clone(worker), Rc::clone(info));
    tokio::task::spawn_local(async move {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let (mut head, body) = page(&worker, &info, request.method(), target).await.into_parts();
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let is_empty = body.is_empty() || request.method() == Method::HEAD;
        // A client that went away needs no answer.
        if let Ok(stream) = respond.send_response(Response::from_parts(head, ()), is_empty)
            && !is_empty
        {
            send(stream, body).await;
        }
    });
}

async fn send(mut stream: SendStream<Payload>, mut body: Bytes) {
    while body.has_remaining() {
        stream.reserve_capacity(body.len());
        let Some(Ok(capacity)) = poll_fn(|context| stream.poll_capacity(context)).await else { return };
        let piece = body.split_to(capacity.min(body.len()));
        if !piece.is_empty() && stream.send_data(piece.into(), body.is_empty()).is_err() {
            return;
        }
    }
}
