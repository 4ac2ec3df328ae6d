//! What is not about keys: versions, helps, flags, the environment, completion.

use std::process::Command;

use kvorum_interop::tools;

use super::world::{World, finish, words};

#[test]
fn the_tool_explains_itself() {
    let world = World::start();
    let version = world.output("version");
    assert!(version.starts_with("etcdctl version: 3.7.1\nAPI version: 3.7\nkvorumctl version: "), "{version}");
    assert_eq!(world.output("help get"), world.output("get --help"));
    assert!(world.output("").contains("\nKey-value commands\n  compaction "));
    assert!(world.output("options").contains("      --endpoints strings            "));
    assert!(
        world.output("lease").starts_with("Grants, shows and ends leases\n\nUsage:\n  kvorumctl lease [command]\n")
    );
    // The beginning of a name will do.
    assert_eq!(world.output("pu a 1"), "OK\n");
    assert_eq!(world.output("g a"), "a\n1\n");
    let answer = world.run("get a --nosuch");
    assert_eq!(answer.code, 1);
    assert!(answer.errors.starts_with("Error: unknown flag: --nosuch\nUsage:\n  kvorumctl get "), "{answer:?}");
}

#[test]
fn the_environment_is_read() {
    let world = World::start();
    world.output("put a 1");
    let run = |line: &str, variables: &[(&str, &str)]| {
        let mut command = world.command(&words(line));
        command.envs(variables.iter().copied());
        finish(command, "")
    };
    assert_eq!(run("get a", &[("ETCDCTL_HEX", "true")]).output, "\\x61\n\\x31\n");
    // Ours count before etcdctl's.
    assert_eq!(run("get a", &[("ETCDCTL_HEX", "true"), ("KVORUMCTL_HEX", "false")]).output, "a\n1\n");
    assert_eq!(run("get a --hex=false", &[("KVORUMCTL_HEX", "true")]).output, "a\n1\n");
    let answer = run("get a --hex", &[("ETCDCTL_HEX", "true")]);
    assert_eq!(answer.code, 1);
    assert!(answer.errors.contains("ETCDCTL_HEX and its flag"), "{answer:?}");
    let answer = run("get a", &[("ETCDCTL_NOSUCH", "x")]);
    assert_eq!((answer.code, answer.output.as_str()), (0, "a\n1\n"));
    assert_eq!(answer.errors, "Warning: unrecognized environment variable ETCDCTL_NOSUCH\n");
}

#[test]
fn an_endpoint_where_nobody_answers_is_given_up() {
    let world = World::start();
    // A socket that nobody listens on any more.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let run = |line: &str| world.run(&format!("{line} --endpoints {free}"));
    let answer = run("get a --command-timeout 100ms");
    assert_eq!(answer.code, 1);
    assert!(answer.errors.starts_with("Error: context deadline exceeded\n"), "{answer:?}");
    let answer = run("get a --user root:secret --dial-timeout 100ms");
    assert_eq!(answer.code, 2);
    assert!(answer.errors.starts_with("Error: context deadline exceeded\n"), "{answer:?}");
    assert!(!answer.errors.contains("secret"), "{answer:?}");
    for (line, text) in [
        ("get a --cert x", "KeyFile and CertFile must both be present[key: , cert: x]"),
        ("get a --cacert=", "empty string is passed to --cacert option"),
        ("get a --cacert /nonexistent", "open /nonexistent: no such file or directory"),
    ] {
        let answer = run(line);
        assert_eq!((answer.code, answer.errors), (128, format!("Error: {text}\n")), "{line}");
    }
}

#[test]
fn completion_is_for_four_shells() {
    let world = World::start();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(world.output(&format!("completion {shell}")).contains("__complete"), "{shell}");
    }
    let answer = world.run("completion csh");
    assert_eq!(
        (answer.code, answer.errors.as_str()),
        (1, "Error: invalid argument \"csh\" for \"kvorumctl completion\"\n")
    );
    assert_eq!(world.run("completion").errors, "Error: accepts 1 arg(s), received 0\n");
}

/// A shell that finds the tool, and what it prints of a script.
fn in_shell(mut shell: Command, script: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_kvorumctl")).parent().expect("a folder");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let home = tempfile::tempdir().expect("a folder");
    shell.env("PATH", path).env("TERM", "dumb").env("HOME", home.path()).current_dir(home.path());
    let answer = finish(shell, script);
    assert_eq!(answer.errors, "", "{answer:?}");
    answer.output
}

#[test]
fn bash_completes_command_lines() {
    // It is asked what it would offer for the words of a line, which it cuts at `=` and `:`.
    let mut script = "source <(kvorumctl completion bash)\n".to_owned();
    for line in [
        "lease time",
        "get -w ''",
        "get --order = D",
        "--endpoints http : //127.0.0.1 : 2379 endp",
        "snapshot save /etc/hostn",
    ] {
        script += &format!("COMP_WORDS=(kvorumctl {line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n");
        script += "_kvorumctl; echo \"${COMPREPLY[@]}\"\n";
    }
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-s"]);
    // Nothing to offer is what makes it offer files.
    let expected = "timetolive\nfields json protobuf simple table\nDESCEND\nendpoint\n\n";
    assert_eq!(in_shell(bash, &script), expected);
}

#[test]
fn fish_completes_command_lines() {
    let Some(fish) = tools::or_skip(tools::program("fish")) else { return };
    let script = r#"kvorumctl completion fish | source
        for line in 'lease time' 'get -w ' 'get --order=D' '--endpoints http://127.0.0.1:2379 endp' \
            'snapshot save /etc/passw'
            complete -C "kvorumctl $line" | string split -f 1 \t | sort | string join ' '
        end"#;
    let mut fish = Command::new(fish);
    fish.arg("--no-config");
    let output = in_shell(fish, script);
    let lines: Vec<&str> = output.lines().collect();
    let expected = ["timetolive", "fields json protobuf simple table", "--order=DESCEND", "endpoint"];
    assert_eq!(lines[..4], expected, "{output}");
    assert!(lines[4].starts_with("/etc/passwd"), "{output}");
}

#[test]
fn zsh_completes_command_lines() {
    let Some(zsh) = tools::or_skip(tools::program("zsh")) else { return };
    // One that is interactive is typed into; what it then runs in place of the tool tells what the line became.
    let script = r#"zmodload zsh/zpty
        zpty inner zsh -f -i
        zpty -w inner 'PS1=; autoload -Uz compinit; compinit -u -D; source <(kvorumctl completion zsh)'
        zpty -w inner 'kvorumctl() { if [[ $1 == __complete ]]; then command kvorumctl "$@"; else print -r R"AN:$*;"; fi }'
        for line in 'lease time' 'get -w j' 'get --order=D' '--endpoints http://127.0.0.1:2379 endp' \
            'snapshot save /etc/passw'; do
            zpty -w -n inner "kvorumctl $line"$'\t\r'
            zpty -r inner shown '*RAN:*;*'
            print -r -- "${${shown##*RAN:}%%$'\r'*}"
        done"#;
    let mut zsh = Command::new(zsh);
    zsh.arg("-f");
    let output = in_shell(zsh, script);
    let lines: Vec<&str> = output.lines().collect();
    let expected =
        ["lease timetolive;", "get -w json;", "get --order=DESCEND;", "--endpoints http://127.0.0.1:2379 endpoint;"];
    assert_eq!(lines[..4], expected, "{output}");
    assert!(lines[4].starts_with("snapshot save /etc/passwd"), "{output}");
}
