//! Reads the command line and the `ETCD_*` variables into one value per flag, by the rules of Go's `flag` package and
//! of etcd's environment. It knows kinds of values and nothing of their meaning.

use std::collections::{BTreeMap, BTreeSet};

use super::flags::{self, FLAGS, Flag, Kind};
use super::gates::GateSettings;
use super::{Failure, Notice, go};
use crate::log::{Level, Value as LogValue};
use crate::urls::{self, Url, quote};

const CONFLICT: &str = "conflicting environment variable is shadowed by corresponding command-line flag \
                        (either unset environment variable or disable flag))";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Urls(Vec<Url>),
    Texts(Vec<String>),
    Gates(GateSettings),
    Nothing,
}

/// One value per flag, and which of them were given.
pub(super) struct Values {
    values: BTreeMap<&'static str, Value>,
    given: BTreeSet<&'static str>,
    /// The first argument that is no flag, if any.
    pub stray: Option<String>,
}

impl Values {
    /// Every flag at its default.
    pub fn defaults() -> Values {
        let values = FLAGS.iter().map(|flag| (flag.name, default_of(flag))).collect();
        Values { values, given: BTreeSet::new(), stray: None }
    }

    /// Reads a command line without its program name. The error is the text of a usage error, `None` a call for help.
    pub fn read_arguments(&mut self, arguments: &[String]) -> Result<(), Option<String>> {
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let body = match argument.strip_prefix('-') {
                Some(body) if !body.is_empty() => body,
                _ => {
                    self.stray = Some(argument.clone());
                    return Ok(());
                }
            };
            if body == "-" {
                self.stray = rest.next().cloned();
                return Ok(());
            }
            let body = body.strip_prefix('-').unwrap_or(body);
            if body.starts_with(['-', '=']) {
                return Err(Some(format!("bad flag syntax: {argument}")));
            }
            let (name, inline) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            let Some(flag) = flags::find(name) else {
                let help = matches!(name, "help" | "h");
                return Err((!help).then(|| format!("flag provided but not defined: -{name}")));
            };
            let is_switch = matches!(flag.kind, Kind::Bool | Kind::Ignored);
            let value = match inline {
                Some(value) => value,
                None if is_switch => "true",
                None => rest.next().ok_or_else(|| Some(format!("flag needs an argument: -{name}")))?,
            };
            self.set(flag, value).map_err(|reason| {
                Some(if is_switch {
                    format!("invalid boolean value {} for -{name}: {reason}", quote(value))
                } else {
                    format!("invalid value {} for flag -{name}: {reason}", quote(value))
                })
            })?;
        }
        Ok(())
    }

    /// Reads the variables that stand for flags. What etcd logs about them is added to `notices`.
    pub fn read_environment(
        &mut self,
        environment: &[(String, String)],
        notices: &mut Vec<Notice>,
    ) -> Result<(), Failure> {
        let shadowed: BTreeSet<String> = self.given.iter().map(|name| variable_of(name)).collect();
        let mut used = BTreeSet::new();
        let mut invalid = None;
        let mut in_name_order: Vec<&'static Flag> = FLAGS.iter().collect();
        in_name_order.sort_by_key(|flag| flag.name);
        for flag in in_name_order {
            let variable = variable_of(flag.name);
            let value = environment.iter().find(|(name, value)| *name == variable && !value.is_empty());
            let Some((_, value)) = value.filter(|_| !shadowed.contains(&variable)) else { continue };
            used.insert(variable.clone());
            match self.set(flag, value) {
                Ok(()) => notices.push(Notice::new(
                    Level::Info,
                    "recognized and used environment variable",
                    vec![("variable-name", LogValue::text(&variable)), ("variable-value", LogValue::text(value))],
                )),
                Err(reason) => invalid = Some(format!("invalid value {} for {variable}: {reason}", quote(value))),
            }
        }
        for (name, value) in environment.iter().filter(|(name, _)| !used.contains(name)) {
            if shadowed.contains(name) {
                return Err(Failure::Fatal {
                    message: CONFLICT.to_owned(),
                    fields: vec![("environment-variable", LogValue::text(name))],
                    notices: std::mem::take(notices),
                });
            }
            if name.starts_with("ETCD_") {
                let fields = vec![("environment-variable", LogValue::Text(format!("{name}={value}")))];
                notices.push(Notice::new(Level::Warn, "unrecognized environment variable", fields));
            }
        }
        match invalid {
            Some(message) => Err(Failure::refused(message, std::mem::take(notices))),
            None => Ok(()),
        }
    }

    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains(name)
    }

    pub fn is_default(&self, flag: &Flag) -> bool {
        self.value(flag.name) == &default_of(flag)
    }

    pub fn text(&self, name: &str) -> String {
        match self.value(name) {
            Value::Text(text) => text.clone(),
            other => wrong_kind(name, other),
        }
    }

    pub fn bool(&self, name: &str) -> bool {
        match self.value(name) {
            Value::Bool(value) => *value,
            other => wrong_kind(name, other),
        }
    }

    pub fn unsigned(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Unsigned(value) => *value,
            other => wrong_kind(name, other),
        }
    }

    pub fn signed(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Signed(value) => *value,
            other => wrong_kind(name, other),
        }
    }

    pub fn urls(&self, name: &str) -> Vec<Url> {
        match self.value(name) {
            Value::Urls(urls) => urls.clone(),
            other => wrong_kind(name, other),
        }
    }

    pub fn texts(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Value::Texts(texts) => texts.clone(),
            other => wrong_kind(name, other),
        }
    }

    pub fn gates(&self, name: &str) -> &GateSettings {
        match self.value(name) {
            Value::Gates(gates) => gates,
            other => wrong_kind(name, other),
        }
    }

    fn value(&self, name: &str) -> &Value {
        self.values.get(name).expect("every flag that the program asks for is in the table")
    }

    /// Takes the default for something that was given.
    pub fn keep_default(&mut self, name: &'static str) {
        self.given.insert(name);
    }

    pub fn set(&mut self, flag: &'static Flag, text: &str) -> Result<(), String> {
        let old = self.values.get(flag.name).expect("defaults cover the table");
        let value = parse_value(flag, text, old)?;
        self.values.insert(flag.name, value);
        self.given.insert(flag.name);
        Ok(())
    }
}

/// `--foo-bar` is `ETCD_FOO_BAR`.
pub(super) fn variable_of(flag_name: &str) -> String {
    format!("ETCD_{}", flag_name.replace('-', "_").to_ascii_uppercase())
}

fn wrong_kind(name: &str, value: &Value) -> ! {
    panic!("flag {name} is asked for as another kind than its table row says: {value:?}")
}

fn default_of(flag: &Flag) -> Value {
    let empty = match flag.kind {
        Kind::Urls => Value::Urls(Vec::new()),
        Kind::TextSet | Kind::SomeOf(_) => Value::Texts(Vec::new()),
        Kind::Gates => Value::Gates(GateSettings::default()),
        Kind::Ignored => Value::Nothing,
        _ => Value::Text(String::new()),
    };
    if flag.default.is_empty() {
        return empty;
    }
    parse_value(flag, flag.default, &empty).expect("the defaults in the table parse; a test parses them all")
}

fn parse_value(flag: &Flag, text: &str, old: &Value) -> Result<Value, String> {
    let flag_error = |error: go::NumberError| error.flag_text().to_owned();
    Ok(match flag.kind {
        Kind::Text => Value::Text(text.to_owned()),
        Kind::Bool => Value::Bool(go::parse_bool(text).ok_or("parse error")?),
        Kind::Unsigned => Value::Unsigned(go::parse_unsigned(text).map_err(flag_error)?),
        Kind::Signed => Value::Signed(go::parse_signed(text).map_err(flag_error)?),
        Kind::Unsigned32 => {
            let number = go::parse_unsigned(text);
            let checked = number.and_then(|n| u32::try_from(n).map_err(|_| go::NumberError::Range));
            let failed =
                |e: go::NumberError| format!("strconv.ParseUint: parsing {}: {}", quote(text), e.number_text());
            Value::Unsigned(checked.map_err(failed)?.into())
        }
        Kind::Duration => Value::Signed(go::parse_duration(text).map_err(|_| "parse error".to_owned())?),
        // The empty text is allowed and leaves the value as it was.
        Kind::Urls if text.is_empty() => old.clone(),
        Kind::Urls => Value::Urls(urls::parse_list(text).map_err(|error| error.to_string())?),
        Kind::TextSet => {
            let mut texts: Vec<String> = text.split(',').map(str::to_owned).collect();
            texts.sort();
            texts.dedup();
            // Given as empty is the same as not given, except where emptiness is an error of its own.
            if texts == [""] && flag.name != "log-outputs" {
                texts.clear();
            }
            Value::Texts(texts)
        }
        Kind::OneOf(allowed) if allowed.contains(&text) => Value::Text(text.to_owned()),
        Kind::OneOf(_) => return Err("invalid value".to_owned()),
        Kind::SomeOf(allowed) => match text.split(',').find(|part| !allowed.contains(part)) {
            Some(part) => return Err(format!("invalid value {}", quote(part))),
            None => Value::Texts(text.split(',').map(str::to_owned).collect()),
        },
        Kind::Gates => {
            let mut gates = match old {
                Value::Gates(gates) => gates.clone(),
                _ => GateSettings::default(),
            };
            gates.add(text)?;
            Value::Gates(gates)
        }
        Kind::Ignored => Value::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_in_the_table_parses_and_names_are_unique() {
        let values = Values::defaults();
        assert_eq!(values.values.len(), FLAGS.len());
        for flag in FLAGS {
            assert!(values.is_default(flag), "{}", flag.name);
            let accepts_empty = matches!(
                flag.kind,
                Kind::Text | Kind::Urls | Kind::TextSet | Kind::SomeOf(_) | Kind::Gates | Kind::Ignored
            );
            assert!(accepts_empty || !flag.default.is_empty(), "{} has no default", flag.name);
        }
    }

    #[test]
    fn names_of_variables() {
        assert_eq!(variable_of("listen-client-urls"), "ETCD_LISTEN_CLIENT_URLS");
        assert_eq!(variable_of("test.outputdir"), "ETCD_TEST.OUTPUTDIR");
    }
}
