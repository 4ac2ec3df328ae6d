//! The shell: everything of a member that needs a network, a clock or threads.

pub mod watch;
