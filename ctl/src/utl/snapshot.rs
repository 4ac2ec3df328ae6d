//! `snapshot`: what a snapshot file holds.

use std::path::Path;

use kvorum_disk::RealFileSystem;
use kvorum_disk::bolt::BoltFile;
use kvorum_disk::bolt::snapshot::{self, SnapshotStatus};
use serde::Serialize;

use super::{OutputFormat, failed, locked_file, output_format, stat};
use crate::command::{EXIT_BAD_ARGUMENTS, Failure, Parsed};
use crate::print;

/// As etcdutl's JSON has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusJson<'a> {
    hash: u32,
    revision: i64,
    total_key: u64,
    total_size: u64,
    version: &'a str,
}

pub(super) fn status(parsed: &Parsed) -> Result<String, Failure> {
    let [path] = &parsed.operands[..] else {
        return Err(Failure::new(EXIT_BAD_ARGUMENTS, "snapshot status requires exactly one argument"));
    };
    let path = Path::new(path.os_text());
    stat(path)?;
    let format = output_format(parsed)?;
    let _locked = locked_file(path)?;
    let file = BoltFile::open(&RealFileSystem, path).map_err(|error| failed(&error))?;
    let status = snapshot::status(&file).map_err(|error| failed(&error))?;
    Ok(show(&status, format))
}

fn show(status: &SnapshotStatus, format: OutputFormat) -> String {
    let SnapshotStatus { hash, revision, total_keys, total_bytes, version } = status;
    let row = || {
        let size = print::size(*total_bytes);
        vec![format!("{hash:x}"), revision.to_string(), total_keys.to_string(), size, version.clone()]
    };
    match format {
        OutputFormat::Simple => row().join(", ") + "\n",
        OutputFormat::Table => print::table(&["hash", "revision", "total keys", "total size", "version"], &[row()]),
        OutputFormat::Fields => format!(
            "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {total_keys}\n\"Size\" : {total_bytes}\n\
             \"Version\" : {version}\n"
        ),
        OutputFormat::Json => {
            let json = StatusJson {
                hash: *hash,
                revision: *revision,
                total_key: *total_keys,
                total_size: *total_bytes,
                version,
            };
            serde_json::to_string(&json).expect("numbers and a text can be written") + "\n"
        }
    }
}
