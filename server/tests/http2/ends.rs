//! How requests end.

use crate::frames::{Client, DATA, END_HEADERS, END_STREAM, HEADERS};
use crate::{expect_status, first_request, member};

/// hyper ends the request of a unary call with an empty frame of its own, which the answer may overtake. Thousands of such
/// calls were once too much for one connection: it was closed for "too many internal resets".
#[test]
fn answers_may_overtake_the_end_of_their_requests() {
    let (_folder, member) = member();
    let mut client = Client::connect(&member);
    for call in 0..1500 {
        let stream = 2 * call + 1;
        client.send(HEADERS, END_HEADERS, stream, &first_request("localhost"));
        client.send(DATA, 0, stream, &[0; 5]);
        expect_status(&mut client, stream, "answered before the request ends");
        client.send(DATA, END_STREAM, stream, &[]);
    }
}

/// As in grpc-go: the answer does not wait for the rest, and what comes late is not read.
#[test]
fn more_than_one_message_in_a_unary_call_is_not_read() {
    let (_folder, member) = member();
    let mut client = Client::connect(&member);
    client.send(HEADERS, END_HEADERS, 1, &first_request("localhost"));
    client.send(DATA, 0, 1, &[0; 5]);
    expect_status(&mut client, 1, "the first message is answered");
    client.send(DATA, 0, 1, &[0; 5]);
    let (frame, _) = client.end();
    // NO_ERROR: the client need not go on (RFC 9113, 8.1).
    assert_eq!((frame.kind, frame.stream, &frame.payload[..]), (crate::frames::RST_STREAM, 1, &[0; 4][..]));
    client.send(HEADERS, END_HEADERS, 3, &first_request("localhost"));
    client.send(DATA, END_STREAM, 3, &[0; 5]);
    expect_status(&mut client, 3, "the connection goes on");
}
