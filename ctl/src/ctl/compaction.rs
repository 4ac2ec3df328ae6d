//! `compaction`: forgets the history before a revision.

use super::output::print_bytes;
use super::{KEY_VALUE, session};
use crate::command::{Action, Command, EXIT_ERROR, Failure, Flag, Parsed};
use crate::golang;

const PHYSICAL: Flag = Flag::switch("physical", "wait until the old revisions are removed from the database");

pub const COMMAND: Command = Command {
    name: "compaction",
    operands: "[options] <revision>",
    about: "Forgets what was overwritten or deleted before a revision",
    heading: KEY_VALUE,
    flags: &[PHYSICAL],
    action: Action::Perform(run),
    ..Command::EMPTY
};

fn run(parsed: &Parsed) -> Result<(), Failure> {
    let [revision] = &parsed.operands[..] else { return Err(Failure::usage("compaction command needs 1 argument")) };
    let revision = golang::parse_int(revision, 10).map_err(|error| Failure::new(EXIT_ERROR, error))?;
    session::run(parsed, async |session| {
        let compact = session.client.compact(revision);
        match parsed.is_set(&PHYSICAL) {
            true => compact.physical().await?,
            false => compact.await?,
        };
        // In every format.
        print_bytes(format!("compacted revision {revision}\n").as_bytes())
    })
}
