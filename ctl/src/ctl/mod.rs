//! The commands of `kvorumctl`: one file for each command or group of commands, with its flags, what it asks the cluster,
//! and how its answers are printed.
//!
//! A command judges its arguments before anything else, then calls [`session::run`] for a client and a printer. It never
//! reads the environment or the global flags by itself, and prints answers only through [`output::Printer`].

mod alarm;
mod auth;
mod check;
mod child;
mod compaction;
mod completion;
mod defrag;
mod del;
mod discovery;
mod downgrade;
mod elect;
mod endpoint;
mod get;
mod global;
mod lease;
mod lock;
mod make_mirror;
mod member;
mod messages;
mod move_leader;
mod options;
mod output;
mod page;
mod progress;
mod put;
mod role;
mod session;
mod snapshot;
mod terminal;
mod txn;
mod user;
mod version;
mod watch;

use crate::command::{Action, Command, Program};

/// Headings of the help.
const KEY_VALUE: &str = "Key-value commands";
const CLUSTER: &str = "Cluster maintenance commands";
const CONCURRENCY: &str = "Concurrency commands";
const AUTHENTICATION: &str = "Authentication commands";
const UTILITY: &str = "Utility commands";

pub static PROGRAM: Program = Program {
    root: Command {
        name: "kvorumctl",
        about: "A command line client for Kvorum and etcd.",
        flags: global::FLAGS,
        // In etcdctl's order, in which a mistyped one is answered with suggestions; the help sorts them.
        action: Action::Group(&[
            get::COMMAND,
            put::COMMAND,
            del::COMMAND,
            txn::COMMAND,
            compaction::COMMAND,
            alarm::COMMAND,
            defrag::COMMAND,
            endpoint::COMMAND,
            move_leader::COMMAND,
            watch::COMMAND,
            version::COMMAND,
            lease::COMMAND,
            member::COMMAND,
            snapshot::COMMAND,
            make_mirror::COMMAND,
            lock::COMMAND,
            elect::COMMAND,
            auth::COMMAND,
            user::COMMAND,
            role::COMMAND,
            check::COMMAND,
            completion::COMMAND,
            downgrade::COMMAND,
            options::COMMAND,
        ]),
        ..Command::EMPTY
    },
    headings: &[KEY_VALUE, CLUSTER, CONCURRENCY, AUTHENTICATION, UTILITY],
    footer: "Use \"kvorumctl options\" for a list of global command-line options (applies to all commands).",
};
