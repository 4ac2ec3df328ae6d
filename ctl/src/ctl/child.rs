//! Running a command of the operator's, as `watch`, `lock` and `elect` do: with our standard output and error, without our
//! input, and with more in its environment.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use crate::command::{EXIT_ERROR, Word};
use crate::golang;

/// Why a command did not end well.
#[derive(Debug)]
pub enum ChildError {
    /// It could not be started.
    Start(String, io::Error),
    Ended(ExitStatus),
}

impl ChildError {
    /// What to exit with ourselves.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(..) => EXIT_ERROR,
            // One that was killed has no code: Go says -1.
            Self::Ended(status) => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX),
        }
    }
}

impl fmt::Display for ChildError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(name, error) => {
                let name = golang::quote(name.as_bytes());
                match error.kind() {
                    io::ErrorKind::NotFound => write!(formatter, "exec: {name}: executable file not found in $PATH"),
                    _ => write!(formatter, "exec: {name}: {}", golang::io_error_text(error)),
                }
            }
            Self::Ended(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(formatter, "exit status {code}"),
                (None, signal) => write!(formatter, "signal: {}", signal_name(signal.unwrap_or(0))),
            },
        }
    }
}

/// As Go names them.
fn signal_name(signal: i32) -> String {
    match signal {
        1 => "hangup".to_owned(),
        2 => "interrupt".to_owned(),
        3 => "quit".to_owned(),
        6 => "aborted".to_owned(),
        9 => "killed".to_owned(),
        11 => "segmentation fault".to_owned(),
        13 => "broken pipe".to_owned(),
        14 => "alarm clock".to_owned(),
        15 => "terminated".to_owned(),
        other => format!("signal {other}"),
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started, or does not end with 0.
pub async fn run<'a>(
    command: &[Word],
    environment: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
) -> Result<(), ChildError> {
    let [program, arguments @ ..] = command else { return Ok(()) };
    let failed = |error| ChildError::Start(program.to_string(), error);
    let mut child = tokio::process::Command::new(program.os_text())
        .args(arguments.iter().map(Word::os_text))
        .envs(environment)
        .stdin(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let status = child.wait().await.map_err(failed)?;
    if status.success() { Ok(()) } else { Err(ChildError::Ended(status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_go_tells_them() {
        let ended = |raw| ChildError::Ended(ExitStatus::from_raw(raw));
        assert_eq!((ended(3 << 8).to_string(), ended(3 << 8).exit_code()), ("exit status 3".to_owned(), 3));
        assert_eq!((ended(9).to_string(), ended(9).exit_code()), ("signal: killed".to_owned(), 255));
        let missing = ChildError::Start("x".to_owned(), io::ErrorKind::NotFound.into());
        assert_eq!(missing.to_string(), "exec: \"x\": executable file not found in $PATH");
    }
}
