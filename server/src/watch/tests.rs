//! The rules of Watch, one test each, against a store made of a list; and all of them at once under seeded chance.

#![allow(clippy::unwrap_used)]

mod chance;
mod rules;
mod streams;
mod world;
