//! Whole clusters of the real `node`, `store` and write-ahead log in one thread, on a network, disks and clocks that are
//! simulated from one seed; and the judges of what clients saw, which tests with real processes use as well.
//!
//! Log segments, older entries read back for peers, `.snap` files and the databases sent between members are written and
//! read by `disk`'s own code over the simulated disk. Not covered are LMDB and its exchange with bbolt's format
//! (`MemoryBackend` stands for both), the server's own order of steps, and the bytes of the streams between members.
//!
//! Nothing here reads a clock, draws randomness but from the seed, starts a thread or touches a file.
//!
//! In reading order: [`history`] is what clients record and how it is judged; [`world`] runs a cluster, with [`random`]
//! for all chance and [`convert`] between clients and store; [`invariants`] hold at every moment; [`bug`] lists what tests
//! plant to see it found.

pub mod bug;
pub mod convert;
pub mod history;
pub mod invariants;
pub mod random;
pub mod world;

pub use bug::Bug;
pub use world::{Options, Report, run};
