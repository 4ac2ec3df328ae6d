//! HTTP/1.1 on the client port and the ports of metrics: the pages.

use std::convert::Infallible;
use std::rc::Rc;

use http::Request;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kvorum_api::etcdserverpb::AlarmType;
use kvorum_net::stream::Stream;

use crate::connection::{ConnectionConfig, ConnectionInfo};
use crate::http1;
use crate::pages::page;
use crate::worker::Worker;

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, stream: Stream, config: Rc<ConnectionConfig>, info: Rc<ConnectionInfo>) {
    let head_time = config.limits.page_head_time;
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, config, info) = (Rc::clone(&worker), Rc::clone(&config), Rc::clone(&info));
        async move { Ok::<_, Infallible>(page(&worker, &info, &config.access, &request).await.map(Full::new)) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        // Some peers say at once that they will send nothing more, and still want their answer.
        .half_close(true)
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(head_time)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever a peer does to its own connection ends that connection and nothing else.
    drop(connection.await);
}

/// The kind of an alarm as the pages name it.
pub fn alarm_kind(alarm: i32) -> http1::AlarmKind {
    match AlarmType::try_from(alarm) {
        Ok(AlarmType::Nospace) => http1::AlarmKind::NoSpace,
        Ok(AlarmType::Corrupt) => http1::AlarmKind::Corrupt,
        Ok(AlarmType::None) | Err(_) => http1::AlarmKind::Unknown,
    }
}
