//! The same as `embed`, with no value kept in memory: every read goes to the backend.

const VALUE_BUDGET_BYTES: Option<u64> = Some(0);

mod suite;
