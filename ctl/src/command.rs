//! Reading a command line: a tree of commands, each with its flags, and the help that follows from it.
//!
//! It reads what etcd's tools read: flags before and behind a command, `--flag=value` and `--flag value`, `-f value`,
//! `-fvalue`, and `--` before what is no flag. It does nothing but read and print; what a command does is its own affair.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

/// etcd's exit codes.
pub const EXIT_ERROR: u8 = 1;
pub const EXIT_BAD_FEATURE: u8 = 4;
pub const EXIT_BAD_ARGUMENTS: u8 = 128;

/// A flag that a command and all below it take.
#[derive(Debug)]
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    pub short: Option<char>,
    /// What its value is called in the help; `None` for a flag without one.
    pub value: Option<&'static str>,
    pub default: &'static str,
    pub about: &'static str,
}

#[derive(Debug)]
pub struct Command {
    pub name: &'static str,
    /// What follows the name in the help: `<filename>`.
    pub operands: &'static str,
    pub about: &'static str,
    pub flags: &'static [Flag],
    pub action: Action,
}

#[derive(Debug)]
pub enum Action {
    Group(&'static [Command]),
    Run(fn(&Parsed) -> Result<String, Failure>),
}

/// A command line, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    values: BTreeMap<&'static str, String>,
    pub operands: Vec<String>,
}

impl Parsed {
    /// What was given for a flag, or its default.
    pub fn value(&self, flag: &Flag) -> &str {
        self.values.get(flag.name).map_or(flag.default, String::as_str)
    }
}

/// A command that failed: what is said on standard error, and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit_code: u8,
    pub message: String,
}

impl Failure {
    pub fn new(exit_code: u8, message: impl Into<String>) -> Self {
        Self { exit_code, message: message.into() }
    }
}

/// Reads, runs and prints.
pub fn run(root: &'static Command, arguments: &[String]) -> ExitCode {
    match execute(root, arguments) {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            // Nobody reads any more.
            Err(_) => ExitCode::from(EXIT_ERROR),
        },
        Err(failure) => {
            eprintln!("Error: {}", failure.message);
            ExitCode::from(failure.exit_code)
        }
    }
}

/// What a command line prints.
pub fn execute(root: &'static Command, arguments: &[String]) -> Result<String, Failure> {
    let mut path = vec![root];
    let mut parsed = Parsed::default();
    let mut rest = arguments.iter();
    let mut wants_help = false;
    let mut only_operands = false;
    while let Some(argument) = rest.next() {
        if !only_operands && argument == "--" {
            only_operands = true;
        } else if !only_operands && (argument == "--help" || argument == "-h") {
            wants_help = true;
        } else if !only_operands && argument.len() > 1 && argument.starts_with('-') {
            let (flag, value) = find_flag(&path, argument)?;
            let value = match (flag.value, value) {
                (None, value) => value.unwrap_or_else(|| "true".to_owned()),
                (Some(_), Some(value)) => value,
                (Some(_), None) => match rest.next() {
                    Some(value) => value.clone(),
                    None => {
                        let text = format!("flag needs an argument: {argument}");
                        return Err(usage_failure(&path, &text));
                    }
                },
            };
            parsed.values.insert(flag.name, value);
        } else {
            let command = path.last().expect("the root is there");
            match command.action {
                Action::Group(commands) if path.len() == 1 && argument == "help" && !only_operands => {
                    // `help a b` stands for `a b --help`.
                    let _ = commands;
                    wants_help = true;
                }
                Action::Group(commands) => match commands.iter().find(|command| command.name == argument) {
                    Some(command) => path.push(command),
                    None if path.len() == 1 => {
                        let name = root.name;
                        let text = format!("unknown command {argument:?} for {name:?}\nRun '{name} --help' for usage.");
                        return Err(Failure::new(EXIT_ERROR, text));
                    }
                    // As etcd's tools: what a group does not know gets its help.
                    None => wants_help = true,
                },
                Action::Run(_) => parsed.operands.push(argument.clone()),
            }
        }
    }
    let command = path.last().expect("the root is there");
    match command.action {
        Action::Run(action) if !wants_help => action(&parsed),
        _ => Ok(help(&path)),
    }
}

/// The flag that an argument names, and the value that came with it.
fn find_flag(path: &[&'static Command], argument: &str) -> Result<(&'static Flag, Option<String>), Failure> {
    let mut flags = path.iter().flat_map(|command| command.flags);
    if let Some(long) = argument.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let unknown = || usage_failure(path, &format!("unknown flag: --{name}"));
        return flags.find(|flag| flag.name == name).map(|flag| (flag, value)).ok_or_else(unknown);
    }
    let mut letters = argument[1..].chars();
    let short = letters.next();
    let value = letters.as_str();
    let value = (!value.is_empty()).then(|| value.strip_prefix('=').unwrap_or(value).to_owned());
    let unknown = || {
        let text = format!("unknown shorthand flag: {:?} in {argument}", short.unwrap_or('-'));
        usage_failure(path, &text)
    };
    flags.find(|flag| flag.short == short).map(|flag| (flag, value)).ok_or_else(unknown)
}

fn usage_failure(path: &[&'static Command], text: &str) -> Failure {
    Failure::new(EXIT_ERROR, format!("{text}\n{}", help(path)))
}

/// In the shape of etcd's tools.
fn help(path: &[&'static Command]) -> String {
    let command = path.last().expect("the root is there");
    let full_name = path.iter().map(|command| command.name).collect::<Vec<_>>().join(" ");
    let mut text = format!("{}\n\nUsage:\n", command.about);
    match command.action {
        Action::Group(commands) => {
            let _ = writeln!(text, "  {full_name} [command]\n\nAvailable Commands:");
            for command in commands {
                let _ = writeln!(text, "  {:<11} {}", command.name, command.about);
            }
        }
        Action::Run(_) => {
            let operands = command.operands;
            let _ = writeln!(text, "  {full_name}{}{operands} [flags]", if operands.is_empty() { "" } else { " " });
        }
    }
    let help = Flag { name: "help", short: Some('h'), value: None, default: "", about: "" };
    let about_help = format!("help for {}", command.name);
    let mut own: Vec<(String, String)> = vec![(left_of(&help), about_help)];
    own.extend(command.flags.iter().map(described));
    add_flags(&mut text, "Flags", &mut own);
    let above = path[..path.len() - 1].iter().flat_map(|command| command.flags);
    let mut above: Vec<_> = above.map(described).collect();
    if !above.is_empty() {
        add_flags(&mut text, "Global Flags", &mut above);
    }
    if matches!(command.action, Action::Group(_)) {
        let _ = writeln!(text, "\nUse \"{full_name} [command] --help\" for more information about a command.");
    }
    text
}

fn left_of(flag: &Flag) -> String {
    let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
    let value = flag.value.map_or(String::new(), |value| format!(" {value}"));
    format!("  {short}--{}{value}", flag.name)
}

fn described(flag: &Flag) -> (String, String) {
    let default = if flag.default.is_empty() { String::new() } else { format!(" (default {})", flag.default) };
    (left_of(flag), format!("{}{default}", flag.about))
}

fn add_flags(text: &mut String, title: &str, flags: &mut [(String, String)]) {
    flags.sort_by(|left, right| left.0[6..].cmp(&right.0[6..]));
    let width = flags.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    let _ = writeln!(text, "\n{title}:");
    for (left, about) in flags {
        let _ = writeln!(text, "{left:<width$}   {about}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVEL: Flag = Flag { name: "level", short: Some('l'), value: Some("int"), default: "3", about: "how much" };
    const FORCE: Flag = Flag { name: "force", short: None, value: None, default: "", about: "whatever happens" };

    const ROOT: Command = Command {
        name: "tool",
        operands: "",
        about: "A tool",
        flags: &[LEVEL],
        action: Action::Group(&[Command {
            name: "do",
            operands: "<what>",
            about: "Does it",
            flags: &[FORCE],
            action: Action::Run(|parsed| {
                Ok(format!("{} {:?} {:?}", parsed.value(&LEVEL), parsed.value(&FORCE), parsed.operands))
            }),
        }]),
    };

    fn execute_line(line: &str) -> Result<String, Failure> {
        static TREE: Command = ROOT;
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        execute(&TREE, &arguments)
    }

    #[test]
    fn flags_are_read_in_all_their_shapes() {
        for line in ["do -l 5 x", "do -l5 x", "do -l=5 x", "--level 5 do x", "do x --level=5"] {
            assert_eq!(execute_line(line), Ok("5 \"\" [\"x\"]".to_owned()), "{line}");
        }
        assert_eq!(execute_line("do --force -- -x --level=5"), Ok("3 \"true\" [\"-x\", \"--level=5\"]".to_owned()));
        assert_eq!(execute_line("do -"), Ok("3 \"\" [\"-\"]".to_owned()));
    }

    #[test]
    fn what_is_unknown_is_named() {
        let message = |line| execute_line(line).map_err(|failure| failure.message.lines().next().map(str::to_owned));
        assert_eq!(message("be"), Err(Some("unknown command \"be\" for \"tool\"".to_owned())));
        assert_eq!(message("do --no"), Err(Some("unknown flag: --no".to_owned())));
        assert_eq!(message("--force do"), Err(Some("unknown flag: --force".to_owned())));
        assert_eq!(message("do -x"), Err(Some("unknown shorthand flag: 'x' in -x".to_owned())));
        assert_eq!(message("do --level"), Err(Some("flag needs an argument: --level".to_owned())));
    }

    #[test]
    fn help_is_drawn_from_the_tree() {
        let help = "Does it

Usage:
  tool do <what> [flags]

Flags:
      --force   whatever happens
  -h, --help    help for do

Global Flags:
  -l, --level int   how much (default 3)
";
        assert_eq!(execute_line("do x --help"), Ok(help.to_owned()));
        assert_eq!(execute_line("help do"), Ok(help.to_owned()));
        let text = execute_line("").expect("the help");
        assert!(text.contains("Available Commands:\n  do          Does it\n"), "{text}");
    }
}
