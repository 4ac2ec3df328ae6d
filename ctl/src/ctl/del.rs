//! `del`: deletes a key or a range of keys.

use std::time::Duration;

use kvorum_client::Delete;

use super::{KEY_VALUE, session};
use crate::command::{Action, Command, Failure, Flag, Parsed};
use crate::golang;

const PREFIX: Flag = Flag::switch("prefix", "all keys that begin with <key>");
const PREV_KV: Flag = Flag::switch("prev-kv", "also print what is deleted");
const FROM_KEY: Flag = Flag::switch("from-key", "<key> and all keys behind it, byte by byte");
const RANGE: Flag = Flag::switch("range", "do not wait before a range is deleted");

/// How long there is to interrupt the deletion of a range, as in etcdctl.
const SECOND_THOUGHT: Duration = Duration::from_secs(2);

pub const COMMAND: Command = Command {
    name: "del",
    operands: "[options] <key> [range_end]",
    about: "Deletes a key or a range of keys [key, range_end)",
    heading: KEY_VALUE,
    flags: &[PREFIX, PREV_KV, FROM_KEY, RANGE],
    action: Action::Perform(run),
    ..Command::EMPTY
};

fn run(parsed: &Parsed) -> Result<(), Failure> {
    let delete = request(parsed)?;
    session::run(parsed, async |session| {
        let answer = session.client.kv().perform(delete).await?;
        session.printer.print(&answer.into_delete().unwrap_or_default())
    })
}

/// What the flags and operands ask for. Before a range that was not announced with `--range` it warns and waits.
///
/// # Errors
/// What is wrong with them.
pub fn request(parsed: &Parsed) -> Result<Delete, Failure> {
    let (key, end) = match &parsed.operands[..] {
        [key] => (key, None),
        [key, end] => (key, Some(end)),
        _ => {
            let text = "del command needs one argument as key and an optional argument as range_end";
            return Err(Failure::usage(text));
        }
    };
    let (prefix, from_key) = (parsed.is_set(&PREFIX), parsed.is_set(&FROM_KEY));
    if prefix && from_key {
        return Err(Failure::usage("`--prefix` and `--from-key` cannot be set at the same time, choose one"));
    }
    let mut delete = Delete::new(key.bytes());
    match end {
        Some(_) if prefix || from_key => {
            let text = "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";
            return Err(Failure::usage(text));
        }
        Some(end) => {
            if !parsed.is_set(&RANGE) {
                let (first, end) = (golang::quote(key.bytes()), golang::quote(end.bytes()));
                eprintln!(
                    "Warning: all keys from {first} to {end} will be deleted in 2 seconds unless this is interrupted. \
                     With `--range` there is no delay."
                );
                std::thread::sleep(SECOND_THOUGHT);
            }
            delete = delete.to(end.bytes());
        }
        None if prefix => delete = delete.prefix(),
        None if from_key => delete = delete.from_key(),
        None => {}
    }
    Ok(if parsed.is_set(&PREV_KV) { delete.with_previous() } else { delete })
}
