//! Bucket `key`: revision → `mvccpb.KeyValue`. Encoded and read here by hand, because every put encodes one and every
//! range copies many; the bytes equal those of prost and of Go's protobuf (fields in order, zero values absent).

/// The parts of an encoded `KeyValue`, borrowed from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValueParts<'a> {
    pub key: &'a [u8],
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: i64,
}

impl<'a> KeyValueParts<'a> {
    /// Reads an encoded `KeyValue` as prost does; unknown fields are passed over. `None` if it is malformed, and for groups,
    /// which nobody writes.
    pub fn parse(mut bytes: &'a [u8]) -> Option<Self> {
        let mut parts = Self::default();
        while !bytes.is_empty() {
            let tag = u32::try_from(take_varint(&mut bytes)?).ok()?;
            match (tag >> 3, tag & 7) {
                (1, 2) => parts.key = take_bytes(&mut bytes)?,
                (2, 0) => parts.create_revision = take_varint(&mut bytes)? as i64,
                (3, 0) => parts.mod_revision = take_varint(&mut bytes)? as i64,
                (4, 0) => parts.version = take_varint(&mut bytes)? as i64,
                (5, 2) => parts.value = take_bytes(&mut bytes)?,
                (6, 0) => parts.lease = take_varint(&mut bytes)? as i64,
                // No field has this number, and those above have these types.
                (0..=6, _) => return None,
                (_, 0) => drop(take_varint(&mut bytes)?),
                (_, 1) => bytes = bytes.get(8..)?,
                (_, 2) => drop(take_bytes(&mut bytes)?),
                (_, 5) => bytes = bytes.get(4..)?,
                _ => return None,
            }
        }
        Some(parts)
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(1, self.key, out);
        put_int64(2, self.create_revision, out);
        put_int64(3, self.mod_revision, out);
        put_int64(4, self.version, out);
        put_bytes(5, self.value, out);
        put_int64(6, self.lease, out);
    }

    pub fn encoded_len(&self) -> usize {
        bytes_len(self.key)
            + int64_len(self.create_revision)
            + int64_len(self.mod_revision)
            + int64_len(self.version)
            + bytes_len(self.value)
            + int64_len(self.lease)
    }
}

pub(crate) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) const fn varint_len(value: u64) -> usize {
    ((70 - (value | 1).leading_zeros()) / 7) as usize
}

/// A varint field of a number below 16; nothing for zero.
pub(crate) fn put_int64(field: u8, value: i64, out: &mut Vec<u8>) {
    if value != 0 {
        out.push(field << 3);
        put_varint(value as u64, out);
    }
}

pub(crate) const fn int64_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value as u64) }
}

fn put_bytes(field: u8, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        put_frame(field, value, out);
    }
}

const fn bytes_len(value: &[u8]) -> usize {
    if value.is_empty() { 0 } else { 1 + varint_len(value.len() as u64) + value.len() }
}

/// A length-delimited field of a number below 16, also when it is empty.
pub(crate) fn put_frame(field: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(field << 3 | 2);
    put_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

pub(crate) const fn frame_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for position in 0..10 {
        let byte = *bytes.get(position)?;
        // The tenth byte has one bit of the number.
        if position == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            *bytes = &bytes[position + 1..];
            return Some(value);
        }
    }
    None
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::mvccpb::KeyValue;
    use prost::Message;

    #[test]
    fn encodes_as_prost_does_and_reads_it_back() {
        let numbers = [0, 1, 127, 128, 300, i64::MAX, -1, i64::MIN];
        for (position, number) in numbers.into_iter().enumerate() {
            for length in [0, 1, 127, 128, 20_000] {
                let message = KeyValue {
                    key: vec![b'k'; length].into(),
                    create_revision: number,
                    mod_revision: numbers[(position + 1) % numbers.len()],
                    version: numbers[(position + 2) % numbers.len()],
                    value: vec![0xff; 20_000 - length].into(),
                    lease: number,
                };
                let parts = KeyValueParts {
                    key: &message.key,
                    create_revision: message.create_revision,
                    mod_revision: message.mod_revision,
                    version: message.version,
                    value: &message.value,
                    lease: message.lease,
                };
                let mut out = Vec::new();
                parts.encode(&mut out);
                assert_eq!(out, message.encode_to_vec());
                assert_eq!(parts.encoded_len(), out.len());
                assert_eq!(KeyValueParts::parse(&out), Some(parts));
            }
        }
    }

    #[test]
    fn malformed_bytes_are_refused() {
        assert_eq!(KeyValueParts::parse(&[0x0a, 5, 1]), None);
        assert_eq!(KeyValueParts::parse(&[0x10]), None);
        assert_eq!(KeyValueParts::parse(&[0x0b]), None);
        assert_eq!(KeyValueParts::parse(&[0xff; 11]), None);
        // What prost refuses is refused here as well: other types, field 0, numbers and tags that are too long.
        for bytes in [&[0x08, 1][..], &[0x12, 0], &[0x00, 0], &[0x80, 0x80, 0x80, 0x80, 0x10, 0]] {
            assert!(KeyValue::decode(bytes).is_err());
            assert_eq!(KeyValueParts::parse(bytes), None, "{bytes:?}");
        }
        let too_long = [0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        assert!(KeyValue::decode(&too_long[..]).is_err());
        assert_eq!(KeyValueParts::parse(&too_long), None);
    }
}
