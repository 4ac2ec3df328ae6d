//! `alarm`: what members raised.

use kvorum_client::response::{AlarmMember, AlarmResponse};
use prost::Message as _;

use super::messages::with_header;
use super::output::{Answer, Style, Text};
use super::{CLUSTER, session};
use crate::command::{Action, Command, Failure, Parsed};
use crate::golang::json;

pub const COMMAND: Command = Command {
    name: "alarm",
    operands: "<subcommand>",
    about: "Lists alarms and takes them back",
    heading: CLUSTER,
    action: Action::Group(&[
        Command { name: "disarm", about: "Takes all alarms back", action: Action::Perform(disarm), ..Command::EMPTY },
        Command { name: "list", about: "Lists all alarms", action: Action::Perform(list), ..Command::EMPTY },
    ]),
    ..Command::EMPTY
};

fn disarm(parsed: &Parsed) -> Result<(), Failure> {
    if !parsed.operands.is_empty() {
        return Err(Failure::usage("alarm disarm command accepts no arguments"));
    }
    session::run(parsed, async |session| {
        let mut answer = session.client.maintenance().disarm(AlarmMember::default()).await?;
        // It stands for as many answers as there were alarms, and shows the header of none.
        answer.header = None;
        session.printer.print(&answer)
    })
}

fn list(parsed: &Parsed) -> Result<(), Failure> {
    if !parsed.operands.is_empty() {
        return Err(Failure::usage("alarm list command accepts no arguments"));
    }
    session::run(parsed, async |session| {
        let answer = session.client.maintenance().alarms().await?;
        session.printer.print(&answer)
    })
}

impl Answer for AlarmResponse {
    fn simple(&self, _: Style, text: &mut Text) {
        for alarm in &self.alarms {
            let parts = [
                (alarm.member_id != 0).then(|| format!("memberID:{}", alarm.member_id)),
                (alarm.alarm != 0).then(|| format!("alarm:{}", alarm.alarm().as_str_name())),
            ];
            text.line(parts.into_iter().flatten().collect::<Vec<_>>().join(" "));
        }
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(self.header.as_ref(), style);
        for alarm in &self.alarms {
            text.id_field("MemberID", alarm.member_id, style);
            text.field("AlarmType", alarm.alarm().as_str_name());
            text.line("");
        }
        Some(text)
    }

    fn json(&self, _: Style) -> Option<String> {
        let one = |alarm: &AlarmMember| {
            json::Object::new().number("memberID", alarm.member_id).number("alarm", alarm.alarm).finish()
        };
        Some(with_header(self.header.as_ref()).list("alarms", self.alarms.iter().map(one)).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}
