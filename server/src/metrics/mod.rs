//! What a member counts, under etcd's names, and the Prometheus text of it. A metric is a field of [`Metrics`] that
//! whoever counts increments directly: one relaxed atomic, no lookup, no lock, no allocation.
//!
//! Counters of several members in one process are apart, since each member has its own `Metrics`. Nothing here reads
//! a clock.

mod grpc;
mod instruments;
mod peers;
mod process;

pub use grpc::{GrpcCode, GrpcMethod, GrpcMetrics};
pub use instruments::{Counter, Gauge, Histogram};
pub use peers::PeerMetrics;

use instruments::{Page, labels};

/// `1ms * 2^n`, 14 buckets: etcd's for the disk.
const DISK_BUCKETS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];
/// `0.1ms * 2^n`, 20 buckets: etcd's for applying and reading.
const APPLY_BUCKETS: &[f64] = &[
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096, 0.8192,
    1.6384, 3.2768, 6.5536, 13.1072, 26.2144, 52.4288,
];
/// `10ms * 2^n`, 17 buckets: etcd's for copies of the database.
const COPY_BUCKETS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36];
/// `0.1s * 2^n`, 13 buckets: etcd's for defragmentations.
const SHRINK_BUCKETS: &[f64] = &[0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6];
/// `1ms * 2^n` in milliseconds, 13 buckets: etcd's for pauses of a compaction.
const PAUSE_BUCKETS: &[f64] = &[1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1024., 2048., 4096.];
/// `100ms * 2^n` in milliseconds, 14 buckets: etcd's for whole compactions.
const COMPACTION_BUCKETS: &[f64] =
    &[100., 200., 400., 800., 1600., 3200., 6400., 12800., 25600., 51200., 102400., 204800., 409600., 819200.];
/// `2^n` seconds, 24 buckets: etcd's for the time to live of leases.
const LEASE_TTL_BUCKETS: &[f64] = &[
    1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1024., 2048., 4096., 8192., 16384., 32768., 65536., 131072.,
    262144., 524288., 1048576., 2097152., 4194304., 8388608.,
];
/// `10ms * 2^n`, 15 buckets: etcd's for hashes.
const HASH_BUCKETS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84];

/// The checks of `/livez` and `/readyz`, in the order in which they are listed.
pub const HEALTH_CHECKS: &[(&str, &str)] = &[
    ("livez", "serializable_read"),
    ("readyz", "data_corruption"),
    ("readyz", "linearizable_read"),
    ("readyz", "non_learner"),
    ("readyz", "serializable_read"),
];

/// Facts that label metrics and do not change often.
#[derive(Clone, Default)]
pub struct Labels {
    /// Hexadecimal, as etcd writes it.
    pub server_id: String,
    /// `major.minor`, once decided.
    pub cluster_version: Option<String>,
    /// Name, stage and state of each feature gate.
    pub feature_gates: Vec<(&'static str, &'static str, bool)>,
    /// Raised alarms: the member in hexadecimal, and the kind.
    pub alarms: Vec<(String, &'static str)>,
    /// Of the other members.
    pub peers: Vec<std::sync::Arc<PeerMetrics>>,
}

macro_rules! metrics {
    ($( $(#[doc = $help:literal])+ $field:ident : $kind:ident $(($buckets:expr))? = $name:literal as $type:ident ; )+) => {
        /// All metrics of one member. Each field is documented by its help text.
        pub struct Metrics {
            $( $(#[doc = $help])+ pub $field: $kind, )+
            /// Calls by method and code.
            pub grpc: GrpcMetrics,
            /// Results of [`HEALTH_CHECKS`]: the last one, and how many went well and badly.
            pub(crate) health_checks: [HealthCheckMetrics; HEALTH_CHECKS.len()],
        }

        impl Metrics {
            pub fn new() -> Metrics {
                Metrics {
                    $( $field: $kind::new($($buckets)?), )+
                    grpc: GrpcMetrics::new(),
                    health_checks: Default::default(),
                }
            }

            fn render_fields(&self, page: &mut Page) {
                $( self.$field.render(page, $name, stringify!($type), concat!($($help),+).trim()); )+
            }
        }
    };
}

metrics! {
    /// Changes of users, roles and permissions, counted from 1.
    auth_revision: Gauge = "etcd_debugging_auth_revision" as gauge;
    /// Revision up to which history was compacted.
    compact_revision: Gauge = "etcd_debugging_mvcc_compact_revision" as gauge;
    /// Current revision of the store.
    current_revision: Gauge = "etcd_debugging_mvcc_current_revision" as gauge;
    /// Leases granted.
    lease_granted_total: Counter = "etcd_debugging_lease_granted_total" as counter;
    /// Leases renewed, as seen by the leader.
    lease_renewed_total: Counter = "etcd_debugging_lease_renewed_total" as counter;
    /// Leases revoked.
    lease_revoked_total: Counter = "etcd_debugging_lease_revoked_total" as counter;
    /// Times to live of granted leases, in seconds.
    lease_ttl_total: Histogram(LEASE_TTL_BUCKETS) = "etcd_debugging_lease_ttl_total" as histogram;
    /// Leases that expired.
    lease_expired_total: Counter = "etcd_debugging_server_lease_expired_total" as counter;
    /// Revisions removed by compactions.
    compaction_keys_total: Counter = "etcd_debugging_mvcc_db_compaction_keys_total" as counter;
    /// Unix time of the end of the last compaction.
    compaction_last: Gauge = "etcd_debugging_mvcc_db_compaction_last" as gauge;
    /// Milliseconds a step of a compaction held others up.
    compaction_pause_milliseconds: Histogram(PAUSE_BUCKETS) =
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds" as histogram;
    /// Milliseconds of whole compactions.
    compaction_total_milliseconds: Histogram(COMPACTION_BUCKETS) =
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds" as histogram;
    /// Events sent to watchers.
    events_total: Counter = "etcd_debugging_mvcc_events_total" as counter;
    /// Keys in the store.
    keys_total: Gauge = "etcd_debugging_mvcc_keys_total" as gauge;
    /// Events that wait to be sent to watchers.
    pending_events_total: Gauge = "etcd_debugging_mvcc_pending_events_total" as gauge;
    /// Watchers that fell behind.
    slow_watcher_total: Gauge = "etcd_debugging_mvcc_slow_watcher_total" as gauge;
    /// Bytes of keys and values put.
    total_put_size_bytes: Gauge = "etcd_debugging_mvcc_total_put_size_in_bytes" as gauge;
    /// Open watch streams.
    watch_stream_total: Gauge = "etcd_debugging_mvcc_watch_stream_total" as gauge;
    /// Watchers.
    watcher_total: Gauge = "etcd_debugging_mvcc_watcher_total" as gauge;
    /// Seconds of commits of the backend.
    backend_commit_seconds: Histogram(DISK_BUCKETS) = "etcd_disk_backend_commit_duration_seconds" as histogram;
    /// Seconds of shrinks of the database.
    backend_defrag_seconds: Histogram(SHRINK_BUCKETS) = "etcd_disk_backend_defrag_duration_seconds" as histogram;
    /// Whether the database is being shrunk.
    defrag_inflight: Gauge = "etcd_disk_defrag_inflight" as gauge;
    /// Seconds of copies of the database, from the first byte written to the last byte sent.
    backend_snapshot_seconds: Histogram(COPY_BUCKETS) = "etcd_disk_backend_snapshot_duration_seconds" as histogram;
    /// Seconds of syncs of the write-ahead log.
    wal_fsync_seconds: Histogram(DISK_BUCKETS) = "etcd_disk_wal_fsync_duration_seconds" as histogram;
    /// Bytes written to the write-ahead log.
    wal_write_bytes_total: Gauge = "etcd_disk_wal_write_bytes_total" as gauge;
    /// Seconds of writes to the write-ahead log, without the sync.
    wal_write_seconds: Histogram(DISK_BUCKETS) = "etcd_disk_wal_write_duration_seconds" as histogram;
    /// Open read transactions of the backend.
    open_read_transactions: Gauge = "etcd_mvcc_db_open_read_transactions" as gauge;
    /// Bytes the backend takes on disk.
    db_total_size_bytes: Gauge = "etcd_mvcc_db_total_size_in_bytes" as gauge;
    /// Bytes of the backend that hold data.
    db_total_size_in_use_bytes: Gauge = "etcd_mvcc_db_total_size_in_use_in_bytes" as gauge;
    /// Deletes seen by this member.
    delete_total: Counter = "etcd_mvcc_delete_total" as counter;
    /// Seconds of hashing the whole store.
    hash_seconds: Histogram(HASH_BUCKETS) = "etcd_mvcc_hash_duration_seconds" as histogram;
    /// Seconds of hashing up to a revision.
    hash_revision_seconds: Histogram(HASH_BUCKETS) = "etcd_mvcc_hash_rev_duration_seconds" as histogram;
    /// Puts seen by this member.
    put_total: Counter = "etcd_mvcc_put_total" as counter;
    /// Ranges seen by this member.
    range_total: Counter = "etcd_mvcc_range_total" as counter;
    /// Transactions seen by this member.
    txn_total: Counter = "etcd_mvcc_txn_total" as counter;
    /// Bytes received from gRPC clients.
    client_received_bytes_total: Counter = "etcd_network_client_grpc_received_bytes_total" as counter;
    /// Bytes sent to gRPC clients.
    client_sent_bytes_total: Counter = "etcd_network_client_grpc_sent_bytes_total" as counter;
    /// Whether a leader is known.
    has_leader: Gauge = "etcd_server_has_leader" as gauge;
    /// Failed checks of /health.
    health_failures: Counter = "etcd_server_health_failures" as counter;
    /// Successful checks of /health.
    health_success: Counter = "etcd_server_health_success" as counter;
    /// Heartbeats that could not be sent in time.
    heartbeat_send_failures_total: Counter = "etcd_server_heartbeat_send_failures_total" as counter;
    /// Whether this member leads.
    is_leader: Gauge = "etcd_server_is_leader" as gauge;
    /// Whether this member is a learner.
    is_learner: Gauge = "etcd_server_is_learner" as gauge;
    /// Changes of leader seen.
    leader_changes_seen_total: Counter = "etcd_server_leader_changes_seen_total" as counter;
    /// Index of the last entry applied.
    proposals_applied_total: Gauge = "etcd_server_proposals_applied_total" as gauge;
    /// Index of the last entry committed.
    proposals_committed_total: Gauge = "etcd_server_proposals_committed_total" as gauge;
    /// Proposals that failed.
    proposals_failed_total: Counter = "etcd_server_proposals_failed_total" as counter;
    /// Proposals under way.
    proposals_pending: Gauge = "etcd_server_proposals_pending" as gauge;
    /// Quota of the backend in bytes.
    quota_backend_bytes: Gauge = "etcd_server_quota_backend_bytes" as gauge;
    /// Seconds of ranges that went well.
    range_seconds: Histogram(APPLY_BUCKETS) = "etcd_server_range_duration_seconds" as histogram;
    /// Reads that failed to learn the commit index.
    read_indexes_failed_total: Counter = "etcd_server_read_indexes_failed_total" as counter;
    /// Entries that took longer to apply than the warning threshold.
    slow_apply_total: Counter = "etcd_server_slow_apply_total" as counter;
    /// Reads that took long to learn the commit index.
    slow_read_indexes_total: Counter = "etcd_server_slow_read_indexes_total" as counter;
    /// Snapshots being applied.
    snapshot_apply_in_progress_total: Gauge = "etcd_server_snapshot_apply_in_progress_total" as gauge;
    /// Seconds of syncs of snapshot files.
    snapshot_fsync_seconds: Histogram(DISK_BUCKETS) = "etcd_snap_fsync_duration_seconds" as histogram;
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

#[derive(Default)]
pub(crate) struct HealthCheckMetrics {
    last: Gauge,
    success: Counter,
    error: Counter,
}

impl Metrics {
    /// Notes the result of one of [`HEALTH_CHECKS`].
    pub(crate) fn note_health_check(&self, kind: &str, name: &str, healthy: bool) {
        let Some(index) = HEALTH_CHECKS.iter().position(|check| *check == (kind, name)) else { return };
        let check = &self.health_checks[index];
        check.last.set(i64::from(healthy));
        if healthy { check.success.increment() } else { check.error.increment() }
    }

    /// The whole page in Prometheus' text format 0.0.4, with what the operating system says about the process.
    pub fn render(&self, facts: &Labels) -> String {
        let mut page = Page::new();
        self.render_labelled(&mut page, facts);
        Self::render_alarms(&mut page, &facts.alarms);
        self.render_fields(&mut page);
        self.render_health_checks(&mut page);
        self.grpc.render(&mut page);
        peers::render(&mut page, &facts.server_id, &facts.peers);
        process::render(&mut page);
        page.into_text()
    }

    fn render_labelled(&self, page: &mut Page, facts: &Labels) {
        if let Some(version) = &facts.cluster_version {
            page.family("etcd_cluster_version", "gauge", "The version the cluster agreed on.");
            page.sample("etcd_cluster_version", &labels(&[("cluster_version", version)]), 1.0);
        }
        page.family("etcd_server_version", "gauge", "The release of etcd this server stands for.");
        page.sample("etcd_server_version", &labels(&[("server_version", crate::ETCD_VERSION)]), 1.0);
        page.family("kvorum_server_version", "gauge", "The version of Kvorum.");
        page.sample("kvorum_server_version", &labels(&[("server_version", crate::KVORUM_VERSION)]), 1.0);
        if !facts.server_id.is_empty() {
            page.family("etcd_server_id", "gauge", "This member's identifier.");
            page.sample("etcd_server_id", &labels(&[("server_id", &facts.server_id)]), 1.0);
        }
        if !facts.feature_gates.is_empty() {
            page.family("etcd_server_feature_enabled", "gauge", "Feature gates and whether they are on.");
            for (name, stage, enabled) in &facts.feature_gates {
                let value = f64::from(u8::from(*enabled));
                page.sample("etcd_server_feature_enabled", &labels(&[("name", name), ("stage", stage)]), value);
            }
        }
    }

    fn render_alarms(page: &mut Page, alarms: &[(String, &'static str)]) {
        if alarms.is_empty() {
            return;
        }
        page.family("etcd_debugging_server_alarms", "gauge", "Alarms that are raised, by member and kind.");
        for (member, kind) in alarms {
            let labels = labels(&[("alarm_type", kind), ("server_id", member)]);
            page.sample("etcd_debugging_server_alarms", &labels, 1.0);
        }
    }

    fn render_health_checks(&self, page: &mut Page) {
        let checks = || HEALTH_CHECKS.iter().zip(&self.health_checks);
        let was_run = |check: &HealthCheckMetrics| check.success.value() + check.error.value() > 0;
        if !checks().any(|(_, check)| was_run(check)) {
            return;
        }
        page.family("etcd_server_healthcheck", "gauge", "Last result of each health check.");
        for ((kind, name), check) in checks().filter(|(_, check)| was_run(check)) {
            page.sample(
                "etcd_server_healthcheck",
                &labels(&[("name", name), ("type", kind)]),
                check.last.value() as f64,
            );
        }
        page.family("etcd_server_healthchecks_total", "counter", "Health checks by result.");
        for ((kind, name), check) in checks() {
            for (status, counter) in [("error", &check.error), ("success", &check.success)] {
                if counter.value() > 0 {
                    let labels = labels(&[("name", name), ("status", status), ("type", kind)]);
                    page.sample("etcd_server_healthchecks_total", &labels, counter.value() as f64);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
