//! Who this member says it is in every request to another one, and whether a request's sender may speak to it: etcd's
//! headers, and its check of versions and of the cluster.

use http::{HeaderMap, HeaderName, HeaderValue};

use kvorum_store::Version;
use kvorum_store::version::CLUSTER_VERSION_MAX;

use super::PeerConfig;
use crate::ETCD_VERSION;
use crate::cluster::versions::CLUSTER_VERSION_MIN;
use crate::ids::to_hex;
use crate::urls::join;

pub const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
pub const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
pub const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
pub const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");
pub const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");

/// [`CLUSTER_VERSION_MIN`] as a header.
const MIN_CLUSTER: &str = "3.0.0";

pub const INCOMPATIBLE_VERSION: &str = "incompatible version";
pub const CLUSTER_ID_MISMATCH: &str = "cluster ID mismatch";

/// What etcd before 2.1 sent: nothing.
const VERSION_UNSAID: &str = "2.0.0";

/// The first release whose members offer both streams.
const STREAMS_SINCE: Version = Version::of(2, 1);

pub struct Identity {
    member_id: HeaderValue,
    cluster_id: HeaderValue,
    urls: Option<HeaderValue>,
    cluster_hex: String,
    member_hex: String,
}

impl Identity {
    pub fn of(config: &PeerConfig) -> Identity {
        let (member_hex, cluster_hex) = (to_hex(config.member_id), to_hex(config.cluster_id));
        Identity {
            member_id: hex_value(config.member_id),
            cluster_id: hex_value(config.cluster_id),
            // A URL that is no header value would be a URL nobody can dial.
            urls: HeaderValue::from_str(&join(&config.urls)).ok().filter(|urls| !urls.is_empty()),
            cluster_hex,
            member_hex,
        }
    }

    pub fn cluster_id(&self) -> HeaderValue {
        self.cluster_id.clone()
    }

    /// Adds what every request of raft's carries.
    pub fn introduce(&self, headers: &mut HeaderMap) {
        headers.insert(SERVER_FROM, self.member_id.clone());
        headers.insert(SERVER_VERSION, HeaderValue::from_static(ETCD_VERSION));
        headers.insert(MIN_CLUSTER_VERSION, HeaderValue::from_static(MIN_CLUSTER));
        headers.insert(CLUSTER_ID, self.cluster_id.clone());
        if let Some(urls) = &self.urls {
            headers.insert(PEER_URLS, urls.clone());
        }
    }

    /// Whether a request comes from a compatible member of this cluster; else etcd's text, for a 412.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let name = text(headers, &SERVER_FROM).unwrap_or_default();
        let server = version_or_unsaid(headers, &SERVER_VERSION);
        let min_cluster = version_or_unsaid(headers, &MIN_CLUSTER_VERSION);
        let warn = |message: &str, reason: &str, cluster: &str| {
            tracing::warn!(
                local_member_id = self.member_hex.as_str(),
                local_member_cluster_id = self.cluster_hex.as_str(),
                local_member_server_version = ETCD_VERSION,
                local_member_server_minimum_cluster_version = MIN_CLUSTER,
                remote_peer_server_name = name,
                remote_peer_server_version = server,
                remote_peer_server_minimum_cluster_version = min_cluster,
                remote_peer_cluster_id = cluster,
                error = reason,
                "{message}"
            );
        };
        let reason = match (major_minor(server), major_minor(min_cluster)) {
            (Some(remote), _) if remote < CLUSTER_VERSION_MIN => Some("remote version is too low"),
            (_, Some(needed)) if needed > CLUSTER_VERSION_MAX => Some("local version is too low"),
            (Some(_), Some(_)) => None,
            _ => Some("a version that is none"),
        };
        let cluster = text(headers, &CLUSTER_ID).unwrap_or_default();
        if let Some(reason) = reason {
            let error = format!("{reason}: remote[{name}]={server}, local={ETCD_VERSION}");
            warn("failed version compatibility check", &error, cluster);
            return Err(INCOMPATIBLE_VERSION);
        }
        if cluster != self.cluster_hex {
            warn("request cluster ID mismatch", CLUSTER_ID_MISMATCH, cluster);
            return Err(CLUSTER_ID_MISMATCH);
        }
        Ok(())
    }
}

/// An identifier as it stands in headers and paths.
pub fn hex_value(id: u64) -> HeaderValue {
    HeaderValue::try_from(to_hex(id)).expect("hexadecimal digits are a header value")
}

/// Reads an identifier as Go reads it: hexadecimal, nothing else.
pub fn parse_id(text: &str) -> Option<u64> {
    // The standard library would take a sign.
    let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// Whether a member that answered with these headers offers streams.
pub fn offers_streams(headers: &HeaderMap) -> bool {
    major_minor(version_or_unsaid(headers, &SERVER_VERSION)).is_some_and(|version| version >= STREAMS_SINCE)
}

pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn version_or_unsaid<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    text(headers, name).filter(|version| !version.is_empty()).unwrap_or(VERSION_UNSAID)
}

/// Major and minor, which are all that is compared.
fn major_minor(version: &str) -> Option<Version> {
    version.parse::<Version>().ok().map(|version| version.cluster())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_hexadecimal_without_a_sign() {
        assert_eq!(parse_id("8e9e05c52164694d"), Some(0x8e9e_05c5_2164_694d));
        assert_eq!(parse_id("00FF"), Some(255));
        for wrong in ["", "+1", "-1", "0x1", "g", "8e9e05c52164694d0"] {
            assert_eq!(parse_id(wrong), None, "{wrong}");
        }
    }
}
