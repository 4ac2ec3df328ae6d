//! What a command works with: a client of the cluster, a printer and the settings, on a runtime that lives as long as the
//! command.

use std::time::Duration;

use kvorum_client::{Client, Error, ErrorKind};
use tokio::signal::unix::{SignalKind, signal};

use super::global::Settings;
use super::output::Printer;
use crate::command::{EXIT_BAD_ARGUMENTS, EXIT_BAD_CONNECTION, EXIT_ERROR, Failure, Parsed};

/// A command's view of the cluster.
pub struct Session {
    /// Its calls take as long as `--command-timeout` says.
    pub client: Client,
    pub printer: Printer,
    #[allow(dead_code)]
    pub settings: Settings,
}

/// Runs a command with a client. The client connects while it is used; a login is done before.
///
/// # Errors
/// What is wrong with flags or environment, a login that was refused, or what the command fails with.
pub fn run(parsed: &Parsed, work: impl AsyncFnOnce(Session) -> Result<(), Failure>) -> Result<(), Failure> {
    let settings = Settings::read(parsed)?;
    let config = settings.config()?;
    block_on(async {
        let client = Client::lazy(config).map_err(|error| failure(EXIT_BAD_ARGUMENTS, &error))?;
        if settings.logs_in() {
            log_in(&client, settings.dial_timeout).await?;
        }
        work(Session { client, printer: settings.printer, settings }).await
    })
}

/// As clientv3 does when a client is made: a wrong password is noticed before the command begins.
pub async fn log_in(client: &Client, dial_timeout: Duration) -> Result<(), Failure> {
    let connection = client.connection().with_timeout(dial_timeout);
    connection.log_in().await.map_err(|error| failure(EXIT_BAD_CONNECTION, &error))
}

/// Runs to the end; what still goes on in the background then is given up.
///
/// # Errors
/// Those of the future.
pub fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(EXIT_ERROR, format!("no runtime: {error}")))?;
    let outcome = runtime.block_on(work);
    // A thread that waits for standard input must not be waited for.
    runtime.shutdown_background();
    outcome
}

/// Ends with the first SIGINT or SIGTERM; both are caught from now on.
///
/// # Errors
/// When they cannot be caught.
pub fn interrupted() -> Result<impl Future<Output = ()>, Failure> {
    let catch = |kind| signal(kind).map_err(|error| Failure::new(EXIT_ERROR, error.to_string()));
    let (mut interrupt, mut terminate) = (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

const DEADLINE: &str = "context deadline exceeded";

/// An error of the client in the words of etcdctl, on one line.
pub fn error_text(error: &Error) -> String {
    // Of a login that was needed: etcdctl does not say so.
    let text = error.text();
    let text = text.strip_prefix("login: ").unwrap_or(text);
    match error.kind() {
        ErrorKind::Etcd(known) => known.text().to_owned(),
        ErrorKind::DeadlineExceeded => DEADLINE.to_owned(),
        ErrorKind::Status | ErrorKind::TooLarge | ErrorKind::Unimplemented | ErrorKind::Unavailable => {
            status_text(error)
        }
        _ => text.to_owned(),
    }
}

/// As Go's gRPC shows a status that is not in etcd's table.
pub fn status_text(error: &Error) -> String {
    let text = error.text();
    format!("rpc error: code = {:?} desc = {}", error.code(), text.strip_prefix("login: ").unwrap_or(text))
}

/// A failure that says what the error says, and behind it what a deadline waited for.
pub fn failure(exit_code: u8, error: &Error) -> Failure {
    failure_saying(exit_code, error, error_text(error))
}

/// The same with another message.
pub fn failure_saying(exit_code: u8, error: &Error, message: String) -> Failure {
    let failure = Failure::new(exit_code, message);
    match error.kind() {
        ErrorKind::DeadlineExceeded if error.text() != DEADLINE => failure.with_detail(error.text()),
        _ => failure,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        failure(EXIT_ERROR, &error)
    }
}
