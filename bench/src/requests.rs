//! Request bodies and the sources that hand them out. Every key and value here is the same in each run, so that runs
//! compare; it never measures anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kvorum_api::etcdserverpb::{PutRequest, RangeRequest};

use crate::load::{Load, Source};
use crate::wire;

pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub const MEMBER_ADD: &str = "/etcdserverpb.Cluster/MemberAdd";
pub const DEFRAGMENT: &str = "/etcdserverpb.Maintenance/Defragment";
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";
pub const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// The value of a small put.
pub const VALUE_BYTES: usize = 256;
/// The value of the keys that large ranges return.
pub const RANGE_VALUE_BYTES: usize = 300;

/// How many keys the put cases overwrite, in an order that jumps about.
const PUT_KEYS: u64 = 10_000;

const FILL_CONNECTIONS: usize = 10;
const FILL_STREAMS: usize = 50;

/// A key of 43 bytes, of which the last is before `0xff`: `range_end` of all is `name` and `~`. The floor reads `name` of
/// the form `range/COUNT/` as the number of keys to return.
pub fn key(name: &str, number: u64) -> Bytes {
    let digits = 43 - name.len();
    Bytes::from(format!("{name}{number:0digits$}"))
}

/// Incompressible bytes that depend on `seed` alone (xorshift).
pub fn value(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    Bytes::from(bytes)
}

pub fn put_body(key: Bytes, value: Bytes) -> Bytes {
    wire::frame(&PutRequest { key, value, ..Default::default() })
}

/// A linearizable read of one key.
pub fn read_body(key: Bytes) -> Bytes {
    wire::frame(&RangeRequest { key, ..Default::default() })
}

/// A linearizable range over all keys that begin with `range/COUNT/`.
pub fn range_body(count: u64) -> Bytes {
    let range_end = Bytes::from(format!("{}~", range_name(count)));
    wire::frame(&RangeRequest { key: Bytes::from(range_name(count)), range_end, ..Default::default() })
}

pub fn range_name(count: u64) -> String {
    format!("range/{count}/")
}

/// Puts of 256 bytes over 10,000 keys.
pub fn puts(connections: usize, streams: usize) -> Load {
    puts_over("put/", PUT_KEYS, connections, streams)
}

/// Puts of 256 bytes over `keys` keys named `name`.
pub fn puts_over(name: &'static str, keys: u64, connections: usize, streams: usize) -> Load {
    let bodies: Arc<[Bytes]> =
        (0..keys).map(|number| put_body(key(name, number), value(VALUE_BYTES, number))).collect();
    let source = move |connection| -> Box<dyn Source> {
        // A step without common divisor with the number of keys visits all of them, each connection from its own place.
        let next = connection * (bodies.len() / connections.max(1));
        Box::new(Ring { bodies: bodies.clone(), next, step: 7919 })
    };
    Load { path: PUT, connections, streams, source: Box::new(source), tls: None }
}

/// The same request over and over.
pub fn repeat(path: &'static str, body: Bytes, connections: usize, streams: usize) -> Load {
    let source = move |_| -> Box<dyn Source> { Box::new(Ring { bodies: Arc::new([body.clone()]), next: 0, step: 1 }) };
    Load { path, connections, streams, source: Box::new(source), tls: None }
}

/// `count` requests, made by `body` from their number, each once.
pub fn each(path: &'static str, count: u64, body: impl Fn(u64) -> Bytes + Send + Sync + 'static) -> Load {
    let (next, body) = (Arc::new(AtomicU64::new(0)), Arc::new(body));
    let source = move |_| -> Box<dyn Source> {
        let (next, body) = (next.clone(), body.clone());
        Box::new(Each { next, count, body: Box::new(move |number| body(number)) })
    };
    Load { path, connections: FILL_CONNECTIONS, streams: FILL_STREAMS, source: Box::new(source), tls: None }
}

/// Puts `count` keys named `name`, each once, in increasing order.
pub fn fill(name: &str, count: u64, value_bytes: usize) -> Load {
    let name = name.to_owned();
    each(PUT, count, move |number| put_body(key(&name, number), value(value_bytes, number)))
}

struct Ring {
    bodies: Arc<[Bytes]>,
    next: usize,
    step: usize,
}

impl Source for Ring {
    fn request(&mut self, _stream: usize) -> Option<Bytes> {
        let body = self.bodies[self.next].clone();
        self.next = (self.next + self.step) % self.bodies.len();
        Some(body)
    }
}

struct Each {
    next: Arc<AtomicU64>,
    count: u64,
    body: Box<dyn Fn(u64) -> Bytes>,
}

impl Source for Each {
    fn request(&mut self, _stream: usize) -> Option<Bytes> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.count).then(|| (self.body)(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_have_their_sizes_and_repeat() {
        assert_eq!(key("put/", 7).len(), 43);
        assert_eq!(key(&range_name(1000), 7).len(), 43);
        assert_eq!(value(VALUE_BYTES, 3).len(), VALUE_BYTES);
        assert_eq!(value(300, 3), value(300, 3));
        assert_ne!(value(300, 3), value(300, 4));
    }

    #[test]
    fn a_ring_visits_every_body() {
        let bodies: Arc<[Bytes]> = (0..PUT_KEYS).map(|number| key("k", number)).collect();
        let mut ring = Ring { bodies, next: 17, step: 7919 };
        let seen: std::collections::HashSet<Bytes> = (0..PUT_KEYS).filter_map(|_| ring.request(0)).collect();
        assert_eq!(seen.len() as u64, PUT_KEYS);
    }
}
