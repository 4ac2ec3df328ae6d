//! What went to and came from each other member, under etcd's `etcd_network_*` names and labels.

use std::sync::Arc;

use super::instruments::{Counter, Gauge, Histogram, Page, labels};

/// `0.1ms * 2^n`, 16 buckets: etcd's for the way to a member and back.
const ROUND_TRIP_BUCKETS: &[f64] = &[
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096, 0.8192,
    1.6384, 3.2768,
];
/// `100ms * 2^n`, 10 buckets: etcd's for databases on their way.
const SNAPSHOT_BUCKETS: &[f64] = &[0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2];

/// Counted since the member was added.
pub struct PeerMetrics {
    pub member_id: u64,
    member_hex: String,
    /// 1 while there is a working connection.
    pub active: Gauge,
    /// How often it went from active to inactive.
    pub disconnected: Counter,
    pub sent_bytes: Counter,
    pub received_bytes: Counter,
    /// Messages lost on the way out.
    pub sent_failures: Counter,
    /// Messages that came and were refused.
    pub received_failures: Counter,
    pub snapshots_sending: Gauge,
    pub snapshots_sent: Counter,
    pub snapshot_send_failures: Counter,
    pub snapshot_send_seconds: Histogram,
    pub snapshots_receiving: Gauge,
    pub snapshots_received: Counter,
    pub snapshot_receive_failures: Counter,
    pub snapshot_receive_seconds: Histogram,
    pub round_trip_seconds: Histogram,
}

impl PeerMetrics {
    pub fn new(member_id: u64) -> PeerMetrics {
        PeerMetrics {
            member_id,
            member_hex: crate::ids::to_hex(member_id),
            active: Gauge::new(),
            disconnected: Counter::new(),
            sent_bytes: Counter::new(),
            received_bytes: Counter::new(),
            sent_failures: Counter::new(),
            received_failures: Counter::new(),
            snapshots_sending: Gauge::new(),
            snapshots_sent: Counter::new(),
            snapshot_send_failures: Counter::new(),
            snapshot_send_seconds: Histogram::new(SNAPSHOT_BUCKETS),
            snapshots_receiving: Gauge::new(),
            snapshots_received: Counter::new(),
            snapshot_receive_failures: Counter::new(),
            snapshot_receive_seconds: Histogram::new(SNAPSHOT_BUCKETS),
            round_trip_seconds: Histogram::new(ROUND_TRIP_BUCKETS),
        }
    }

    /// The member's id as etcd writes it.
    pub fn member_hex(&self) -> &str {
        &self.member_hex
    }
}

/// Writes the families of all members. `local` is this member's id in hexadecimal.
pub(super) fn render(page: &mut Page, local: &str, peers: &[Arc<PeerMetrics>]) {
    if peers.is_empty() {
        return;
    }
    let mut gauges = |name: &str, label: &str, help: &str, value: fn(&PeerMetrics) -> &Gauge| {
        let name = format!("etcd_network_{name}");
        page.family(&name, "gauge", help);
        for peer in peers {
            let sample = sample_labels(label, local, peer);
            page.sample(&name, &sample, value(peer).value() as f64);
        }
    };
    gauges("active_peers", PAIR, "Whether there is a working connection with the member.", |peer| &peer.active);
    let help = "Databases on their way to the member.";
    gauges("snapshot_send_inflights_total", "To", help, |peer| &peer.snapshots_sending);
    let help = "Databases on their way from the member.";
    gauges("snapshot_receive_inflights_total", "From", help, |peer| &peer.snapshots_receiving);

    let mut counters = |name: &str, label: &str, help: &str, value: fn(&PeerMetrics) -> &Counter| {
        let name = format!("etcd_network_{name}");
        page.family(&name, "counter", help);
        for peer in peers {
            let sample = sample_labels(label, local, peer);
            page.sample(&name, &sample, value(peer).value() as f64);
        }
    };
    counters("disconnected_peers_total", PAIR, "How often the member became inactive.", |peer| &peer.disconnected);
    counters("peer_sent_bytes_total", "To", "Bytes sent to the member.", |peer| &peer.sent_bytes);
    counters("peer_received_bytes_total", "From", "Bytes received from the member.", |peer| &peer.received_bytes);
    counters("peer_sent_failures_total", "To", "Messages to the member that were lost.", |peer| &peer.sent_failures);
    let help = "Messages from the member that were refused.";
    counters("peer_received_failures_total", "From", help, |peer| &peer.received_failures);
    counters("snapshot_send_success", "To", "Databases sent to the member.", |peer| &peer.snapshots_sent);
    let help = "Databases that could not be sent to the member.";
    counters("snapshot_send_failures", "To", help, |peer| &peer.snapshot_send_failures);
    counters("snapshot_receive_success", "From", "Databases received.", |peer| &peer.snapshots_received);
    let help = "Databases that could not be received.";
    counters("snapshot_receive_failures", "From", help, |peer| &peer.snapshot_receive_failures);

    let mut histograms = |name: &str, label: &str, help: &str, value: fn(&PeerMetrics) -> &Histogram| {
        let name = format!("etcd_network_{name}");
        page.family(&name, "histogram", help);
        for peer in peers {
            value(peer).render_samples(page, &name, &[(label, peer.member_hex())]);
        }
    };
    let help = "Seconds of sending databases.";
    histograms("snapshot_send_total_duration_seconds", "To", help, |peer| &peer.snapshot_send_seconds);
    let help = "Seconds of receiving databases.";
    histograms("snapshot_receive_total_duration_seconds", "From", help, |peer| &peer.snapshot_receive_seconds);
    let help = "Seconds of the way to the member and back.";
    histograms("peer_round_trip_time_seconds", "To", help, |peer| &peer.round_trip_seconds);
}

/// Instead of one label: both ends.
const PAIR: &str = "";

fn sample_labels(label: &str, local: &str, peer: &PeerMetrics) -> String {
    if label == PAIR {
        return labels(&[("Local", local), ("Remote", peer.member_hex())]);
    }
    labels(&[(label, peer.member_hex())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_etcds_names_and_labels() {
        let mut page = Page::new();
        render(&mut page, "a", &[]);
        assert_eq!(page.into_text(), "");
        let peer = PeerMetrics::new(0x1f);
        peer.active.set(1);
        peer.sent_bytes.add(12);
        peer.round_trip_seconds.observe(0.0003);
        let mut page = Page::new();
        render(&mut page, "a", &[Arc::new(peer)]);
        let text = page.into_text();
        for line in [
            "etcd_network_active_peers{Local=\"a\",Remote=\"1f\"} 1\n",
            "etcd_network_disconnected_peers_total{Local=\"a\",Remote=\"1f\"} 0\n",
            "etcd_network_peer_sent_bytes_total{To=\"1f\"} 12\n",
            "etcd_network_peer_received_failures_total{From=\"1f\"} 0\n",
            "# TYPE etcd_network_snapshot_send_inflights_total gauge\n",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"1f\",le=\"0.0004\"} 1\n",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"1f\",le=\"+Inf\"} 1\n",
            "etcd_network_peer_round_trip_time_seconds_sum{To=\"1f\"} 0.0003\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
