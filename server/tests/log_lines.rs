//! What the binary logs while nothing goes wrong: lines of JSON, nothing above `info`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use kvorum_api::etcdserverpb as pb;
use kvorum_api::etcdserverpb::kv_client::KvClient;
use kvorum_api::etcdserverpb::lease_client::LeaseClient;
use serde_json::Value;

/// Killed when the test fails before it stops.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn line(text: &str) -> Value {
    let line: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    for field in ["level", "ts", "caller", "msg"] {
        assert!(line[field].is_string(), "{field} is missing: {text}");
    }
    line
}

#[tokio::test]
async fn a_normal_life_has_no_warnings() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for round in 0..2 {
        let mut server = Server(
            Command::new(env!("CARGO_BIN_EXE_kvorum"))
                .arg("--data-dir")
                .arg(folder.path())
                .args(["--listen-client-urls", "http://127.0.0.1:0"])
                .args(["--advertise-client-urls", "http://127.0.0.1:2379"])
                .args(["--name", "one", "--snapshot-count", "20"])
                .env_clear()
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary was built for this test"),
        );
        let mut stderr = BufReader::new(server.0.stderr.take().expect("it is piped"));
        let mut lines = Vec::new();
        let address = loop {
            let mut text = String::new();
            assert_ne!(stderr.read_line(&mut text).expect("text"), 0, "it ended: {lines:#?}");
            let line = line(&text);
            let address = line["address"].as_str().map(str::to_owned);
            lines.push(line);
            if let Some(address) = address {
                break address;
            }
        };
        assert!(lines.iter().any(|line| line["msg"] == "ready to serve client requests"), "{lines:#?}");
        use_it(&format!("http://{address}")).await;
        let pid = rustix::process::Pid::from_child(&server.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).expect("text");
        assert!(server.0.wait().expect("it ends").success(), "{rest}");
        lines.extend(rest.lines().map(line));
        let loud: Vec<&Value> =
            lines.iter().filter(|line| !matches!(line["level"].as_str(), Some("info" | "debug"))).collect();
        assert!(loud.is_empty(), "round {round}: {loud:#?}");
        assert!(lines.iter().any(|line| line["msg"] == "saved snapshot"), "{lines:#?}");
    }
}

/// A bit of everything that clients do.
async fn use_it(url: &str) {
    let mut kv = KvClient::connect(url.to_owned()).await.expect("it is there");
    let mut last = 0;
    for number in 0..60 {
        let put = pb::PutRequest { key: vec![number % 7].into(), value: "v".into(), ..pb::PutRequest::default() };
        last = kv.put(put).await.expect("a put").into_inner().header.expect("a header").revision;
    }
    kv.put(pb::PutRequest::default()).await.expect_err("a bad request is the client's affair");
    kv.compact(pb::CompactionRequest { revision: last, physical: true }).await.expect("a compaction");
    let mut leases = LeaseClient::connect(url.to_owned()).await.expect("it is there");
    let lease = leases.lease_grant(pb::LeaseGrantRequest { ttl: 100, id: 0 }).await.expect("a lease").into_inner();
    leases.lease_revoke(pb::LeaseRevokeRequest { id: lease.id }).await.expect("a revocation");
}
