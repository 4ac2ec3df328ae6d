//! The cases, one file each, in the order of the report. A case knows nothing of which server it measures.

pub mod auth;
mod auth_cost;
mod beside;
mod catch_up;
mod cluster_failover;
mod cluster_put;
mod cluster_read;
mod compaction;
mod defragment;
mod keepalive;
mod large;
mod logins;
mod many_keys;
mod neighbour;
mod one_connection;
mod put;
mod range_memory;
mod range_one;
mod range_thousand;
mod read_under_write;
mod tls;
mod txn;
mod txn_history;
mod watch_fan_out;
mod watch_many;
mod watching;

use crate::figures::Row;
use crate::trial::Trial;

/// One line of the report, or a few that are measured together.
pub struct Case {
    /// As given to `--only`.
    pub name: &'static str,
    pub about: &'static str,
    /// Whether the empty tonic service can answer it.
    pub floor: bool,
    /// Starts a fresh server of the trial, prepares its data, measures.
    pub run: fn(&Trial) -> Result<Vec<Row>, String>,
}

pub const ALL: &[Case] = &[
    put::TEN_BY_FIFTY,
    put::HUNDRED_BY_ONE,
    put::ONE_BY_ONE,
    range_one::CASE,
    range_thousand::CASE,
    read_under_write::CASE,
    txn::CASE,
    txn_history::CASE,
    one_connection::PUT,
    one_connection::RANGE,
    neighbour::CASE,
    range_memory::CASE,
    watch_fan_out::CASE,
    watch_many::CASE,
    keepalive::CASE,
    tls::PUT,
    tls::RANGE_ONE,
    auth_cost::PUT,
    auth_cost::RANGE_ONE,
    auth_cost::SIGNED_PUT,
    auth_cost::SIGNED_RANGE_ONE,
    auth_cost::PERMISSIONS_PUT,
    auth_cost::PERMISSIONS_RANGE,
    logins::CASE,
    many_keys::CASE,
    large::CASE,
    compaction::CASE,
    defragment::CASE,
    catch_up::CASE,
    cluster_put::LEADER,
    cluster_put::SPREAD,
    cluster_read::FOLLOWER,
    cluster_read::UNDER_WRITE,
    cluster_failover::KILLED,
    cluster_failover::ASKED,
];
