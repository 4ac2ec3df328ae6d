//! Corners that a random stream does not reach or that need a script: bad input, alarms, health, watchers after a
//! compaction. Each step goes to the oracle and to the server under test, and the answers must agree.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use futures_util::StreamExt;
use kvorum_api::{etcdserverpb as pb, healthpb};
use kvorum_interop::call::{Call, Reply};
use kvorum_interop::pair::{Half, both};
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::watching::{ARRIVAL, Seen, WatchStream};
use kvorum_interop::{raw, tools};
use pb::request_op::Request;
use prost::Message;

async fn start() -> Option<(Half, Half)> {
    let server = tools::or_skip(tools::server_under_test())?;
    let oracle = tools::or_skip(tools::go_program("oracle"))?;
    Some((Half::start(Kind::Oracle, &oracle, &[]).await, Half::start(Kind::Server, &server, &[]).await))
}

fn put(key: &'static str, value: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn txn(success: impl IntoIterator<Item = Request>) -> Call {
    let success = success.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect();
    Call::Txn(pb::TxnRequest { success, ..Default::default() })
}

fn range(key: &'static str, revision: i64) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), revision, ..Default::default() }
}

/// A revision below 0 means "now" to a range alone. In a transaction it is compacted, except -1 before any compaction.
#[tokio::test]
async fn negative_revisions() {
    let Some((left, right)) = start().await else { return };
    both(&left, &right, &Call::Put(put("a", "1"))).await.expect("a put succeeds");
    for compact in [None, Some(2)] {
        if let Some(revision) = compact {
            let request = pb::CompactionRequest { revision, physical: true };
            both(&left, &right, &Call::Compact(request)).await.expect("2 is there");
        }
        for revision in [-1, -2, i64::MIN] {
            let alone = both(&left, &right, &Call::Range(range("a", revision))).await;
            assert!(alone.is_ok(), "{alone:?}");
            let read_only = [Request::RequestRange(range("a", revision))];
            let inside = both(&left, &right, &txn(read_only.clone())).await;
            assert_eq!(inside.is_ok(), revision == -1 && compact.is_none(), "{inside:?}");
            let writing = read_only.into_iter().chain([Request::RequestPut(put("b", "1"))]);
            assert_eq!(both(&left, &right, &txn(writing)).await.is_ok(), inside.is_ok());
        }
    }
}

/// A delete whose end is "\0" or lies before its key overlaps with no put, although the former deletes to the end.
#[tokio::test]
async fn overlaps_in_a_transaction() {
    let Some((left, right)) = start().await else { return };
    for (key, end, accepted) in
        [("a", "", false), ("a", "b", false), ("a", "\0", true), ("b", "a", true), ("a\0", "b", true)]
    {
        let delete = pb::DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: true };
        let call = txn([Request::RequestPut(put("a", key)), Request::RequestDeleteRange(delete)]);
        assert_eq!(both(&left, &right, &call).await.is_ok(), accepted, "{key:?} to {end:?}");
    }
    let nested = |request| {
        let success = vec![pb::RequestOp { request: Some(request) }];
        Request::RequestTxn(pb::TxnRequest { success, ..Default::default() })
    };
    let delete = Request::RequestDeleteRange(pb::DeleteRangeRequest { key: "a".into(), ..Default::default() });
    let puts = Request::RequestPut(put("a", "nested"));
    // A sibling's put before the delete is not seen, one after it is.
    let before = both(&left, &right, &txn([nested(puts.clone()), nested(delete.clone())])).await;
    let after = both(&left, &right, &txn([nested(delete), nested(puts)])).await;
    assert_eq!((before.is_ok(), after.is_ok()), (true, false));
}

/// etcd 3.7.1 dies of this transaction and cannot start again; whatever a server answers, it must live and start.
#[tokio::test]
async fn a_kept_value_that_was_just_deleted() {
    if std::env::var_os(tools::SERVER).is_some_and(|path| !path.is_empty()) {
        println!("SKIPPED: a foreign server may die of this");
        return;
    }
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let mut half = Half::start(Kind::Server, &server, &[]).await;
    half.send(&Call::Put(put("a", "1"))).await.expect("a put succeeds");
    let delete = pb::DeleteRangeRequest { key: "a".into(), range_end: Bytes::from_static(b"\0"), prev_kv: false };
    let keep = pb::PutRequest { ignore_value: true, ..put("a", "") };
    half.send(&txn([Request::RequestDeleteRange(delete), Request::RequestPut(keep)])).await.ok();
    half.send(&Call::Put(put("a", "2"))).await.expect("the server must live");
    half.member.kill();
    half.member.restart().expect("the server must start again");
}

#[tokio::test]
async fn bytes_that_are_no_request() {
    let Some((left, right)) = start().await else { return };
    let bodies: [&'static [u8]; 4] = [b"\xff", b"\x0a\x05a", b"\x0f\x01", b"\x0b"];
    for (path, body) in
        ["/etcdserverpb.KV/Put", "/etcdserverpb.KV/Txn"].into_iter().flat_map(|path| bodies.map(|body| (path, body)))
    {
        let call = Call::Bytes { path, body: Bytes::from_static(body), what: "no message" };
        assert!(both(&left, &right, &call).await.is_err(), "{body:?}");
    }
    // Fields and enum values of the future are ignored or refused, but never break anything.
    let mut unknown = put("a", "1").encode_to_vec();
    unknown.extend(b"\xa2\x06\x03abc\xa8\x06\x01");
    let call = Call::Bytes { path: "/etcdserverpb.KV/Put", body: unknown.into(), what: "unknown fields" };
    assert!(both(&left, &right, &call).await.is_ok());
    for path in ["/etcdserverpb.KV/Nothing", "/etcdserverpb.Nothing/Put", "/nothing"] {
        let call = Call::Bytes { path, body: Bytes::new(), what: "no such method" };
        for half in [&left, &right] {
            let failure = half.send(&call).await.expect_err("there is no such method");
            assert_eq!(failure.code, tonic::Code::Unimplemented, "{path}: {failure:?}");
        }
    }
    for garbage in [
        &b"\0\0\0\0\0\0\0\0\0\0\0\0"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage of many bytes",
        b"\x16\x03\x01\0\x05hello",
    ] {
        for half in [&left, &right] {
            let address = half.member.url().trim_start_matches("http://");
            let mut connection = TcpStream::connect(address).expect("the port is open");
            connection.write_all(garbage).ok();
            connection.shutdown(std::net::Shutdown::Write).ok();
            connection.read_to_end(&mut Vec::new()).ok();
        }
    }
    both(&left, &right, &Call::Put(put("a", "alive"))).await.expect("both must live");
}

#[tokio::test]
async fn health() {
    let Some((left, right)) = start().await else { return };
    for (service, code) in [("", tonic::Code::Ok), ("etcdserverpb.KV", tonic::Code::NotFound)] {
        let body: Bytes = healthpb::HealthCheckRequest { service: service.to_owned() }.encode_to_vec().into();
        let mut outcomes = Vec::new();
        for half in [&left, &right] {
            outcomes.push(raw::unary(&half.channel, "/grpc.health.v1.Health/Check", body.clone()).await);
        }
        assert_eq!(outcomes[0], outcomes[1]);
        assert_eq!(outcomes[0].as_ref().map_or_else(|failure| failure.code, |_| tonic::Code::Ok), code);
    }
}

/// With the alarm raised, what needs space is refused and everything else goes on.
#[tokio::test]
async fn no_space() {
    let Some((left, right)) = start().await else { return };
    both(&left, &right, &Call::Put(put("a", "1"))).await.expect("a put succeeds");
    let (activate, deactivate, no_space, corrupt) = (1, 2, 1, 2);
    let alarm = |half: &Half, action, alarm| {
        Call::Alarm(pb::AlarmRequest { action, member_id: half.identity.member_id, alarm })
    };
    let steps = [
        (activate, no_space),
        (deactivate, no_space),
        (deactivate, no_space),
        (activate, corrupt),
        (deactivate, corrupt),
    ];
    for (action, kind) in steps {
        let (one, other) =
            (left.send(&alarm(&left, action, kind)).await, right.send(&alarm(&right, action, kind)).await);
        assert_eq!(one, other, "action {action} for alarm {kind}");
        let delete = pb::DeleteRangeRequest { key: "b".into(), ..Default::default() };
        let requests = [
            Call::Alarm(pb::AlarmRequest::default()),
            Call::Put(put("b", "2")),
            txn([Request::RequestPut(put("c", "3"))]),
            txn([Request::RequestRange(range("a", 0))]),
            txn([Request::RequestDeleteRange(delete.clone())]),
            Call::LeaseGrant(pb::LeaseGrantRequest { ttl: 1000, id: 5 }),
            Call::LeaseLeases,
            Call::LeaseRevoke(pb::LeaseRevokeRequest { id: 5 }),
            Call::Range(range("a", 0)),
            Call::DeleteRange(delete),
            Call::HashKv(pb::HashKvRequest { revision: 0 }),
            Call::Status,
        ];
        for call in requests {
            both(&left, &right, &call).await.ok();
        }
    }
}

/// A watch that a compaction ended: its answer has header revision 0, it stays known until it is cancelled, and until
/// then the stream gets no progress answers.
#[tokio::test]
async fn a_watch_behind_a_compaction() {
    let Some((left, right)) = start().await else { return };
    for value in ["1", "2", "3"] {
        both(&left, &right, &Call::Put(put("a", value))).await.expect("a put succeeds");
    }
    let compact = pb::CompactionRequest { revision: 3, physical: true };
    both(&left, &right, &Call::Compact(compact)).await.expect("3 is there");
    let mut all = Vec::new();
    for half in [&left, &right] {
        let stream = WatchStream::open(&half.channel, half.identity);
        let create = |start_revision, watch_id| pb::WatchCreateRequest {
            key: "a".into(),
            start_revision,
            watch_id,
            prev_kv: true,
            ..Default::default()
        };
        stream.create(create(2, 5)).await;
        assert!(stream.wait(ARRIVAL, |seen| seen.canceled.contains_key(&5)).await, "{:?}", stream.seen());
        stream.progress().await;
        // The id is still taken, and cancelling it is answered once; then progress is.
        stream.create(create(0, 5)).await;
        stream.cancel(5).await;
        assert!(stream.wait(ARRIVAL, |seen| seen.canceled[&5].len() == 2).await, "{:?}", stream.seen());
        stream.cancel(5).await;
        stream.create(create(3, 6)).await;
        let caught_up = |seen: &Seen| seen.events.get(&6).is_some_and(|events| events.len() == 2);
        assert!(stream.wait(ARRIVAL, caught_up).await, "{:?}", stream.seen());
        stream.progress().await;
        assert!(stream.wait(ARRIVAL, |seen| !seen.progress.is_empty()).await, "{:?}", stream.seen());
        all.push(stream.seen());
    }
    assert_eq!(all[0].difference(&all[1], true), None);
    assert_eq!(all[0].created, all[1].created);
    assert_eq!(all[0].canceled[&5][0].header.expect("every answer has a header").revision, 0);
    assert_eq!(all[0].progress, [4]);
}

/// More revisions than fit into one answer arrive whole and in order.
#[tokio::test]
async fn a_watch_far_behind() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let member = Member::start(Kind::Server, &server, &["--unsafe-no-fsync"]).expect("the server must start");
    let channel = raw::channel(member.url());
    for _ in 0..2500 {
        let puts = [Request::RequestPut(put("a", "1")), Request::RequestPut(put("b", "1"))];
        txn(puts).send(&channel).await.expect("a transaction succeeds");
    }
    let stream = WatchStream::open(&channel, Default::default());
    let request =
        pb::WatchCreateRequest { key: "a".into(), range_end: "c".into(), start_revision: 2, ..Default::default() };
    stream.create(request).await;
    let complete = |seen: &Seen| seen.events.get(&0).is_some_and(|events| events.len() == 5000);
    assert!(stream.wait(ARRIVAL, complete).await, "{:?}", stream.seen().ended);
    let seen = stream.seen();
    assert!(seen.faults.is_empty(), "{:?}", seen.faults);
    let revisions = seen.events[&0].iter().map(|event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision));
    assert!(revisions.eq((2..2502).flat_map(|revision| [revision, revision])));
}

/// Once a compaction is finished, the hash at its revision is the one taken on the way, with the compaction before it.
#[tokio::test]
async fn the_hash_of_a_finished_compaction() {
    let Some((left, right)) = start().await else { return };
    for value in ["1", "2", "3", "4", "5", "6"] {
        both(&left, &right, &Call::Put(put("a", value))).await.expect("a put succeeds");
    }
    for (revision, compacted_before) in [(3, -1), (5, 3)] {
        let compact = pb::CompactionRequest { revision, physical: true };
        both(&left, &right, &Call::Compact(compact)).await.expect("the revision is there");
        let hash = both(&left, &right, &Call::HashKv(pb::HashKvRequest { revision })).await;
        let Ok(Reply::HashKv(hash)) = hash else { panic!("no hash: {hash:?}") };
        assert_eq!((hash.hash_revision, hash.compact_revision), (revision, compacted_before));
    }
    // Even at an older compaction, which is gone for everything else.
    assert!(both(&left, &right, &Call::HashKv(pb::HashKvRequest { revision: 3 })).await.is_ok());
    assert!(both(&left, &right, &Call::HashKv(pb::HashKvRequest { revision: 4 })).await.is_err());
}

/// A watch that asked for it gets progress at each interval without events, under its own id.
#[tokio::test]
async fn periodic_progress() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let flags = ["--watch-progress-notify-interval=200ms"];
    let half = Half::start(Kind::Server, &server, &flags).await;
    half.send(&Call::Put(put("a", "1"))).await.expect("a put succeeds");
    let create = |watch_id, progress_notify| pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: "a".into(),
            watch_id,
            progress_notify,
            ..Default::default()
        })),
    };
    let requests = [create(7, true), create(8, false)];
    let open = futures_util::stream::iter(requests).chain(futures_util::stream::pending());
    let mut client = pb::watch_client::WatchClient::new(half.channel.clone());
    let mut responses = client.watch(open).await.expect("the stream opens").into_inner();
    let mut progress = 0;
    while progress < 2 {
        let next = tokio::time::timeout(ARRIVAL, responses.message()).await.expect("progress must come in time");
        let response = next.expect("the stream goes on").expect("the stream does not end");
        if !response.created {
            let revision = response.header.map(|header| header.revision);
            assert_eq!((response.watch_id, revision, response.events.len()), (7, Some(2), 0), "{response:?}");
            progress += 1;
        }
    }
}

fn http_get(url: &str, path: &str) -> (String, String) {
    let address = url.trim_start_matches("http://");
    let mut connection = TcpStream::connect(address).expect("the port is open");
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        .expect("a request is sent");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer is text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// Plain HTTP on the client port.
#[tokio::test]
async fn pages() {
    let Some((left, right)) = start().await else { return };
    for path in ["/health", "/health?serializable=true", "/readyz", "/livez", "/nothing"] {
        let (one, other) = (http_get(left.member.url(), path), http_get(right.member.url(), path));
        assert_eq!(one, other, "{path}");
    }
    let versions = [&left, &right].map(|half| {
        let (status, body) = http_get(half.member.url(), "/version");
        let body: serde_json::Value = serde_json::from_str(&body).expect("the version is JSON");
        // The storage version is decided some seconds after the start.
        (status, body["etcdserver"].clone(), body["etcdcluster"].clone())
    });
    assert_eq!(versions[0], versions[1]);
    let (status, metrics) = http_get(right.member.url(), "/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(metrics.contains("etcd_server_has_leader 1"), "{metrics}");
}

/// Alarms of members that are none, of no kind and of all kinds; downgrades that are none; a member without a quota.
#[tokio::test]
async fn alarms_downgrades_and_the_status_of_them() {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let Some(oracle) = tools::or_skip(tools::go_program("oracle")) else { return };
    let flags = ["--quota-backend-bytes=-1"];
    let left = Half::start(Kind::Oracle, &oracle, &flags).await;
    let right = Half::start(Kind::Server, &server, &flags).await;
    both(&left, &right, &Call::Put(put("a", "1"))).await.expect("a put succeeds");
    let Ok(Reply::Status(status)) = both(&left, &right, &Call::Status).await else { panic!("a status") };
    assert_eq!(status.db_size_quota, -1);
    let (get, activate, deactivate) = (0, 1, 2);
    for action in [activate, get, deactivate, get] {
        for alarm in 0..=3 {
            for member_id in [0, 7] {
                // etcd lists several in no particular order.
                let is_one = action != get || alarm != 0;
                if is_one {
                    let request = pb::AlarmRequest { action, member_id, alarm };
                    both(&left, &right, &Call::Alarm(request)).await.expect("an answer");
                }
            }
            if action == activate {
                for member_id in [7, 0] {
                    let request = pb::AlarmRequest { action: deactivate, member_id, alarm };
                    both(&left, &right, &Call::Alarm(request)).await.expect("an answer");
                    both(&left, &right, &Call::Status).await.expect("a status");
                }
            }
        }
    }
    let (validate, enable, cancel) = (0, 1, 2);
    let steps = [
        (validate, "3.6"),
        (validate, "3.6.0"),
        (validate, "3.6.99"),
        (validate, "3.7"),
        (validate, "3.7.1"),
        (validate, "3.8"),
        (validate, "3.5"),
        (validate, "2.3"),
        (validate, ""),
        (validate, "six"),
        (cancel, ""),
        (3, "3.6"),
        (enable, "3.5"),
        (enable, "3.6"),
        (validate, "3.6"),
        (enable, "3.6"),
        (cancel, "six"),
        (cancel, ""),
    ];
    for (action, version) in steps {
        let request = pb::DowngradeRequest { action, version: version.to_owned() };
        let body: Bytes = request.encode_to_vec().into();
        let call = Call::Bytes { path: "/etcdserverpb.Maintenance/Downgrade", body, what: "downgrade" };
        both(&left, &right, &call).await.ok();
    }
    let body: Bytes = pb::MoveLeaderRequest { target_id: 7 }.encode_to_vec().into();
    let call = Call::Bytes { path: "/etcdserverpb.Maintenance/MoveLeader", body, what: "a move" };
    both(&left, &right, &call).await.expect_err("there is no such member");
}
