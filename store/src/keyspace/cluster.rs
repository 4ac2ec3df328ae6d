//! Bucket `cluster`: the cluster version as text, and a running downgrade as JSON.

use serde::{Deserialize, Serialize};

use crate::member::Downgrade;

pub const CLUSTER_VERSION: &[u8] = b"clusterVersion";
pub const DOWNGRADE: &[u8] = b"downgrade";

#[derive(Serialize, Deserialize)]
struct DowngradeJson {
    #[serde(rename = "target-version", default)]
    target_version: String,
    #[serde(default)]
    enabled: bool,
}

pub fn downgrade(downgrade: &Downgrade) -> Box<[u8]> {
    let json = DowngradeJson { target_version: downgrade.target_version.clone(), enabled: downgrade.enabled };
    let text = serde_json::to_string(&json).expect("two plain fields always serialize");
    super::go_json_escapes(text).into_bytes().into()
}

pub fn parse_downgrade(value: &[u8]) -> Result<Downgrade, String> {
    let json: DowngradeJson = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    Ok(Downgrade { enabled: json.enabled, target_version: json.target_version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let running = Downgrade { enabled: true, target_version: "3.6.0".to_owned() };
        assert_eq!(&*downgrade(&running), br#"{"target-version":"3.6.0","enabled":true}"#);
        assert_eq!(parse_downgrade(&downgrade(&running)), Ok(running));
        assert!(parse_downgrade(b"{").is_err());
    }
}
