//! Reading a command line: a tree of commands, each with its flags, and the help that follows from it.
//!
//! It reads what etcd's tools read: flags before and behind a command, `--flag=value` and `--flag value`, `-f value`,
//! `-fvalue`, `--` before what is no flag, and the beginning of a command's name where it is unambiguous. It does nothing
//! but read and print; what a command does is its own affair.

pub mod complete;
mod help;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use crate::golang;

pub use help::usage_of_flags;
pub use read::{execute, parse_flags};

/// etcd's exit codes.
pub const EXIT_ERROR: u8 = 1;
pub const EXIT_BAD_CONNECTION: u8 = 2;
pub const EXIT_INVALID_INPUT: u8 = 3;
pub const EXIT_BAD_FEATURE: u8 = 4;
pub const EXIT_INTERRUPTED: u8 = 5;
pub const EXIT_IO: u8 = 6;
pub const EXIT_BAD_ARGUMENTS: u8 = 128;

/// A flag that a command and all below it take.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    pub short: Option<char>,
    /// What its value is called in the help: `string`, `strings`, `int`, `uint` or `duration`, of which the last three are
    /// checked when the command line is read; `None` for a flag that is true or false.
    pub value: Option<&'static str>,
    pub default: &'static str,
    pub about: &'static str,
}

impl Flag {
    /// A flag that is true or false, and false unless given.
    #[must_use]
    pub const fn switch(name: &'static str, about: &'static str) -> Self {
        Self { name, short: None, value: None, default: "", about }
    }

    /// A flag with text, empty unless given.
    #[must_use]
    pub const fn text(name: &'static str, about: &'static str) -> Self {
        Self { name, short: None, value: Some("string"), default: "", about }
    }

    /// A flag with a number, 0 unless given.
    #[must_use]
    pub const fn number(name: &'static str, about: &'static str) -> Self {
        Self { name, short: None, value: Some("int"), default: "", about }
    }

    /// A flag with a number that is never negative, 0 unless given.
    #[must_use]
    pub const fn count(name: &'static str, about: &'static str) -> Self {
        Self { name, short: None, value: Some("uint"), default: "", about }
    }

    /// A flag with a duration.
    #[must_use]
    pub const fn duration(name: &'static str, about: &'static str) -> Self {
        Self { name, short: None, value: Some("duration"), default: "", about }
    }

    /// The same with one letter as another name.
    #[must_use]
    pub const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    /// The same with a default, which the help shows.
    #[must_use]
    pub const fn or(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }
}

#[derive(Debug)]
pub struct Command {
    pub name: &'static str,
    /// What follows the name in the help: `<filename>`.
    pub operands: &'static str,
    /// One line.
    pub about: &'static str,
    /// What its own help says instead of `about`, unless it is empty.
    pub long: &'static str,
    /// The heading it stands under in the help; empty for "Available Commands:".
    pub heading: &'static str,
    pub flags: &'static [Flag],
    pub action: Action,
}

impl Command {
    /// What a command is made of with `..Command::EMPTY`.
    pub const EMPTY: Self =
        Self { name: "", operands: "", about: "", long: "", heading: "", flags: &[], action: Action::Group(&[]) };
}

#[derive(Debug)]
pub enum Action {
    Group(&'static [Command]),
    /// What it returns is printed.
    Run(fn(&Parsed) -> Result<String, Failure>),
    /// Prints by itself while it goes.
    Perform(fn(&Parsed) -> Result<(), Failure>),
}

/// A tool.
#[derive(Debug)]
pub struct Program {
    pub root: Command,
    /// The headings of commands in the order of the help; empty for the order of their first commands.
    pub headings: &'static [&'static str],
    /// What helps end with. When there is something, the flags of all commands are not shown in each one's help.
    pub footer: &'static str,
}

/// A word of a command line. Keys and values may be any bytes; everything else is text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    bytes: Vec<u8>,
    /// The bytes with U+FFFD for what is no text.
    text: String,
}

impl From<Vec<u8>> for Word {
    fn from(bytes: Vec<u8>) -> Self {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Self { bytes, text }
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self { bytes: text.as_bytes().to_vec(), text: text.to_owned() }
    }
}

impl std::ops::Deref for Word {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Word {
    /// What was typed, byte by byte.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// For the arguments of another program.
    pub fn os_text(&self) -> &std::ffi::OsStr {
        std::os::unix::ffi::OsStrExt::from_bytes(&self.bytes)
    }
}

/// A command line, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    values: BTreeMap<&'static str, String>,
    pub operands: Vec<Word>,
    /// How many operands stood before `--`, if it was there.
    pub separator: Option<usize>,
}

impl Parsed {
    /// What was given for a flag, or its default.
    pub fn value(&self, flag: &Flag) -> &str {
        self.values.get(flag.name).map_or(flag.default, String::as_str)
    }

    /// Whether a flag without a value is set.
    pub fn is_set(&self, flag: &Flag) -> bool {
        self.value(flag) == "true"
    }

    /// Whether a flag was given at all.
    pub fn is_given(&self, flag: &Flag) -> bool {
        self.values.contains_key(flag.name)
    }

    /// The value of a flag of kind `int`; 0 without one.
    pub fn number(&self, flag: &Flag) -> i64 {
        // Checked when it was read.
        golang::parse_int(self.value(flag), 0).unwrap_or(0)
    }

    /// The value of a flag of kind `uint`; 0 without one.
    pub fn count(&self, flag: &Flag) -> u64 {
        // Checked when it was read.
        golang::parse_uint(self.value(flag), 0).unwrap_or(0)
    }

    /// The value of a flag of kind `duration`; a negative one is zero.
    pub fn duration(&self, flag: &Flag) -> Duration {
        let nanoseconds = golang::parse_duration(self.value(flag)).unwrap_or(0);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
    }

    /// Gives a flag a value as if it had stood on the command line.
    ///
    /// # Errors
    /// What is wrong with the value, in Go's words.
    pub fn set(&mut self, flag: &Flag, value: &str) -> Result<(), String> {
        let value = read::checked(flag, value)?;
        self.values.insert(flag.name, value);
        Ok(())
    }
}

/// A command that failed: what is said on standard error behind `Error: `, and the exit code. Nothing is said when the
/// message is empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit_code: u8,
    pub message: String,
    /// What is said on a line of its own behind the message, if anything.
    pub detail: String,
}

impl Failure {
    pub fn new(exit_code: u8, message: impl Into<String>) -> Self {
        Self { exit_code, message: message.into(), detail: String::new() }
    }

    /// A wrong use of a command.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(EXIT_BAD_ARGUMENTS, message)
    }

    /// The same with a line behind the message.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// For what was said already.
    #[must_use]
    pub fn silent(exit_code: u8) -> Self {
        Self::new(exit_code, "")
    }
}

/// Reads, runs and prints.
pub fn run(program: &'static Program, arguments: &[Word]) -> ExitCode {
    let outcome = match arguments {
        [request, words @ ..] if &**request == complete::REQUEST => Ok(complete::lines(program, words)),
        _ => execute(program, arguments),
    };
    match outcome {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            // Nobody reads any more.
            Err(_) => ExitCode::from(EXIT_ERROR),
        },
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("Error: {}", failure.message);
            }
            if !failure.detail.is_empty() {
                eprintln!("{}", failure.detail);
            }
            ExitCode::from(failure.exit_code)
        }
    }
}
