//! Keys, values, transactions, ranges in pieces, members: what every server does.

use kvorum_client::{
    Compare, Delete, ErrorKind, EtcdError, Get, Header, KeyValueExt, Kv, OpResponse, Put, SortBy, Txn, prefix_end,
};

use crate::world::{Kind, World, tests_on};

tests_on!(crate::world::EVERY =>
    gets_and_puts,
    ranges_and_sorting,
    transactions,
    deletions,
    compaction,
    pages,
    streams,
    members,
    sizes,
    namespaces,
);

async fn gets_and_puts(world: World) {
    let client = &world.client;
    assert!(client.get("a").await.unwrap().kvs.is_empty());
    let first = client.put("a", "1").await.unwrap().revision();
    let previous = client.put("a", "2").with_previous().await.unwrap().prev_kv.unwrap();
    assert_eq!((previous.value.as_ref(), previous.mod_revision), (&b"1"[..], first));
    let now = client.get("a").await.unwrap();
    assert_eq!((now.kvs[0].value_text().as_ref(), now.kvs[0].version, now.count), ("2", 2, 1));
    assert_eq!(client.get("a").at_revision(first).await.unwrap().kvs[0].value, "1");
    assert_eq!(client.get("a").serializable().await.unwrap().kvs[0].value, "2");
    let error = client.get("a").at_revision(first + 100).await.unwrap_err();
    assert!(error.is(EtcdError::FutureRev) && !error.maybe_applied() && !error.is_safe_to_retry(), "{error:?}");
    let error = client.put("", "x").await.unwrap_err();
    assert!(error.is(EtcdError::EmptyKey) && !error.maybe_applied(), "{error:?}");
    let error = client.put("none", "").keep_value().await.unwrap_err();
    assert!(error.is(EtcdError::KeyNotFound), "{error:?}");
    assert_eq!(client.put("b", vec![0xff, 0]).await.unwrap().revision(), now.revision() + 1);
    // A module alone is enough.
    let alone = Kv::new(client.connection());
    assert_eq!(alone.get("b").await.unwrap().kvs[0].value, &[0xff, 0][..]);
    assert!(matches!(alone.perform(Get::new("b")).await.unwrap(), OpResponse::Get(_)));
}

async fn ranges_and_sorting(world: World) {
    let client = &world.client;
    for (key, value) in [("a/1", "z"), ("a/2", "y"), ("a/3", "x"), ("b", "w")] {
        client.put(key, value).await.unwrap();
    }
    let keys = async |get: Get<Kv>| -> Vec<String> {
        get.await.unwrap().kvs.iter().map(|kv| kv.key_text().into_owned()).collect()
    };
    assert_eq!(keys(client.get("a/").prefix()).await, ["a/1", "a/2", "a/3"]);
    assert_eq!(keys(client.get("a/2").from_key()).await, ["a/2", "a/3", "b"]);
    assert_eq!(keys(client.get("a/2").to("b")).await, ["a/2", "a/3"]);
    assert_eq!(keys(client.get("").prefix()).await.len(), 4);
    assert_eq!(keys(client.get("a/").to(prefix_end(b"a/")).descending_by(SortBy::Key)).await[0], "a/3");
    assert_eq!(keys(client.get("").prefix().ascending_by(SortBy::Value)).await, ["b", "a/3", "a/2", "a/1"]);
    assert_eq!(keys(client.get("a/").last_by(SortBy::CreateRevision)).await, ["a/3"]);
    assert_eq!(keys(client.get("a/").first_by(SortBy::ModRevision)).await, ["a/1"]);
    let limited = client.get("a/").prefix().limit(2).keys_only().await.unwrap();
    assert!(limited.more && limited.count == 3 && limited.kvs.iter().all(|kv| kv.value.is_empty()));
    let counted = client.get("a/").prefix().count_only().await.unwrap();
    assert!(counted.count == 3 && counted.kvs.is_empty());
}

async fn transactions(world: World) {
    let client = &world.client;
    let outcome = client
        .txn()
        .when([Compare::is_missing("k"), Compare::version("other").equals(0)])
        .then((Put::new("k", "1"), Get::new("k")))
        .otherwise(Get::new("k"))
        .await
        .unwrap();
    assert!(outcome.succeeded);
    let get = outcome.responses.into_iter().nth(1).and_then(OpResponse::into_get).unwrap();
    assert_eq!(get.kvs[0].value, "1");
    let revision = get.kvs[0].mod_revision;

    // Nested, and by every kind of compare.
    let inner = Txn::new()
        .when([Compare::value("k").equals("2")])
        .then(Put::new("inner", "then"))
        .otherwise([Put::new("inner", "otherwise")]);
    let outcome = client
        .txn()
        .when([
            Compare::mod_revision("k").equals(revision),
            Compare::create_revision("k").less_than(revision + 1),
            Compare::version("k").greater_than(0),
            Compare::value("k").differs_from("2"),
            Compare::lease("k").is_lease(0),
            Compare::version("nothing/").less_than(1).prefix(),
        ])
        .then((inner, Delete::new("k").with_previous()))
        .await
        .unwrap();
    assert!(outcome.succeeded);
    let mut responses = outcome.responses.into_iter();
    let inner = responses.next().and_then(OpResponse::into_txn).unwrap();
    assert!(!inner.succeeded);
    let deleted = responses.next().and_then(OpResponse::into_delete).unwrap();
    assert_eq!((deleted.deleted, deleted.prev_kvs[0].value.as_ref()), (1, &b"1"[..]));
    assert_eq!(client.get("inner").await.unwrap().kvs[0].value, "otherwise");
    assert!(!client.txn().when([Compare::exists("k")]).await.unwrap().succeeded);
    let error = client.txn().then((Put::new("x", "1"), Put::new("x", "2"))).await.unwrap_err();
    assert!(error.is(EtcdError::DuplicateKey) && !error.maybe_applied());
}

async fn deletions(world: World) {
    let client = &world.client;
    for key in ["a/1", "a/2", "b"] {
        client.put(key, key).await.unwrap();
    }
    let deleted = client.delete("a/").prefix().with_previous().await.unwrap();
    assert_eq!((deleted.deleted, deleted.prev_kvs.len()), (2, 2));
    assert_eq!(client.delete("a/").prefix().await.unwrap().deleted, 0);
    assert_eq!(client.delete("").from_key().at_least_once().await.unwrap().deleted, 1);
}

async fn compaction(world: World) {
    let client = &world.client;
    let first = client.put("a", "1").await.unwrap().revision();
    let second = client.put("a", "2").await.unwrap().revision();
    client.compact(second).physical().await.unwrap();
    let error = client.get("a").at_revision(first).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Etcd(EtcdError::Compacted));
    assert!(client.compact(first).await.unwrap_err().is(EtcdError::Compacted));
    assert!(client.compact(second + 100).await.unwrap_err().is(EtcdError::FutureRev));
}

async fn pages(world: World) {
    let client = &world.client;
    for number in 0..25 {
        client.put(format!("k{number:02}"), "").await.unwrap();
    }
    let mut pages = client.get("k").prefix().pages(10);
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await {
        sizes.push(page.unwrap().kvs.len());
        // What is written meanwhile, before and behind, is not seen.
        client.put("k99", "").await.unwrap();
        client.delete("k24").await.unwrap();
    }
    assert_eq!(sizes, [10, 10, 5]);
    let mut limited = client.get("k").prefix().limit(12).pages(10);
    assert_eq!(limited.next().await.unwrap().unwrap().kvs.len(), 10);
    assert_eq!(limited.next().await.unwrap().unwrap().kvs.len(), 2);
    assert!(limited.next().await.is_none());
    let mut sorted = client.get("k").prefix().descending_by_key().pages(10);
    assert_eq!(sorted.next().await.unwrap().unwrap().kvs.len(), 25);
    assert!(sorted.next().await.is_none());
}

async fn streams(world: World) {
    let client = &world.client;
    let value = vec![b'v'; 10_000];
    for number in 0..300 {
        client.put(format!("k{number:03}"), &value).await.unwrap();
    }
    let written = client.get("k").prefix().count_only().await.unwrap().revision();
    let collect = async |get: Get<Kv>| -> (Vec<_>, Vec<_>) {
        let mut chunks = get.stream();
        let mut all = Vec::new();
        while let Some(chunk) = chunks.next().await {
            all.push(chunk.unwrap());
            // What is written meanwhile is not seen.
            client.put("k999", "").await.unwrap();
        }
        client.delete("k999").await.unwrap();
        (all.iter().flat_map(|chunk| chunk.kvs.clone()).collect(), all)
    };
    for limit in [0, 120] {
        let whole = client.get("k").prefix().limit(limit).await.unwrap();
        let (keys, chunks) = collect(client.get("k").prefix().limit(limit)).await;
        assert_eq!(keys, whole.kvs);
        let last = chunks.last().unwrap();
        assert!(last.revision() >= written, "the last piece has the header");
        assert!(chunks.len() > 1 || world.kind == Kind::Installed);
        if world.kind != Kind::Installed {
            // Real streams: what comes once comes with the last piece.
            assert_eq!((last.count, last.more), (whole.count, whole.more));
            assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk.header.is_none() && chunk.count == 0));
        }
    }
    let (keys, chunks) = collect(client.get("k").prefix().count_only()).await;
    assert!(keys.is_empty() && chunks.len() == 1 && chunks[0].count == 300);
    let (keys, _) = collect(client.get("k").prefix().keys_only().at_revision(written)).await;
    assert!(keys.len() == 300 && keys.iter().all(|kv| kv.value.is_empty()));
    let (keys, _) = collect(client.get("k007")).await;
    assert_eq!(keys[0].value, value);
    let (keys, chunks) = collect(client.get("nothing").prefix()).await;
    assert!(keys.is_empty() && chunks.len() == 1 && chunks[0].revision() > 0);
    // What the call does not do is read in one piece.
    let (keys, chunks) = collect(client.get("k").prefix().descending_by_key()).await;
    assert!(keys[0].key > keys[1].key && chunks.len() == 1);
    let (keys, _) = collect(client.get("k").prefix().min_create_revision(written)).await;
    assert_eq!(keys.len(), 1);
    let mut compacted = client.get("k").prefix().at_revision(1_000_000).stream();
    assert!(compacted.next().await.unwrap().unwrap_err().is(EtcdError::FutureRev));
    assert!(compacted.next().await.is_none());
}

async fn members(world: World) {
    let client = &world.client;
    let list = client.cluster().members().await.unwrap();
    assert_eq!(list.members.len(), 1);
    let header = list.header();
    assert_eq!(header.member_id, list.members[0].id);
    assert!(header.cluster_id != 0 && header.raft_term > 0);
    assert_eq!(client.cluster().members().serializable().await.unwrap().members, list.members);
    client.cluster().sync_endpoints().await.unwrap();
    assert_eq!(client.endpoints(), list.members[0].client_urls);
    client.put("after", "sync").await.unwrap();
}

async fn sizes(world: World) {
    let client = &world.client;
    let error = client.put("k", vec![0; 2 * 1024 * 1024]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(!error.maybe_applied() && error.text().contains("larger than max"), "{error:?}");
    if world.kind != Kind::Installed {
        // 3.4 counts otherwise.
        let error = client.put("k", vec![0; 1_600_000]).await.unwrap_err();
        assert!(error.is(EtcdError::RequestTooLarge), "{error:?}");
    }
    for number in 0..6 {
        client.put(format!("large/{number}"), vec![number; 1_000_000]).await.unwrap();
    }
    // Above 4 MiB, where other clients stop by default.
    let all = client.get("large/").prefix().await.unwrap();
    assert_eq!(all.kvs.iter().map(|kv| kv.value.len()).sum::<usize>(), 6_000_000);
    let small = kvorum_client::Client::connect_with(world.config().max_receive_bytes(100_000)).await.unwrap();
    assert_eq!(small.get("large/").prefix().await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(small.get("large/").prefix().count_only().await.unwrap().count, 6);
}

async fn namespaces(world: World) {
    let client = &world.client;
    let app = client.in_namespace("app/").in_namespace("one/");
    let mut watch = app.watch("").prefix().await.unwrap();
    app.put("x", "1").await.unwrap();
    client.put("app/two/x", "other").await.unwrap();
    assert_eq!(client.get("app/one/x").await.unwrap().kvs[0].value, "1");
    let all = app.get("").prefix().await.unwrap();
    assert_eq!((all.kvs.len(), all.kvs[0].key_text().as_ref()), (1, "x"));
    let outcome =
        app.txn().when([Compare::value("x").equals("1")]).then((Delete::new("x").with_previous(), Get::new("x")));
    let outcome = outcome.await.unwrap();
    assert!(outcome.succeeded);
    let deleted = outcome.responses.into_iter().next().and_then(OpResponse::into_delete).unwrap();
    assert_eq!(deleted.prev_kvs[0].key, "x");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        for event in watch.next().await.unwrap().unwrap().events {
            seen.push(event.kv.unwrap().key);
        }
    }
    assert_eq!(seen, ["x", "x"]);
    let mut pages = app.get("").prefix().pages(1);
    assert!(pages.next().await.unwrap().unwrap().kvs.is_empty());
}

/// The examples, which `cargo test` builds beside the tests, and alone by hand.
#[test]
fn examples() {
    let folder = tempfile::tempdir().unwrap();
    let member = kvorum_server::embed::start(folder.path()).unwrap();
    let url = member.client_url();
    let this = std::env::current_exe().unwrap();
    let examples = this.parent().and_then(std::path::Path::parent).unwrap().join("examples");
    for (name, expected) in [("members", "clients reach it at"), ("walk", "maintenance: ")] {
        let built = examples.join(name);
        let mut example = if built.is_file() {
            std::process::Command::new(built)
        } else {
            let mut cargo = std::process::Command::new(kvorum_interop::tools::cargo());
            cargo.args(["run", "--quiet", "-p", "kvorum-client", "--example", name, "--"]);
            cargo.env("CARGO_TARGET_DIR", kvorum_interop::tools::target_folder());
            cargo
        };
        let output = kvorum_interop::tools::run(example.arg(&url)).unwrap();
        assert!(output.contains(expected), "{output}");
    }
}
