//! What a tool says about itself, in the shape of etcd's tools: drawn from the tree of commands, never kept beside it.

use std::fmt::Write as _;

use super::read::HELP;
use super::{Action, Command, Flag, Program};

/// The heading of commands that name none.
const NO_HEADING: &str = "Available Commands:";

const HELP_COMMAND: &str = "help";
const HELP_ABOUT: &str = "Says how a command is used";

/// How far a typed name may be from a command's for the command to be suggested.
const SUGGESTION_DISTANCE_MAX: usize = 2;

/// What `--help` prints.
pub(super) fn help(program: &Program, path: &[&'static Command]) -> String {
    let command = path.last().expect("the root is there");
    let about = if command.long.is_empty() { command.about } else { command.long };
    let footer = program.footer;
    let end = if footer.is_empty() { String::new() } else { format!("{footer}\n") };
    format!("{about}\n\n{}{end}", usage(program, path))
}

/// What a wrong command line is answered with.
pub(super) fn usage(program: &Program, path: &[&'static Command]) -> String {
    let command = path.last().expect("the root is there");
    let full_name = path.iter().map(|command| command.name).collect::<Vec<_>>().join(" ");
    let hides_global = !program.footer.is_empty();
    let mut text = "Usage:\n".to_owned();
    match command.action {
        Action::Group(commands) => {
            let _ = writeln!(text, "  {full_name} [command]");
            add_commands(&mut text, commands, program.headings, path.len() == 1);
        }
        Action::Run(_) | Action::Perform(_) => {
            let operands = command.operands;
            let _ = writeln!(text, "  {full_name}{}{operands} [flags]", if operands.is_empty() { "" } else { " " });
        }
    }
    if !(hides_global && path.len() == 1) {
        let mut own = vec![(left_of(&HELP), format!("help for {}", command.name))];
        own.extend(command.flags.iter().map(described));
        let _ = writeln!(text, "\nFlags:");
        add_flags(&mut text, &mut own);
    }
    let mut above: Vec<_> = path[..path.len() - 1].iter().flat_map(|command| command.flags).map(described).collect();
    if !above.is_empty() && !hides_global {
        let _ = writeln!(text, "\nGlobal Flags:");
        add_flags(&mut text, &mut above);
    }
    if matches!(command.action, Action::Group(_)) {
        let _ = writeln!(text, "\nUse \"{full_name} [command] --help\" for more information about a command.");
    }
    text
}

/// The lines about flags, sorted by name.
#[must_use]
pub fn usage_of_flags(flags: &[Flag]) -> String {
    let mut text = String::new();
    add_flags(&mut text, &mut flags.iter().map(described).collect::<Vec<_>>());
    text
}

/// The commands under their headings.
fn add_commands(text: &mut String, commands: &[Command], order: &[&'static str], is_root: bool) {
    let heading = |command: &Command| if command.heading.is_empty() { NO_HEADING } else { command.heading };
    let mut headings: Vec<&str> = Vec::new();
    for command in commands {
        if !headings.contains(&heading(command)) {
            headings.push(heading(command));
        }
    }
    headings.sort_by_key(|title| order.iter().position(|other| other == title));
    let last = headings.last().copied();
    let width = commands.iter().map(|command| command.name.len()).max().unwrap_or(0).max(11);
    for title in headings {
        let mut lines: Vec<(&str, &str)> = Vec::new();
        let own = commands.iter().filter(|command| heading(command) == title);
        lines.extend(own.map(|command| (command.name, command.about)));
        if is_root && Some(title) == last {
            lines.push((HELP_COMMAND, HELP_ABOUT));
        }
        lines.sort_unstable();
        let _ = writeln!(text, "\n{title}");
        for (name, about) in lines {
            let _ = writeln!(text, "  {name:<width$} {about}");
        }
    }
}

fn left_of(flag: &Flag) -> String {
    let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
    let value = flag.value.map_or(String::new(), |value| format!(" {value}"));
    format!("  {short}--{}{value}", flag.name)
}

fn described(flag: &Flag) -> (String, String) {
    let default = match (flag.default, flag.value) {
        ("", _) => String::new(),
        (default, Some("string")) => format!(" (default \"{default}\")"),
        (default, Some("strings")) => format!(" (default [{default}])"),
        (default, _) => format!(" (default {default})"),
    };
    (left_of(flag), format!("{}{default}", flag.about))
}

fn add_flags(text: &mut String, flags: &mut [(String, String)]) {
    flags.sort_by(|left, right| left.0[6..].cmp(&right.0[6..]));
    let width = flags.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    for (left, about) in flags {
        let _ = writeln!(text, "{left:<width$}   {about}");
    }
}

/// Commands whose names are like what was typed, in the order of the tree.
pub(super) fn suggestions(root: &Command, typed: &str) -> String {
    let Action::Group(commands) = root.action else { return String::new() };
    let typed = typed.to_lowercase();
    let mut names: Vec<&str> = commands.iter().map(|command| command.name).collect();
    names.retain(|name| distance(&typed, name) <= SUGGESTION_DISTANCE_MAX || name.starts_with(&typed));
    if names.is_empty() {
        return String::new();
    }
    let lines: String = names.iter().map(|name| format!("\t{name}\n")).collect();
    format!("\n\nDid you mean this?\n{lines}")
}

/// How many letters must be added, taken away or changed to come from one word to the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
