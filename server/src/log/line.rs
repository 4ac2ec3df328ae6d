//! One line of the log as text. Pure: level, time, caller, message and fields come in, a line goes out.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Level;
use crate::config::go::format_duration;

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Bool(bool),
    /// Written as Go writes it: `1m0s`.
    Duration(Duration),
    List(Vec<String>),
}

impl Value {
    pub fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    pub fn list<T: ToString>(items: &[T]) -> Value {
        Value::List(items.iter().map(T::to_string).collect())
    }
}

pub(super) fn json<N: AsRef<str>>(
    level: Level,
    time: &str,
    caller: &str,
    message: &str,
    fields: &[(N, Value)],
) -> String {
    let mut line = format!(r#"{{"level":"{}","ts":"{time}","caller":"#, level.as_str());
    quote_into(&mut line, caller);
    line.push_str(r#","msg":"#);
    quote_into(&mut line, message);
    for (name, value) in fields {
        line.push(',');
        quote_into(&mut line, name.as_ref());
        line.push(':');
        value_into(&mut line, value, ",");
    }
    line.push_str("}\n");
    line
}

pub(super) fn console<N: AsRef<str>>(
    level: Level,
    time: &str,
    caller: &str,
    message: &str,
    fields: &[(N, Value)],
) -> String {
    let mut line = format!("{time}\t{}\t{caller}\t", level.as_str());
    // A line is a line: what would break it is escaped, unlike in zap.
    line.push_str(&message.replace('\n', "\\n").replace('\r', "\\r"));
    for (index, (name, value)) in fields.iter().enumerate() {
        line.push_str(if index == 0 { "\t{" } else { ", " });
        quote_into(&mut line, name.as_ref());
        line.push_str(": ");
        value_into(&mut line, value, ", ");
    }
    line.push_str(if fields.is_empty() { "\n" } else { "}\n" });
    line
}

/// zap's caller: the last folder and the file. The folder `src` says nothing, so the crate's stands instead:
/// `server/src/main.rs` line 41 is `server/main.rs:41`.
pub(super) fn short_caller(file: &str, line: u32) -> String {
    let mut parts: Vec<&str> = file.rsplit(['/', '\\']).filter(|part| *part != "src").take(2).collect();
    parts.reverse();
    format!("{}:{line}", parts.join("/"))
}

/// UTC with microseconds, etcd's layout: `2026-01-02T15:04:05.000000Z`.
pub fn format_time(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since_epoch.subsec_micros())
}

/// Day of the Gregorian calendar from days since 1970-01-01. Years are counted from March, so that the leap day is
/// the last of a year; 719468 days lie between 0000-03-01 and the epoch, 146097 days make 400 years.
fn civil_date(days_since_epoch: u64) -> (u64, u64, u64) {
    let days = days_since_epoch + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Appends `text` as the inside of a JSON string.
pub fn escape_json_into(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if (c as u32) < 0x20 => write!(line, "\\u{:04x}", c as u32).expect("a String takes every write"),
            c => line.push(c),
        }
    }
}

fn quote_into(line: &mut String, text: &str) {
    line.push('"');
    escape_json_into(line, text);
    line.push('"');
}

fn value_into(line: &mut String, value: &Value, separator: &str) {
    let written = match value {
        Value::Text(text) => {
            quote_into(line, text);
            return;
        }
        Value::List(items) => {
            line.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    line.push_str(separator);
                }
                quote_into(line, item);
            }
            line.push(']');
            return;
        }
        Value::Duration(duration) => format!("\"{}\"", format_duration(*duration)),
        Value::Signed(number) => number.to_string(),
        Value::Unsigned(number) => number.to_string(),
        // JSON has no other way to say it, and zap says it so.
        Value::Float(number) if !number.is_finite() => format!("\"{number}\""),
        Value::Float(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
    };
    line.push_str(&written);
}
