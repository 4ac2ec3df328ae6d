//! Clients whose `:authority` is none are served as others are. Spoken in raw HTTP/2, since no library sends such a
//! thing when asked to.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kvorum_api::etcdserverpb::StatusResponse;
use kvorum_server::embed;
use kvorum_server::start::Running;
use prost::Message;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 0x01;
const END_HEADERS: u8 = 0x04;

/// PROTOCOL_ERROR as frames carry it (RFC 9113, 7).
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

struct Frame {
    kind: u8,
    flags: u8,
    stream: u8,
    payload: Vec<u8>,
}

struct Client {
    stream: TcpStream,
}

impl Client {
    fn connect(member: &Running) -> Self {
        let url = member.client_url();
        let address = url.strip_prefix("http://").expect("no TLS here");
        let stream = TcpStream::connect(address).expect("the member listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket takes it");
        let mut client = Self { stream };
        client.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the member reads");
        client.send(SETTINGS, 0, 0, &[]);
        client
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).expect("the member reads");
    }

    /// Asks for the member's status.
    fn request(&mut self, stream: u8, block: &[u8]) {
        self.send(HEADERS, END_HEADERS, stream, block);
        self.send(DATA, END_STREAM, stream, &[0; 5]);
    }

    fn next(&mut self) -> Frame {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).expect("the member answers");
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.stream.read_exact(&mut payload).expect("frames are whole");
        Frame { kind: head[3], flags: head[4], stream: head[8], payload }
    }

    /// The first frame that ends a stream or the connection, and the data that came before.
    fn end(&mut self) -> (Frame, Vec<u8>) {
        let mut data = Vec::new();
        loop {
            let frame = self.next();
            match frame.kind {
                DATA => data.extend_from_slice(&frame.payload),
                HEADERS if frame.flags & END_STREAM != 0 => return (frame, data),
                RST_STREAM | GOAWAY => return (frame, data),
                _ => {}
            }
        }
    }

    /// Reads the answer to [`Client::request`].
    fn expect_status(&mut self, stream: u8, why: &str) {
        let (frame, data) = self.end();
        assert_eq!((frame.kind, frame.stream), (HEADERS, stream), "{why}");
        let status = StatusResponse::decode(&data[5..]).expect("a status");
        assert_eq!(status.version, kvorum_server::ETCD_VERSION);
    }
}

/// A request that leaves its path in the table of headers, and after it its authority.
fn first_request(authority: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (index, value) in [(4, "/etcdserverpb.Maintenance/Status"), (1, authority)] {
        block.extend_from_slice(&[0x40 | index, value.len() as u8]);
        block.extend_from_slice(value.as_bytes());
    }
    block.extend_from_slice(CONTENT_TYPE);
    block
}

/// `content-type: application/grpc`, not to be remembered.
const CONTENT_TYPE: &[u8] = b"\x0f\x10\x10application/grpc";

/// The same request over again: the two newest entries of the table (index 62 is the authority).
fn next_request() -> Vec<u8> {
    [&[0x83, 0x86, 0x80 | 63, 0x80 | 62], CONTENT_TYPE].concat()
}

fn member() -> (tempfile::TempDir, Running) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let member = embed::start(folder.path()).expect("the member starts");
    (folder, member)
}

#[test]
fn clients_with_an_odd_authority_are_served() {
    let (_folder, member) = member();
    for authority in [
        "127.0.0.1:2379",
        "http://127.0.0.1:2379",
        "unix:///run/etcd.sock",
        "#initially=[http://127.0.0.1:2379]",
        "127.0.0.1:2379,127.0.0.2:2379",
        "/run/etcd.sock",
        "run%2Fetcd.sock",
        "",
        "my host:2379",
    ] {
        let mut client = Client::connect(&member);
        client.request(1, &first_request(authority));
        client.expect_status(1, authority);
        client.request(3, &next_request());
        client.expect_status(3, authority);
    }
}

/// A known limit: the first request of a connection decides whether it is looked at.
#[test]
fn an_odd_authority_after_one_in_order_is_refused() {
    let (_folder, member) = member();
    let mut client = Client::connect(&member);
    client.request(1, &first_request("127.0.0.1:2379"));
    client.expect_status(1, "in order");
    client.request(3, &first_request("http://127.0.0.1:2379"));
    let (frame, _) = client.end();
    assert_eq!((frame.kind, frame.stream, &frame.payload[..]), (RST_STREAM, 3, &PROTOCOL_ERROR[..]));
    client.request(5, &first_request("127.0.0.1:2379"));
    client.expect_status(5, "the connection goes on");
}

#[test]
fn a_header_block_that_cannot_be_read_ends_the_connection() {
    let (_folder, member) = member();
    for authority in ["127.0.0.1:2379", "http://127.0.0.1:2379"] {
        let mut client = Client::connect(&member);
        client.request(1, &first_request(authority));
        client.expect_status(1, authority);
        // An entry that the table does not have.
        client.request(3, &[0x83, 0x86, 0xff, 0x00]);
        let (frame, _) = client.end();
        assert_eq!((frame.kind, &frame.payload[4..8]), (GOAWAY, &PROTOCOL_ERROR[..]), "{authority}");
        let mut rest = Vec::new();
        // The member may close with bytes of ours unread, which resets the connection.
        drop(client.stream.read_to_end(&mut rest));
    }
}
