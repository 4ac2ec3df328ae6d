//! What clients send over gRPC. The first byte says what the rest is:
//!
//! - 0: the bytes of a body, with what the headers said of it;
//! - 1: a message of a kind that the next byte chooses, of all that clients send;
//! - 2: a message that is put into the log as it came, for the request that the next byte chooses;
//! - 3: the data of an entry of the log, also of former etcds;
//! - 4: the bytes of a stored key, and what an answer makes of it;
//! - 5: a time limit.
//!
//! Where a body is cut makes no difference. What was decoded is encoded and decoded to itself. A request that is taken is
//! taken within its entry too, as what it was, since all members stop at an entry that they cannot read. Encoders and decoders
//! that are written by hand agree with the library's.

use bytes::Bytes;
use http::HeaderValue;
use kvorum_api::etcdserverpb as pb;
use kvorum_api::etcdserverpb::InternalRaftRequest;
use kvorum_api::mvccpb::KeyValue;
use kvorum_server::auth::Identity;
use kvorum_server::from_outside::requests::{MessageFrames, Status, is_nested_deeply, parse_timeout, wrap};
use kvorum_store::keyspace::key_value::KeyValueParts;
use kvorum_store::{
    Header, RangeReply, Reply, check_delete_range, check_entry_data, check_put, check_range, check_txn, decode_request,
    decode_txn, is_read_only, is_serializable_txn, quota_cost,
};
use prost::Message;

use crate::input::Input;

const MESSAGE_BYTES_MAX: usize = 300;

/// Levels of transactions that are always read.
const LEVELS_MAX: usize = 128;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 6 {
        0 => body(&mut input),
        1 => message(&mut input),
        2 => proposal(&mut input),
        3 => entry(&Bytes::copy_from_slice(input.rest())),
        4 => stored_key(input.rest()),
        _ => time_limit(input.rest()),
    }
}

fn body(input: &mut Input<'_>) {
    let shape = input.byte();
    let encoding = match shape & 3 {
        0 => None,
        1 => Some(HeaderValue::from_static("identity")),
        2 => Some(HeaderValue::from_static("gzip")),
        _ => Some(HeaderValue::from_static("snappy")),
    };
    let length = usize::from(input.byte()).max(1);
    let bytes = input.rest();
    let read = |length: usize| {
        let mut frames = MessageFrames::new(MESSAGE_BYTES_MAX, encoding.as_ref(), shape & 4 != 0);
        let mut messages: Vec<Result<Bytes, Status>> = Vec::new();
        for piece in bytes.chunks(length) {
            frames.push(Bytes::copy_from_slice(piece));
            loop {
                match frames.take_message() {
                    Ok(Some(message)) => messages.push(Ok(message)),
                    Ok(None) => break,
                    Err(status) => {
                        messages.push(Err(status));
                        return messages;
                    }
                }
            }
        }
        messages.extend(frames.end());
        messages
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(read(length), whole, "pieces make no difference");
    assert_eq!(read(1), whole, "single bytes make no difference");
    let taken: usize = whole.iter().flatten().map(|message| message.len() + 5).sum();
    assert!(taken <= bytes.len() && whole.iter().flatten().all(|message| message.len() <= MESSAGE_BYTES_MAX));
}

fn round_trip<M: Message + Default + PartialEq>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    let encoded = message.encode_to_vec();
    assert_eq!(encoded.len(), message.encoded_len());
    let again = M::decode(encoded.as_slice()).expect("what was encoded is decoded");
    assert!(again == message, "it is decoded to itself");
}

/// One line for each kind: a table that is hard to get wrong.
macro_rules! kinds {
    ($choice:expr, $bytes:expr, $($kind:ident),*) => {{
        let checks: &[fn(&[u8])] = &[$(round_trip::<pb::$kind>),*];
        checks[usize::from($choice) % checks.len()]($bytes);
    }};
}

fn message(input: &mut Input<'_>) {
    let choice = input.byte();
    let bytes = input.rest();
    kinds!(
        choice,
        bytes,
        RangeRequest,
        PutRequest,
        DeleteRangeRequest,
        CompactionRequest,
        WatchRequest,
        LeaseGrantRequest,
        LeaseRevokeRequest,
        LeaseKeepAliveRequest,
        LeaseTimeToLiveRequest,
        LeaseLeasesRequest,
        MemberAddRequest,
        MemberRemoveRequest,
        MemberUpdateRequest,
        MemberListRequest,
        MemberPromoteRequest,
        AlarmRequest,
        StatusRequest,
        DefragmentRequest,
        HashRequest,
        HashKvRequest,
        SnapshotRequest,
        MoveLeaderRequest,
        DowngradeRequest,
        AuthEnableRequest,
        AuthDisableRequest,
        AuthStatusRequest,
        AuthenticateRequest,
        AuthUserAddRequest,
        AuthUserGetRequest,
        AuthUserListRequest,
        AuthUserDeleteRequest,
        AuthUserChangePasswordRequest,
        AuthUserGrantRoleRequest,
        AuthUserRevokeRoleRequest,
        AuthRoleAddRequest,
        AuthRoleGetRequest,
        AuthRoleListRequest,
        AuthRoleDeleteRequest,
        AuthRoleGrantPermissionRequest,
        AuthRoleRevokePermissionRequest,
        RangeResponse,
        TxnResponse,
        WatchResponse
    );
    if let Ok(request) = pb::RangeRequest::decode(bytes) {
        let _ = check_range(&request);
    }
    if let Ok(request) = pb::PutRequest::decode(bytes) {
        let _ = check_put(&request);
    }
    if let Ok(request) = pb::DeleteRangeRequest::decode(bytes) {
        let _ = check_delete_range(&request);
    }
}

/// Of the requests whose bytes go into the log as they came.
fn proposal(input: &mut Input<'_>) {
    let (choice, shape) = (input.byte(), input.byte());
    let identity = Identity { user: "u".repeat(usize::from(shape & 3)).into(), revision: u64::from(shape >> 2) };
    let id = input.long();
    let message = Bytes::copy_from_slice(input.rest());
    let within = |field: u8| decode_request(&wrap(field << 3 | 2, &message, id, Some(&identity)));
    let check = |taken: InternalRaftRequest, expected: InternalRaftRequest| {
        let header = taken.header.clone().unwrap_or_default();
        assert_eq!((header.id, &*header.username, header.auth_revision), (id, &*identity.user, identity.revision));
        assert!(InternalRaftRequest { header: None, ..taken } == expected, "it is within its entry what it was alone");
    };
    let read = "what is taken alone is taken within its entry";
    match choice % 4 {
        0 => {
            let Ok(put) = pb::PutRequest::decode(message.clone()) else { return };
            check(within(4).expect(read), InternalRaftRequest { put: Some(put), ..Default::default() });
        }
        1 => {
            let Ok(delete) = pb::DeleteRangeRequest::decode(message.clone()) else { return };
            check(within(5).expect(read), InternalRaftRequest { delete_range: Some(delete), ..Default::default() });
        }
        2 => {
            let Ok(compaction) = pb::CompactionRequest::decode(message.clone()) else { return };
            check(within(7).expect(read), InternalRaftRequest { compaction: Some(compaction), ..Default::default() });
        }
        _ => {
            let library = pb::TxnRequest::decode(message.clone());
            let Ok(txn) = decode_txn(&message) else {
                assert!(library.is_err(), "the library's messages are all taken");
                let _ = is_nested_deeply(&message);
                return;
            };
            assert!(library.is_err() || library == Ok(txn.clone()), "it is what the library reads");
            let _ = (check_txn(&txn, LEVELS_MAX), is_read_only(&txn), is_serializable_txn(&txn));
            let expected = InternalRaftRequest { txn: Some(txn), ..Default::default() };
            let _ = quota_cost(&expected);
            check(within(6).expect(read), expected);
        }
    }
}

fn entry(data: &Bytes) {
    let checked = check_entry_data(data);
    let library = InternalRaftRequest::decode(data.clone());
    match decode_request(data) {
        Ok(request) => {
            assert!(library.is_err() || library == Ok(request.clone()), "it is what the library reads");
            let again = decode_request(&request.encode_to_vec().into()).expect("what was encoded is decoded");
            assert!(again == request);
        }
        Err(_) => {
            assert!(library.is_err() && checked.is_err(), "what cannot be read is found out before it is applied")
        }
    }
}

fn stored_key(bytes: &[u8]) {
    let library = KeyValue::decode(bytes);
    let Some(parts) = KeyValueParts::parse(bytes) else {
        assert!(library.is_err() || has_group(bytes), "only what has groups is refused besides");
        return;
    };
    let kv = library.expect("what is taken is a KeyValue");
    let same = KeyValueParts {
        key: &kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: &kv.value,
        lease: kv.lease,
    };
    assert_eq!(parts, same);
    let mut encoded = Vec::new();
    parts.encode(&mut encoded);
    assert_eq!((encoded.len(), &encoded), (parts.encoded_len(), &kv.encode_to_vec()));
    answers(&kv, &encoded);
}

/// The answers around a key, as the library writes them.
fn answers(kv: &KeyValue, encoded: &[u8]) {
    let header = Header { cluster_id: kv.lease as u64, member_id: 7, revision: kv.mod_revision, raft_term: 2 };
    let library = pb::ResponseHeader {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    };
    let mut kvs = vec![2 << 3 | 2];
    prost::encoding::encode_varint(encoded.len() as u64, &mut kvs);
    kvs.extend(encoded);
    let range = RangeReply { kvs, more: kv.version & 1 == 0, count: kv.create_revision, revision: kv.mod_revision };
    let expected =
        pb::RangeResponse { header: Some(library), kvs: vec![kv.clone()], more: range.more, count: range.count };
    let mut head = Vec::new();
    let rest = range.clone().split(&header, &mut head);
    assert_eq!([head, rest].concat(), expected.encode_to_vec());
    let reply = Reply::Range(range);
    let mut written = Vec::new();
    reply.encode(&header, &mut written);
    assert_eq!((written.len(), written), (reply.encoded_len(&header), expected.encode_to_vec()));
}

/// Whether a field begins or ends a group; also somewhere behind what cannot be told apart.
fn has_group(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Ok(tag) = prost::encoding::decode_varint(&mut bytes) else { return false };
        let skipped = match tag & 7 {
            0 => prost::encoding::decode_varint(&mut bytes).is_ok().then_some(0),
            1 => Some(8),
            5 => Some(4),
            2 => prost::encoding::decode_varint(&mut bytes).ok().and_then(|length| usize::try_from(length).ok()),
            _ => return true,
        };
        let Some(rest) = skipped.and_then(|count| bytes.get(count..)) else { return false };
        bytes = rest;
    }
    false
}

fn time_limit(text: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(text)
        && let Ok(limit) = parse_timeout(&value)
    {
        assert!(text.len() <= 9 && limit.as_nanos() <= i64::MAX as u128);
    }
}
