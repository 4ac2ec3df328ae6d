//! Pings of clients and of servers, frame by frame: what etcd answers to, asks for and ends a connection over. Every
//! script goes to the oracle and to the server under test; what comes back must be the same, settings and windows aside.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kvorum_api::etcdserverpb as pb;
use kvorum_interop::pair::Half;
use kvorum_interop::process::Kind;
use kvorum_interop::tools;
use prost::Message;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

const MEASURING: [u8; 8] = [2, 4, 16, 16, 9, 14, 7, 7];

/// A connection on which nothing comes for as long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Frame {
    /// The one that completes a message.
    Data,
    Headers,
    /// With its payload.
    Answer(Vec<u8>),
    Ping,
    /// Last stream, code, debug data.
    GoAway(u32, u32, String),
    Closed,
}

struct Connection {
    socket: TcpStream,
    /// Payload of the last ping that came.
    ping: Vec<u8>,
    /// Of a message that is not complete.
    data: Vec<u8>,
}

impl Connection {
    fn open(half: &Half) -> Self {
        let address = half.member.url().trim_start_matches("http://").to_owned();
        let socket = TcpStream::connect(address).expect("the member listens");
        socket.set_read_timeout(Some(SILENCE_MAX)).expect("a time above zero");
        let mut connection = Self { socket, ping: Vec::new(), data: Vec::new() };
        connection.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, ACK, 0, &[])].concat());
        connection
    }

    fn send(&mut self, bytes: &[u8]) {
        // A peer that has closed says so when we read.
        self.socket.write_all(bytes).ok();
    }

    fn send_pings(&mut self, count: u8) {
        let pings: Vec<u8> = (0..count).flat_map(|number| frame(PING, 0, 0, &[number; 8])).collect();
        self.send(&pings);
    }

    /// The next frame of those that matter.
    fn next(&mut self) -> Frame {
        loop {
            let mut head = [0; 9];
            match self.socket.read_exact(&mut head) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing comes"),
                Err(_) => return Frame::Closed,
            }
            let [a, b, c, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.socket.read_exact(&mut payload).expect("frames are whole");
            let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
            match kind {
                DATA => {
                    self.data.extend(payload);
                    if is_message(&self.data) {
                        self.data.clear();
                        return Frame::Data;
                    }
                }
                HEADERS => return Frame::Headers,
                PING if flags & ACK != 0 => return Frame::Answer(payload),
                // grpc-go measures the connection when data come (its BDP estimator).
                PING if payload == MEASURING => {}
                PING => {
                    self.ping = payload;
                    return Frame::Ping;
                }
                GO_AWAY => {
                    let text = String::from_utf8_lossy(&payload[8..]).into_owned();
                    return Frame::GoAway(word(0), word(4), text);
                }
                _ => {}
            }
        }
    }

    /// Everything until the end.
    fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while frames.last() != Some(&Frame::Closed) {
            frames.push(self.next());
        }
        frames
    }

    fn answers(&mut self, count: u8) {
        for number in 0..count {
            assert_eq!(self.next(), Frame::Answer(vec![number; 8]));
        }
    }
}

/// Whether these are a message and its prefix.
fn is_message(data: &[u8]) -> bool {
    matches!(data, [_, a, b, c, d, message @ ..] if message.len() == u32::from_be_bytes([*a, *b, *c, *d]) as usize)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).expect("frames are short").to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Begins a watch on stream 1.
fn watch() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &[u8]| {
        block.extend(name);
        block.push(u8::try_from(value.len()).expect("short"));
        block.extend(value);
    };
    literal(&[0x01], b"member");
    literal(&[0x04], b"/etcdserverpb.Watch/Watch");
    literal(&[0x0f, 0x10], b"application/grpc");
    literal(&[0x00, 2, b't', b'e'], b"trailers");
    let create = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    let request = pb::watch_request::RequestUnion::CreateRequest(create);
    let message = pb::WatchRequest { request_union: Some(request) }.encode_to_vec();
    let body = [&[0, 0, 0, 0, u8::try_from(message.len()).expect("short")], &message[..]].concat();
    [frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, 0, 1, &body)].concat()
}

/// Runs a script against both and compares what it gives.
async fn both(flags: &[&str], script: fn(Connection) -> Vec<Frame>) -> Option<Vec<Frame>> {
    let server = tools::or_skip(tools::server_under_test())?;
    let oracle = tools::or_skip(tools::go_program("oracle"))?;
    let left = Half::start(Kind::Oracle, &oracle, flags).await;
    let right = Half::start(Kind::Server, &server, flags).await;
    let (one, other) = std::thread::scope(|scope| {
        let run = |half| scope.spawn(move || script(Connection::open(half)));
        let (one, other) = (run(&left), run(&right));
        (one.join().expect("etcd's script"), other.join().expect("our script"))
    });
    assert_eq!(one, other);
    Some(one)
}

const CALM: u32 = 11;

#[tokio::test]
async fn a_client_without_calls_may_not_ping() {
    let Some(frames) = both(&["--grpc-keepalive-min-time=1ns"], |mut connection| {
        connection.send_pings(4);
        connection.answers(4);
        connection.rest()
    })
    .await
    else {
        return;
    };
    assert_eq!(frames, [Frame::GoAway(0, CALM, "too_many_pings".to_owned()), Frame::Closed]);
}

#[tokio::test]
async fn a_client_with_calls_may_ping_as_often_as_the_flag_says() {
    let script = |mut connection: Connection| {
        connection.send(&watch());
        let mut begun = vec![connection.next(), connection.next()];
        for _ in 0..10 {
            connection.send_pings(1);
            connection.answers(1);
        }
        // The call ends, and with it the permission.
        connection.send(&frame(RST_STREAM, 0, 1, &CANCEL));
        connection.send_pings(3);
        connection.answers(3);
        begun.extend(connection.rest());
        begun
    };
    let Some(frames) = both(&["--grpc-keepalive-min-time=1ns"], script).await else { return };
    let calm = Frame::GoAway(1, CALM, "too_many_pings".to_owned());
    assert_eq!(frames, [Frame::Headers, Frame::Data, calm, Frame::Closed]);
}

#[tokio::test]
async fn an_answer_forgives_the_pings_before() {
    let script = |mut connection: Connection| {
        connection.send_pings(3);
        connection.answers(3);
        connection.send(&watch());
        let mut begun = vec![connection.next(), connection.next()];
        // The first of these is forgiven, and the fourth is too many.
        connection.send_pings(4);
        connection.answers(4);
        begun.extend(connection.rest());
        begun
    };
    let Some(frames) = both(&["--grpc-keepalive-min-time=1h"], script).await else { return };
    let calm = Frame::GoAway(1, CALM, "too_many_pings".to_owned());
    assert_eq!(frames, [Frame::Headers, Frame::Data, calm, Frame::Closed]);
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_left() {
    let script = |mut connection: Connection| {
        let first = connection.next();
        let answer = frame(PING, ACK, 0, &connection.ping);
        connection.send(&answer);
        let mut frames = vec![first];
        frames.extend(connection.rest());
        frames
    };
    let flags = ["--grpc-keepalive-interval=1s", "--grpc-keepalive-timeout=1s"];
    let Some(frames) = both(&flags, script).await else { return };
    assert_eq!(frames, [Frame::Ping, Frame::Ping, Frame::Closed]);
}
