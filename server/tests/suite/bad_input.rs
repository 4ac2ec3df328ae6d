//! Requests that are wrong: each gets the answer that etcd 3.7.1 gave to the same bytes, and nothing changes.

use bytes::Bytes;

use kvorum_api::etcdserverpb::request_op::Request;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use super::raw::{Answer, Http2, exchange, frame};
use super::*;

const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// A request of HTTP/2 as a client may get it wrong, and its answer.
struct Wrong {
    path: &'static str,
    body: Bytes,
    /// Name and value of a header; an empty value takes it away.
    header: (&'static str, &'static str),
    method: &'static str,
    answer: (u16, Code, &'static str),
}

impl Wrong {
    async fn check(&self, http2: &Http2) {
        let (name, value) = self.header;
        let change = |request: &mut http::Request<()>| {
            *request.method_mut() = self.method.parse().expect("a method");
            match value {
                "" => drop(request.headers_mut().remove(name)),
                value => drop(request.headers_mut().insert(name, http::HeaderValue::from_static(value))),
            }
        };
        let answer: Answer = http2.call(self.path, self.body.clone(), change).await.expect("the connection lives");
        let (code, text) = answer.status();
        let expected = (self.answer.0, self.answer.1 as i32, self.answer.2.to_owned());
        assert_eq!((answer.http_status, code, text), expected, "{} {name}: {value}", self.path);
    }
}

/// A member with something in it, and what it holds.
async fn filled(folder: &Path) -> (Half, Fingerprint) {
    let half = start_with(&config(folder));
    half.client.put("a", "1").await;
    half.client.put("b", "2").await;
    half.client.grant(1_000).await;
    let before = half.client.fingerprint().await;
    (half, before)
}

async fn check_unchanged(half: &Half, before: Fingerprint) {
    assert_eq!(half.client.fingerprint().await, before);
    half.client.put("alive", "1").await;
    assert_eq!(half.client.get("alive").await.as_deref(), Some("1"));
    assert_eq!(half.member.core().failure(), None);
}

#[test]
fn headers_and_frames_that_are_not_grpcs() {
    run(async {
        let folder = folder();
        let (half, before) = filled(folder.path()).await;
        let good = frame(&put("x", "1").encode_to_vec());
        let flagged = |flag: u8| Bytes::from([&[flag][..], &good[1..]].concat());
        let wrong = |path, body: &Bytes, code, text| Wrong {
            path,
            body: body.clone(),
            header: ("te", "trailers"),
            method: "POST",
            answer: (200, code, text),
        };
        let header = |name, value, http_status, code, text| Wrong {
            header: (name, value),
            answer: (http_status, code, text),
            ..wrong(PUT, &good, code, text)
        };
        let cut = good.slice(..good.len() - 1);
        let huge = frame(&vec![0; 3 << 20]);
        let larger = "grpc: received message larger than max (3145728 vs. 2097152)";
        let compressed = "grpc: compressed flag set with identity or empty encoding";
        let cannot_parse =
            "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data";
        let post_only = "Received a HEADERS frame with :method \"GET\" which should be POST";
        let cases = [
            Wrong { method: "GET", ..header("te", "trailers", 405, Code::Internal, post_only) },
            header("content-type", "", 415, Code::InvalidArgument, "invalid gRPC request content-type \"\""),
            header(
                "content-type",
                "application/json",
                415,
                Code::InvalidArgument,
                "invalid gRPC request content-type \"application/json\"",
            ),
            header(
                "content-type",
                "application/grpc-web",
                415,
                Code::InvalidArgument,
                "invalid gRPC request content-type \"application/grpc-web\"",
            ),
            header(
                "grpc-timeout",
                "abc",
                400,
                Code::Internal,
                "malformed grpc-timeout: transport: timeout unit is not recognized: \"abc\"",
            ),
            header(
                "grpc-timeout",
                "1234567890S",
                400,
                Code::Internal,
                "malformed grpc-timeout: transport: timeout string is too long: \"1234567890S\"",
            ),
            header("grpc-timeout", "0n", 200, Code::DeadlineExceeded, "context deadline exceeded"),
            header("grpc-timeout", "1n", 200, Code::DeadlineExceeded, "context deadline exceeded"),
            header(
                "grpc-encoding",
                "snappy",
                200,
                Code::Unimplemented,
                "grpc: Decompressor is not installed for grpc-encoding \"snappy\"",
            ),
            wrong(
                "/etcdserverpb.KV/Nothing",
                &good,
                Code::Unimplemented,
                "unknown method Nothing for service etcdserverpb.KV",
            ),
            wrong(
                "/etcdserverpb.KV/Put?x=1",
                &good,
                Code::Unimplemented,
                "unknown method Put?x=1 for service etcdserverpb.KV",
            ),
            wrong("/nothing.KV/Put", &good, Code::Unimplemented, "unknown service nothing.KV"),
            wrong("/a/b/c", &good, Code::Unimplemented, "unknown service a/b"),
            wrong("/nothing", &good, Code::Unimplemented, "malformed method name: \"/nothing\""),
            wrong("/", &good, Code::Unimplemented, "malformed method name: \"/\""),
            wrong(PUT, &flagged(1), Code::Internal, compressed),
            wrong(PUT, &flagged(7), Code::Internal, "grpc: received unexpected payload format 7"),
            wrong(PUT, &cut, Code::Unknown, "unexpected EOF"),
            wrong(PUT, &Bytes::from_static(&[0, 0, 0]), Code::Unknown, "EOF"),
            wrong(PUT, &Bytes::new(), Code::Unknown, "EOF"),
            wrong(PUT, &huge, Code::ResourceExhausted, larger),
            wrong(
                PUT,
                &frame(b"\xff\xff"),
                Code::Internal,
                "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data",
            ),
            wrong(
                "/grpc.health.v1.Health/Check",
                &frame(b"\x0a\x02\xff\xfe"),
                Code::Internal,
                "grpc: error unmarshalling request: string field contains invalid UTF-8",
            ),
            wrong("/grpc.health.v1.Health/Check", &frame(b"\x0a\x01x"), Code::NotFound, "unknown service"),
            wrong(WATCH, &cut, Code::Internal, "unexpected EOF"),
            wrong(WATCH, &frame(b"\xff\xff"), Code::Internal, cannot_parse),
            wrong(WATCH, &flagged(1), Code::Internal, compressed),
            wrong(WATCH, &huge, Code::ResourceExhausted, larger),
            Wrong {
                header: ("grpc-timeout", "50m"),
                ..wrong(WATCH, &Bytes::new(), Code::DeadlineExceeded, "context deadline exceeded")
            },
            wrong(KEEP_ALIVE, &cut, Code::Internal, "unexpected EOF"),
            wrong(KEEP_ALIVE, &frame(b"\xff\xff"), Code::Internal, cannot_parse),
            wrong(KEEP_ALIVE, &huge, Code::ResourceExhausted, larger),
            wrong(KEEP_ALIVE, &Bytes::new(), Code::Ok, ""),
        ];
        let http2 = Http2::connect(&half.client.address).await;
        for case in cases {
            case.check(&http2).await;
        }
        let change = |request: &mut http::Request<()>| {
            let version = http::HeaderValue::from_bytes(b"\xff\xfe").expect("HTTP takes it");
            request.headers_mut().insert("client-api-version", version);
        };
        let answer = http2.call(PUT, good.clone(), change).await.expect("an answer");
        let expected = (Code::InvalidArgument as i32, "etcdserver: invalid client api version".to_owned());
        assert_eq!(answer.status(), expected);
        check_unchanged(&half, before).await;
    });
}

/// What other clients send is taken.
#[test]
fn odd_headers_that_are_fine() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&config(folder.path()));
        let http2 = Http2::connect(&client.address).await;
        let good = frame(&put("a", "1").encode_to_vec());
        for (name, value, content_type) in [
            ("te", "", "application/grpc"),
            ("content-type", "application/grpc+proto", "application/grpc+proto"),
            ("content-type", "application/grpc;charset=utf-8", "application/grpc+charset=utf-8"),
            ("grpc-timeout", "99999999H", "application/grpc"),
            ("grpc-encoding", "identity", "application/grpc"),
            ("grpc-encoding", "gzip", "application/grpc"),
            ("hasleader", "true", "application/grpc"),
        ] {
            let change = |request: &mut http::Request<()>| match value {
                "" => drop(request.headers_mut().remove(name)),
                value => drop(request.headers_mut().insert(name, value.parse().expect("a value"))),
            };
            let answer = http2.call(PUT, good.clone(), change).await.expect("an answer");
            assert_eq!((answer.http_status, answer.status().0), (200, 0), "{name}: {value}");
            assert_eq!(answer.headers["content-type"], content_type);
            assert!(answer.body.len() > 5);
        }
    });
}

/// What no HTTP is, and peers that say half of it, hurt nobody else.
#[test]
fn garbage_on_the_port() {
    run(async {
        let folder = folder();
        let (half, before) = filled(folder.path()).await;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let mut silent = Vec::new();
        for start in [&b""[..], b"P", b"PR", b"PRI * HTTP/2", preface, b"GET /hea"] {
            let mut socket = TcpStream::connect(&half.client.address).await.expect("the port is open");
            socket.write_all(start).await.expect("the peer reads");
            silent.push(socket);
        }
        for garbage in [
            &b"\0\0\0\0\0\0\0\0\0\0\0\0"[..],
            b"\x16\x03\x01\0\x05hello",
            b"hello\r\n\r\n",
            b"P",
            b"PR",
            b"PRI * HTTP/1.1\r\n\r\n",
            &[&preface[..], b"garbage of many bytes"].concat(),
            // A frame that says it is longer than any may be.
            &[&preface[..], b"\xff\xff\xff\x04\0\0\0\0\0"].concat(),
        ] {
            let answer = exchange(&half.client.address, garbage).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{garbage:?}");
        }
        check_unchanged(&half, before).await;
        // One that took its time goes on from where it stopped.
        let mut late = silent.pop().expect("the last one");
        late.write_all(b"lth HTTP/1.1\r\nHost: member\r\nConnection: close\r\n\r\n").await.expect("it is read");
        let mut answer = String::new();
        late.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        drop(silent);
    });
}

/// What a request says that no request may; the answers are etcd's.
#[test]
fn requests_that_make_no_sense() {
    run(async {
        let folder = folder();
        let (half, before) = filled(folder.path()).await;
        let mut kv = half.client.kv();
        let refused = |status: tonic::Status| (status.code(), status.message().to_owned());
        let expect = |code, text: &str| (code, text.to_owned());
        let no_key = expect(Code::InvalidArgument, "etcdserver: key is not provided");
        assert_eq!(refused(kv.put(put("", "1")).await.expect_err("no key")), no_key);
        assert_eq!(refused(kv.range(key_range("")).await.expect_err("no key")), no_key);
        let no_key_delete = pb::DeleteRangeRequest::default();
        assert_eq!(refused(kv.delete_range(no_key_delete).await.expect_err("no key")), no_key);
        for (request, code, text) in [
            (
                pb::PutRequest { ignore_value: true, ..put("a", "1") },
                Code::InvalidArgument,
                "etcdserver: value is provided",
            ),
            (
                pb::PutRequest { ignore_lease: true, lease: 7, ..put("a", "1") },
                Code::InvalidArgument,
                "etcdserver: lease is provided",
            ),
            (pb::PutRequest { ignore_value: true, ..put("z", "") }, Code::InvalidArgument, "etcdserver: key not found"),
            (leased("a", 7), Code::NotFound, "etcdserver: requested lease not found"),
            (put("a", &"v".repeat(1_572_864)), Code::InvalidArgument, "etcdserver: request is too large"),
        ] {
            assert_eq!(refused(kv.put(request).await.expect_err(text)), expect(code, text));
        }
        let sort = expect(Code::InvalidArgument, "etcdserver: invalid sort option");
        let future = expect(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
        for (request, error) in [
            (pb::RangeRequest { sort_order: 9, ..whole_range() }, &sort),
            (pb::RangeRequest { sort_target: -1, ..whole_range() }, &sort),
            (pb::RangeRequest { revision: 99, ..whole_range() }, &future),
            (pb::RangeRequest { revision: i64::MAX, ..whole_range() }, &future),
        ] {
            assert_eq!(&refused(kv.range(request).await.expect_err("it makes no sense")), error);
        }
        for revision in [99, i64::MAX] {
            assert_eq!(refused(half.client.compact(revision, false).await.expect_err("in the future")), future);
        }
        let compacted = expect(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
        for revision in [-1, i64::MIN] {
            assert_eq!(refused(half.client.compact(revision, false).await.expect_err("in the past")), compacted);
        }
        // These say little, but are taken: an end before its key is an empty range, a negative limit is none.
        let backwards = pb::RangeRequest { range_end: "a".into(), ..key_range("b") };
        assert_eq!(kv.range(backwards).await.expect("empty").into_inner().count, 0);
        for limit in [-1, i64::MIN, i64::MAX] {
            let request = pb::RangeRequest { limit, revision: i64::MIN, ..whole_range() };
            assert_eq!(kv.range(request).await.expect("all").into_inner().kvs.len(), 2, "limit {limit}");
        }
        let backwards = pb::DeleteRangeRequest { key: "b".into(), range_end: "a".into(), prev_kv: false };
        assert_eq!(kv.delete_range(backwards).await.expect("nothing to delete").into_inner().deleted, 0);
        check_unchanged(&half, before).await;
    });
}

fn txn(success: Vec<Request>) -> pb::TxnRequest {
    let success = success.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect();
    pb::TxnRequest { success, ..pb::TxnRequest::default() }
}

#[test]
fn transactions_that_make_no_sense() {
    run(async {
        let folder = folder();
        let (half, before) = filled(folder.path()).await;
        let mut nested = txn(vec![Request::RequestPut(put("deep", "1"))]);
        for _ in 0..200 {
            nested = txn(vec![Request::RequestTxn(nested)]);
        }
        let puts = |count: usize| (0..count).map(|number| Request::RequestPut(put(&number.to_string(), "1"))).collect();
        let twice = vec![Request::RequestPut(put("x", "1")), Request::RequestPut(put("x", "2"))];
        let empty = pb::TxnRequest { success: vec![pb::RequestOp { request: None }], ..pb::TxnRequest::default() };
        for (request, text) in [
            (nested, "etcdserver: too many operations in txn request"),
            (txn(puts(129)), "etcdserver: too many operations in txn request"),
            (txn(twice), "etcdserver: duplicate key given in txn request"),
            (txn(vec![Request::RequestPut(put("", "1"))]), "etcdserver: key is not provided"),
            (empty, "etcdserver: key not found"),
        ] {
            let status = half.client.kv().txn(request).await.expect_err(text);
            assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
        }
        check_unchanged(&half, before).await;
    });
}

#[test]
fn watches_that_make_no_sense() {
    run(async {
        let folder = folder();
        let (half, before) = filled(folder.path()).await;
        let mut watch = half.client.watch(pb::WatchCreateRequest { watch_id: 7, ..watch_all() }).await;
        for (request, watch_id, reason) in [
            (
                pb::WatchCreateRequest { watch_id: 7, ..watch_all() },
                -1,
                "mvcc: duplicate watch ID provided on the WatchStream",
            ),
            (
                pb::WatchCreateRequest { key: "b".into(), range_end: "a".into(), ..Default::default() },
                -1,
                "mvcc: watcher range is empty",
            ),
            (
                pb::WatchCreateRequest { start_revision: -1, ..watch_all() },
                -1,
                "etcdserver: mvcc: required revision has been compacted",
            ),
        ] {
            watch.create(request);
            let answer = watch.next().await;
            assert!(answer.created && answer.canceled, "{answer:?}");
            assert_eq!((answer.watch_id, answer.cancel_reason.as_str()), (watch_id, reason));
        }
        // The good watch of the stream goes on.
        assert_eq!(half.client.fingerprint().await, before);
        half.client.put("c", "3").await;
        let response = watch.next().await;
        assert_eq!((response.watch_id, response.events.len()), (7, 1));
    });
}
