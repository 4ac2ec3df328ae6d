//! What a watcher far behind does to puts, and how fast it catches up: half of `--keys` revisions (500,000), ten for each
//! key, and a watcher of all keys that begins at the first of them and is done when it has everything up to the revision at
//! which it began. One such watcher follows another on the same connection thread until the time of a run is over, since a
//! single one may be too short for a percentile. Puts go on at a fixed moderate rate, first in quiet times, then beside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_api::etcdserverpb::WatchCreateRequest;

use super::{Case, beside, watching};
use crate::control::Control;
use crate::figures::{Figure, Row};
use crate::load;
use crate::server::Server;
use crate::trial::{self, Trial};

/// The revision of the first put into an empty store.
const FIRST_REVISION: i64 = 2;

pub const CASE: Case =
    Case { name: "catch-up", about: "puts while a watcher 500,000 revisions behind catches up", floor: false, run };

fn run(trial: &Trial) -> Result<Vec<Row>, String> {
    let revisions = (trial.keys / 2).max(1);
    let server = trial.start()?;
    beside::fill(trial, &server, "catch-up/", revisions)?;
    let quiet = beside::quiet(trial, &server)?;
    let (during, passes) = beside::during(trial, &server, || catch_up_repeatedly(trial, &server))?;
    let mut rows = beside::rows(&format!("while a watcher {revisions} revisions behind catches up"), &quiet, &during);
    let (events, took) = passes.iter().fold((0, Duration::ZERO), |sum, pass| (sum.0 + pass.0, sum.1 + pass.1));
    let catching_up = Row::new(format!("events to a watcher {revisions} revisions behind"))
        .with(Figure::PerSecond, events as f64 / took.as_secs_f64())
        .with(Figure::UntilFinished, took.as_secs_f64() / passes.len() as f64);
    rows.push(catching_up);
    Ok(rows)
}

/// Events and time of each watcher.
fn catch_up_repeatedly(trial: &Trial, server: &Server) -> Result<Vec<(u64, Duration)>, String> {
    let started = Instant::now();
    let mut passes = Vec::new();
    while passes.is_empty() || started.elapsed() < trial.time {
        let behind = u64::try_from(beside::revision(trial, server)? - FIRST_REVISION + 1).unwrap_or_default();
        let began = Instant::now();
        catch_up(server.address(), behind)?;
        passes.push((behind, began.elapsed()));
    }
    Ok(passes)
}

/// A watcher from the first revision on, until it has this many events: each revision of the case has one.
fn catch_up(address: SocketAddr, events: u64) -> Result<(), String> {
    let control = Arc::new(Control::default());
    let watching = load::spawn_thread(&control, move |_, _| async move {
        let zero: &[u8] = &[0];
        let create = WatchCreateRequest {
            key: zero.into(),
            range_end: zero.into(),
            start_revision: FIRST_REVISION,
            ..Default::default()
        };
        let mut stream = watching::create(address, std::iter::once(create)).await?;
        let mut missing = events;
        while missing > 0 {
            missing = missing.saturating_sub(watching::next_events(&mut stream).await?);
        }
        Ok(())
    });
    trial::finish(watching, &control)
}
