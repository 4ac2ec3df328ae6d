//! The loop of a task that owns one gRPC stream on behalf of many users (all watches of a watcher, all leases that are kept
//! alive): it opens the stream when somebody needs it, serves it, opens it again when it breaks, and goes on doing what
//! users ask meanwhile. What is said on the stream is its [`Owner`]'s. It must never wait for a user.

use std::task::{Context, Poll};

use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::connection::{Connection, Stream};
use crate::error::{Code, Error, ErrorKind};
use crate::login::Token;
use crate::method::Method;

/// Who speaks on a stream. Nothing here waits.
pub trait Owner {
    /// What users ask for.
    type Command;
    type Request: Message;
    type Answer: Message + Default;

    const METHOD: Method;

    /// Whether nobody needs a stream.
    fn is_idle(&self) -> bool;

    /// Does what a user asks.
    fn obey(&mut self, command: Self::Command);

    /// There is a new stream: what was asked on another gets no answer on this one.
    fn begin(&mut self);

    /// The stream is gone.
    fn end(&mut self);

    /// Whether there is something to say.
    fn has_request(&self) -> bool;

    /// What to say next. It is asked for only when it can be sent.
    fn next_request(&mut self) -> Option<Self::Request>;

    /// Hears an answer. After an error the stream is given up, and another opened unless that cannot help.
    fn hear(&mut self, answer: Self::Answer, connection: &Connection) -> Result<(), Error>;

    /// No stream can be had.
    fn fail_all(&mut self, error: &Error);

    /// When [`Self::look`] should be called at the latest.
    fn next_time(&self) -> Option<Instant> {
        None
    }

    /// Does what is due.
    fn look(&mut self) {}
}

/// How a stream ended.
enum End {
    /// Nobody needs it.
    Idle,
    /// Nobody can ask for anything any more.
    Unused,
    /// `has_heard`: something was answered on it.
    Failed { error: Error, has_heard: bool },
}

type Commands<O> = mpsc::UnboundedReceiver<<O as Owner>::Command>;

/// Runs until the last user is gone.
pub async fn run<O: Owner>(connection: Connection, mut owner: O, mut commands: Commands<O>) {
    let mut backoff = connection.backoff();
    loop {
        while owner.is_idle() {
            let Some(command) = commands.recv().await else { return };
            owner.obey(command);
        }
        let opening = connection.open_stream(O::METHOD, None);
        let end = match while_waiting(&mut owner, &mut commands, opening).await {
            Ok(Ok((stream, token))) => {
                owner.begin();
                let end = serve(&connection, &mut owner, stream, &token, &mut commands).await;
                owner.end();
                end
            }
            Ok(Err(error)) => End::Failed { error, has_heard: false },
            Err(end) => end,
        };
        match end {
            End::Unused => return,
            End::Idle => {}
            End::Failed { error, .. } if is_final(&connection, &error) => owner.fail_all(&error),
            End::Failed { error, has_heard } => {
                tracing::debug!(path = O::METHOD.path, %error, "the stream broke, and is opened again");
                if has_heard {
                    backoff.reset();
                }
                let pause = tokio::time::sleep(backoff.pause());
                if let Err(End::Unused) = while_waiting(&mut owner, &mut commands, pause).await {
                    return;
                }
            }
        }
    }
}

/// Waits for something while users are heard.
async fn while_waiting<O: Owner, T>(
    owner: &mut O,
    commands: &mut Commands<O>,
    future: impl Future<Output = T>,
) -> Result<T, End> {
    let mut future = std::pin::pin!(future);
    loop {
        let next_time = owner.next_time();
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(command) => owner.obey(command),
                None => return Err(End::Unused),
            },
            done = &mut future => return Ok(done),
            () = until(next_time) => owner.look(),
        }
        if owner.is_idle() {
            return Err(End::Idle);
        }
    }
}

enum Happening<O: Owner> {
    Command(Option<O::Command>),
    Answer(Result<Option<O::Answer>, Error>),
    Time,
}

async fn serve<O: Owner>(
    connection: &Connection,
    owner: &mut O,
    mut stream: Stream,
    token: &Token,
    commands: &mut Commands<O>,
) -> End {
    let mut has_heard = false;
    loop {
        let mut timer = std::pin::pin!(until(owner.next_time()));
        let happening = std::future::poll_fn(|context| match poll_next(owner, &mut stream, commands, context) {
            Poll::Ready(happening) => Poll::Ready(happening),
            Poll::Pending => timer.as_mut().poll(context).map(|()| Happening::Time),
        });
        let heard = match happening.await {
            Happening::Command(None) => return End::Unused,
            Happening::Command(Some(command)) => {
                owner.obey(command);
                Ok(())
            }
            Happening::Time => Ok(()),
            Happening::Answer(Ok(Some(answer))) => {
                has_heard = true;
                owner.hear(answer, connection)
            }
            Happening::Answer(Ok(None)) => {
                Err(Error::new(ErrorKind::Unavailable, Code::Unavailable, "the server ended the stream"))
            }
            Happening::Answer(Err(error)) => Err(error),
        };
        if let Err(error) = heard {
            // The token belongs to the stream: everybody moves to a new one.
            if connection.login_may_help(&error) {
                connection.invalidate(token);
            }
            return End::Failed { error, has_heard };
        }
        owner.look();
        if owner.is_idle() {
            return End::Idle;
        }
    }
}

fn poll_next<O: Owner>(
    owner: &mut O,
    stream: &mut Stream,
    commands: &mut Commands<O>,
    context: &mut Context<'_>,
) -> Poll<Happening<O>> {
    while owner.has_request() {
        let sent = match stream.send.poll_ready(context) {
            Poll::Pending => break,
            Poll::Ready(Err(failure)) => Err(failure.into()),
            Poll::Ready(Ok(())) => owner.next_request().map_or(Ok(()), |request| stream.send(&request)),
        };
        if let Err(error) = sent {
            return Poll::Ready(Happening::Answer(Err(error)));
        }
    }
    if let Poll::Ready(command) = commands.poll_recv(context) {
        return Poll::Ready(Happening::Command(command));
    }
    stream.poll_receive(context).map(Happening::Answer)
}

/// Whether trying again cannot help.
fn is_final(connection: &Connection, error: &Error) -> bool {
    let passes = error.is_transient()
        || connection.login_may_help(error)
        || matches!(error.code(), Code::Unavailable | Code::Internal | Code::Unknown | Code::Canceled);
    !passes
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
