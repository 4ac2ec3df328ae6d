//! Lease keepalives: 10 connections with one stream each, every stream renewing 10 leases in turn with 50 renewals under
//! way. A stream's replies come in order, so the latency is that of the oldest renewal.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use kvorum_api::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use prost::Message;
use tokio::task::JoinSet;

use super::Case;
use crate::control::Control;
use crate::load::{self, Tally};
use crate::requests::{LEASE_GRANT, LEASE_KEEP_ALIVE};
use crate::streams::Channel;
use crate::wire;

const CONNECTIONS: usize = 10;
const LEASES_PER_CONNECTION: usize = 10;
const RENEWALS_UNDER_WAY: usize = 50;
const TTL_SECONDS: i64 = 600;

pub const CASE: Case = Case {
    name: "keepalive",
    about: "lease keepalive, 10 connections x 1 stream, 50 under way on each",
    floor: true,
    run: |trial| {
        let server = trial.start()?;
        let address = server.address();
        let control = Arc::new(Control::default());
        let running = load::spawn_thread(&control, move |control, tally| async move {
            let mut tasks = JoinSet::new();
            for _ in 0..CONNECTIONS {
                tasks.spawn_local(renew(address, control.clone(), tally.clone()));
            }
            match tasks.join_next().await {
                Some(ended) => ended.map_err(|error| error.to_string())?,
                None => Ok(()),
            }
        });
        Ok(vec![trial.record(&server, &control, vec![running])?.row(CASE.about, 0)])
    },
};

async fn renew(address: SocketAddr, control: Arc<Control>, tally: Rc<RefCell<Tally>>) -> Result<(), String> {
    let channel = Channel::open(address).await?;
    let mut renewals = Vec::new();
    for _ in 0..LEASES_PER_CONNECTION {
        let request = wire::frame(&LeaseGrantRequest { ttl: TTL_SECONDS, id: 0 });
        let reply = channel.call(LEASE_GRANT, request).await?;
        let id = LeaseGrantResponse::decode(reply).map_err(|error| format!("LeaseGrantResponse: {error}"))?.id;
        renewals.push(wire::frame(&LeaseKeepAliveRequest { id }));
    }
    let mut renewals = renewals.into_iter().cycle();
    let mut stream = channel.duplex(LEASE_KEEP_ALIVE).await?;
    let mut sent = VecDeque::new();
    loop {
        while sent.len() < RENEWALS_UNDER_WAY {
            stream.send(renewals.next().expect("a cycle of leases does not end"))?;
            sent.push_back(Instant::now());
        }
        let reply = stream.next().await?.ok_or("the keepalive stream ended")?;
        let reply = LeaseKeepAliveResponse::decode(reply).map_err(|error| format!("keepalive reply: {error}"))?;
        if reply.ttl <= 0 {
            return Err(format!("lease {} was not found", reply.id));
        }
        let started = sent.pop_front().expect("each reply answers a renewal");
        if control.recording() {
            let mut tally = tally.borrow_mut();
            tally.latency.record(started.elapsed());
            tally.count += 1;
        }
    }
}
