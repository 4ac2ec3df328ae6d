//! `move-leader`: makes another member the leader.

use kvorum_client::MemberId;
use kvorum_client::response::MoveLeaderResponse;
use prost::Message as _;

use super::endpoint::client_at;
use super::global::Settings;
use super::messages::with_header;
use super::output::{Answer, Style, Text};
use super::{CLUSTER, session};
use crate::command::{Action, Command, EXIT_BAD_ARGUMENTS, Failure, Parsed};
use crate::golang;

pub const COMMAND: Command = Command {
    name: "move-leader",
    operands: "<transferee-member-id>",
    about: "Makes another member the leader",
    heading: CLUSTER,
    action: Action::Perform(run),
    ..Command::EMPTY
};

fn run(parsed: &Parsed) -> Result<(), Failure> {
    let [target] = &parsed.operands[..] else {
        return Err(Failure::usage("move-leader command needs 1 argument"));
    };
    let target = MemberId(golang::parse_uint(target, 16).map_err(Failure::usage)?);
    let settings = Settings::read(parsed)?;
    session::block_on(async {
        for endpoint in &settings.endpoints {
            let client = client_at(&settings, endpoint).await?;
            let status = client.maintenance().status().await?;
            if status.header.unwrap_or_default().member_id != status.leader {
                continue;
            }
            let answer = client.maintenance().move_leader(target).await?;
            return settings.printer.print(&Moved { from: MemberId(status.leader), to: target, answer });
        }
        let text = format!("no leader endpoint given at [{}]", settings.endpoints.join(" "));
        Err(Failure::new(EXIT_BAD_ARGUMENTS, text))
    })
}

struct Moved {
    from: MemberId,
    to: MemberId,
    answer: MoveLeaderResponse,
}

impl Answer for Moved {
    fn simple(&self, _: Style, text: &mut Text) {
        text.line(format!("Leadership transferred from {} to {}", self.from, self.to));
    }

    fn json(&self, _: Style) -> Option<String> {
        Some(with_header(self.answer.header.as_ref()).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}
