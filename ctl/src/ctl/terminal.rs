//! Asking whoever sits at the terminal.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Stdin, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::command::{EXIT_ERROR, EXIT_INTERRUPTED, Failure};

/// What a terminal sends for keys that it usually handles itself.
const CONTROL_C: u8 = 0x03;
const CONTROL_D: u8 = 0x04;
const BACKSPACES: [u8; 2] = [0x08, 0x7f];

/// Asks for a password on standard output and reads a line of standard input, which a terminal does not show. Empty space
/// around it is no part of it, and the end of the input is an empty line, as for etcdctl.
///
/// # Errors
/// When nothing can be read, or whoever is asked interrupts ([`EXIT_INTERRUPTED`]).
pub fn ask_password(prompt: &str) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::new(EXIT_ERROR, error.to_string());
    let input = std::io::stdin();
    let mut output = std::io::stdout();
    // Hidden before the prompt: what is typed ahead is not shown either.
    let hidden = if input.is_terminal() { Some(Hidden::begin(&input).map_err(failed)?) } else { None };
    output.write_all(prompt.as_bytes()).and_then(|()| output.flush()).map_err(failed)?;
    let line = if hidden.is_some() { typed_line(&input) } else { whole_line(&input) };
    drop(hidden);
    output.write_all(b"\n").map_err(failed)?;
    let line = line.map_err(failed)?.ok_or_else(|| Failure::new(EXIT_INTERRUPTED, "interrupted"))?;
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}

fn whole_line(input: &Stdin) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.lock().read_until(b'\n', &mut line)?;
    Ok(Some(line))
}

/// What is typed up to the end of the line; None for an interrupt.
fn typed_line(input: &Stdin) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    for byte in input.lock().bytes() {
        match byte? {
            b'\r' | b'\n' | CONTROL_D => break,
            CONTROL_C => return Ok(None),
            byte if BACKSPACES.contains(&byte) => drop(line.pop()),
            byte => line.push(byte),
        }
    }
    Ok(Some(line))
}

/// While it lives, the terminal shows nothing and hands over every key, so that no interrupt ends the process and leaves
/// the terminal as it is then.
struct Hidden<'a> {
    terminal: &'a Stdin,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn begin(terminal: &'a Stdin) -> std::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut modes = before.clone();
        modes.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(terminal, OptionalActions::Now, &modes)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // Nothing can be done for a terminal that is gone.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}
