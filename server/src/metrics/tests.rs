use super::instruments::float_text;
use super::*;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

fn facts() -> Labels {
    Labels {
        server_id: "8e9e05c52164694d".to_owned(),
        cluster_version: Some("3.7".to_owned()),
        alarms: vec![("8e9e05c52164694d".to_owned(), "NOSPACE")],
        feature_gates: vec![("LeaseCheckpoint", "ALPHA", false)],
        peers: Vec::new(),
    }
}

/// A strict reader of the text format: families are announced, samples belong to the last family, names and labels
/// have the right letters, numbers parse, no sample occurs twice. Returns sample → value.
fn parse(text: &str) -> HashMap<String, f64> {
    let mut samples = HashMap::new();
    let mut families = HashSet::new();
    let (mut family, mut kind) = (String::new(), String::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("help has a text");
            assert!(!help.trim().is_empty() && help == help.trim(), "{line}");
            assert!(families.insert(name.to_owned()), "{name} is announced twice");
            family = name.to_owned();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, found) = rest.split_once(' ').expect("a type");
            assert_eq!(name, family);
            assert!(["counter", "gauge", "histogram"].contains(&found), "{line}");
            kind = found.to_owned();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let (name, labels) = series
            .split_once('{')
            .map_or((series, ""), |(name, labels)| (name, labels.strip_suffix('}').expect("labels end")));
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
        let base = match kind.as_str() {
            "histogram" => ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).expect(line),
            _ => name,
        };
        assert_eq!(base, family, "{line}");
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once('=').expect(line);
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            assert!(value.len() >= 2 && value.starts_with('"') && value.ends_with('"'), "{line}");
        }
        let number = if value == "+Inf" { f64::INFINITY } else { value.parse().expect(line) };
        assert!(samples.insert(series.to_owned(), number).is_none(), "{series} occurs twice");
    }
    samples
}

#[test]
fn the_page_is_prometheus_text() {
    let metrics = Metrics::new();
    metrics.put_total.add(3);
    metrics.db_total_size_bytes.set(20_971_520);
    metrics.compact_revision.set(-1);
    metrics.grpc.unary(GrpcMethod::Put, GrpcCode::OK);
    metrics.grpc.unary(GrpcMethod::Put, GrpcCode::from_number(3));
    metrics.grpc.started(GrpcMethod::Watch);
    metrics.grpc.sent(GrpcMethod::Watch);
    metrics.grpc.received(GrpcMethod::Watch);
    metrics.grpc.handled(GrpcMethod::Watch, GrpcCode::CANCELED);
    metrics.note_health_check("readyz", "non_learner", true);
    metrics.note_health_check("readyz", "no such check", true);
    let text = metrics.render(&facts());
    let samples = parse(&text);
    for (series, value) in [
        ("etcd_mvcc_put_total", 3.0),
        ("etcd_mvcc_db_total_size_in_bytes", 20_971_520.0),
        ("etcd_debugging_mvcc_compact_revision", -1.0),
        (r#"etcd_server_version{server_version="3.7.1"}"#, 1.0),
        (r#"etcd_cluster_version{cluster_version="3.7"}"#, 1.0),
        (r#"etcd_server_id{server_id="8e9e05c52164694d"}"#, 1.0),
        (r#"etcd_server_feature_enabled{name="LeaseCheckpoint",stage="ALPHA"}"#, 0.0),
        (r#"etcd_server_healthcheck{name="non_learner",type="readyz"}"#, 1.0),
        (r#"etcd_server_healthchecks_total{name="non_learner",status="success",type="readyz"}"#, 1.0),
        (
            r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"}"#,
            1.0,
        ),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    for (name, service, kind, counts) in [
        ("Put", "KV", "unary", [2.0, 2.0, 1.0]),
        ("Watch", "Watch", "bidi_stream", [1.0, 1.0, 1.0]),
        ("Txn", "KV", "unary", [0.0, 0.0, 0.0]),
    ] {
        let series = format!(r#"{{grpc_method="{name}",grpc_service="etcdserverpb.{service}",grpc_type="{kind}"}}"#);
        let found =
            ["started", "msg_received", "msg_sent"].map(|what| samples[&format!("grpc_server_{what}_total{series}")]);
        assert_eq!(found, counts, "{name}");
    }
    assert!(text.contains("etcd_mvcc_db_total_size_in_bytes 2.097152e+07\n"), "numbers are written as Go writes them");
    assert!(samples["process_resident_memory_bytes"] > 0.0);
    assert!(samples["process_start_time_seconds"] > 1e9);
    assert!(samples["process_open_fds"] >= 3.0);
    assert!(samples.contains_key("process_cpu_seconds_total") && samples.contains_key("os_fd_limit"));
}

/// Dashboards and alerts that etcd ships ask for these (without those between members).
#[test]
fn what_dashboards_need_is_there() {
    let text = Metrics::new().render(&facts());
    for name in [
        "etcd_disk_backend_commit_duration_seconds_bucket",
        "etcd_disk_wal_fsync_duration_seconds_bucket",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_server_has_leader",
        "etcd_server_is_leader",
        "etcd_server_leader_changes_seen_total",
        "etcd_server_proposals_applied_total",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_failed_total",
        "etcd_server_proposals_pending",
        "etcd_server_quota_backend_bytes",
        "grpc_server_started_total",
        "grpc_server_handled_total",
        "process_resident_memory_bytes",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}");
    }
}

#[test]
fn histograms_are_cumulative() {
    let metrics = Metrics::new();
    for milliseconds in [0, 1, 2, 3, 20_000] {
        metrics.wal_fsync_seconds.observe_duration(Duration::from_millis(milliseconds));
    }
    assert_eq!(metrics.wal_fsync_seconds.count(), 5);
    let samples = parse(&metrics.render(&Labels::default()));
    for (bound, count) in [("0.001", 2.0), ("0.002", 3.0), ("0.004", 4.0), ("8.192", 4.0), ("+Inf", 5.0)] {
        let series = format!(r#"etcd_disk_wal_fsync_duration_seconds_bucket{{le="{bound}"}}"#);
        assert_eq!(samples.get(&series), Some(&count), "{series}");
    }
    assert_eq!(samples["etcd_disk_wal_fsync_duration_seconds_sum"], 20.006);
    assert_eq!(samples["etcd_disk_wal_fsync_duration_seconds_count"], 5.0);
}

#[test]
fn numbers_are_written_as_go_writes_them() {
    for (value, text) in [
        (0.0, "0"),
        (-1.0, "-1"),
        (0.001, "0.001"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (524_288.0, "524288"),
        (1_048_576.0, "1.048576e+06"),
        (2_147_483_648.0, "2.147483648e+09"),
        (52.4288, "52.4288"),
        (f64::INFINITY, "+Inf"),
        (f64::NAN, "NaN"),
    ] {
        assert_eq!(float_text(value), text);
    }
}

#[test]
fn methods_are_found_by_path() {
    assert_eq!(GrpcMethod::from_path("/etcdserverpb.KV/Put"), Some(GrpcMethod::Put));
    assert_eq!(GrpcMethod::from_path("/grpc.health.v1.Health/Watch"), Some(GrpcMethod::HealthWatch));
    for path in ["", "/", "/etcdserverpb.KV/Nope", "etcdserverpb.KV/Put"] {
        assert_eq!(GrpcMethod::from_path(path), None);
    }
    assert_eq!(GrpcCode::from_number(16).as_str(), "Unauthenticated");
    assert_eq!(GrpcCode::from_number(99).as_str(), "Unknown");
    assert_eq!(GrpcCode::from_number(-1).as_str(), "Unknown");
}
