//! Takes the crate `etcd-client` through what every program does with it: members, put, get, a transaction, a watch that
//! sees both writes, and a lease that lives while it is kept alive and expires when that stops. Prints each step; the
//! first answer that is not what etcd would give ends it with an error.

use std::error::Error;
use std::time::{Duration, Instant};

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions, LeaseTimeToLiveOptions,
    PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions,
};

type Outcome = Result<(), Box<dyn Error>>;

const LEASE_SECONDS: i64 = 2;
const RENEWALS: usize = 5;
const RENEWAL_INTERVAL: Duration = Duration::from_millis(600);
const STEP: Duration = Duration::from_secs(20);

fn ensure(condition: bool, what: impl std::fmt::Display) -> Outcome {
    if condition {
        println!("ok: {what}");
        return Ok(());
    }
    Err(format!("mismatch: {what}").into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "localhost:2379".to_owned());
    let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(5)).with_timeout(STEP);
    let mut client = Client::connect([endpoint], Some(options)).await?;
    let members = client.member_list().await?;
    ensure(members.members().len() == 1, format!("members {:?}", members.members()))?;
    tokio::time::timeout(STEP, keys_and_watch(&mut client)).await??;
    tokio::time::timeout(STEP, lease(&mut client)).await??;
    println!("all steps passed");
    Ok(())
}

async fn keys_and_watch(client: &mut Client) -> Outcome {
    client.delete("rust/", Some(DeleteOptions::new().with_prefix())).await?;
    let mut watch = client.watch("rust/", Some(WatchOptions::new().with_prefix())).await?;
    let created = watch.message().await?.ok_or("the watch ended")?;
    ensure(created.created() && !created.canceled(), "watch created")?;

    let put = client.put("rust/a", "one", None).await?;
    let revision = put.header().ok_or("no header")?.revision();
    let got = client.get("rust/a", None).await?;
    ensure(
        got.count() == 1 && got.kvs()[0].value() == b"one" && got.kvs()[0].mod_revision() == revision,
        "get after put",
    )?;

    let txn = Txn::new()
        .when([Compare::mod_revision("rust/a", CompareOp::Equal, revision)])
        .and_then([TxnOp::put("rust/a", "two", None), TxnOp::get("rust/a", None)])
        .or_else([TxnOp::get("rust/a", None)]);
    let txn = client.txn(txn).await?;
    let responses = txn.op_responses();
    let seen = match &responses[..] {
        [TxnOpResponse::Put(_), TxnOpResponse::Get(got)] => got.kvs()[0].value() == b"two",
        _ => false,
    };
    ensure(txn.succeeded() && seen, "transaction")?;

    let mut events = Vec::new();
    while events.len() < 2 {
        let response = watch.message().await?.ok_or("the watch ended")?;
        for event in response.events() {
            let kv = event.kv().ok_or("an event without key")?;
            events.push((event.event_type(), kv.value().to_vec(), kv.mod_revision()));
        }
    }
    let wanted = [(EventType::Put, b"one".to_vec(), revision), (EventType::Put, b"two".to_vec(), revision + 1)];
    ensure(events == wanted, "watch saw both writes")?;
    watch.cancel(created.watch_id()).await?;
    let canceled = watch.message().await?.ok_or("the watch ended")?;
    ensure(canceled.canceled(), "watch canceled")?;
    let all = client.get("rust/", Some(GetOptions::new().with_prefix().with_count_only())).await?;
    ensure(all.count() == 1 && all.kvs().is_empty(), "count")
}

async fn lease(client: &mut Client) -> Outcome {
    let granted = client.lease_grant(LEASE_SECONDS, None).await?;
    let put = client.put("rust/leased", "alive", Some(PutOptions::new().with_lease(granted.id()))).await?;
    let revision = put.header().ok_or("no header")?.revision();
    let from = WatchOptions::new().with_start_revision(revision + 1);
    let mut watch = client.watch("rust/leased", Some(from)).await?;

    let (mut keeper, mut answers) = client.lease_keep_alive(granted.id()).await?;
    let mut renewed = Instant::now();
    let mut pace = tokio::time::interval(RENEWAL_INTERVAL);
    for _ in 0..RENEWALS {
        pace.tick().await;
        keeper.keep_alive().await?;
        let answer = answers.message().await?.ok_or("the keepalive ended")?;
        renewed = Instant::now();
        ensure(answer.ttl() == granted.ttl(), "renewal")?;
    }
    let left = client.lease_time_to_live(granted.id(), Some(LeaseTimeToLiveOptions::new().with_keys())).await?;
    ensure(left.granted_ttl() == granted.ttl() && left.keys() == [b"rust/leased".to_vec()], "time to live")?;

    loop {
        let response = watch.message().await?.ok_or("the watch ended")?;
        if let [event] = response.events() {
            ensure(event.event_type() == EventType::Delete, "the key went with its lease")?;
            break;
        }
    }
    ensure(renewed.elapsed() >= Duration::from_secs(LEASE_SECONDS as u64), "not before the lease's time")?;
    let gone = client.lease_time_to_live(granted.id(), None).await?;
    ensure(gone.ttl() == -1, "the lease is gone")
}
