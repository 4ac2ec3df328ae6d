//! `kvorumutl`: what can be done with the files of a member that does not run.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|text| text.to_string_lossy().into_owned()).collect();
    kvorum_ctl::command::run(&kvorum_ctl::utl::ROOT, &arguments)
}
