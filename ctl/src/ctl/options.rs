//! `options`: the flags that all commands take.

use super::{UTILITY, global};
use crate::command::{Action, Command, Failure, Parsed, usage_of_flags};

pub const COMMAND: Command = Command {
    name: "options",
    about: "Shows the flags that all commands take",
    heading: UTILITY,
    action: Action::Run(options),
    ..Command::EMPTY
};

fn options(_: &Parsed) -> Result<String, Failure> {
    let flags = usage_of_flags(global::FLAGS);
    Ok(format!("The following options can be passed to any command:\n\n{flags}"))
}
