use super::*;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// A healthy member, unless told otherwise.
#[derive(Clone)]
struct Member {
    has_leader: bool,
    is_learner: bool,
    alarms: Vec<AlarmKind>,
    linearizable: Result<(), String>,
    serializable: Result<(), String>,
    versions: Option<String>,
}

impl Default for Member {
    fn default() -> Member {
        Member {
            has_leader: true,
            is_learner: false,
            alarms: Vec::new(),
            linearizable: Ok(()),
            serializable: Ok(()),
            versions: Some("3.7.0".to_owned()),
        }
    }
}

impl HealthSource for Member {
    fn has_leader(&self) -> bool {
        self.has_leader
    }

    fn is_learner(&self) -> bool {
        self.is_learner
    }

    fn alarms(&self) -> Vec<AlarmKind> {
        self.alarms.clone()
    }

    async fn linearizable_read(&self) -> Result<(), String> {
        self.linearizable.clone()
    }

    async fn serializable_read(&self) -> Result<(), String> {
        self.serializable.clone()
    }

    fn cluster_version(&self) -> Option<String> {
        self.versions.clone()
    }

    fn storage_version(&self) -> Option<String> {
        self.versions.clone()
    }

    fn metric_labels(&self) -> Labels {
        Labels::default()
    }
}

fn ask_with(metrics: &Metrics, member: &Member, method: Method, target: &str) -> (u16, String, Response<Bytes>) {
    let future = pin!(respond(member, metrics, &method, target, Some(http::HeaderValue::from_static("*"))));
    let mut context = Context::from_waker(Waker::noop());
    match { future }.as_mut().poll(&mut context) {
        Poll::Ready(response) => {
            let body = String::from_utf8(response.body().to_vec()).expect("pages are text");
            (response.status().as_u16(), body, response)
        }
        Poll::Pending => panic!("a member of tests answers at once"),
    }
}

fn ask(member: &Member, method: Method, target: &str) -> (u16, String, Response<Bytes>) {
    ask_with(&Metrics::new(), member, method, target)
}

fn header(response: &Response<Bytes>, name: &str) -> String {
    response.headers().get(name).map_or_else(String::new, |value| value.to_str().expect("ASCII").to_owned())
}

/// Codes, bodies, types as curl shows them for etcd 3.7.1 (columns: target, code, body, type, nosniff).
#[test]
fn pages_of_a_healthy_member() {
    let text = "text/plain; charset=utf-8";
    let good = r#"{"health":"true","reason":""}"#;
    let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    let but_one = "[+]data_corruption ok\n[+]serializable_read ok\n[+]non_learner ok\nok\n";
    let versions = r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
    let lost = "404 page not found\n";
    for (target, status, body, content_type, nosniff) in [
        ("/health", 200, good, text, ""),
        ("/health?serializable=true", 200, good, text, ""),
        ("/health?exclude=NOSPACE", 200, good, text, ""),
        ("/version", 200, versions, "application/json", ""),
        ("/livez", 200, "ok\n", text, "nosniff"),
        ("/livez/serializable_read", 200, "ok\n", text, "nosniff"),
        ("/livez?verbose&exclude=foo", 200, "[+]serializable_read ok\nok\n", text, "nosniff"),
        ("/readyz", 200, "ok\n", text, "nosniff"),
        ("/readyz?verbose", 200, all, text, "nosniff"),
        ("/readyz?verbose=false", 200, all, text, "nosniff"),
        ("/readyz?verbose&exclude=linearizable_read", 200, but_one, text, "nosniff"),
        ("/readyz/linearizable_read?verbose", 200, "[+]linearizable_read ok\nok\n", text, "nosniff"),
        ("/readyz/data_corruption", 200, "ok\n", text, "nosniff"),
        ("/readyz/foo", 404, lost, text, "nosniff"),
        ("/readyz/", 404, lost, text, "nosniff"),
        ("/livez/linearizable_read", 404, lost, text, "nosniff"),
        ("/nope", 404, lost, text, "nosniff"),
        ("/", 404, lost, text, "nosniff"),
        ("", 404, lost, text, "nosniff"),
        ("/version/", 404, lost, text, "nosniff"),
    ] {
        let (found_status, found_body, response) = ask(&Member::default(), Method::GET, target);
        assert_eq!((found_status, found_body.as_str()), (status, body), "{target}");
        assert_eq!(header(&response, "content-type"), content_type, "{target}");
        assert_eq!(header(&response, "x-content-type-options"), nosniff, "{target}");
        assert_eq!(header(&response, "access-control-allow-origin"), "*", "{target}");
    }
}

#[test]
fn other_methods() {
    for target in ["/health", "/version", "/livez", "/readyz", "/readyz/non_learner"] {
        for method in [Method::POST, Method::HEAD, Method::DELETE] {
            let (status, body, response) = ask(&Member::default(), method, target);
            assert_eq!((status, body.as_str()), (405, "Method Not Allowed\n"), "{target}");
            assert_eq!(header(&response, "allow"), "GET");
        }
    }
    assert_eq!(ask(&Member::default(), Method::POST, "/nope").0, 404);
    assert_eq!(ask(&Member::default(), Method::POST, "/metrics").0, 200);
    let (status, body, response) = ask(&Member::default(), Method::OPTIONS, "/nope");
    assert_eq!((status, body.as_str()), (200, ""));
    assert_eq!(header(&response, "access-control-allow-methods"), "POST, GET, OPTIONS, PUT, DELETE");
}

#[test]
fn health_of_an_unwell_member() {
    let failed = |reason: &str| (503, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"));
    let good = (200, r#"{"health":"true","reason":""}"#.to_owned());
    let alarmed = |alarms: &[AlarmKind]| Member { alarms: alarms.to_vec(), ..Member::default() };
    let leaderless = Member { has_leader: false, linearizable: Err("no".to_owned()), ..Member::default() };
    let slow = Member { linearizable: Err("etcdserver: <timed out>".to_owned()), ..Member::default() };
    let broken = Member { serializable: Err("x".to_owned()), ..Member::default() };
    for (member, target, expected) in [
        (alarmed(&[AlarmKind::NoSpace]), "/health", failed("ALARM NOSPACE")),
        (alarmed(&[AlarmKind::NoSpace]), "/health?exclude=NOSPACE", good.clone()),
        (alarmed(&[AlarmKind::NoSpace, AlarmKind::Corrupt]), "/health?exclude=NOSPACE", failed("ALARM CORRUPT")),
        (alarmed(&[AlarmKind::NoSpace, AlarmKind::Corrupt]), "/health?exclude=NOSPACE&exclude=CORRUPT", good.clone()),
        (alarmed(&[AlarmKind::NoSpace]), "/health?exclude=%4EOSPACE", good.clone()),
        (alarmed(&[AlarmKind::NoSpace]), "/health?exclude=%ZZ&exclude=", failed("ALARM NOSPACE")),
        (alarmed(&[AlarmKind::Unknown]), "/health", failed("ALARM UNKNOWN")),
        (leaderless.clone(), "/health", failed("RAFT NO LEADER")),
        (leaderless, "/health?serializable=true", good.clone()),
        (slow.clone(), "/health", failed(r"RANGE ERROR:etcdserver: \u003ctimed out\u003e")),
        (slow.clone(), "/health?serializable=false", failed(r"RANGE ERROR:etcdserver: \u003ctimed out\u003e")),
        (slow, "/health?serializable=true", good),
        (broken, "/health?serializable=true", failed("RANGE ERROR:x")),
    ] {
        let (status, body, response) = ask(&member, Method::GET, target);
        assert_eq!((status, body), expected, "{target}");
        let nosniff = if status == 503 { "nosniff" } else { "" };
        assert_eq!(header(&response, "x-content-type-options"), nosniff, "{target}");
    }
}

#[test]
fn readiness_of_an_unwell_member() {
    let corrupt = Member { alarms: vec![AlarmKind::Corrupt], ..Member::default() };
    let learner =
        Member { is_learner: true, linearizable: Err("rpc not supported for learner".to_owned()), ..Member::default() };
    for (member, target, status, body) in [
        (
            &corrupt,
            "/readyz",
            503,
            "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n[+]linearizable_read ok\n\
             [+]non_learner ok\n\n",
        ),
        (&corrupt, "/readyz?exclude=data_corruption", 200, "ok\n"),
        (&corrupt, "/readyz/data_corruption", 503, "[-]data_corruption failed: alarm activated: CORRUPT\n\n"),
        (
            &corrupt,
            "/readyz/data_corruption?exclude=data_corruption",
            503,
            "[-]data_corruption failed: alarm activated: CORRUPT\n\n",
        ),
        (&corrupt, "/livez", 200, "ok\n"),
        (&learner, "/readyz/non_learner", 503, "[-]non_learner failed: not supported for learner\n\n"),
        (&learner, "/readyz/linearizable_read", 503, "[-]linearizable_read failed: rpc not supported for learner\n\n"),
    ] {
        let (found_status, found_body, _) = ask(member, Method::GET, target);
        assert_eq!((found_status, found_body.as_str()), (status, body), "{target}");
    }
}

#[test]
fn versions_before_they_are_known() {
    let young = Member { versions: None, ..Member::default() };
    let (_, body, _) = ask(&young, Method::GET, "/version");
    assert_eq!(body, r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","storage":"unknown"}"#);
}

#[test]
fn checks_are_counted() {
    let metrics = Metrics::new();
    ask_with(&metrics, &Member::default(), Method::GET, "/health");
    ask_with(&metrics, &Member { has_leader: false, ..Member::default() }, Method::GET, "/health");
    ask_with(&metrics, &Member { is_learner: true, ..Member::default() }, Method::GET, "/readyz");
    let (_, body, response) = ask_with(&metrics, &Member::default(), Method::GET, "/metrics");
    assert_eq!(header(&response, "content-type"), "text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
    for line in [
        "etcd_server_health_success 1\n",
        "etcd_server_health_failures 1\n",
        "etcd_server_healthcheck{name=\"non_learner\",type=\"readyz\"} 0\n",
        "etcd_server_healthchecks_total{name=\"non_learner\",status=\"error\",type=\"readyz\"} 1\n",
        "etcd_server_healthchecks_total{name=\"serializable_read\",status=\"success\",type=\"readyz\"} 1\n",
    ] {
        assert!(body.contains(line), "{line}");
    }
}
