//! Whole clusters of the real `node`, `store` and write-ahead log in one thread, on a network, disks and clocks that are
//! simulated from one seed; and the checkers that judge what clients saw, which tests with real processes use as well.
//!
//! Nothing here reads a clock, draws randomness but from the seed, starts a thread or touches a file.
//!
//! In reading order: [`history`] is what clients record and how it is judged.

pub mod history;
