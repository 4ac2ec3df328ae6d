//! One HTTP/2 connection of the closed loop: requests out, replies in, and as little else as RFC 9113 lets a client get
//! away with. It takes half the CPU of a general library, which matters because it shares the cores with the server; the
//! open-ended calls of the watch and lease cases use the `h2` crate instead. It never buffers a reply that nobody wants.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use kvorum_net::hpack::{Decoder, encode_remembered};
use kvorum_net::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls;
use crate::wire;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// The largest frame a peer may send while we announce nothing else; also what any peer accepts.
const FRAME_BYTES_MAX: usize = 16_384;
const READ_BUFFER_BYTES: usize = 64 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

const SETTING_HEADER_TABLE_SIZE: u16 = 1;
const SETTING_ENABLE_PUSH: u16 = 2;
const SETTING_MAX_CONCURRENT_STREAMS: u16 = 3;
const SETTING_INITIAL_WINDOW_SIZE: u16 = 4;

const WINDOW_BYTES_DEFAULT: u32 = 65_535;
/// Receive windows so large that the client never holds a server back.
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
/// So many bytes may arrive before the connection's receive window is topped up.
const WINDOW_TOP_UP_BYTES: u32 = 1 << 29;

/// What a server sent on a stream.
pub enum Received<'a> {
    Data(&'a [u8]),
    /// The call has ended: `Ok` if its status is 0.
    End(Result<(), String>),
}

/// A connection on which all calls go to the same method.
pub struct Connection {
    stream: Stream,
    /// TLS may hold bytes that it was given.
    unflushed: bool,
    /// Bytes to be sent, from `sent` on.
    output: Vec<u8>,
    sent: usize,
    /// Bytes received are those below `filled`; they were handled up to `taken`. At most one frame is incomplete.
    input: Vec<u8>,
    filled: usize,
    taken: usize,
    decoder: Decoder,
    /// The header block of the next call: spelled out for the first, references to the server's table after that.
    call_block: Vec<u8>,
    next_stream: u32,
    /// Calls by stream, from `first_stream` in steps of 2; `None` once ended. The first is always open.
    calls: VecDeque<Option<Call>>,
    first_stream: u32,
    open_calls: usize,
    open_calls_max: usize,
    send_window_bytes: i64,
    stream_window_bytes: u32,
    received_bytes: u32,
}

/// A call that is open.
struct Call {
    /// The caller's name for it.
    slot: usize,
    status: Option<Result<(), String>>,
}

impl Connection {
    /// With TLS if there is a connector.
    pub async fn open(address: SocketAddr, path: &str, tls: Option<&TlsConnector>) -> Result<Connection, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let stream = match tls {
            None => Stream::Plain(stream),
            Some(connector) => tls::connect(connector, stream, address).await?,
        };
        let mut output = PREFACE.to_vec();
        let mut settings = Vec::new();
        for (setting, value) in [(SETTING_ENABLE_PUSH, 0), (SETTING_INITIAL_WINDOW_SIZE, WINDOW_BYTES_MAX)] {
            settings.extend_from_slice(&setting.to_be_bytes());
            settings.extend_from_slice(&u32::to_be_bytes(value));
        }
        put_frame(&mut output, SETTINGS, 0, 0, &settings);
        put_frame(&mut output, WINDOW_UPDATE, 0, 0, &(WINDOW_BYTES_MAX - WINDOW_BYTES_DEFAULT).to_be_bytes());
        Ok(Connection {
            stream,
            unflushed: false,
            output,
            sent: 0,
            input: vec![0; READ_BUFFER_BYTES],
            filled: 0,
            taken: 0,
            decoder: Decoder::default(),
            call_block: first_call_block(&address.to_string(), path),
            next_stream: 1,
            calls: VecDeque::new(),
            first_stream: 1,
            open_calls: 0,
            open_calls_max: usize::MAX,
            send_window_bytes: i64::from(WINDOW_BYTES_DEFAULT),
            stream_window_bytes: WINDOW_BYTES_DEFAULT,
            received_bytes: 0,
        })
    }

    /// Whether the server's limits admit another call now with a body of that length.
    pub fn admits(&self, body_bytes: usize) -> bool {
        self.open_calls < self.open_calls_max && self.send_window_bytes >= body_bytes as i64
    }

    /// Queues a call, whose reply comes under the name `slot`. `body` is one whole framed message.
    pub fn call(&mut self, slot: usize, body: &[u8]) -> Result<(), String> {
        if body.len() > FRAME_BYTES_MAX || body.len() > self.stream_window_bytes as usize {
            return Err(format!("a request of {} bytes does not fit into one frame", body.len()));
        }
        let stream = self.next_stream;
        put_frame(&mut self.output, HEADERS, END_HEADERS, stream, &self.call_block);
        put_frame(&mut self.output, DATA, END_STREAM, stream, body);
        if stream == 1 {
            self.call_block = LATER_CALL_BLOCK.to_vec();
        }
        self.next_stream += 2;
        self.open_calls += 1;
        self.send_window_bytes -= body.len() as i64;
        self.calls.push_back(Some(Call { slot, status: None }));
        Ok(())
    }

    /// Writes what is queued, as far as the socket takes it.
    pub fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        while self.sent < self.output.len() {
            match Pin::new(&mut self.stream).poll_write(context, &self.output[self.sent..]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err("the server closed the connection".to_owned()),
                Poll::Ready(Ok(written)) => self.sent += written,
                Poll::Ready(Err(error)) => return Err(format!("send: {error}")),
            }
            self.unflushed = true;
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(flushed) => flushed.map_err(|error| format!("send: {error}"))?,
            }
            self.unflushed = false;
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads once, and hands on what came for calls. Pending when nothing has come.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        mut take: impl FnMut(usize, Received<'_>) -> Result<(), String>,
    ) -> Poll<Result<(), String>> {
        self.input.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        let mut buffer = ReadBuf::new(&mut self.input[self.filled..]);
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                return Poll::Ready(Err("the server closed the connection".to_owned()));
            }
            Poll::Ready(Ok(())) => self.filled += buffer.filled().len(),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(format!("receive: {error}"))),
        }
        // Frames borrow the buffer while they change the rest of the connection.
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..self.filled];
        let mut outcome = Ok(());
        while let Some((frame, after)) = Frame::split(rest) {
            rest = after;
            outcome = self.handle(&frame, &mut take);
            if outcome.is_err() {
                break;
            }
        }
        self.taken = self.filled - rest.len();
        self.input = input;
        Poll::Ready(outcome)
    }

    fn handle(
        &mut self,
        frame: &Frame<'_>,
        take: &mut impl FnMut(usize, Received<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        match frame.kind {
            DATA => {
                self.count_received(frame.payload.len() as u32);
                take(self.open_call(frame.stream)?.slot, Received::Data(frame.content()?))?;
                if frame.flags & END_STREAM != 0 {
                    self.end(frame.stream, take)?;
                }
            }
            HEADERS => {
                if frame.flags & END_HEADERS == 0 {
                    return Err("the load generator does not read headers in several frames".to_owned());
                }
                self.read_status(frame.stream, frame.content()?)?;
                if frame.flags & END_STREAM != 0 {
                    self.end(frame.stream, take)?;
                }
            }
            SETTINGS if frame.flags & ACK == 0 => {
                self.apply_settings(frame.payload)?;
                put_frame(&mut self.output, SETTINGS, ACK, 0, &[]);
            }
            PING if frame.flags & ACK == 0 => put_frame(&mut self.output, PING, ACK, 0, frame.payload),
            WINDOW_UPDATE if frame.stream == 0 => self.send_window_bytes += i64::from(frame.number(0)?),
            RST_STREAM => return Err(format!("the server reset a call with error {}", frame.number(0)?)),
            GOAWAY => return Err(format!("the server ended the connection with error {}", frame.number(4)?)),
            PUSH_PROMISE | CONTINUATION => return Err(format!("unexpected frame of type {}", frame.kind)),
            _ => {}
        }
        Ok(())
    }

    fn count_received(&mut self, bytes: u32) {
        self.received_bytes += bytes;
        if self.received_bytes >= WINDOW_TOP_UP_BYTES {
            put_frame(&mut self.output, WINDOW_UPDATE, 0, 0, &self.received_bytes.to_be_bytes());
            self.received_bytes = 0;
        }
    }

    fn read_status(&mut self, stream: u32, block: &[u8]) -> Result<(), String> {
        let (mut status, mut message, mut http_status) = (None, Vec::new(), None);
        let decoded = self.decoder.decode(block, |name, value| match name {
            b"grpc-status" if value == b"0" => status = Some(Ok(())),
            b"grpc-status" => status = Some(Err(value.to_vec())),
            b"grpc-message" => message = value.to_vec(),
            b":status" if value != b"200" => http_status = Some(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        });
        decoded.map_err(|error| error.to_string())?;
        if let Some(http_status) = http_status {
            return Err(format!("HTTP status {http_status}"));
        }
        if let Some(status) = status {
            let status = status.map_err(|number| wire::failure(&number, &message));
            self.open_call(stream)?.status = Some(status);
        }
        Ok(())
    }

    fn end(
        &mut self,
        stream: u32,
        take: &mut impl FnMut(usize, Received<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        self.open_call(stream)?;
        let place = self.place_of(stream);
        let ended = self.calls[place].take().expect("the call is open");
        while let Some(None) = self.calls.front() {
            self.calls.pop_front();
            self.first_stream += 2;
        }
        self.open_calls -= 1;
        take(ended.slot, Received::End(ended.status.unwrap_or_else(|| Err("reply without grpc-status".to_owned()))))
    }

    fn open_call(&mut self, stream: u32) -> Result<&mut Call, String> {
        let place = self.place_of(stream);
        let call = self.calls.get_mut(place).and_then(Option::as_mut);
        call.ok_or_else(|| format!("a frame for stream {stream}, which is not open"))
    }

    /// Far outside for streams that are not ours or long gone.
    fn place_of(&self, stream: u32) -> usize {
        (stream.wrapping_sub(self.first_stream) / 2) as usize
    }

    fn apply_settings(&mut self, payload: &[u8]) -> Result<(), String> {
        for setting in payload.chunks_exact(6) {
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match u16::from_be_bytes([setting[0], setting[1]]) {
                SETTING_MAX_CONCURRENT_STREAMS => self.open_calls_max = value as usize,
                SETTING_INITIAL_WINDOW_SIZE => self.stream_window_bytes = value,
                // The block of later calls needs its four entries to stay in the server's table.
                SETTING_HEADER_TABLE_SIZE if value < 1024 => {
                    return Err(format!("a header table of {value} bytes is too small for the load generator"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// `:method: POST` and `:scheme: http` are in the static table; the others enter the server's dynamic table, where the
/// newest has number 62.
fn first_call_block(authority: &str, path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    encode_remembered(b":path", path.as_bytes(), &mut block);
    encode_remembered(b":authority", authority.as_bytes(), &mut block);
    encode_remembered(b"content-type", b"application/grpc", &mut block);
    encode_remembered(b"te", b"trailers", &mut block);
    block
}

const LATER_CALL_BLOCK: [u8; 6] = [0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];

fn put_frame(output: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("frames are at most 16 KiB").to_be_bytes();
    let stream = stream.to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags, stream[0], stream[1], stream[2], stream[3]];
    output.extend_from_slice(&head);
    output.extend_from_slice(payload);
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame and what follows it; `None` while it is not complete.
    fn split(bytes: &'a [u8]) -> Option<(Frame<'a>, &'a [u8])> {
        let (head, rest) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, rest) = rest.split_at_checked(length)?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some((Frame { kind: head[3], flags: head[4], stream, payload }, rest))
    }

    /// The payload of DATA or HEADERS without padding and priority.
    fn content(&self) -> Result<&'a [u8], String> {
        let mut content = self.payload;
        let cut = "a frame is shorter than its padding";
        if self.flags & PADDED != 0 {
            let (padding, rest) = content.split_first().ok_or(cut)?;
            let length = rest.len().checked_sub(usize::from(*padding)).ok_or(cut)?;
            content = &rest[..length];
        }
        if self.kind == HEADERS && self.flags & PRIORITY != 0 {
            content = content.get(5..).ok_or(cut)?;
        }
        Ok(content)
    }

    fn number(&self, offset: usize) -> Result<u32, String> {
        let bytes = self.payload.get(offset..).and_then(|bytes| bytes.first_chunk::<4>());
        Ok(u32::from_be_bytes(*bytes.ok_or("a frame is too short")?))
    }
}
