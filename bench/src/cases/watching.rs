//! What the watch cases share: creating watchers on one stream and counting events without decoding them.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use kvorum_api::etcdserverpb::watch_request::RequestUnion;
use kvorum_api::etcdserverpb::{WatchCreateRequest, WatchRequest};

use crate::requests::WATCH;
use crate::streams::{Channel, Duplex};
use crate::wire;

/// Opens a connection with one watch stream and creates a watcher for each key; returns when all were confirmed.
pub async fn watch(address: SocketAddr, keys: impl Iterator<Item = Bytes>) -> Result<Duplex, String> {
    create(address, keys.map(|key| WatchCreateRequest { key, ..Default::default() })).await
}

/// Opens a connection with one watch stream and creates these watchers; returns when all were confirmed.
pub async fn create(address: SocketAddr, creates: impl Iterator<Item = WatchCreateRequest>) -> Result<Duplex, String> {
    let mut stream = Channel::open(address).await?.duplex(WATCH).await?;
    let (mut requests, mut missing) = (BytesMut::new(), 0_u64);
    for create in creates {
        let create = RequestUnion::CreateRequest(create);
        requests.extend_from_slice(&wire::frame(&WatchRequest { request_union: Some(create) }));
        missing += 1;
    }
    stream.send(requests.freeze())?;
    while missing > 0 {
        let message = stream.next().await?.ok_or("the watch stream ended")?;
        if summarize(&message)?.created {
            missing -= 1;
        }
    }
    Ok(stream)
}

/// Waits for the next message that brings events and returns how many.
pub async fn next_events(stream: &mut Duplex) -> Result<u64, String> {
    loop {
        let message = stream.next().await?.ok_or("the watch stream ended")?;
        let events = summarize(&message)?.events;
        if events > 0 {
            return Ok(events);
        }
    }
}

/// What the load generator wants to know of a `WatchResponse`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    created: bool,
    events: u64,
}

const WIRE_VARINT: u64 = 0;
const WIRE_BYTES: u64 = 2;
const FIELD_CREATED: u64 = 3;
const FIELD_CANCELED: u64 = 4;
const FIELD_EVENTS: u64 = 11;

/// Walks over the fields of an encoded `WatchResponse`; all are numbers or byte strings.
fn summarize(message: &[u8]) -> Result<Summary, String> {
    let mut summary = Summary::default();
    let mut rest = message;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let (field, wire_type, number) = (tag >> 3, tag & 7, varint(&mut rest)?);
        match wire_type {
            WIRE_VARINT if field == FIELD_CANCELED && number != 0 => {
                return Err("the server cancelled a watcher".to_owned());
            }
            WIRE_VARINT => summary.created |= field == FIELD_CREATED && number != 0,
            WIRE_BYTES => {
                let length = usize::try_from(number).map_err(|error| error.to_string())?;
                rest = rest.get(length..).ok_or("WatchResponse is cut short")?;
                summary.events += u64::from(field == FIELD_EVENTS);
            }
            _ => return Err(format!("WatchResponse with wire type {wire_type}")),
        }
    }
    Ok(summary)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or("WatchResponse is cut short")?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("WatchResponse with an endless number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::etcdserverpb::{ResponseHeader, WatchResponse};
    use kvorum_api::mvccpb::Event;
    use prost::Message;

    #[test]
    fn summaries_agree_with_the_decoder() {
        let header = Some(ResponseHeader { cluster_id: u64::MAX, revision: 300, ..Default::default() });
        let created = WatchResponse { header, watch_id: 700, created: true, ..Default::default() };
        let expected = Summary { created: true, events: 0 };
        assert_eq!(summarize(&created.encode_to_vec()), Ok(expected));
        let events = vec![Event::default(), Event { r#type: 1, ..Default::default() }, Event::default()];
        let filled = WatchResponse { header, events, ..Default::default() };
        let expected = Summary { created: false, events: 3 };
        assert_eq!(summarize(&filled.encode_to_vec()), Ok(expected));
        let canceled = WatchResponse { header, canceled: true, ..Default::default() };
        assert!(summarize(&canceled.encode_to_vec()).is_err());
        assert!(summarize(&filled.encode_to_vec()[..20]).is_err());
    }
}
