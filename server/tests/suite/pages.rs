//! Plain HTTP on the client port.

use super::raw::http1;
use super::*;

#[test]
fn the_pages() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&config(folder.path()));
        for (target, body) in [
            ("/health", "{\"health\":\"true\",\"reason\":\"\"}"),
            ("/health?serializable=true", "{\"health\":\"true\",\"reason\":\"\"}"),
            ("/livez", "ok\n"),
            ("/readyz", "ok\n"),
            ("/livez?verbose", "[+]serializable_read ok\nok\n"),
            ("/readyz/linearizable_read", "ok\n"),
            ("/version", "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\"}"),
        ] {
            let (code, head, found) = http1(&client.address, "GET", target).await;
            assert_eq!((code, found.as_str()), (200, body), "{target}");
            assert!(head.contains("access-control-allow-origin: *"), "{head}");
        }
        for (method, target, code) in [
            ("POST", "/health", 405),
            ("PUT", "/version", 405),
            ("GET", "/nothing", 404),
            ("GET", "/", 404),
            ("OPTIONS", "/health", 200),
            ("HEAD", "/metrics", 200),
        ] {
            assert_eq!(http1(&client.address, method, target).await.0, code, "{method} {target}");
        }
    });
}

/// The value of a metric without labels, or of one line with them.
fn value(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is missing")).parse().expect("a number")
}

#[test]
fn metrics_count_what_happens() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&config(folder.path()));
        let puts = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
        let (_, head, before) = http1(&client.address, "GET", "/metrics").await;
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert_eq!(value(&before, puts), 0.0);
        for number in 0..5 {
            client.put(&format!("key-{number}"), "1").await;
        }
        let mut watch = client.watch(watch_all()).await;
        client.put("seen", "1").await;
        watch.events().await;
        let (_, _, after) = http1(&client.address, "GET", "/metrics").await;
        assert_eq!(value(&after, puts), 6.0);
        for (name, expected) in [
            ("etcd_server_has_leader", 1.0),
            ("etcd_server_is_leader", 1.0),
            ("etcd_server_leader_changes_seen_total", 1.0),
            ("etcd_server_is_learner", 0.0),
            ("etcd_server_proposals_pending", 0.0),
            ("etcd_debugging_mvcc_keys_total", 6.0),
            ("etcd_debugging_mvcc_current_revision", 7.0),
            ("etcd_debugging_mvcc_watcher_total", 1.0),
            ("etcd_debugging_mvcc_watch_stream_total", 1.0),
        ] {
            assert_eq!(value(&after, name), expected, "{name}");
        }
        let fsyncs = "etcd_disk_wal_fsync_duration_seconds_count";
        assert!(value(&after, fsyncs) > value(&before, fsyncs));
        assert!(value(&after, "etcd_mvcc_db_total_size_in_bytes") > 0.0);
    });
}

/// A large reply is sent in slices; all of them are bytes sent.
#[test]
fn a_large_range_is_counted_whole() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&config(folder.path()));
        let large = "v".repeat(2_000);
        for number in 0..250 {
            client.put(&format!("key-{number}"), &large).await;
        }
        let sent = "etcd_network_client_grpc_sent_bytes_total";
        let (_, _, before) = http1(&client.address, "GET", "/metrics").await;
        client.kv().range(whole_range()).await.expect("a range");
        let (_, _, after) = http1(&client.address, "GET", "/metrics").await;
        assert!(value(&after, sent) - value(&before, sent) > 500_000.0);
    });
}
