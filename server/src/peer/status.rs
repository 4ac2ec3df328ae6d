//! Whether there is a working connection with one other member, in etcd's words, and what went over it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ids::to_hex;

/// What went to and came from one member since it was added; the numbers behind etcd's `etcd_network_*` metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatistics {
    pub member_id: u64,
    pub active: bool,
    /// How often it went from active to inactive.
    pub disconnected: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Messages lost on the way out.
    pub sent_failures: u64,
    /// Messages that came and were refused.
    pub received_failures: u64,
    pub snapshots_sent: u64,
    pub snapshot_send_failures: u64,
    pub snapshots_sending: i64,
    pub snapshots_received: u64,
    pub snapshot_receive_failures: u64,
    pub snapshots_receiving: i64,
    /// Of the last probe.
    pub round_trip: Option<Duration>,
}

pub(crate) struct PeerStatus {
    member_id: u64,
    hex: String,
    active_since: Mutex<Option<Instant>>,
    round_trip: Mutex<Option<Duration>>,
    pub disconnected: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub received_bytes: AtomicU64,
    pub sent_failures: AtomicU64,
    pub received_failures: AtomicU64,
    pub snapshots_sent: AtomicU64,
    pub snapshot_send_failures: AtomicU64,
    pub snapshots_sending: AtomicI64,
    pub snapshots_received: AtomicU64,
    pub snapshot_receive_failures: AtomicU64,
    pub snapshots_receiving: AtomicI64,
}

impl PeerStatus {
    pub fn new(member_id: u64) -> PeerStatus {
        PeerStatus {
            member_id,
            hex: to_hex(member_id),
            active_since: Mutex::new(None),
            round_trip: Mutex::new(None),
            disconnected: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            sent_failures: AtomicU64::new(0),
            received_failures: AtomicU64::new(0),
            snapshots_sent: AtomicU64::new(0),
            snapshot_send_failures: AtomicU64::new(0),
            snapshots_sending: AtomicI64::new(0),
            snapshots_received: AtomicU64::new(0),
            snapshot_receive_failures: AtomicU64::new(0),
            snapshots_receiving: AtomicI64::new(0),
        }
    }

    pub fn hex(&self) -> &str {
        &self.hex
    }

    pub fn active_since(&self) -> Option<Instant> {
        *self.active_since.lock()
    }

    /// A connection was made or used.
    pub fn activate(&self) {
        let mut since = self.active_since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            tracing::info!(peer_id = self.hex(), "peer became active");
        }
    }

    /// `action` on `source` failed.
    pub fn deactivate(&self, source: &str, action: &str, reason: &str) {
        let error = format!("failed to {action} {} on {source} ({reason})", self.hex);
        if self.active_since.lock().take().is_some() {
            self.disconnected.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(peer_id = self.hex(), error, "peer became inactive (message send to peer failed)");
        } else {
            tracing::debug!(peer_id = self.hex(), error, "peer deactivated again");
        }
    }

    pub fn note_round_trip(&self, duration: Duration) {
        *self.round_trip.lock() = Some(duration);
    }

    pub fn statistics(&self) -> PeerStatistics {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerStatistics {
            member_id: self.member_id,
            active: self.active_since().is_some(),
            disconnected: count(&self.disconnected),
            sent_bytes: count(&self.sent_bytes),
            received_bytes: count(&self.received_bytes),
            sent_failures: count(&self.sent_failures),
            received_failures: count(&self.received_failures),
            snapshots_sent: count(&self.snapshots_sent),
            snapshot_send_failures: count(&self.snapshot_send_failures),
            snapshots_sending: self.snapshots_sending.load(Ordering::Relaxed),
            snapshots_received: count(&self.snapshots_received),
            snapshot_receive_failures: count(&self.snapshot_receive_failures),
            snapshots_receiving: self.snapshots_receiving.load(Ordering::Relaxed),
            round_trip: *self.round_trip.lock(),
        }
    }
}
