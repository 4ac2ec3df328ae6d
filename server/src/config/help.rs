//! What `--help`, `--version` and a usage error print. Built from the table of flags.

use super::flags::{FLAGS, Group, Kind, Support};
use crate::{ETCD_VERSION, KVORUM_VERSION};

/// The first part of the help, also printed after a usage error.
pub const USAGE: &str = "\
Usage:

  kvorum [flags]
    Start a Kvorum server.

  kvorum --version
    Show the versions of etcd spoken and of Kvorum.

  kvorum -h | --help
    Show all flags.

Every flag can be given as an environment variable instead: --foo-bar is ETCD_FOO_BAR.
";

const GROUPS: &[(Group, &str)] = &[
    (Group::Member, "Member"),
    (Group::Clustering, "Clustering"),
    (Group::Security, "Security"),
    (Group::Auth, "Auth"),
    (Group::Monitoring, "Profiling and Monitoring"),
    (Group::Logging, "Logging"),
    (Group::Tracing, "Distributed tracing"),
    (Group::Features, "Features"),
    (Group::Unsafe, "Unsafe feature"),
    (Group::Own, "Kvorum"),
];

/// All flags with their defaults.
pub fn flags_text() -> String {
    let mut text = String::new();
    for (group, title) in GROUPS {
        text.push_str(&format!("\n{title}:\n"));
        for flag in FLAGS.iter().filter(|flag| flag.group == *group) {
            let default = if flag.name == "data-dir" { "${name}.etcd" } else { flag.default };
            let numeric = matches!(flag.kind, Kind::Unsigned | Kind::Signed | Kind::Unsigned32);
            let shown = if numeric { default.to_owned() } else { format!("'{default}'") };
            let note = if flag.support == Support::DefaultOnly { " (not supported yet)" } else { "" };
            text.push_str(&format!("  --{} {shown}\n    {}{note}\n", flag.name, flag.help));
        }
    }
    text
}

/// The answer to `--version`. Tools read the first line; the shape of the others is etcd's.
pub fn version_text() -> String {
    let (system, machine) = (std::env::consts::OS, go_architecture(std::env::consts::ARCH));
    let revision = option_env!("KVORUM_GIT_SHA").unwrap_or("unknown");
    let rust = env!("KVORUM_RUSTC_VERSION");
    format!(
        "etcd Version: {ETCD_VERSION}\nKvorum Version: {KVORUM_VERSION}\nGit SHA: {revision}\nRust Version: {rust}\n\
         Rust OS/Arch: {system}/{machine}\n"
    )
}

fn go_architecture(rust_name: &str) -> &str {
    match rust_name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
