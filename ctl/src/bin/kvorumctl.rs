//! `kvorumctl`: what can be asked of a cluster that runs.

fn main() -> std::process::ExitCode {
    kvorum_ctl::main_of(&kvorum_ctl::ctl::PROGRAM)
}
