//! The judges must refuse what a correct cluster cannot have shown, and accept its repaired twin. Times are small
//! numbers; in histories of leases they are seconds.

#![allow(clippy::unwrap_used)]

mod broken;
mod large;

use bytes::Bytes;

use super::model::{Compare, Event, Interval, KeyValue, Relation, Reply, Request, Target};
use super::watch::{WatchEvent, WatchMessage, WatchRecord};
use super::{History, Operation, Outcome, Time, Violation};

/// A put of `key` at `revision` that created it there.
fn kv(key: &'static str, value: &'static str, revision: i64) -> KeyValue {
    again(key, value, revision, revision, 1)
}

fn again(key: &'static str, value: &'static str, create_revision: i64, mod_revision: i64, version: i64) -> KeyValue {
    KeyValue { key: key.into(), value: value.into(), create_revision, mod_revision, version, lease: 0 }
}

fn leased(lease: i64, kv: KeyValue) -> KeyValue {
    KeyValue { lease, ..kv }
}

fn put(key: &'static str, value: &'static str) -> Request {
    Request::Put { key: key.into(), value: value.into(), lease: 0 }
}

fn put_leased(key: &'static str, value: &'static str, lease: i64) -> Request {
    Request::Put { key: key.into(), value: value.into(), lease }
}

fn read(key: &'static str) -> Request {
    Request::Range { interval: Interval::one(key), revision: 0, serializable: false }
}

fn read_all() -> Request {
    Request::Range { interval: Interval::all(), revision: 0, serializable: false }
}

fn read_all_at(revision: i64) -> Request {
    Request::Range { interval: Interval::all(), revision, serializable: false }
}

fn read_any(key: &'static str) -> Request {
    Request::Range { interval: Interval::one(key), revision: 0, serializable: true }
}

fn delete(key: &'static str) -> Request {
    Request::Delete(Interval::one(key))
}

/// Puts both keys if `key` was last changed at `revision`.
fn swap(key: &'static str, revision: i64, puts: &[(&'static str, &'static str)]) -> Request {
    Request::Txn {
        compares: vec![Compare { key: key.into(), relation: Relation::Equal, target: Target::ModRevision(revision) }],
        success: puts.iter().map(|(key, value)| put(key, value)).collect(),
        failure: vec![read(key)],
    }
}

fn swapped(puts: usize) -> Reply {
    Reply::Txn { succeeded: true, replies: vec![Reply::Put; puts] }
}

fn found(kvs: &[KeyValue]) -> Reply {
    Reply::Range { kvs: kvs.to_vec() }
}

fn done(call: Time, end: Time, request: Request, revision: i64, reply: Reply) -> Operation {
    Operation { client: 0, call, end, request, outcome: Outcome::Done { revision, reply } }
}

fn ended(call: Time, end: Time, request: Request, outcome: Outcome) -> Operation {
    Operation { client: 0, call, end, request, outcome }
}

fn open(call: Time, request: Request) -> Operation {
    Operation { client: 0, call, end: call, request, outcome: Outcome::Unknown }
}

fn check(operations: Vec<Operation>) -> Result<(), Violation> {
    check_all(operations, Vec::new())
}

fn check_all(operations: Vec<Operation>, watches: Vec<WatchRecord>) -> Result<(), Violation> {
    History { operations, watches }.check(0).map(drop)
}

/// The broken history is refused for the named guarantee, its twin accepted.
fn differ(guarantee: &str, broken: Result<(), Violation>, repaired: Result<(), Violation>) {
    match broken {
        Err(violation) => assert_eq!(violation.guarantee, guarantee, "{violation}"),
        Ok(()) => panic!("the broken history was accepted"),
    }
    repaired.unwrap_or_else(|violation| panic!("the repaired history was refused: {violation}"));
}

fn watch_all(messages: Vec<(Time, WatchMessage)>) -> WatchRecord {
    let complete_until = 0;
    WatchRecord { client: 9, interval: Interval::all(), start_revision: 2, previous: false, messages, complete_until }
}

fn created(time: Time) -> (Time, WatchMessage) {
    (time, WatchMessage::Created { revision: 1 })
}

fn events(time: Time, revision: i64, kvs: &[KeyValue]) -> (Time, WatchMessage) {
    let events = kvs.iter().map(|kv| WatchEvent { event: Event::Put(kv.clone()), previous: None }).collect();
    (time, WatchMessage::Events { revision, events, more: false })
}

fn progress(time: Time, revision: i64) -> (Time, WatchMessage) {
    (time, WatchMessage::Progress { revision })
}

fn deleted(key: &'static str, mod_revision: i64) -> Event {
    Event::Delete { key: Bytes::from(key), mod_revision }
}
