//! Status, hashes, alarms, snapshots, defragmentation and downgrades.

use kvorum_client::response::{AlarmMember, AlarmType};
use kvorum_client::{Client, ErrorKind, EtcdError, Header};

use crate::world::{Kind, World, address, tests_on};

tests_on!(crate::world::EVERY => status_and_hashes, alarms, snapshots, defragmentation, downgrades);

async fn status_and_hashes(world: World) {
    let client = &world.client;
    let revision = client.put("a", "1").await.unwrap().revision();
    let url = world.direct_url();
    let maintenance = client.maintenance().at(&url);
    let status = maintenance.status().await.unwrap();
    assert!(status.version.starts_with("3.") && status.db_size > 0);
    assert_eq!(status.leader, status.header().member_id);
    let hash = maintenance.hash_kv(0).await.unwrap();
    assert_eq!(hash.hash, client.maintenance().hash_kv(revision).await.unwrap().hash);
    maintenance.hash().await.unwrap();
    assert!(maintenance.hash_kv(revision + 10).await.unwrap_err().is(EtcdError::FutureRev));
    // An endpoint by another name, and one that is not there.
    let port = address(&url).port();
    client.maintenance().at(&format!("localhost:{port}")).status().await.unwrap();
    let error = client.with_timeout(std::time::Duration::from_secs(1)).maintenance().at("127.0.0.1:1").status().await;
    assert!(error.unwrap_err().is_transient());
}

async fn alarms(world: World) {
    let client = &world.client;
    assert!(client.maintenance().alarms().await.unwrap().alarms.is_empty());
    let member = client.maintenance().status().await.unwrap().header().member_id;
    client.maintenance().raise_alarm(member, AlarmType::Nospace).await.unwrap();
    let error = client.put("a", "1").await.unwrap_err();
    assert!(error.is(EtcdError::NoSpace) && !error.maybe_applied(), "{error:?}");
    let raised = client.maintenance().alarms().await.unwrap().alarms;
    assert_eq!(raised, [AlarmMember { member_id: member, alarm: AlarmType::Nospace.into() }]);
    client.maintenance().disarm(AlarmMember::default()).await.unwrap();
    assert!(client.maintenance().alarms().await.unwrap().alarms.is_empty());
    client.put("a", "1").await.unwrap();
}

async fn defragmentation(world: World) {
    world.client.put("a", "1").await.unwrap();
    world.client.with_timeout(crate::world::LONG).maintenance().defragment().await.unwrap();
    assert_eq!(world.client.get("a").await.unwrap().kvs[0].value, "1");
}

async fn snapshots(world: World) {
    let client = &world.client;
    for number in 0..20 {
        client.put(format!("k{number}"), vec![number; 100_000]).await.unwrap();
    }
    let storage_version = async || client.maintenance().status().await.unwrap().storage_version;
    let before = storage_version().await;
    let mut snapshot = client.maintenance().snapshot().await.unwrap();
    let mut bytes = 0;
    let mut pieces = 0;
    while let Some(piece) = snapshot.next().await.unwrap() {
        bytes += piece.len();
        pieces += 1;
    }
    assert!(bytes > 2_000_000 && bytes % 512 == 32 && pieces > 1, "{bytes} in {pieces}");
    assert!(snapshot.next().await.unwrap().is_none());
    assert_eq!(snapshot.remaining_bytes(), Some(0));
    if world.kind == Kind::Etcd37 {
        // A young etcd has none yet, of which its status says 3.5.
        let (version, after) = (snapshot.version(), storage_version().await);
        let may_be_young = before == "3.5.0" && version.is_empty();
        assert!(may_be_young || version == before || version == after, "{before}, {version}, {after}");
    }
    // One that is broken off says so.
    let mut snapshot = Client::connect([world.proxy.url()]).await.unwrap().maintenance().snapshot().await.unwrap();
    world.proxy.set(crate::world::Mode::Cut);
    let error = loop {
        match snapshot.next().await {
            Ok(Some(_)) => {}
            // A small one was there already.
            Ok(None) => return,
            Err(error) => break error,
        }
    };
    assert!(error.is_transient(), "{error:?}");
    assert!(snapshot.next().await.unwrap().is_none());
}

async fn downgrades(world: World) {
    let maintenance = world.client.maintenance();
    loop {
        match maintenance.validate_downgrade("3.6").await {
            Ok(answer) => break assert!(answer.version.starts_with("3.7"), "{answer:?}"),
            // A young member serves before its cluster's version is agreed on.
            Err(error) if error.is(EtcdError::ClusterVersionUnavailable) => {}
            Err(error) if world.kind == Kind::Installed => return assert_eq!(error.kind(), ErrorKind::Unimplemented),
            Err(error) => panic!("{error:?}"),
        }
    }
    let error = maintenance.validate_downgrade("3.1").await.unwrap_err();
    assert!(error.is(EtcdError::InvalidDowngradeTargetVersion), "{error:?}");
    maintenance.enable_downgrade("3.6").await.unwrap();
    maintenance.cancel_downgrade().await.unwrap();
}
