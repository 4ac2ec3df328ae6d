//! The dependency policy, read from Cargo.lock: nothing from elsewhere than the registry, nothing that builds C++ or
//! needs system libraries, nothing with a known advisory unless it is listed here with its reason.

use std::fs;

use crate::codegen::workspace_root;

/// Crates that must not appear, and why.
const REFUSED: &[(&str, &str)] = &[
    ("openssl-sys", "needs a system library"),
    ("rocksdb", "its build takes many minutes"),
    ("protobuf-src", "builds a C++ protobuf"),
    ("raft-engine", "hands outside bytes to protobuf 2"),
    ("serde_yaml", "unmaintained"),
    // `ring` itself cannot be here: the lock names it for features of rustls-webpki and hickory-proto that nobody enables.
    ("p521", "aws-lc-rs has the curve; one library of cryptography is enough"),
];

/// Advisories that we live with. Each is checked to still concern us: an entry whose crate is gone must be removed.
const ACCEPTED: &[(&str, &str, &str)] = &[
    ("protobuf", "RUSTSEC-2024-0437", "comes with raft 0.7; no byte from outside reaches its parser (node::consensus)"),
    ("fxhash", "RUSTSEC-2025-0057", "unmaintained; comes with raft 0.7, hashes member ids only"),
];

pub fn check() -> Result<(), String> {
    let path = workspace_root().join("Cargo.lock");
    let lock = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    judge(&lock)
}

fn judge(lock: &str) -> Result<(), String> {
    let names: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    if let Some((name, reason)) = REFUSED.iter().find(|(name, _)| names.contains(name)) {
        return Err(format!("{name} is refused: {reason}"));
    }
    let sources = lock.lines().filter_map(|line| line.strip_prefix("source = \""));
    if let Some(source) = sources.into_iter().find(|source| !source.starts_with("registry+")) {
        return Err(format!("{source}: dependencies come from the registry only"));
    }
    match ACCEPTED.iter().find(|(name, _, _)| !names.contains(name)) {
        Some((name, advisory, _)) => Err(format!("{advisory} is accepted for {name}, which is gone: remove the entry")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::judge;

    const GOOD: &str = "name = \"protobuf\"\nsource = \"registry+x\"\nname = \"fxhash\"\n";

    #[test]
    fn refused_crates_and_foreign_sources_are_noticed() {
        assert!(judge(GOOD).is_ok());
        assert!(judge(&format!("{GOOD}name = \"openssl-sys\"\n")).is_err());
        assert!(judge(&format!("{GOOD}source = \"git+https://example.org/x\"\n")).is_err());
        assert!(judge("name = \"fxhash\"\n").is_err());
    }
}
