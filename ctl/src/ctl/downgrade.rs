//! `downgrade`: the cluster's way back to the version before.

use kvorum_client::response::DowngradeResponse;
use prost::Message as _;

use super::messages::with_header;
use super::output::{Answer, Style, Text};
use super::{CLUSTER, session};
use crate::command::{Action, Command, Failure, Parsed};

pub const COMMAND: Command = Command {
    name: "downgrade",
    operands: "<TARGET_VERSION>",
    about: "Takes the cluster back to the version before",
    heading: CLUSTER,
    action: Action::Group(&[
        Command {
            name: "validate",
            operands: "<TARGET_VERSION>",
            about: "Tells whether the cluster could go back to a version",
            action: Action::Perform(validate),
            ..Command::EMPTY
        },
        Command {
            name: "enable",
            operands: "<TARGET_VERSION>",
            about: "Begins to go back to a version",
            action: Action::Perform(enable),
            ..Command::EMPTY
        },
        Command { name: "cancel", about: "Gives up going back", action: Action::Perform(cancel), ..Command::EMPTY },
    ]),
    ..Command::EMPTY
};

fn target_version(parsed: &Parsed) -> Result<String, Failure> {
    match &parsed.operands[..] {
        [] => Err(Failure::usage("TARGET_VERSION not provided")),
        [version] if version.is_empty() => Err(Failure::usage("target version not provided")),
        [version] => Ok(version.to_string()),
        _ => Err(Failure::usage("too many arguments")),
    }
}

fn validate(parsed: &Parsed) -> Result<(), Failure> {
    let version = target_version(parsed)?;
    session::run(parsed, async |session| {
        let answer = session.client.maintenance().validate_downgrade(&version).await?;
        session.printer.print(&Downgraded { what: "validate", answer })
    })
}

fn enable(parsed: &Parsed) -> Result<(), Failure> {
    let version = target_version(parsed)?;
    session::run(parsed, async |session| {
        let answer = session.client.maintenance().enable_downgrade(&version).await?;
        session.printer.print(&Downgraded { what: "enable", answer })
    })
}

fn cancel(parsed: &Parsed) -> Result<(), Failure> {
    session::run(parsed, async |session| {
        let answer = session.client.maintenance().cancel_downgrade().await?;
        session.printer.print(&Downgraded { what: "cancel", answer })
    })
}

struct Downgraded {
    what: &'static str,
    answer: DowngradeResponse,
}

impl Answer for Downgraded {
    fn simple(&self, _: Style, text: &mut Text) {
        text.line(format!("Downgrade {} success, cluster version {}", self.what, self.answer.version));
    }

    fn json(&self, _: Style) -> Option<String> {
        Some(with_header(self.answer.header.as_ref()).text("version", &self.answer.version).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}
