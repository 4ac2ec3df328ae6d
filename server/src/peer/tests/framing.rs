use bytes::{BufMut, Bytes, BytesMut};
use kvorum_api::raftpb::{Entry, Message, MessageType};
use proptest::prelude::*;

use super::world::{append, entry, heartbeat};
use crate::peer::framing::{Decoder, Encoder, EnvelopeDecoder, FramingError, StreamKind, encode_message};

/// What etcd 3.7.1's own encoder writes for [`appends`], one frame for each message; a heartbeat follows the second.
const APPEND_FRAMES: [&str; 6] = [
    "02000000000000002308031002180120032802300a3a0908001003180b2201613a0808001003180c22004009",
    "010000000000000002000000000000000a08001003180d22026263000000000000000b08001003180e2203646566000000000000000b",
    "00",
    "010000000000000000000000000000000e",
    "0200000000000000190803100218012003280330143a09080010031815220178400e",
    "0200000000000000190803100218012004280330153a09080010041816220179400e",
];

/// etcd 3.7.1's encoder for a heartbeat of the stream, and for [`vote`].
const MESSAGE_FRAMES: [&str; 2] = [
    "00000000000000020808",
    "00000000000000270811100218cdd2918bd2b881cf8e01200228013005621043616d706169676e5472616e73666572",
];

fn appends() -> Vec<Message> {
    vec![
        append(1, 2, 3, (2, 10), 9, vec![entry(3, 11, b"a"), entry(3, 12, b"")]),
        append(1, 2, 3, (3, 12), 11, vec![entry(3, 13, b"bc"), entry(3, 14, b"def")]),
        append(1, 2, 3, (3, 14), 14, vec![]),
        append(1, 2, 3, (3, 20), 14, vec![entry(3, 21, b"x")]),
        append(1, 2, 4, (3, 21), 14, vec![entry(4, 22, b"y")]),
    ]
}

fn vote() -> Message {
    Message {
        r#type: Some(MessageType::MsgPreVote.into()),
        from: Some(0x8e9e_05c5_2164_694d),
        to: Some(2),
        term: Some(2),
        log_term: Some(1),
        index: Some(5),
        context: Some("CampaignTransfer".into()),
        ..Message::default()
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode_all(decoder: &mut Decoder, bytes: &[u8], piece: usize) -> Result<Vec<Message>, FramingError> {
    let mut messages = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.push(piece);
        while let Some(message) = decoder.take_message()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

#[test]
fn both_streams_have_etcds_bytes() {
    let mut encoder = Encoder::new(StreamKind::Append);
    let mut frames = Vec::new();
    for (index, message) in appends().iter().enumerate() {
        if index == 2 {
            let mut frame = BytesMut::new();
            encoder.heartbeat(&mut frame);
            frames.push(hex_of(&frame));
        }
        let mut frame = BytesMut::new();
        encoder.encode(message, &mut frame);
        frames.push(hex_of(&frame));
    }
    assert_eq!(frames, APPEND_FRAMES);

    let mut encoder = Encoder::new(StreamKind::Message);
    let (mut first, mut second) = (BytesMut::new(), BytesMut::new());
    encoder.heartbeat(&mut first);
    encoder.encode(&vote(), &mut second);
    assert_eq!([hex_of(&first), hex_of(&second)], MESSAGE_FRAMES);
}

#[test]
fn etcds_bytes_decode_in_any_pieces() {
    let app = bytes_of(&APPEND_FRAMES.concat());
    let message = bytes_of(&MESSAGE_FRAMES.concat());
    for piece in 1..=app.len() {
        let mut decoder = Decoder::new(StreamKind::Append, 2, 1);
        assert_eq!(decode_all(&mut decoder, &app, piece), Ok(appends()), "pieces of {piece}");
        let mut decoder = Decoder::new(StreamKind::Message, 2, 1);
        assert_eq!(decode_all(&mut decoder, &message, piece), Ok(vec![vote()]), "pieces of {piece}");
    }
}

#[test]
fn etcd_3_6_writes_every_field() {
    // gogo-protobuf writes zeros, and a snapshot without content.
    let body =
        bytes_of("0808100018002000280030004000 4a0a12080a022800 10001800 50005800 6800".replace(' ', "").as_str());
    let mut frame = BytesMut::new();
    frame.put_u64(body.len() as u64);
    frame.extend_from_slice(&body);
    let mut decoder = Decoder::new(StreamKind::Message, 2, 1);
    assert_eq!(decode_all(&mut decoder, &frame, 7), Ok(vec![]), "a heartbeat of the stream");
}

#[test]
fn malformed_streams_are_errors() {
    let decode = |kind, bytes: &[u8]| decode_all(&mut Decoder::new(kind, 2, 1), bytes, bytes.len());
    let (app, message) = (StreamKind::Append, StreamKind::Message);
    assert_eq!(decode(app, &[3]), Err(FramingError::UnknownFrame(3)));
    assert_eq!(decode(message, &[0xff; 8]), Err(FramingError::TooLong));
    let mut long = vec![2];
    long.put_u64(512 * 1024 * 1024 + 1);
    assert_eq!(decode(app, &long), Err(FramingError::TooLong));
    assert_eq!(decode(message, &long[1..]), Err(FramingError::TooLong));
    let mut broken = vec![2];
    broken.put_u64(1);
    broken.push(0xff);
    assert!(matches!(decode(app, &broken), Err(FramingError::Malformed(_))));
    assert!(matches!(decode(message, &broken[1..]), Err(FramingError::Malformed(_))));
    // A promise of many entries takes no memory before they come.
    let mut many = vec![1];
    many.put_u64(u64::MAX);
    many.put_u64(0);
    assert_eq!(decode(app, &many), Ok(vec![]));
    many.put_u64(u64::MAX);
    assert_eq!(decode(app, &many), Err(FramingError::TooLong));
    // Half a frame is no error: more may come.
    assert_eq!(decode(app, &bytes_of(APPEND_FRAMES[0])[..20]), Ok(vec![]));
}

#[test]
fn envelopes_end_where_the_database_begins() {
    let mut bytes = BytesMut::new();
    encode_message(&vote(), &mut bytes);
    bytes.extend_from_slice(b"database");
    let mut decoder = EnvelopeDecoder::new(1024);
    let mut found = None;
    for byte in &bytes[..bytes.len() - 8] {
        assert!(found.is_none());
        found = decoder.push(&[*byte]).expect("well formed");
    }
    assert_eq!(found, Some((vote(), BytesMut::new())));
    let whole = EnvelopeDecoder::new(1024).push(&bytes).expect("well formed").expect("complete");
    assert_eq!(whole, (vote(), BytesMut::from(&b"database"[..])));
    assert_eq!(EnvelopeDecoder::new(10).push(&bytes).map(drop), Err(FramingError::TooLong));
}

fn any_message() -> impl Strategy<Value = Message> {
    let entries = prop::collection::vec((0u64..4, prop::collection::vec(any::<u8>(), 0..20)), 0..5);
    // Small numbers, so that positions often follow from one another.
    ((0u64..3, 0u64..3, 0u64..6, any::<u64>()), entries, any::<bool>()).prop_map(
        |((term, log_term, index, commit), entries, is_append)| {
            let entries = entries.into_iter().zip(index + 1..).map(|((term, data), index)| Entry {
                r#type: Some(0),
                term: Some(term),
                index: Some(index),
                data: Some(Bytes::from(data)),
            });
            let message = append(1, 2, term, (log_term, index), commit, entries.collect());
            if is_append { message } else { Message { reject: Some(true), entries: vec![], ..heartbeat(1, 2, commit) } }
        },
    )
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(messages in prop::collection::vec(any_message(), 0..30), piece in 1usize..200) {
        let appends = |message: &&Message| message.r#type() == MessageType::MsgApp;
        for kind in StreamKind::ALL {
            let sent: Vec<Message> = match kind {
                StreamKind::Append => messages.iter().filter(appends).cloned().collect(),
                StreamKind::Message => messages.clone(),
            };
            let mut encoder = Encoder::new(kind);
            let mut bytes = BytesMut::new();
            for message in &sent {
                encoder.encode(message, &mut bytes);
                encoder.heartbeat(&mut bytes);
            }
            let mut decoder = Decoder::new(kind, 2, 1);
            prop_assert_eq!(decode_all(&mut decoder, &bytes, piece), Ok(sent));
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(0u8..4, 0..400), piece in 1usize..50) {
        for kind in StreamKind::ALL {
            // Errors are expected; what counts is that it ends.
            drop(decode_all(&mut Decoder::new(kind, 2, 1), &bytes, piece));
        }
        drop(EnvelopeDecoder::new(1000).push(&bytes));
    }
}
