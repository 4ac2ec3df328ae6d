//! The command line tools of operators. They take what etcd's tools take and print what those print, on standard output
//! to the byte; texts of errors may say more.
//!
//! [`command`] reads a command line by a tree of commands, [`golang`] has the shapes of Go's standard library that operators
//! type and scripts read, [`print`](mod@print) tables and sizes. [`ctl`] is the tree of `kvorumctl`, which asks a cluster, and
//! [`utl`] that of `kvorumutl`, which works on files and never on a member that runs.

pub mod command;
pub mod ctl;
pub mod golang;
pub mod print;
pub mod utl;

use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;

/// The version of etcd whose tools these stand for.
const ETCD_VERSION: &str = "3.7.1";
const API_VERSION: &str = "3.7";

/// What the binaries do.
#[must_use]
pub fn main_of(program: &'static command::Program) -> ExitCode {
    let arguments = std::env::args_os().skip(1).map(|argument| argument.into_vec().into());
    command::run(program, &arguments.collect::<Vec<_>>())
}
