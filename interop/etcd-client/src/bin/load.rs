//! The crate `etcd-client` under the load that `kvorum-bench compare-clients` measures; it has a twin for every client
//! that is compared. It is used as `load ENDPOINTS CASE SECONDS CONCURRENCY`, prints `ready` when it is set up, `begin`
//! when it begins to count, and `end` with what it counted. It then waits for the end of its stdin, so that its CPU time
//! can be read. It must do what a program with this client does, and no more.

use std::error::Error;
use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const KEYS: usize = 10_000;
const KEY_STEP: usize = 7_919;
const VALUE_BYTES: usize = 256;
const WATCHED_KEY: &str = "load/watched";
/// Bounds every request, in every program that is compared.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoints, case, seconds, concurrency] = arguments.as_slice() else {
        return Err("usage: load ENDPOINTS CASE SECONDS CONCURRENCY".into());
    };
    let (time, concurrency) = (Duration::from_secs_f64(seconds.parse()?), concurrency.parse()?);
    let endpoints: Vec<&str> = endpoints.split(',').collect();
    let options = ConnectOptions::new().with_connect_timeout(CALL_TIMEOUT).with_timeout(CALL_TIMEOUT);
    let client = Client::connect(&endpoints, Some(options)).await?;
    match case.as_str() {
        "put" => closed_loop(&client, put, time, concurrency).await?,
        "get" => closed_loop(&client, get, time, concurrency).await?,
        "watch" => watch(client, time, concurrency).await?,
        "failover-put" => failover(client, put, time).await?,
        "failover-get" => failover(client, get, time).await?,
        _ => return Err(format!("no case {case}").into()),
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

type Call = for<'a> fn(&'a mut Client, usize) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

fn key(number: usize) -> String {
    format!("load/{:08}", number * KEY_STEP % KEYS)
}

fn put(client: &mut Client, number: usize) -> Pin<Box<dyn Future<Output = Outcome> + Send + '_>> {
    Box::pin(async move {
        client.put(key(number), &[b'v'; VALUE_BYTES][..], None).await?;
        Ok(())
    })
}

fn get(client: &mut Client, number: usize) -> Pin<Box<dyn Future<Output = Outcome> + Send + '_>> {
    Box::pin(async move {
        client.get(key(number), None).await?;
        Ok(())
    })
}

/// Keeps `concurrency` requests under way: a while unrecorded, then for `time`.
async fn closed_loop(client: &Client, call: Call, time: Duration, concurrency: usize) -> Outcome {
    call(&mut client.clone(), 0).await?;
    println!("ready");
    let recording = Arc::new(AtomicBool::new(false));
    let stopping = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for worker in 0..concurrency {
        let (mut client, recording, stopping) = (client.clone(), Arc::clone(&recording), Arc::clone(&stopping));
        workers.push(tokio::spawn(async move {
            let mut latencies: Vec<u32> = Vec::new();
            let mut number = worker;
            while !stopping.load(Ordering::Relaxed) {
                let began = Instant::now();
                call(&mut client, number).await?;
                if recording.load(Ordering::Relaxed) {
                    latencies.push(began.elapsed().as_micros() as u32);
                }
                number += concurrency;
            }
            Outcome::Ok(latencies)
        }));
    }
    tokio::time::sleep(warm_up(time)).await;
    println!("begin");
    let began = Instant::now();
    recording.store(true, Ordering::Relaxed);
    tokio::time::sleep(time).await;
    recording.store(false, Ordering::Relaxed);
    let elapsed = began.elapsed();
    stopping.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await??);
    }
    all.sort_unstable();
    let share = |percent: usize| all.get(all.len() * percent / 100).ok_or("nothing was answered");
    let (p50, p99) = (share(50)?, share(99)?);
    println!("end count={} seconds={} p50_us={p50} p99_us={p99}", all.len(), elapsed.as_secs_f64());
    Ok(())
}

/// Counts the events of `watches` watches of one key.
async fn watch(mut client: Client, time: Duration, watches: usize) -> Outcome {
    let events = Arc::new(AtomicU64::new(0));
    for _ in 0..watches {
        let mut answers = client.watch(WATCHED_KEY, None).await?;
        if !answers.message().await?.is_some_and(|created| created.created()) {
            return Err("a watch was not created".into());
        }
        let events = Arc::clone(&events);
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                events.fetch_add(answer.events().len() as u64, Ordering::Relaxed);
            }
        });
    }
    println!("ready");
    tokio::time::sleep(warm_up(time)).await;
    println!("begin");
    let (before, began) = (events.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(time).await;
    let (count, elapsed) = (events.load(Ordering::Relaxed) - before, began.elapsed());
    println!("end count={count} seconds={}", elapsed.as_secs_f64());
    Ok(())
}

/// Makes one request at a time while members die, and says how long nothing succeeded at most.
async fn failover(mut client: Client, call: Call, time: Duration) -> Outcome {
    for number in 0..100 {
        call(&mut client, number).await?;
    }
    println!("ready\nbegin");
    let began = Instant::now();
    let (mut last, mut longest, mut count, mut failed) = (began, Duration::ZERO, 0_u64, 0_u64);
    for number in 0.. {
        if began.elapsed() >= time {
            break;
        }
        if call(&mut client, number).await.is_err() {
            failed += 1;
            continue;
        }
        count += 1;
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    longest = longest.max(last.elapsed());
    let seconds = began.elapsed().as_secs_f64();
    println!("end count={count} seconds={seconds} failed={failed} longest_us={}", longest.as_micros());
    Ok(())
}

fn warm_up(time: Duration) -> Duration {
    (time / 4).min(Duration::from_secs(1))
}
