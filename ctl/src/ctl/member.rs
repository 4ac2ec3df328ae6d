//! `member`: who belongs to the cluster, and changes of it.

use kvorum_client::MemberId;
use kvorum_client::response::{
    Member, MemberAddResponse, MemberListResponse, MemberPromoteResponse, MemberRemoveResponse, MemberUpdateResponse,
    ResponseHeader,
};
use prost::Message as _;

use super::get::is_serializable;
use super::messages::header_json;
use super::output::{Answer, Format, Style, Text, print_bytes};
use super::{CLUSTER, session};
use crate::command::{Action, Command, EXIT_ERROR, Failure, Flag, Parsed};
use crate::golang::{self, json};
use crate::print;

const PEER_URLS: Flag = Flag::text("peer-urls", "the URLs that other members reach it at, with commas between them");
const LEARNER: Flag = Flag::switch("learner", "add it as a learner, which does not vote");
const CONSISTENCY: Flag = Flag::text("consistency", "Linearizable(l) or Serializable(s)").or("l");

pub const COMMAND: Command = Command {
    name: "member",
    operands: "<subcommand>",
    about: "The members of the cluster",
    heading: CLUSTER,
    action: Action::Group(&[
        Command {
            name: "add",
            operands: "<memberName> [options]",
            about: "Adds a member to the cluster",
            flags: &[PEER_URLS, LEARNER],
            action: Action::Perform(add),
            ..Command::EMPTY
        },
        Command {
            name: "remove",
            operands: "<memberID>",
            about: "Removes a member from the cluster",
            action: Action::Perform(remove),
            ..Command::EMPTY
        },
        Command {
            name: "update",
            operands: "<memberID> [options]",
            about: "Changes the URLs of a member",
            flags: &[PEER_URLS],
            action: Action::Perform(update),
            ..Command::EMPTY
        },
        Command {
            name: "list",
            about: "Lists the members of the cluster",
            long: "Lists the members of the cluster. In the simple format these are, with commas between them: ID, Status,\n\
                   Name, Peer Addrs, Client Addrs, Is Learner.",
            flags: &[CONSISTENCY],
            action: Action::Perform(list),
            ..Command::EMPTY
        },
        Command {
            name: "promote",
            operands: "<memberID>",
            about: "Makes a learner a member that votes",
            action: Action::Perform(promote),
            ..Command::EMPTY
        },
    ]),
    ..Command::EMPTY
};

fn add(parsed: &Parsed) -> Result<(), Failure> {
    let name = match &parsed.operands[..] {
        [] => return Err(Failure::usage("member name not provided")),
        [name] => name.to_string(),
        names => {
            let mut text = "too many arguments".to_owned();
            for url in names.iter().filter(|name| name.to_lowercase().starts_with("http")) {
                text += &format!(", did you mean --peer-urls={url}");
            }
            return Err(Failure::usage(text));
        }
    };
    let urls = peer_urls(parsed)?;
    session::run(parsed, async |session| {
        let cluster = session.client.cluster();
        let answer = match parsed.is_set(&LEARNER) {
            true => cluster.add_learner(&urls).await?,
            false => cluster.add(&urls).await?,
        };
        session.printer.print(&answer)?;
        if session.printer.format != Format::Simple {
            return Ok(());
        }
        print_bytes(start_settings(&name, parsed.value(&PEER_URLS), &answer).as_bytes())
    })
}

/// The variables that the new member is started with.
fn start_settings(name: &str, urls: &str, answer: &MemberAddResponse) -> String {
    let new_id = answer.member.as_ref().map(|member| member.id);
    let with_names = answer.members.iter().flat_map(|member| {
        let name = if Some(member.id) == new_id { name } else { &member.name };
        member.peer_urls.iter().map(move |url| format!("{name}={url}"))
    });
    let cluster = with_names.collect::<Vec<_>>().join(",");
    let quote = |text: &str| golang::quote(text.as_bytes());
    format!(
        "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\n\
         ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        quote(name),
        quote(&cluster),
        quote(urls)
    )
}

fn peer_urls(parsed: &Parsed) -> Result<Vec<String>, Failure> {
    match parsed.value(&PEER_URLS) {
        "" => Err(Failure::usage("member peer urls not provided")),
        urls => {
            urls.split(',').try_for_each(check_url).map_err(|text| Failure::new(EXIT_ERROR, text))?;
            Ok(urls.split(',').map(str::to_owned).collect())
        }
    }
}

/// As clientv3 checks a URL before it asks the cluster, with Go's texts for what is commonly mistyped.
fn check_url(url: &str) -> Result<(), String> {
    let url = url.trim();
    let quoted = golang::quote(url.as_bytes());
    let is_letter = |character: char| character.is_ascii_alphanumeric() || "+-.".contains(character);
    let colon = url.find(|character| !is_letter(character)).filter(|at| url[*at..].starts_with(':'));
    let (scheme, rest) = match colon {
        Some(0) => return Err(format!("parse {quoted}: missing protocol scheme")),
        Some(colon) if url.starts_with(|first: char| first.is_ascii_alphabetic()) => {
            (url[..colon].to_ascii_lowercase(), &url[colon + 1..])
        }
        _ => (String::new(), url),
    };
    let is_colon_in_path = rest.split('/').next().is_some_and(|segment| segment.contains(':'));
    if scheme.is_empty() && is_colon_in_path {
        return Err(format!("parse {quoted}: first path segment in URL cannot contain colon"));
    }
    match scheme.as_str() {
        "unix" | "unixs" => return Ok(()),
        "http" | "https" => {}
        _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {url}")),
    }
    let rest = rest.strip_prefix("//").unwrap_or_default();
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    // Colons in brackets are an address of IPv6.
    let is_bracketed = host.starts_with('[');
    let (name, port) = if is_bracketed { host.rsplit_once(':') } else { host.split_once(':') }.unwrap_or((host, ""));
    if !port.chars().all(|character| character.is_ascii_digit()) {
        return Err(format!(
            "parse {quoted}: invalid port {} after host",
            golang::quote(format!(":{port}").as_bytes())
        ));
    }
    if !host.contains(':') || (is_bracketed && !name.ends_with(']')) {
        return Err(format!("URL address does not have the form \"host:port\": {url}"));
    }
    if path.starts_with('/') { Err(format!("URL must not contain a path: {url}")) } else { Ok(()) }
}

/// The member that the only operand names.
fn id(parsed: &Parsed) -> Result<MemberId, Failure> {
    let [id] = &parsed.operands[..] else {
        return Err(Failure::usage("member ID is not provided"));
    };
    let bad = |error| Failure::usage(format!("bad member ID arg ({error}), expecting ID in Hex"));
    golang::parse_uint(id, 16).map(MemberId).map_err(bad)
}

fn remove(parsed: &Parsed) -> Result<(), Failure> {
    let id = id(parsed)?;
    session::run(parsed, async |session| {
        let MemberRemoveResponse { header, members } = session.client.cluster().remove(id).await?;
        session.printer.print(&Changed { id, what: "removed from", header, members })
    })
}

fn update(parsed: &Parsed) -> Result<(), Failure> {
    let id = id(parsed)?;
    let urls = peer_urls(parsed)?;
    session::run(parsed, async |session| {
        let MemberUpdateResponse { header, members } = session.client.cluster().update(id, &urls).await?;
        session.printer.print(&Changed { id, what: "updated in", header, members })
    })
}

fn promote(parsed: &Parsed) -> Result<(), Failure> {
    let id = id(parsed)?;
    session::run(parsed, async |session| {
        let MemberPromoteResponse { header, members } = session.client.cluster().promote(id).await?;
        session.printer.print(&Changed { id, what: "promoted in", header, members })
    })
}

fn list(parsed: &Parsed) -> Result<(), Failure> {
    let is_serializable = is_serializable(parsed.value(&CONSISTENCY))?;
    session::run(parsed, async |session| {
        let list = session.client.cluster().members();
        let answer = if is_serializable { list.serializable().await } else { list.await };
        session.printer.print(&answer?)
    })
}

fn cluster_of(header: Option<&ResponseHeader>) -> u64 {
    header.copied().unwrap_or_default().cluster_id
}

fn members_json(header: Option<&ResponseHeader>, members: &[Member], style: Style) -> json::Object {
    with_header(header, style).embed(Some(only_members_json(members, style)))
}

/// With `--hex`, ids are text and nothing but a revision is left out.
fn with_header(header: Option<&ResponseHeader>, style: Style) -> json::Object {
    let header = header.map(|header| match style.is_hex {
        false => header_json(header),
        true => json::Object::new()
            .always_text("cluster_id", &format!("{:x}", header.cluster_id))
            .always_text("member_id", &format!("{:x}", header.member_id))
            .number("revision", header.revision)
            .number("raft_term", header.raft_term),
    });
    json::Object::new().object("header", header)
}

fn only_members_json(members: &[Member], style: Style) -> json::Object {
    let list = members.iter().map(|member| member_json(member, style).finish());
    match style.is_hex {
        true => json::Object::new().raw("members", &json::list(list)),
        false => json::Object::new().list("members", list),
    }
}

fn member_json(member: &Member, style: Style) -> json::Object {
    let object = match style.is_hex {
        true => json::Object::new().always_text("ID", &format!("{:x}", member.id)),
        false => json::Object::new().number("ID", member.id),
    };
    object
        .text("name", &member.name)
        .list("peerURLs", member.peer_urls.iter().map(|url| json::text(url)))
        .list("clientURLs", member.client_urls.iter().map(|url| json::text(url)))
        .truth("isLearner", member.is_learner)
}

impl Answer for MemberAddResponse {
    fn simple(&self, _: Style, text: &mut Text) {
        let member = self.member.clone().unwrap_or_default();
        let as_what = if member.is_learner { " as learner " } else { " " };
        let cluster = cluster_of(self.header.as_ref());
        text.line(format!("Member {:16x} added{as_what}to cluster {cluster:16x}", member.id));
    }

    fn json(&self, style: Style) -> Option<String> {
        let member = self.member.as_ref().map(|member| member_json(member, style));
        let object = with_header(self.header.as_ref(), style).object("member", member);
        Some(object.embed(Some(only_members_json(&self.members, style))).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

/// The answer to every other change.
struct Changed {
    id: MemberId,
    what: &'static str,
    header: Option<ResponseHeader>,
    members: Vec<Member>,
}

impl Answer for Changed {
    fn simple(&self, _: Style, text: &mut Text) {
        let cluster = cluster_of(self.header.as_ref());
        text.line(format!("Member {:16x} {} cluster {cluster:16x}", self.id.0, self.what));
    }

    fn json(&self, style: Style) -> Option<String> {
        Some(members_json(self.header.as_ref(), &self.members, style).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        // The answers are of one shape.
        Some(MemberListResponse { header: self.header, members: self.members.clone() }.encode_to_vec())
    }
}

fn row(member: &Member) -> Vec<String> {
    vec![
        format!("{:x}", member.id),
        if member.name.is_empty() { "unstarted" } else { "started" }.to_owned(),
        member.name.clone(),
        member.peer_urls.join(","),
        member.client_urls.join(","),
        member.is_learner.to_string(),
    ]
}

impl Answer for MemberListResponse {
    fn simple(&self, _: Style, text: &mut Text) {
        self.members.iter().for_each(|member| text.line(row(member).join(", ")));
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(self.header.as_ref(), style);
        for member in &self.members {
            text.id_field("ID", member.id, style);
            text.quoted_field("Name", member.name.as_bytes());
            member.peer_urls.iter().for_each(|url| text.quoted_field("PeerURL", url.as_bytes()));
            member.client_urls.iter().for_each(|url| text.quoted_field("ClientURL", url.as_bytes()));
            text.field("IsLearner", member.is_learner);
            text.line("");
        }
        Some(text)
    }

    fn json(&self, style: Style) -> Option<String> {
        Some(members_json(self.header.as_ref(), &self.members, style).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }

    fn table(&self, _: Style) -> Option<String> {
        let rows: Vec<_> = self.members.iter().map(row).collect();
        Some(print::table(&["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"], &rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_refused_in_gos_words() {
        for url in ["http://127.0.0.1:1", " https://[::1]:2380", "unix:anything", "HTTP://name:1"] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for (url, text) in [
            ("127.0.0.1:1", "parse \"127.0.0.1:1\": first path segment in URL cannot contain colon"),
            ("name", "URL scheme must be http, https, unix, or unixs: name"),
            ("http://name", "URL address does not have the form \"host:port\": http://name"),
            ("http://name:1/path", "URL must not contain a path: http://name:1/path"),
            ("http://name:x", "parse \"http://name:x\": invalid port \":x\" after host"),
            ("://name:1", "parse \"://name:1\": missing protocol scheme"),
        ] {
            assert_eq!(check_url(url), Err(text.to_owned()), "{url}");
        }
    }
}
