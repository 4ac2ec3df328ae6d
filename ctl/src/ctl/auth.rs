//! `auth`: whether clients must log in. And the shapes that the answers of `user` and `role` share.

use kvorum_client::EtcdError;
use kvorum_client::response::{AuthStatusResponse, ResponseHeader};
use prost::Message as _;

use super::messages::with_header;
use super::output::{Answer, Style, Text, print_bytes};
use super::{AUTHENTICATION, session};
use crate::command::{Action, Command, Failure, Parsed};

pub const COMMAND: Command = Command {
    name: "auth",
    operands: "<enable or disable>",
    about: "Turns authentication on and off",
    heading: AUTHENTICATION,
    action: Action::Group(&[
        Command { name: "enable", about: "Turns authentication on", action: Action::Perform(enable), ..Command::EMPTY },
        Command {
            name: "disable",
            about: "Turns authentication off",
            action: Action::Perform(disable),
            ..Command::EMPTY
        },
        Command {
            name: "status",
            about: "Tells whether authentication is on",
            action: Action::Perform(status),
            ..Command::EMPTY
        },
    ]),
    ..Command::EMPTY
};

fn without_operands(parsed: &Parsed, name: &str) -> Result<(), Failure> {
    match parsed.operands.is_empty() {
        true => Ok(()),
        false => Err(Failure::usage(format!("auth {name} command does not accept any arguments"))),
    }
}

/// The user `root` must be there; the role `root` is made and given to it if it is missing.
fn enable(parsed: &Parsed) -> Result<(), Failure> {
    const ROOT: &str = "root";
    without_operands(parsed, "enable")?;
    session::run(parsed, async |session| {
        let auth = session.client.auth();
        loop {
            match auth.enable().await {
                Ok(_) => break,
                Err(error) if error.is(EtcdError::RootRoleNotExist) => {
                    auth.add_role(ROOT).await?;
                    auth.grant_role(ROOT, ROOT).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        print_bytes(b"Authentication Enabled\n")
    })
}

fn disable(parsed: &Parsed) -> Result<(), Failure> {
    without_operands(parsed, "disable")?;
    session::run(parsed, async |session| {
        session.client.auth().disable().await?;
        print_bytes(b"Authentication Disabled\n")
    })
}

fn status(parsed: &Parsed) -> Result<(), Failure> {
    without_operands(parsed, "status")?;
    session::run(parsed, async |session| {
        let answer = session.client.auth().status().await?;
        session.printer.print(&answer)
    })
}

impl Answer for AuthStatusResponse {
    fn simple(&self, _: Style, text: &mut Text) {
        text.line(format!("Authentication Status: {}", self.enabled));
        text.line(format!("AuthRevision: {}", self.auth_revision));
    }

    fn json(&self, _: Style) -> Option<String> {
        let object = with_header(self.header.as_ref()).truth("enabled", self.enabled);
        Some(object.number("authRevision", self.auth_revision).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

/// The answer to a change of users or roles: nothing but a header.
pub struct Done {
    /// What the simple format says.
    pub text: String,
    pub header: Option<ResponseHeader>,
}

impl Answer for Done {
    fn simple(&self, _: Style, text: &mut Text) {
        text.line(&self.text);
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(self.header.as_ref(), style);
        Some(text)
    }

    fn json(&self, _: Style) -> Option<String> {
        Some(with_header(self.header.as_ref()).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        // All such answers are of this shape.
        Some(kvorum_client::response::AuthEnableResponse { header: self.header }.encode_to_vec())
    }
}
