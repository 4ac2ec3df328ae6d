//! ARCHITECTURE.md must name every crate of the workspace: a map that drifts is worse than none.

use std::fs;

use crate::codegen::workspace_root;

/// Fails when a workspace member has no paragraph in ARCHITECTURE.md, or a paragraph no member.
pub fn check() -> Result<(), String> {
    let read = |name: &str| fs::read_to_string(workspace_root().join(name)).map_err(|error| format!("{name}: {error}"));
    compare(&members(&read("Cargo.toml")?), &read("ARCHITECTURE.md")?)
}

fn compare(members: &[String], map: &str) -> Result<(), String> {
    let described: Vec<&str> =
        map.lines().filter_map(|line| line.strip_prefix("### `")?.split_once('`').map(|(name, _)| name)).collect();
    for member in members {
        if !described.contains(&member.as_str()) {
            return Err(format!("ARCHITECTURE.md has no section \"### `{member}`\""));
        }
    }
    match described.iter().find(|name| !members.iter().any(|member| member == *name)) {
        Some(name) => Err(format!("ARCHITECTURE.md describes `{name}`, which is no member of the workspace")),
        None => Ok(()),
    }
}

fn members(manifest: &str) -> Vec<String> {
    let list = manifest.split("\nmembers = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_noticed() {
        let names = members("[workspace]\nmembers = [\"api\", \"store\"]\n");
        assert_eq!(names, ["api", "store"]);
        assert!(compare(&names, "### `api`\n### `store`: more\n").is_ok());
        assert!(compare(&names, "### `api`\n").is_err());
        assert!(compare(&names, "### `api`\n### `store`\n### `gone`\n").is_err());
    }
}
