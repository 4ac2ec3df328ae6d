//! What is judged when a round is over: the history, the contents of all members, and what they logged.

use std::fs;
use std::path::Path;

use kvorum_api::etcdserverpb::HashKvResponse;

/// Lines of these levels are errors, unless they are among [`EXPECTED`].
const ERROR_LEVELS: [&str; 4] =
    [r#""level":"error""#, r#""level":"dpanic""#, r#""level":"panic""#, r#""level":"fatal""#];

/// What a member may say at the level of errors under the faults that there are: a full disk, and a member to join by that
/// has not heard of it.
const EXPECTED: [&str; 3] = ["No space left on device", "the disk has", "error validating peerURLs"];

/// Characters shown of a line.
const LINE_CHARACTERS_MAX: usize = 600;

/// All members hold the same.
pub fn hashes_agree(hashes: &[(String, HashKvResponse)]) -> Result<(), String> {
    let facts = |response: &HashKvResponse| (response.hash, response.compact_revision, response.hash_revision);
    let Some((_, first)) = hashes.first() else { return Ok(()) };
    if hashes.iter().all(|(_, hash)| facts(hash) == facts(first)) {
        return Ok(());
    }
    let told: Vec<String> = hashes.iter().map(|(name, hash)| format!("{name}: {:?}", facts(hash))).collect();
    Err(format!("members differ (hash, compact revision, hashed revision): {}", told.join(", ")))
}

/// What a member logs that took another one's database over.
const TAKEN_OVER: &str = r#""msg":"applied snapshot""#;

/// No panics, no errors but those that faults explain. Gives how often the member took a database over.
pub fn log_is_clean(path: &Path) -> Result<usize, String> {
    let log = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    match log.lines().find(|line| is_bad(line)) {
        Some(line) => {
            let line: String = line.chars().take(LINE_CHARACTERS_MAX).collect();
            Err(format!("{}: {line}", path.display()))
        }
        None => Ok(log.lines().filter(|line| line.contains(TAKEN_OVER)).count()),
    }
}

fn is_bad(line: &str) -> bool {
    if line.contains("panicked at") || line.contains("forgetful disk:") {
        return true;
    }
    ERROR_LEVELS.iter().any(|level| line.contains(level)) && !EXPECTED.iter().any(|expected| line.contains(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_differ_are_refused() {
        let hash = |hash| HashKvResponse { hash, compact_revision: 3, hash_revision: 9, ..HashKvResponse::default() };
        let told = |hashes: &[u32]| hashes.iter().map(|&number| ("m".to_owned(), hash(number))).collect::<Vec<_>>();
        hashes_agree(&told(&[7, 7, 7])).expect("they agree");
        hashes_agree(&told(&[7, 7, 8])).expect_err("one differs");
    }

    #[test]
    fn unexpected_lines_are_found() {
        let lines = [
            (r#"{"level":"warn","msg":"slow"}"#, false),
            (r#"{"level":"error","msg":"the member stops","error":"No space left on device"}"#, false),
            (r#"{"level":"error","msg":"the member stops","error":"raft"}"#, true),
            ("thread 'log' panicked at node/src/member.rs", true),
        ];
        for (line, bad) in lines {
            assert_eq!(is_bad(line), bad, "{line}");
        }
    }
}
