//! `Maintenance.Defragment`: the file gets smaller while clients work, and nothing else changes.

use super::*;

const KEYS: usize = 40;

async fn fill(client: &Client) -> i64 {
    let value = "v".repeat(20_000);
    let mut revision = 0;
    for number in 0..400 {
        revision = client.put(&format!("key-{:02}", number % KEYS), &value).await;
    }
    revision
}

async fn defragment(client: Client) -> pb::DefragmentResponse {
    client.maintenance().defragment(pb::DefragmentRequest {}).await.expect("a defragmentation").into_inner()
}

#[test]
fn the_file_gets_smaller_while_clients_work() {
    run(async {
        let folder = folder();
        let config = config(folder.path());
        let Half { client, member } = start_with(&config);
        let lease = client.grant(1_000).await;
        client.try_put(leased("leased", lease)).await.expect("a put succeeds");
        let revision = fill(&client).await;
        client.compact(revision, true).await.expect("a compaction succeeds");
        // The hash at a revision that was compacted to is the one from before.
        let revision = client.put("behind", "x").await;
        let before = client.status().await;
        assert!(before.db_size > 8_000_000 && before.db_size_in_use < 2_000_000, "{before:?}");
        let mut watch = client.watch(pb::WatchCreateRequest { start_revision: revision, ..watch_all() }).await;
        let fingerprint = client.fingerprint().await;

        // Two at once share the work; puts go on meanwhile.
        let both = tokio::spawn(futures_util::future::join(defragment(client.clone()), defragment(client.clone())));
        let mut puts: u32 = 0;
        while !both.is_finished() || puts < 20 {
            client.put(&format!("meanwhile-{puts}"), "x").await;
            puts += 1;
        }
        let (first, second) = both.await.expect("both end");
        assert_eq!((first.header, second.header), (None, None));
        let after = client.status().await;
        assert!(after.db_size < 3_000_000 && after.db_size >= after.db_size_in_use, "{after:?}");
        let (_, _, metrics) = raw::http1(&client.address, "GET", "/metrics").await;
        assert!(metrics.contains("\netcd_disk_backend_defrag_duration_seconds_count 1\n"), "one shrink");
        assert!(metrics.contains("\netcd_disk_defrag_inflight 0\n"));

        let now = client.fingerprint().await;
        assert_eq!((now.revision, now.leases), (fingerprint.revision + i64::from(puts), fingerprint.leases));
        let hash = pb::HashKvRequest { revision: fingerprint.revision };
        let hashed = client.maintenance().hash_kv(hash).await.expect("a hash").into_inner();
        assert_eq!((hashed.hash, hashed.compact_revision), (fingerprint.hash, fingerprint.compact_revision));
        let mut seen = 0;
        while seen < puts + 1 {
            seen += u32::try_from(watch.events().await.len()).expect("few");
        }
        assert_eq!(client.time_to_live(lease).await.keys.len(), 1);
        stop(member);
        let Half { client, member } = start_with(&config);
        assert_eq!(client.fingerprint().await, now);
        assert_eq!(client.get("meanwhile-19").await.as_deref(), Some("x"));
        defragment(client).await;
        stop(member);
    });
}

#[test]
fn a_stop_ends_a_shrink() {
    run(async {
        let folder = folder();
        let config = config(folder.path());
        let Half { client, member } = start_with(&config);
        fill(&client).await;
        let before = client.fingerprint().await;
        let shrink = tokio::spawn({
            let client = client.clone();
            async move { client.maintenance().defragment(pb::DefragmentRequest {}).await.is_ok() }
        });
        // It is begun when its folder is there; whether it ends before the stop does not matter.
        let backend = folder.path().join("member");
        let is_begun = || {
            let names = std::fs::read_dir(&backend).expect("the folder is there");
            names.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("backend."))
        };
        eventually(is_begun).await;
        stop(member);
        drop(shrink.await);
        let Half { client, member } = start_with(&config);
        assert_eq!(client.fingerprint().await, before);
        stop(member);
    });
}

#[test]
fn a_start_shrinks_what_has_enough_to_free() {
    run(async {
        let folder = folder();
        let at = |bootstrap_defrag_threshold_megabytes| Config {
            bootstrap_defrag_threshold_megabytes,
            ..config(folder.path())
        };
        let Half { client, member } = start_with(&at(0));
        let revision = fill(&client).await;
        client.compact(revision, true).await.expect("a compaction succeeds");
        let (large, fingerprint) = (client.status().await.db_size, client.fingerprint().await);
        stop(member);
        for (threshold, is_shrunk) in [(0, false), (1_000, false), (1, true)] {
            let Half { client, member } = start_with(&at(threshold));
            let size = client.status().await.db_size;
            assert!(if is_shrunk { size < large / 2 } else { size >= large }, "{threshold}: {large} to {size}");
            assert_eq!(client.fingerprint().await, fingerprint);
            stop(member);
        }
        let Half { client, member } = start_with(&at(1));
        client.put("again", "x").await;
        stop(member);
    });
}
