//! Leases: how they run out, how they are kept, and what a restart makes of them.

use std::time::Instant;

use kvorum_api::mvccpb::event::EventType;
use kvorum_server::config::FeatureGates;

use super::*;

fn deleted_keys(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| {
            assert_eq!(event.r#type(), EventType::Delete);
            String::from_utf8(event.kv.as_ref().expect("a key").key.to_vec()).expect("tests put text")
        })
        .collect()
}

#[test]
fn an_expired_lease_takes_its_keys_along_in_one_revision() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&quick_config(folder.path()));
        let lease = client.grant(1).await;
        let asked = Instant::now();
        for key in ["c", "a", "b"] {
            client.try_put(leased(key, lease)).await.expect("a put succeeds");
        }
        let kept = client.put("kept", "1").await;
        let found = client.time_to_live(lease).await;
        assert_eq!((found.granted_ttl, found.keys.len()), (1, 3));
        let mut watch = client.watch(pb::WatchCreateRequest { start_revision: kept + 1, ..watch_all() }).await;
        let events = watch.events().await;
        println!("expired {:?} after the grant", asked.elapsed());
        assert_eq!(deleted_keys(&events), ["a", "b", "c"]);
        let revisions: Vec<i64> = events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)).collect();
        assert_eq!(revisions, [kept + 1; 3]);
        let gone = client.time_to_live(lease).await;
        assert_eq!((gone.granted_ttl, gone.ttl, gone.keys.len()), (0, -1, 0));
        assert_eq!(client.fingerprint().await.leases, 0);
        assert_eq!(client.get("kept").await.as_deref(), Some("1"));
    });
}

#[test]
fn a_lease_lives_at_least_its_ttl_after_the_last_renewal() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&quick_config(folder.path()));
        let lease = client.grant(1).await;
        client.try_put(leased("a", lease)).await.expect("a put succeeds");
        let mut watch = client.watch(watch_all()).await;
        let mut stream = client.keep_alive().await;
        let began = Instant::now();
        let mut asked = began;
        // Long enough that the lease would have run out several times.
        while began.elapsed() < Duration::from_millis(2_500) {
            asked = Instant::now();
            assert_eq!(stream.renew(lease).await, 1);
            let pause = tokio::time::timeout(Duration::from_millis(200), watch.next()).await;
            assert!(pause.is_err(), "it ran out although it was renewed: {pause:?}");
        }
        let events = watch.events().await;
        assert!(asked.elapsed() >= Duration::from_secs(1), "it ran out {:?} after its renewal", asked.elapsed());
        assert_eq!(deleted_keys(&events), ["a"]);
        assert_eq!(stream.renew(lease).await, 0);
    });
}

#[test]
fn a_revocation_ends_renewals_but_not_their_streams() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&quick_config(folder.path()));
        let (lease, other) = (client.grant(100).await, client.grant(200).await);
        client.try_put(leased("a", lease)).await.expect("a put succeeds");
        let (mut one, mut two) = (client.keep_alive().await, client.keep_alive().await);
        assert_eq!((one.renew(lease).await, two.renew(lease).await), (100, 100));
        let request = pb::LeaseRevokeRequest { id: lease };
        client.lease().lease_revoke(request).await.expect("it is revoked");
        assert_eq!((one.renew(lease).await, two.renew(lease).await), (0, 0));
        assert_eq!((one.renew(other).await, two.renew(other).await), (200, 200));
        assert_eq!(client.get("a").await, None);
        let again = client.lease().lease_revoke(request).await.expect_err("it is gone");
        assert_eq!((again.code(), again.message()), (tonic::Code::NotFound, "etcdserver: requested lease not found"));
    });
}

#[test]
fn a_renewal_that_comes_too_late_waits_for_the_revocation() {
    run(async {
        let folder = folder();
        // Ticks are so long that a lease stays expired for a while before it is revoked.
        let config = Config {
            heartbeat_interval: Duration::from_millis(400),
            election_timeout: Duration::from_millis(800),
            ..config(folder.path())
        };
        let Half { client, member: _member } = start_with(&config);
        let lease = client.grant(2).await;
        client.try_put(leased("a", lease)).await.expect("a put succeeds");
        let mut watch = client.watch(watch_all()).await;
        let mut stream = client.keep_alive().await;
        // Renewals asked one after the other keep it; so ask of something else until it ran out.
        while client.time_to_live(lease).await.ttl > 0 {
            drop(tokio::time::timeout(Duration::from_millis(50), watch.next()).await);
        }
        drop(tokio::time::timeout(Duration::from_millis(1_000), watch.next()).await);
        let ttl = stream.renew(lease).await;
        assert!(ttl == 0, "a lease was revived: {ttl}");
        assert_eq!(client.get("a").await, None);
    });
}

#[test]
fn leases_outlive_a_restart() {
    run(async {
        let folder = folder();
        let Half { client, member } = start_with(&quick_config(folder.path()));
        let (short, long) = (client.grant(1).await, client.grant(9_000_000_000).await);
        client.try_put(leased("short", short)).await.expect("a put succeeds");
        client.try_put(leased("long", long)).await.expect("a put succeeds");
        stop(member);
        let began = Instant::now();
        let Half { client, member: _member } = start_with(&quick_config(folder.path()));
        let found = client.time_to_live(long).await;
        assert_eq!((found.granted_ttl, found.keys), (9_000_000_000, vec!["long".into()]));
        assert!(found.ttl > 8_999_999_990, "{}", found.ttl);
        let mut watch = client.watch(pb::WatchCreateRequest { start_revision: 4, ..watch_all() }).await;
        assert_eq!(deleted_keys(&watch.events().await), ["short"]);
        assert!(began.elapsed() >= Duration::from_secs(1), "it ran out {:?} after the restart", began.elapsed());
        let mut stream = client.keep_alive().await;
        assert_eq!(stream.renew(long).await, 9_000_000_000);
    });
}

#[test]
fn odd_leases_get_etcds_answers() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&config(folder.path()));
        let grant = |id, ttl| {
            let mut lease = client.lease();
            async move { lease.lease_grant(pb::LeaseGrantRequest { id, ttl }).await.map(|reply| reply.into_inner()) }
        };
        let refused = |code, text: &str| (code, text.to_owned());
        let failure = |result: Result<pb::LeaseGrantResponse, tonic::Status>| {
            let status = result.expect_err("it is refused");
            (status.code(), status.message().to_owned())
        };
        assert_eq!(
            failure(grant(0, 9_000_000_001).await),
            refused(tonic::Code::OutOfRange, "etcdserver: too large lease TTL")
        );
        assert_eq!(
            failure(grant(0, i64::MAX).await),
            refused(tonic::Code::OutOfRange, "etcdserver: too large lease TTL")
        );
        // Too short ones get the minimum of one and a half election timeouts.
        for ttl in [0, -1, i64::MIN, 1] {
            assert_eq!(grant(0, ttl).await.expect("granted").ttl, 2, "asked for {ttl}");
        }
        assert_eq!(grant(-5, 10).await.expect("granted").id, -5);
        assert_eq!(
            failure(grant(-5, 10).await),
            refused(tonic::Code::FailedPrecondition, "etcdserver: lease already exists")
        );
        let missing = client.try_put(leased("a", 77)).await.expect_err("no such lease");
        assert_eq!(
            (missing.code(), missing.message()),
            (tonic::Code::NotFound, "etcdserver: requested lease not found")
        );
        let mut stream = client.keep_alive().await;
        assert_eq!((stream.renew(77).await, stream.renew(0).await, stream.renew(-5).await), (0, 0, 10));
    });
}

/// More than a second, since checkpoints count in whole seconds.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(1_100);

#[test]
fn checkpoints_survive_a_restart_if_the_gates_say_so() {
    run(async {
        // From cluster version 3.6 on, LeaseCheckpoint alone is enough, as in etcd.
        tokio::join!(
            restart_with_checkpoints(false, false),
            restart_with_checkpoints(true, false),
            restart_with_checkpoints(true, true)
        );
    });
}

async fn restart_with_checkpoints(lease_checkpoint: bool, lease_checkpoint_persist: bool) {
    let folder = folder();
    let config = Config {
        lease_checkpoint_interval: CHECKPOINT_INTERVAL,
        feature_gates: FeatureGates { lease_checkpoint, lease_checkpoint_persist, ..FeatureGates::default() },
        ..quick_config(folder.path())
    };
    let Half { client, member } = start_with(&config);
    let lease = client.grant(100).await;
    let applied = client.applied_index().await;
    // A second lease, of two intervals and more, tells when they are over.
    let clock = client.grant(3).await;
    client.try_put(leased("clock", clock)).await.expect("a put succeeds");
    let mut watch = client.watch(watch_all()).await;
    assert_eq!(deleted_keys(&watch.events().await), ["clock"]);
    // Its grant, put and revocation, and the checkpoints of both.
    let entries = client.applied_index().await - applied;
    assert_eq!(entries > 3, lease_checkpoint, "{entries} entries");
    // Checkpoints do not touch a running timer.
    assert!(client.time_to_live(lease).await.ttl < 97);
    stop(member);
    let began = Instant::now();
    let Half { client, member } = start_with(&config);
    let left = client.time_to_live(lease).await.ttl;
    if lease_checkpoint {
        assert!(left <= 98, "{left}");
    } else {
        assert!(left + whole_seconds(began) >= 100, "{left}");
    }
    // A renewal takes the checkpoint back, for the next start too.
    assert_eq!(client.keep_alive().await.renew(lease).await, 100);
    stop(member);
    let began = Instant::now();
    let Half { client, member: _member } = start_with(&config);
    let left = client.time_to_live(lease).await.ttl;
    assert!(left + whole_seconds(began) >= 100, "{left}");
}

fn whole_seconds(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_secs()).expect("a test is short") + 1
}
