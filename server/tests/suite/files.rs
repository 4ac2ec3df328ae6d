//! Snapshots of the log's position: when they are written, what is kept of them, and starting from them; and who may read
//! the files of a member.

use super::*;

fn names(folder: &Path, extension: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    let mut names: Vec<String> = names.filter(|name| name.ends_with(extension)).collect();
    names.sort();
    names
}

#[test]
fn snapshots_are_written_and_old_files_purged() {
    run(async {
        let folder = folder();
        let config = Config { snapshot_count: 50, max_snapshots: 3, max_wals: 2, ..config(folder.path()) };
        let Half { client, member } = start_with(&config);
        let snapshots = folder.path().join("member/snap");
        let mut first_seen = Vec::new();
        // Each round is more entries than the count; the snapshot comes with the next commit of the backend.
        for round in 0..6 {
            for number in 0..60 {
                client.put(&format!("key-{number}"), &round.to_string()).await;
            }
            let newest_before = first_seen.last().cloned();
            eventually(|| names(&snapshots, ".snap").last().cloned() > newest_before).await;
            first_seen = names(&snapshots, ".snap");
        }
        eventually(|| names(&snapshots, ".snap").len() == 3).await;
        // For members of release 3.6, which start from what stands there.
        let newest = names(&snapshots, ".snap").pop().expect("three of them");
        let contents = std::fs::read(snapshots.join(newest)).expect("a snapshot file");
        let contents = String::from_utf8_lossy(&contents);
        assert!(
            contents.contains(r#""/0/members/8e9e05c52164694d/attributes""#) && contents.contains(r#""Value":"3.7.0""#)
        );
        let before = client.fingerprint().await;
        stop(member);
        let (newest, kept) = (names(&snapshots, ".snap").pop(), names(&snapshots, ".snap").len());
        assert!((3..=4).contains(&kept), "{kept} snapshot files");
        let Half { client, member } = start_with(&config);
        assert_eq!(client.fingerprint().await, before);
        assert_eq!(client.get("key-7").await.as_deref(), Some("5"));
        client.put("after", "1").await;
        stop(member);
        assert!(names(&snapshots, ".snap").pop() >= newest);
        assert!(!names(&folder.path().join("member/wal"), ".wal").is_empty());
        let Half { client, member: _member } = start_with(&config);
        assert_eq!(client.get("after").await.as_deref(), Some("1"));
    });
}

/// Segments are cut at 64 MiB; those before the newest snapshot go, down to the number to keep.
#[test]
fn old_segments_of_the_log_are_purged() {
    run(async {
        let folder = folder();
        let config = Config {
            snapshot_count: 5,
            max_wals: 1,
            unsafe_no_fsync: true,
            quota_backend_bytes: None,
            ..config(folder.path())
        };
        let Half { client, member } = start_with(&config);
        let wal = folder.path().join("member/wal");
        let value = "v".repeat(1_500_000);
        for number in 0..100 {
            client.put(&format!("key-{}", number % 3), &value).await;
        }
        let small = "1";
        eventually_after(
            async || {
                client.put("small", small).await;
            },
            || names(&wal, ".wal").len() == 1 && !names(&wal, ".wal")[0].starts_with("0000000000000000-"),
        )
        .await;
        let before = client.fingerprint().await;
        stop(member);
        let Half { client, member: _member } = start_with(&config);
        assert_eq!(client.fingerprint().await, before);
    });
}

/// Everything that the member makes is for its own user alone, however it came to be.
#[test]
fn cve_2020_15113_files_are_private() {
    run(async {
        let parent = folder();
        // A folder that is not there yet, with one above it that is not either.
        let data = parent.path().join("new/data");
        let wal = parent.path().join("new/wal");
        let config = Config { snapshot_count: 5, wal_dir: Some(wal.clone()), ..config(&data) };
        let Half { client, member } = start_with(&config);
        for number in 0..20 {
            client.put(&format!("key-{number}"), "1").await;
        }
        eventually(|| !names(&data.join("member/snap"), ".snap").is_empty()).await;
        client.maintenance().defragment(pb::DefragmentRequest {}).await.expect("a smaller database");
        stop(member);
        let (mut folders, mut files) = (0, 0);
        check_private(&data, &mut folders, &mut files);
        check_private(&wal, &mut folders, &mut files);
        assert!(folders >= 5 && files >= 3, "{folders} folders, {files} files");
    });
}

pub fn check_private(path: &Path, folders: &mut usize, files: &mut usize) {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path).expect("it is there");
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() {
        *files += 1;
        return assert_eq!(mode, 0o600, "{}", path.display());
    }
    *folders += 1;
    assert_eq!(mode, 0o700, "{}", path.display());
    for entry in std::fs::read_dir(path).expect("a folder") {
        check_private(&entry.expect("an entry").path(), folders, files);
    }
}
