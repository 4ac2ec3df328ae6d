//! `lease`: grants, revokes and keeps alive what keys end with.

use kvorum_client::response::{
    Header, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, ResponseHeader,
};
use kvorum_client::{Error, LeaseEnd};
use prost::Message as _;

use super::messages::{header_json, with_header};
use super::output::{Answer, Format, Style, Text, print_bytes};
use super::session::{error_text, failure, failure_saying};
use super::{KEY_VALUE, session};
use crate::command::{Action, Command, EXIT_BAD_CONNECTION, EXIT_ERROR, Failure, Flag, Parsed, Word};
use crate::golang;
use crate::golang::json::{self, Object};

const KEYS: Flag = Flag::switch("keys", "also print the keys attached to the lease");
const ONCE: Flag = Flag::switch("once", "renew the lease once and end");

pub const COMMAND: Command = Command {
    name: "lease",
    operands: "<subcommand>",
    about: "Grants, shows and ends leases. Use `kvorumctl lease --help` to see subcommands",
    long: "Grants, shows and ends leases",
    heading: KEY_VALUE,
    action: Action::Group(&[
        Command {
            name: "grant",
            operands: "<ttl>",
            about: "Grants a lease of so many seconds",
            action: Action::Perform(grant),
            ..Command::EMPTY
        },
        Command {
            name: "revoke",
            operands: "<leaseID>",
            about: "Ends a lease and deletes its keys",
            action: Action::Perform(revoke),
            ..Command::EMPTY
        },
        Command {
            name: "timetolive",
            operands: "<leaseID> [options]",
            about: "Shows how long a lease has",
            flags: &[KEYS],
            action: Action::Perform(time_to_live),
            ..Command::EMPTY
        },
        Command { name: "list", about: "Lists all leases", action: Action::Perform(list), ..Command::EMPTY },
        Command {
            name: "keep-alive",
            operands: "[options] <leaseID>",
            about: "Keeps a lease alive until interrupted",
            flags: &[ONCE],
            action: Action::Perform(keep_alive),
            ..Command::EMPTY
        },
    ]),
    ..Command::EMPTY
};

fn grant(parsed: &Parsed) -> Result<(), Failure> {
    let [ttl] = &parsed.operands[..] else { return Err(Failure::usage("lease grant command needs TTL argument")) };
    let ttl = golang::parse_int(ttl, 10).map_err(|error| Failure::usage(format!("bad TTL ({error})")))?;
    session::run(parsed, async |session| {
        let answer = session.client.lease().grant(ttl).await.map_err(|error| failed_to("grant", &error))?;
        session.printer.print(&answer)
    })
}

fn revoke(parsed: &Parsed) -> Result<(), Failure> {
    let [id] = &parsed.operands[..] else { return Err(Failure::usage("lease revoke command needs 1 argument")) };
    let id = lease_id(id)?;
    session::run(parsed, async |session| {
        let answer = session.client.lease().revoke(id).await.map_err(|error| failed_to("revoke", &error))?;
        session.printer.print(&Revoked { id, answer })
    })
}

fn time_to_live(parsed: &Parsed) -> Result<(), Failure> {
    let [id] = &parsed.operands[..] else {
        return Err(Failure::usage("lease timetolive command needs lease ID as argument"));
    };
    let id = lease_id(id)?;
    session::run(parsed, async |session| {
        let asked = session.client.lease().time_to_live(id);
        let with_keys = parsed.is_set(&KEYS);
        let asked = if with_keys { asked.with_keys() } else { asked };
        let answer = asked.await.map_err(|error| failure(EXIT_BAD_CONNECTION, &error))?;
        session.printer.print(&Remaining { with_keys, answer })
    })
}

fn list(parsed: &Parsed) -> Result<(), Failure> {
    session::run(parsed, async |session| {
        let answer = session.client.lease().leases().await.map_err(|error| failure(EXIT_BAD_CONNECTION, &error))?;
        session.printer.print(&answer)
    })
}

fn keep_alive(parsed: &Parsed) -> Result<(), Failure> {
    let [id] = &parsed.operands[..] else {
        return Err(Failure::usage("lease keep-alive command needs lease ID as argument"));
    };
    let id = lease_id(id)?;
    session::run(parsed, async |session| {
        let lease = session.client.lease();
        if parsed.is_set(&ONCE) {
            let answer = lease.keep_alive_once(id).await.map_err(|error| failure(EXIT_BAD_CONNECTION, &error))?;
            return session.printer.print(&answer);
        }
        let mut answers = lease.keep_alive(id);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => session.printer.print(&answer)?,
                Err(LeaseEnd::Failed(error)) => return Err(failure(EXIT_BAD_CONNECTION, &error)),
                Err(_) => break,
            }
        }
        match session.printer.format {
            Format::Simple => print_bytes(format!("lease {id:016x} expired or revoked.\n").as_bytes()),
            _ => Ok(()),
        }
    })
}

fn failed_to(what: &str, error: &Error) -> Failure {
    failure_saying(EXIT_ERROR, error, format!("failed to {what} lease ({})", error_text(error)))
}

fn lease_id(word: &Word) -> Result<i64, Failure> {
    golang::parse_int(word, 16)
        .map_err(|error| Failure::usage(format!("bad lease ID arg ({error}), expecting ID in Hex")))
}

/// clientv3's answers about leases are its own structs around a header: as JSON they show the header's fields among their
/// own, and as a message they are the header alone.
fn own_json(header: Option<&ResponseHeader>) -> Object {
    Object::new().embed(header.map(header_json))
}

fn own_protobuf(header: &dyn Header) -> Option<Vec<u8>> {
    Some(header.header().encode_to_vec())
}

fn id_and_ttl(header: Option<&ResponseHeader>, id: i64, ttl: i64, style: Style) -> Text {
    let mut text = Text::default();
    text.header_fields(header, style);
    text.lease_field("ID", id, style);
    text.field("TTL", ttl);
    text
}

impl Answer for LeaseGrantResponse {
    fn simple(&self, _style: Style, text: &mut Text) {
        text.line(format!("lease {:016x} granted with TTL({}s)", self.id, self.ttl));
    }

    fn fields(&self, style: Style) -> Option<Text> {
        Some(id_and_ttl(self.header.as_ref(), self.id, self.ttl, style))
    }

    fn json(&self, _style: Style) -> Option<String> {
        let object = own_json(self.header.as_ref()).always_number("ID", self.id).always_number("TTL", self.ttl);
        Some(object.always_text("Error", &self.error).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        own_protobuf(self)
    }
}

impl Answer for LeaseKeepAliveResponse {
    fn simple(&self, _style: Style, text: &mut Text) {
        text.line(format!("lease {:016x} keepalived with TTL({})", self.id, self.ttl));
    }

    fn fields(&self, style: Style) -> Option<Text> {
        Some(id_and_ttl(self.header.as_ref(), self.id, self.ttl, style))
    }

    fn json(&self, _style: Style) -> Option<String> {
        let object = own_json(self.header.as_ref()).always_number("ID", self.id).always_number("TTL", self.ttl);
        Some(object.finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        own_protobuf(self)
    }
}

struct Revoked {
    id: i64,
    answer: LeaseRevokeResponse,
}

impl Answer for Revoked {
    fn simple(&self, _style: Style, text: &mut Text) {
        text.line(format!("lease {:016x} revoked", self.id));
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(self.answer.header.as_ref(), style);
        Some(text)
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(with_header(self.answer.header.as_ref()).finish())
    }
}

struct Remaining {
    with_keys: bool,
    answer: LeaseTimeToLiveResponse,
}

impl Answer for Remaining {
    fn simple(&self, _style: Style, text: &mut Text) {
        let LeaseTimeToLiveResponse { id, ttl, granted_ttl, keys, .. } = &self.answer;
        if *granted_ttl == 0 && *ttl == -1 {
            return text.line(format!("lease {id:016x} already expired"));
        }
        let mut line = format!("lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)").into_bytes();
        if self.with_keys {
            let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            line.extend_from_slice(b", attached keys([");
            line.extend(keys.join(&b' '));
            line.extend_from_slice(b"])");
        }
        text.line(line);
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys } = &self.answer;
        let mut text = id_and_ttl(header.as_ref(), *id, *ttl, style);
        text.field("GrantedTTL", granted_ttl);
        keys.iter().for_each(|key| text.quoted_field("Key", key));
        Some(text)
    }

    fn json(&self, _style: Style) -> Option<String> {
        let LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys } = &self.answer;
        let keys = match keys.is_empty() {
            true => "null".to_owned(),
            false => json::list(keys.iter().map(|key| json::bytes(key))),
        };
        let object = own_json(header.as_ref()).always_number("id", *id).always_number("ttl", *ttl);
        Some(object.always_number("granted-ttl", *granted_ttl).raw("keys", &keys).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        own_protobuf(&self.answer)
    }
}

impl Answer for LeaseLeasesResponse {
    fn simple(&self, _style: Style, text: &mut Text) {
        text.line(format!("found {} leases", self.leases.len()));
        self.leases.iter().for_each(|lease| text.line(format!("{:016x}", lease.id)));
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(self.header.as_ref(), style);
        self.leases.iter().for_each(|lease| text.lease_field("ID", lease.id, style));
        Some(text)
    }

    fn json(&self, _style: Style) -> Option<String> {
        let leases = self.leases.iter().map(|lease| Object::new().always_number("id", lease.id).finish());
        Some(own_json(self.header.as_ref()).raw("leases", &json::list(leases)).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        own_protobuf(self)
    }
}
