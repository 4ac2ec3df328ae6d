//! `defrag`: members give free space of their files back, one after the other.

use std::time::Instant;

use super::endpoint::{ALL_OF_CLUSTER, client_at, endpoints};
use super::global::Settings;
use super::output::print_bytes;
use super::session::error_text;
use super::{CLUSTER, session};
use crate::command::{Action, Command, EXIT_ERROR, Failure, Parsed};
use crate::golang::duration_text;

pub const COMMAND: Command = Command {
    name: "defrag",
    about: "Gives free space in the files of the members of --endpoints back to their systems",
    heading: CLUSTER,
    flags: &[ALL_OF_CLUSTER],
    action: Action::Perform(run),
    ..Command::EMPTY
};

fn run(parsed: &Parsed) -> Result<(), Failure> {
    let settings = Settings::read(parsed)?;
    session::block_on(async {
        let mut is_failed = false;
        for endpoint in endpoints(&settings, parsed).await? {
            let client = client_at(&settings, &endpoint).await?;
            let began = Instant::now();
            let outcome = client.maintenance().defragment().await;
            let took = duration_text(began.elapsed());
            match outcome {
                Ok(_) => {
                    let text = format!("Finished defragmenting etcd member[{endpoint}]. took {took}\n");
                    print_bytes(text.as_bytes())?;
                }
                Err(error) => {
                    let error = error_text(&error);
                    eprintln!("Failed to defragment etcd member[{endpoint}]. took {took}. ({error})");
                    is_failed = true;
                }
            }
        }
        if is_failed { Err(Failure::silent(EXIT_ERROR)) } else { Ok(()) }
    })
}
