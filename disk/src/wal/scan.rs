//! Reads the records of one segment and tells a torn tail from damage.
//!
//! etcd's rules: a zero length word or the end of the file ends the log; a record that cannot be read is torn, in the
//! last segment only, if a whole sector's worth of it is zero or if it reaches beyond the file. Those rules alone would
//! throw away everything behind a flipped bit in a length word. So three more apply here:
//! - a record that is whole behind a damaged length word, with the right checksum, was not torn;
//! - a zero length word ends the log only if the rest of its sector is zero as well, since a sector is written whole;
//! - a record whose length reaches beyond the file is torn only if the bytes up to the next readable records, if there
//!   are any, hold a sector's worth of zeros.

use super::record::{LENGTH_WORD_BYTES, RawRecord, TYPE_CRC, length_word, padding_of, parse_record};
use super::{CorruptReason, SECTOR_BYTES};

/// What stands at one place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Record {
        record: RawRecord<'a>,
        offset: usize,
    },
    /// The log ends here; from here on the file is empty or zero, or holds sectors of a batch whose first is missing.
    End {
        offset: usize,
    },
    /// A record began here and was not written whole.
    Torn {
        offset: usize,
    },
    Corrupt {
        offset: usize,
        reason: CorruptReason,
    },
}

/// Walks over a segment's bytes.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    offset: usize,
    /// The checksum over all data so far, this segment's and those of the segments before.
    pub chain: u32,
    is_last_segment: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8], chain: u32, is_last_segment: bool) -> Self {
        Self { bytes, offset: 0, chain, is_last_segment }
    }

    /// The next record. After anything but a record, the same answer again.
    pub(super) fn step(&mut self) -> Step<'a> {
        let offset = self.offset;
        let (record, end) = match parse_frame(self.bytes, offset) {
            Ok(frame) => frame,
            Err(FrameFault::End) => return Step::End { offset },
            Err(FrameFault::ZeroWordInSector) => return Step::Corrupt { offset, reason: CorruptReason::LengthWord },
            Err(FrameFault::LengthWord) => return self.judge(offset, None, CorruptReason::LengthWord),
            Err(FrameFault::Record { end }) => return self.judge(offset, Some(end), CorruptReason::Record),
        };
        if record.record_type != TYPE_CRC {
            let chain = crc32c::crc32c_append(self.chain, record.data);
            if chain != record.crc {
                return self.judge(offset, Some(end), CorruptReason::Checksum);
            }
            self.chain = chain;
        }
        self.offset = end;
        Step::Record { record, offset }
    }

    /// Decides what an unreadable record is; `end` if its length word makes sense.
    fn judge(&self, offset: usize, end: Option<usize>, reason: CorruptReason) -> Step<'a> {
        if !self.is_last_segment {
            return Step::Corrupt { offset, reason };
        }
        let data_offset = offset + LENGTH_WORD_BYTES;
        if let Some((record, length)) = self.bytes.get(data_offset..).and_then(parse_record)
            && end != Some(data_offset + length + padding_of(length))
            && crc32c::crc32c_append(self.chain, record.data) == record.crc
        {
            return Step::Corrupt { offset, reason: CorruptReason::LengthWord };
        }
        let until = match end {
            Some(end) => end,
            None => match next_readable(self.bytes, data_offset) {
                Some(next) => next,
                None => return Step::Torn { offset },
            },
        };
        if has_zero_sector(self.bytes, data_offset, until) {
            Step::Torn { offset }
        } else {
            Step::Corrupt { offset, reason }
        }
    }
}

enum FrameFault {
    End,
    ZeroWordInSector,
    LengthWord,
    Record { end: usize },
}

/// The record at `offset` and where the next one begins.
fn parse_frame(bytes: &[u8], offset: usize) -> Result<(RawRecord<'_>, usize), FrameFault> {
    let rest = &bytes[offset..];
    if rest.is_empty() {
        return Err(FrameFault::End);
    }
    let Some(word) = rest.first_chunk::<LENGTH_WORD_BYTES>() else { return Err(FrameFault::LengthWord) };
    let word = u64::from_le_bytes(*word);
    if word == 0 {
        let sector_end = sector_end(offset).min(bytes.len());
        let is_clean = is_zero(&bytes[offset..sector_end]);
        return Err(if is_clean { FrameFault::End } else { FrameFault::ZeroWordInSector });
    }
    let length = usize::try_from(word & (u64::MAX >> 8)).map_err(|_| FrameFault::LengthWord)?;
    let padding = padding_of(length);
    if word != length_word(length) || rest.len() - LENGTH_WORD_BYTES < length + padding {
        return Err(FrameFault::LengthWord);
    }
    let end = offset + LENGTH_WORD_BYTES + length + padding;
    let body = &rest[LENGTH_WORD_BYTES..LENGTH_WORD_BYTES + length];
    match parse_record(body) {
        Some((record, parsed)) if parsed == length && is_zero(&bytes[end - padding..end]) => Ok((record, end)),
        _ => Err(FrameFault::Record { end }),
    }
}

/// The next place where a record is followed by one whose checksum continues it: nothing but our own writing looks so.
fn next_readable(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.next_multiple_of(LENGTH_WORD_BYTES);
    (from..bytes.len()).step_by(LENGTH_WORD_BYTES).find(|&offset| {
        let Ok((record, end)) = parse_frame(bytes, offset) else { return false };
        let Ok((next, _)) = parse_frame(bytes, end) else { return false };
        next.record_type != TYPE_CRC && crc32c::crc32c_append(record.crc, next.data) == next.crc
    })
}

/// Whether the part that some sector contributes to `from..until` is all zero (etcd's `isTornEntry`).
fn has_zero_sector(bytes: &[u8], from: usize, until: usize) -> bool {
    let mut begin = from;
    while begin < until {
        let end = sector_end(begin).min(until);
        if is_zero(&bytes[begin..end]) {
            return true;
        }
        begin = end;
    }
    false
}

fn sector_end(offset: usize) -> usize {
    (offset + 1).next_multiple_of(SECTOR_BYTES)
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
