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
                match client.try_put(put(&format!("key-{}", number % 10), &value)).await {
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
        assert_eq!(status.errors, [format!("memberID:{id} alarm:NOSPACE")]);
        let (code, _, body) = raw::http1(&client.address, "GET", "/health").await;
        assert_eq!((code, body.as_str()), (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"));
        assert_eq!(raw::http1(&client.address, "GET", "/health?exclude=NOSPACE").await.0, 200);
        check_refusals(&client).await;
        stop(member);
        // The alarm outlives a restart.
        let Half { client, member: _member } = start_with(&config);
        check_refusals(&client).await;
        // Making room: deletes and a compaction are allowed, and the alarm stays until it is taken back.
        let delete = pb::DeleteRangeRequest { key: vec![0].into(), range_end: vec![0].into(), prev_kv: false };
        let deleted = client.kv().delete_range(delete).await.expect("deletes work").into_inner();
        assert_eq!(deleted.deleted, 10);
        let now = deleted.header.expect("a header").revision;
        assert!(now > revision);
        client.compact(now, true).await.expect("compaction works");
        is_no_space(&client.try_put(put("a", "1")).await.expect_err("the alarm stands"));
        assert_eq!(alarms(&client, AlarmAction::Deactivate).await, listed);
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
        assert_eq!(client.status().await.db_size_quota, 0);
        assert_eq!(alarms(&client, AlarmAction::Get).await, []);
    });
}
