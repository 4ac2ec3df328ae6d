//! `get`: reads a key or a range of keys.

use kvorum_client::response::GetResponse;
use kvorum_client::{Client, Get, SortBy};

use super::output::{Format, Printer};
use super::session::Session;
use super::{KEY_VALUE, session};
use crate::command::{Action, Command, EXIT_BAD_FEATURE, Failure, Flag, Parsed};
use crate::golang;

const CONSISTENCY: Flag = Flag::text("consistency", "Linearizable(l) or Serializable(s)").or("l");
const ORDER: Flag = Flag::text("order", "the order of keys, ASCEND or DESCEND (ASCEND without it)");
const SORT_BY: Flag = Flag::text("sort-by", "what is sorted by: CREATE, KEY, MODIFY, VALUE or VERSION");
const LIMIT: Flag = Flag::number("limit", "how many keys at most");
const PREFIX: Flag = Flag::switch("prefix", "all keys that begin with <key>");
const FROM_KEY: Flag = Flag::switch("from-key", "<key> and all keys behind it, byte by byte");
const REV: Flag = Flag::number("rev", "as it was at this revision");
const KEYS_ONLY: Flag = Flag::switch("keys-only", "without values");
const COUNT_ONLY: Flag = Flag::switch("count-only", "only how many there are (with --write-out=fields)");
const PRINT_VALUE_ONLY: Flag = Flag::switch("print-value-only", "print no keys (with --write-out=simple)");
const MIN_CREATE_REV: Flag = Flag::number("min-create-rev", "leave out keys created before this revision");
const MAX_CREATE_REV: Flag = Flag::number("max-create-rev", "leave out keys created after this revision");
const MIN_MOD_REV: Flag = Flag::number("min-mod-rev", "leave out keys changed last before this revision");
const MAX_MOD_REV: Flag = Flag::number("max-mod-rev", "leave out keys changed last after this revision");
const STREAM: Flag = Flag::switch("stream", "read in pieces with RangeStream");

pub const COMMAND: Command = Command {
    name: "get",
    operands: "[options] <key> [range_end]",
    about: "Reads a key or a range of keys",
    heading: KEY_VALUE,
    flags: &[
        CONSISTENCY,
        ORDER,
        SORT_BY,
        LIMIT,
        PREFIX,
        FROM_KEY,
        REV,
        KEYS_ONLY,
        COUNT_ONLY,
        PRINT_VALUE_ONLY,
        MIN_CREATE_REV,
        MAX_CREATE_REV,
        MIN_MOD_REV,
        MAX_MOD_REV,
        STREAM,
    ],
    action: Action::Perform(run),
    ..Command::EMPTY
};

fn run(parsed: &Parsed) -> Result<(), Failure> {
    let get = request(parsed)?;
    session::run(parsed, async |session| {
        let Session { client, mut printer, .. } = session;
        let answer = match parsed.is_set(&STREAM) {
            true => streamed(&client, get).await?,
            false => client.kv().perform(get).await?.into_get().unwrap_or_default(),
        };
        check_format(parsed, &mut printer)?;
        printer.print(&answer)
    })
}

/// Some flags are for one format; that is looked at once there is an answer.
fn check_format(parsed: &Parsed, printer: &mut Printer) -> Result<(), Failure> {
    if parsed.is_set(&COUNT_ONLY) && printer.format != Format::Fields {
        return Err(Failure::usage("--count-only is only for `--write-out=fields`"));
    }
    if parsed.is_set(&PRINT_VALUE_ONLY) {
        if printer.format != Format::Simple {
            return Err(Failure::usage("print-value-only is only for `--write-out=simple`"));
        }
        printer.style.value_only = true;
    }
    Ok(())
}

/// All pieces of a range as one answer.
async fn streamed(client: &Client, get: Get) -> Result<GetResponse, Failure> {
    let mut whole = GetResponse::default();
    let mut chunks = client.kv().read(get).stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        whole.kvs.extend(chunk.kvs);
        whole.more = chunk.more;
        // Of pages, the first counts all; a stream of the server counts at its end.
        whole.count = whole.count.max(chunk.count);
        whole.header = whole.header.or(chunk.header);
    }
    Ok(whole)
}

/// `--consistency`.
///
/// # Errors
/// When it is none.
pub fn is_serializable(value: &str) -> Result<bool, Failure> {
    match value {
        "s" => Ok(true),
        "l" => Ok(false),
        _ => {
            let text = format!("unknown consistency flag {}", golang::quote(value.as_bytes()));
            Err(Failure::new(EXIT_BAD_FEATURE, text))
        }
    }
}

/// What the flags and operands ask for.
///
/// # Errors
/// What is wrong with them.
pub fn request(parsed: &Parsed) -> Result<Get, Failure> {
    let Some(key) = parsed.operands.first() else {
        let text = "get command needs one argument as key and an optional argument as range_end";
        return Err(Failure::usage(text));
    };
    let (prefix, from_key) = (parsed.is_set(&PREFIX), parsed.is_set(&FROM_KEY));
    if prefix && from_key {
        return Err(Failure::usage("`--prefix` and `--from-key` cannot be set at the same time, choose one"));
    }
    if parsed.is_set(&KEYS_ONLY) && parsed.is_set(&COUNT_ONLY) {
        return Err(Failure::usage("`--keys-only` and `--count-only` cannot be set at the same time, choose one"));
    }
    let mut get = Get::new(key.bytes());
    if is_serializable(parsed.value(&CONSISTENCY))? {
        get = get.serializable();
    }
    match parsed.operands.get(1) {
        Some(_) if prefix || from_key => {
            let text = "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";
            return Err(Failure::usage(text));
        }
        Some(end) => get = get.to(end.bytes()),
        None if prefix => get = get.prefix(),
        None if from_key => get = get.from_key(),
        None => {}
    }
    get = sorted(parsed, get.limit(parsed.number(&LIMIT)))?;
    if parsed.number(&REV) > 0 {
        get = get.at_revision(parsed.number(&REV));
    }
    if parsed.is_set(&KEYS_ONLY) {
        get = get.keys_only();
    }
    if parsed.is_set(&COUNT_ONLY) {
        get = get.count_only();
    }
    within_revisions(parsed, get)
}

fn sorted(parsed: &Parsed, get: Get) -> Result<Get, Failure> {
    let bad = |what: &str, value: &str| Failure::new(EXIT_BAD_FEATURE, format!("bad sort {what} {value}"));
    let order = parsed.value(&ORDER);
    let descends = match order.to_uppercase().as_str() {
        "" | "ASCEND" => false,
        "DESCEND" => true,
        _ => return Err(bad("order", order)),
    };
    let target = parsed.value(&SORT_BY);
    let by = match target.to_uppercase().as_str() {
        "CREATE" => SortBy::CreateRevision,
        "" | "KEY" => SortBy::Key,
        "MODIFY" => SortBy::ModRevision,
        "VALUE" => SortBy::Value,
        "VERSION" => SortBy::Version,
        _ => return Err(bad("target", target)),
    };
    Ok(if descends { get.descending_by(by) } else { get.ascending_by(by) })
}

fn within_revisions(parsed: &Parsed, mut get: Get) -> Result<Get, Failure> {
    let bounds = |min: &Flag, max: &Flag, name: &str| {
        let (min, max) = (parsed.number(min).max(0), parsed.number(max).max(0));
        if max > 0 && min > max {
            let text = format!("getMin{name}Rev(={min}) > getMax{name}Rev(={max})");
            return Err(Failure::new(EXIT_BAD_FEATURE, text));
        }
        Ok((min, max))
    };
    let (min, max) = bounds(&MIN_CREATE_REV, &MAX_CREATE_REV, "Create")?;
    get = get.min_create_revision(min).max_create_revision(max);
    let (min, max) = bounds(&MIN_MOD_REV, &MAX_MOD_REV, "Mod")?;
    Ok(get.min_mod_revision(min).max_mod_revision(max))
}
