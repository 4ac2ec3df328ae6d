//! A configuration as the fields of the log line a member begins with; the names are those of etcd's line.

use super::{AutoCompaction, Config};
use crate::log::Value;

impl Config {
    /// The fields of "starting an etcd server".
    pub fn log_fields(&self) -> Vec<(&'static str, Value)> {
        let path = |path: &std::path::Path| Value::Text(path.display().to_string());
        let (mode, retention) = match self.auto_compaction {
            AutoCompaction::Off => ("periodic", Value::text("0s")),
            AutoCompaction::Periodic(duration) => ("periodic", Value::Duration(duration)),
            AutoCompaction::Revision(revisions) => ("revision", Value::Signed(revisions)),
        };
        vec![
            ("etcd-version", Value::text(crate::ETCD_VERSION)),
            ("kvorum-version", Value::text(crate::KVORUM_VERSION)),
            ("name", Value::text(&self.name)),
            ("data-dir", path(&self.data_dir)),
            ("wal-dir", path(&self.effective_wal_dir())),
            ("member-dir", path(&self.member_dir())),
            ("heartbeat-interval", Value::Duration(self.heartbeat_interval)),
            ("election-timeout", Value::Duration(self.election_timeout)),
            ("initial-election-tick-advance", Value::Bool(self.initial_election_tick_advance)),
            ("snapshot-count", Value::Unsigned(self.snapshot_count)),
            ("max-wals", Value::Unsigned(self.max_wals)),
            ("max-snapshots", Value::Unsigned(self.max_snapshots)),
            ("snapshot-catchup-entries", Value::Unsigned(self.snapshot_catchup_entries)),
            ("initial-advertise-peer-urls", Value::list(&self.initial_advertise_peer_urls)),
            ("listen-peer-urls", Value::list(&self.listen_peer_urls)),
            ("advertise-client-urls", Value::list(&self.advertise_client_urls)),
            ("listen-client-urls", Value::list(&self.listen_client_urls)),
            ("initial-cluster", Value::text(&self.initial_cluster)),
            ("initial-cluster-state", Value::text(self.initial_cluster_state.as_str())),
            ("initial-cluster-token", Value::text(&self.initial_cluster_token)),
            ("quota-backend-bytes", Value::Unsigned(self.quota_backend_bytes.unwrap_or(0))),
            ("max-request-bytes", Value::Unsigned(self.max_request_bytes)),
            ("max-concurrent-streams", Value::Unsigned(self.max_concurrent_streams.into())),
            ("pre-vote", Value::Bool(self.pre_vote)),
            ("initial-corrupt-check", Value::Bool(self.feature_gates.initial_corrupt_check)),
            ("corrupt-check-time-interval", Value::Duration(self.corrupt_check_time)),
            ("compact-check-time-interval", Value::Duration(self.compact_hash_check_time)),
            ("auto-compaction-mode", Value::text(mode)),
            ("auto-compaction-retention", retention),
            ("unsafe-no-fsync", Value::Bool(self.unsafe_no_fsync)),
            ("value-budget-bytes", Value::Unsigned(self.value_budget_bytes)),
            ("wal-segment-bytes", Value::Unsigned(self.wal_segment_bytes)),
            ("v2-deprecation", Value::text("write-only")),
        ]
    }
}
