//! What proves a server equal to etcd from outside: real clients, a real etcd as the oracle, and the comparison of
//! their answers. Nothing here may look inside the server under test: it is a process with a port.
//!
//! Modules in reading order: [`tools`] finds programs, [`process`] runs them, [`raw`] speaks gRPC, [`call`] names the
//! requests and replies, [`random`] and [`generate`] make them, [`compare`] judges a pair of replies, [`watching`]
//! follows watch streams, [`pair`] sends one request to two servers, [`differ`] drives them in lockstep, [`history`] computes what a history must hash to.

pub mod call;
pub mod compare;
pub mod differ;
pub mod generate;
pub mod history;
pub mod pair;
pub mod process;
pub mod random;
pub mod raw;
pub mod tools;
pub mod watching;
