//! `lock`: takes a lock of the cluster and holds it until interrupted, or while a command runs.

use std::ffi::OsStr;

use kvorum_client::recipes::mutex::{Mutex, MutexGuard};
use kvorum_client::recipes::session::Session as LeaseSession;

use super::child;
use super::session::{Session, interrupted};
use super::{CONCURRENCY, session};
use crate::command::{Action, Command, EXIT_ERROR, Failure, Flag, Parsed, Word};

const TTL: Flag = Flag::number("ttl", "how many seconds the lock outlives this command when it is killed").or("10");

pub const COMMAND: Command = Command {
    name: "lock",
    operands: "<lockname> [exec-command arg1 arg2 ...]",
    about: "Takes a lock, and holds it until interrupted or while a command runs",
    long: "Takes a lock and prints its key; it holds the lock until it is interrupted. With a command, it runs the command\n\
           instead, which finds the key in ETCD_LOCK_KEY and the revision in ETCD_LOCK_REV, and ends with its exit code.",
    heading: CONCURRENCY,
    flags: &[TTL],
    action: Action::Perform(run),
};

fn run(parsed: &Parsed) -> Result<(), Failure> {
    let [name, command @ ..] = &parsed.operands[..] else {
        return Err(Failure::usage("lock takes a lock name argument and an optional command to execute"));
    };
    session::run(parsed, async |session| {
        let signal = interrupted()?;
        let lease = LeaseSession::new(&session.client, parsed.number(&TTL)).await?;
        let mutex = Mutex::new(&lease, name);
        let mut signal = std::pin::pin!(signal);
        let guard = tokio::select! {
            guard = mutex.lock() => guard?,
            () = &mut signal => {
                lease.close().await?;
                return Err(Failure::new(EXIT_ERROR, "context canceled"));
            }
        };
        let outcome = match command {
            [] => hold(&session, guard, signal).await,
            // The command gets the signals of its terminal itself.
            command => run_locked(guard, command).await,
        };
        // What stands on the lease is gone already, or lost.
        drop(lease.close().await);
        outcome
    })
}

async fn hold(session: &Session, guard: MutexGuard<'_>, signal: impl Future<Output = ()>) -> Result<(), Failure> {
    let held = session.client.get(guard.key()).await?;
    if held.kvs.is_empty() {
        return Err(Failure::new(EXIT_ERROR, "lock lost on init"));
    }
    session.printer.print(&held)?;
    tokio::select! {
        () = signal => Ok(guard.unlock().await?),
        _ = guard.lost() => Err(Failure::new(EXIT_ERROR, "session expired")),
    }
}

async fn run_locked(guard: MutexGuard<'_>, command: &[Word]) -> Result<(), Failure> {
    let revision = guard.header().revision.to_string();
    let environment = [("ETCD_LOCK_KEY", OsStr::new(guard.key())), ("ETCD_LOCK_REV", OsStr::new(&revision))];
    let ended = child::run(command, environment).await;
    let unlocked = guard.unlock().await;
    ended.map_err(|error| Failure::new(error.exit_code(), error.to_string()))?;
    Ok(unlocked?)
}
