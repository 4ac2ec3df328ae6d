//! The commands of `kvorumctl`: one file for each command or group of commands, with its flags, what it asks the cluster,
//! and how its answers are printed.
//!
//! A command judges its arguments before anything else, then calls [`session::run`] for a client and a printer. It never
//! reads the environment or the global flags by itself, and prints answers only through [`output::Printer`].

mod child;
mod compaction;
mod completion;
mod del;
mod elect;
mod get;
mod global;
mod lease;
mod lock;
mod messages;
mod options;
mod output;
mod put;
mod session;
mod terminal;
mod txn;
mod version;
mod watch;

use crate::command::{Action, Command, Program};

/// Headings of the help.
const KEY_VALUE: &str = "Key-value commands";
#[allow(dead_code)]
const CLUSTER: &str = "Cluster maintenance commands";
const CONCURRENCY: &str = "Concurrency commands";
#[allow(dead_code)]
const AUTHENTICATION: &str = "Authentication commands";
const UTILITY: &str = "Utility commands";

pub static PROGRAM: Program = Program {
    root: Command {
        name: "kvorumctl",
        about: "A command line client for Kvorum and etcd.",
        flags: global::FLAGS,
        // In the order of their headings; within one the help sorts them.
        action: Action::Group(&[
            // Keys and values.
            compaction::COMMAND,
            del::COMMAND,
            get::COMMAND,
            lease::COMMAND,
            put::COMMAND,
            txn::COMMAND,
            watch::COMMAND,
            // The cluster.
            // Concurrency.
            elect::COMMAND,
            lock::COMMAND,
            // Users and roles.
            // The rest.
            completion::COMMAND,
            options::COMMAND,
            version::COMMAND,
        ]),
        ..Command::EMPTY
    },
    footer: "Use \"kvorumctl options\" for a list of global command-line options (applies to all commands).",
};
