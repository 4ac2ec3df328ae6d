//! Not a test: prints how fast the hub is. `cargo test --release -p kvorum-server speed -- --ignored --nocapture`

use std::time::Instant;

use kvorum_api::etcdserverpb::WatchCreateRequest;

use super::super::WatchConfig;
use super::world::*;

fn report(what: &str, count: usize, began: Instant) {
    let took = began.elapsed();
    println!("{what}: {count} in {took:?}, {:.0}/s", count as f64 / took.as_secs_f64());
}

/// Takes chunks, without decoding them, until this many bytes came.
async fn swallow(client: &mut Client, messages_bytes: usize) {
    let mut seen = 0;
    while seen < messages_bytes {
        let receiver = client.receiver.as_mut().expect("open");
        let bytes = std::future::poll_fn(|context| receiver.poll_next(context)).await.expect("open");
        seen += bytes.len();
    }
}

/// Decodes one response and returns its frame's size; responses of equal events are then counted by it.
async fn frame_bytes(client: &mut Client) -> usize {
    use kvorum_api::prost::Message;
    client.next().await.encoded_len() + 5
}

#[test]
#[ignore = "prints speeds"]
fn speed() {
    let value = "v".repeat(256);
    run(|| async {
        let world = World::new(WatchConfig::default());
        let mut client = world.client();
        for _ in 0..1000 {
            client.watched(create("same")).await;
        }
        world.put("same", &value);
        let mut bytes = 0;
        for _ in 0..1000 {
            bytes += frame_bytes(&mut client).await;
        }
        let began = Instant::now();
        for _ in 0..1000 {
            world.put("same", &value);
            swallow(&mut client, bytes).await;
        }
        report("1000 watchers on one key, events", 1_000_000, began);
    });
    run(|| async {
        let world = World::new(WatchConfig::default());
        let mut client = world.client();
        let began = Instant::now();
        for index in 0..100_000 {
            client.watch(create(&format!("key/{index:06}")));
        }
        for _ in 0..100_000 {
            client.next().await;
        }
        report("watches created", 100_000, began);
        let began = Instant::now();
        for index in 0..100_000 {
            world.put(&format!("key/{index:06}"), &value);
            swallow(&mut client, 1).await;
        }
        report("100 000 watchers of one key each, events", 100_000, began);
    });
    run(|| async {
        let world = World::new(WatchConfig::default());
        for _ in 0..500_000 {
            world.put("same", &value);
        }
        let mut client = world.client();
        client.watched(WatchCreateRequest { start_revision: 2, ..create("same") }).await;
        let began = Instant::now();
        swallow(&mut client, 500_000 * 256).await;
        report("history, revisions", 500_000, began);
    });
}
