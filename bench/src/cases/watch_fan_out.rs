//! One key, 1000 watchers: 10 connections with one stream of 100 watchers each. Puts follow deliveries, so nobody falls
//! behind for good and the rate is what the server can deliver. Twice: with one put under way that not all watchers have
//! seen, and with 16. etcd does the first at its best; in the second its watchers overflow their streams' buffers of 128
//! responses and wait for the next round of its catch-up loop, up to 100 ms later. The latency is from sending a put until
//! the last watcher has its event.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Case, watching};
use crate::control::Control;
use crate::load::{self, Tally};
use crate::requests::{self, PUT, VALUE_BYTES};
use crate::server::Server;
use crate::streams::Channel;

const CONNECTIONS: u64 = 10;
const WATCHERS_PER_CONNECTION: u64 = 100;
const WATCHERS: u64 = CONNECTIONS * WATCHERS_PER_CONNECTION;
const PUTS_UNDER_WAY: [usize; 2] = [1, 16];

pub const CASE: Case = Case {
    name: "watch-fan-out",
    about: "events delivered, 1000 watchers of one key on 10 connections",
    floor: false,
    run: |trial| {
        let mut rows = Vec::new();
        for puts_under_way in PUTS_UNDER_WAY {
            let server = trial.start()?;
            let control = Arc::new(Control::default());
            let running = spawn(&server, &control, puts_under_way);
            let label = format!("{}, {puts_under_way} put(s) under way", CASE.about);
            rows.push(trial.record(&server, &control, vec![running])?.row(label, 0));
        }
        Ok(rows)
    },
};

/// Shared by the tasks of the load.
struct Progress {
    tally: Rc<RefCell<Tally>>,
    /// When each put that not all watchers have seen was sent.
    sent: RefCell<VecDeque<Instant>>,
    /// Events of those puts that have come.
    events: RefCell<u64>,
    puts_allowed: Semaphore,
    control: Arc<Control>,
}

fn spawn(
    server: &Server,
    control: &Arc<Control>,
    puts_under_way: usize,
) -> std::thread::JoinHandle<Result<Tally, String>> {
    let address = server.address();
    load::spawn_thread(control, move |control, tally| async move {
        let progress = Rc::new(Progress {
            tally,
            sent: RefCell::default(),
            events: RefCell::default(),
            puts_allowed: Semaphore::new(puts_under_way),
            control,
        });
        let key = requests::key("watch/", 0);
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            let keys = (0..WATCHERS_PER_CONNECTION).map(|_| key.clone());
            streams.push(watching::watch(address, keys).await?);
        }
        let mut tasks = JoinSet::new();
        for mut stream in streams {
            let progress = progress.clone();
            tasks.spawn_local(async move {
                loop {
                    progress.delivered(watching::next_events(&mut stream).await?);
                }
            });
        }
        let body = requests::put_body(key, requests::value(VALUE_BYTES, 1));
        let channel = Channel::open(address).await?;
        for _ in 0..puts_under_way {
            tasks.spawn_local(put_when_allowed(progress.clone(), channel.clone(), body.clone()));
        }
        match tasks.join_next().await {
            Some(ended) => ended.map_err(|error| error.to_string())?,
            None => Ok(()),
        }
    })
}

async fn put_when_allowed(progress: Rc<Progress>, channel: Channel, body: Bytes) -> Result<(), String> {
    loop {
        progress.puts_allowed.acquire().await.expect("the semaphore is never closed").forget();
        progress.sent.borrow_mut().push_back(Instant::now());
        channel.call(PUT, body.clone()).await?;
    }
}

impl Progress {
    fn delivered(&self, events: u64) {
        let recording = self.control.recording();
        let mut tally = self.tally.borrow_mut();
        if recording {
            tally.count += events;
        }
        let mut seen = self.events.borrow_mut();
        *seen += events;
        while *seen >= WATCHERS {
            *seen -= WATCHERS;
            let sent = self.sent.borrow_mut().pop_front().expect("events come from puts that were sent");
            if recording {
                tally.latency.record(sent.elapsed());
            }
            self.puts_allowed.add_permits(1);
        }
    }
}
