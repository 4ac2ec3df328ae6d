//! HTTP/1.1 on the client port and the ports of metrics: the pages.

use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kvorum_api::etcdserverpb::AlarmType;
use kvorum_net::stream::Stream;

use crate::connection::ConnectionInfo;
use crate::http1;
use crate::pages::page;
use crate::worker::Worker;

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, stream: Stream, info: Rc<ConnectionInfo>) {
    let service = service_fn(move |request| {
        let (worker, info) = (Rc::clone(&worker), Rc::clone(&info));
        async move { Ok::<_, Infallible>(respond(&worker, &info, &request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        // Some peers say at once that they will send nothing more, and still want their answer.
        .half_close(true)
        .timer(hyper_util::rt::TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    // Whatever a peer does to its own connection ends that connection and nothing else.
    drop(connection.await);
}

async fn respond(worker: &Rc<Worker>, info: &ConnectionInfo, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    page(worker, info, request.method(), target).await.map(Full::new)
}

/// The kind of an alarm as the pages name it.
pub fn alarm_kind(alarm: i32) -> http1::AlarmKind {
    match AlarmType::try_from(alarm) {
        Ok(AlarmType::Nospace) => http1::AlarmKind::NoSpace,
        Ok(AlarmType::Corrupt) => http1::AlarmKind::Corrupt,
        Ok(AlarmType::None) | Err(_) => http1::AlarmKind::Unknown,
    }
}
