//! Whether there is a working connection with one other member, in etcd's words.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::metrics::PeerMetrics;

pub(crate) struct PeerStatus {
    active_since: Mutex<Option<Instant>>,
    pub metrics: Arc<PeerMetrics>,
}

impl PeerStatus {
    pub fn new(member_id: u64) -> PeerStatus {
        PeerStatus { active_since: Mutex::new(None), metrics: Arc::new(PeerMetrics::new(member_id)) }
    }

    /// The member's id as etcd writes it.
    pub fn hex(&self) -> &str {
        self.metrics.member_hex()
    }

    pub fn active_since(&self) -> Option<Instant> {
        *self.active_since.lock()
    }

    /// A connection was made or used.
    pub fn activate(&self) {
        let mut since = self.active_since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            self.metrics.active.set(1);
            tracing::info!(peer_id = self.hex(), "peer became active");
        }
    }

    /// `action` on `source` failed.
    pub fn deactivate(&self, source: &str, action: &str, reason: &str) {
        let error = format!("failed to {action} {} on {source} ({reason})", self.hex());
        if self.active_since.lock().take().is_some() {
            self.metrics.active.set(0);
            self.metrics.disconnected.increment();
            tracing::warn!(peer_id = self.hex(), error, "peer became inactive (message send to peer failed)");
        } else {
            tracing::debug!(peer_id = self.hex(), error, "peer deactivated again");
        }
    }
}
