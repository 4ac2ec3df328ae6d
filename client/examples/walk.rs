//! A walk through the six modules: cluster, kv, watcher, lease, auth and maintenance. It needs a server on
//! `localhost:2379`, or at the endpoints given, and cleans up after itself.

use kvorum_client::recipes::{mutex::Mutex, session::Session};
use kvorum_client::{Client, Compare, ErrorKind, EventExt, Get, Header, KeyValueExt, Put};

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let mut endpoints: Vec<String> = std::env::args().skip(1).collect();
    if endpoints.is_empty() {
        endpoints.push("localhost:2379".to_owned());
    }
    let client = Client::connect(endpoints).await?;
    cluster(&client).await?;
    // Everything else happens below a prefix of its own.
    let walk = client.in_namespace("kvorum-walk/");
    kv(&walk).await?;
    watcher(&walk).await?;
    lease(&walk).await?;
    auth(&client).await?;
    maintenance(&client).await?;
    walk.delete("").prefix().await?;
    Ok(())
}

async fn cluster(client: &Client) -> Outcome {
    let members = client.cluster().members().await?.members;
    println!("cluster: {} member(s), the first is {}", members.len(), members[0].name);
    Ok(())
}

async fn kv(client: &Client) -> Outcome {
    for (key, value) in [("fruit/apple", "red"), ("fruit/pear", "green"), ("fruit/plum", "blue")] {
        client.put(key, value).await?;
    }
    let last = client.get("fruit/").prefix().descending_by_key().limit(1).await?;
    println!("kv: {} fruits, the last is {}", last.count, last.kvs[0].key_text());
    let outcome = client
        .txn()
        .when([Compare::value("fruit/apple").equals("red")])
        .then((Put::new("fruit/apple", "eaten"), Get::new("fruit/apple")))
        .otherwise(Get::new("fruit/apple"))
        .await?;
    println!(
        "kv: the apple was {} at revision {}",
        if outcome.succeeded { "eaten" } else { "left" },
        outcome.revision()
    );
    let mut pages = client.get("fruit/").prefix().pages(2);
    while let Some(page) = pages.next().await {
        let page = page?;
        println!("kv: a page of {} from {}", page.kvs.len(), page.kvs[0].key_text());
    }
    Ok(())
}

async fn watcher(client: &Client) -> Outcome {
    let mut watch = client.watch("fruit/").prefix().with_previous().await?;
    client.delete("fruit/plum").await?;
    if let Some(response) = watch.next().await {
        let event = response?.events.remove(0);
        let previous = event.prev_kv.as_ref().map(|kv| kv.value_text().into_owned());
        println!("watcher: deleted: {}; it was {previous:?}", event.is_delete());
    }
    Ok(())
}

async fn lease(client: &Client) -> Outcome {
    let session = Session::new(client, 10).await?;
    client.put("here", "I am").with_lease(session.lease()).await?;
    let lock = Mutex::new(&session, "lock").lock().await?;
    println!("lease: {} holds the lock {}", session.lease(), lock.key());
    lock.unlock().await?;
    session.close().await?;
    println!("lease: what was attached is gone: {}", client.get("here").await?.kvs.is_empty());
    Ok(())
}

async fn auth(client: &Client) -> Outcome {
    match client.auth().status().await {
        Ok(status) => println!("auth: {}", if status.enabled { "on" } else { "off" }),
        Err(error) if error.kind() == ErrorKind::Unimplemented => println!("auth: this server has none"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn maintenance(client: &Client) -> Outcome {
    for endpoint in client.endpoints() {
        let status = client.maintenance().at(&endpoint).status().await?;
        println!("maintenance: {endpoint} runs {} and holds {} bytes", status.version, status.db_size);
    }
    Ok(())
}
