//! From words to a command and its flags, in two steps as the library of etcd's tools does it: first the command is found
//! among the words that are no flags, then its flags are read, wherever they stand.

use super::help::{help, suggestions, usage};
use super::{Action, Command, EXIT_ERROR, Failure, Flag, Parsed, Program, Word};
use crate::golang;

pub(super) const HELP: Flag = Flag::switch("help", "").short('h');

/// What a command line prints.
///
/// # Errors
/// What is wrong with the command line, or what the command fails with.
pub fn execute(program: &'static Program, arguments: &[Word]) -> Result<String, Failure> {
    let root = &program.root;
    let (path, rest) = find(program, arguments)?;
    let command = *path.last().expect("the root is there");
    if path.len() == 1 && first_word(&path, &rest) == Some("help") {
        return help_on(program, &rest);
    }
    let flags: Vec<&Flag> = path.iter().flat_map(|command| command.flags).collect();
    let parsed = parse_words(&flags, &rest)
        .map_err(|text| Failure::new(EXIT_ERROR, format!("{text}\n{}", usage(program, &path))))?;
    if parsed.is_set(&HELP) {
        return Ok(help(program, &path));
    }
    match command.action {
        Action::Run(action) => action(&parsed),
        Action::Perform(action) => action(&parsed).map(|()| String::new()),
        Action::Group(_) => match parsed.operands.first() {
            Some(word) if path.len() == 1 => Err(unknown_command(root, word)),
            // As etcd's tools: what a group does not know gets its help.
            _ => Ok(help(program, &path)),
        },
    }
}

/// The command that the words name, and the words without those that named it.
pub(super) fn find(
    program: &'static Program,
    arguments: &[Word],
) -> Result<(Vec<&'static Command>, Vec<Word>), Failure> {
    let root = &program.root;
    let mut path = vec![root];
    let mut rest = arguments.to_vec();
    loop {
        let command = *path.last().expect("the root is there");
        let Action::Group(commands) = command.action else { break };
        let Some(position) = word_position(&path, &rest) else { break };
        if path.len() == 1 && &*rest[position] == "help" {
            break;
        }
        let Some(next) = by_name(commands, &rest[position], path.len() == 1) else {
            if path.len() == 1 {
                return Err(unknown_command(root, &rest[position]));
            }
            break;
        };
        rest.remove(position);
        path.push(next);
    }
    Ok((path, rest))
}

fn unknown_command(root: &'static Command, word: &str) -> Failure {
    let name = root.name;
    let text =
        format!("unknown command {word:?} for {name:?}{}\nRun '{name} --help' for usage.", suggestions(root, word));
    Failure::new(EXIT_ERROR, text)
}

fn by_name(commands: &'static [Command], name: &str, is_root: bool) -> Option<&'static Command> {
    if let Some(command) = commands.iter().find(|command| command.name == name) {
        return Some(command);
    }
    let mut beginning = commands.iter().filter(|command| command.name.starts_with(name));
    match (beginning.next(), beginning.next()) {
        // `help` is a command too.
        (Some(command), None) if !(is_root && "help".starts_with(name)) => Some(command),
        _ => None,
    }
}

fn first_word<'a>(path: &[&'static Command], words: &'a [Word]) -> Option<&'a str> {
    word_position(path, words).map(|position| &*words[position])
}

/// Where the first word is that is neither a flag nor the value of one.
pub(super) fn word_position(path: &[&'static Command], words: &[Word]) -> Option<usize> {
    let flags = || path.iter().flat_map(|command| command.flags).chain([&HELP]);
    let mut position = 0;
    while let Some(word) = words.get(position) {
        let takes_next = if &**word == "--" {
            return None;
        } else if word.contains('=') {
            false
        } else if let Some(name) = word.strip_prefix("--") {
            // An unknown flag is taken for one with a value.
            !flags().any(|flag| flag.name == name && flag.value.is_none())
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            let mut letters = letters.chars();
            let letter = letters.next();
            letters.next().is_none() && !flags().any(|flag| flag.short == letter && flag.value.is_none())
        } else if word.is_empty() {
            false
        } else {
            return Some(position);
        };
        position += if takes_next { 2 } else { 1 };
    }
    None
}

/// `help a b` stands for `a b --help`.
fn help_on(program: &'static Program, words: &[Word]) -> Result<String, Failure> {
    let words: Vec<Word> = words.iter().filter(|word| !word.starts_with('-')).skip(1).cloned().collect();
    match find(program, &words) {
        Ok((path, _)) => Ok(help(program, &path)),
        Err(_) => {
            eprint!(
                "Unknown help topic [`{}`]\n{}",
                words.iter().map(|word| &**word).collect::<Vec<_>>().join("` `"),
                usage(program, &[&program.root])
            );
            Ok(String::new())
        }
    }
}

/// Reads the words of one command by its flags alone, for commands that are given line by line.
///
/// # Errors
/// What is wrong with them, in the words of etcd's tools.
pub fn parse_flags(command: &'static Command, words: &[Word]) -> Result<Parsed, String> {
    parse_words(&command.flags.iter().collect::<Vec<_>>(), words)
}

fn parse_words(flags: &[&Flag], words: &[Word]) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if &**word == "--" {
            parsed.separator = Some(parsed.operands.len());
            parsed.operands.extend(rest.cloned());
            break;
        }
        if word.len() < 2 || !word.starts_with('-') {
            parsed.operands.push(word.clone());
            continue;
        }
        if let Some(long) = word.strip_prefix("--") {
            read_long(flags, word, long, &mut rest, &mut parsed)?;
        } else {
            read_letters(flags, word, &mut rest, &mut parsed)?;
        }
    }
    Ok(parsed)
}

fn read_long<'a>(
    flags: &[&Flag],
    word: &str,
    long: &str,
    rest: &mut impl Iterator<Item = &'a Word>,
    parsed: &mut Parsed,
) -> Result<(), String> {
    let (name, value) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (long, None),
    };
    if name.is_empty() || name.starts_with('-') {
        return Err(format!("bad flag syntax: {word}"));
    }
    let flag = flags.iter().copied().chain([&HELP]).find(|flag| flag.name == name);
    let flag = flag.ok_or_else(|| format!("unknown flag: --{name}"))?;
    let value = match (value, flag.value) {
        (Some(value), _) => value,
        (None, None) => "true",
        (None, Some(_)) => rest.next().ok_or_else(|| format!("flag needs an argument: --{name}"))?,
    };
    give(flag, value, parsed)
}

/// Several letters may share one dash; the first that takes a value has the rest for it.
fn read_letters<'a>(
    flags: &[&Flag],
    word: &str,
    rest: &mut impl Iterator<Item = &'a Word>,
    parsed: &mut Parsed,
) -> Result<(), String> {
    let mut letters = word[1..].chars();
    while let Some(letter) = letters.next() {
        let flag = flags.iter().copied().chain([&HELP]).find(|flag| flag.short == Some(letter));
        let flag = flag.ok_or_else(|| format!("unknown shorthand flag: '{letter}' in {word}"))?;
        let behind = letters.as_str();
        if let Some(value) = behind.strip_prefix('=') {
            return give(flag, value, parsed);
        }
        if flag.value.is_none() {
            give(flag, "true", parsed)?;
            continue;
        }
        if !behind.is_empty() {
            return give(flag, behind, parsed);
        }
        let value = rest.next().ok_or_else(|| format!("flag needs an argument: '{letter}' in {word}"))?;
        return give(flag, value, parsed);
    }
    Ok(())
}

fn give(flag: &Flag, value: &str, parsed: &mut Parsed) -> Result<(), String> {
    let checked = checked(flag, value).map_err(|error| {
        let name = flag.short.map_or(String::new(), |short| format!("-{short}, ")) + "--" + flag.name;
        format!("invalid argument {} for \"{name}\" flag: {error}", golang::quote(value.as_bytes()))
    })?;
    match parsed.values.get_mut(flag.name) {
        // A list grows with each time it is given.
        Some(list) if flag.value == Some("strings") => {
            list.push(',');
            list.push_str(&checked);
        }
        _ => drop(parsed.values.insert(flag.name, checked)),
    }
    Ok(())
}

/// A value as it is kept, if it is one for this flag.
pub(super) fn checked(flag: &Flag, value: &str) -> Result<String, String> {
    match flag.value {
        None => golang::parse_bool(value).map(|value| value.to_string()),
        Some("int") => golang::parse_int(value, 0).map(|value| value.to_string()),
        Some("uint") => golang::parse_uint(value, 0).map(|value| value.to_string()),
        Some("duration") => golang::parse_duration(value).map(|_| value.to_owned()),
        Some(_) => Ok(value.to_owned()),
    }
}
