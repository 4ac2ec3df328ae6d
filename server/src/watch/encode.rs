//! Watch responses as bytes. An event's `KeyValue` is encoded already and shared by all who receive it; here it only gets
//! the few bytes that stand around it. Byte for byte what a protobuf library writes for `WatchResponse`.

use kvorum_api::etcdserverpb::{ResponseHeader, WatchResponse};
use kvorum_api::prost::Message;
use kvorum_store::{Event, EventKind, KvBytes};

use super::HeaderSource;
use super::outbox::OutboxHandle;

const TAG_HEADER: u8 = 1 << 3 | 2;
const TAG_WATCH_ID: u8 = 2 << 3;
const TAG_FRAGMENT: u8 = 7 << 3;
const TAG_EVENTS: u8 = 11 << 3 | 2;
const TAG_EVENT_TYPE: u8 = 1 << 3;
const TAG_EVENT_KV: u8 = 2 << 3 | 2;
const TAG_EVENT_PREVIOUS: u8 = 3 << 3 | 2;

/// A few bytes without an allocation; large enough for a header field (two 10-byte and two 11-byte fields behind two bytes).
#[derive(Clone, Copy)]
pub(super) struct Small {
    bytes: [u8; 56],
    length: usize,
}

impl Small {
    fn new() -> Self {
        Self { bytes: [0; 56], length: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn varint_length(value: usize) -> usize {
    let bits = (usize::BITS - (value | 1).leading_zeros()) as usize;
    bits.div_ceil(7)
}

pub(super) fn header(source: &dyn HeaderSource, revision: i64) -> ResponseHeader {
    ResponseHeader {
        cluster_id: source.cluster_id(),
        member_id: source.member_id(),
        revision,
        raft_term: source.raft_term(),
    }
}

/// The header field, the same for all responses of one batch.
pub(super) fn header_field(source: &dyn HeaderSource, revision: i64) -> Small {
    let fields = [source.cluster_id(), source.member_id(), revision as u64, source.raft_term()];
    let mut inner = Small::new();
    for (number, value) in (1u8..).zip(fields) {
        if value != 0 {
            inner.push(number << 3);
            inner.push_varint(value);
        }
    }
    let mut field = Small::new();
    field.push(TAG_HEADER);
    field.push_varint(inner.length as u64);
    for byte in inner.as_slice() {
        field.push(*byte);
    }
    field
}

/// One event as a watcher is to receive it.
#[derive(Clone, Copy)]
pub(super) struct EventRef<'a> {
    pub(super) event: &'a Event,
    pub(super) previous: Option<&'a KvBytes>,
}

impl EventRef<'_> {
    /// Bytes of the `Event` message.
    fn message_length(&self) -> usize {
        let kind = if self.event.kind == EventKind::Delete { 2 } else { 0 };
        let field = |kv: &KvBytes| 1 + varint_length(kv.len()) + kv.len();
        kind + field(&self.event.kv) + self.previous.map_or(0, field)
    }

    /// Bytes of the field in the response.
    fn field_length(&self) -> usize {
        let inner = self.message_length();
        1 + varint_length(inner) + inner
    }

    /// What stands before the `KeyValue`.
    fn head(&self) -> Small {
        let mut head = Small::new();
        head.push(TAG_EVENTS);
        head.push_varint(self.message_length() as u64);
        if self.event.kind == EventKind::Delete {
            head.push(TAG_EVENT_TYPE);
            head.push(1);
        }
        head.push(TAG_EVENT_KV);
        head.push_varint(self.event.kv.len() as u64);
        head
    }
}

/// How the responses of one watcher look, apart from their events.
#[derive(Clone, Copy)]
pub(super) struct ResponseShape<'a> {
    pub(super) header_field: &'a Small,
    pub(super) watch_id: i64,
    /// Split at this encoded size, if the watcher asked for it.
    pub(super) fragment_bytes: Option<usize>,
}

/// Appends the events as one response, or as several fragments. Returns the bytes appended.
pub(super) fn append_events(outbox: &OutboxHandle, shape: ResponseShape<'_>, events: &[EventRef<'_>]) -> usize {
    let mut watch_id = Small::new();
    if shape.watch_id != 0 {
        watch_id.push(TAG_WATCH_ID);
        watch_id.push_varint(shape.watch_id as u64);
    }
    let base = shape.header_field.length + watch_id.length;
    let whole = base + events.iter().map(EventRef::field_length).sum::<usize>();
    let frame = |events: &[EventRef<'_>], length: usize, more: bool| {
        outbox.append(length, events.len(), |writer| {
            writer.put(shape.header_field.as_slice());
            writer.put(watch_id.as_slice());
            if more {
                writer.put(&[TAG_FRAGMENT, 1]);
            }
            for entry in events {
                writer.put(entry.head().as_slice());
                writer.put_shared(&entry.event.kv);
                if let Some(previous) = entry.previous {
                    let mut head = Small::new();
                    head.push(TAG_EVENT_PREVIOUS);
                    head.push_varint(previous.len() as u64);
                    writer.put(head.as_slice());
                    writer.put_shared(previous);
                }
            }
        });
        length
    };
    let limit = match shape.fragment_bytes {
        Some(limit) if whole >= limit && events.len() > 1 => limit,
        _ => return frame(events, whole, false),
    };
    let mut rest = events;
    let mut appended = 0;
    while !rest.is_empty() {
        // As etcd does it: the first event always goes in, the next ones while the response stays below the limit.
        let mut length = base + 2 + rest[0].field_length();
        let mut count = 1;
        while count < rest.len() && length + rest[count].field_length() < limit {
            length += rest[count].field_length();
            count += 1;
        }
        let more = count < rest.len();
        appended += frame(&rest[..count], if more { length } else { length - 2 }, more);
        rest = &rest[count..];
    }
    appended
}

/// Appends a response that carries no events.
pub(super) fn append_control(outbox: &OutboxHandle, response: &WatchResponse) {
    let bytes = response.encode_to_vec();
    outbox.append(bytes.len(), 0, |writer| writer.put(&bytes));
}
