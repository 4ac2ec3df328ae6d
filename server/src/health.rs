//! What the health and metrics pages ask of the member.

use std::rc::Rc;

use kvorum_api::etcdserverpb::{AlarmMember, AlarmType};
use kvorum_store::Reader;

use crate::http1::{AlarmKind, HealthSource};
use crate::http1_connection::alarm_kind;
use crate::ids::to_hex;
use crate::metrics::{Labels, Metrics};
use crate::services;
use crate::worker::Worker;

pub struct MemberHealth<'a> {
    worker: &'a Rc<Worker>,
}

impl<'a> MemberHealth<'a> {
    pub fn new(worker: &'a Rc<Worker>) -> Self {
        Self { worker }
    }

    fn reader(&self) -> &Reader {
        &self.worker.reader
    }
}

impl HealthSource for MemberHealth<'_> {
    fn has_leader(&self) -> bool {
        self.worker.core.leader() != 0
    }

    fn is_learner(&self) -> bool {
        self.worker.core.is_learner()
    }

    fn alarms(&self) -> Vec<AlarmKind> {
        self.reader().alarms().iter().map(|alarm| alarm_kind(alarm.alarm)).collect()
    }

    async fn linearizable_read(&self) -> Result<(), String> {
        services::linearize(&self.worker.core).await.map_err(|status| status.message.into_owned())
    }

    async fn serializable_read(&self) -> Result<(), String> {
        if self.worker.core.is_stopping() {
            return Err(kvorum_api::EtcdError::Stopped.text().to_owned());
        }
        Ok(())
    }

    fn cluster_version(&self) -> Option<String> {
        self.reader().cluster_version()
    }

    fn storage_version(&self) -> Option<String> {
        self.reader().storage_version()
    }

    fn metric_labels(&self) -> Labels {
        Labels {
            server_id: to_hex(self.worker.core.config.member_id),
            cluster_version: self.cluster_version().map(|version| major_minor(&version)),
            feature_gates: self.worker.core.config.feature_gates.clone(),
            peers: self.worker.core.peer_metrics(),
            alarms: self.reader().alarms().iter().map(alarm_labels).collect(),
        }
    }

    fn refresh_metrics(&self, metrics: &Metrics) {
        let core = &self.worker.core;
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let leads = core.leader() == core.config.member_id;
        metrics.has_leader.set(i64::from(core.leader() != 0));
        metrics.is_leader.set(i64::from(leads));
        metrics.is_learner.set(i64::from(core.is_learner()));
        metrics.proposals_pending.set(gauge(core.state().pending_proposals() as u64));
        metrics.proposals_committed_total.set(gauge(core.commit_index()));
        metrics.proposals_applied_total.set(gauge(self.reader().applied_index()));
        metrics.db_total_size_bytes.set(gauge(core.backend_size_bytes()));
        metrics.db_total_size_in_use_bytes.set(gauge(core.backend_in_use_bytes()));
        metrics.quota_backend_bytes.set(core.config.quota_bytes.map_or(-1, gauge));
        metrics.current_revision.set(self.reader().revision());
        metrics.auth_revision.set(gauge(self.reader().auth().revision()));
        metrics.compact_revision.set(self.reader().compact_revision());
        let statistics = self.reader().statistics();
        metrics.keys_total.set(i64::try_from(statistics.keys).unwrap_or(i64::MAX));
        let watch = core.publisher.statistics();
        metrics.watch_stream_total.set(watch.streams);
        metrics.watcher_total.set(watch.watchers);
        metrics.slow_watcher_total.set(watch.slow_watchers);
        metrics.pending_events_total.set(watch.pending_events);
    }
}

/// The member in hexadecimal and the kind.
fn alarm_labels(alarm: &AlarmMember) -> (String, &'static str) {
    let kind = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
    (to_hex(alarm.member_id), kind)
}

/// `3.7.0` as `3.7`.
fn major_minor(version: &str) -> String {
    version.rsplit_once('.').map_or(version, |(front, _)| front).to_owned()
}
