//! The bytes of the two streams between members, and of the message in front of a database: etcd's rafthttp codecs.
//!
//! | stream | frames |
//! |---|---|
//! | message | length (8 bytes, big-endian), `raftpb.Message`; a message without sender and receiver is a heartbeat |
//! | msgapp | 0: heartbeat. 1: number of entries, each as length and `raftpb.Entry`, then the commit index; the rest follows from the frame before. 2: length, `raftpb.Message` |
//!
//! All numbers have 8 bytes, big-endian. Nothing here reads a socket, and what is malformed is an error: memory is taken
//! for bytes that came, never for bytes that were announced.

use std::fmt;

use bytes::{Buf, BufMut, BytesMut};
use kvorum_api::raftpb::{Entry, Message, MessageType};
use prost::Message as _;

use crate::limits::PEER_MESSAGE_BYTES_MAX;

const LENGTH_BYTES: usize = 8;
/// What a frame, or an entry in one, has beside its protobuf, at most: kind, length, commit index.
pub const FRAME_HEAD_BYTES: usize = 1 + 2 * LENGTH_BYTES;
const FRAME_HEARTBEAT: u8 = 0;
const FRAME_ENTRIES: u8 = 1;
const FRAME_MESSAGE: u8 = 2;

/// What an entry takes in memory beside its data; counted, so that many empty ones are bounded as well.
const ENTRY_OVERHEAD_BYTES: usize = size_of::<Entry>();

/// The two streams from one member to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Appends while their position follows from the ones before.
    Append,
    /// Everything else, heartbeats among it.
    Message,
}

impl StreamKind {
    pub const ALL: [StreamKind; 2] = [StreamKind::Append, StreamKind::Message];

    /// Where the sender offers it; the id of the member that asks comes behind.
    pub fn path(self) -> &'static str {
        match self {
            StreamKind::Append => "/raft/stream/msgapp/",
            StreamKind::Message => "/raft/stream/message/",
        }
    }

    /// etcd's name of it in the log.
    pub fn name(self) -> &'static str {
        match self {
            StreamKind::Append => "stream MsgApp v2",
            StreamKind::Message => "stream Message",
        }
    }
}

/// Bytes of a stream that are no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FramingError {
    /// Longer than [`PEER_MESSAGE_BYTES_MAX`].
    TooLong,
    UnknownFrame(u8),
    /// The protobuf inside a frame does not decode.
    Malformed(String),
}

impl fmt::Display for FramingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => formatter.write_str("rafthttp: error limit exceeded"),
            Self::UnknownFrame(kind) => write!(formatter, "failed to parse type {kind} in msgappv2 stream"),
            Self::Malformed(reason) => formatter.write_str(reason),
        }
    }
}

impl std::error::Error for FramingError {}

/// Writes one message with its length, as on the message stream and in front of a database.
pub fn encode_message(message: &Message, buffer: &mut BytesMut) {
    let length = message.encoded_len();
    buffer.reserve(LENGTH_BYTES + length);
    buffer.put_u64(length as u64);
    message.encode(buffer).expect("a growing buffer takes every message");
}

/// Writes one stream. What it writes depends on what it wrote before: one for every connection.
pub struct Encoder {
    kind: StreamKind,
    term: u64,
    index: u64,
}

impl Encoder {
    pub fn new(kind: StreamKind) -> Encoder {
        Encoder { kind, term: 0, index: 0 }
    }

    /// Keeps an idle connection alive.
    pub fn heartbeat(&self, buffer: &mut BytesMut) {
        match self.kind {
            StreamKind::Append => buffer.put_u8(FRAME_HEARTBEAT),
            StreamKind::Message => {
                let heartbeat = Message { r#type: Some(MessageType::MsgHeartbeat.into()), ..Message::default() };
                encode_message(&heartbeat, buffer);
            }
        }
    }

    pub fn encode(&mut self, message: &Message, buffer: &mut BytesMut) {
        if self.kind == StreamKind::Message {
            return encode_message(message, buffer);
        }
        let term = message.log_term();
        if self.index == message.index() && self.term == term && term == message.term() {
            buffer.put_u8(FRAME_ENTRIES);
            buffer.put_u64(message.entries.len() as u64);
            for entry in &message.entries {
                buffer.put_u64(entry.encoded_len() as u64);
                entry.encode(buffer).expect("a growing buffer takes every entry");
            }
            buffer.put_u64(message.commit());
            self.index = self.index.wrapping_add(message.entries.len() as u64);
        } else {
            buffer.put_u8(FRAME_MESSAGE);
            encode_message(message, buffer);
            (self.term, self.index) = position_after(message);
        }
    }
}

/// Where the next append would begin.
fn position_after(message: &Message) -> (u64, u64) {
    (message.term(), message.entries.last().map_or(message.index(), Entry::index))
}

/// Reads one stream, in pieces as they come. After an error nothing more can be read from it.
pub struct Decoder {
    kind: StreamKind,
    local: u64,
    remote: u64,
    term: u64,
    index: u64,
    buffer: BytesMut,
    /// The frame of entries that has begun and is not complete.
    entries: Option<Entries>,
}

struct Entries {
    missing: u64,
    decoded: Vec<Entry>,
    bytes: usize,
}

impl Decoder {
    /// For a stream from the member `remote` to the member `local`.
    pub fn new(kind: StreamKind, local: u64, remote: u64) -> Decoder {
        Decoder { kind, local, remote, term: 0, index: 0, buffer: BytesMut::new(), entries: None }
    }

    /// Takes bytes that came. Call [`Self::take_message`] until it has no more before the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next message, if it is complete. Heartbeats of the stream are left out.
    pub fn take_message(&mut self) -> Result<Option<Message>, FramingError> {
        loop {
            let message = match self.kind {
                StreamKind::Message => self.next_message(0)?,
                StreamKind::Append => self.next_append()?,
            };
            match message {
                None => return Ok(None),
                Some(message) if is_heartbeat(&message) => {}
                Some(message) => return Ok(Some(message)),
            }
        }
    }

    fn next_append(&mut self) -> Result<Option<Message>, FramingError> {
        loop {
            if self.entries.is_some() {
                return self.next_entries();
            }
            match self.buffer.first() {
                None => return Ok(None),
                Some(&FRAME_HEARTBEAT) => self.buffer.advance(1),
                Some(&FRAME_ENTRIES) => {
                    let Some(missing) = self.number_at(1) else { return Ok(None) };
                    self.buffer.advance(1 + LENGTH_BYTES);
                    self.entries = Some(Entries { missing, decoded: Vec::new(), bytes: 0 });
                }
                Some(&FRAME_MESSAGE) => {
                    let message = self.next_message(1)?;
                    if let Some(message) = &message {
                        (self.term, self.index) = position_after(message);
                    }
                    return Ok(message);
                }
                Some(&other) => return Err(FramingError::UnknownFrame(other)),
            }
        }
    }

    fn next_entries(&mut self) -> Result<Option<Message>, FramingError> {
        let Some(mut entries) = self.entries.take() else { return Ok(None) };
        while entries.missing > 0 {
            let budget = PEER_MESSAGE_BYTES_MAX.saturating_sub(entries.bytes);
            let Some(length) = self.complete_length(0, budget)? else {
                self.entries = Some(entries);
                return Ok(None);
            };
            let entry = Entry::decode(&self.buffer[LENGTH_BYTES..LENGTH_BYTES + length]);
            entries.decoded.push(entry.map_err(|error| FramingError::Malformed(error.to_string()))?);
            self.buffer.advance(LENGTH_BYTES + length);
            entries.missing -= 1;
            entries.bytes += length + ENTRY_OVERHEAD_BYTES;
        }
        let Some(commit) = self.number_at(0) else {
            self.entries = Some(entries);
            return Ok(None);
        };
        self.buffer.advance(LENGTH_BYTES);
        let index = self.index;
        self.index = index.wrapping_add(entries.decoded.len() as u64);
        Ok(Some(Message {
            r#type: Some(MessageType::MsgApp.into()),
            from: Some(self.remote),
            to: Some(self.local),
            term: Some(self.term),
            log_term: Some(self.term),
            index: Some(index),
            entries: entries.decoded,
            commit: Some(commit),
            ..Message::default()
        }))
    }

    /// A length and its message, behind `skipped` bytes.
    fn next_message(&mut self, skipped: usize) -> Result<Option<Message>, FramingError> {
        let Some(length) = self.complete_length(skipped, PEER_MESSAGE_BYTES_MAX)? else { return Ok(None) };
        let start = skipped + LENGTH_BYTES;
        let message = Message::decode(&self.buffer[start..start + length]);
        self.buffer.advance(start + length);
        message.map(Some).map_err(|error| FramingError::Malformed(error.to_string()))
    }

    /// The length at `offset`, once as many bytes are there.
    fn complete_length(&self, offset: usize, length_max: usize) -> Result<Option<usize>, FramingError> {
        let Some(length) = self.number_at(offset) else { return Ok(None) };
        let length = usize::try_from(length).ok().filter(|length| *length <= length_max);
        let length = length.ok_or(FramingError::TooLong)?;
        Ok((self.buffer.len() - offset - LENGTH_BYTES >= length).then_some(length))
    }

    fn number_at(&self, offset: usize) -> Option<u64> {
        Some(self.buffer.get(offset..offset + LENGTH_BYTES)?.get_u64())
    }
}

/// No message of raft's is without sender and receiver.
fn is_heartbeat(message: &Message) -> bool {
    message.r#type() == MessageType::MsgHeartbeat && message.from() == 0 && message.to() == 0
}

/// Reads the message in front of a database from a body that comes in pieces.
pub struct EnvelopeDecoder {
    buffer: BytesMut,
    length_max: usize,
}

impl EnvelopeDecoder {
    pub fn new(length_max: usize) -> EnvelopeDecoder {
        EnvelopeDecoder { buffer: BytesMut::new(), length_max }
    }

    /// Takes a piece. Once the message is complete, gives it and the bytes behind it, and must not be called again.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<(Message, BytesMut)>, FramingError> {
        self.buffer.extend_from_slice(piece);
        let Some(head) = self.buffer.get(..LENGTH_BYTES) else { return Ok(None) };
        let mut head = head;
        let length = usize::try_from(head.get_u64()).ok().filter(|length| *length <= self.length_max);
        let length = length.ok_or(FramingError::TooLong)?;
        if self.buffer.len() - LENGTH_BYTES < length {
            return Ok(None);
        }
        let message = Message::decode(&self.buffer[LENGTH_BYTES..LENGTH_BYTES + length]);
        let message = message.map_err(|error| FramingError::Malformed(error.to_string()))?;
        self.buffer.advance(LENGTH_BYTES + length);
        Ok(Some((message, std::mem::take(&mut self.buffer))))
    }
}
