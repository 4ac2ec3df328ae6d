//! Writes what fuzzing begins with, from our own writers, into `fuzz/corpus`: `cargo run -p kvorum-fuzzing --example seeds`.
//! The names begin with `seed-`; the other inputs there were found by fuzzing.

use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use bytes::BytesMut;
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::{InternalRaftRequest, PutRequest, RequestOp, TxnRequest};
use kvorum_api::mvccpb::KeyValue;
use kvorum_api::raftpb::{ConfState, Entry, EntryType, Message, MessageType};
use kvorum_disk::bolt::BoltWriter;
use kvorum_disk::file::{SimulatedFileSystem, read_whole};
use kvorum_disk::{
    FileSystem, HardState, OpenMode, SnapDirectory, SnapshotFile, Wal, WalEntry, WalMetadata, WalOptions, WalSnapshot,
};
use kvorum_server::from_outside::peers::{Encoder, StreamKind, encode_message};
use prost::Message as _;

fn main() -> io::Result<()> {
    seed("wal", "log", &[&[0], &log()])?;
    seed("bolt", "file", &[&[0], &database()])?;
    seed("bolt", "file-made-right", &[&[1, 2], &database()])?;
    seed("snap", "file", &[&[0], &snapshot()])?;
    let stream = |kind| {
        let mut buffer = BytesMut::new();
        let mut encoder = Encoder::new(kind);
        encoder.heartbeat(&mut buffer);
        (0..3).for_each(|number| encoder.encode(&append(number * 2), &mut buffer));
        buffer
    };
    seed("peer_frames", "messages", &[&[0, 1, 2, 3, 4], &stream(StreamKind::Message)])?;
    seed("peer_frames", "appends", &[&[1, 1, 2, 3, 4], &stream(StreamKind::Append)])?;
    let mut envelope = BytesMut::new();
    encode_message(&append(3), &mut envelope);
    seed("peer_frames", "database", &[&[2, 5], &envelope, b"database"])?;
    seed("peer_frames", "posted", &[&[3], &append(3).encode_to_vec()])?;
    seed("peer_messages", "append", &[&[0, 0, 0, 8, 40], &append(0).encode_to_vec(), &[13, 15]])?;
    requests()?;
    seed("tokens", "claims", &[&[1, 0], br#"{"exp":99999999999,"revision":3,"username":"root"}"#])?;
    seed("tokens", "options", &[&[4], b"sign-method=HS256,priv-key=file,ttl=5m"])?;
    let file = "name: one\nlisten-client-urls: http://127.0.0.1:2379\nclient-transport-security:\n  auto-tls: true\n";
    seed("config", "file", &[&[0], file.as_bytes()])?;
    seed("config", "variables", &[&[1], b"NAME=one\nQUOTA_BACKEND_BYTES=100\nELECTION_TIMEOUT=1000"])?;
    seed("config", "words", &[&[2], b"--name\none\n--heartbeat-interval=100"])?;
    seed("config", "url", &[&[3], b"http://[::1]:2379"])?;
    seed("command_line", "put", &[&[0, 2], b"key\nvalue\n--lease=10\n--prev-kv"])?;
    seed("command_line", "completion", &[&[4], b"get\n--"])?;
    seed("command_line", "duration", &[&[6], b"1h2m3.5s"])?;
    seed(
        "headers",
        "blocks",
        &[&[0, 3, 0x82, 0x86, 0x84, 14, 0x41, 0x8c], b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"],
    )?;
    seed("headers", "authority", &[&[2, 3, 0, 28, 0x83, 0x86, 0x84, 0x01, 22], b"http://127.0.0.1:2379/x"])
}

/// Writes the parts as one input.
fn seed(target: &str, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("seed-{name}")), parts.concat())
}

fn log() -> Vec<u8> {
    let disk = SimulatedFileSystem::new();
    let folder = Path::new("/wal");
    let metadata = WalMetadata { node_id: 1, cluster_id: 2 };
    let mut wal = Wal::create(Arc::new(disk.clone()), folder, metadata, WalOptions::default()).expect("it is written");
    for index in 1..4 {
        let entry = WalEntry { entry_type: EntryType::EntryNormal, term: 1, index, data: b"data" };
        wal.append(&[entry], Some(&HardState { term: 1, vote: 1, commit: index })).expect("it is written");
    }
    let conf_state = Some(ConfState { voters: vec![1], ..ConfState::default() });
    wal.save_snapshot(&WalSnapshot { index: 2, term: 1, conf_state }).expect("it is written");
    let file = disk.open(wal.segment_path(), OpenMode::Read).expect("it is there");
    let mut contents = read_whole(&*file).expect("it is read");
    // The zeros ahead of the tail say nothing more.
    contents.truncate(1024);
    contents
}

fn key_value(number: i64) -> KeyValue {
    KeyValue {
        key: format!("key-{number}").into(),
        create_revision: number,
        mod_revision: number,
        version: 1,
        value: "value".into(),
        lease: 0,
    }
}

fn database() -> Vec<u8> {
    let disk = SimulatedFileSystem::new();
    let path = Path::new("/db");
    let mut writer = BoltWriter::create(&disk, path).expect("it is written");
    writer.begin_bucket(b"key", 0).expect("it is written");
    for number in 2..5_i64 {
        let revision = kvorum_store::Revision::new(number, 0).to_key();
        writer.put(&revision, &key_value(number).encode_to_vec()).expect("it is written");
    }
    writer.end_bucket().expect("it is written");
    writer.finish(false).expect("it is written");
    read_whole(&*disk.open(path, OpenMode::Read).expect("it is there")).expect("it is read")
}

fn snapshot() -> Vec<u8> {
    let disk = SimulatedFileSystem::new();
    let folder = SnapDirectory::open(Arc::new(disk.clone()), Path::new("/snap")).expect("it is made");
    let conf_state = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    let snapshot = SnapshotFile { index: 5, term: 2, conf_state, data: "members".into() };
    let path = folder.save(&snapshot).expect("it is written");
    read_whole(&*disk.open(&path, OpenMode::Read).expect("it is there")).expect("it is read")
}

fn append(index: u64) -> Message {
    let entry = |index| Entry { r#type: Some(0), term: Some(1), index: Some(index), data: Some("data".into()) };
    Message {
        r#type: Some(MessageType::MsgApp.into()),
        from: Some(2),
        to: Some(1),
        term: Some(1),
        log_term: Some(1),
        index: Some(index),
        commit: Some(index),
        entries: vec![entry(index + 1), entry(index + 2)],
        ..Message::default()
    }
}

fn requests() -> io::Result<()> {
    let put = PutRequest { key: "key".into(), value: "value".into(), lease: 7, ..PutRequest::default() };
    let op = RequestOp { request: Some(Request::RequestPut(put.clone())) };
    let inner = TxnRequest { success: vec![op.clone()], ..TxnRequest::default() };
    let nested = RequestOp { request: Some(Request::RequestTxn(inner)) };
    let txn = TxnRequest { success: vec![op], failure: vec![nested], ..TxnRequest::default() };
    let message = put.encode_to_vec();
    let frame = [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat();
    seed("requests", "body", &[&[0, 0, 3], &frame, &frame])?;
    seed("requests", "put", &[&[1, 1], &message])?;
    seed("requests", "put-in-entry", &[&[2, 0, 5], &[1; 8], &message])?;
    seed("requests", "txn-in-entry", &[&[2, 3, 0], &[1; 8], &txn.encode_to_vec()])?;
    let entry = InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() };
    seed("requests", "entry", &[&[3], &entry.encode_to_vec()])?;
    let version = b"\x08\x2a\x12\x03PUT\x1a\x0a/0/version\x22\x053.4.0";
    seed("requests", "entry-v2", &[&[3], version])?;
    seed("requests", "stored-key", &[&[4], &key_value(3).encode_to_vec()])?;
    seed("requests", "time-limit", &[&[5], b"4999m"])
}
