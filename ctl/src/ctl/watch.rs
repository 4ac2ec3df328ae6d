//! `watch`: prints what happens to keys until interrupted, and runs a command for each event if asked to.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::Duration;

use kvorum_api::etcdserverpb::WatchResponse as Message;
use kvorum_client::response::ResponseHeader;
use kvorum_client::{Client, Event, EventExt as _, EventType, Watch, WatchError, WatchResponse};
use prost::Message as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::child;
use super::messages::{header_json, key_value_json};
use super::output::{Answer, Printer, Style, Text, print_bytes};
use super::session::{Session, error_text, failure};
use super::txn::split;
use super::{KEY_VALUE, session};
use crate::command::{
    Action, Command, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_INVALID_INPUT, Failure, Flag, Parsed, Word, parse_flags,
};
use crate::golang::{self, json, json::Object};

const INTERACTIVE: Flag = Flag::switch("interactive", "read watches from standard input, line by line").short('i');
const PREFIX: Flag = Flag::switch("prefix", "all keys that begin with <key>");
const REV: Flag = Flag::number("rev", "begin with the events of this revision");
const PREV_KV: Flag = Flag::switch("prev-kv", "also print what the key held before");
const PROGRESS_NOTIFY: Flag = Flag::switch("progress-notify", "say now and then how far the watch is");

pub const COMMAND: Command = Command {
    name: "watch",
    operands: "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
    about: "Prints what happens to keys",
    long: "Prints what happens to a key, or to the keys from one up to another, until interrupted. The key may also come\n\
           from KVORUMCTL_WATCH_KEY and KVORUMCTL_WATCH_RANGE_END (or ETCDCTL_...).\n\nThe command behind -- is run for \
           each event, which it finds in ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE,\nETCD_WATCH_KEY and ETCD_WATCH_VALUE.\n\
           \nWith --interactive, each line of standard input is such a watch, or asks for \"progress\":\n\n  \
           watch --prefix --rev 5 \"a key\"\n  watch key -- ./changed.sh\n  progress",
    heading: KEY_VALUE,
    flags: &[INTERACTIVE, PREFIX, REV, PREV_KV, PROGRESS_NOTIFY],
    action: Action::Perform(run),
};

/// How long the making of a watch may take: as in etcdctl, it is tried for ever.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

const BAD_NUMBER: &str = "bad number of arguments";
const CONFLICT: &str = "bad number of arguments (found conflicting environment key)";
const NO_COMMAND: &str = "bad number of arguments (found separator --, but no commands)";

/// A key and an end in the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Environment {
    key: Option<Word>,
    end: Option<Word>,
}

/// A watch to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    key: Word,
    end: Option<Word>,
    prefix: bool,
    revision: i64,
    previous: bool,
    progress: bool,
    command: Vec<Word>,
}

fn run(parsed: &Parsed) -> Result<(), Failure> {
    let environment = Environment::read()?;
    if parsed.is_set(&INTERACTIVE) {
        return session::run(parsed, async |session| interact(&session, &environment).await);
    }
    let request = Request::read(parsed, &environment)?;
    session::run(parsed, async |session| {
        follow(&session.client, session.printer, request).await?;
        Err(Failure::new(EXIT_INTERRUPTED, "watch is canceled by the server"))
    })
}

impl Environment {
    fn read() -> Result<Self, Failure> {
        let variable = |name: &str| {
            let of =
                |beginning: &str| std::env::var_os(format!("{beginning}_{name}")).filter(|value| !value.is_empty());
            of("KVORUMCTL").or_else(|| of("ETCDCTL")).map(|value| Word::from(value.into_vec()))
        };
        let (key, end) = (variable("WATCH_KEY"), variable("WATCH_RANGE_END"));
        match (&key, &end) {
            (None, Some(end)) => {
                let end = golang::quote(end.bytes());
                let text = format!("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}");
                Err(Failure::usage(text))
            }
            _ => Ok(Self { key, end }),
        }
    }
}

impl Request {
    fn read(parsed: &Parsed, environment: &Environment) -> Result<Self, Failure> {
        let (own, command) = match parsed.separator {
            Some(separator) => parsed.operands.split_at(separator),
            None => (&parsed.operands[..], &[][..]),
        };
        if parsed.separator.is_some() && command.is_empty() {
            return Err(Failure::usage(NO_COMMAND));
        }
        if environment.key.is_some() && !own.is_empty() {
            return Err(Failure::usage(CONFLICT));
        }
        let (key, end) = match (&environment.key, own) {
            (Some(key), _) => (key, environment.end.as_ref()),
            // As in etcdctl, what is too much is passed over.
            (None, [key, end]) => (key, Some(end)),
            (None, [key, ..]) => (key, None),
            (None, []) => return Err(Failure::usage(BAD_NUMBER)),
        };
        let prefix = parsed.is_set(&PREFIX);
        if prefix && end.is_some() {
            return Err(Failure::usage("`range_end` and `--prefix` are mutually exclusive"));
        }
        Ok(Self {
            key: key.clone(),
            end: end.cloned(),
            prefix,
            revision: parsed.number(&REV),
            previous: parsed.is_set(&PREV_KV),
            progress: parsed.is_set(&PROGRESS_NOTIFY),
            command: command.to_vec(),
        })
    }

    async fn make(&self, client: &Client) -> Result<Watch, WatchError> {
        let mut watch = client.watcher().watch(self.key.bytes()).from_revision(self.revision);
        if let Some(end) = &self.end {
            watch = watch.to(end.bytes());
        }
        if self.prefix {
            watch = watch.prefix();
        }
        if self.previous {
            watch = watch.with_previous();
        }
        if self.progress {
            watch = watch.with_progress();
        }
        watch.await
    }
}

/// Reads watches and requests for progress until there is no more input.
async fn interact(session: &Session, environment: &Environment) -> Result<(), Failure> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut watches = tokio::task::JoinSet::new();
    // Kept over turns of the loop: a line may come in pieces.
    let mut bytes = Vec::new();
    loop {
        tokio::select! {
            read = input.read_until(b'\n', &mut bytes) => match read {
                Ok(_) if bytes.last() == Some(&b'\n') => bytes.pop(),
                Ok(_) => return Err(unreadable("EOF")),
                Err(error) => return Err(unreadable(&error.to_string())),
            },
            // Only a command that failed ends the others.
            Some(ended) = watches.join_next() => match ended {
                Ok(Err(failure)) => return Err(failure),
                _ => continue,
            },
        };
        let line = String::from_utf8_lossy(&std::mem::take(&mut bytes)).into_owned();
        let words = split(&line)?;
        match words.first().map(|word| &**word) {
            None => eprintln!("Invalid command: {line} (watch and progress supported)"),
            Some("watch") if words.len() < 2 && environment.key.is_none() => {
                eprintln!("Invalid command {line} (command type or key is not provided)");
            }
            Some("watch") => {
                let parsed = parse_flags(&COMMAND_FLAGS, &words[1..]).map_err(Failure::usage)?;
                let request = Request::read(&parsed, environment)?;
                let client = session.client.with_timeout(FOR_EVER);
                let watch = request.make(&client).await;
                watches.spawn(print_all(watch, session.printer, request.command));
            }
            Some("progress") => session.client.watcher().request_progress(),
            Some(_) => eprintln!("Invalid command {line} (only support watch)"),
        }
    }
}

static COMMAND_FLAGS: Command = COMMAND;

fn unreadable(why: &str) -> Failure {
    Failure::new(EXIT_INVALID_INPUT, format!("error reading watch request line: {why}"))
}

async fn follow(client: &Client, printer: Printer, request: Request) -> Result<(), Failure> {
    let watch = request.make(&client.with_timeout(FOR_EVER)).await;
    print_all(watch, printer, request.command).await
}

/// Prints all answers of a watch up to and with its end, and runs the command for each event.
async fn print_all(watch: Result<Watch, WatchError>, printer: Printer, command: Vec<Word>) -> Result<(), Failure> {
    let mut watch = match watch {
        Ok(watch) => watch,
        Err(error) => return print_end(printer, &error),
    };
    while let Some(response) = watch.next().await {
        match response {
            Ok(response) => {
                if response.is_progress() {
                    print_bytes(format!("progress notify: {}\n", response.header.revision).as_bytes())?;
                }
                printer.print(&response)?;
                for event in response.events.iter().filter(|_| !command.is_empty()) {
                    run_for(&command, response.header.revision, event).await?;
                }
            }
            Err(error) => return print_end(printer, &error),
        }
    }
    Ok(())
}

fn print_end(printer: Printer, error: &WatchError) -> Result<(), Failure> {
    let ended = match error {
        WatchError::Compacted { revision, header } => Ended {
            header: *header,
            compact_revision: *revision,
            text: kvorum_client::EtcdError::Compacted.text().to_owned(),
        },
        // clientv3 keeps nothing of such an answer but that it came.
        WatchError::Cancelled(error) => {
            Ended { header: ResponseHeader::default(), compact_revision: 0, text: error_text(error) }
        }
        // Nothing of the server's is there to be printed.
        error => {
            let failed = |error| failure(EXIT_ERROR, error);
            return Err(error.error().map_or_else(|| Failure::new(EXIT_ERROR, error.to_string()), failed));
        }
    };
    eprintln!("watch was canceled ({})", ended.text);
    printer.print(&ended)
}

async fn run_for(command: &[Word], revision: i64, event: &Event) -> Result<(), Failure> {
    let revision = revision.to_string();
    let kind = golang::quote(type_name(event).as_bytes());
    let (key, value) = (golang::quote(event.key()), golang::quote(event.value()));
    let environment = [
        ("ETCD_WATCH_REVISION", OsStr::new(&revision)),
        ("ETCD_WATCH_EVENT_TYPE", OsStr::new(&kind)),
        ("ETCD_WATCH_KEY", OsStr::from_bytes(key.as_bytes())),
        ("ETCD_WATCH_VALUE", OsStr::from_bytes(value.as_bytes())),
    ];
    child::run(command, environment).await.map_err(|error| {
        let words: Vec<String> = command.iter().map(|word| golang::quote(word.bytes())).collect();
        eprintln!("command [{}] error ({error})", words.join(" "));
        Failure::silent(EXIT_ERROR)
    })
}

fn type_name(event: &Event) -> &'static str {
    match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
    }
}

/// clientv3's struct of a watch's answer, with its names; the reason of its end is not shown.
fn watch_json(header: &ResponseHeader, events: &[Event], compact_revision: i64, is_end: bool) -> String {
    let events = match events {
        [] => "null".to_owned(),
        events => json::list(events.iter().map(|event| {
            Object::new()
                .number("type", event.r#type)
                .object("kv", event.kv.as_ref().map(key_value_json))
                .object("prev_kv", event.prev_kv.as_ref().map(key_value_json))
                .finish()
        })),
    };
    Object::new()
        .raw("Header", &header_json(header).finish())
        .raw("Events", &events)
        .always_number("CompactRevision", compact_revision)
        .always_truth("Canceled", is_end)
        .always_truth("Created", false)
        .always_text("CancelReason", "")
        .finish()
}

impl Answer for WatchResponse {
    fn simple(&self, style: Style, text: &mut Text) {
        for event in &self.events {
            text.line(type_name(event));
            event.prev_kv.iter().for_each(|kv| text.key_value_lines(kv, style));
            text.key_value_lines(&event.kv.clone().unwrap_or_default(), style);
        }
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(Some(&self.header), style);
        for event in &self.events {
            text.field("Type", type_name(event));
            event.prev_kv.iter().for_each(|kv| text.key_value_fields("Prev", kv, style));
            text.key_value_fields("", &event.kv.clone().unwrap_or_default(), style);
        }
        Some(text)
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(watch_json(&self.header, &self.events, 0, false))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        let (header, events) = (Some(self.header), self.events.clone());
        Some(Message { header, events, ..Message::default() }.encode_to_vec())
    }
}

/// The server's word that a watch is over.
struct Ended {
    header: ResponseHeader,
    compact_revision: i64,
    text: String,
}

impl Answer for Ended {
    fn simple(&self, _style: Style, _text: &mut Text) {}

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(Some(&self.header), style);
        Some(text)
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(watch_json(&self.header, &[], self.compact_revision, true))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        let (header, compact_revision) = (Some(self.header), self.compact_revision);
        Some(Message { header, compact_revision, canceled: true, ..Message::default() }.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, key: Option<&str>) -> Result<(String, Option<String>, Vec<String>), String> {
        let words: Vec<Word> = line.split_whitespace().map(Word::from).collect();
        let parsed = parse_flags(&COMMAND_FLAGS, &words)?;
        let environment = Environment { key: key.map(Word::from), end: None };
        let request = Request::read(&parsed, &environment).map_err(|failure| failure.message)?;
        let command = request.command.iter().map(Word::to_string).collect();
        Ok((request.key.to_string(), request.end.map(|end| end.to_string()), command))
    }

    #[test]
    fn keys_and_commands_are_told_apart() {
        let cases = [
            ("foo", None, ("foo", None, &[][..])),
            ("foo bar --rev 1", None, ("foo", Some("bar"), &[])),
            ("foo --rev 1 bar -- echo foo bar", None, ("foo", Some("bar"), &["echo", "foo", "bar"])),
            ("foo -- echo echo", None, ("foo", None, &["echo", "echo"])),
            ("--rev=1 -- sh -c --prefix", Some("foo"), ("foo", None, &["sh", "-c", "--prefix"])),
            ("--prefix", Some("foo"), ("foo", None, &[])),
        ];
        for (line, key, (expected, end, command)) in cases {
            let command = command.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(read(line, key), Ok((expected.to_owned(), end.map(str::to_owned), command)), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_etcdctls_words() {
        let cases = [
            ("", None, BAD_NUMBER),
            ("--rev 1", None, BAD_NUMBER),
            ("-- echo", None, BAD_NUMBER),
            ("foo --", None, NO_COMMAND),
            ("foo", Some("foo"), CONFLICT),
            ("foo -- echo", Some("foo"), CONFLICT),
            ("foo bar --prefix", None, "`range_end` and `--prefix` are mutually exclusive"),
            (
                "foo --rev x",
                None,
                "invalid argument \"x\" for \"--rev\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
        ];
        for (line, key, text) in cases {
            assert_eq!(read(line, key), Err(text.to_owned()), "{line}");
        }
    }
}
