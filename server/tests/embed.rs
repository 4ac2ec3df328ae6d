//! A member inside the test's process, spoken to through real sockets, with its values in memory.

/// Memory for values; the default of the server.
const VALUE_BUDGET_BYTES: Option<u64> = None;

mod suite;
