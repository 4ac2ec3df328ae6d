//! The plain pages, and how they go out over HTTP/2: a client that speaks TLS may ask for them so, as curl and Prometheus do,
//! since Go's server offers it to them. Without TLS they are on HTTP/1.1 alone.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};

use crate::access::Access;
use crate::connection::{ConnectionConfig, ConnectionInfo, Serves};
use crate::health::MemberHealth;
use crate::held::Held;
use crate::http1;
use crate::payload::Payload;
use crate::worker::Worker;

/// The page that a request asks for.
pub async fn page<B>(
    worker: &Rc<Worker>,
    info: &ConnectionInfo,
    access: &Access,
    request: &Request<B>,
) -> Response<Bytes> {
    let source = MemberHealth::new(worker);
    let metrics = &worker.core.metrics;
    let (method, headers) = (request.method(), request.headers());
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    match info.serves {
        Serves::Everything | Serves::Calls | Serves::Pages => {
            let refused = if info.is_secure { None } else { access.refuse(request.uri(), headers) };
            match refused {
                Some(refused) => refused,
                None => http1::respond(&source, metrics, method, target, access.allowed_origin(headers)).await,
            }
        }
        Serves::Metrics => http1::respond_to_metrics_port(&source, metrics, method, target).await,
    }
}

/// Answers a request of HTTP/2 that is no call, on a task of its own.
pub fn begin(
    worker: &Rc<Worker>,
    info: &Rc<ConnectionInfo>,
    config: &Rc<ConnectionConfig>,
    held: &Rc<Held>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Payload>,
) {
    let (worker, info, held) = (Rc::clone(worker), Rc::clone(info), Rc::clone(held));
    let config = Rc::clone(config);
    tokio::task::spawn_local(async move {
        let (mut head, body) = page(&worker, &info, &config.access, &request).await.into_parts();
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let is_empty = body.is_empty() || request.method() == Method::HEAD;
        // A client that went away needs no answer.
        if let Ok(stream) = respond.send_response(Response::from_parts(head, ()), is_empty)
            && !is_empty
        {
            send(stream, body, &held).await;
        }
    });
}

async fn send(mut stream: SendStream<Payload>, mut body: Bytes, held: &Rc<Held>) {
    while body.has_remaining() {
        stream.reserve_capacity(body.len());
        let Some(Ok(capacity)) = poll_fn(|context| stream.poll_capacity(context)).await else { return };
        let piece = body.split_to(capacity.min(body.len()));
        if !piece.is_empty() && stream.send_data(Payload::new(piece, held), body.is_empty()).is_err() {
            return;
        }
    }
}
