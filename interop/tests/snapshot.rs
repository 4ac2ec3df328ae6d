//! Snapshots that `etcdctl` saves from the server under test: `etcdutl` finds them well, and a real etcd that is restored
//! from one has the same keys and the same hash.

use std::path::Path;
use std::process::Command;

use kvorum_api::etcdserverpb as pb;
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::raw::channel;
use kvorum_interop::tools;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use serde_json::Value;

const KEYS: usize = 2_000;

fn client(member: &Member) -> KvClient<tonic::transport::Channel> {
    KvClient::new(channel(member.url())).max_decoding_message_size(64 << 20)
}

/// Overwritten, deleted, compacted and leased keys, and values longer than a page. Returns the revision.
async fn fill(member: &Member) -> i64 {
    let mut client = client(member);
    let lease = pb::LeaseGrantRequest { ttl: 100_000, id: 77 };
    let mut leases = pb::lease_client::LeaseClient::new(channel(member.url()));
    leases.lease_grant(lease).await.expect("a lease is granted");
    for number in 0..KEYS {
        let length = if number % 97 == 0 { 70_000 } else { number % 300 };
        let lease = if number % 10 == 0 { 77 } else { 0 };
        let key = format!("key/{:04}", number % 1_500).into();
        let put = pb::PutRequest { key, value: vec![b'v'; length].into(), lease, ..Default::default() };
        client.put(put).await.expect("a key is put");
    }
    let range_end = "key/0100".into();
    let delete = pb::DeleteRangeRequest { key: "key/0050".into(), range_end, ..Default::default() };
    client.delete_range(delete).await.expect("keys are deleted");
    client.compact(pb::CompactionRequest { revision: 700, physical: true }).await.expect("it is compacted");
    let put = pb::PutRequest { key: "last".into(), value: "one".into(), ..Default::default() };
    client.put(put).await.expect("a key is put").into_inner().header.expect("a header").revision
}

async fn keys(member: &Member) -> pb::RangeResponse {
    let all = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let mut response = client(member).range(all).await.expect("all keys").into_inner();
    response.header = None;
    response
}

async fn hash(member: &Member, revision: i64) -> (u32, i64) {
    let mut client = MaintenanceClient::new(channel(member.url()));
    let response = client.hash_kv(pb::HashKvRequest { revision }).await.expect("a hash").into_inner();
    (response.hash, response.compact_revision)
}

fn save(etcdctl: &Path, member: &Member, file: &Path) {
    let mut command = Command::new(etcdctl);
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", member.url())).args(["snapshot", "save"]).arg(file);
    tools::run(&mut command).expect("the snapshot is saved");
}

fn status(etcdutl: &Path, file: &Path) -> Value {
    let mut command = Command::new(etcdutl);
    let output = tools::run(command.args(["snapshot", "status", "-w", "json"]).arg(file)).expect("the file is well");
    serde_json::from_str(&output).expect("etcdutl prints JSON")
}

#[tokio::test]
async fn etcd_is_restored_from_our_snapshot() {
    let Some(etcdctls) = tools::or_skip(tools::all_etcdctl()) else { return };
    let Some(etcdutl) = tools::or_skip(tools::released("etcdutl")) else { return };
    let Some(etcd) = tools::or_skip(tools::released("etcd")) else { return };
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let ours = Member::start(Kind::Server, &server, &[]).expect("the server must start");
    let revision = fill(&ours).await;
    for etcdctl in etcdctls {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("snapshot.db");
        save(&etcdctl, &ours, &file);
        let status = status(&etcdutl, &file);
        let expected = keys(&ours).await;
        assert_eq!(status["revision"], revision);
        assert_eq!(status["totalKey"], expected.kvs.len());
        assert_eq!(status["version"], "3.7.0");
        let length = std::fs::metadata(&file).expect("the file is there").len();
        assert_eq!(status["totalSize"], length - 32);

        let mut theirs = Member::prepare(Kind::Server, &etcd, &[]).expect("a folder");
        let mut restore = Command::new(&etcdutl);
        restore.args(["snapshot", "restore"]).arg(&file).arg("--data-dir").arg(theirs.folder().join("data"));
        tools::run(&mut restore).expect("the snapshot is restored");
        theirs.restart().expect("etcd starts");
        assert_eq!(keys(&theirs).await, expected, "the same keys");
        assert_eq!(hash(&theirs, revision).await, hash(&ours, revision).await, "the same hash");
        assert_eq!(hash(&ours, 0).await, hash(&ours, revision).await);
    }
    // Nothing is left of the copies.
    let snap = ours.folder().join("data/member/snap");
    assert_eq!(std::fs::read_dir(snap).expect("the folder is there").count(), 0);
}
