//! What a flood of logins does to others: 1000 attempts a second, every other with a wrong password, each given up after five
//! seconds. Puts and reads by a user with a token go on at a fixed moderate rate, first in quiet times, then beside. Passwords
//! are hashed at the server's default cost.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{Case, auth, beside};
use crate::control::Control;
use crate::figures::{Figure, Row};
use crate::load;
use crate::server::Server;
use crate::streams::Channel;
use crate::trial::{self, Measured, Trial};
use crate::wire;

const ATTEMPTS_PER_SECOND: u32 = 1000;
const CONNECTIONS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(5);
const USER: &str = "app";
/// Quiet times and floods take turns.
const ROUNDS: u32 = 3;
/// As many hashes as may wait are made in this time.
const SETTLING: Duration = Duration::from_secs(5);

pub const CASE: Case = Case { name: "logins", about: "puts and reads beside 1000 logins a second", floor: false, run };

/// How attempts ended.
#[derive(Clone, Copy, Default)]
struct Ends {
    let_in: u32,
    /// The password was wrong, and the server said so.
    refused: u32,
    too_many: u32,
    given_up: u32,
}

fn run(trial: &Trial) -> Result<Vec<Row>, String> {
    let server = trial.start()?;
    auth::prepare(&server, USER, &[beside::PUT_NAME])?;
    auth::enable(&server)?;
    let token = auth::log_in(&server, USER)?;
    let stretch = Trial { time: trial.time / ROUNDS, ..trial.clone() };
    let watch = || beside::with_reads(&stretch, &server, Some(&token), |control| control.wait(stretch.time));
    let (mut quiet, mut during) = (watch()?, None::<Measured>);
    let (mut ends, mut took) = (Ends::default(), Duration::ZERO);
    for round in 0..ROUNDS {
        let (control, began) = (Arc::new(Control::default()), Instant::now());
        let (sender, receiver) = mpsc::channel();
        let flood = spawn(&server, &control, sender);
        let watched = watch();
        took += began.elapsed();
        control.stop();
        flood.join().map_err(|_| "the flood panicked".to_owned())??;
        let further = receiver.try_iter().last().unwrap_or_default();
        ends.add(further);
        match &mut during {
            Some(during) => during.add(watched?),
            first => *first = Some(watched?),
        }
        if round + 1 < ROUNDS {
            // What still waits for a thread is not quiet.
            std::thread::sleep(SETTLING);
            quiet.add(watch()?);
        }
    }
    let during = during.expect("there was a round");
    let what = format!("beside {ATTEMPTS_PER_SECOND} logins/s");
    let mut rows = beside::rows_of("put", 0, &what, &quiet, &during);
    rows.extend(beside::rows_of("range", 1, &what, &quiet, &during));
    for (label, count) in [
        ("logins let in", ends.let_in),
        ("logins with a wrong password, told so", ends.refused),
        ("logins told \"too many requests\"", ends.too_many),
        ("logins given up after 5 s", ends.given_up),
    ] {
        rows.push(Row::new(label).with(Figure::PerSecond, f64::from(count) / took.as_secs_f64()));
    }
    Ok(rows)
}

impl Ends {
    fn add(&mut self, other: Ends) {
        self.let_in += other.let_in;
        self.refused += other.refused;
        self.too_many += other.too_many;
        self.given_up += other.given_up;
    }
}

/// Attempts until it is stopped; sends the counts now and then.
fn spawn(server: &Server, control: &Arc<Control>, sender: mpsc::Sender<Ends>) -> trial::Running {
    let address = server.address();
    load::spawn_thread(control, move |_, _| async move {
        let bodies = [auth::PASSWORD, "incorrect"].map(|password| wire::frame(&auth::login(USER, password)));
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(Channel::open(address).await?);
        }
        let ends = Rc::new(RefCell::new(Ends::default()));
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / ATTEMPTS_PER_SECOND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut attempts = JoinSet::new();
        for number in 0.. {
            ticks.tick().await;
            while let Some(ended) = attempts.try_join_next() {
                ended.map_err(|error| error.to_string())??;
            }
            let (channel, body) = (channels[number / 2 % CONNECTIONS].clone(), bodies[number % 2].clone());
            attempts.spawn_local(attempt(channel, body, Rc::clone(&ends)));
            if number % (ATTEMPTS_PER_SECOND as usize / 10) == 0 {
                sender.send(*ends.borrow()).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    })
}

async fn attempt(channel: Channel, body: Bytes, ends: Rc<RefCell<Ends>>) -> Result<(), String> {
    let ended = tokio::time::timeout(PATIENCE, channel.call(auth::AUTHENTICATE, body)).await;
    let mut ends = ends.borrow_mut();
    match ended {
        Err(_) => ends.given_up += 1,
        Ok(Ok(_)) => ends.let_in += 1,
        Ok(Err(text)) if text.contains("too many requests") => ends.too_many += 1,
        Ok(Err(text)) if text.contains("authentication failed") => ends.refused += 1,
        Ok(Err(text)) => return Err(text),
    }
    Ok(())
}
