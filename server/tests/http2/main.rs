//! What clients of no library of ours do on HTTP/2, said in bare frames to a member inside the test's process.

use kvorum_api::etcdserverpb::StatusResponse;
use kvorum_server::embed;
use kvorum_server::start::Running;
use prost::Message;

mod authority;
mod ends;
mod floods;
mod frames;
mod slow;

use frames::{Client, DATA, END_HEADERS, END_STREAM, HEADERS};

fn member() -> (tempfile::TempDir, Running) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let member = embed::start(folder.path()).expect("the member starts");
    (folder, member)
}

/// Asks for the member's status.
fn request(client: &mut Client, stream: u32, block: &[u8]) {
    client.send(HEADERS, END_HEADERS, stream, block);
    client.send(DATA, END_STREAM, stream, &[0; 5]);
}

/// Reads the answer to [`request`].
fn expect_status(client: &mut Client, stream: u32, why: &str) {
    let (frame, data) = client.end();
    assert_eq!((frame.kind, frame.stream), (HEADERS, stream), "{why}");
    let status = StatusResponse::decode(&data[5..]).expect("a status");
    assert_eq!(status.version, kvorum_server::ETCD_VERSION);
}

/// A request that leaves its path in the table of headers, and after it its authority.
fn first_request(authority: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (index, value) in [(4, "/etcdserverpb.Maintenance/Status"), (1, authority)] {
        block.extend_from_slice(&[0x40 | index, value.len() as u8]);
        block.extend_from_slice(value.as_bytes());
    }
    block.extend_from_slice(CONTENT_TYPE);
    block
}

/// `content-type: application/grpc`, not to be remembered.
const CONTENT_TYPE: &[u8] = b"\x0f\x10\x10application/grpc";
