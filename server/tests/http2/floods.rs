//! Connections that use HTTP/2 against the member. Each attack must end, in an error for its own connection or in nothing, while
//! a client beside it is served.

use std::collections::BTreeSet;
use std::time::Duration;

use kvorum_server::config::{Config, ConnectionLimits, HeldLimits};
use kvorum_server::embed;
use kvorum_server::start::{Running, start};
use tempfile::TempDir;

use crate::frames::{
    CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame,
};
use crate::{expect_status, first_request, member, request};

// Codes of errors (RFC 9113, 7).
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// "etcdserver: too many requests" in HPACK's Huffman code, as it comes the first time on a connection.
const TOO_MANY_REQUESTS: &[u8] = &[
    0x2a, 0x49, 0x22, 0x0b, 0x67, 0x72, 0xd9, 0x71, 0x44, 0x9c, 0xea, 0x52, 0x3a, 0xbd, 0x29, 0x61, 0x7b, 0x5a, 0x54,
    0x25, 0x1f,
];

fn start_with(change: impl FnOnce(&mut Config)) -> (TempDir, Running) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = Config { connection_threads: 1, ..embed::config(folder.path()) };
    change(&mut config);
    let member = start(&config).expect("the member starts");
    (folder, member)
}

/// Whoever connects now is served.
fn expect_served(member: &Running, why: &str) {
    let mut client = Client::connect(member);
    request(&mut client, 1, &first_request("localhost"));
    expect_status(&mut client, 1, why);
    assert_eq!(member.core().failure(), None, "{why}");
}

/// Why the connection was ended; `None` if it was closed without a word.
fn go_away(client: &mut Client) -> Option<u32> {
    loop {
        let frame = client.try_next()?;
        if frame.kind == GOAWAY {
            return Some(code(&frame.payload[4..]));
        }
    }
}

fn code(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn requests(count: u32, mut then: impl FnMut(&mut Vec<u8>, u32)) -> Vec<u8> {
    let mut bytes = Vec::new();
    for call in 0..count {
        let stream = 2 * call + 1;
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &first_request("localhost")));
        then(&mut bytes, stream);
    }
    bytes
}

/// Requests that are taken back at once.
fn given_up(count: u32) -> Vec<u8> {
    requests(count, |bytes, stream| bytes.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())))
}

/// Requests that are taken back at once cost the server and not the client.
#[test]
fn cve_2023_44487_rapid_reset() {
    let (_folder, member) = member();
    let mut client = Client::connect(&member);
    client.send_bytes(&given_up(2_000));
    assert_eq!(go_away(&mut client), Some(ENHANCE_YOUR_CALM));
    expect_served(&member, "after rapid resets");
}

/// A client that gives up many calls at once, as after a moment in which a machine stood still, keeps its connection.
#[test]
fn calls_given_up_together_are_no_attack() {
    let (_folder, member) = member();
    let mut client = Client::connect(&member);
    client.send_bytes(&given_up(250));
    request(&mut client, 501, &first_request("localhost"));
    expect_status(&mut client, 501, "behind calls that were given up");
}

/// The same one by one, so that each request is begun before it is taken back: work, but nothing that stays.
#[test]
fn cve_2023_44487_resets_of_calls_under_way() {
    let (_folder, member) = member();
    let mut client = Client::connect(&member);
    for call in 0..300 {
        let stream = 4 * call + 1;
        client.send(HEADERS, END_HEADERS, stream, &first_request("localhost"));
        request(&mut client, stream + 2, &first_request("localhost"));
        expect_status(&mut client, stream + 2, "behind one that was begun");
        client.send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
    }
    expect_served(&member, "after resets");
}

/// Headers without end: in many small frames, in empty ones, and as the second request as well as the first.
#[test]
fn cve_2023_45288_continuation_flood() {
    let (_folder, member) = member();
    for (first, payload) in [(true, vec![0; 0]), (false, vec![0; 0]), (true, field(1_000)), (false, field(1_000))] {
        let mut client = Client::connect(&member);
        let mut stream = 1;
        if !first {
            request(&mut client, 1, &first_request("localhost"));
            expect_status(&mut client, 1, "the first request");
            stream = 3;
        }
        let mut bytes = frame(HEADERS, 0, stream, &first_request("localhost"));
        for _ in 0..10_000 {
            bytes.extend(frame(CONTINUATION, 0, stream, &payload));
        }
        client.send_bytes(&bytes);
        let end = go_away(&mut client);
        assert!(matches!(end, Some(ENHANCE_YOUR_CALM) | None), "{end:?}, first {first}, {} bytes", payload.len());
    }
    expect_served(&member, "after continuation floods");
}

/// A header that is not to be remembered.
fn field(length: usize) -> Vec<u8> {
    let mut bytes = vec![0x10, 1, b'x'];
    integer(length, &mut bytes);
    bytes.resize(bytes.len() + length, b'v');
    bytes
}

/// A length as HPACK has it, with a prefix of seven bits.
fn integer(mut value: usize, bytes: &mut Vec<u8>) {
    if value < 127 {
        return bytes.push(value as u8);
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
}

/// Frames that are wrong, so that the server resets the stream and not the client.
#[test]
fn cve_2025_8671_made_you_reset() {
    let (_folder, member) = member();
    let mut client = Client::connect(&member);
    // A window beyond the largest is an error of its stream.
    let bytes = requests(3_000, |bytes, stream| {
        bytes.extend(frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes()));
    });
    client.send_bytes(&bytes);
    assert_eq!(go_away(&mut client), Some(ENHANCE_YOUR_CALM));
    let mut client = Client::connect(&member);
    // Data behind the end of a request.
    let bytes = requests(3_000, |bytes, stream| {
        bytes.extend(frame(DATA, END_STREAM, stream, &[0; 5]));
        bytes.extend(frame(DATA, END_STREAM, stream, &[0; 5]));
    });
    client.send_bytes(&bytes);
    let end = go_away(&mut client);
    assert!(end.is_some(), "it goes on");
    expect_served(&member, "after resets that it was made to do");
}

#[test]
fn cve_2019_9512_pings() {
    let (_folder, member) = member();
    let mut client = Client::connect(&member);
    client.send_bytes(&frame(PING, 0, 0, &[7; 8]).repeat(10_000));
    assert_eq!(go_away(&mut client), Some(ENHANCE_YOUR_CALM));
    expect_served(&member, "after pings");
}

/// Each must be acknowledged; nothing piles up for one that does not read, since no more is read of it either.
#[test]
fn cve_2019_9515_settings() {
    let (_folder, member) = member();
    let mut client = Client::connect(&member);
    client.send_bytes(&frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(20_000));
    expect_served(&member, "beside settings");
    request(&mut client, 1, &first_request("localhost"));
    expect_status(&mut client, 1, "after settings");
}

/// Frames without content, and those that are of no consequence.
#[test]
fn cve_2019_9518_empty_frames() {
    let (_folder, member) = member();
    let mut client = Client::connect(&member);
    let mut bytes = frame(HEADERS, END_HEADERS, 1, &first_request("localhost"));
    bytes.extend(frame(DATA, 0, 1, &[]).repeat(1_000));
    client.send_bytes(&bytes);
    assert_eq!(go_away(&mut client), Some(ENHANCE_YOUR_CALM));
    let mut client = Client::connect(&member);
    client.send_bytes(&frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]).repeat(10_000));
    client.send_bytes(&frame(0xbe, 0xff, 5, &[1; 100]).repeat(10_000));
    request(&mut client, 1, &first_request("localhost"));
    expect_status(&mut client, 1, "after frames that say nothing");
    expect_served(&member, "after empty frames");
}

/// A few bytes that stand for megabytes: a long field, remembered once and referred to many times.
#[test]
fn cve_2016_6581_hpack_bomb() {
    let (_folder, member) = member();
    for first in [true, false] {
        let mut client = Client::connect(&member);
        let mut stream = 1;
        if !first {
            request(&mut client, 1, &first_request("localhost"));
            expect_status(&mut client, 1, "the first request");
            stream = 3;
        }
        let mut block = first_request("localhost");
        block.extend_from_slice(&[0x40, 1, b'x']);
        integer(3_000, &mut block);
        block.resize(block.len() + 3_000, b'v');
        // The newest entry of the table.
        block.resize(block.len() + 10_000, 0x80 | 62);
        client.send(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        let end = go_away(&mut client);
        assert!(matches!(end, Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR)), "{end:?}");
    }
    expect_served(&member, "after bombs");
}

/// Calls beyond the number that the settings say are refused before they are looked at.
#[test]
fn streams_of_a_connection_are_bounded() {
    for (flag, announced) in [(u32::MAX, 65_536), (10, 10)] {
        let (_folder, member) = start_with(|config| config.max_concurrent_streams = flag);
        let mut client = Client::connect(&member);
        let settings = client.next();
        assert_eq!(settings.kind, SETTINGS);
        let told = settings.payload.chunks(6).find(|setting| setting[..2] == [0, 3]).expect("it is announced");
        assert_eq!(code(&told[2..]), announced);
        if announced > 10 {
            continue;
        }
        client.send_bytes(&requests(11, |_, _| {}));
        let (refused, _) = client.end();
        assert_eq!((refused.kind, refused.stream, code(&refused.payload)), (RST_STREAM, 21, REFUSED_STREAM));
        client.send(DATA, END_STREAM, 1, &[0; 5]);
        expect_status(&mut client, 1, "one of the ten");
    }
}

const LIMITS: ConnectionLimits = ConnectionLimits {
    preface_time: Duration::from_secs(10),
    page_head_time: Duration::from_secs(10),
    peer_head_time: Duration::from_secs(10),
    client_connections: None,
    held: HeldLimits { connection_bytes: 500_000, thread_bytes: 1 << 30, connection_bytes_floor: 100_000 },
};

fn says(frame: &Frame, bytes: &[u8]) -> bool {
    frame.payload.windows(bytes.len()).any(|window| window == bytes)
}

/// A call of KV.
fn kv_request(method: &str) -> Vec<u8> {
    let path = format!("/etcdserverpb.KV/{method}");
    let mut block = vec![0x83, 0x86, 0x04, path.len() as u8];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(b"\x01\x09localhost");
    block.extend_from_slice(crate::CONTENT_TYPE);
    block
}

/// A message behind gRPC's prefix.
fn framed(message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
    message.encode(&mut bytes).expect("there is room");
    bytes
}

/// Puts a value of 200,000 bytes on stream 1; returns the request that reads it.
fn put_large(client: &mut Client) -> Vec<u8> {
    use kvorum_api::etcdserverpb::{PutRequest, RangeRequest};
    let put = PutRequest { key: "large".into(), value: vec![7; 200_000].into(), ..Default::default() };
    client.send(HEADERS, END_HEADERS, 1, &kv_request("Put"));
    for piece in framed(&put).chunks(16_000) {
        client.send(DATA, 0, 1, piece);
    }
    client.send(DATA, END_STREAM, 1, &[]);
    let (end, _) = client.end();
    assert_eq!(end.kind, HEADERS, "{:?}", end.payload);
    framed(&RangeRequest { key: "large".into(), ..Default::default() })
}

/// Replies that nobody takes are kept up to a bound; then calls are refused, and others are served.
#[test]
fn replies_that_are_not_read_are_bounded() {
    let (_folder, member) = start_with(|config| config.connection_limits = LIMITS);
    let mut client = Client::connect(&member);
    client.acknowledge();
    let range = put_large(&mut client);
    let ask = |client: &mut Client, stream: u32| {
        client.send(HEADERS, END_HEADERS, stream, &kv_request("Range"));
        client.send(DATA, END_STREAM, stream, &range);
    };
    // Of each the client takes 65,535 bytes: so much it said in the beginning.
    for call in 1..=10 {
        ask(&mut client, 2 * call + 1);
    }
    let (mut begun, mut refused, mut got) = (BTreeSet::new(), 0, 0);
    while refused < 10 - begun.len() || got < 65_535 * begun.len() {
        let frame = client.next();
        match frame.kind {
            DATA => got += frame.payload.len(),
            HEADERS if frame.flags & END_STREAM == 0 => drop(begun.insert(frame.stream)),
            HEADERS => {
                assert!(refused > 0 || says(&frame, TOO_MANY_REQUESTS), "{:?}", frame.payload);
                refused += 1;
            }
            _ => {}
        }
    }
    assert!((3..=7).contains(&refused), "{refused} of 10 refused");
    expect_served(&member, "beside replies that are not read");
    // Those that were kept come when they are asked for, and then there is room again.
    for call in 1..=10 {
        client.send(WINDOW_UPDATE, 0, 2 * call + 1, &1_000_000_u32.to_be_bytes());
    }
    for _ in refused..10 {
        assert_eq!(client.end().0.kind, HEADERS);
    }
    client.send(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    ask(&mut client, 101);
    let (end, data) = client.end();
    assert_eq!((end.kind, end.stream), (HEADERS, 101));
    assert!(data.len() > 200_000);
}

/// Messages that are begun and not ended are kept up to a bound.
#[test]
fn messages_that_do_not_end_are_bounded() {
    let (_folder, member) = start_with(|config| config.connection_limits = LIMITS);
    let mut client = Client::connect(&member);
    client.acknowledge();
    for call in 0..30 {
        let stream = 2 * call + 1;
        client.send(HEADERS, END_HEADERS, stream, &kv_request("Put"));
        // A megabyte is announced, and 32 KB of it come.
        client.send(DATA, 0, stream, &[&[0, 0, 16, 0, 0][..], &[7; 16_000]].concat());
        client.send(DATA, 0, stream, &[7; 16_000]);
    }
    let mut refused = 0;
    while refused < 10 {
        let (end, _) = client.end();
        // What a refused call would still send is told off behind its answer.
        if end.kind == RST_STREAM && end.payload == [0; 4] {
            continue;
        }
        assert_eq!(end.kind, HEADERS, "{:?}", end.payload);
        assert!(refused > 0 || says(&end, TOO_MANY_REQUESTS), "{:?}", end.payload);
        refused += 1;
    }
    expect_served(&member, "beside messages that do not end");
}

/// A client that goes while replies wait for it takes nobody along. (In builds with assertions h2 panics for some of these.)
#[test]
fn who_leaves_with_replies_waiting_harms_nobody() {
    let (_folder, member) = start_with(|_| {});
    let mut client = Client::connect(&member);
    client.acknowledge();
    let range = put_large(&mut client);
    for way in 0..6 {
        let mut leaving = Client::connect(&member);
        for call in 0..20 {
            leaving.send(HEADERS, END_HEADERS, 2 * call + 1, &kv_request("Range"));
            leaving.send(DATA, END_STREAM, 2 * call + 1, &range);
        }
        match way % 3 {
            0 => {}
            1 => drop(leaving.try_next()),
            _ => leaving.send(SETTINGS, 0, 1, &[]),
        }
        drop(leaving);
        request(&mut client, 2 * way + 3, &first_request("localhost"));
        expect_status(&mut client, 2 * way + 3, "whoever was there before");
        expect_served(&member, "beside those that leave");
    }
}

/// grpc-go served a path without its slash, and those who judged paths did not know it (CVE-2026-33186).
#[test]
fn cve_2026_33186_paths_without_their_slash() {
    let (_folder, member) = member();
    for path in [
        "etcdserverpb.Maintenance/Status",
        "//etcdserverpb.Maintenance/Status",
        "/etcdserverpb.Maintenance//Status",
        "*",
        "",
    ] {
        let mut client = Client::connect(&member);
        let mut block = vec![0x83, 0x86, 0x04, path.len() as u8];
        block.extend_from_slice(path.as_bytes());
        block.extend_from_slice(b"\x01\x09localhost");
        block.extend_from_slice(crate::CONTENT_TYPE);
        client.send(HEADERS, END_HEADERS, 1, &block);
        client.send(DATA, END_STREAM, 1, &[0; 5]);
        let (end, data) = client.end();
        assert!(data.is_empty(), "{path} was answered");
        assert!(end.kind != GOAWAY || path.is_empty(), "{path}: {:?}", end.payload);
        assert!(end.kind != HEADERS || end.flags & END_STREAM != 0, "{path}");
    }
    expect_served(&member, "after odd paths");
}
