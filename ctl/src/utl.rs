//! The commands of `kvorumutl`.

mod snapshot;

use crate::command::{Action, Command, EXIT_BAD_FEATURE, Failure, Flag, Parsed, Program};
use crate::{API_VERSION, ETCD_VERSION};

const WRITE_OUT: Flag = Flag {
    name: "write-out",
    short: Some('w'),
    value: Some("string"),
    default: "simple",
    about: "set the output format (fields, json, protobuf, simple, table)",
};

pub static PROGRAM: Program = Program {
    root: Command {
        name: "kvorumutl",
        about: "Works on the files of a member that does not run.",
        flags: &[WRITE_OUT],
        action: Action::Group(&[
            Command {
                name: "snapshot",
                about: "Manages snapshots of a member",
                action: Action::Group(&[Command {
                    name: "status",
                    operands: "<filename>",
                    about: "Gets the status of a snapshot or database file",
                    action: Action::Run(snapshot::status),
                    ..Command::EMPTY
                }]),
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

fn version(_: &Parsed) -> Result<String, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    Ok(format!("etcdutl version: {ETCD_VERSION}\nAPI version: {API_VERSION}\nkvorumutl version: {own}\n"))
}
