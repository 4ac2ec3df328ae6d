//! Repairs `:authority` for clients that put into it what is none: `h2` would refuse their requests, as the RFC allows,
//! but etcd's server takes them and etcd's clients send them.
//!
//! `h2` demands that `http::uri::Authority` can parse the field. What it refuses, and who sends it:
//!
//! - `http://127.0.0.1:2379` and `unix:///run/etcd.sock`: clientv3 3.4 where it dials one endpoint by its whole URL
//!   (`etcdctl endpoint status` and `hashkv`, for one);
//! - `#initially=[http://127.0.0.1:2379]`: clientv3 3.5.0 (mended in 3.5.1);
//! - `127.0.0.1:2379,127.0.0.2:2379`: gRPC's C core (so Python) with a target of several addresses;
//! - `/run/etcd.sock` (clientv3 3.4, grpc-java) and `run%2Fetcd.sock` (C core since 1.57): unix sockets;
//! - an empty string: jetcd with a `dns+srv:///` target.
//!
//! The first header block of a connection decides, since a client has one authority for each connection. When it is in
//! order (or when nothing can be made of it, which is for `h2` to answer), everything that follows goes past this module
//! untouched. Otherwise the connection is translated to its end: every header block is decoded and written anew, without
//! compression, with [`REPLACEMENT`] where the authority was refused. Other frames are passed as they are.
//!
//! So a client whose first request is in order and a later one is not gets that later one refused by `h2`, with
//! RST_STREAM and PROTOCOL_ERROR. No client is known to do that.
//!
//! It must never panic, and never hold more than one header block and one piece of input, whatever the peer sends. It
//! judges nothing but the authority: what breaks the protocol is passed on for `h2` to answer; only a header block that
//! cannot be decoded on a translated connection is replaced by one that `h2` cannot decode either.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use kvorum_net::hpack::{Decoder, encode_literal, field_bytes};
use tokio::io::{AsyncRead, ReadBuf};

use crate::limits::{HEADER_BLOCK_BYTES_MAX, HEADER_LIST_BYTES_MAX, REPAIR_PIECE_BYTES};

/// What stands in for an authority that `h2` would refuse. Nothing here reads it: a member serves every name.
const REPLACEMENT: &[u8] = b"localhost";

/// The client's first bytes (RFC 9113, 3.4). They are passed on unread: `h2` checks them.
const PREFACE_LENGTH: usize = 24;

/// Head of a frame: length in three bytes, kind, flags, stream in four (RFC 9113, 4.1).
const HEAD_LENGTH: usize = 9;

/// Payload of a frame, as HTTP/2 starts with. This server announces no other.
const PAYLOAD_BYTES_MAX: usize = 16 * 1024;

const KIND_HEADERS: u8 = 1;
const KIND_CONTINUATION: u8 = 9;

const FLAG_END_STREAM: u8 = 0x01;
const FLAG_END_HEADERS: u8 = 0x04;
const FLAG_PADDED: u8 = 0x08;
const FLAG_PRIORITY: u8 = 0x20;

/// Length of the priority fields of a HEADERS frame.
const PRIORITY_LENGTH: usize = 5;

/// A header block that no decoder takes: a field with the index zero (RFC 7541, 6.1).
const BROKEN_BLOCK: [u8; 1] = [0x80];

/// Reads from a stream through a [`Repair`].
pub struct RepairedReader {
    repair: Repair,
    /// Read, but not looked at before `output` was taken.
    input: Vec<u8>,
    looked_at: usize,
    output: Vec<u8>,
    taken: usize,
}

impl RepairedReader {
    pub fn new() -> Self {
        Self { repair: Repair::new(), input: Vec::new(), looked_at: 0, output: Vec::new(), taken: 0 }
    }

    /// Whether the rest of the connection can be read past this reader. It holds nothing back then.
    pub fn is_done(&self) -> bool {
        matches!(self.repair.place, Place::Untouched)
            && self.looked_at == self.input.len()
            && self.taken == self.output.len()
    }

    /// As [`AsyncRead::poll_read`]. The end of the stream is the end here too, and so is a broken header block.
    pub fn poll_read(
        &mut self,
        mut stream: Pin<&mut impl AsyncRead>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.taken < self.output.len() || buffer.remaining() == 0 {
                self.take_output(buffer);
                return Poll::Ready(Ok(()));
            }
            if self.looked_at == self.input.len() {
                if matches!(self.repair.place, Place::Over) {
                    return Poll::Ready(Ok(()));
                }
                // The caller's buffer lends its space, so that nothing has to be zeroed.
                let mut piece = buffer.take(REPAIR_PIECE_BYTES);
                ready!(stream.as_mut().poll_read(context, &mut piece))?;
                if piece.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.input.clear();
                self.input.extend_from_slice(piece.filled());
                self.looked_at = 0;
            }
            self.looked_at += self.repair.feed(&self.input[self.looked_at..], &mut self.output);
        }
    }

    fn take_output(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = buffer.remaining().min(self.output.len() - self.taken);
        buffer.put_slice(&self.output[self.taken..self.taken + count]);
        self.taken += count;
        if self.taken == self.output.len() {
            self.output.clear();
            self.output.shrink_to(2 * REPAIR_PIECE_BYTES);
            self.taken = 0;
        }
    }
}

/// The repair itself: bytes in, bytes out. Where the bytes are cut makes no difference.
struct Repair {
    place: Place,
    /// The connection is translated; before, it is only looked at.
    translating: bool,
    decoder: Decoder,
    /// Of the frame that is being read.
    head: [u8; HEAD_LENGTH],
    /// The header block that is being read.
    block: Option<Block>,
    /// What came and was not passed on: while looking, the frames of the block; while translating, the payload of one.
    held: Vec<u8>,
}

/// Where in the stream the next byte is.
enum Place {
    /// In the preface or a payload that is passed on.
    Passing { remaining: usize },
    /// In the head of a frame.
    Head { length: usize },
    /// In the payload of a frame of a header block.
    Holding { remaining: usize },
    /// Past all that is looked at.
    Untouched,
    /// The header blocks can be decoded no more: nothing is passed on.
    Over,
}

struct Block {
    /// Flags of the HEADERS frame.
    flags: u8,
    stream: [u8; 4],
    priority: Vec<u8>,
    /// Its fragments put together.
    fragments: Vec<u8>,
    /// Bytes that came for it, with heads.
    bytes: usize,
}

impl Block {
    fn new(flags: u8, stream: [u8; 4]) -> Self {
        Self { flags, stream, priority: Vec::new(), fragments: Vec::new(), bytes: 0 }
    }
}

impl Repair {
    fn new() -> Self {
        Self {
            place: Place::Passing { remaining: PREFACE_LENGTH },
            translating: false,
            decoder: Decoder::default(),
            head: [0; HEAD_LENGTH],
            block: None,
            held: Vec::new(),
        }
    }

    /// Takes input until it ends or a piece of output is there; returns how many bytes it took.
    fn feed(&mut self, input: &[u8], output: &mut Vec<u8>) -> usize {
        let mut rest = input;
        while !rest.is_empty() && output.len() < REPAIR_PIECE_BYTES {
            rest = &rest[self.step(rest, output)..];
        }
        input.len() - rest.len()
    }

    /// Takes at least one byte.
    fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> usize {
        match self.place {
            Place::Passing { remaining } => {
                let count = remaining.min(input.len());
                output.extend_from_slice(&input[..count]);
                self.place = passing(remaining - count);
                count
            }
            Place::Head { length } => {
                let count = (HEAD_LENGTH - length).min(input.len());
                self.head[length..length + count].copy_from_slice(&input[..count]);
                self.place = Place::Head { length: length + count };
                if length + count == HEAD_LENGTH {
                    self.end_head(output);
                }
                count
            }
            Place::Holding { remaining } => {
                let count = remaining.min(input.len());
                self.held.extend_from_slice(&input[..count]);
                self.place = Place::Holding { remaining: remaining - count };
                if count == remaining {
                    self.end_payload(output);
                }
                count
            }
            Place::Untouched => {
                output.extend_from_slice(input);
                input.len()
            }
            Place::Over => input.len(),
        }
    }

    fn payload_length(&self) -> usize {
        u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize
    }

    /// Without its first bit, which means nothing.
    fn stream(&self) -> [u8; 4] {
        [self.head[5] & 0x7f, self.head[6], self.head[7], self.head[8]]
    }

    fn end_head(&mut self, output: &mut Vec<u8>) {
        let (length, kind, flags, stream) = (self.payload_length(), self.head[3], self.head[4], self.stream());
        let begins = self.block.is_none();
        if begins && kind != KIND_HEADERS {
            output.extend_from_slice(&self.head);
            self.place = passing(length);
            return;
        }
        if !self.translating {
            self.held.extend_from_slice(&self.head);
        }
        let block = self.block.get_or_insert_with(|| Block::new(flags, stream));
        block.bytes += HEAD_LENGTH + length;
        let continues = begins || (kind == KIND_CONTINUATION && block.stream == stream);
        if !continues || block.bytes > HEADER_BLOCK_BYTES_MAX || length > PAYLOAD_BYTES_MAX {
            return self.give_up(output);
        }
        self.place = Place::Holding { remaining: length };
        if length == 0 {
            self.end_payload(output);
        }
    }

    fn end_payload(&mut self, output: &mut Vec<u8>) {
        let payload = &self.held[self.held.len() - self.payload_length()..];
        let block = self.block.as_mut().expect("payloads are held for a block");
        if self.head[3] == KIND_CONTINUATION {
            block.fragments.extend_from_slice(payload);
        } else {
            let Some((priority, fragment)) = split_headers(block.flags, payload) else { return self.give_up(output) };
            block.priority.extend_from_slice(priority);
            block.fragments.extend_from_slice(fragment);
        }
        self.place = Place::Head { length: 0 };
        if self.head[4] & FLAG_END_HEADERS != 0 {
            self.end_block(output);
        }
        if self.translating {
            self.held.clear();
        }
    }

    fn end_block(&mut self, output: &mut Vec<u8>) {
        let block = self.block.take().expect("a block has ended");
        let mut translated = Vec::with_capacity(block.fragments.len() * 2);
        let (mut list_bytes, mut refused) = (0, false);
        let decoded = self.decoder.decode(&block.fragments, |name, value| {
            // h2 refuses a list of this size; the rest only matters for the decoder's table.
            if list_bytes > HEADER_LIST_BYTES_MAX as usize {
                return;
            }
            list_bytes += field_bytes(name, value);
            let replace = name == b":authority" && http::uri::Authority::try_from(value).is_err();
            refused |= replace;
            encode_literal(name, if replace { REPLACEMENT } else { value }, &mut translated);
        });
        if decoded.is_err() {
            self.block = Some(block);
            return self.give_up(output);
        }
        if !self.translating && !refused {
            return self.let_go(output);
        }
        self.translating = true;
        write_block(&block, &translated, output);
    }

    /// The block cannot be read. On a connection that is only looked at it is for `h2` to say so.
    fn give_up(&mut self, output: &mut Vec<u8>) {
        if !self.translating {
            return self.let_go(output);
        }
        if let Some(mut block) = self.block.take() {
            block.priority.clear();
            block.flags = 0;
            write_block(&block, &BROKEN_BLOCK, output);
        }
        self.held = Vec::new();
        self.place = Place::Over;
    }

    /// Passes on what is held and looks at nothing more.
    fn let_go(&mut self, output: &mut Vec<u8>) {
        output.append(&mut self.held);
        self.block = None;
        self.place = Place::Untouched;
    }
}

/// In a payload with so many bytes to come, or behind it.
fn passing(remaining: usize) -> Place {
    if remaining == 0 { Place::Head { length: 0 } } else { Place::Passing { remaining } }
}

/// The priority (empty or whole) and the fragment in the payload of a HEADERS frame (RFC 9113, 6.2); None if it is too
/// short for what its flags say.
fn split_headers(flags: u8, payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = payload;
    if flags & FLAG_PADDED != 0 {
        let (&padding, after) = rest.split_first()?;
        rest = &after[..after.len().checked_sub(usize::from(padding))?];
    }
    rest.split_at_checked(if flags & FLAG_PRIORITY != 0 { PRIORITY_LENGTH } else { 0 })
}

/// Writes a header block as one HEADERS frame, and as many CONTINUATION frames as it needs.
fn write_block(block: &Block, fragments: &[u8], output: &mut Vec<u8>) {
    let mut kind = KIND_HEADERS;
    let mut flags = block.flags & (FLAG_END_STREAM | FLAG_PRIORITY);
    let mut priority = block.priority.as_slice();
    let mut rest = fragments;
    loop {
        let (fragment, after) = rest.split_at(rest.len().min(PAYLOAD_BYTES_MAX - priority.len()));
        if after.is_empty() {
            flags |= FLAG_END_HEADERS;
        }
        let length = ((priority.len() + fragment.len()) as u32).to_be_bytes();
        output.extend_from_slice(&[length[1], length[2], length[3], kind, flags]);
        output.extend_from_slice(&block.stream);
        output.extend_from_slice(priority);
        output.extend_from_slice(fragment);
        if after.is_empty() {
            return;
        }
        (kind, flags, priority, rest) = (KIND_CONTINUATION, 0, &[], after);
    }
}

#[cfg(test)]
mod tests;
