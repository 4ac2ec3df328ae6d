//! Asking whoever sits at the terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::command::{EXIT_ERROR, Failure};

/// Asks for a password on standard output and reads a line of standard input, which a terminal does not show. Empty space
/// around it is no part of it, and the end of the input is an empty line, as for etcdctl.
///
/// # Errors
/// When nothing can be read.
pub fn ask_password(prompt: &str) -> Result<String, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(EXIT_ERROR, error.to_string());
    let input = std::io::stdin();
    let mut output = std::io::stdout();
    output.write_all(prompt.as_bytes()).and_then(|()| output.flush()).map_err(|error| failed(&error))?;
    let shown = match input.is_terminal() {
        true => Some(tcgetattr(&input).map_err(|error| failed(&error))?),
        false => None,
    };
    if let Some(shown) = &shown {
        let mut hidden = shown.clone();
        hidden.local_modes -= LocalModes::ECHO;
        tcsetattr(&input, OptionalActions::Now, &hidden).map_err(|error| failed(&error))?;
    }
    let mut line = String::new();
    let read = input.lock().read_line(&mut line);
    if let Some(shown) = &shown {
        // The terminal shows again what is typed, whatever was read.
        tcsetattr(&input, OptionalActions::Now, shown).map_err(|error| failed(&error))?;
    }
    output.write_all(b"\n").map_err(|error| failed(&error))?;
    match read {
        Ok(_) => Ok(line.trim().to_owned()),
        Err(error) => Err(failed(&error)),
    }
}
