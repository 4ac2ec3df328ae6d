//! Clients whose `:authority` is none are served as others are. Spoken in raw HTTP/2, since no library sends such a
//! thing when asked to.

use std::io::Read;

use crate::frames::{Client, GOAWAY, RST_STREAM};
use crate::{CONTENT_TYPE, expect_status, first_request, member, request};

/// PROTOCOL_ERROR as frames carry it (RFC 9113, 7).
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

/// The same request over again: the two newest entries of the table (index 62 is the authority).
fn next_request() -> Vec<u8> {
    [&[0x83, 0x86, 0x80 | 63, 0x80 | 62], CONTENT_TYPE].concat()
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
        request(&mut client, 1, &first_request(authority));
        expect_status(&mut client, 1, authority);
        request(&mut client, 3, &next_request());
        expect_status(&mut client, 3, authority);
    }
}

/// A known limit: the first request of a connection decides whether it is looked at.
#[test]
fn an_odd_authority_after_one_in_order_is_refused() {
    let (_folder, member) = member();
    let mut client = Client::connect(&member);
    request(&mut client, 1, &first_request("127.0.0.1:2379"));
    expect_status(&mut client, 1, "in order");
    request(&mut client, 3, &first_request("http://127.0.0.1:2379"));
    let (frame, _) = client.end();
    assert_eq!((frame.kind, frame.stream, &frame.payload[..]), (RST_STREAM, 3, &PROTOCOL_ERROR[..]));
    request(&mut client, 5, &first_request("127.0.0.1:2379"));
    expect_status(&mut client, 5, "the connection goes on");
}

#[test]
fn a_header_block_that_cannot_be_read_ends_the_connection() {
    let (_folder, member) = member();
    for authority in ["127.0.0.1:2379", "http://127.0.0.1:2379"] {
        let mut client = Client::connect(&member);
        request(&mut client, 1, &first_request(authority));
        expect_status(&mut client, 1, authority);
        // An entry that the table does not have.
        request(&mut client, 3, &[0x83, 0x86, 0xff, 0x00]);
        let (frame, _) = client.end();
        assert_eq!((frame.kind, &frame.payload[4..8]), (GOAWAY, &PROTOCOL_ERROR[..]), "{authority}");
        let mut rest = Vec::new();
        // The member may close with bytes of ours unread, which resets the connection.
        drop(client.stream.read_to_end(&mut rest));
    }
}
