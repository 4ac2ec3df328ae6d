//! The program of the README, word for word: `cargo xtask check` compares them.

use kvorum_client::{Client, Compare, EventExt, Get, Put};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(["localhost:2379"]).await?; // clone it freely

    let mut watch = client.watch("fruit/").prefix().await?; // goes on over lost connections and new leaders
    client.put("fruit/apple", "red").await?;

    let eaten = client
        .txn()
        .when([Compare::value("fruit/apple").equals("red")])
        .then((Put::new("fruit/apple", "eaten"), Get::new("fruit/").prefix()))
        .await?;
    println!("eaten: {}", eaten.succeeded);

    let lease = client.lease().hold(10).revoke_on_drop().await?; // kept alive while it lives
    client.put("service/a", "10.0.0.1:80").with_lease(lease.id()).await?;

    while let Some(response) = watch.next().await {
        for event in response?.events {
            println!("{} = {:?}", String::from_utf8_lossy(event.key()), event.value());
        }
    }
    Ok(())
}
