//! How Go reads and writes numbers, durations, quoted text and JSON: what operators type at etcd's tools and what scripts
//! read from them is of these shapes. Only what the tools use, to the byte.

pub mod json;
mod numbers;
mod quoting;

pub use numbers::{duration_text, parse_bool, parse_duration, parse_int, parse_uint};
pub use quoting::{quote, unquote_first};

/// What Go says about a failed call of the system: without the number that Rust adds, and in small letters.
#[must_use]
pub fn io_error_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
