//! Header compression (RFC 7541): a whole decoder, and the plainest encoders.
//!
//! It stands here because `h2` keeps its decoder to itself and the crates that offer one are not kept up. It must never
//! panic on what a peer sends, and never hold more than the table that the RFC allows.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;

/// Size of the dynamic table that HTTP/2 starts with (RFC 9113, 6.5.2). Nobody who decodes here announces another.
const TABLE_BYTES_MAX: usize = 4096;

/// What an entry counts beyond its name and value, in the table (RFC 7541, 4.1) and in a header list (RFC 9113, 6.5.2).
pub const FIELD_OVERHEAD_BYTES: usize = 32;

/// Bytes that may follow the first of a number: 28 bits more, as in `h2`.
const NUMBER_BYTES_MAX: u32 = 4;

/// A header block that breaks the RFC. The table is of no use afterwards: the connection must end.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// What a field weighs in a table or in a header list.
pub fn field_bytes(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + FIELD_OVERHEAD_BYTES
}

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("malformed header block")
    }
}

impl std::error::Error for Malformed {}

/// The decoder of one direction of one connection.
pub struct Decoder {
    /// Name and value, newest first. Names are counted references: many entries may share a long one.
    table: VecDeque<(Bytes, Bytes)>,
    table_bytes: usize,
    table_bytes_max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), table_bytes: 0, table_bytes_max: TABLE_BYTES_MAX }
    }
}

impl Decoder {
    /// Decodes a whole header block and hands each field, name and value, to `visit` in order.
    ///
    /// # Errors
    /// When the block breaks the RFC. Fields before that were handed over.
    pub fn decode(&mut self, block: &[u8], mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
        let mut rest = block;
        let mut fields_began = false;
        while let Some(&first) = rest.first() {
            match first {
                0x80.. => {
                    let (name, value) = self.look_up(number(&mut rest, 7)?)?;
                    visit(name, value);
                }
                0x40..0x80 => {
                    let (name, value) = self.literal(&mut rest, 6)?;
                    visit(&name, &value);
                    self.insert(name, value);
                }
                // The size of the table may change before the first field only (4.2).
                0x20..0x40 if fields_began => return Err(Malformed),
                0x20..0x40 => {
                    self.resize(number(&mut rest, 5)?)?;
                    continue;
                }
                // Not to be remembered by us (0x00), or by anyone (0x10).
                0x00..0x20 => {
                    let (name, value) = self.literal(&mut rest, 4)?;
                    visit(&name, &value);
                }
            }
            fields_began = true;
        }
        Ok(())
    }

    fn look_up(&self, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
        let index = index.checked_sub(1).ok_or(Malformed)?;
        if let Some((name, value)) = STATIC_TABLE.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let (name, value) = self.table.get(index - STATIC_TABLE.len()).ok_or(Malformed)?;
        Ok((name, value))
    }

    /// The name of an entry, shared with the table.
    fn look_up_name(&self, index: usize) -> Result<Bytes, Malformed> {
        let index = index.checked_sub(1).ok_or(Malformed)?;
        match STATIC_TABLE.get(index) {
            Some((name, _)) => Ok(Bytes::from_static(name.as_bytes())),
            None => self.table.get(index - STATIC_TABLE.len()).map(|(name, _)| name.clone()).ok_or(Malformed),
        }
    }

    fn literal(&self, rest: &mut &[u8], prefix_bits: u32) -> Result<(Bytes, Bytes), Malformed> {
        let name = match number(rest, prefix_bits)? {
            0 => string(rest)?,
            index => self.look_up_name(index)?,
        };
        Ok((name, string(rest)?))
    }

    fn resize(&mut self, bytes_max: usize) -> Result<(), Malformed> {
        if bytes_max > TABLE_BYTES_MAX {
            return Err(Malformed);
        }
        self.table_bytes_max = bytes_max;
        self.evict();
        Ok(())
    }

    /// An entry larger than the whole table empties it and is not kept (4.4).
    fn insert(&mut self, name: Bytes, value: Bytes) {
        self.table_bytes += field_bytes(&name, &value);
        self.table.push_front((name, value));
        self.evict();
    }

    fn evict(&mut self) {
        while self.table_bytes > self.table_bytes_max {
            let (name, value) = self.table.pop_back().expect("bytes of the table are those of its entries");
            self.table_bytes -= field_bytes(&name, &value);
        }
    }
}

/// Appends a field that the receiver shall not remember, its strings as they are.
pub fn encode_literal(name: &[u8], value: &[u8], block: &mut Vec<u8>) {
    encode(0, name, value, block);
}

/// Appends a field that the receiver shall remember (6.2.1), its strings as they are.
pub fn encode_remembered(name: &[u8], value: &[u8], block: &mut Vec<u8>) {
    encode(0x40, name, value, block);
}

/// A field of a kind, its name not from the table.
fn encode(kind: u8, name: &[u8], value: &[u8], block: &mut Vec<u8>) {
    block.push(kind);
    for string in [name, value] {
        encode_number(string.len(), block);
        block.extend_from_slice(string);
    }
}

/// A number whose first byte has seven bits of it, the eighth being zero.
fn encode_number(number: usize, block: &mut Vec<u8>) {
    if number < 0x7f {
        block.push(number as u8);
        return;
    }
    block.push(0x7f);
    let mut rest = number - 0x7f;
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

/// A number whose first byte has `prefix_bits` bits of it (5.1).
fn number(rest: &mut &[u8], prefix_bits: u32) -> Result<usize, Malformed> {
    let prefix_max = (1 << prefix_bits) - 1;
    let mut number = usize::from(take_byte(rest)?) & prefix_max;
    if number < prefix_max {
        return Ok(number);
    }
    for position in 0..NUMBER_BYTES_MAX {
        let byte = take_byte(rest)?;
        number += usize::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

fn take_byte(rest: &mut &[u8]) -> Result<u8, Malformed> {
    let (&byte, after) = rest.split_first().ok_or(Malformed)?;
    *rest = after;
    Ok(byte)
}

fn string(rest: &mut &[u8]) -> Result<Bytes, Malformed> {
    let huffman = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = number(rest, 7)?;
    let (string, after) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = after;
    if huffman { Ok(huffman_decoded(string)?.into()) } else { Ok(Bytes::copy_from_slice(string)) }
}

/// Undoes the Huffman code (5.2). What is left at the end must be fewer than eight bits, all ones.
fn huffman_decoded(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    // The shortest code has five bits.
    let mut decoded = Vec::with_capacity(bytes.len() * 8 / 5);
    let (mut code, mut bits) = (0_u32, 0_usize);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |position| byte >> position & 1)) {
        code = code << 1 | u32::from(bit);
        bits += 1;
        // 30 bits that are no symbol's are the mark of an end (EOS), which no string may hold.
        let of_length = HUFFMAN.of_length.get(bits).ok_or(Malformed)?;
        // A code smaller than the first of its length would have been found with fewer bits.
        let position = (code - of_length.first_code) as usize;
        if position < of_length.count {
            decoded.push(HUFFMAN.symbols[of_length.first_symbol + position]);
            (code, bits) = (0, 0);
        }
    }
    if bits < 8 && code + 1 == 1 << bits { Ok(decoded) } else { Err(Malformed) }
}

/// The code, which is canonical: ordered by length, then by symbol, each is the one before plus one.
struct Huffman {
    of_length: [HuffmanLength; HUFFMAN_BITS_MAX + 1],
    /// In the order of their codes.
    symbols: [u8; 256],
}

/// The codes of one length.
#[derive(Clone, Copy)]
struct HuffmanLength {
    first_code: u32,
    first_symbol: usize,
    count: usize,
}

const HUFFMAN_BITS_MAX: usize = 30;

static HUFFMAN: Huffman = huffman();

const fn huffman() -> Huffman {
    let none = HuffmanLength { first_code: 0, first_symbol: 0, count: 0 };
    let mut huffman = Huffman { of_length: [none; HUFFMAN_BITS_MAX + 1], symbols: [0; 256] };
    let (mut bits, mut code, mut filled) = (1, 0, 0);
    while bits <= HUFFMAN_BITS_MAX {
        code <<= 1;
        let (first_code, first_symbol) = (code, filled);
        let mut symbol = 0;
        while symbol < HUFFMAN_LENGTHS.len() {
            if HUFFMAN_LENGTHS[symbol] as usize == bits {
                huffman.symbols[filled] = symbol as u8;
                (code, filled) = (code + 1, filled + 1);
            }
            symbol += 1;
        }
        huffman.of_length[bits] = HuffmanLength { first_code, first_symbol, count: filled - first_symbol };
        bits += 1;
    }
    huffman
}

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
mod tests;
