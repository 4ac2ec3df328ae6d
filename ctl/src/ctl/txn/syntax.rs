//! The lines of a transaction: compares such as `mod("key") > "0"`, and requests as they are given to `get`, `put` and
//! `del`, with etcdctl's quoting.

use kvorum_client::{Compare, Op};

use crate::command::{Command, EXIT_INVALID_INPUT, Failure, Word, parse_flags};
use crate::ctl::{del, get, put};
use crate::golang;

/// What is compared, how, and with what.
type Comparison<'a> = (&'a str, Vec<u8>, String, Vec<u8>);

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(EXIT_INVALID_INPUT, text)
}

/// Splits a line at spaces, except in double quotes, which have Go's escapes, and single ones, which have none. A quote
/// within a word is part of it, and one that is not closed is passed over, as in etcdctl.
///
/// # Errors
/// When an escape is none.
pub fn split(line: &str) -> Result<Vec<Word>, Failure> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        match first {
            '"' => match double_quoted_length(rest) {
                Some(length) => {
                    let (bytes, _) = golang::unquote_first(&rest[..length]).map_err(invalid)?;
                    words.push(Word::from(bytes));
                    rest = &rest[length..];
                }
                None => rest = &rest[1..],
            },
            '\'' => match rest[1..].find('\'') {
                Some(length) => {
                    words.push(Word::from(&rest[1..=length]));
                    rest = &rest[length + 2..];
                }
                None => rest = &rest[1..],
            },
            _ if is_space(first) => rest = &rest[first.len_utf8()..],
            _ => {
                let length = rest.find(is_space).unwrap_or(rest.len());
                words.push(Word::from(&rest[..length]));
                rest = &rest[length..];
            }
        }
    }
    Ok(words)
}

/// The spaces that separate words; others are parts of them.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0c')
}

/// The length of the quoted text at the beginning, with its quotes; None when it is not closed.
fn double_quoted_length(text: &str) -> Option<usize> {
    let mut characters = text.char_indices().skip(1);
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return Some(position + 1),
            '\\' => drop(characters.next()),
            _ => {}
        }
    }
    None
}

/// A request of a transaction.
///
/// # Errors
/// What is wrong with the line.
pub fn request(line: &str) -> Result<Op, Failure> {
    static COMMANDS: [Command; 3] = [get::COMMAND, put::COMMAND, del::COMMAND];
    let words = split(line)?;
    let [name, words @ ..] = &words[..] else { return Err(invalid(format!("invalid txn compare request: {line}"))) };
    if words.is_empty() {
        return Err(invalid(format!("invalid txn compare request: {line}")));
    }
    let refuse = || invalid(format!("invalid txn request: {line}"));
    // The three begin with different letters.
    let command = COMMANDS.iter().find(|command| !name.is_empty() && command.name.starts_with(&**name));
    let command = command.ok_or_else(refuse)?;
    let parsed = parse_flags(command, words).map_err(|_| refuse())?;
    match command.name {
        "get" => get::request(&parsed).map(Op::from),
        "put" => put::request(&parsed, false).map(Op::from),
        _ => del::request(&parsed).map(Op::from),
    }
}

/// A compare of a transaction.
///
/// # Errors
/// What is wrong with the line.
pub fn compare(line: &str) -> Result<Compare, Failure> {
    let (target, key, operator, value) = comparison(line)?;
    let number = || {
        let number = std::str::from_utf8(&value).ok().and_then(|text| golang::parse_int(text, 10).ok());
        number.ok_or_else(|| invalid(format!("invalid txn compare request: {line}")))
    };
    let with = match target {
        "ver" | "version" => Compare::version(key),
        "c" | "create" => Compare::create_revision(key),
        "m" | "mod" => Compare::mod_revision(key),
        "val" | "value" => {
            let with = Compare::value(key);
            return match operator.as_str() {
                "=" => Ok(with.equals(value)),
                "!=" => Ok(with.differs_from(value)),
                ">" => Ok(with.greater_than(value)),
                "<" => Ok(with.less_than(value)),
                _ => Err(unknown_operator(line, &operator)),
            };
        }
        "lease" => {
            // In hexadecimal, as leases are everywhere else in these tools.
            let text = std::str::from_utf8(&value).unwrap_or_default();
            let lease = golang::parse_int(text, 16)
                .map_err(|error| invalid(format!("invalid txn compare request: {line} ({error})")))?;
            return against(Compare::lease(key), line, &operator, lease);
        }
        _ => return Err(invalid(format!("malformed comparison: {line} (unknown target {target})"))),
    };
    against(with, line, &operator, number()?)
}

fn against(
    with: kvorum_client::kv::CompareWith<i64>,
    line: &str,
    operator: &str,
    value: i64,
) -> Result<Compare, Failure> {
    match operator {
        "=" => Ok(with.equals(value)),
        "!=" => Ok(with.differs_from(value)),
        ">" => Ok(with.greater_than(value)),
        "<" => Ok(with.less_than(value)),
        _ => Err(unknown_operator(line, operator)),
    }
}

fn unknown_operator(line: &str, operator: &str) -> Failure {
    invalid(format!("malformed comparison: {line} (unknown operator {operator}: it is one of =, !=, <, >)"))
}

/// Takes a line apart as `target("key") operator "value"`. Between the parts there must be space.
fn comparison(line: &str) -> Result<Comparison<'_>, Failure> {
    let Some((target, rest)) = line.split_once('(') else {
        return Err(invalid(format!("malformed comparison: {line}")));
    };
    let (mut key, mut operator) = (Vec::new(), "");
    let malformed = |key: &[u8], operator: &str| {
        let key = golang::quote(key);
        invalid(format!("malformed comparison: {line}; got {target}({key}) {operator} \"\""))
    };
    let mut read = || {
        let (read, behind) = golang::unquote_first(rest.trim_start()).ok()?;
        key = read;
        let behind = behind.strip_prefix(')')?;
        let trimmed = behind.trim_start();
        if trimmed.len() == behind.len() || trimmed.is_empty() {
            return None;
        }
        let length = trimmed.find(char::is_whitespace).unwrap_or(trimmed.len());
        operator = &trimmed[..length];
        let (value, _) = golang::unquote_first(trimmed[length..].trim_start()).ok()?;
        Some(value)
    };
    match read() {
        Some(value) => Ok((target, key, operator.to_owned(), value)),
        None => Err(malformed(&key, operator)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        split(line).expect("it can be split").iter().map(|word| word.to_string()).collect()
    }

    #[test]
    fn lines_are_split_as_etcdctl_splits_them() {
        assert_eq!(words("put key value"), ["put", "key", "value"]);
        assert_eq!(words("  put \"a key\"\t'a \"value\"'  "), ["put", "a key", "a \"value\""]);
        assert_eq!(words(r#"put k "\"quoted\"\n\t\\ \u00e4""#), ["put", "k", "\"quoted\"\n\t\\ \u{e4}"]);
        assert_eq!(words("put k -- -5 it's a\"b"), ["put", "k", "--", "-5", "it's", "a\"b"]);
        // A quote that is not closed is passed over; so is an empty line.
        assert_eq!(words("watch 'a"), ["watch", "a"]);
        assert_eq!(words("watch \"a"), ["watch", "a"]);
        assert_eq!(words("'' \"\""), ["", ""]);
        assert_eq!(words("   "), [""; 0]);
        assert_eq!(split("put k \"\\xff\"").expect("bytes")[2].bytes(), b"\xff");
        assert_eq!(split("put k \"a\\q\""), Err(invalid("invalid syntax")));
    }

    #[test]
    fn compares_are_read() {
        let cases = [
            ("mod(\"k\") > \"5\"", Compare::mod_revision("k").greater_than(5)),
            ("m( \"k\")   <   \"5\"", Compare::mod_revision("k").less_than(5)),
            ("create(\"k\") = \"5\"", Compare::create_revision("k").equals(5)),
            ("c(\"k\") != \"-5\"", Compare::create_revision("k").differs_from(-5)),
            ("version(`k`) = \"0\"", Compare::version("k").equals(0)),
            ("ver(\"k\") = \"0\" and more", Compare::version("k").equals(0)),
            ("value(\"k (1)\") = \"v\\n\"", Compare::value("k (1)").equals("v\n")),
            ("val(\"\\xff\") > \"\"", Compare::value(b"\xff").greater_than("")),
            ("lease(\"k\") = \"1f\"", Compare::lease("k").equals(0x1f)),
        ];
        for (line, compare) in cases {
            assert_eq!(super::compare(line), Ok(compare), "{line}");
        }
    }

    #[test]
    fn wrong_compares_are_refused_in_etcdctls_words() {
        let cases = [
            ("mod", "malformed comparison: mod"),
            ("mod(k) > \"5\"", "malformed comparison: mod(k) > \"5\"; got mod(\"\")  \"\""),
            ("mod(\"k\")> \"5\"", "malformed comparison: mod(\"k\")> \"5\"; got mod(\"k\")  \"\""),
            ("mod(\"k\" > \"5\"", "malformed comparison: mod(\"k\" > \"5\"; got mod(\"k\")  \"\""),
            ("mod(\"k\") > 5", "malformed comparison: mod(\"k\") > 5; got mod(\"k\") > \"\""),
            ("mod(\"k\") >", "malformed comparison: mod(\"k\") >; got mod(\"k\") > \"\""),
            ("mod(\"k\") > \"x\"", "invalid txn compare request: mod(\"k\") > \"x\""),
            ("old(\"k\") > \"5\"", "malformed comparison: old(\"k\") > \"5\" (unknown target old)"),
        ];
        for (line, text) in cases {
            assert_eq!(compare(line), Err(invalid(text)), "{line}");
        }
        assert!(compare("mod(\"k\") ~ \"5\"").is_err());
    }

    #[test]
    fn requests_are_those_of_the_commands() {
        assert!(matches!(request("put key \"a value\" --prev-kv"), Ok(Op::Put(_))));
        assert!(matches!(request("get --prefix ''"), Ok(Op::Get(_))));
        assert!(matches!(request("d key end --range"), Ok(Op::Delete(_))));
        let text = |line| request(line).map(drop).map_err(|failure| (failure.exit_code, failure.message));
        assert_eq!(text("put"), Err((3, "invalid txn compare request: put".to_owned())));
        assert_eq!(text("set k v"), Err((3, "invalid txn request: set k v".to_owned())));
        assert_eq!(text("put k v --x"), Err((3, "invalid txn request: put k v --x".to_owned())));
        let needed = "put command needs 1 argument and input from stdin or 2 arguments";
        assert_eq!(text("put k"), Err((128, needed.to_owned())));
    }
}
