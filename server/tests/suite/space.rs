//! The quota: what is refused when it is reached, what still works, and the way back.

use kvorum_api::etcdserverpb::alarm_request::AlarmAction;
use kvorum_api::etcdserverpb::request_op::Request;

use super::*;

/// Above what an empty backend uses.
const QUOTA_BYTES: u64 = 512 * 1024;

async fn alarms(client: &Client, action: AlarmAction) -> Vec<pb::AlarmMember> {
    let alarm = pb::AlarmType::Nospace as i32;
    // Asking is about all members, taking back about one.
    let member_id = if action == AlarmAction::Get { 0 } else { client.status().await.leader };
    let request = pb::AlarmRequest { action: action as i32, member_id, alarm };
    client.maintenance().alarm(request).await.expect("alarms").into_inner().alarms
}

fn is_no_space(status: &tonic::Status) {
    let expected = (tonic::Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
    assert_eq!((status.code(), status.message()), expected);
}

fn txn(request: Request) -> pb::TxnRequest {
    let success = vec![pb::RequestOp { request: Some(request) }];
    pb::TxnRequest { success, ..pb::TxnRequest::default() }
}

#[test]
fn a_full_store_refuses_what_needs_space_until_it_is_made() {
    run(async {
        let folder = folder();
        let config = Config { quota_backend_bytes: Some(QUOTA_BYTES), ..config(folder.path()) };
        let Half { client, member } = start_with(&config);
        let value = "v".repeat(10_000);
        let mut revision = 0;
        // Bounded far beyond what the quota can take.
        let full = 'fill: {
            for number in 0..1_000 {
                let kind = if number % 10 < 2 { "leases" } else { "pods" };
                match client.try_put(put(&format!("/registry/{kind}/{}", number % 10), &value)).await {
                    Ok(put) => revision = put,
                    Err(status) => break 'fill status,
                }
            }
            panic!("the quota was not reached");
        };
        is_no_space(&full);
        let listed = alarms(&client, AlarmAction::Get).await;
        let id = member.core().config.member_id;
        assert_eq!(listed, [pb::AlarmMember { member_id: id, alarm: pb::AlarmType::Nospace as i32 }]);
        let status = client.status().await;
        assert_eq!(status.db_size_quota, i64::try_from(QUOTA_BYTES).expect("small"));
        assert_eq!(status.errors[0], format!("memberID:{id} alarm:NOSPACE"));
        // A sample names what uses the space.
        let largest = loop {
            let mut errors = client.status().await.errors;
            if errors.len() > 1 {
                break errors.remove(1);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        let order = [largest.find(r#""/registry/pods/""#), largest.find(r#""/registry/leases/""#)];
        assert!(order[0].is_some() && order[0] < order[1], "{largest}");
        let (code, _, body) = raw::http1(&client.address, "GET", "/health").await;
        assert_eq!((code, body.as_str()), (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"));
        assert_eq!(raw::http1(&client.address, "GET", "/health?exclude=NOSPACE").await.0, 200);
        check_refusals(&client).await;
        stop(member);
        // The alarm outlives a restart.
        let Half { client, member } = start_with(&config);
        check_refusals(&client).await;
        // Making room: deletes and a compaction are allowed, and then the member takes its alarm back.
        let delete = pb::DeleteRangeRequest { key: vec![0].into(), range_end: vec![0].into(), prev_kv: false };
        let deleted = client.kv().delete_range(delete).await.expect("deletes work").into_inner();
        assert_eq!(deleted.deleted, 10);
        let now = deleted.header.expect("a header").revision;
        assert!(now > revision);
        client.compact(now, true).await.expect("compaction works");
        eventually(|| member.core().reader.alarms().is_empty()).await;
        assert_eq!(alarms(&client, AlarmAction::Get).await, []);
        assert_eq!(client.status().await.errors, Vec::<String>::new());
        client.put("a", "1").await;
        assert_eq!(raw::http1(&client.address, "GET", "/health").await.0, 200);
    });
}

async fn check_refusals(client: &Client) {
    let before = client.fingerprint().await;
    is_no_space(&client.try_put(put("small", "1")).await.expect_err("no space"));
    let grant = pb::LeaseGrantRequest { ttl: 100, id: 0 };
    is_no_space(&client.lease().lease_grant(grant).await.expect_err("no space"));
    let puts = txn(Request::RequestPut(put("small", "1")));
    is_no_space(&client.kv().txn(puts).await.expect_err("no space"));
    client.kv().txn(txn(Request::RequestRange(whole_range()))).await.expect("reads work");
    assert_eq!(client.kv().range(whole_range()).await.expect("reads work").into_inner().count, 10);
    let missing = pb::DeleteRangeRequest { key: "missing".into(), ..pb::DeleteRangeRequest::default() };
    client.kv().txn(txn(Request::RequestDeleteRange(missing))).await.expect("deletes work");
    let after = client.fingerprint().await;
    assert_eq!(after, before);
}

#[test]
fn no_quota_means_none() {
    run(async {
        let folder = folder();
        let config = Config { quota_backend_bytes: None, ..config(folder.path()) };
        let Half { client, member: _member } = start_with(&config);
        for _ in 0..20 {
            client.put("a", &"v".repeat(100_000)).await;
        }
        assert_eq!(client.status().await.db_size_quota, -1);
        assert_eq!(alarms(&client, AlarmAction::Get).await, []);
    });
}

/// What an operator raised or takes back by hand is as in etcd; only what a member raised itself it takes back.
#[test]
fn alarms_are_changed_by_hand_as_in_etcd() {
    run(async {
        let folder = folder();
        let config = Config { quota_backend_bytes: Some(QUOTA_BYTES), ..config(folder.path()) };
        let Half { client, member } = start_with(&config);
        let id = member.core().config.member_id;
        let own = pb::AlarmMember { member_id: id, alarm: pb::AlarmType::Nospace as i32 };
        assert_eq!(alarms(&client, AlarmAction::Activate).await, [own]);
        let change = async |action: AlarmAction, member_id, alarm| {
            let request = pb::AlarmRequest { action: action as i32, member_id, alarm };
            client.maintenance().alarm(request).await.expect("alarms").into_inner().alarms
        };
        let foreign = pb::AlarmMember { member_id: 7, ..own };
        let corrupt = pb::AlarmMember { member_id: 0, alarm: pb::AlarmType::Corrupt as i32 };
        assert_eq!(change(AlarmAction::Activate, 7, own.alarm).await, [foreign]);
        assert_eq!(change(AlarmAction::Activate, 0, corrupt.alarm).await, [corrupt]);
        assert_eq!(change(AlarmAction::Activate, 0, 0).await, []);
        assert_eq!(change(AlarmAction::Get, 0, 0).await, [foreign, own, corrupt]);
        stop(member);
        // Of an alarm from before a start nobody knows who raised it: the member's own counts as raised by itself.
        let Half { client, member } = start_with(&config);
        eventually(|| !member.core().reader.alarms().contains(&own)).await;
        assert_eq!(member.core().reader.alarms(), [foreign, corrupt]);
        for alarm in [foreign, corrupt] {
            let action = AlarmAction::Deactivate as i32;
            let request = pb::AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm };
            let lifted = client.maintenance().alarm(request).await.expect("alarms").into_inner().alarms;
            assert_eq!(lifted, [alarm]);
        }
        client.put("a", "1").await;
    });
}

/// Also a member that does not lead: each takes its own alarm back, through the log.
#[test]
fn every_member_of_a_full_cluster_takes_its_own_alarm_back() {
    run(async {
        let cluster = super::clusters::Cluster::start(3, |config| config.quota_backend_bytes = Some(QUOTA_BYTES)).await;
        let value = "v".repeat(10_000);
        // Through every member until all refuse.
        let mut number = 0;
        let mut refused = [false; 3];
        while refused != [true; 3] {
            let through = number % 3;
            refused[through] |= cluster.client(through).try_put(put("a", &value)).await.is_err();
            number += 1;
            assert!(number < 1_000, "the quota was not reached");
        }
        let leader = cluster.leader().await;
        let client = cluster.client((leader + 1) % 3);
        let deleted = client.kv().delete_range(pb::DeleteRangeRequest { key: "a".into(), ..Default::default() }).await;
        let revision = deleted.expect("deletes work").into_inner().header.expect("a header").revision;
        client.compact(revision, true).await.expect("compaction works");
        let core = |index: usize| cluster.members[index].as_ref().expect("it runs").member.core();
        eventually(|| (0..3).all(|index| core(index).reader.alarms().is_empty())).await;
        for index in 0..3 {
            cluster.client(index).put("b", "1").await;
        }
        cluster.agree().await;
    });
}
