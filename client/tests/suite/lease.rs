//! Leases: granted, kept alive on one stream, lost once with a reason.

use std::time::Duration;

use kvorum_client::{Client, EtcdError, EventExt, Lease, LeaseEnd, LeaseId};
use tokio::time::Instant;

use crate::world::{Mode, World, tests_on};

tests_on!(crate::world::EVERY =>
    grant_and_revoke,
    keep_alive_once,
    is_kept_alive_over_its_time,
    survives_cuts,
    revoked_by_somebody_else,
    expires_when_cut_off,
    guards,
    ten_thousand_leases,
    several_keep_one_alive,
);

async fn grant_and_revoke(world: World) {
    let client = &world.client;
    let granted = client.lease().grant(100).await.unwrap();
    assert_eq!(granted.ttl, 100);
    let chosen = client.lease().grant(100).with_id(77).await.unwrap();
    assert_eq!(chosen.id, 77);
    assert!(client.lease().grant(100).with_id(77).await.unwrap_err().is(EtcdError::LeaseExist));
    client.put("a", "1").with_lease(77).await.unwrap();
    let left = client.lease().time_to_live(77).with_keys().await.unwrap();
    assert!(left.granted_ttl == 100 && left.ttl > 0 && left.keys == ["a"]);
    assert_eq!(client.lease().leases().await.unwrap().leases.len(), 2);
    client.lease().revoke(77).await.unwrap();
    assert!(client.get("a").await.unwrap().kvs.is_empty());
    assert_eq!(client.lease().time_to_live(77).await.unwrap().ttl, -1);
    assert!(client.lease().revoke(77).await.unwrap_err().is(EtcdError::LeaseNotFound));
    let error = client.put("a", "1").with_lease(77).await.unwrap_err();
    assert!(error.is(EtcdError::LeaseNotFound), "{error:?}");
    assert_eq!(LeaseId(255).to_string(), "ff");
}

async fn keep_alive_once(world: World) {
    let client = &world.client;
    let granted = client.lease().grant(50).await.unwrap();
    assert_eq!(client.lease().keep_alive_once(granted.id).await.unwrap().ttl, 50);
    assert!(client.lease().keep_alive_once(4711).await.unwrap_err().is(EtcdError::LeaseNotFound));
}

async fn is_kept_alive_over_its_time(world: World) {
    let client = &world.client;
    let granted = client.lease().grant(1).await.unwrap();
    // A server with long election timeouts gives it longer.
    let twice = Duration::from_secs(2 * u64::try_from(granted.ttl).unwrap());
    let began = Instant::now();
    let mut keep_alive = client.lease().keep_alive(granted.id);
    // Each answer is asked for when a third of the time is over.
    while began.elapsed() < twice {
        let answer = keep_alive.next().await.unwrap().unwrap();
        assert_eq!(answer.id, granted.id);
    }
    assert!(client.lease().time_to_live(granted.id).await.unwrap().ttl >= 0);
}

async fn survives_cuts(world: World) {
    let client = &world.client;
    let granted = client.lease().grant(3).await.unwrap();
    let mut keep_alive = client.lease().keep_alive(granted.id);
    for _ in 0..3 {
        keep_alive.next().await.unwrap().unwrap();
        world.proxy.cut_once();
    }
    keep_alive.next().await.unwrap().unwrap();
}

async fn revoked_by_somebody_else(world: World) {
    let client = &world.client;
    let granted = client.lease().grant(3).await.unwrap();
    let mut keep_alive = client.lease().keep_alive(granted.id);
    keep_alive.next().await.unwrap().unwrap();
    client.lease().revoke(granted.id).await.unwrap();
    let end = loop {
        match keep_alive.next().await.unwrap() {
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    assert!(matches!(end, LeaseEnd::NotFound), "{end:?}");
    assert!(keep_alive.next().await.is_none(), "it ends once");
}

async fn expires_when_cut_off(world: World) {
    let client = &world.client;
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    let guard = client.lease().hold(1).await.unwrap();
    client.put("a", "1").with_lease(guard.id()).await.unwrap();
    let mut watch = direct.watch("a").without_puts().await.unwrap();
    world.proxy.set(Mode::Swallow);
    let began = Instant::now();
    let end = guard.lost().await;
    assert!(matches!(end, LeaseEnd::Expired), "{end:?}");
    assert!(guard.is_lost() && began.elapsed() < Duration::from_secs(10));
    // The server agrees in the end, and never before: the client's time began earlier.
    assert!(watch.next().await.unwrap().unwrap().events[0].is_delete());
}

async fn guards(world: World) {
    let client = &world.client;
    let mut watch = client.watch("g/").prefix().without_puts().await.unwrap();
    let revoked = client.lease().hold(60).revoke_on_drop().await.unwrap();
    let left = client.lease().hold(60).with_id(99).await.unwrap();
    client.put("g/revoked", "").with_lease(revoked.id()).await.unwrap();
    client.put("g/left", "").with_lease(left.id()).await.unwrap();
    drop(left);
    drop(revoked);
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].key(), b"g/revoked");
    assert!(client.lease().time_to_live(99).await.unwrap().ttl > 0);
    let asked = client.lease().hold(60).await.unwrap();
    client.put("g/asked", "").with_lease(asked.id()).await.unwrap();
    asked.revoke().await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].key(), b"g/asked");
}

async fn ten_thousand_leases(world: World) {
    const LEASES: usize = 10_000;
    let client = world.client.with_timeout(crate::world::LONG);
    let mut ids = Vec::new();
    while ids.len() < LEASES {
        let grants = (0..500).map(|_| client.lease().grant(600).into_future());
        ids.extend(futures_util::future::try_join_all(grants).await.unwrap().into_iter().map(|granted| granted.id));
    }
    let lease = Lease::new(client.connection());
    let mut all: Vec<_> = ids.iter().map(|&id| lease.keep_alive(id)).collect();
    for keep_alive in &mut all {
        assert_eq!(keep_alive.next().await.unwrap().unwrap().id, keep_alive.id().0);
    }
}

async fn several_keep_one_alive(world: World) {
    let client = &world.client;
    let granted = client.lease().grant(1).await.unwrap();
    let mut one = client.lease().keep_alive(granted.id);
    let mut other = client.lease().keep_alive(granted.id);
    one.next().await.unwrap().unwrap();
    other.next().await.unwrap().unwrap();
    drop(one);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(u64::try_from(granted.ttl).unwrap()) {
        other.next().await.unwrap().unwrap();
    }
}
