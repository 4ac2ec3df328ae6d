//! `make-mirror`: copies what keys there are to another cluster, and then every change as it happens, until something fails.
//!
//! What is written there is put and deleted without conditions and in the order of the source, so a write whose answer was
//! lost is simply made again. An error that does not pass by itself ends the command, which says from where to go on.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use kvorum_client::recipes::mirror::Mirror;
use kvorum_client::{Client, Delete, Error, Event, EventType, Op, Put};
use tokio::sync::watch;

use super::UTILITY;
use super::global::{self, Settings, TlsFiles};
use super::output::print_bytes;
use super::session::{self, Session, error_text};
use crate::command::{Action, Command, EXIT_BAD_ARGUMENTS, EXIT_ERROR, Failure, Flag, Parsed};

/// How often the number of keys copied is printed.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);

/// Puts under way while the base is copied: its keys are all different, so their order does not matter.
const BASE_PUTS_MAX: usize = 64;

/// How long the destination may be away before the mirror ends, and how often it is tried.
const AWAY_TIME_MAX: Duration = Duration::from_secs(60);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

const PREFIX: Flag = Flag::text("prefix", "only keys that begin so");
const REV: Flag = Flag::number("rev", "copy no keys, but all changes from this revision on");
const MAX_TXN_OPS: Flag =
    Flag::count("max-txn-ops", "how many changes are written in one transaction at most").or("128");
const DEST_PREFIX: Flag = Flag::text("dest-prefix", "what keys begin with there instead of --prefix");
const NO_DEST_PREFIX: Flag = Flag::switch("no-dest-prefix", "keys lose --prefix there");
const DEST_CERT: Flag = Flag::text("dest-cert", "the file of the client's certificate for the destination");
const DEST_KEY: Flag = Flag::text("dest-key", "the file of the key to --dest-cert");
const DEST_CACERT: Flag =
    Flag::text("dest-cacert", "the file of the authorities that the destination's certificates are checked with");
const DEST_INSECURE_TRANSPORT: Flag =
    Flag::switch("dest-insecure-transport", "speak without TLS where the destination does not ask for it").or("true");
const DEST_USER: Flag =
    Flag::text("dest-user", "who to log in as there, name[:password] (a missing password is asked for)");
const DEST_PASSWORD: Flag = Flag::text("dest-password", "the password of --dest-user");

pub const COMMAND: Command = Command {
    name: "make-mirror",
    operands: "[options] <destination>",
    about: "Copies keys and all their changes to another cluster",
    heading: UTILITY,
    flags: &[
        PREFIX,
        REV,
        MAX_TXN_OPS,
        DEST_PREFIX,
        NO_DEST_PREFIX,
        DEST_CERT,
        DEST_KEY,
        DEST_CACERT,
        DEST_INSECURE_TRANSPORT,
        DEST_USER,
        DEST_PASSWORD,
    ],
    action: Action::Perform(run),
    ..Command::EMPTY
};

fn run(parsed: &Parsed) -> Result<(), Failure> {
    let [destination] = &parsed.operands[..] else {
        return Err(Failure::usage("make-mirror takes one destination argument"));
    };
    let prompt = "Destination Password: ";
    let credentials = global::credentials(parsed.value(&DEST_USER), parsed.value(&DEST_PASSWORD), "", prompt)?;
    let tls = TlsFiles {
        certificate: parsed.value(&DEST_CERT).to_owned(),
        key: parsed.value(&DEST_KEY).to_owned(),
        authorities: parsed.value(&DEST_CACERT).to_owned(),
        always: !parsed.is_set(&DEST_INSECURE_TRANSPORT),
        server_name: String::new(),
        skip_verify: false,
    };
    let settings = Settings::read(parsed)?;
    let config = settings.config_of(&[destination.to_string()], &credentials, &tls)?;
    session::run(parsed, async |Session { client, settings, .. }| {
        let destination = Client::lazy(config).map_err(|error| session::failure(EXIT_BAD_ARGUMENTS, &error))?;
        if matches!(credentials, global::Credentials::Password { .. }) {
            session::log_in(&destination, settings.dial_timeout).await?;
        }
        let copying = Copying::new(parsed, destination)?;
        copying.run(&client, parsed.number(&REV)).await
    })
}

/// A copy under way.
struct Copying {
    destination: Client,
    prefix: Vec<u8>,
    prefix_there: Vec<u8>,
    operations_max: usize,
    count: watch::Sender<u64>,
}

impl Copying {
    fn new(parsed: &Parsed, destination: Client) -> Result<Self, Failure> {
        let (prefix, prefix_there) = (parsed.value(&PREFIX), parsed.value(&DEST_PREFIX));
        let is_dropped = parsed.is_set(&NO_DEST_PREFIX);
        if is_dropped && !prefix_there.is_empty() {
            let text = "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one";
            return Err(Failure::usage(text));
        }
        let prefix_there = if is_dropped || !prefix_there.is_empty() { prefix_there } else { prefix };
        Ok(Self {
            destination,
            prefix: prefix.as_bytes().to_vec(),
            prefix_there: prefix_there.as_bytes().to_vec(),
            operations_max: usize::try_from(parsed.count(&MAX_TXN_OPS)).unwrap_or(usize::MAX).max(1),
            count: watch::Sender::new(0),
        })
    }

    /// Runs until it fails, and prints the count from time to time.
    async fn run(&self, source: &Client, revision: i64) -> Result<(), Failure> {
        let counts = async {
            let mut ticks = tokio::time::interval(COUNT_INTERVAL);
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let count = *self.count.borrow();
                print_bytes(format!("{count}\n").as_bytes())?;
            }
        };
        tokio::select! {
            outcome = self.copy(source, revision) => outcome,
            outcome = counts => outcome,
        }
    }

    async fn copy(&self, source: &Client, revision: i64) -> Result<(), Failure> {
        let mut mirror = if revision > 1 {
            Mirror::at_revision(source, self.prefix.clone(), revision - 1)
        } else {
            let mirror = Mirror::begin(source, self.prefix.clone()).await?;
            self.copy_base(&mirror).await?;
            mirror
        };
        let mut copied = mirror.revision();
        let outcome = self.copy_updates(&mut mirror, &mut copied).await;
        outcome.map_err(|error| {
            let (text, next) = (error_text(&error), copied + 1);
            Failure::new(EXIT_ERROR, format!("{text}\nTo go on from here: --rev={next}"))
        })
    }

    async fn copy_base(&self, mirror: &Mirror) -> Result<(), Error> {
        let mut pages = mirror.base();
        while let Some(page) = pages.next().await {
            let puts = stream::iter(page?.kvs).map(|kv| async move {
                let put = vec![Op::from(Put::new(self.key_there(&kv.key), kv.value))];
                self.write(put).await
            });
            puts.buffer_unordered(BASE_PUTS_MAX).try_collect::<()>().await?;
        }
        Ok(())
    }

    /// Writes each revision of the source as one transaction, or several if it has more changes than fit into one.
    /// `copied` is the last revision of which everything is written.
    async fn copy_updates(&self, mirror: &mut Mirror, copied: &mut i64) -> Result<(), Error> {
        let mut updates = mirror.updates().await?;
        while let Some(response) = updates.next().await {
            let events = response?.events;
            for of_revision in events.chunk_by(|one, other| revision_of(one) == revision_of(other)) {
                for changes in of_revision.chunks(self.operations_max) {
                    self.write(changes.iter().map(|event| self.operation(event)).collect()).await?;
                }
                *copied = of_revision.first().map_or(*copied, revision_of);
            }
        }
        Ok(())
    }

    fn operation(&self, event: &Event) -> Op {
        let kv = event.kv.clone().unwrap_or_default();
        let key = self.key_there(&kv.key);
        match event.r#type() {
            EventType::Put => Put::new(key, kv.value).into(),
            EventType::Delete => Delete::new(key).into(),
        }
    }

    fn key_there(&self, key: &[u8]) -> Vec<u8> {
        let rest = key.strip_prefix(&self.prefix[..]).unwrap_or(key);
        [&self.prefix_there[..], rest].concat()
    }

    /// Writes what belongs together, again and again while the destination is away.
    async fn write(&self, operations: Vec<Op>) -> Result<(), Error> {
        let count = operations.len() as u64;
        let began = Instant::now();
        loop {
            match self.destination.txn().then(operations.clone()).await {
                Ok(_) => break,
                Err(error) if error.is_transient() && began.elapsed() < AWAY_TIME_MAX => {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(error) => return Err(error),
            }
        }
        self.count.send_modify(|total| *total += count);
        Ok(())
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}
