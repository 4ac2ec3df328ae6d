//! One record: its bytes, and the bytes of what it may hold. Encoding is by hand, into the caller's buffer.
//!
//! ```text
//! length word, 8 bytes LE: low 56 bits length of the record, top byte 0x80 | padding, or 0 without padding
//! record: 08 <type> 10 <crc> 1a <length of data> <data>     (walpb.Record; crc continues over all data since the first)
//! padding: zeros up to a multiple of 8
//! ```

use kvorum_api::raftpb::{ConfState, EntryType};
use prost::Message;
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

pub(super) const TYPE_METADATA: u8 = 1;
pub(super) const TYPE_ENTRY: u8 = 2;
pub(super) const TYPE_STATE: u8 = 3;
pub(super) const TYPE_CRC: u8 = 4;
pub(super) const TYPE_SNAPSHOT: u8 = 5;

/// The bytes of a length word.
pub(super) const LENGTH_WORD_BYTES: usize = 8;

const PADDING_MARK: u8 = 0x80;

/// Whose log this is. Stands at the head of every segment (etcd's `Metadata`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalMetadata {
    pub node_id: u64,
    pub cluster_id: u64,
}

/// Raft's hard state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

impl HardState {
    /// An empty state is not written (raft's `IsEmptyHardState`).
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a batch with this state must be durable before raft may go on: it has entries, or term or vote changed
    /// (raft's `MustSync`). A moved commit index alone may be lost.
    pub fn must_sync(&self, previous: &Self, entries: usize) -> bool {
        entries != 0 || self.vote != previous.vote || self.term != previous.term
    }
}

/// One entry of the raft log, borrowed from whoever proposes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalEntry<'a> {
    pub entry_type: EntryType,
    pub term: u64,
    pub index: u64,
    pub data: &'a [u8],
}

/// A snapshot the log knows of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WalSnapshot {
    pub index: u64,
    pub term: u64,
    /// Must be there for every snapshot but the empty one at the beginning (etcd since 3.5).
    pub conf_state: Option<ConfState>,
}

/// Appends one record whose data are `head` followed by `body`, and moves the checksum `chain` over them.
pub(super) fn push_record(buffer: &mut Vec<u8>, chain: &mut u32, record_type: u8, head: &[u8], body: &[u8]) {
    *chain = crc32c::crc32c_append(*chain, head);
    if !body.is_empty() {
        *chain = crc32c::crc32c_append(*chain, body);
    }
    let data_length = head.len() + body.len();
    let record_length = 3
        + encoded_len_varint(u64::from(*chain))
        + if data_length == 0 { 0 } else { 1 + encoded_len_varint(data_length as u64) + data_length };
    let padding = padding_of(record_length);
    buffer.reserve(LENGTH_WORD_BYTES + record_length + padding);
    buffer.extend_from_slice(&length_word(record_length).to_le_bytes());
    buffer.extend_from_slice(&[0x08, record_type, 0x10]);
    encode_varint(u64::from(*chain), buffer);
    if data_length != 0 {
        buffer.push(0x1a);
        encode_varint(data_length as u64, buffer);
        buffer.extend_from_slice(head);
        buffer.extend_from_slice(body);
    }
    buffer.extend_from_slice(&[0; LENGTH_WORD_BYTES][..padding]);
}

/// A checksum record: it has no data, so it repeats the chain where a segment begins.
pub(super) fn push_crc(buffer: &mut Vec<u8>, chain: &mut u32) {
    push_record(buffer, chain, TYPE_CRC, &[], &[]);
}

/// All proto2 fields are written, zeros too, as etcd up to 3.6 does; empty data are absent, as in every etcd.
pub(super) fn push_entry(buffer: &mut Vec<u8>, chain: &mut u32, entry: &WalEntry<'_>) {
    let mut head = Scratch::new();
    head.field(0x08, entry.entry_type as u64);
    head.field(0x10, entry.term);
    head.field(0x18, entry.index);
    if !entry.data.is_empty() {
        head.field(0x22, entry.data.len() as u64);
    }
    push_record(buffer, chain, TYPE_ENTRY, head.bytes(), entry.data);
}

pub(super) fn push_state(buffer: &mut Vec<u8>, chain: &mut u32, state: &HardState) {
    let mut data = Scratch::new();
    data.field(0x08, state.term);
    data.field(0x10, state.vote);
    data.field(0x18, state.commit);
    push_record(buffer, chain, TYPE_STATE, data.bytes(), &[]);
}

pub(super) fn push_metadata(buffer: &mut Vec<u8>, chain: &mut u32, metadata: &WalMetadata) {
    let mut data = Scratch::new();
    data.field(0x08, metadata.node_id);
    data.field(0x10, metadata.cluster_id);
    push_record(buffer, chain, TYPE_METADATA, data.bytes(), &[]);
}

pub(super) fn push_snapshot(buffer: &mut Vec<u8>, chain: &mut u32, snapshot: &WalSnapshot) {
    let mut head = Scratch::new();
    head.field(0x08, snapshot.index);
    head.field(0x10, snapshot.term);
    let mut body = Vec::new();
    if let Some(conf_state) = &snapshot.conf_state {
        let mut conf_state = conf_state.clone();
        conf_state.auto_leave.get_or_insert(false);
        body = conf_state.encode_to_vec();
        head.field(0x1a, body.len() as u64);
    }
    push_record(buffer, chain, TYPE_SNAPSHOT, head.bytes(), &body);
}

/// The length word of a record of this length.
pub(super) fn length_word(record_length: usize) -> u64 {
    let padding = padding_of(record_length);
    let mark = if padding == 0 { 0 } else { PADDING_MARK | padding as u8 };
    record_length as u64 | u64::from(mark) << 56
}

/// The zeros behind a record of this length.
pub(super) fn padding_of(record_length: usize) -> usize {
    record_length.wrapping_neg() % LENGTH_WORD_BYTES
}

/// A few fields on the stack: at most four, each one tag byte and one varint.
struct Scratch {
    content: [u8; 44],
    length: usize,
}

impl Scratch {
    fn new() -> Self {
        Self { content: [0; 44], length: 0 }
    }

    fn field(&mut self, tag: u8, value: u64) {
        self.content[self.length] = tag;
        self.length += 1;
        let mut rest = value;
        while rest >= 0x80 {
            self.content[self.length] = rest as u8 | 0x80;
            self.length += 1;
            rest >>= 7;
        }
        self.content[self.length] = rest as u8;
        self.length += 1;
    }

    fn bytes(&self) -> &[u8] {
        &self.content[..self.length]
    }
}

/// The inside of a `walpb.Record`, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawRecord<'a> {
    pub record_type: u8,
    pub crc: u32,
    pub data: &'a [u8],
}

/// Reads a record from the beginning of `bytes`, in the one form that etcd's writers leave, and says how long it is. The
/// form ends by itself, so this works without the length word.
pub(super) fn parse_record(bytes: &[u8]) -> Option<(RawRecord<'_>, usize)> {
    let mut rest = bytes;
    let record_type = match rest {
        [0x08, record_type @ TYPE_METADATA..=TYPE_SNAPSHOT, 0x10, ..] => *record_type,
        _ => return None,
    };
    rest = &rest[3..];
    let crc = u32::try_from(canonical_varint(&mut rest)?).ok()?;
    if record_type == TYPE_CRC {
        return Some((RawRecord { record_type, crc, data: &[] }, bytes.len() - rest.len()));
    }
    if rest.first() != Some(&0x1a) {
        return None;
    }
    rest = &rest[1..];
    let length = usize::try_from(canonical_varint(&mut rest)?).ok()?;
    let data = rest.get(..length)?;
    Some((RawRecord { record_type, crc, data }, bytes.len() - rest.len() + length))
}

fn canonical_varint(bytes: &mut &[u8]) -> Option<u64> {
    let before = bytes.len();
    let value = decode_varint(bytes).ok()?;
    (encoded_len_varint(value) == before - bytes.len()).then_some(value)
}
