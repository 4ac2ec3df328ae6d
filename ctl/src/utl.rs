//! The commands of `kvorumutl`.

mod snapshot;

use crate::command::{Action, Command, EXIT_BAD_FEATURE, Failure, Flag, Parsed};

/// The version of etcd whose tool this one stands for.
const ETCD_VERSION: &str = "3.7.1";
const API_VERSION: &str = "3.7";

const WRITE_OUT: Flag = Flag {
    name: "write-out",
    short: Some('w'),
    value: Some("string"),
    default: "simple",
    about: "set the output format (fields, json, protobuf, simple, table)",
};

pub static ROOT: Command = Command {
    name: "kvorumutl",
    operands: "",
    about: "Works on the files of a member that does not run.",
    flags: &[WRITE_OUT],
    action: Action::Group(&[
        Command {
            name: "snapshot",
            operands: "",
            about: "Manages snapshots of a member",
            flags: &[],
            action: Action::Group(&[Command {
                name: "status",
                operands: "<filename>",
                about: "Gets the status of a snapshot or database file",
                flags: &[],
                action: Action::Run(snapshot::status),
            }]),
        },
        Command {
            name: "version",
            operands: "",
            about: "Prints the version of kvorumutl",
            flags: &[],
            action: Action::Run(version),
        },
    ]),
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
