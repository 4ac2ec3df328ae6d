//! `version`: etcd's two lines, which scripts read, and our own.

use super::UTILITY;
use crate::command::{Action, Command, Failure, Parsed};
use crate::{API_VERSION, ETCD_VERSION};

pub const COMMAND: Command = Command {
    name: "version",
    about: "Prints the version of kvorumctl",
    heading: UTILITY,
    action: Action::Run(version),
    ..Command::EMPTY
};

fn version(_: &Parsed) -> Result<String, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    Ok(format!("etcdctl version: {ETCD_VERSION}\nAPI version: {API_VERSION}\nkvorumctl version: {own}\n"))
}
