//! Stands in for `protoc` in build scripts of crates that insist on one: takes the arguments prost-build gives it and
//! writes the descriptor set. It must not be used to generate code of ours; that is `cargo xtask codegen`.

use std::path::PathBuf;
use std::process::ExitCode;

use prost::Message;

fn main() -> ExitCode {
    match compile(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("interop-protoc: {message}");
            ExitCode::FAILURE
        }
    }
}

fn compile(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let (mut includes, mut files, mut output) = (Vec::new(), Vec::new(), None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--version" => {
                println!("libprotoc 30.0");
                return Ok(());
            }
            "-o" => output = arguments.next(),
            "-I" => includes.extend(arguments.next().map(PathBuf::from)),
            "--include_imports" | "--include_source_info" | "--experimental_allow_proto3_optional" => {}
            other => match (other.strip_prefix("-I"), other.strip_prefix("--descriptor_set_out=")) {
                (Some(include), _) => includes.push(PathBuf::from(include)),
                (_, Some(path)) => output = Some(path.to_owned()),
                _ if other.starts_with('-') => return Err(format!("unknown argument {other}")),
                _ => files.push(PathBuf::from(other)),
            },
        }
    }
    let output = output.ok_or("no output given")?;
    let descriptors = protox::compile(files, includes).map_err(|error| format!("{error:?}"))?;
    std::fs::write(&output, descriptors.encode_to_vec()).map_err(|error| format!("{output}: {error}"))
}
