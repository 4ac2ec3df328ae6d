//! `elect`: stands for election and leads until interrupted, or shows who leads.

use kvorum_client::recipes::election::Election;
use kvorum_client::recipes::session::{DEFAULT_TTL_SECONDS, Session as LeaseSession};
use kvorum_client::response::GetResponse;

use super::session::{Session, interrupted};
use super::{CONCURRENCY, session};
use crate::command::{Action, Command, EXIT_ERROR, Failure, Flag, Parsed};

const LISTEN: Flag = Flag::switch("listen", "show who leads instead of standing for election").short('l');

pub const COMMAND: Command = Command {
    name: "elect",
    operands: "<election-name> [proposal]",
    about: "Stands for election, or shows who leads",
    heading: CONCURRENCY,
    flags: &[LISTEN],
    action: Action::Perform(run),
    ..Command::EMPTY
};

fn run(parsed: &Parsed) -> Result<(), Failure> {
    let listens = parsed.is_set(&LISTEN);
    let (name, proposal) = match &parsed.operands[..] {
        [name] if listens => (name, None),
        [_] => return Err(Failure::usage("no proposal argument but -l not set")),
        [_, _] if listens => return Err(Failure::usage("proposal given but -l is set")),
        [name, proposal] => (name, Some(proposal)),
        _ => {
            let text = "elect takes one election name argument and an optional proposal argument";
            return Err(Failure::usage(text));
        }
    };
    session::run(parsed, async |session| match proposal {
        Some(proposal) => campaign(&session, name, proposal.bytes()).await,
        None => observe(&session, name).await,
    })
}

async fn observe(session: &Session, name: &str) -> Result<(), Failure> {
    let mut signal = std::pin::pin!(interrupted()?);
    let mut observation = Election::new(&session.client, name).observe();
    loop {
        let (header, kv) = tokio::select! {
            seen = observation.next_with_header() => seen?,
            () = &mut signal => return Ok(()),
        };
        session.printer.print(&GetResponse { header: Some(header), kvs: vec![kv], ..GetResponse::default() })?;
    }
}

async fn campaign(session: &Session, name: &str, proposal: &[u8]) -> Result<(), Failure> {
    let mut signal = std::pin::pin!(interrupted()?);
    let lease = LeaseSession::new(&session.client, DEFAULT_TTL_SECONDS).await?;
    let election = Election::new(&session.client, name);
    let leadership = tokio::select! {
        leadership = election.campaign(&lease, proposal) => leadership?,
        () = &mut signal => {
            lease.close().await?;
            return Err(Failure::new(EXIT_ERROR, "context canceled"));
        }
    };
    session.printer.print(&session.client.get(leadership.key()).await?)?;
    let outcome = tokio::select! {
        () = signal => leadership.resign().await.map_err(Failure::from),
        _ = leadership.lost() => Err(Failure::new(EXIT_ERROR, "elect: session expired")),
    };
    // What stands on the lease is gone already, or lost.
    drop(lease.close().await);
    outcome
}
