//! Member and cluster identifiers, computed as etcd computes them, so that a data directory and a mixed cluster agree
//! on who is who. Pure functions of their arguments: no clock here, the time of a member's addition is passed in.

use sha1::{Digest, Sha1};

/// The identifier of a member. `token` is the initial cluster token for the members of a bootstrap (then
/// `added_unix_seconds` is `None`), and empty for a member added later (then the time counts).
///
/// It is the big-endian number in the first 8 bytes of SHA-1 over the sorted peer URLs without separator, the token,
/// and the time in decimal.
pub fn member_id<S: AsRef<str>>(peer_urls: &[S], token: &str, added_unix_seconds: Option<i64>) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(AsRef::as_ref).collect();
    sorted.sort_unstable();
    let mut hasher = Sha1::new();
    for url in sorted {
        hasher.update(url.as_bytes());
    }
    hasher.update(token.as_bytes());
    if let Some(seconds) = added_unix_seconds {
        hasher.update(seconds.to_string().as_bytes());
    }
    first_eight_bytes(hasher)
}

/// The identifier of a cluster, from its founding members: SHA-1 over their sorted identifiers, 8 bytes each.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut sorted = member_ids.to_vec();
    sorted.sort_unstable();
    let mut hasher = Sha1::new();
    for id in sorted {
        hasher.update(id.to_be_bytes());
    }
    first_eight_bytes(hasher)
}

/// How etcd writes an identifier in logs and metrics: hexadecimal without leading zeros.
pub fn to_hex(id: u64) -> String {
    format!("{id:x}")
}

fn first_eight_bytes(hasher: Sha1) -> u64 {
    let digest = hasher.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 digest has 20 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_single_member() {
        let member = member_id(&["http://localhost:2380"], "etcd-cluster", None);
        assert_eq!(member, 10276657743932975437);
        assert_eq!(to_hex(member), "8e9e05c52164694d");
        assert_eq!(cluster_id(&[member]), 14841639068965178418);
    }

    #[test]
    fn three_members() {
        let ids: Vec<u64> = ["http://127.0.0.1:12380", "http://127.0.0.1:22380", "http://127.0.0.1:32380"]
            .iter()
            .map(|url| member_id(&[url], "etcd-cluster-1", None))
            .collect();
        assert_eq!(ids, [0x8211f1d0f64f3269, 0x91bc3c398fb3c146, 0xfd422379fda50e48]);
        assert_eq!(cluster_id(&ids), 0xef37ad9dc622a7c4);
        assert_eq!(cluster_id(&[ids[2], ids[0], ids[1]]), 0xef37ad9dc622a7c4);
    }

    /// Observed in the log of etcd 3.7.1.
    #[test]
    fn another_port() {
        let member = member_id(&["http://127.0.0.1:42380"], "etcd-cluster", None);
        assert_eq!((member, cluster_id(&[member])), (0x667880157b8812c8, 0xdc50b8daae93b3e0));
    }

    #[test]
    fn url_order_does_not_matter_but_time_does() {
        let forward = member_id(&["http://a:1", "http://b:2"], "", Some(7));
        assert_eq!(forward, member_id(&["http://b:2", "http://a:1"], "", Some(7)));
        assert_ne!(forward, member_id(&["http://a:1", "http://b:2"], "", Some(8)));
    }
}
