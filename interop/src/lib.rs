//! What proves a server equal to etcd from outside: real clients, a real etcd as the oracle, and the comparison of
//! their answers. Nothing here may look inside the server under test: it is a process with a port.
//!
//! What the tests take from the environment:
//!
//! | variable | meaning | else |
//! |---|---|---|
//! | `KVORUM_TEST_SERVER` | path of an etcd-compatible server to test | the workspace's `kvorum`, built |
//! | `KVORUM_REQUIRE_TOOLS` | 1: a missing tool (`etcdctl`, Go) fails its tests | they are skipped |
//! | `KVORUM_DIFF_SEED` | seed of the requests and of the first hashed history | fixed |
//! | `KVORUM_DIFF_REQUESTS` | how many requests | 20,000 |
//! | `KVORUM_DIFF_LEFT`, `KVORUM_DIFF_RIGHT` | a binary's path or the URL of a fresh member | oracle, server under test |
//! | `KVORUM_HASH_HISTORIES` | how many histories are hashed | 20 |
//! | `KVORUM_CRASH_ROUNDS`, `KVORUM_CRASH_SEED` | how often the server is killed, and when | 50, 1 |
//! | `KVORUM_TEST_ETCD` | path of an etcd 3.7 to cluster with | `etcd` of the path if it is 3.7, or built with Go |
//! | `KVORUM_TEST_ETCD_36` | path of an etcd 3.6 to cluster with | its tests are skipped |
//! | `KVORUM_TEST_ETCD_35` | path of an etcd 3.5 to take data over from | its tests are skipped |
//! | `KVORUM_MIXED_SLOW` | 1: also what takes five minutes, checkpoints of leases | skipped |
//! | `KVORUM_MIXED_OPERATIONS`, `KVORUM_MIXED_SEED` | operations on a cluster of several programs, and which | 1,500, 1 |
//! | `KVORUM_FORGET_ROUNDS`, `KVORUM_FORGET_SEED` | how often the disk forgets, and when | 50, 1 |
//! | `KVORUM_FAULT_SECONDS`, `KVORUM_FAULT_SEED` | how long clusters are harmed, and how | 60, 1 |
//!
//! Every test prints its seed when it fails; a failing test keeps the folders and logs of its members.
//!
//! Modules in reading order: [`tools`] finds programs, [`process`] runs them, [`raw`] speaks gRPC, [`call`] names the
//! requests and replies, [`random`] and [`generate`] make them, [`compare`] judges a pair of replies, [`watching`]
//! follows watch streams, [`pair`] sends one request to two servers, [`differ`] drives them in lockstep, [`history`]
//! computes what a history must hash to, [`crash`] writes until the server is gone and checks what it finds after,
//! [`disk`] makes what was not synced be gone as well, [`machine`] puts both together, [`cluster`] runs members of several
//! programs together, [`load`] keeps them busy and checks each answer, [`faults`] does harm to whole clusters, [`migration`]
//! moves one from etcd to Kvorum and back, [`transcript`] compares what two command line tools print.

pub mod call;
pub mod certificates;
pub mod cluster;
pub mod compare;
pub mod crash;
pub mod differ;
pub mod disk;
pub mod faults;
pub mod generate;
pub mod history;
pub mod load;
pub mod machine;
pub mod migration;
pub mod pair;
pub mod ports;
pub mod process;
pub mod random;
pub mod raw;
pub mod tools;
pub mod transcript;
pub mod watching;
