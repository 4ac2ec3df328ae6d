use proptest::prelude::*;

use super::*;

type Fields = Vec<(String, String)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Malformed> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = Vec::new();
    decoder.decode(block, |name, value| fields.push((text(name), text(value))))?;
    Ok(fields)
}

fn fields(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Names and values of the table, newest first, and its size.
fn table(decoder: &Decoder) -> (Fields, usize) {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
    (decoder.table.iter().map(|(name, value)| (text(name), text(value))).collect(), decoder.table_bytes)
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hex");
    digits.chunks(2).map(byte).collect()
}

/// RFC 7541, C.1: numbers.
#[test]
fn numbers() {
    for (encoded, prefix_bits, expected) in [(&[0x0a][..], 5, 10), (&[0x1f, 0x9a, 0x0a], 5, 1337), (&[0x2a], 8, 42)] {
        let mut rest = encoded;
        assert_eq!(number(&mut rest, prefix_bits), Ok(expected));
        assert!(rest.is_empty());
    }
    assert_eq!(number(&mut &[0x7f, 0xff, 0xff, 0xff, 0x7f][..], 7), Ok(0x0fff_ffff + 0x7f));
    for broken in [&[][..], &[0x7f], &[0x7f, 0x80], &[0x7f, 0x80, 0x80, 0x80, 0x80, 0x00]] {
        assert_eq!(number(&mut &broken[..], 7), Err(Malformed), "{broken:x?}");
    }
}

/// RFC 7541, C.2: the four ways to write a field, and what each leaves in the table.
#[test]
fn single_fields() {
    for (block, field, kept) in [
        ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", ("custom-key", "custom-header"), true),
        ("040c 2f73 616d 706c 652f 7061 7468", (":path", "/sample/path"), false),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", ("password", "secret"), false),
        ("82", (":method", "GET"), false),
    ] {
        let mut decoder = Decoder::default();
        assert_eq!(decode(&mut decoder, &bytes(block)), Ok(fields(&[field])));
        assert_eq!(decoder.table.len(), usize::from(kept));
    }
}

/// RFC 7541, C.3 (plain) and C.4 (Huffman): three requests of one connection.
#[test]
fn requests() {
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut decoder = Decoder::default();
        let host = (":authority", "www.example.com");
        let first = [(":method", "GET"), (":scheme", "http"), (":path", "/"), host];
        assert_eq!(decode(&mut decoder, &bytes(blocks[0])), Ok(fields(&first)));
        assert_eq!(table(&decoder), (fields(&[host]), 57));
        let second = [first[0], first[1], first[2], host, ("cache-control", "no-cache")];
        assert_eq!(decode(&mut decoder, &bytes(blocks[1])), Ok(fields(&second)));
        assert_eq!(table(&decoder), (fields(&[second[4], host]), 110));
        let custom = ("custom-key", "custom-value");
        let third = [(":method", "GET"), (":scheme", "https"), (":path", "/index.html"), host, custom];
        assert_eq!(decode(&mut decoder, &bytes(blocks[2])), Ok(fields(&third)));
        assert_eq!(table(&decoder), (fields(&[custom, second[4], host]), 164));
    }
}

/// RFC 7541, C.5 (plain) and C.6 (Huffman): three responses, with a table of 256 bytes that has to forget.
#[test]
fn responses() {
    for blocks in [
        [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 \
             474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 \
             666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 \
             3630 303b 2076 6572 7369 6f6e 3d31",
        ],
        [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 \
             63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 \
             b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ],
    ] {
        let mut decoder = Decoder::default();
        decoder.resize(256).expect("smaller is allowed");
        let private = ("cache-control", "private");
        let location = ("location", "https://www.example.com");
        let date_21 = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
        let first = [(":status", "302"), private, date_21, location];
        assert_eq!(decode(&mut decoder, &bytes(blocks[0])), Ok(fields(&first)));
        assert_eq!(table(&decoder), (fields(&[location, date_21, private, (":status", "302")]), 222));
        let second = [(":status", "307"), private, date_21, location];
        assert_eq!(decode(&mut decoder, &bytes(blocks[1])), Ok(fields(&second)));
        assert_eq!(table(&decoder), (fields(&[(":status", "307"), location, date_21, private]), 222));
        let date_22 = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
        let encoding = ("content-encoding", "gzip");
        let cookie = ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
        let third = [(":status", "200"), private, date_22, location, encoding, cookie];
        assert_eq!(decode(&mut decoder, &bytes(blocks[2])), Ok(fields(&third)));
        assert_eq!(table(&decoder), (fields(&[cookie, encoding, date_22]), 215));
    }
}

#[test]
fn broken_blocks() {
    for block in [
        "80",                      // index zero
        "be",                      // beyond the static table
        "c0",                      // further beyond
        "ffffffffffff",            // a number without an end
        "40 05 61",                // a string cut short
        "40 01 61",                // no value
        "00 81 fe 00",             // padding that is not all ones
        "00 82 1fff 00",           // more padding than seven bits
        "00 84 ffff ffff 00",      // the end mark in a string
        "3f e2 1f",                // a table of 4097 bytes
        "82 20",                   // a table's size after a field
        "7f c1 ff ff ff ff 0f 00", // an index beyond all
    ] {
        assert_eq!(decode(&mut Decoder::default(), &bytes(block)), Err(Malformed), "{block}");
    }
}

#[test]
fn the_table_keeps_its_size() {
    let mut decoder = Decoder::default();
    let kept = bytes("40 01 61 01 62");
    decode(&mut decoder, &kept).expect("valid");
    assert_eq!(table(&decoder), (fields(&[("a", "b")]), 34));
    // 0, then 4096 again: everything is forgotten (4.2).
    assert_eq!(decode(&mut decoder, &bytes("20 3f e1 1f be")), Err(Malformed));
    decode(&mut decoder, &kept).expect("valid");
    // An entry larger than the table empties it.
    let mut large = bytes("40 01 63 7f e1 1e");
    large.extend_from_slice(&vec![b'x'; 0x7f + 0x61 + (0x1e << 7)]);
    assert_eq!(decode(&mut decoder, &large).map(|fields| fields.len()), Ok(1));
    assert_eq!(table(&decoder), (vec![], 0));
}

/// Each symbol, in the code that the canonical order gives it; compared with the appendix in its corners.
#[test]
fn huffman_symbols() {
    let code_of = |symbol: u8| {
        let bits = usize::from(HUFFMAN_LENGTHS[usize::from(symbol)]);
        let of_length = HUFFMAN.of_length[bits];
        let of_bits = &HUFFMAN.symbols[of_length.first_symbol..][..of_length.count];
        let position = of_bits.iter().position(|&other| other == symbol).expect("every symbol has its place");
        (of_length.first_code + position as u32, bits)
    };
    for (symbol, code) in [
        (b'0', (0x0, 5)),
        (b't', (0x9, 5)),
        (b'X', (0xfc, 8)),
        (0, (0x1ff8, 13)),
        (b'\\', (0x7fff0, 19)),
        (1, (0x7f_ffd8, 23)),
        (249, (0xfff_fffe, 28)),
        (22, (0x3fff_fffe, 30)),
    ] {
        assert_eq!(code_of(symbol), code);
    }
    for symbol in 0..=u8::MAX {
        let (code, bits) = code_of(symbol);
        let length = bits.div_ceil(8);
        let padded = (u64::from(code) << (length * 8 - bits)) | ((1 << (length * 8 - bits)) - 1);
        assert_eq!(huffman_decoded(&padded.to_be_bytes()[8 - length..]), Ok(vec![symbol]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_decoded(
        list in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), prop::collection::vec(any::<u8>(), 0..20_000)), 0..4),
    ) {
        let mut block = Vec::new();
        for (name, value) in &list {
            encode_literal(name, value, &mut block);
        }
        let mut decoded = Vec::new();
        let mut decoder = Decoder::default();
        decoder.decode(&block, |name, value| decoded.push((name.to_vec(), value.to_vec()))).expect("valid");
        prop_assert_eq!(decoded, list);
        prop_assert!(decoder.table.is_empty());
    }

    #[test]
    fn any_bytes_are_taken_without_harm(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20)) {
        let mut decoder = Decoder::default();
        for block in &blocks {
            let decoded = decoder.decode(block, |_, _| {});
            let weight: usize = decoder.table.iter().map(|(name, value)| field_bytes(name, value)).sum();
            prop_assert_eq!(weight, decoder.table_bytes);
            prop_assert!(weight <= decoder.table_bytes_max && decoder.table_bytes_max <= TABLE_BYTES_MAX);
            if decoded.is_err() {
                break;
            }
        }
    }
}
