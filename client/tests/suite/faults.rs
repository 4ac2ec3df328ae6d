//! What the client does when the network is bad: nothing hangs, nothing is executed twice, and it finds back by itself.

use std::time::Duration;

use kvorum_client::{Client, Code, Compare, Config, ErrorKind, EventExt, Header, Put, Watch};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::world::{Mode, Proxy, World, address, soon, tests_on};

tests_on!(crate::world::CURRENT =>
    a_write_whose_answer_is_lost_is_not_repeated,
    a_transaction_whose_answer_is_lost_is_not_repeated,
    a_read_whose_answer_is_lost_is_repeated,
    a_write_that_was_never_sent_is_sent_later,
    at_least_once_is_repeated_when_asked,
    a_silent_endpoint_is_left,
    a_silent_endpoint_does_not_hide_the_version,
    a_write_into_silence_ends_in_time,
    a_watch_leaves_a_silent_endpoint,
    dropped_calls_disturb_nobody,
    restarts,
    endpoints_are_learned,
    closed_connections_are_made_again,
);

const SHORT: Duration = Duration::from_millis(700);

#[tokio::test]
async fn connecting_fails_in_time() {
    // Nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // Connections are accepted by the system, and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_address = silent.local_addr().unwrap();
    for endpoints in
        [vec![free.to_string()], vec![silent_address.to_string()], vec![free.to_string(), silent_address.to_string()]]
    {
        let began = Instant::now();
        let error = Client::connect_with(Config::new(&endpoints).dial_timeout(SHORT)).await.err().unwrap();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert!(began.elapsed() >= SHORT && began.elapsed() < SHORT * 5, "{:?}", began.elapsed());
        assert!(endpoints.iter().all(|endpoint| error.text().contains(endpoint)), "{error}");
        assert!(!error.maybe_applied());
    }
    // A lazy client fails by its calls, and in time too.
    let lazy = Client::lazy(Config::new([free.to_string()]).request_timeout(SHORT)).unwrap();
    let error = lazy.put("a", "1").await.unwrap_err();
    assert!(error.code() == Code::DeadlineExceeded && error.is_safe_to_retry(), "{error:?}");
    for bad in ["", "ftp://a:1"] {
        assert_eq!(Client::connect([bad]).await.err().unwrap().kind(), ErrorKind::Configuration);
    }
    assert_eq!(Client::connect(Vec::<String>::new()).await.err().unwrap().kind(), ErrorKind::Configuration);
}

/// Waits until a key was written, as seen from elsewhere.
async fn written(watch: &mut Watch) {
    while watch.next().await.unwrap().unwrap().events.is_empty() {}
}

/// The finding of Jepsen on jetcd: a client that repeats a write whose answer was lost undoes what others wrote since.
async fn a_write_whose_answer_is_lost_is_not_repeated(world: World) {
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    let mut watch = direct.watch("a").await.unwrap();
    world.proxy.set(Mode::SwallowAnswers);
    let writer = world.client.clone();
    let writing = tokio::spawn(async move { writer.put("a", "first").await });
    written(&mut watch).await;
    direct.put("a", "second").await.unwrap();
    world.proxy.cut_once();
    let error = writing.await.unwrap().unwrap_err();
    assert!(error.maybe_applied() && !error.is_safe_to_retry() && error.is_transient(), "{error:?}");
    let now = world.client.get("a").await.unwrap().kvs.remove(0);
    assert_eq!((now.value.as_ref(), now.version), (&b"second"[..], 2), "the update in between was lost");
}

async fn a_transaction_whose_answer_is_lost_is_not_repeated(world: World) {
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    let mut watch = direct.watch("a").await.unwrap();
    world.proxy.set(Mode::SwallowAnswers);
    let writer = world.client.clone();
    let writing = tokio::spawn(async move {
        writer.txn().when([Compare::is_missing("a")]).then(Put::new("a", "1")).otherwise(Put::new("lost", "1")).await
    });
    written(&mut watch).await;
    world.proxy.cut_once();
    assert!(writing.await.unwrap().unwrap_err().maybe_applied());
    // Repeated, it would have found its own write and done something else.
    assert!(world.client.get("lost").await.unwrap().kvs.is_empty());
}

async fn a_read_whose_answer_is_lost_is_repeated(world: World) {
    world.client.put("a", "1").await.unwrap();
    world.proxy.set(Mode::SwallowAnswers);
    let client = world.client.clone();
    let reading = tokio::spawn(async move { client.get("a").await });
    // The proxy has the request once the client's next connection is refused: nothing to wait for but the error itself.
    tokio::task::yield_now().await;
    world.proxy.cut_once();
    assert_eq!(reading.await.unwrap().unwrap().kvs[0].value, "1");
}

async fn a_write_that_was_never_sent_is_sent_later(world: World) {
    world.client.put("other", "").await.unwrap();
    world.proxy.set(Mode::Cut);
    // The client knows that the connection is gone once a read fails.
    let error = world.client.with_timeout(SHORT).get("a").await.unwrap_err();
    assert!(error.is_transient());
    let client = world.client.clone();
    let mut writing = tokio::spawn(async move { client.put("a", "1").await });
    assert!(tokio::time::timeout(SHORT, &mut writing).await.is_err(), "nobody could answer");
    world.proxy.set(Mode::Pass);
    writing.await.unwrap().unwrap();
    assert_eq!(world.client.get("a").await.unwrap().kvs[0].version, 1);
}

async fn at_least_once_is_repeated_when_asked(world: World) {
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    let mut watch = direct.watch("a").await.unwrap();
    world.proxy.set(Mode::SwallowAnswers);
    let client = world.client.clone();
    let writing = tokio::spawn(async move { client.put("a", "1").at_least_once().await });
    written(&mut watch).await;
    world.proxy.cut_once();
    writing.await.unwrap().unwrap();
    assert_eq!(direct.get("a").await.unwrap().kvs[0].version, 2);
}

/// The time until another member is asked is far below that of a call, and no write goes to the silent one meanwhile.
async fn a_silent_endpoint_is_left(world: World) {
    let other = Proxy::start(address(&world.direct_url())).await;
    let config = Config::new([world.proxy.url(), other.url()]).request_timeout(Duration::from_secs(20));
    let client = Client::connect_with(config).await.unwrap();
    // Both are connected once calls in turn have gone to both.
    for endpoint in client.endpoints() {
        client.maintenance().at(&endpoint).status().await.unwrap();
    }
    client.put("a", "1").await.unwrap();
    world.proxy.set(Mode::Swallow);
    let began = Instant::now();
    for _ in 0..4 {
        client.get("a").await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for _ in 0..6 {
        client.put("a", "2").await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    // It is asked again once it says something.
    other.set(Mode::Cut);
    world.proxy.set(Mode::Pass);
    soon(async { while client.put("a", "3").await.is_err() {} }).await;
}

/// Of the versions one is enough, and the others are not waited for.
async fn a_silent_endpoint_does_not_hide_the_version(world: World) {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = [silent.local_addr().unwrap().to_string(), world.direct_url()];
    let config = Config::new(endpoints).dial_timeout(crate::world::LONG).reject_old_cluster();
    soon(Client::connect_with(config)).await.unwrap();
}

/// A write that fell into the hole ends in time, in doubt, and the connection is left for good.
async fn a_write_into_silence_ends_in_time(world: World) {
    let client = world.client.with_timeout(SHORT);
    client.put("a", "1").await.unwrap();
    world.proxy.set(Mode::Swallow);
    let began = Instant::now();
    assert!(client.put("a", "2").await.unwrap_err().maybe_applied());
    assert!(began.elapsed() < SHORT * 5, "{:?}", began.elapsed());
    world.proxy.set(Mode::Pass);
    world.client.put("a", "3").await.unwrap();
}

async fn a_watch_leaves_a_silent_endpoint(world: World) {
    let other = Proxy::start(address(&world.direct_url())).await;
    other.set(Mode::Cut);
    let endpoints = [world.proxy.url(), other.url()];
    let config = Config::new(endpoints).keepalive(Duration::from_secs(5), Duration::from_secs(1));
    let client = Client::connect_with(config).await.unwrap();
    let direct = Client::connect([world.direct_url()]).await.unwrap();
    let mut watch = client.watch("a").await.unwrap();
    world.proxy.set(Mode::Swallow);
    other.set(Mode::Pass);
    let revision = direct.put("a", "1").await.unwrap().revision();
    // Nobody calls anything: the pings alone find out.
    let response = watch.next().await.unwrap().unwrap();
    assert_eq!(response.events[0].revision(), revision);
}

async fn dropped_calls_disturb_nobody(world: World) {
    let client = &world.client;
    let mut watch = client.watch("a").await.unwrap();
    let guard = client.lease().hold(2).await.unwrap();
    for round in 0..100_u64 {
        let call = client.put("a", "dropped").into_future();
        drop(tokio::time::timeout(Duration::from_micros(round * 20), call).await);
        let read = client.get("a").into_future();
        drop(tokio::time::timeout(Duration::from_micros(round * 10), read).await);
    }
    let revision = client.put("a", "last").await.unwrap().revision();
    loop {
        let response = watch.next().await.unwrap().unwrap();
        if response.events.iter().any(|event| event.revision() == revision) {
            break;
        }
    }
    assert!(!guard.is_lost());
}

async fn restarts(mut world: World) {
    let client = world.client.clone();
    client.put("a", "0").await.unwrap();
    for round in 1..3 {
        world.stop();
        let error = client.with_timeout(SHORT).put("a", "lost").await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        world.start_again();
        // One call, no care: it waits for the connection by itself.
        client.with_timeout(crate::world::LONG).put("a", round.to_string()).await.unwrap();
        assert_eq!(client.get("a").await.unwrap().kvs[0].value, round.to_string());
    }
}

async fn endpoints_are_learned(world: World) {
    let config = world.config().auto_sync(Duration::from_millis(50));
    let client = Client::connect_with(config).await.unwrap();
    let direct = client.cluster().members().await.unwrap().members.remove(0).client_urls;
    soon(async {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while client.endpoints() != direct {
            look.tick().await;
        }
    })
    .await;
    world.proxy.set(Mode::Cut);
    client.put("a", "1").await.unwrap();
}

async fn closed_connections_are_made_again(world: World) {
    for _ in 0..10 {
        world.proxy.cut_once();
        world.client.get("a").await.unwrap();
    }
}
