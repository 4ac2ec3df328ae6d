//! What a member holds, asked over the wire, to be compared with what another holds.

// Each test uses its part.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Command, Output};

use kvorum_api::etcdserverpb as pb;
use kvorum_api::mvccpb::KeyValue;
use kvorum_interop::process::Member;
use kvorum_interop::raw::channel;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use tonic::transport::Channel;

const KEYS: usize = 300;
const LEASE: i64 = 77;

pub fn kv(member: &Member) -> KvClient<Channel> {
    KvClient::new(channel(member.url())).max_decoding_message_size(64 << 20)
}

/// Everything that must survive a change of servers or of files.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub keys: Vec<KeyValue>,
    pub revision: i64,
    /// Hash, the revision it is of, and the compact revision.
    pub hash: (u32, i64, i64),
    /// Id, granted TTL and keys.
    pub leases: Vec<(i64, i64, usize)>,
    pub alarms: Vec<pb::AlarmMember>,
}

/// Who a member is.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    pub members: Vec<pb::Member>,
}

/// Overwritten, deleted, compacted and leased keys, values longer than a page, and an alarm.
pub async fn fill(member: &Member) {
    let mut client = kv(member);
    let mut leases = LeaseClient::new(channel(member.url()));
    leases.lease_grant(pb::LeaseGrantRequest { ttl: 100_000, id: LEASE }).await.expect("a lease is granted");
    for number in 0..KEYS {
        let length = if number % 97 == 0 { 70_000 } else { number % 300 };
        let lease = if number % 10 == 0 { LEASE } else { 0 };
        let key = format!("key/{:04}", number % 200).into();
        let put = pb::PutRequest { key, value: vec![b'v'; length].into(), lease, ..Default::default() };
        client.put(put).await.expect("a key is put");
    }
    let range_end = "key/0060".into();
    let delete = pb::DeleteRangeRequest { key: "key/0050".into(), range_end, ..Default::default() };
    client.delete_range(delete).await.expect("keys are deleted");
    client.compact(pb::CompactionRequest { revision: 150, physical: true }).await.expect("it is compacted");
    put(member, "last", "one").await;
    let alarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate as i32,
        member_id: 0xabcd,
        alarm: pb::AlarmType::Nospace as i32,
    };
    MaintenanceClient::new(channel(member.url())).alarm(alarm).await.expect("an alarm is raised");
}

pub async fn put(member: &Member, key: &str, value: &str) {
    let put = pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    kv(member).put(put).await.expect("a key is put");
}

/// Takes the alarm back, which no put gets past.
pub async fn disarm(member: &Member) {
    let alarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Deactivate as i32,
        member_id: 0xabcd,
        alarm: pb::AlarmType::Nospace as i32,
    };
    MaintenanceClient::new(channel(member.url())).alarm(alarm).await.expect("an alarm is lifted");
}

pub async fn state(member: &Member) -> State {
    let all = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let keys = kv(member).range(all).await.expect("all keys").into_inner();
    let mut maintenance = MaintenanceClient::new(channel(member.url()));
    let hash = maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await.expect("a hash").into_inner();
    let mut client = LeaseClient::new(channel(member.url()));
    let listed = client.lease_leases(pb::LeaseLeasesRequest {}).await.expect("leases").into_inner();
    let mut leases = Vec::new();
    for pb::LeaseStatus { id } in listed.leases {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let lease = client.lease_time_to_live(request).await.expect("a lease").into_inner();
        leases.push((id, lease.granted_ttl, lease.keys.len()));
    }
    leases.sort_unstable();
    let ask = pb::AlarmRequest { action: pb::alarm_request::AlarmAction::Get as i32, ..Default::default() };
    State {
        revision: keys.header.expect("a header").revision,
        keys: keys.kvs,
        hash: (hash.hash, hash.hash_revision, hash.compact_revision),
        leases,
        alarms: maintenance.alarm(ask).await.expect("alarms").into_inner().alarms,
    }
}

pub async fn identity(member: &Member) -> Identity {
    let mut client = ClusterClient::new(channel(member.url()));
    let list = client.member_list(pb::MemberListRequest { linearizable: true }).await;
    let listed = list.expect("members").into_inner();
    let header = listed.header.expect("a header");
    Identity { cluster_id: header.cluster_id, member_id: header.member_id, members: listed.members }
}

pub async fn term(member: &Member) -> u64 {
    let status = MaintenanceClient::new(channel(member.url())).status(pb::StatusRequest {}).await;
    status.expect("a status").into_inner().raft_term
}

/// Saves a snapshot as `etcdctl snapshot save` does.
pub async fn save(member: &Member, path: &Path) {
    let mut stream = MaintenanceClient::new(channel(member.url()))
        .max_decoding_message_size(64 << 20)
        .snapshot(pb::SnapshotRequest {})
        .await
        .expect("a snapshot")
        .into_inner();
    let mut contents = Vec::new();
    while let Some(piece) = stream.message().await.expect("the snapshot goes on") {
        contents.extend_from_slice(&piece.blob);
    }
    std::fs::write(path, contents).expect("it can be written");
}

pub fn run(tool: &Path, arguments: &[&str]) -> Output {
    Command::new(tool).args(arguments).output().expect("the tool runs")
}

pub fn kvorumutl() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_kvorumutl"))
}

/// Runs it and demands that it succeeds.
pub fn succeed(tool: &Path, arguments: &[&str]) -> String {
    let output = run(tool, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{tool:?} {arguments:?}: {stderr}");
    stderr
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

/// CVE-2020-15113: folders and files of a member are its user's alone, wherever they came from.
pub fn check_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path).expect("it is there");
    let mode = metadata.permissions().mode() & 0o777;
    assert_eq!(mode, if metadata.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder") {
            check_private(&entry.expect("an entry").path());
        }
    }
}
