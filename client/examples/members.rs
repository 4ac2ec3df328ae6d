//! Connects to `localhost:2379`, or to the endpoints given, and prints the members.

use std::time::Duration;

use kvorum_client::{Client, Config, Header, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut endpoints: Vec<String> = std::env::args().skip(1).collect();
    if endpoints.is_empty() {
        endpoints.push("localhost:2379".to_owned());
    }
    let client = Client::connect_with(Config::new(endpoints).dial_timeout(Duration::from_secs(5))).await?;
    let list = client.cluster().members().await?;
    let header = list.header();
    println!(
        "cluster {:x}, answered by member {:x} in raft term {}",
        header.cluster_id, header.member_id, header.raft_term
    );
    for member in &list.members {
        let name = if member.name.is_empty() { "(not started)" } else { &member.name };
        let kind = if member.is_learner { ", learner" } else { "" };
        println!("{:x} {name}{kind}", member.id);
        println!("    peers reach it at {}", member.peer_urls.join(", "));
        println!("    clients reach it at {}", member.client_urls.join(", "));
    }
    Ok(())
}
