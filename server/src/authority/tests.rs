use std::collections::VecDeque;
use std::task::Waker;

use kvorum_net::hpack::FIELD_OVERHEAD_BYTES;
use proptest::prelude::*;

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const KIND_DATA: u8 = 0;
const KIND_SETTINGS: u8 = 4;

/// More than [`Repair::feed`] ever adds to empty output: a piece, and the largest block that can come out of one.
const OUTPUT_BYTES_MAX: usize = REPAIR_PIECE_BYTES + 4 * HEADER_BLOCK_BYTES_MAX;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
    frame.extend_from_slice(payload);
    frame
}

/// A field that the receiver shall remember.
fn remembered(name: &str, value: &str) -> Vec<u8> {
    let mut field = Vec::new();
    encode_literal(name.as_bytes(), value.as_bytes(), &mut field);
    field[0] = 0x40;
    field
}

fn plain(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        encode_literal(name.as_bytes(), value.as_bytes(), &mut block);
    }
    block
}

fn request(authority: &str) -> Vec<u8> {
    [vec![0x83, 0x86], remembered(":authority", authority)].concat()
}

/// How [`request`] looks when it is translated.
fn translated_request(authority: &str) -> Vec<u8> {
    plain(&[(":method", "POST"), (":scheme", "http"), (":authority", authority)])
}

/// What comes out when the input is cut into pieces of the lengths that `cuts` repeats.
fn repaired(input: &[u8], cuts: &[usize]) -> (Repair, Vec<u8>) {
    let mut repair = Repair::new();
    let mut all = Vec::new();
    let mut rest = input;
    let mut lengths = cuts.iter().cycle();
    while !rest.is_empty() {
        let (mut piece, after) = rest.split_at(rest.len().min(*lengths.next().expect("endless")));
        rest = after;
        while !piece.is_empty() {
            let mut output = Vec::new();
            piece = &piece[repair.feed(piece, &mut output)..];
            assert!(output.len() <= OUTPUT_BYTES_MAX, "{}", output.len());
            assert!(repair.held.len() <= HEADER_BLOCK_BYTES_MAX + HEAD_LENGTH);
            all.extend_from_slice(&output);
        }
    }
    (repair, all)
}

fn whole(input: &[u8]) -> (Repair, Vec<u8>) {
    repaired(input, &[usize::MAX])
}

/// The header blocks and other frames in what came out: (kind, flags, payload), with blocks put together.
fn frames(output: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
    let mut rest = &output[PREFACE_LENGTH..];
    let mut frames: Vec<(u8, u8, Vec<u8>)> = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        assert!(length <= PAYLOAD_BYTES_MAX);
        let (kind, flags, payload) = (rest[3], rest[4], &rest[HEAD_LENGTH..HEAD_LENGTH + length]);
        if kind == KIND_CONTINUATION {
            let block = frames.last_mut().expect("after HEADERS");
            assert_eq!((block.0, block.1 & FLAG_END_HEADERS), (KIND_HEADERS, 0));
            block.1 |= flags;
            block.2.extend_from_slice(payload);
        } else {
            frames.push((kind, flags, payload.to_vec()));
        }
        rest = &rest[HEAD_LENGTH + length..];
    }
    frames
}

#[test]
fn what_is_in_order_is_not_touched() {
    for authority in ["127.0.0.1:2379", "localhost", "[::1]:2379", "[fe80::1%eth0]:2379", "my_host", "etcd.sock"] {
        let request = frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &request(authority));
        let input = [PREFACE, &frame(KIND_SETTINGS, 0, 0, &[]), &request, b"anything at all"].concat();
        let (repair, output) = whole(&input);
        assert_eq!(output, input);
        assert!(matches!(repair.place, Place::Untouched) && repair.held.is_empty());
    }
    let without = frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &[0x83, 0x86]);
    assert!(matches!(whole(&[PREFACE, &without].concat()).0.place, Place::Untouched));
}

/// What clients were seen sending (see the module).
#[test]
fn odd_authorities_are_replaced() {
    for authority in [
        "http://127.0.0.1:2379",
        "unix:///run/etcd.sock",
        "#initially=[http://127.0.0.1:2379]",
        "127.0.0.1:2379,127.0.0.2:2379",
        "/run/etcd.sock",
        "run%2Fetcd.sock",
        "",
        "my host:2379",
        "h\u{f6}st",
        "::1:2379",
    ] {
        let settings = frame(KIND_SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
        let data = frame(KIND_DATA, FLAG_END_STREAM, 1, b"message");
        let first = frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &request(authority));
        // The second request finds its authority in the table; the third has another one.
        let second = frame(KIND_HEADERS, FLAG_END_HEADERS | FLAG_END_STREAM, 3, &[0x83, 0x86, 0xbe]);
        let third = frame(KIND_HEADERS, FLAG_END_HEADERS, 5, &request("good:1"));
        let (_, output) = whole(&[PREFACE, &settings, &first, &data, &second, &third].concat());
        let expected = [
            PREFACE,
            &settings,
            &frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &translated_request("localhost")),
            &data,
            &frame(KIND_HEADERS, FLAG_END_HEADERS | FLAG_END_STREAM, 3, &translated_request("localhost")),
            &frame(KIND_HEADERS, FLAG_END_HEADERS, 5, &translated_request("good:1")),
        ];
        assert_eq!(output, expected.concat(), "{authority}");
    }
}

#[test]
fn padding_goes_and_priority_stays() {
    let block = request("a/b");
    let payload = [&[3][..], &[0x80, 0, 0, 7, 16], &block, &[0; 3]].concat();
    let flags = FLAG_PADDED | FLAG_PRIORITY | FLAG_END_HEADERS | FLAG_END_STREAM;
    let (_, output) = whole(&[PREFACE, &frame(KIND_HEADERS, flags, 1, &payload)].concat());
    let payload = [&[0x80, 0, 0, 7, 16][..], &translated_request("localhost")].concat();
    assert_eq!(frames(&output), [(KIND_HEADERS, flags & !FLAG_PADDED, payload)]);
}

#[test]
fn blocks_of_many_frames_are_put_together_and_cut_anew() {
    let long = "x".repeat(40_000);
    let block = [request("a/b"), plain(&[("long", &long)])].concat();
    let mut input = PREFACE.to_vec();
    for (number, fragment) in block.chunks(10_000).enumerate() {
        let kind = if number == 0 { KIND_HEADERS } else { KIND_CONTINUATION };
        let flags = if number == block.len() / 10_000 { FLAG_END_HEADERS } else { 0 };
        input.extend_from_slice(&frame(kind, flags, 1, fragment));
        input.extend_from_slice(&if flags == 0 { frame(KIND_CONTINUATION, 0, 1, &[]) } else { vec![] });
    }
    let (_, output) = whole(&input);
    let expected = [translated_request("localhost"), plain(&[("long", &long)])].concat();
    assert_eq!(frames(&output), [(KIND_HEADERS, FLAG_END_HEADERS, expected)]);
}

/// Until a connection is translated, what breaks the protocol is passed on as it is.
#[test]
fn a_broken_first_block_is_left_to_h2() {
    let odd = request("a/b");
    for broken in [
        frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &[0x80]),
        frame(KIND_HEADERS, FLAG_END_HEADERS | FLAG_PADDED, 1, &[2, 0]),
        frame(KIND_HEADERS, FLAG_END_HEADERS | FLAG_PADDED, 1, &[]),
        frame(KIND_HEADERS, FLAG_END_HEADERS | FLAG_PRIORITY, 1, &[0; 4]),
        frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &[0; PAYLOAD_BYTES_MAX + 1]),
        [frame(KIND_HEADERS, 0, 1, &odd), frame(KIND_DATA, 0, 1, b"data")].concat(),
        [frame(KIND_HEADERS, 0, 1, &odd), frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &[])].concat(),
        [frame(KIND_HEADERS, 0, 1, &odd), frame(KIND_CONTINUATION, FLAG_END_HEADERS, 3, &[])].concat(),
        [frame(KIND_HEADERS, 0, 1, &odd), frame(KIND_CONTINUATION, 0, 1, &[]).repeat(8000)].concat(),
        [frame(KIND_HEADERS, 0, 1, &odd), frame(KIND_CONTINUATION, 0, 1, &[0; PAYLOAD_BYTES_MAX]).repeat(4)].concat(),
        [frame(KIND_CONTINUATION, 0, 1, &odd), frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &[0x80])].concat(),
    ] {
        let input = [PREFACE, &broken, b"rest"].concat();
        let (repair, output) = whole(&input);
        assert_eq!(output, input, "{broken:x?}");
        assert!(matches!(repair.place, Place::Untouched));
    }
}

/// On a translated connection `h2` gets a block that it is sure to refuse, and nothing after it.
#[test]
fn a_broken_later_block_ends_a_translated_connection() {
    let odd = frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &request("a/b"));
    let before = [PREFACE, &frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &translated_request("localhost"))].concat();
    for broken in [
        frame(KIND_HEADERS, FLAG_END_HEADERS, 3, &[0x80]),
        frame(KIND_HEADERS, FLAG_END_HEADERS | FLAG_END_STREAM, 3, &[0xbf]),
        frame(KIND_HEADERS, FLAG_END_HEADERS | FLAG_PADDED, 3, &[2, 0]),
        frame(KIND_HEADERS, FLAG_END_HEADERS, 3, &[0; PAYLOAD_BYTES_MAX + 1]),
        [frame(KIND_HEADERS, 0, 3, &[]), frame(KIND_DATA, 0, 1, b"data")].concat(),
        [frame(KIND_HEADERS, 0, 3, &[]), frame(KIND_CONTINUATION, 0, 3, &[]).repeat(8000)].concat(),
        [frame(KIND_HEADERS, FLAG_PRIORITY, 3, &[0; 5]), frame(KIND_CONTINUATION, FLAG_END_HEADERS, 5, &[])].concat(),
    ] {
        let (repair, output) = whole(&[PREFACE, &odd, &broken, &odd].concat());
        let expected = [&before[..], &frame(KIND_HEADERS, FLAG_END_HEADERS, 3, &BROKEN_BLOCK)].concat();
        assert_eq!(output, expected, "{broken:x?}");
        assert!(matches!(repair.place, Place::Over));
    }
}

/// A list above the limit is cut after the field that exceeds it, so that `h2` sees that it does; the table stays right.
#[test]
fn long_lists_are_cut() {
    let value = "x".repeat(4000);
    let first = [request("a/b"), remembered("long", &value)].concat();
    let odd = frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &first);
    let bomb = [vec![0xbe; 10_000], remembered("short", "y")].concat();
    let bomb = frame(KIND_HEADERS, FLAG_END_HEADERS, 3, &bomb);
    let after = frame(KIND_HEADERS, FLAG_END_HEADERS, 5, &[0xbe]);
    let (_, output) = whole(&[PREFACE, &odd, &bomb, &after].concat());
    let frames = frames(&output);
    let weight = "long".len() + value.len() + FIELD_OVERHEAD_BYTES;
    let count = HEADER_BLOCK_BYTES_MAX / weight + 1;
    assert_eq!(frames[1].2, plain(&vec![("long", value.as_str()); count]));
    assert_eq!(frames[2].2, plain(&[("short", "y")]));
}

/// A stream that gives what it has in pieces of given lengths, each after having been pending once.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    was_pending: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.was_pending = !self.was_pending;
        if self.was_pending {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(mut piece) = self.pieces.pop_front() {
            let rest = piece.split_off(piece.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            if !rest.is_empty() {
                self.pieces.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads all, giving the reader buffers of `buffer_bytes`; also whether the reader became superfluous.
fn read_all(input: &[u8], piece_bytes: usize, buffer_bytes: usize) -> (Vec<u8>, bool) {
    let mut stream = Pieces { pieces: input.chunks(piece_bytes).map(<[u8]>::to_vec).collect(), was_pending: false };
    let mut reader = RepairedReader::new();
    let mut context = Context::from_waker(Waker::noop());
    let mut all = Vec::new();
    let mut space = vec![0; buffer_bytes];
    loop {
        let mut buffer = ReadBuf::new(&mut space);
        match reader.poll_read(Pin::new(&mut stream), &mut context, &mut buffer) {
            Poll::Pending => {}
            Poll::Ready(result) => {
                result.expect("the stream does not fail");
                if buffer.filled().is_empty() {
                    return (all, reader.is_done());
                }
                all.extend_from_slice(buffer.filled());
            }
        }
    }
}

#[test]
fn the_reader_gives_all_that_the_repair_gives() {
    let good = frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &request("good:1"));
    let odd = frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &request("a/b"));
    let data = frame(KIND_DATA, 0, 1, &[7; PAYLOAD_BYTES_MAX]).repeat(5);
    let many = frame(KIND_HEADERS, FLAG_END_HEADERS, 3, &[0x83, 0xbe]).repeat(1000);
    let broken = frame(KIND_HEADERS, FLAG_END_HEADERS, 5, &[0x80]);
    for (request, done) in [(&good, true), (&odd, false)] {
        let input = [PREFACE, &frame(KIND_SETTINGS, 0, 0, &[]), request, &data, &many, &broken, &many].concat();
        let (_, expected) = whole(&input);
        for (piece_bytes, buffer_bytes) in [(1, 1), (1, 9000), (100_000, 10), (100_000, 8192), (17, 23)] {
            assert_eq!(read_all(&input, piece_bytes, buffer_bytes), (expected.clone(), done));
        }
    }
}

fn any_block() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        4 => (0x80..0xd0_u8).prop_map(|indexed| vec![indexed]),
        2 => "[a-z/:# ]{0,12}".prop_map(|authority| remembered(":authority", &authority)),
        2 => ("[a-z]{0,6}", "[a-z]{0,300}").prop_map(|(name, value)| remembered(&name, &value)),
        2 => "[a-z]{0,300}".prop_map(|value| plain(&[("plain", &value)])),
        1 => Just(vec![0x3f, 0xe1, 0x1f]),
        1 => Just(vec![0x20]),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(field, 0..6).prop_map(|fields| fields.concat())
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let blocks = (any_block(), prop_oneof![Just(FLAG_END_HEADERS), Just(0), any::<u8>()], 0..3_u8);
    prop_oneof![
        6 => blocks.prop_map(|(block, flags, stream)| frame(KIND_HEADERS, flags, stream, &block)),
        2 => (any_block(), any::<bool>(), 0..3_u8).prop_map(|(block, end, stream)| {
            frame(KIND_CONTINUATION, if end { FLAG_END_HEADERS } else { 0 }, stream, &block)
        }),
        3 => (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..400))
            .prop_map(|(kind, flags, payload)| frame(kind, flags, 1, &payload)),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

/// Streams that mostly begin with an odd authority, since those go furthest.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let odd = frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &request("a/b"));
    (any::<bool>(), any::<bool>(), prop::collection::vec(any_frame(), 0..12)).prop_map(move |(one, other, frames)| {
        [PREFACE, if one || other { &odd } else { &[] }, &frames.concat()].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// And nothing panics, and what is held and given stays bounded ([`repaired`]).
    #[test]
    fn cuts_make_no_difference(stream in any_stream(), cuts in prop::collection::vec(1..300_usize, 1..20)) {
        let (repair, output) = whole(&stream);
        prop_assert_eq!(&repaired(&stream, &cuts).1, &output);
        prop_assert_eq!(&repaired(&stream, &[1]).1, &output);
        if matches!(repair.place, Place::Untouched) {
            prop_assert_eq!(output, stream);
        }
    }

    /// The largest blocks that a peer can make out of few bytes.
    #[test]
    fn output_stays_bounded(
        value_bytes in 0..4000_usize,
        blocks in prop::collection::vec((0x80..0xff_u8, 1..16_000_usize), 1..40),
    ) {
        let first = [request("a/b"), remembered("long", &"x".repeat(value_bytes))].concat();
        let mut stream = [PREFACE, &frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &first)].concat();
        for (byte, count) in blocks {
            stream.extend_from_slice(&frame(KIND_HEADERS, FLAG_END_HEADERS, 1, &vec![byte; count]));
        }
        repaired(&stream, &[usize::MAX]);
    }
}
