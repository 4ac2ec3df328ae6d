//! What the fuzz targets do with their inputs: one module for each target, with a function that takes any bytes and fails on
//! a broken promise. The targets themselves are in `fuzz/`, which only a nightly compiler builds; the inputs that are kept
//! there are replayed by this crate's test, so `cargo test` needs neither.
//!
//! Nothing here opens a socket or a file, waits, or depends on anything but its input. A target says in its first lines what
//! its inputs are and what holds of each.

pub mod bolt;
pub mod command_line;
pub mod config;
pub mod headers;
mod input;
mod memory_file;
pub mod peer_frames;
pub mod peer_messages;
pub mod requests;
pub mod snap;
pub mod tokens;
pub mod wal;

/// What a target does with one input.
pub type Target = fn(&[u8]);

/// All targets. A test compares them with the folder of `fuzz/`.
pub const TARGETS: [(&str, Target); 10] = [
    ("bolt", bolt::run),
    ("command_line", command_line::run),
    ("config", config::run),
    ("headers", headers::run),
    ("peer_frames", peer_frames::run),
    ("peer_messages", peer_messages::run),
    ("requests", requests::run),
    ("snap", snap::run),
    ("tokens", tokens::run),
    ("wal", wal::run),
];
