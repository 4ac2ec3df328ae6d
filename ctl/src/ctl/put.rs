//! `put`: writes a key.

use std::io::Read;

use kvorum_client::Put;

use super::{KEY_VALUE, session};
use crate::command::{Action, Command, Failure, Flag, Parsed};
use crate::golang;

const LEASE: Flag = Flag::text("lease", "the lease to attach the key to, in hexadecimal").or("0");
const PREV_KV: Flag = Flag::switch("prev-kv", "also print what the key held before");
const IGNORE_VALUE: Flag = Flag::switch("ignore-value", "keep the value that the key has");
const IGNORE_LEASE: Flag = Flag::switch("ignore-lease", "keep the lease that the key is attached to");

pub const COMMAND: Command = Command {
    name: "put",
    operands: "[options] <key> <value> (<value> can also be given from stdin)",
    about: "Writes a value under a key",
    long: "Writes a value under a key. Without <value> and --ignore-value, the value is all of standard input:\n\n  \
           $ kvorumctl put <key> < file\n\nA value that begins with '-' needs '--' before it:\n\n  $ kvorumctl put \
           <key> -- -5",
    heading: KEY_VALUE,
    flags: &[LEASE, PREV_KV, IGNORE_VALUE, IGNORE_LEASE],
    action: Action::Perform(run),
};

fn run(parsed: &Parsed) -> Result<(), Failure> {
    let put = request(parsed, true)?;
    session::run(parsed, async |session| {
        let answer = session.client.kv().perform(put).await?;
        match answer.into_put() {
            Some(answer) => session.printer.print(&answer),
            None => Ok(()),
        }
    })
}

/// What the flags and operands ask for; a value that is missing is read from standard input, where that may be.
///
/// # Errors
/// What is wrong with them.
pub fn request(parsed: &Parsed, reads_value: bool) -> Result<Put, Failure> {
    const ARGUMENTS: &str = "put command needs 1 argument and input from stdin or 2 arguments";
    let key = parsed.operands.first().ok_or_else(|| Failure::usage(ARGUMENTS))?;
    let ignores_value = parsed.is_set(&IGNORE_VALUE);
    if ignores_value && parsed.operands.len() > 1 {
        return Err(Failure::usage("put command needs only 1 argument when 'ignore-value' is set"));
    }
    let value = match parsed.operands.get(1) {
        _ if ignores_value => Vec::new(),
        Some(value) => value.bytes().to_vec(),
        None if !reads_value => return Err(Failure::usage(ARGUMENTS)),
        None => {
            let mut value = Vec::new();
            match std::io::stdin().read_to_end(&mut value) {
                Ok(1..) => value,
                _ => return Err(Failure::usage(ARGUMENTS)),
            }
        }
    };
    let lease = golang::parse_int(parsed.value(&LEASE), 16)
        .map_err(|error| Failure::usage(format!("bad lease ID ({error}), expecting ID in Hex")))?;
    let mut put = Put::new(key.bytes(), value).with_lease(lease);
    if parsed.is_set(&PREV_KV) {
        put = put.with_previous();
    }
    if ignores_value {
        put = put.keep_value();
    }
    if parsed.is_set(&IGNORE_LEASE) {
        put = put.keep_lease();
    }
    Ok(put)
}
