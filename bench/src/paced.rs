//! Puts, or reads, at a fixed rate, whatever the server does: an open loop. A closed loop sends nothing while the server stands still,
//! so a stop of 100 ms costs it one slow sample for each stream; here every put that falls due in the stop is late. The rate
//! is far from what any server under measurement can do, so that the latency is the server's and not that of a queue.
//! It never waits for a reply before it sends what is due.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::control::Control;
use crate::load::{self, Tally};
use crate::requests::{self, PUT, RANGE, VALUE_BYTES};
use crate::server::Server;
use crate::streams::Channel;

pub const PUTS_PER_SECOND: u64 = 1000;
const CONNECTIONS: u64 = 10;
const KEYS: u64 = 10_000;
/// Visits all keys: it has no common divisor with their number.
const KEY_STEP: u64 = 7919;
/// A server that is so far behind is not going to catch up: a minute's calls.
const UNDER_WAY_MAX: u64 = 60 * PUTS_PER_SECOND;

/// Puts of 256 bytes over 10,000 keys named `name`, on 10 connections in turn.
pub fn spawn(server: &Server, control: &Arc<Control>, name: &'static str) -> JoinHandle<Result<Tally, String>> {
    let body = move |number| requests::put_body(requests::key(name, number), requests::value(VALUE_BYTES, number));
    spawn_calls(server, control, PUT, body)
}

/// Linearizable reads of one key each, of those that [`spawn`] puts, as often.
pub fn spawn_reads(server: &Server, control: &Arc<Control>, name: &'static str) -> JoinHandle<Result<Tally, String>> {
    spawn_calls(server, control, RANGE, move |number| requests::read_body(requests::key(name, number)))
}

/// Puts of 10,000 of `keys` keys named `name`, spread over all of them.
pub fn spawn_spread_puts(
    server: &Server,
    control: &Arc<Control>,
    name: &'static str,
    keys: u64,
    value_bytes: usize,
) -> JoinHandle<Result<Tally, String>> {
    let body = move |number| {
        let key = requests::key(name, spread(number, keys));
        requests::put_body(key, requests::value(value_bytes, number))
    };
    spawn_calls(server, control, PUT, body)
}

/// Linearizable reads of one key each, of 10,000 keys between those that [`spawn_spread_puts`] puts.
pub fn spawn_spread_reads(
    server: &Server,
    control: &Arc<Control>,
    name: &'static str,
    keys: u64,
) -> JoinHandle<Result<Tally, String>> {
    let between = move |number| (spread(number, keys) + keys / KEYS / 2) % keys;
    spawn_calls(server, control, RANGE, move |number| requests::read_body(requests::key(name, between(number))))
}

fn spread(number: u64, keys: u64) -> u64 {
    number * keys / KEYS % keys
}

fn spawn_calls(
    server: &Server,
    control: &Arc<Control>,
    path: &'static str,
    body: impl Fn(u64) -> Bytes + Send + 'static,
) -> JoinHandle<Result<Tally, String>> {
    let address = server.address();
    load::spawn_thread(control, move |control, tally| async move {
        let bodies: Vec<Bytes> = (0..KEYS).map(body).collect();
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(Channel::open(address).await?);
        }
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / PUTS_PER_SECOND as u32);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut calls, under_way) = (JoinSet::new(), Rc::new(Cell::new(0)));
        for number in 0_u64.. {
            ticks.tick().await;
            while let Some(ended) = calls.try_join_next() {
                ended.map_err(|error| error.to_string())??;
            }
            if under_way.get() >= UNDER_WAY_MAX {
                return Err(format!("{UNDER_WAY_MAX} calls are under way"));
            }
            under_way.set(under_way.get() + 1);
            let channel = channels[(number % CONNECTIONS) as usize].clone();
            let body = bodies[(number * KEY_STEP % KEYS) as usize].clone();
            calls.spawn_local(call(channel, path, body, control.clone(), tally.clone(), under_way.clone()));
        }
        Ok(())
    })
}

async fn call(
    channel: Channel,
    path: &'static str,
    body: Bytes,
    control: Arc<Control>,
    tally: Rc<RefCell<Tally>>,
    under_way: Rc<Cell<u64>>,
) -> Result<(), String> {
    let (started, recording) = (Instant::now(), control.recording());
    channel.call(path, body).await?;
    under_way.set(under_way.get() - 1);
    if recording {
        let mut tally = tally.borrow_mut();
        tally.latency.record(started.elapsed());
        tally.count += 1;
    }
    Ok(())
}
