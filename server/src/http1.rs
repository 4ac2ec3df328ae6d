//! The plain HTTP pages of the client port: `/health`, `/livez`, `/readyz`, `/version`, `/metrics`. Bodies, codes and
//! headers are etcd 3.7.1's. A page is a function of the request and of a [`HealthSource`]; sockets are elsewhere.
//!
//! Nothing here changes anything but the counters of health checks.

use std::future::Future;

use bytes::Bytes;
use http::{Method, Response, StatusCode};

use crate::ETCD_VERSION;
use crate::log::escape_json_into;
use crate::metrics::{Labels, Metrics};

/// What the pages ask of a member.
pub trait HealthSource {
    /// Whether a leader is known.
    fn has_leader(&self) -> bool;
    fn is_learner(&self) -> bool;
    /// The kinds of the active alarms.
    fn alarms(&self) -> Vec<AlarmKind>;
    /// A range of one key through the quorum, within the time a request may take. The error is etcd's text.
    fn linearizable_read(&self) -> impl Future<Output = Result<(), String>>;
    /// The same from this member alone.
    fn serializable_read(&self) -> impl Future<Output = Result<(), String>>;
    /// `3.7.0`, once decided.
    fn cluster_version(&self) -> Option<String>;
    /// `3.7.0`, once known.
    fn storage_version(&self) -> Option<String>;
    /// What the page of metrics is labelled with.
    fn metric_labels(&self) -> Labels;
    /// Called before the page of metrics is written, for gauges that are only measured when asked for.
    fn refresh_metrics(&self, _metrics: &Metrics) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmKind {
    NoSpace,
    Corrupt,
    Unknown,
}

impl AlarmKind {
    pub fn as_str(self) -> &'static str {
        match self {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
            AlarmKind::Unknown => "UNKNOWN",
        }
    }
}

/// The checks of a root page, in the order of its verbose output (etcd's order is random).
const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] = &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run(self, source: &impl HealthSource) -> Result<(), String> {
        match self {
            Check::DataCorruption if source.alarms().contains(&AlarmKind::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Check::NonLearner if source.is_learner() => Err("not supported for learner".to_owned()),
            Check::DataCorruption | Check::NonLearner => Ok(()),
            Check::SerializableRead => source.serializable_read().await,
            Check::LinearizableRead => source.linearizable_read().await,
        }
    }
}

/// Answers one request. `target` is path and query as in the request line; `allowed_origin` is what a browser is told of
/// who may read the answer. The body of a HEAD request is left to the HTTP layer to drop, as are `Date` and
/// `Content-Length` to add.
pub async fn respond(
    source: &impl HealthSource,
    metrics: &Metrics,
    method: &Method,
    target: &str,
    allowed_origin: Option<http::HeaderValue>,
) -> Response<Bytes> {
    let mut response = match *method {
        Method::OPTIONS => Response::new(Bytes::new()),
        _ => route(source, metrics, method, target).await,
    };
    let Some(origin) = allowed_origin else { return response };
    let headers = response.headers_mut();
    for (name, value) in [
        ("access-control-allow-headers", "accept, content-type, authorization"),
        ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE"),
    ] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    headers.insert(http::header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response
}

/// Answers one request on a port of `--listen-metrics-urls`: fewer pages, and nothing for browsers.
pub async fn respond_to_metrics_port(
    source: &impl HealthSource,
    metrics: &Metrics,
    method: &Method,
    target: &str,
) -> Response<Bytes> {
    if target.split('?').next() == Some("/version") {
        return failure(StatusCode::NOT_FOUND, "404 page not found");
    }
    route(source, metrics, method, target).await
}

async fn route(source: &impl HealthSource, metrics: &Metrics, method: &Method, target: &str) -> Response<Bytes> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let page = match path {
        "/health" | "/version" => Page::Single,
        "/livez" => Page::Checks("livez", LIVEZ),
        "/readyz" => Page::Checks("readyz", READYZ),
        "/metrics" => {
            source.refresh_metrics(metrics);
            return answer(StatusCode::OK, METRICS_TEXT, metrics.render(&source.metric_labels()));
        }
        _ => match sub_page(path) {
            Some(page) => page,
            None => return failure(StatusCode::NOT_FOUND, "404 page not found"),
        },
    };
    if method != Method::GET {
        let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        response.headers_mut().insert(http::header::ALLOW, http::HeaderValue::from_static("GET"));
        return response;
    }
    let query = parse_query(query);
    match page {
        Page::Single if path == "/version" => version(source),
        Page::Single => health(source, metrics, &query).await,
        Page::Checks(kind, checks) => {
            let excluded: Vec<&str> = if path[1..] == *kind { excluded(&query).collect() } else { Vec::new() };
            let checks = checks.iter().copied().filter(|check| !excluded.contains(&check.name()));
            run_checks(source, metrics, kind, checks, query.iter().any(|(name, _)| name == "verbose")).await
        }
    }
}

enum Page {
    Single,
    Checks(&'static str, &'static [Check]),
}

/// `/readyz/linearizable_read` and the like.
fn sub_page(path: &str) -> Option<Page> {
    let (kind, name) = path.strip_prefix('/')?.split_once('/')?;
    let (kind, checks) = match kind {
        "livez" => ("livez", LIVEZ),
        "readyz" => ("readyz", READYZ),
        _ => return None,
    };
    let index = checks.iter().position(|check| check.name() == name)?;
    Some(Page::Checks(kind, &checks[index..=index]))
}

fn version(source: &impl HealthSource) -> Response<Bytes> {
    let cluster = source.cluster_version().unwrap_or_else(|| "not_decided".to_owned());
    let storage = source.storage_version().unwrap_or_else(|| "unknown".to_owned());
    let body = format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#);
    answer(StatusCode::OK, "application/json", body)
}

async fn health(source: &impl HealthSource, metrics: &Metrics, query: &[(String, String)]) -> Response<Bytes> {
    let excluded: Vec<&str> = excluded(query).collect();
    let first_serializable = query.iter().find(|(name, _)| name == "serializable");
    let serializable = first_serializable.is_some_and(|(_, value)| value == "true");
    let alarm = source.alarms().into_iter().find(|alarm| !excluded.contains(&alarm.as_str()));
    let reason = if let Some(alarm) = alarm {
        Some(format!("ALARM {}", alarm.as_str()))
    } else if !serializable && !source.has_leader() {
        Some("RAFT NO LEADER".to_owned())
    } else {
        let read = if serializable { source.serializable_read().await } else { source.linearizable_read().await };
        read.err().map(|error| format!("RANGE ERROR:{error}"))
    };
    match reason {
        None => {
            metrics.health_success.increment();
            answer(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#)
        }
        Some(reason) => {
            metrics.health_failures.increment();
            let body = format!(r#"{{"health":"false","reason":"{}"}}"#, go_json(&reason));
            tracing::warn!(output = body.as_str(), "status-code" = 503, "/health error");
            failure(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

async fn run_checks(
    source: &impl HealthSource,
    metrics: &Metrics,
    kind: &str,
    checks: impl Iterator<Item = Check>,
    verbose: bool,
) -> Response<Bytes> {
    let mut report = String::new();
    let mut healthy = true;
    for check in checks {
        let result = check.run(source).await;
        metrics.note_health_check(kind, check.name(), result.is_ok());
        match result {
            Ok(()) => report.push_str(&format!("[+]{} ok\n", check.name())),
            Err(error) => {
                healthy = false;
                report.push_str(&format!("[-]{} failed: {error}\n", check.name()));
            }
        }
    }
    if !healthy {
        tracing::error!(
            path = format!("/{kind}").as_str(),
            reason = report.as_str(),
            "status-code" = 503,
            "Health check error"
        );
        return failure(StatusCode::SERVICE_UNAVAILABLE, &report);
    }
    let body = if verbose { format!("{report}ok\n") } else { "ok\n".to_owned() };
    let mut response = answer(StatusCode::OK, TEXT, body);
    set_nosniff(&mut response);
    response
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// As Go's `http.Error`: plain text, a newline behind it, and no guessing of types.
pub(crate) fn failure(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = answer(status, TEXT, format!("{text}\n"));
    set_nosniff(&mut response);
    response
}

fn set_nosniff(response: &mut Response<Bytes>) {
    let value = http::HeaderValue::from_static("nosniff");
    response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, value);
}

/// The inside of a JSON string as Go's encoder writes it, which also escapes what HTML would read.
fn go_json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    escape_json_into(&mut escaped, text);
    escaped.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn excluded(query: &[(String, String)]) -> impl Iterator<Item = &str> {
    query.iter().filter(|(name, value)| name == "exclude" && !value.is_empty()).map(|(_, value)| value.as_str())
}

/// Pairs of a query as Go reads them: what does not decode, or holds a semicolon, is passed over.
fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
    pairs
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((percent_decode(name)?, percent_decode(value)?))
        })
        .collect()
}

fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                decoded.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits fit a byte"));
            }
            other => decoded.push(other),
        }
    }
    Some(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests;
