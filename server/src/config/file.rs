//! A configuration file in place of command line and variables, with etcd's names: those of flags, and sections for TLS and
//! sockets. A name that etcd does not know is passed over with a warning, as etcd passes over it without one; inside the
//! sections for TLS it is refused, since what it asks for would not be enforced.

use super::arguments::Values;
use super::flags::{self, Flag, Kind};
use super::yaml::{self, Node, Value};
use super::{NOT_YET, Notice, go};
use crate::log::{Level, Value as LogValue};
use crate::tls::TlsOptions;

/// What a file says beyond flags.
#[derive(Default)]
pub(super) struct Extras {
    pub client_allowed_cns: Vec<String>,
    pub client_skip_san_verification: bool,
}

impl Extras {
    pub fn apply(self, client_tls: &mut TlsOptions) {
        client_tls.allowed_cns = self.client_allowed_cns;
        client_tls.skip_client_san_verification = self.client_skip_san_verification;
    }
}

/// Flags that etcd reads from command line and variables alone.
const NOT_IN_FILES: &[&str] = &[
    "discovery-token",
    "discovery-endpoints",
    "discovery-dial-timeout",
    "discovery-request-timeout",
    "discovery-keepalive-time",
    "discovery-keepalive-timeout",
    "discovery-insecure-transport",
    "discovery-insecure-skip-tls-verify",
    "discovery-cert",
    "discovery-key",
    "discovery-cacert",
    "discovery-user",
    "discovery-password",
    "discovery-fallback",
    "raft-read-timeout",
    "raft-write-timeout",
    "socket-reuse-port",
    "socket-reuse-address",
    "config-file",
    "version",
];

/// The names in the sections for TLS, with what the flag is called for clients and for members.
const SECURITY: &[(&str, &str, &str)] = &[
    ("cert-file", "cert-file", "peer-cert-file"),
    ("key-file", "key-file", "peer-key-file"),
    ("client-cert-file", "client-cert-file", "peer-client-cert-file"),
    ("client-key-file", "client-key-file", "peer-client-key-file"),
    ("client-cert-auth", "client-cert-auth", "peer-client-cert-auth"),
    ("trusted-ca-file", "trusted-ca-file", "peer-trusted-ca-file"),
    ("auto-tls", "auto-tls", "peer-auto-tls"),
    ("allowed-cn", "", "peer-cert-allowed-cn"),
    ("allowed-hostname", "client-cert-allowed-hostname", "peer-cert-allowed-hostname"),
    ("skip-client-san-verification", "", "peer-skip-client-san-verification"),
];

/// Fills `values`, which hold the defaults. The error has the line, not the file.
pub(super) fn read(text: &str, values: &mut Values, notices: &mut Vec<Notice>) -> Result<Extras, String> {
    let mut extras = Extras::default();
    for (name, node) in yaml::parse(text)? {
        match name.as_str() {
            "client-transport-security" => read_security(&name, &node, values, Some(&mut extras))?,
            "peer-transport-security" => read_security(&name, &node, values, None)?,
            "socket-options" => read_section(&name, &node, |entry, node| match entry {
                "reuse-port" | "reuse-address" => set(values, &format!("socket-{entry}"), node),
                _ => Err(unknown(&name, entry, node)),
            })?,
            "discovery-config" if node.value != Value::Null => {
                return Err(format!("line {}: discovery-config {NOT_YET}", node.line));
            }
            _ if is_of_tls(&name) => {
                return Err(format!(
                    "line {}: {name} belongs into client-transport-security or peer-transport-security",
                    node.line
                ));
            }
            _ if flags::find(&name).is_some_and(|flag| flag.kind != Kind::Ignored) && !is_flag_alone(&name) => {
                set(values, &name, &node)?;
            }
            _ => notices.push(Notice::new(
                Level::Warn,
                "unrecognized name in the configuration file",
                vec![("name", LogValue::text(&name)), ("line", LogValue::Unsigned(node.line as u64))],
            )),
        }
    }
    // A command line without it has no default beside --listen-client-urls; a file has.
    values.keep_default("advertise-client-urls");
    Ok(extras)
}

fn is_flag_alone(name: &str) -> bool {
    NOT_IN_FILES.contains(&name)
}

fn is_of_tls(name: &str) -> bool {
    let crl = ["client-crl-file", "peer-crl-file"].contains(&name);
    crl || SECURITY.iter().any(|(entry, clients, peers)| [*entry, *clients, *peers].contains(&name) && !name.is_empty())
}

fn read_security(
    section: &str,
    node: &Node,
    values: &mut Values,
    mut extras: Option<&mut Extras>,
) -> Result<(), String> {
    read_section(section, node, |entry, node| {
        let Some((_, clients, peers)) = SECURITY.iter().find(|(name, _, _)| *name == entry) else {
            return Err(unknown(section, entry, node));
        };
        match (&mut extras, entry) {
            (None, _) => set(values, peers, node),
            (Some(extras), "allowed-cn") => {
                extras.client_allowed_cns = texts(entry, node)?;
                Ok(())
            }
            (Some(extras), "skip-client-san-verification") => {
                extras.client_skip_san_verification = bool(entry, node)?;
                Ok(())
            }
            (Some(_), _) => set(values, clients, node),
        }
    })
}

fn unknown(section: &str, entry: &str, node: &Node) -> String {
    format!("line {}: {section} has no {entry}", node.line)
}

fn read_section(
    section: &str,
    node: &Node,
    mut read: impl FnMut(&str, &Node) -> Result<(), String>,
) -> Result<(), String> {
    match &node.value {
        Value::Null => Ok(()),
        Value::Map(entries) => entries.iter().try_for_each(|(entry, node)| read(entry, node)),
        _ => Err(format!("line {}: invalid {section}", node.line)),
    }
}

/// Gives a flag the value of a node, whose kind must fit, as Go's decoder wants it.
fn set(values: &mut Values, name: &str, node: &Node) -> Result<(), String> {
    let flag: &'static Flag = flags::find(name).ok_or_else(|| format!("line {}: {name} is no name", node.line))?;
    if node.value == Value::Null {
        return Ok(());
    }
    let text = match flag.kind {
        Kind::Bool => bool(name, node)?.to_string(),
        Kind::Unsigned | Kind::Unsigned32 | Kind::Signed => number(name, node)?,
        Kind::Duration => format!("{}ns", number(name, node)?),
        Kind::TextSet if !matches!(name, "cors" | "host-whitelist") => texts(name, node)?.join(","),
        _ => text(name, node)?,
    };
    values.set(flag, &text).map_err(|reason| format!("line {}: invalid value of {name}: {reason}", node.line))
}

fn wrong(name: &str, node: &Node, wanted: &str) -> String {
    format!("line {}: {name} must be {wanted}", node.line)
}

fn text(name: &str, node: &Node) -> Result<String, String> {
    match &node.value {
        Value::Plain(text) | Value::Quoted(text) => Ok(text.clone()),
        _ => Err(wrong(name, node, "a text")),
    }
}

fn texts(name: &str, node: &Node) -> Result<Vec<String>, String> {
    match &node.value {
        Value::Null => Ok(Vec::new()),
        Value::List(items) => items.iter().map(|item| text(name, item)).collect(),
        _ => Err(wrong(name, node, "a list")),
    }
}

fn number(name: &str, node: &Node) -> Result<String, String> {
    match &node.value {
        Value::Plain(digits) if go::parse_signed(digits).is_ok() || go::parse_unsigned(digits).is_ok() => {
            Ok(digits.clone())
        }
        _ => Err(wrong(name, node, "a whole number")),
    }
}

/// YAML 1.1 knows more words for it than JSON, and so does etcd.
fn bool(name: &str, node: &Node) -> Result<bool, String> {
    match &node.value {
        Value::Null => Ok(false),
        Value::Plain(word) => match word.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Ok(true),
            "false" | "no" | "off" | "n" => Ok(false),
            _ => Err(wrong(name, node, "true or false")),
        },
        _ => Err(wrong(name, node, "true or false")),
    }
}
