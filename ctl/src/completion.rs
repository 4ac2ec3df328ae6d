//! Scripts by which shells complete a tool's commands and flags, drawn from its tree of commands. The tool is not asked
//! again: the scripts hold everything.

use crate::command::{Action, Command};

/// The script for `bash`, `zsh`, `fish` or `powershell`.
pub fn script(root: &'static Command, shell: &str) -> Option<String> {
    let places = places(root);
    match shell {
        "bash" => Some(bash(root.name, &places)),
        "zsh" => Some(zsh(root.name, &places)),
        "fish" => Some(fish(root.name, &places)),
        "powershell" => Some(powershell(root.name, &places)),
        _ => None,
    }
}

/// One command with what can follow it.
struct Place {
    /// The names that lead to it, the tool's left out: `snapshot restore`.
    path: String,
    /// Names and what they are about.
    words: Vec<(String, &'static str)>,
}

fn places(root: &'static Command) -> Vec<Place> {
    let mut places = Vec::new();
    add(root, &mut Vec::new(), &[], &mut places);
    places
}

fn add(
    command: &'static Command,
    path: &mut Vec<&'static str>,
    inherited: &[(String, &'static str)],
    places: &mut Vec<Place>,
) {
    let own = command.flags.iter().map(|flag| (format!("--{}", flag.name), flag.about));
    let flags: Vec<(String, &'static str)> = inherited.iter().cloned().chain(own).collect();
    let mut words: Vec<(String, &'static str)> = Vec::new();
    if let Action::Group(commands) = &command.action {
        words.extend(commands.iter().map(|command| (command.name.to_owned(), command.about)));
    }
    words.extend(flags.iter().cloned());
    words.push(("--help".to_owned(), "help for this command"));
    places.push(Place { path: path.join(" "), words });
    if let Action::Group(commands) = &command.action {
        for command in *commands {
            path.push(command.name);
            add(command, path, &flags, places);
            path.pop();
        }
    }
}

/// What follows the words that are there: flags and their values are not names of commands.
fn bash(tool: &str, places: &[Place]) -> String {
    let mut cases = String::new();
    for Place { path, words } in places {
        let names: Vec<&str> = words.iter().map(|(name, _)| name.as_str()).collect();
        cases += &format!("        {path:?}) words={:?} ;;\n", names.join(" "));
    }
    let known = alternatives(places);
    format!(
        r#"# bash completion for {tool}
_{tool}() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" path="" words="" word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "${{path:+$path }}$word" in
        {known}) path="${{path:+$path }}$word" ;;
        esac
    done
    case "$path" in
{cases}    esac
    COMPREPLY=()
    if [[ $words != "" ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    fi
    if [[ ${{#COMPREPLY[@]}} -eq 0 ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
}}
complete -F _{tool} {tool}
"#
    )
}

fn alternatives(places: &[Place]) -> String {
    let known: Vec<String> =
        places.iter().filter(|place| !place.path.is_empty()).map(|place| format!("{:?}", place.path)).collect();
    known.join("|")
}

fn zsh(tool: &str, places: &[Place]) -> String {
    let mut cases = String::new();
    for Place { path, words } in places {
        cases += &format!("    {path:?})\n");
        for (name, about) in words {
            cases += &format!("        candidates+=({})\n", single_quoted(&format!("{name}:{about}")));
        }
        cases += "        ;;\n";
    }
    let known = alternatives(places);
    format!(
        r#"#compdef {tool}
_{tool}() {{
    local place="" word
    local -a candidates
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        case "${{place:+$place }}$word" in
        {known}) place="${{place:+$place }}$word" ;;
        esac
    done
    case "$place" in
{cases}    esac
    _describe -t words {tool} candidates || _files
}}
compdef _{tool} {tool}
"#
    )
}

fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn fish(tool: &str, places: &[Place]) -> String {
    let mut text = format!(
        "# fish completion for {tool}\nfunction __{tool}_at\n    set -l place\n    for word in (commandline -opc)[2..-1]\n        \
         if contains -- (string join ' ' $place $word) {}\n            set place $place $word\n        end\n    end\n    test \
         (string join ' ' $place) = \"$argv[1]\"\nend\n",
        places
            .iter()
            .filter(|place| !place.path.is_empty())
            .map(|place| single_quoted(&place.path))
            .collect::<Vec<_>>()
            .join(" ")
    );
    for Place { path, words } in places {
        let condition = single_quoted(&format!("__{tool}_at {}", fish_inner(path)));
        for (name, about) in words {
            let what = match name.strip_prefix("--") {
                Some(flag) => format!("-l {flag}"),
                None => format!("-f -a {name}"),
            };
            text += &format!("complete -c {tool} -n {condition} {what} -d {}\n", single_quoted(about));
        }
    }
    text
}

fn fish_inner(path: &str) -> String {
    format!("\"{path}\"")
}

fn powershell(tool: &str, places: &[Place]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut table = String::new();
    for Place { path, words } in places {
        table += &format!("        {} = @(\n", quoted(path));
        for (name, about) in words {
            table += &format!("            ,@({}, {})\n", quoted(name), quoted(about));
        }
        table += "        )\n";
    }
    format!(
        r#"# powershell completion for {tool}
Register-ArgumentCompleter -Native -CommandName '{tool}' -ScriptBlock {{
    param($wordToComplete, $commandAst, $cursorPosition)
    $places = @{{
{table}    }}
    $place = ''
    foreach ($element in $commandAst.CommandElements | Select-Object -Skip 1) {{
        if ($element.Extent.EndOffset -ge $cursorPosition) {{ break }}
        $next = "$place $element".Trim()
        if ($places.ContainsKey($next)) {{ $place = $next }}
    }}
    foreach ($pair in $places[$place]) {{
        if ($pair[0].StartsWith($wordToComplete)) {{
            [System.Management.Automation.CompletionResult]::new($pair[0], $pair[0], 'ParameterValue', $pair[1])
        }}
    }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_flag_is_in_every_script() {
        for shell in ["bash", "zsh", "fish", "powershell"] {
            let script = script(&crate::utl::ROOT, shell).expect("a known shell");
            for word in ["snapshot restore", "migrate", "export", "bump-revision", "write-out", "target-version"] {
                assert!(script.contains(word), "{shell} lacks {word}");
            }
        }
        assert_eq!(script(&crate::utl::ROOT, "tcsh"), None);
    }

    /// What bash itself makes of the script.
    #[test]
    fn bash_completes_by_it() {
        let script = script(&crate::utl::ROOT, "bash").expect("a known shell");
        let complete = |words: &str| {
            let ask = format!(
                "{script}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _kvorumutl; echo ${{COMPREPLY[@]}}"
            );
            let output = std::process::Command::new("bash").args(["-c", &ask]).output();
            let Ok(output) = output else { return None };
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        for (words, expected) in [
            ("kvorumutl snap", "snapshot"),
            ("kvorumutl snapshot re", "restore"),
            ("kvorumutl --timeout 5s snapshot restore file --mark", "--mark-compacted"),
            ("kvorumutl defrag --data", "--data-dir"),
        ] {
            let Some(found) = complete(words) else { return };
            assert_eq!(found, expected, "{words}");
        }
    }
}
