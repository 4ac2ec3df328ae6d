//! The command line tools of operators. They take what etcd's tools take and print what those print, on standard output
//! to the byte; texts of errors may say more.
//!
//! [`command`] reads a command line by a tree of commands, [`completion`] writes what shells complete by,
//! [`print`](mod@print) has the shapes that several commands print, [`utl`] is
//! the tree of `kvorumutl`, which works on files and never on a member that runs.

pub mod command;
pub mod completion;
pub mod print;
pub mod utl;
