//! The commands of `kvorumutl`.

mod directory;
mod hashkv;
mod restore;
mod snapshot;

use std::fmt::Display;
use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::command::{Action, Command, EXIT_BAD_FEATURE, EXIT_ERROR, Failure, Flag, Parsed, Program, complete};
use crate::{API_VERSION, ETCD_VERSION, golang};

const WRITE_OUT: Flag =
    Flag::text("write-out", "set the output format (fields, json, protobuf, simple, table)").short('w').or("simple");

const TIMEOUT: Flag =
    Flag::duration("timeout", "time to wait to obtain a file lock on db file, 0 to block indefinitely").or("10s");

pub static PROGRAM: Program = Program {
    root: Command {
        name: "kvorumutl",
        about: "Works on the files of a member that does not run.",
        flags: &[TIMEOUT, WRITE_OUT],
        action: Action::Group(&[
            Command {
                name: "completion",
                operands: "[bash|zsh|fish|powershell]",
                about: "Generate completion script",
                action: Action::Run(completion),
                ..Command::EMPTY
            },
            Command {
                name: "defrag",
                about: "Defragments the storage of a member that does not run",
                flags: directory::DEFRAG_FLAGS,
                action: Action::Run(directory::defrag),
                ..Command::EMPTY
            },
            Command {
                name: "export",
                about: "Writes a data directory that etcd 3.7 starts from",
                flags: directory::EXPORT_FLAGS,
                action: Action::Run(directory::export),
                ..Command::EMPTY
            },
            Command {
                name: "hashkv",
                operands: "<filename>",
                about: "Prints the KV history hash of a given file",
                flags: hashkv::FLAGS,
                action: Action::Run(hashkv::hash_kv),
                ..Command::EMPTY
            },
            Command {
                name: "migrate",
                about: "Migrates schema of data dir files to make them compatible with different etcd version",
                flags: directory::MIGRATE_FLAGS,
                action: Action::Run(directory::migrate),
                ..Command::EMPTY
            },
            Command {
                name: "snapshot",
                about: "Manages snapshots of a member",
                action: Action::Group(&[
                    Command {
                        name: "restore",
                        operands: "<filename> --data-dir {output dir} [options]",
                        about: "Restores a member's snapshot to a new data directory",
                        flags: restore::FLAGS,
                        action: Action::Run(restore::restore),
                        ..Command::EMPTY
                    },
                    Command {
                        name: "status",
                        operands: "<filename>",
                        about: "Gets the status of a snapshot or database file",
                        action: Action::Run(snapshot::status),
                        ..Command::EMPTY
                    },
                ]),
                ..Command::EMPTY
            },
            Command {
                name: "version",
                about: "Prints the version of kvorumutl",
                action: Action::Run(version),
                ..Command::EMPTY
            },
        ]),
        ..Command::EMPTY
    },
    headings: &[],
    footer: "",
};

/// How a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutputFormat {
    Simple,
    Table,
    Json,
    Fields,
}

fn output_format(parsed: &Parsed) -> Result<OutputFormat, Failure> {
    match parsed.value(&WRITE_OUT) {
        "simple" => Ok(OutputFormat::Simple),
        "table" => Ok(OutputFormat::Table),
        "json" => Ok(OutputFormat::Json),
        "fields" => Ok(OutputFormat::Fields),
        "protobuf" => Err(Failure::new(EXIT_BAD_FEATURE, "protobuf not supported as output format")),
        _ => Err(Failure::new(EXIT_BAD_FEATURE, "unsupported output format")),
    }
}

fn failed(error: &(impl Display + ?Sized)) -> Failure {
    Failure::new(EXIT_ERROR, error.to_string())
}

/// Says what was done, on standard error, in the shape of a line of etcdutl's log.
fn note(message: &str, fields: &[(&str, String)]) {
    let fields: serde_json::Map<String, serde_json::Value> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
    let fields = serde_json::to_string(&fields).expect("texts can be written");
    eprintln!("info\t{message}\t{fields}");
}

/// A file that is not there is told as Go tells it.
fn stat(path: &Path) -> Result<(), Failure> {
    std::fs::metadata(path).map(drop).map_err(|error| {
        let text = golang::io_error_text(&error);
        Failure::new(EXIT_ERROR, format!("stat {}: {text}", path.display()))
    })
}

/// A member that runs holds the lock of its database, and changes what would be read here.
fn locked_file(path: &Path) -> Result<File, Failure> {
    let file = File::open(path).map_err(|error| failed(&error))?;
    flock(&file, FlockOperation::LockShared).map_err(|error| failed(&error))?;
    Ok(file)
}

fn completion(parsed: &Parsed) -> Result<String, Failure> {
    let [shell] = &parsed.operands[..] else {
        let text = format!("accepts 1 arg(s), received {}", parsed.operands.len());
        return Err(Failure::new(EXIT_ERROR, text));
    };
    complete::script(shell, PROGRAM.root.name).ok_or_else(|| {
        let shell = golang::quote(shell.bytes());
        Failure::new(EXIT_ERROR, format!("invalid argument {shell} for \"kvorumutl completion\""))
    })
}

fn version(_: &Parsed) -> Result<String, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    Ok(format!("etcdutl version: {ETCD_VERSION}\nAPI version: {API_VERSION}\nkvorumutl version: {own}\n"))
}
