//! 100,000 watchers of one key each, on 10 connections with one stream of 10,000 watchers each, while puts on 10 x 10
//! streams go over these keys: each put finds exactly one watcher. Reported: events that arrived per second, the latency
//! of the puts, and the time it took to create the watchers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{Case, watching};
use crate::control::Control;
use crate::figures::Figure;
use crate::load;
use crate::requests;
use crate::streams::Duplex;
use crate::trial::PREPARATION_TIME_MAX;

const CONNECTIONS: u64 = 10;
const WATCHERS_PER_CONNECTION: u64 = 10_000;
const WATCHERS: u64 = CONNECTIONS * WATCHERS_PER_CONNECTION;
const NAME: &str = "watch/";

pub const CASE: Case = Case {
    name: "watch-many",
    about: "events delivered, 100,000 watchers of one key each",
    floor: false,
    run: |trial| {
        let server = trial.start()?;
        let address = server.address();
        let control = Arc::new(Control::default());
        let (ready, watching) = oneshot::channel();
        let started = Instant::now();
        let watchers = load::spawn_thread(&control, move |control, tally| async move {
            let created = tokio::time::timeout(PREPARATION_TIME_MAX, create(address));
            let streams = created.await.map_err(|_| "the watchers were not created in time")??;
            // The receiver is gone only when the trial was given up.
            ready.send(started.elapsed()).ok();
            let mut tasks: JoinSet<Result<(), String>> = JoinSet::new();
            for mut stream in streams {
                let (control, tally) = (control.clone(), tally.clone());
                tasks.spawn_local(async move {
                    loop {
                        let events = watching::next_events(&mut stream).await?;
                        if control.recording() {
                            tally.borrow_mut().count += events;
                        }
                    }
                });
            }
            match tasks.join_next().await {
                Some(ended) => ended.map_err(|error| error.to_string())?,
                None => Ok(()),
            }
        });
        let Ok(until_watching) = watching.blocking_recv() else {
            control.wait(Duration::ZERO)?;
            return Err("the watchers were not created".to_owned());
        };
        let writers = requests::puts_over(NAME, WATCHERS, 10, 10).spawn(address, &control);
        let measured = trial.record(&server, &control, vec![watchers, writers])?;
        let row = measured.row(CASE.about, 0).with(Figure::UntilWatching, until_watching.as_secs_f64());
        Ok(vec![row, measured.latency_row("the puts meanwhile, 10 x 10", 1)])
    },
};

async fn create(address: SocketAddr) -> Result<Vec<Duplex>, String> {
    let mut streams = Vec::new();
    for connection in 0..CONNECTIONS {
        let first = connection * WATCHERS_PER_CONNECTION;
        let keys = (first..first + WATCHERS_PER_CONNECTION).map(|number| requests::key(NAME, number));
        streams.push(watching::watch(address, keys).await?);
    }
    Ok(streams)
}
