//! The command lines of the tools: words, separated by line ends, for one of their commands, which is not carried out. And the
//! shapes of Go's that operators type.
//!
//! Nothing stops the tool. A text that was quoted is read back as it was, and a length of time too.

use std::time::Duration;

use kvorum_ctl::command::{Action, Command, Program, Word, complete, parse_flags};
use kvorum_ctl::{ctl, golang, utl};

use crate::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte();
    let program: &'static Program = if choice & 1 == 0 { &ctl::PROGRAM } else { &utl::PROGRAM };
    match choice >> 1 & 3 {
        0 | 1 => {
            let mut leaves = Vec::new();
            collect(&program.root, &mut leaves);
            let command = leaves[usize::from(input.byte()) % leaves.len()];
            if let Ok(parsed) = parse_flags(command, &words(input.rest())) {
                for flag in command.flags {
                    let _ = (parsed.value(flag), parsed.number(flag), parsed.duration(flag), parsed.is_set(flag));
                }
            }
        }
        2 => drop(complete::lines(program, &words(input.rest()))),
        _ => {
            let bytes = input.rest();
            let quoted = golang::quote(bytes);
            let (again, rest) = golang::unquote_first(&quoted).expect("what was quoted is read");
            assert!(again == bytes && rest.is_empty(), "{quoted}");
            let text = String::from_utf8_lossy(bytes);
            let _ = golang::unquote_first(&text);
            for base in [0, 10, 16] {
                let _ = (golang::parse_int(&text, base), golang::parse_uint(&text, base));
            }
            if let Ok(nanoseconds) = golang::parse_duration(&text)
                && let Ok(positive) = u64::try_from(nanoseconds)
            {
                let shown = golang::duration_text(Duration::from_nanos(positive));
                assert_eq!(golang::parse_duration(&shown), Ok(nanoseconds), "{shown}");
            }
        }
    }
}

fn words(bytes: &[u8]) -> Vec<Word> {
    bytes.split(|byte| *byte == b'\n').map(|word| Word::from(word.to_vec())).collect()
}

fn collect(command: &'static Command, leaves: &mut Vec<&'static Command>) {
    leaves.push(command);
    if let Action::Group(commands) = command.action {
        commands.iter().for_each(|command| collect(command, leaves));
    }
}
