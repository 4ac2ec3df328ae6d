//! `completion`: what a shell runs to complete command lines.

use super::UTILITY;
use crate::command::{Action, Command, EXIT_ERROR, Failure, Parsed, complete};
use crate::golang;

const TOOL: &str = "kvorumctl";

pub const COMMAND: Command = Command {
    name: "completion",
    operands: "[bash|zsh|fish|powershell]",
    about: "Prints what a shell needs to complete command lines",
    long: "Prints what a shell needs to complete command lines. For the shell that runs:\n\n  $ source <(kvorumctl completion \
           bash)\n  $ source <(kvorumctl completion zsh)\n  $ kvorumctl completion fish | source\n  PS> kvorumctl completion \
           powershell | Out-String | Invoke-Expression\n\nFor all that come, put the same into the file that the shell reads \
           when it starts, or its output\ninto the shell's folder of completions, for example \
           /etc/bash_completion.d/kvorumctl.",
    heading: UTILITY,
    flags: &[],
    action: Action::Run(completion),
};

fn completion(parsed: &Parsed) -> Result<String, Failure> {
    let [shell] = &parsed.operands[..] else {
        let text = format!("accepts 1 arg(s), received {}", parsed.operands.len());
        return Err(Failure::new(EXIT_ERROR, text));
    };
    complete::script(shell, TOOL).ok_or_else(|| {
        let shell = golang::quote(shell.bytes());
        Failure::new(EXIT_ERROR, format!("invalid argument {shell} for \"{TOOL} completion\""))
    })
}
