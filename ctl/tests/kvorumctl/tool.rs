//! What is not about keys: versions, helps, flags, the environment, completion.

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
fn bash_completes_command_lines() {
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
    // The script, in a shell that is asked what it would offer.
    let script = world.output("completion bash")
        + "COMP_WORDS=(kvorumctl lease time); COMP_CWORD=2; _kvorumctl; echo \"${COMPREPLY[@]}\"\n\
           COMP_WORDS=(kvorumctl get -w ''); COMP_CWORD=3; _kvorumctl; echo \"${COMPREPLY[@]}\"\n";
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_kvorumctl")).parent().expect("a folder");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut bash = std::process::Command::new("bash");
    bash.env("PATH", path).arg("-s");
    let answer = finish(bash, &script);
    assert_eq!(
        (answer.output.as_str(), answer.errors.as_str()),
        ("timetolive\nfields json protobuf simple table\n", "")
    );
}
