//! Header compression (RFC 7541), the reading half: just enough to find a reply's status whichever way a server encodes
//! it. Nothing here is kept longer than the table that the RFC demands.

use std::collections::{HashMap, VecDeque};
use std::sync::LazyLock;

/// The table size that HTTP/2 starts with (RFC 9113, 6.5.2); the load generator never announces another.
const TABLE_BYTES_MAX: usize = 4096;
/// What the RFC adds to each entry's size.
const ENTRY_OVERHEAD_BYTES: usize = 32;

/// A header field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Field {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// The decoder of one connection.
#[derive(Default)]
pub struct Decoder {
    /// Newest first.
    table: VecDeque<Field>,
    table_bytes: usize,
    limit_bytes: Option<usize>,
}

impl Decoder {
    /// Decodes a whole header block, handing each field to `visit`.
    pub fn decode(&mut self, block: &[u8], mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), String> {
        let mut rest = block;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                self.look_up(index, &mut visit)?;
            } else if first & 0xe0 == 0x20 {
                self.limit_bytes = Some(integer(&mut rest, 5)?);
                self.evict();
            } else {
                let indexed = first & 0xc0 == 0x40;
                let index = integer(&mut rest, if indexed { 6 } else { 4 })?;
                let mut field = Field::default();
                if index == 0 {
                    field.name = string(&mut rest)?;
                } else {
                    self.look_up(index, |name, _| field.name = name.to_vec())?;
                }
                field.value = string(&mut rest)?;
                visit(&field.name, &field.value);
                if indexed {
                    self.insert(field);
                }
            }
        }
        Ok(())
    }

    fn look_up(&self, index: usize, visit: impl FnOnce(&[u8], &[u8])) -> Result<(), String> {
        let wrong = || format!("header index {index} is outside of the table");
        if let Some((name, value)) = STATIC_TABLE.get(index.checked_sub(1).ok_or_else(wrong)?) {
            visit(name.as_bytes(), value.as_bytes());
            return Ok(());
        }
        let field = self.table.get(index - 1 - STATIC_TABLE.len()).ok_or_else(wrong)?;
        visit(&field.name, &field.value);
        Ok(())
    }

    fn insert(&mut self, field: Field) {
        self.table_bytes += size_of_field(&field);
        self.table.push_front(field);
        self.evict();
    }

    fn evict(&mut self) {
        while self.table_bytes > self.limit_bytes.unwrap_or(TABLE_BYTES_MAX).min(TABLE_BYTES_MAX) {
            let oldest = self.table.pop_back().expect("bytes in the table are those of its entries");
            self.table_bytes -= size_of_field(&oldest);
        }
    }
}

fn size_of_field(field: &Field) -> usize {
    field.name.len() + field.value.len() + ENTRY_OVERHEAD_BYTES
}

/// Appends a field that the receiver shall remember (RFC 7541, 6.2.1), without Huffman coding.
pub fn encode_remembered(name: &str, value: &str, block: &mut Vec<u8>) {
    block.push(0x40);
    for text in [name, value] {
        let mut rest = match text.len() {
            short @ 0..127 => {
                block.push(short as u8);
                None
            }
            long => {
                block.push(127);
                Some(long - 127)
            }
        };
        while let Some(length) = rest {
            let is_last = length < 128;
            block.push((length & 127) as u8 | if is_last { 0 } else { 128 });
            rest = (!is_last).then_some(length >> 7);
        }
        block.extend_from_slice(text.as_bytes());
    }
}

/// A number whose first byte has `bits` bits of it (RFC 7541, 5.1).
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, String> {
    let cut = "header block is cut short";
    let (first, mut after) = rest.split_first().ok_or(cut)?;
    let mask = (1_usize << bits) - 1;
    let mut number = usize::from(*first) & mask;
    if number == mask {
        for shift in (0..).step_by(7) {
            let (byte, next) = after.split_first().ok_or(cut)?;
            after = next;
            if shift > 21 {
                return Err("a number in a header block is too large".to_owned());
            }
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = after;
    Ok(number)
}

fn string(rest: &mut &[u8]) -> Result<Vec<u8>, String> {
    let huffman = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (text, after) = rest.split_at_checked(length).ok_or("header block is cut short")?;
    *rest = after;
    if huffman { huffman_decoded(text) } else { Ok(text.to_vec()) }
}

/// Bit by bit, since it only happens when a field is seen for the first time.
fn huffman_decoded(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (mut text, mut code, mut length) = (Vec::new(), 0_u32, 0_u8);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |position| byte >> position & 1)) {
        (code, length) = (code << 1 | u32::from(bit), length + 1);
        if let Some(symbol) = HUFFMAN_CODES.get(&(length, code)) {
            text.push(*symbol);
            (code, length) = (0, 0);
        } else if length > 30 {
            return Err("wrong Huffman code in a header".to_owned());
        }
    }
    // What is left is padding.
    Ok(text)
}

/// (length, code) to symbol. The code is canonical: ordered by length, then by symbol, each is the one before plus one.
static HUFFMAN_CODES: LazyLock<HashMap<(u8, u32), u8>> = LazyLock::new(|| {
    let mut symbols: Vec<(u8, u8)> =
        (0..=u8::MAX).map(|symbol| (HUFFMAN_LENGTHS[usize::from(symbol)], symbol)).collect();
    symbols.sort_unstable();
    let (mut code, mut before) = (0_u32, 0);
    let mut codes = HashMap::new();
    for (length, symbol) in symbols {
        code <<= length - before;
        codes.insert((length, code), symbol);
        (code, before) = (code + 1, length);
    }
    codes
});

/// Bits of each symbol's code (RFC 7541, appendix B).
#[rustfmt::skip]
const HUFFMAN_LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// RFC 7541, appendix A.
#[rustfmt::skip]
const STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("test headers are text");
        decoder.decode(block, |name, value| fields.push((text(name), text(value)))).expect("the block is valid");
        fields
    }

    /// RFC 7541, C.4.1 and C.4.2: the second block refers to what the first one left in the table.
    #[test]
    fn examples_of_the_rfc() {
        let mut decoder = Decoder::default();
        let first =
            [0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        let authority = (":authority".to_owned(), "www.example.com".to_owned());
        assert_eq!(decoded(&mut decoder, &first)[3], authority);
        let second = [0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf];
        let fields = decoded(&mut decoder, &second);
        assert_eq!(fields[3], authority);
        assert_eq!(fields[4], ("cache-control".to_owned(), "no-cache".to_owned()));
    }

    #[test]
    fn what_is_encoded_is_decoded_and_remembered() {
        let mut block = Vec::new();
        encode_remembered("grpc-status", "0", &mut block);
        let mut decoder = Decoder::default();
        let expected = vec![("grpc-status".to_owned(), "0".to_owned())];
        assert_eq!(decoded(&mut decoder, &block), expected);
        assert_eq!(decoded(&mut decoder, &[0x80 | 62]), expected);
        for length in [126, 127, 128, 254, 255, 1000] {
            let (mut block, text) = (Vec::new(), "x".repeat(length));
            encode_remembered("token", &text, &mut block);
            assert_eq!(decoded(&mut decoder, &block), vec![("token".to_owned(), text)]);
        }
        assert_eq!(decoded(&mut decoder, &[0x20]), vec![], "a table of size 0 forgets");
        assert!(decoder.decode(&[0x80 | 62], |_, _| {}).is_err());
    }

    #[test]
    fn broken_blocks_are_errors() {
        for block in [&[0x80][..], &[0xff], &[0x40, 0x05, b'a'], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0xbe]] {
            assert!(Decoder::default().decode(block, |_, _| {}).is_err(), "{block:x?}");
        }
    }

    #[test]
    fn the_table_stays_within_its_size() {
        let mut decoder = Decoder::default();
        for number in 0..1000 {
            let mut block = Vec::new();
            encode_remembered("date", &number.to_string(), &mut block);
            decoded(&mut decoder, &block);
            assert!(decoder.table_bytes <= TABLE_BYTES_MAX);
        }
        assert!(decoder.table.len() > 50);
    }
}
