//! `Maintenance.Snapshot`: what comes over the wire, and that nothing stays when the client leaves.

use kvorum_disk::RealFileSystem;
use kvorum_disk::bolt::{BoltFile, snapshot};

use super::*;

const BLOB_BYTES: usize = 32 * 1024;

async fn begin(client: &Client) -> tonic::Streaming<pb::SnapshotResponse> {
    client.maintenance().snapshot(pb::SnapshotRequest {}).await.expect("a snapshot begins").into_inner()
}

/// Copies of the database that this process has open: files without a name in the member's folder.
fn open_copies(folder: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").expect("a process has files");
    let targets = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
    let snapshots = folder.join("member/snap").canonicalize().expect("the folder is there");
    targets.filter(|target| target.starts_with(&snapshots)).count()
}

#[test]
fn a_snapshot_is_blobs_and_then_their_digest() {
    run(async {
        let folder = folder();
        let Half { client, member } = start_with(&config(folder.path()));
        for number in 0..40 {
            client.put(&format!("key-{number:02}"), &"v".repeat(number * 500)).await;
        }
        let revision = client.put("last", "one").await;
        let mut stream = begin(&client).await;
        let mut contents = Vec::new();
        let mut remaining = None;
        let mut last = pb::SnapshotResponse::default();
        while let Some(response) = stream.message().await.expect("the stream ends well") {
            if !contents.is_empty() && last.remaining_bytes > 0 {
                assert_eq!(last.blob.len(), BLOB_BYTES);
            }
            contents.extend_from_slice(&response.blob);
            assert_eq!(response.version, "3.7.0");
            assert!(response.header.is_none());
            if let Some(before) = remaining {
                let taken = if before == 0 { 0 } else { response.blob.len() as u64 };
                assert_eq!(response.remaining_bytes, before - taken);
            }
            remaining = Some(response.remaining_bytes);
            last = response;
        }
        assert_eq!((last.remaining_bytes, last.blob.len()), (0, snapshot::DIGEST_BYTES));
        let saved = folder.path().join("saved.db");
        std::fs::write(&saved, contents).expect("it can be saved");
        snapshot::verify_digest(&RealFileSystem, &saved).expect("the digest is that of the blobs");
        let file = BoltFile::open(&RealFileSystem, &saved).expect("a database");
        let status = snapshot::status(&file).expect("a whole database");
        assert_eq!((status.revision, status.total_keys), (revision, 41), "with the newest change");
        eventually(|| open_copies(folder.path()) == 0).await;
        stop(member);
    });
}

#[test]
fn a_client_that_leaves_leaves_nothing_behind() {
    run(async {
        let folder = folder();
        let Half { client, member } = start_with(&config(folder.path()));
        // More than the windows and queues between disk and client hold.
        for number in 0..30 {
            client.put(&format!("key-{number}"), &"v".repeat(1_000_000)).await;
        }
        // More than can run at once: each that leaves makes place for another.
        for _ in 0..6 {
            let mut stream = begin(&client).await;
            let first = stream.message().await.expect("a message").expect("not the end");
            assert!(first.remaining_bytes > 0);
            assert!(open_copies(folder.path()) > 0);
        }
        eventually(|| open_copies(folder.path()) == 0).await;
        let names = std::fs::read_dir(folder.path().join("member/snap")).expect("the folder is there");
        assert_eq!(names.count(), 0);
        // And one that is under way at a stop is told so.
        let mut stream = begin(&client).await;
        stream.message().await.expect("a message");
        stop(member);
        let ended = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it cannot have ended well"),
                Err(status) => break status,
            }
        };
        assert_eq!(ended.code(), tonic::Code::Unavailable, "{ended}");
    });
}
