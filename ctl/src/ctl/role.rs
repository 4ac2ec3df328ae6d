//! `role`: what those may do that have it.

use kvorum_api::authpb::Permission as Granted;
use kvorum_api::authpb::permission::Type;
use kvorum_client::response::{AuthRoleGetResponse, AuthRoleListResponse};
use kvorum_client::{Permission, prefix_end};
use prost::Message as _;

use super::auth::Done;
use super::messages::with_header;
use super::output::{Answer, Style, Text};
use super::{AUTHENTICATION, session};
use crate::command::{Action, Command, Failure, Flag, Parsed, Word};
use crate::golang::{self, json};

const PREFIX: Flag = Flag::switch("prefix", "for all keys that begin with <key>");
const FROM_KEY: Flag = Flag::switch("from-key", "for <key> and all keys behind it, byte by byte");

/// The end of a range that has none.
const NO_END: &[u8] = b"\0";

pub const COMMAND: Command = Command {
    name: "role",
    operands: "<subcommand>",
    about: "The roles and what they may do",
    heading: AUTHENTICATION,
    action: Action::Group(&[
        Command {
            name: "add",
            operands: "<role name>",
            about: "Adds a role",
            action: Action::Perform(add),
            ..Command::EMPTY
        },
        Command {
            name: "delete",
            operands: "<role name>",
            about: "Deletes a role",
            action: Action::Perform(delete),
            ..Command::EMPTY
        },
        Command {
            name: "get",
            operands: "<role name>",
            about: "Prints what a role may do",
            action: Action::Perform(get),
            ..Command::EMPTY
        },
        Command { name: "list", about: "Lists all roles", action: Action::Perform(list), ..Command::EMPTY },
        Command {
            name: "grant-permission",
            operands: "[options] <role name> <permission type> <key> [endkey]",
            about: "Gives a role the right to read, write or readwrite keys",
            flags: &[PREFIX, FROM_KEY],
            action: Action::Perform(grant_permission),
            ..Command::EMPTY
        },
        Command {
            name: "revoke-permission",
            operands: "<role name> <key> [endkey]",
            about: "Takes the right to keys from a role",
            flags: &[PREFIX, FROM_KEY],
            action: Action::Perform(revoke_permission),
            ..Command::EMPTY
        },
    ]),
    ..Command::EMPTY
};

fn name(parsed: &Parsed, command: &str) -> Result<String, Failure> {
    match &parsed.operands[..] {
        [name] => Ok(name.to_string()),
        _ => Err(Failure::usage(format!("role {command} command requires role name as its argument"))),
    }
}

fn add(parsed: &Parsed) -> Result<(), Failure> {
    let role = name(parsed, "add")?;
    session::run(parsed, async |session| {
        let answer = session.client.auth().add_role(&role).await?;
        session.printer.print(&Done { text: format!("Role {role} created"), header: answer.header })
    })
}

fn delete(parsed: &Parsed) -> Result<(), Failure> {
    let role = name(parsed, "delete")?;
    session::run(parsed, async |session| {
        let answer = session.client.auth().delete_role(&role).await?;
        session.printer.print(&Done { text: format!("Role {role} deleted"), header: answer.header })
    })
}

fn get(parsed: &Parsed) -> Result<(), Failure> {
    let role = name(parsed, "get")?;
    session::run(parsed, async |session| {
        let answer = session.client.auth().role(&role).await?;
        session.printer.print(&RoleAnswer { role, answer })
    })
}

fn list(parsed: &Parsed) -> Result<(), Failure> {
    if !parsed.operands.is_empty() {
        return Err(Failure::usage("role list command requires no arguments"));
    }
    session::run(parsed, async |session| {
        let answer = session.client.auth().roles().await?;
        session.printer.print(&answer)
    })
}

fn grant_permission(parsed: &Parsed) -> Result<(), Failure> {
    let [role, kind, keys @ ..] = &parsed.operands[..] else {
        return Err(grant_usage());
    };
    if keys.is_empty() {
        return Err(grant_usage());
    }
    let kind = Type::from_str_name(&kind.to_uppercase())
        .ok_or_else(|| Failure::usage(format!("invalid permission type: {kind}")))?;
    let (key, end) = range(parsed, keys)?;
    session::run(parsed, async |session| {
        let permission = match kind {
            Type::Read => Permission::read(key),
            Type::Write => Permission::write(key),
            Type::Readwrite => Permission::read_write(key),
        };
        let answer = session.client.auth().grant_permission(role, permission.to(end)).await?;
        session.printer.print(&Done { text: format!("Role {role} updated"), header: answer.header })
    })
}

fn grant_usage() -> Failure {
    Failure::usage("role grant command requires role name, permission type, and key [endkey] as its argument")
}

fn revoke_permission(parsed: &Parsed) -> Result<(), Failure> {
    let [role, keys @ ..] = &parsed.operands[..] else {
        return Err(revoke_usage());
    };
    let Some(typed_key) = keys.first() else { return Err(revoke_usage()) };
    let (key, end) = range(parsed, keys)?;
    session::run(parsed, async |session| {
        let permission = Permission::read(key).to(end.clone());
        let answer = session.client.auth().revoke_permission(role, permission).await?;
        let end = String::from_utf8_lossy(&end);
        let text = match end.as_bytes() {
            b"" => format!("Permission of key {typed_key} is revoked from role {role}"),
            NO_END => format!("Permission of range [{typed_key}, <open ended> is revoked from role {role}"),
            _ => format!("Permission of range [{typed_key}, {end}) is revoked from role {role}"),
        };
        session.printer.print(&Done { text, header: answer.header })
    })
}

fn revoke_usage() -> Failure {
    Failure::usage("role revoke-permission command requires role name and key [endkey] as its argument")
}

/// The range that a key, perhaps an end, and the flags name. Behind an empty key begins everything, which is not an empty
/// key for the cluster but a zero byte.
fn range(parsed: &Parsed, keys: &[Word]) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let (is_prefix, is_from_key) = (parsed.is_set(&PREFIX), parsed.is_set(&FROM_KEY));
    let both = || Failure::usage("--from-key and --prefix flags are mutually exclusive");
    let key = keys.first().map(|key| key.bytes().to_vec()).unwrap_or_default();
    if key.is_empty() {
        return match (is_prefix, is_from_key) {
            (true, true) => Err(both()),
            (false, false) => Ok((NO_END.to_vec(), Vec::new())),
            _ => Ok((NO_END.to_vec(), NO_END.to_vec())),
        };
    }
    let end = match (keys.get(1), is_prefix, is_from_key) {
        (None, true, true) => return Err(both()),
        (None, true, false) => prefix_end(&key).to_vec(),
        (None, false, true) => NO_END.to_vec(),
        (None, false, false) => Vec::new(),
        (Some(_), true, _) => return Err(Failure::usage("unexpected endkey argument with --prefix flag")),
        (Some(_), _, true) => return Err(Failure::usage("unexpected endkey argument with --from-key flag")),
        (Some(end), _, _) => end.bytes().to_vec(),
    };
    Ok((key, end))
}

/// What a role may do.
pub struct RoleAnswer {
    pub role: String,
    pub answer: AuthRoleGetResponse,
}

impl Answer for RoleAnswer {
    fn simple(&self, _: Style, text: &mut Text) {
        const ROOT: &str = "root";
        const KINDS: [(&str, Type); 2] = [("KV Read:", Type::Read), ("KV Write:", Type::Write)];
        text.line(format!("Role {}", self.role));
        for (heading, kind) in KINDS {
            text.line(heading);
            if self.role == ROOT && self.answer.perm.is_empty() {
                text.line("\t[, <open ended>");
            }
            let has_kind = |granted: &&Granted| [kind, Type::Readwrite].contains(&granted.perm_type());
            self.answer.perm.iter().filter(has_kind).for_each(|granted| text.line(range_line(granted)));
        }
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(self.answer.header.as_ref(), style);
        for granted in &self.answer.perm {
            // With two spaces, as etcdctl.
            text.field("PermType", format_args!(" {}", granted.perm_type().as_str_name()));
            text.quoted_field("Key", &granted.key);
            text.quoted_field("RangeEnd", &granted.range_end);
        }
        Some(text)
    }

    fn json(&self, _: Style) -> Option<String> {
        let one = |granted: &Granted| {
            let object = json::Object::new().number("permType", granted.perm_type).bytes("key", &granted.key);
            object.bytes("range_end", &granted.range_end).finish()
        };
        Some(with_header(self.answer.header.as_ref()).list("perm", self.answer.perm.iter().map(one)).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}

/// `[b, c) (prefix b)`, or a single key.
fn range_line(granted: &Granted) -> Vec<u8> {
    let (key, end) = (&granted.key[..], &granted.range_end[..]);
    let mut line = b"\t".to_vec();
    if end.is_empty() {
        line.extend_from_slice(key);
        return line;
    }
    let parts: [&[u8]; 3] = if end == NO_END { [b", <open ended>", b"", b""] } else { [b", ", end, b")"] };
    line.push(b'[');
    line.extend_from_slice(key);
    parts.iter().for_each(|part| line.extend_from_slice(part));
    if !key.is_empty() && prefix_end(key) == end {
        line.extend_from_slice(b" (prefix ");
        line.extend_from_slice(key);
        line.push(b')');
    }
    line
}

impl Answer for AuthRoleListResponse {
    fn simple(&self, _: Style, text: &mut Text) {
        self.roles.iter().for_each(|role| text.line(role));
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(self.header.as_ref(), style);
        let roles = self.roles.iter().map(|role| format!(" {}", golang::quote(role.as_bytes())));
        text.line(format!("\"Roles\" :{}", roles.collect::<String>()));
        Some(text)
    }

    fn json(&self, _: Style) -> Option<String> {
        let roles = self.roles.iter().map(|role| json::text(role));
        Some(with_header(self.header.as_ref()).list("roles", roles).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}
