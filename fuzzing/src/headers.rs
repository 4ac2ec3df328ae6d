//! Header blocks of HTTP/2 and connections that are looked at for a bad authority. The first byte says what the rest is:
//!
//! - 0: header blocks, each with its length in front;
//! - 1: what a client sends, from its first byte on;
//! - 2: header blocks, which are put into good frames behind a good beginning.
//!
//! Where bytes are cut makes no difference. A connection is either passed on as it came, or begins as it came. What is
//! decoded is bounded by what came, and what was encoded is decoded as it was.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use kvorum_net::hpack::{Decoder, encode_literal};
use kvorum_server::from_outside::headers::RepairedReader;
use tokio::io::{AsyncRead, ReadBuf};

use crate::input::Input;

/// The dynamic table, whose entries one byte can name.
const TABLE_BYTES_MAX: usize = 4096;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 3 {
        0 => blocks(&mut input),
        1 => {
            let length = usize::from(input.byte()).max(1);
            repaired(input.rest(), length);
        }
        _ => {
            let length = usize::from(input.byte()).max(1);
            repaired(&framed(&mut input), length);
        }
    }
}

fn blocks(input: &mut Input<'_>) {
    let mut decoder = Decoder::default();
    while !input.is_empty() {
        let block = input.piece();
        let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let decoded = decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())));
        let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        // A string of Huffman's code has at most 8 characters in 5 bytes.
        assert!(fields.len() <= block.len() && bytes <= block.len() * (TABLE_BYTES_MAX + 2));
        let mut plain = Vec::new();
        fields.iter().for_each(|(name, value)| encode_literal(name, value, &mut plain));
        let mut again = Vec::new();
        let read = Decoder::default().decode(&plain, |name, value| again.push((name.to_vec(), value.to_vec())));
        assert!(read.is_ok() && again == fields, "what was encoded is decoded");
        if decoded.is_err() {
            break;
        }
    }
}

/// Good frames of header blocks, with some of other kinds in between.
fn framed(input: &mut Input<'_>) -> Vec<u8> {
    let mut connection = PREFACE.to_vec();
    let mut stream = 1u32;
    while !input.is_empty() {
        let shape = input.byte();
        let (kind, payload) = (if shape & 7 == 7 { shape >> 3 } else { 1 }, input.piece());
        let (first, second) = payload.split_at(if shape & 8 == 0 { payload.len() } else { payload.len() / 2 });
        let mut frame = |kind: u8, flags: u8, payload: &[u8]| {
            connection.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
            connection.extend_from_slice(&[kind, flags]);
            connection.extend_from_slice(&stream.to_be_bytes());
            connection.extend_from_slice(payload);
        };
        let ends = if second.is_empty() { 4 } else { 0 };
        frame(kind, ends | shape & 0x29, first);
        if !second.is_empty() {
            frame(9, 4, second);
        }
        stream += 2;
    }
    connection
}

fn repaired(bytes: &[u8], length: usize) {
    let whole = read(bytes, bytes.len().max(1));
    assert!(read(bytes, length) == whole, "pieces make no difference");
    assert!(read(bytes, 1) == whole, "single bytes make no difference");
    // Beyond the first frames the headers may be written anew, each name and value out; nothing grows without end.
    assert!(whole.len() <= 1024 + bytes.len() * (TABLE_BYTES_MAX + 16));
    let same = bytes.iter().zip(&whole).take(PREFACE.len()).all(|(came, passed)| came == passed);
    assert!(same, "the beginning is passed on");
}

/// What is read through the repair when the bytes come in pieces.
fn read(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut source = Pieces { rest: bytes, length };
    let mut reader = RepairedReader::default();
    let mut context = Context::from_waker(Waker::noop());
    let mut found = Vec::new();
    loop {
        let mut space = [0; 512];
        let mut buffer = ReadBuf::new(&mut space);
        let polled = match reader.is_done() {
            true => Pin::new(&mut source).poll_read(&mut context, &mut buffer),
            false => reader.poll_read(Pin::new(&mut source), &mut context, &mut buffer),
        };
        assert!(matches!(polled, Poll::Ready(Ok(()))), "bytes in memory are there at once");
        if buffer.filled().is_empty() {
            return found;
        }
        found.extend_from_slice(buffer.filled());
    }
}

struct Pieces<'a> {
    rest: &'a [u8],
    length: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let count = self.length.min(self.rest.len()).min(buffer.remaining());
        let (piece, rest) = self.rest.split_at(count);
        buffer.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}
