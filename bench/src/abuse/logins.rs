//! Logins with wrong passwords, as fast as they are answered, some hundreds of them under way all the time.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::{JoinSet, LocalSet};

use super::attacks::{Assault, PAUSE};
use crate::cases::auth;
use crate::streams::Channel;
use crate::wire;

/// The well-behaved client's, who has logged in before.
pub const USER: &str = "app";
const CONNECTIONS: usize = 8;
/// On each connection.
const UNDER_WAY: usize = 50;
/// A login that waits for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn flood(assault: &Assault) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the machine can start a runtime");
    let body = wire::frame(&auth::login(USER, "incorrect"));
    LocalSet::new().block_on(&runtime, async {
        let mut connections = JoinSet::new();
        for _ in 0..CONNECTIONS {
            connections.spawn_local(connection(assault.clone(), body.clone()));
        }
        while assault.goes_on() {
            tokio::time::sleep(PAUSE).await;
        }
    });
}

/// Logs in and in again, on one connection after the other.
async fn connection(assault: Assault, body: Bytes) {
    loop {
        if let Ok(channel) = Channel::open(assault.address).await {
            let mut logins = JoinSet::new();
            for _ in 0..UNDER_WAY {
                logins.spawn_local(log_in(assault.clone(), channel.clone(), body.clone()));
            }
            // The first that ends does so because the connection did.
            logins.join_next().await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn log_in(assault: Assault, channel: Channel, body: Bytes) {
    loop {
        match tokio::time::timeout(PATIENCE, channel.call(auth::AUTHENTICATE, body.clone())).await {
            Ok(Err(text)) if !(text.contains("authentication failed") || text.contains("too many requests")) => return,
            Ok(_) | Err(_) => assault.count(1),
        }
    }
}
