//! `kvorumutl`: what can be done with the files of a member that does not run.

fn main() -> std::process::ExitCode {
    kvorum_ctl::main_of(&kvorum_ctl::utl::PROGRAM)
}
