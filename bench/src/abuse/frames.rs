//! HTTP/2 in bare frames, for what no library sends. It blocks, and does not look at what comes back.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use kvorum_net::hpack;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A write that the server does not take for so long is given up, so that an attacker can end.
const WRITE_TIMEOUT: Duration = Duration::from_millis(200);
/// Reading what is there waits no longer for more.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(1);
/// The server's windows have come by then.
const GREETING_TIME: Duration = Duration::from_millis(20);

/// A connection that has said its settings.
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// `window_bytes` is what the server may send on each stream; on the connection it may send anything.
    pub fn connect(address: SocketAddr, window_bytes: u32) -> io::Result<Wire> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        stream.set_read_timeout(Some(DRAIN_TIMEOUT))?;
        let mut greeting = PREFACE.to_vec();
        let mut settings = vec![0, 4];
        settings.extend_from_slice(&window_bytes.to_be_bytes());
        greeting.extend(frame(SETTINGS, 0, 0, &settings));
        greeting.extend(frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
        stream.write_all(&greeting)?;
        std::thread::sleep(GREETING_TIME);
        stream.write_all(&frame(SETTINGS, 1, 0, &[]))?;
        Ok(Wire { stream })
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Takes what the server has sent. An error once it has closed the connection.
    pub fn drain(&mut self) -> io::Result<()> {
        let mut ignored = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut ignored) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The header block of the first call of a connection; [`LATER_CALL`] is that of all others to the same method.
pub fn first_call(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let fields =
        [(":path", path), (":authority", "localhost"), ("content-type", "application/grpc"), ("te", "trailers")];
    for (name, value) in fields {
        hpack::encode_remembered(name.as_bytes(), value.as_bytes(), &mut block);
    }
    block
}

pub const LATER_CALL: &[u8] = &[0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];
