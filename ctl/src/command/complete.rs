//! Completion of a command line in a shell: the shell's script asks the tool itself what could stand where the cursor is, so
//! that a script never knows commands or flags.

use super::read::{HELP, find, word_position};
use super::{Action, Command, Flag, Program, Word};

/// What a tool is called with by the scripts, before the words up to the cursor.
pub const REQUEST: &str = "__complete";

pub const SHELLS: [&str; 4] = ["bash", "zsh", "fish", "powershell"];

/// The values that some flags have; others are not completed.
const VALUES: [(&str, &[&str]); 5] = [
    ("write-out", &["fields", "json", "protobuf", "simple", "table"]),
    ("consistency", &["l", "s"]),
    ("order", &["ASCEND", "DESCEND"]),
    ("sort-by", &["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"]),
    ("load", &["l", "m", "s", "xl"]),
];

/// What a shell runs once to have completion for a tool. None when it is none of [`SHELLS`].
#[must_use]
pub fn script(shell: &str, tool: &str) -> Option<String> {
    let text = match shell {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        "powershell" => POWERSHELL,
        _ => return None,
    };
    Some(text.replace("TOOL", tool).replace("REQUEST", REQUEST))
}

const BASH: &str = r#"# Completion of TOOL in bash.
_TOOL() {
    # bash cuts words at colons, which stand in endpoints.
    local IFS=$'\n' word last= words=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        if [[ ${#words[@]} -gt 0 && ( $word == :* || $last == *: ) ]]; then
            words[${#words[@]}-1]+=$word
        else
            words+=("$word")
        fi
        last=$word
    done
    COMPREPLY=($(TOOL REQUEST "${words[@]}" 2>/dev/null | cut -f 1))
}
complete -o default -F _TOOL TOOL
"#;

const ZSH: &str = r#"#compdef TOOL
# Completion of TOOL in zsh.
_TOOL() {
    local -a candidates
    local line
    for line in "${(@f)$(TOOL REQUEST "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] && candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    if (( ${#candidates} )); then
        _describe TOOL candidates
    else
        _files
    fi
}
if [[ ${funcstack[1]} == _TOOL ]]; then
    _TOOL "$@"
else
    compdef _TOOL TOOL
fi
"#;

const FISH: &str = r"# Completion of TOOL in fish.
function __TOOL_candidates
    set -l words (commandline -opc)
    TOOL REQUEST $words[2..-1] (commandline -ct) 2>/dev/null
end
# Files where nothing else is known.
complete -c TOOL -n 'count (__TOOL_candidates) >/dev/null' -f -a '(__TOOL_candidates)'
";

const POWERSHELL: &str = r"# Completion of TOOL in PowerShell 7.3 and later.
Register-ArgumentCompleter -Native -CommandName TOOL -ScriptBlock {
    param($current, $line, $cursor)
    $words = @($line.CommandElements | Select-Object -Skip 1 | ForEach-Object { $_.ToString() })
    if (-not $current) { $words += '' }
    TOOL REQUEST @words 2>$null | ForEach-Object {
        $name, $about = $_ -split ([char]9), 2
        [System.Management.Automation.CompletionResult]::new($name, $name, 'ParameterValue', $(if ($about) { $about } else { $name }))
    }
}
";

/// The lines that scripts read: a candidate, a tab, and what it is about.
#[must_use]
pub fn lines(program: &'static Program, words: &[Word]) -> String {
    let candidates = candidates(program, words);
    candidates.iter().map(|(name, about)| format!("{name}\t{about}\n")).collect()
}

/// What could stand in place of the last word.
fn candidates(program: &'static Program, words: &[Word]) -> Vec<(String, &'static str)> {
    // bash gives `--flag=value` as three words.
    let (mut current, mut before) = match words {
        [before @ .., current] => (&**current, before),
        [] => ("", words),
    };
    if current == "=" {
        current = "";
    } else if let [rest @ .., equals] = before
        && &**equals == "="
    {
        before = rest;
    }
    let before: Vec<Word> = before.iter().filter(|word| &***word != "=").cloned().collect();
    if before.iter().any(|word| &**word == "--") {
        return Vec::new();
    }
    // The value of a flag does not name a command, and the flag before the cursor has none yet.
    let without_last = before.split_last().map_or(&before[..], |(_, rest)| rest);
    let last_flag = |path: &[&'static Command]| {
        let last = before.last()?;
        flags(path).find(|flag| flag.value.is_some() && names(flag, last))
    };
    let Ok((path, rest)) = find(program, &before) else { return Vec::new() };
    if let Ok((path, _)) = find(program, without_last)
        && let Some(flag) = last_flag(&path)
    {
        return matching(current, values(flag).iter().map(|value| ((*value).to_owned(), "")));
    }
    if let Some((name, value)) = current.split_once('=') {
        let flag = flags(&path).find(|flag| name.strip_prefix("--") == Some(flag.name));
        let all = flag.map_or(&[][..], values).iter().map(|value| (format!("{name}={value}"), ""));
        return matching(&format!("{name}={value}"), all);
    }
    if current.starts_with('-') {
        return matching(current, flags(&path).map(|flag| (format!("--{}", flag.name), flag.about)));
    }
    let command = path.last().expect("the root is there");
    match command.action {
        Action::Group(commands) if word_position(&path, &rest).is_none() => {
            let help = (path.len() == 1).then(|| ("help".to_owned(), "Says how a command is used"));
            matching(current, commands.iter().map(|command| (command.name.to_owned(), command.about)).chain(help))
        }
        _ if command.name == "completion" => matching(current, SHELLS.iter().map(|shell| ((*shell).to_owned(), ""))),
        _ => Vec::new(),
    }
}

fn flags(path: &[&'static Command]) -> impl Iterator<Item = &'static Flag> {
    let own: Vec<&'static Flag> = path.iter().flat_map(|command| command.flags).chain([&HELP]).collect();
    own.into_iter()
}

fn names(flag: &Flag, word: &str) -> bool {
    match word.strip_prefix("--") {
        Some(name) => name == flag.name,
        None => flag.short.is_some_and(|short| *word == format!("-{short}")),
    }
}

fn values(flag: &Flag) -> &'static [&'static str] {
    VALUES.iter().find(|(name, _)| *name == flag.name).map_or(&[], |(_, values)| values)
}

fn matching(beginning: &str, all: impl Iterator<Item = (String, &'static str)>) -> Vec<(String, &'static str)> {
    let mut found: Vec<_> = all.filter(|(name, _)| name.starts_with(beginning)).collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str) -> String {
        let words: Vec<Word> = line.split(' ').map(Word::from).collect();
        let candidates = candidates(&crate::ctl::PROGRAM, &words);
        candidates.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn commands_flags_and_values_are_completed() {
        assert_eq!(complete("le"), "lease");
        assert_eq!(complete("-w json lease "), "grant keep-alive list revoke timetolive");
        assert_eq!(complete("lease timetolive --k"), "--keepalive-time --keepalive-timeout --key --keys");
        assert_eq!(complete("get --write-out "), "fields json protobuf simple table");
        assert_eq!(complete("get -w j"), "json");
        assert_eq!(complete("get --order=D"), "--order=DESCEND");
        assert_eq!(complete("get --order = D"), "DESCEND");
        assert_eq!(complete("get --order ="), "ASCEND DESCEND");
        assert_eq!(complete("completion "), "bash fish powershell zsh");
        assert_eq!(complete("get key "), "");
        assert_eq!(complete("nosuch "), "");
        assert_eq!(complete("watch key -- --p"), "");
        assert!(complete("").contains("get help lease"), "{}", complete(""));
    }
}
