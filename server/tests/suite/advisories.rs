//! Security bugs that etcd had, as far as a client can try them: each is a test with its number in the name. Those without a
//! number are named after the release that fixed them. docs/threat-model.md has the whole list, with the tests elsewhere.

use bytes::Bytes;
use kvorum_api::EtcdError;
use kvorum_api::authpb::permission::Type;
use kvorum_api::etcdserverpb::request_op::Request as Op;
use tonic::{Code, Status};

use super::auth::{auth_config, jwt_config, signed, with_token};
use super::raw::{Http2, exchange, frame, http1};
use super::*;

/// A member on which `reader` may read and `writer` may write the keys from `k` up to `l`, `nobody` may nothing, and root
/// keeps a secret under `s` with lease 7.
struct Guarded {
    client: Client,
    root: String,
    reader: String,
    writer: String,
    nobody: String,
    _member: Running,
    _folder: tempfile::TempDir,
}

const SECRET_LEASE: i64 = 7;

impl Guarded {
    async fn start() -> Self {
        let folder = folder();
        let Half { client, member } = start_with(&auth_config(folder.path()));
        client.add_role("reading", Type::Read, "k", "l").await;
        client.add_role("writing", Type::Write, "k", "l").await;
        client.add_user("root", &["root"]).await;
        client.add_user("reader", &["reading"]).await;
        client.add_user("writer", &["writing"]).await;
        client.add_user("nobody", &[]).await;
        let grant = pb::LeaseGrantRequest { ttl: 600, id: SECRET_LEASE };
        client.lease().lease_grant(grant).await.expect("a lease");
        client.try_put(leased("s", SECRET_LEASE)).await.expect("a secret");
        client.put("k", "1").await;
        client.enable_auth().await;
        let login = async |user| client.login(user).await.expect("a login");
        let (root, reader) = (login("root").await, login("reader").await);
        let (writer, nobody) = (login("writer").await, login("nobody").await);
        Self { client, root, reader, writer, nobody, _member: member, _folder: folder }
    }

    async fn txn(&self, token: &str, request: pb::TxnRequest) -> Result<(), Status> {
        self.client.kv().txn(with_token(request, token)).await.map(drop)
    }
}

fn text(result: Result<(), Status>) -> String {
    result.map_or_else(|status| status.message().to_owned(), |()| "ok".to_owned())
}

fn denied() -> &'static str {
    EtcdError::PermissionDenied.text()
}

fn branch(success: bool, op: Op) -> pb::TxnRequest {
    let (op, mut txn) = (pb::RequestOp { request: Some(op) }, pb::TxnRequest::default());
    if success {
        txn.success.push(op)
    } else {
        txn.failure.push(op)
    }
    txn
}

/// The operation by itself, in the branch that is not taken, and one and two levels down in both.
fn everywhere(op: &Op) -> Vec<pb::TxnRequest> {
    let mut found = Vec::new();
    for success in [true, false] {
        for outer in [true, false] {
            let one = branch(success, op.clone());
            let two = branch(outer, Op::RequestTxn(one.clone()));
            found.push(branch(true, Op::RequestTxn(two.clone())));
            found.extend([one, two]);
        }
    }
    found
}

/// A range without an end was judged by its first key.
#[test]
fn ghsa_xg4h_6gfc_h4m8_watch_of_an_open_range() {
    run(async {
        let guarded = Guarded::start().await;
        let (requests, receiver) = mpsc::unbounded_channel();
        let stream = with_token(UnboundedReceiverStream::new(receiver), &guarded.reader);
        let responses = WatchClient::new(guarded.client.channel.clone()).watch(stream).await.expect("a stream");
        let mut watch = Watch { requests, responses: responses.into_inner() };
        for (key, range_end, allowed) in [
            (&b"k"[..], &b"\0"[..], false),
            (b"\0", b"\0", false),
            (b"", b"\0", false),
            (b"k", b"z", false),
            (b"k", b"l\0", false),
            (b"j", b"l", false),
            (b"k", b"l", true),
            (b"k", b"", true),
            (b"kz", b"l", true),
        ] {
            let (key, range_end) = (key.to_vec().into(), range_end.to_vec().into());
            let request = pb::WatchCreateRequest { key, range_end, prev_kv: true, ..Default::default() };
            watch.create(request.clone());
            let answer = watch.next().await;
            assert!(answer.created, "{answer:?}");
            assert_eq!(!answer.canceled, allowed, "{request:?}: {answer:?}");
            assert_eq!(answer.cancel_reason.ends_with(denied()), !allowed, "{answer:?}");
        }
    });
}

/// What a put shows of the value before, and the lease that it hangs its key on, were not looked at in transactions.
#[test]
fn cve_2026_44283_ghsa_x35m_3gp4_4fh5_puts_within_transactions() {
    run(async {
        let guarded = Guarded::start().await;
        let shows = pb::PutRequest { prev_kv: true, ..put("k", "2") };
        let deletes = pb::DeleteRangeRequest { key: "k".into(), prev_kv: true, ..Default::default() };
        let leased = pb::PutRequest { lease: SECRET_LEASE, ..put("k", "2") };
        for op in [Op::RequestPut(shows), Op::RequestDeleteRange(deletes), Op::RequestPut(leased)] {
            for request in everywhere(&op) {
                assert_eq!(text(guarded.txn(&guarded.writer, request.clone()).await), denied(), "{request:?}");
            }
        }
        for request in everywhere(&Op::RequestPut(put("k", "2"))) {
            assert_eq!(text(guarded.txn(&guarded.writer, request).await), "ok", "a plain put is its right");
        }
    });
}

/// The rules went one level down and no further.
#[test]
fn cve_2026_33343_ghsa_rfx7_8w68_q57q_nested_transactions() {
    run(async {
        let guarded = Guarded::start().await;
        let read = |key: &str, range_end: &[u8]| {
            Op::RequestRange(pb::RangeRequest { range_end: range_end.to_vec().into(), ..key_range(key) })
        };
        let delete = pb::DeleteRangeRequest { key: "s".into(), ..Default::default() };
        for (token, op) in [
            (&guarded.reader, read("s", b"")),
            (&guarded.reader, read("k", b"\0")),
            (&guarded.writer, read("k", b"")),
            (&guarded.writer, Op::RequestPut(put("s", "2"))),
            (&guarded.writer, Op::RequestDeleteRange(delete)),
            (&guarded.nobody, Op::RequestPut(put("k", "2"))),
        ] {
            for request in everywhere(&op) {
                assert_eq!(text(guarded.txn(token, request.clone()).await), denied(), "{request:?}");
            }
        }
        // A comparison is a read.
        let compare = vec![pb::Compare { key: "s".into(), ..Default::default() }];
        let compared = pb::TxnRequest { compare, ..branch(true, Op::RequestPut(put("k", "2"))) };
        for request in everywhere(&Op::RequestTxn(compared)) {
            assert_eq!(text(guarded.txn(&guarded.writer, request).await), denied());
        }
        let read = guarded.client.kv().range(with_token(key_range("s"), &guarded.root)).await.expect("root may");
        assert_eq!(&read.into_inner().kvs[0].value[..], b"leased", "nothing was written");
    });
}

/// These asked for nobody's name.
#[test]
fn cve_2026_33413_ghsa_q8m4_xhhv_38mg_calls_of_nobody() {
    run(async {
        let guarded = Guarded::start().await;
        let Guarded { client, nobody, .. } = &guarded;
        let message = |status: Status| status.message().to_owned();
        let anonymous = [
            client.cluster().member_list(pb::MemberListRequest { linearizable: true }).await.map(drop),
            client.cluster().member_list(pb::MemberListRequest { linearizable: false }).await.map(drop),
            client.maintenance().alarm(pb::AlarmRequest::default()).await.map(drop),
            client.lease().lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 }).await.map(drop),
            client.lease().lease_revoke(pb::LeaseRevokeRequest { id: SECRET_LEASE }).await.map(drop),
            client.lease().lease_leases(pb::LeaseLeasesRequest {}).await.map(drop),
            client
                .lease()
                .lease_time_to_live(pb::LeaseTimeToLiveRequest { id: SECRET_LEASE, keys: false })
                .await
                .map(drop),
            client.kv().compact(pb::CompactionRequest { revision: 1, physical: false }).await.map(drop),
        ];
        for (number, result) in anonymous.into_iter().enumerate() {
            assert_eq!(result.map_err(message), Err(EtcdError::UserEmpty.text().to_owned()), "call {number}");
        }
        let compaction = pb::CompactionRequest { revision: 1, physical: false };
        let refused = client.kv().compact(with_token(compaction, nobody)).await.expect_err("no role");
        assert_eq!(refused.message(), denied());
        let activate = pb::AlarmRequest { action: 1, alarm: 1, ..Default::default() };
        let refused = client.maintenance().alarm(with_token(activate, nobody)).await.expect_err("no role");
        assert_eq!(refused.message(), denied());
        let (requests, receiver) = mpsc::unbounded_channel();
        requests.send(pb::LeaseKeepAliveRequest { id: SECRET_LEASE }).expect("there is room");
        let responses = client.lease().lease_keep_alive(UnboundedReceiverStream::new(receiver)).await;
        let ended = match responses {
            Ok(responses) => responses.into_inner().message().await.expect_err("nobody renews"),
            Err(status) => status,
        };
        assert_eq!(ended.message(), EtcdError::UserEmpty.text());
    });
}

/// Keys of a lease are told to who may read them all.
#[test]
fn cve_2023_32082_ghsa_3p4g_rcw5_8298_keys_of_a_lease() {
    run(async {
        let guarded = Guarded::start().await;
        let ask = async |token: &str, keys| {
            let request = pb::LeaseTimeToLiveRequest { id: SECRET_LEASE, keys };
            guarded.client.lease().lease_time_to_live(with_token(request, token)).await.map(tonic::Response::into_inner)
        };
        for token in [&guarded.reader, &guarded.writer, &guarded.nobody] {
            assert_eq!(ask(token, true).await.expect_err("not its keys").message(), denied());
            assert!(ask(token, false).await.expect("a time is no secret").keys.is_empty());
        }
        assert_eq!(ask(&guarded.root, true).await.expect("root may").keys, [&b"s"[..]]);
    });
}

/// A watch from before the beginning stopped etcd.
#[test]
fn etcd_3_6_6_watch_from_a_negative_revision() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&config(folder.path()));
        let mut watch = client.watch_stream().await;
        for start_revision in [-1, i64::MIN] {
            watch.create(pb::WatchCreateRequest { start_revision, ..watch_all() });
            let answer = watch.next().await;
            assert!(answer.created && answer.canceled, "{answer:?}");
        }
        watch.create(watch_all());
        assert!(!watch.next().await.canceled);
        client.put("a", "1").await;
        assert_eq!(watch.events().await.len(), 1);
    });
}

/// A token without its claims, or a grant of nothing, stopped etcd.
#[test]
fn etcd_3_5_8_tokens_without_claims_and_empty_permissions() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&jwt_config(folder.path()));
        client.add_everybody().await;
        client.enable_auth().await;
        let root = client.login("root").await.expect("root");
        for claims in
            ["{}", r#"{"username":"root"}"#, r#"{"revision":1}"#, r#"{"username":null,"revision":null}"#, "[]"]
        {
            let refused = client.put_as(&signed(claims), "k").await.expect_err("no token");
            assert_eq!(
                (refused.code(), refused.message()),
                (Code::Unauthenticated, EtcdError::InvalidAuthToken.text())
            );
        }
        let (no_permission, no_key) = ("etcdserver: permission not given", "etcdserver: invalid auth management");
        for (perm, expected) in [(None, no_permission), (Some(Default::default()), no_key)] {
            let request = pb::AuthRoleGrantPermissionRequest { name: "reading".to_owned(), perm };
            let answer = client.auth().role_grant_permission(with_token(request, &root)).await.map(drop);
            assert_eq!(text(answer), expected);
        }
        client.put_as(&root, "k").await.expect("it lives");
    });
}

/// An update of a learner's URLs made it a voter.
#[test]
fn etcd_3_6_12_an_update_promotes_nobody() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&config(folder.path()));
        let peer_urls = |port: u16| vec![format!("http://127.0.0.1:{port}")];
        let request = pb::MemberAddRequest { peer_urls: peer_urls(1), is_learner: true };
        let id = client.cluster().member_add(request).await.expect("a learner").into_inner().member.expect("it").id;
        let update = pb::MemberUpdateRequest { id, peer_urls: peer_urls(2) };
        client.cluster().member_update(update).await.expect("other URLs");
        let members = client.cluster().member_list(pb::MemberListRequest { linearizable: true }).await;
        let members = members.expect("a list").into_inner().members;
        let learner = members.iter().find(|member| member.id == id).expect("it is listed");
        assert!(learner.is_learner, "{members:?}");
        assert_eq!(learner.peer_urls, peer_urls(2));
        client.put("a", "1").await;
    });
}

/// etcd's answer was documentation: there is no lower limit. The upper one is bcrypt's, which else would hash a part.
#[test]
fn cve_2020_15115_lengths_of_passwords() {
    run(async {
        let guarded = Guarded::start().await;
        let Guarded { client, root, .. } = &guarded;
        let add = async |name: &str, password: String| {
            let request = pb::AuthUserAddRequest { name: name.to_owned(), password, ..Default::default() };
            text(client.auth().user_add(with_token(request, root)).await.map(drop))
        };
        let too_long = "bcrypt: password length exceeds 72 bytes";
        assert_eq!(add("short", "x".to_owned()).await, "ok");
        assert_eq!(add("longest", "x".repeat(72)).await, "ok");
        assert_eq!(add("longer", "x".repeat(73)).await, too_long);
        assert_eq!(add("huge", "x".repeat(1 << 20)).await, too_long);
        // What is longer counts by its first 72 bytes, as in etcd.
        for password in ["y".repeat(73), "y".repeat(1 << 20), "x".repeat(71), String::new()] {
            let request = pb::AuthenticateRequest { name: "longest".to_owned(), password };
            client.auth().authenticate(request).await.expect_err("another password");
        }
    });
}

/// Pages that show requests, and with them passwords, are none of ours: on no port, at no log level.
#[test]
fn cve_2021_28235_no_debug_pages() {
    run(async {
        let folder = folder();
        let config = Config { listen_metrics_urls: vec![url("http://127.0.0.1:0")], ..config(folder.path()) };
        let Half { client, member } = start_with(&config);
        let metrics = member.metrics_urls()[0].trim_start_matches("http://").to_owned();
        for address in [&client.address, &metrics] {
            for page in
                ["/debug/requests", "/debug/events", "/debug/vars", "/debug/pprof/", "/debug/pprof/heap", "/v3/kv/put"]
            {
                assert_eq!(http1(address, "GET", page).await.0, 404, "{page}");
            }
        }
    });
}

/// A page from the web that a browser loads under a name of its own, and sends requests to the member with it.
#[test]
fn cve_2018_5702_dns_rebinding() {
    run(async {
        let folder = folder();
        let config = Config {
            host_whitelist: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            cors: vec!["https://good.example".to_owned()],
            ..config(folder.path())
        };
        let Half { client, member: _member } = start_with(&config);
        let ask = async |host: &str, origin: &str| {
            let request =
                format!("GET /health HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n");
            String::from_utf8(exchange(&client.address, request.as_bytes()).await).expect("text")
        };
        let good = ask("localhost:2379", "https://good.example").await;
        assert!(good.starts_with("HTTP/1.1 200 OK\r\n"), "{good}");
        assert!(good.contains("access-control-allow-origin: https://good.example\r\n"), "{good}");
        let evil = ask("127.0.0.1", "https://evil.example").await;
        assert!(evil.starts_with("HTTP/1.1 200 OK\r\n") && !evil.contains("access-control"), "{evil}");
        for host in ["evil.example:2379", "evil.example", "localhost.evil.example", ""] {
            let refused = ask(host, "https://good.example").await;
            assert!(refused.starts_with("HTTP/1.1 421 Misdirected Request\r\n"), "{host}: {refused}");
            assert!(!refused.contains("access-control") && !refused.contains("health"), "{refused}");
        }
        // gRPC is no browser's.
        client.put("a", "1").await;
    });
}

/// The version that clients say they have is no label, whatever they say.
#[test]
fn etcd_metrics_have_no_label_of_clients_choice() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&config(folder.path()));
        let http2 = Http2::connect(&client.address).await;
        let (_, _, before) = http1(&client.address, "GET", "/metrics").await;
        for number in 0..200 {
            let version = http::HeaderValue::from_str(&format!("chosen-{number}")).expect("a value");
            let change = |request: &mut http::Request<()>| {
                request.headers_mut().insert("client-api-version", version);
            };
            let body = frame(&prost::Message::encode_to_vec(&put("a", "1")));
            assert_eq!(http2.call("/etcdserverpb.KV/Put", body, change).await.expect("an answer").status().0, 0);
            let path = format!("/chosen.Service{number}/Method");
            assert_eq!(http2.call(&path, Bytes::new(), |_| {}).await.expect("an answer").status().0, 12);
        }
        let (_, _, after) = http1(&client.address, "GET", "/metrics").await;
        assert!(!after.contains("chosen"));
        assert_eq!(before.lines().count(), after.lines().count());
    });
}

/// Seen elsewhere: a user who is logged in made itself root.
#[test]
fn lessons_no_user_makes_itself_root() {
    run(async {
        let guarded = Guarded::start().await;
        let Guarded { client, reader, root, .. } = &guarded;
        let name = || "reader".to_owned();
        let mut auth = client.auth();
        let perm =
            Some(kvorum_api::authpb::Permission { perm_type: 2, key: b"s".to_vec().into(), ..Default::default() });
        let options = None;
        let tries = [
            auth.user_grant_role(with_token(
                pb::AuthUserGrantRoleRequest { user: name(), role: "root".to_owned() },
                reader,
            ))
            .await
            .map(drop),
            auth.user_grant_role(with_token(
                pb::AuthUserGrantRoleRequest { user: name(), role: "writing".to_owned() },
                reader,
            ))
            .await
            .map(drop),
            auth.role_grant_permission(with_token(
                pb::AuthRoleGrantPermissionRequest { name: "reading".to_owned(), perm },
                reader,
            ))
            .await
            .map(drop),
            auth.user_add(with_token(
                pb::AuthUserAddRequest { name: "other".to_owned(), options, ..Default::default() },
                reader,
            ))
            .await
            .map(drop),
            auth.user_change_password(with_token(
                pb::AuthUserChangePasswordRequest {
                    name: "root".to_owned(),
                    password: "x".to_owned(),
                    ..Default::default()
                },
                reader,
            ))
            .await
            .map(drop),
            auth.user_delete(with_token(pb::AuthUserDeleteRequest { name: "root".to_owned() }, reader)).await.map(drop),
            auth.auth_disable(with_token(pb::AuthDisableRequest {}, reader)).await.map(drop),
        ];
        for (number, result) in tries.into_iter().enumerate() {
            assert_eq!(text(result), denied(), "try {number}");
        }
        let user = auth.user_get(with_token(pb::AuthUserGetRequest { name: name() }, root)).await.expect("root may");
        assert_eq!(user.into_inner().roles, ["reading"]);
    });
}

/// Seen elsewhere: any token was as good as any other.
#[test]
fn lessons_tokens_are_checked() {
    run(async {
        let guarded = Guarded::start().await;
        let Guarded { client, root, .. } = &guarded;
        let (letters, index) = root.split_once('.').expect("a simple token");
        let other_index = format!("{letters}.{}", index.parse::<u64>().expect("a number") + 1);
        let other_letters = format!("{}.{index}", letters.to_ascii_uppercase().chars().rev().collect::<String>());
        let unsigned = "eyJhbGciOiJub25lIn0.eyJ1c2VybmFtZSI6InJvb3QiLCJyZXZpc2lvbiI6MX0.";
        for token in ["root", "root.1", ".", "..", "a.b", &other_index, &other_letters, unsigned, &"x".repeat(10_000)] {
            let refused = client.put_as(token, "k").await.expect_err("no token");
            assert_eq!(
                (refused.code(), refused.message()),
                (Code::Unauthenticated, EtcdError::InvalidAuthToken.text()),
                "{token}"
            );
        }
        client.put_as(root, "k").await.expect("its own is");
    });
}

/// The rest of what is odd and was tried on etcd: each is answered, and the member lives.
#[test]
fn etcd_further_odd_input() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&config(folder.path()));
        let grant = async |ttl, id| {
            let request = pb::LeaseGrantRequest { ttl, id };
            text(client.lease().lease_grant(request).await.map(drop))
        };
        assert_eq!(grant(i64::MAX, 0).await, "etcdserver: too large lease TTL");
        assert_eq!(grant(i64::MIN, i64::MIN).await, "ok");
        assert_eq!(grant(60, i64::MAX).await, "ok");
        let http2 = Http2::connect(&client.address).await;
        let as_usual = |_: &mut http::Request<()>| {};
        // Fields of a later version are passed over: number 1000, a varint, and number 536870911, 3 bytes.
        let mut unknown = prost::Message::encode_to_vec(&put("a", "1"));
        prost::encoding::encode_varint(1000 << 3, &mut unknown);
        unknown.push(7);
        prost::encoding::encode_varint((536_870_911 << 3) | 2, &mut unknown);
        unknown.extend_from_slice(&[3, 1, 2, 3]);
        let answer = http2.call("/etcdserverpb.KV/Put", frame(&unknown), as_usual).await.expect("an answer");
        assert_eq!(answer.status().0, 0, "{answer:?}");
        assert_eq!(client.get("a").await.as_deref(), Some("1"));
        // Groups, which protobuf 3 has no more, nested as deep as they fit: no stack is deep enough to follow them blindly.
        let nested = vec![0x0b; 1_000_000];
        let answer = http2.call("/etcdserverpb.KV/Put", frame(&nested), as_usual).await.expect("an answer");
        assert_ne!(answer.status().0, 0);
        // A text that is none, and values outside of their enumerations.
        let answer = http2.call("/etcdserverpb.Auth/UserGet", frame(b"\x0a\x02\xff\xfe"), as_usual).await;
        assert_eq!(answer.expect("an answer").status().0, Code::Internal as i32);
        let alarm = pb::AlarmRequest { action: 99, alarm: 99, member_id: u64::MAX };
        drop(client.maintenance().alarm(alarm).await);
        let compare = vec![pb::Compare { key: "a".into(), result: 99, target: -7, ..Default::default() }];
        drop(client.kv().txn(pb::TxnRequest { compare, ..Default::default() }).await);
        client.put("a", "2").await;
        assert_eq!(client.get("a").await.as_deref(), Some("2"));
    });
}
