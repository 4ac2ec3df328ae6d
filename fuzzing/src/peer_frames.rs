//! What comes from other members, up to the messages in it. The first byte says what the rest is:
//!
//! - 0 and 1: the bytes of a stream of messages, or of appends;
//! - 2: the bytes of a message in front of a database;
//! - 3: the body of a posted message;
//! - 4 and 5: messages, which are written to a stream of messages, or of appends, and read back.
//!
//! Pieces of any length give the same messages and the same end as the whole. What was decoded is written again and read
//! back as it was, and the stream's position with it. Memory is taken for bytes that came, not for bytes that were announced.

use bytes::BytesMut;
use kvorum_api::raftpb::{Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use kvorum_server::from_outside::peers::{Decoder, Encoder, EnvelopeDecoder, FramingError, StreamKind, encode_message};
use prost::Message as _;

use crate::input::Input;

const LOCAL: u64 = 1;
const REMOTE: u64 = 2;
const ENVELOPE_BYTES_MAX: usize = 4096;
const MESSAGES_MAX: usize = 24;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 6 {
        0 => stream(StreamKind::Message, &mut input),
        1 => stream(StreamKind::Append, &mut input),
        2 => envelope(&mut input),
        3 => posted(input.rest()),
        4 => written(StreamKind::Message, &mut input),
        _ => written(StreamKind::Append, &mut input),
    }
}

/// All messages of a stream whose bytes come in pieces, and what ended it.
fn read(
    kind: StreamKind,
    bytes: &[u8],
    mut piece_length: impl FnMut() -> usize,
) -> (Vec<Message>, Option<FramingError>) {
    let mut decoder = Decoder::new(kind, LOCAL, REMOTE);
    let (mut rest, mut messages) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(piece_length().clamp(1, rest.len()));
        rest = after;
        decoder.push(piece);
        loop {
            match decoder.take_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fn stream(kind: StreamKind, input: &mut Input<'_>) {
    let lengths: Vec<usize> = input.take(4).iter().map(|length| usize::from(*length)).collect();
    let bytes = input.rest();
    let whole = read(kind, bytes, || usize::MAX);
    let mut next = lengths.iter().cycle();
    assert!(read(kind, bytes, || next.next().copied().unwrap_or(1)) == whole, "pieces make no difference");
    assert!(read(kind, bytes, || 1) == whole, "single bytes make no difference");
    let (messages, _) = whole;
    let total: usize = messages.iter().map(Message::encoded_len).sum();
    // Zeros of an entry take no bytes on the wire, but a length; what a message is made of around its entries is ours.
    assert!(total <= 16 * bytes.len() + 64 * messages.len(), "{total} bytes of messages out of {}", bytes.len());
    for message in &messages {
        if message.encoded_len() > 0 {
            round_trip(message);
        }
    }
    write_and_read(kind, &messages);
}

fn round_trip(message: &Message) {
    let again = Message::decode(message.encode_to_vec().as_slice()).expect("what was encoded is decoded");
    assert_eq!(*message, again);
}

/// What the encoder writes, with heartbeats in between, is read as the same messages.
fn write_and_read(kind: StreamKind, messages: &[Message]) {
    let mut encoder = Encoder::new(kind);
    let mut buffer = BytesMut::new();
    for message in messages {
        encoder.heartbeat(&mut buffer);
        encoder.encode(message, &mut buffer);
    }
    let (found, ended) = read(kind, &buffer, || 5);
    assert_eq!(ended, None);
    // A message without sender and receiver is a heartbeat of the stream.
    let is_heartbeat =
        |message: &&Message| message.r#type() == MessageType::MsgHeartbeat && message.from() == 0 && message.to() == 0;
    let expected: Vec<&Message> = messages.iter().filter(|message| !is_heartbeat(message)).collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        if kind == StreamKind::Message {
            assert_eq!(found, expected);
        } else {
            assert!(found == expected || says_the_same(found, expected), "{found:?} instead of {expected:?}");
        }
    }
}

/// An append that follows from the one before travels as its entries and its commit index alone. That is all it says, if it
/// goes from one member to the other and is nothing but an append.
fn says_the_same(found: &Message, expected: &Message) -> bool {
    let is_plain = expected.r#type() == MessageType::MsgApp
        && (expected.from(), expected.to()) == (REMOTE, LOCAL)
        && !expected.reject()
        && expected.snapshot.is_none();
    !is_plain
        || (found.entries == expected.entries
            && (found.term(), found.log_term(), found.index(), found.commit())
                == (expected.term(), expected.log_term(), expected.index(), expected.commit()))
}

fn envelope(input: &mut Input<'_>) {
    let length = usize::from(input.byte()).max(1);
    let bytes = input.rest();
    let read = |length: usize| {
        let mut decoder = EnvelopeDecoder::new(ENVELOPE_BYTES_MAX);
        let mut pieces = bytes.chunks(length);
        for piece in pieces.by_ref() {
            if let Some((message, behind)) = decoder.push(piece)? {
                let behind: Vec<u8> = behind.iter().copied().chain(pieces.flatten().copied()).collect();
                return Ok(Some((message, behind)));
            }
        }
        Ok::<_, FramingError>(None)
    };
    let whole = read(bytes.len().max(1));
    assert!(read(length) == whole && read(1) == whole, "pieces make no difference");
    if let Ok(Some((message, behind))) = whole {
        let mut again = BytesMut::new();
        encode_message(&message, &mut again);
        again.extend_from_slice(&behind);
        let mut decoder = EnvelopeDecoder::new(usize::MAX);
        let (found, rest) = decoder.push(&again).expect("it was just encoded").expect("all of it is there");
        assert!(found == message && rest == behind);
    }
}

fn posted(body: &[u8]) {
    if let Ok(message) = Message::decode(body) {
        round_trip(&message);
    }
}

/// Messages as a member sends them: appends that follow from each other, and others in between.
fn written(kind: StreamKind, input: &mut Input<'_>) {
    let (mut term, mut index) = (1, 0);
    let mut messages = Vec::new();
    while !input.is_empty() && messages.len() < MESSAGES_MAX {
        let shape = input.byte();
        term += u64::from(shape >> 6 & 1);
        let message = match shape % 4 {
            0 | 1 => {
                let count = u64::from(shape >> 2 & 7);
                let entries = (1..=count).map(|number| entry(term, index + number, input)).collect();
                let message = Message { entries, ..append(term, index, u64::from(input.byte())) };
                index += count;
                message
            }
            2 => {
                index = u64::from(input.byte());
                append(term, index, 0)
            }
            _ => other(shape, term, input),
        };
        messages.push(message);
    }
    write_and_read(kind, &messages);
}

fn append(term: u64, index: u64, commit: u64) -> Message {
    Message {
        r#type: Some(MessageType::MsgApp.into()),
        from: Some(REMOTE),
        to: Some(LOCAL),
        term: Some(term),
        log_term: Some(term),
        index: Some(index),
        commit: Some(commit),
        ..Message::default()
    }
}

fn entry(term: u64, index: u64, input: &mut Input<'_>) -> Entry {
    let data = input.piece();
    let data = (!data.is_empty()).then(|| data.to_vec().into());
    Entry { r#type: Some(0), term: Some(term), index: Some(index), data }
}

fn other(shape: u8, term: u64, input: &mut Input<'_>) -> Message {
    let metadata = SnapshotMetadata { index: Some(term), ..SnapshotMetadata::default() };
    let snapshot = Snapshot { data: Some(input.piece().to_vec().into()), metadata: Some(metadata) };
    Message {
        r#type: Some(i32::from(shape >> 2)),
        from: Some(REMOTE),
        to: Some(LOCAL),
        term: Some(term),
        log_term: Some(u64::from(input.byte())),
        snapshot: (shape & 0x40 != 0).then_some(snapshot),
        context: (shape & 0x80 != 0).then(|| input.piece().to_vec().into()),
        ..Message::default()
    }
}
