//! HTTP/2 in bare frames, for what no library sends. It blocks, and answers are read in the order they come.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kvorum_server::start::Running;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x01;
pub const END_HEADERS: u8 = 0x04;

/// What may be sent to a client in all.
const WINDOW_BYTES: u32 = 1 << 30;

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub struct Client {
    pub stream: TcpStream,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

impl Client {
    pub fn connect(member: &Running) -> Self {
        let url = member.client_url();
        let address = url.strip_prefix("http://").expect("no TLS here");
        let stream = TcpStream::connect(address).expect("the member listens");
        stream.set_nodelay(true).expect("a socket takes it");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket takes it");
        let mut client = Self { stream };
        client.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the member reads");
        client.send(SETTINGS, 0, 0, &[]);
        client.send(WINDOW_UPDATE, 0, 0, &WINDOW_BYTES.to_be_bytes());
        client
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.stream.write_all(&frame(kind, flags, stream, payload)).expect("the member reads");
    }

    /// Waits for the member's windows and acknowledges its settings: before, a client may send 65,535 bytes.
    pub fn acknowledge(&mut self) {
        while self.next().kind != WINDOW_UPDATE {}
        self.send(SETTINGS, 1, 0, &[]);
    }

    /// Sends as much as the member takes: it may have closed the connection.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes));
    }

    pub fn next(&mut self) -> Frame {
        self.try_next().expect("the member answers")
    }

    /// The next frame; `None` once the member has closed the connection.
    pub fn try_next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(error) => panic!("{error}"),
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.stream.read_exact(&mut payload).expect("frames are whole");
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The first frame that ends a stream or the connection, and the data that came before.
    pub fn end(&mut self) -> (Frame, Vec<u8>) {
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
}
