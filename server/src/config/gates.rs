//! etcd's feature gates. Four of them can be changed here; the others are known by name and stay at their defaults,
//! since changing them would have no effect.

use super::go;

/// The gates of etcd 3.7 with our defaults; the third column says whether a change has its effect here. The defaults are
/// etcd's, but for the comparison of compactions, which costs next to nothing and is on.
const GATES: &[(&str, bool, bool)] = &[
    ("AllAlpha", false, false),
    ("AllBeta", false, false),
    (COMPACT_HASH_CHECK, true, true),
    ("FastLeaseKeepAlive", true, false),
    (INITIAL_CORRUPT_CHECK, false, true),
    (LEASE_CHECKPOINT, false, true),
    (LEASE_CHECKPOINT_PERSIST, false, true),
    ("PriorityRequest", false, false),
    ("SetMemberLocalAddr", false, false),
    ("StopGRPCServiceOnDefrag", false, false),
    ("TxnModeWriteWithSharedBuffer", true, false),
];

const ALPHA: &[&str] = &[
    COMPACT_HASH_CHECK,
    INITIAL_CORRUPT_CHECK,
    LEASE_CHECKPOINT,
    LEASE_CHECKPOINT_PERSIST,
    "PriorityRequest",
    "SetMemberLocalAddr",
    "StopGRPCServiceOnDefrag",
];
const BETA: &[&str] = &["FastLeaseKeepAlive", "TxnModeWriteWithSharedBuffer"];
const COMPACT_HASH_CHECK: &str = "CompactHashCheck";
const INITIAL_CORRUPT_CHECK: &str = "InitialCorruptCheck";
const LEASE_CHECKPOINT: &str = "LeaseCheckpoint";
const LEASE_CHECKPOINT_PERSIST: &str = "LeaseCheckpointPersist";

/// The gates that can be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    /// The remaining time of leases is written to the log from time to time.
    pub lease_checkpoint: bool,
    /// Checkpoints survive a restart. Needs `lease_checkpoint`.
    pub lease_checkpoint_persist: bool,
    /// A member compares its data with the others' before it serves.
    pub initial_corrupt_check: bool,
    /// The leader compares what members hashed while compacting.
    pub compact_hash_check: bool,
}

/// What a command line said about gates, in the order it was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GateSettings(Vec<(String, bool)>);

impl GateSettings {
    /// Reads `A=true,B=false` and adds it to what was said before. Errors have etcd's texts.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let mut parsed = Vec::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("missing bool value for {}", pair.trim()));
            };
            let (name, value) = (name.trim(), value.trim());
            let Some(enabled) = go::parse_bool(value) else {
                let quoted = crate::urls::quote(value);
                return Err(format!(
                    "invalid value of {name}={value}, err: strconv.ParseBool: parsing {quoted}: invalid syntax"
                ));
            };
            parsed.push((name.to_owned(), enabled));
        }
        for (name, _) in &parsed {
            if !GATES.iter().any(|(known, _, _)| known == name) {
                return Err(format!("unrecognized feature gate: {name}"));
            }
        }
        self.0.extend(parsed);
        Ok(())
    }

    /// The gates as they end up. A gate named outright wins over `AllAlpha` and `AllBeta`. The error names a gate
    /// whose change would have no effect.
    pub fn resolve(&self) -> Result<FeatureGates, String> {
        let said = |name: &str| self.0.iter().rev().find(|(said, _)| said == name).map(|(_, enabled)| *enabled);
        let effective = |name: &'static str, default: bool| {
            let pseudo_gate = if ALPHA.contains(&name) {
                said("AllAlpha")
            } else if BETA.contains(&name) {
                said("AllBeta")
            } else {
                None
            };
            said(name).or(pseudo_gate).unwrap_or(default)
        };
        let mut gates = FeatureGates::default();
        for &(name, default, real) in GATES.iter().filter(|(name, ..)| !name.starts_with("All")) {
            let enabled = effective(name, default);
            match name {
                LEASE_CHECKPOINT => gates.lease_checkpoint = enabled,
                LEASE_CHECKPOINT_PERSIST => gates.lease_checkpoint_persist = enabled,
                INITIAL_CORRUPT_CHECK => gates.initial_corrupt_check = enabled,
                COMPACT_HASH_CHECK => gates.compact_hash_check = enabled,
                _ if !real && enabled != default => {
                    return Err(format!(
                        "--feature-gates: {name}={enabled} is not supported by this version of Kvorum yet"
                    ));
                }
                _ => {}
            }
        }
        Ok(gates)
    }
}

impl FeatureGates {
    /// Every gate with its state and stage (`ALPHA`, `BETA`), as the metric `etcd_server_feature_enabled` lists them.
    pub fn listed(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> + '_ {
        GATES.iter().map(|&(name, default, _)| {
            let enabled = match name {
                LEASE_CHECKPOINT => self.lease_checkpoint,
                LEASE_CHECKPOINT_PERSIST => self.lease_checkpoint_persist,
                INITIAL_CORRUPT_CHECK => self.initial_corrupt_check,
                COMPACT_HASH_CHECK => self.compact_hash_check,
                _ => default,
            };
            let stage = if BETA.contains(&name) || name == "AllBeta" { "BETA" } else { "ALPHA" };
            (name, stage, enabled)
        })
    }
}
