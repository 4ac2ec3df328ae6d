//! Every input that is kept in `fuzz/corpus` and `fuzz/regressions`, given to its target.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use kvorum_fuzzing::TARGETS;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(name)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let programs = names(&folder("fuzz_targets"));
    assert_eq!(programs.iter().map(|name| name.trim_end_matches(".rs").to_owned()).collect::<BTreeSet<_>>(), targets);
    assert_eq!(names(&folder("corpus")), targets);
    assert!(names(&folder("regressions")).is_subset(&targets));
}

#[test]
fn kept_inputs_break_no_promise() {
    for kept in ["corpus", "regressions"] {
        for (name, run) in TARGETS {
            let folder = folder(kept).join(name);
            if !folder.exists() {
                continue;
            }
            for input in names(&folder) {
                // Shown when a target fails.
                println!("{kept}/{name}/{input}");
                run(&fs::read(folder.join(&input)).expect("it can be read"));
            }
        }
    }
}
