//! The binary `kvorum`: reads what it is asked for, sets up the log, and hands over to the library. Exit codes are
//! etcd's: 2 for a command line that cannot be read, 1 for one that makes no sense.

mod demo;

use std::io::Write;
use std::process::ExitCode;

use kvorum_server::config::{self, Command, Config, Failure, Notice};
use kvorum_server::core::Core;
use kvorum_server::log::{self, Level, LogConfig, Value};
use kvorum_server::start::Running;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|text| text.to_string_lossy().into_owned()).collect();
    let environment: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    if let [first, rest @ ..] = arguments.as_slice()
        && first == "demo-cluster"
    {
        return demo::run(rest);
    }
    match config::parse(&arguments, &environment) {
        Ok(Command::Version) => print(&config::version_text()),
        Ok(Command::Help) => {
            eprint!("{}", config::USAGE);
            print(&config::flags_text())
        }
        Ok(Command::Serve { config, notices }) => {
            kvorum_server::descriptors::raise();
            serve(&config, &notices)
        }
        Err(Failure::Usage { message }) => {
            eprint!("{message}\n{}", config::USAGE);
            ExitCode::from(2)
        }
        Err(Failure::Refused { message, notices, log }) => {
            start_log(&log);
            announce(&notices);
            log::emit(Level::Warn, "failed to verify flags", &[("error", Value::Text(message))]);
            ExitCode::FAILURE
        }
        Err(Failure::Fatal { message, fields, notices }) => {
            start_log(&LogConfig::default());
            announce(&notices);
            log::emit(Level::Fatal, &message, &fields);
            ExitCode::FAILURE
        }
    }
}

fn serve(config: &Config, notices: &[Notice]) -> ExitCode {
    if !start_log(&config.log) {
        return ExitCode::FAILURE;
    }
    announce(notices);
    let arguments: Vec<String> = std::env::args_os().map(|text| text.to_string_lossy().into_owned()).collect();
    log::emit(Level::Info, "Running: ", &[("args", Value::List(arguments))]);
    log::emit(Level::Info, "starting an etcd server", &config.log_fields());
    match kvorum_server::start::begin(config) {
        Ok(running) => run(running),
        Err(error) => {
            log::emit(Level::Fatal, "failed to start", &[("error", Value::Text(error.to_string()))]);
            ExitCode::FAILURE
        }
    }
}

/// Serves until a signal or a failure, then stops cleanly.
fn run(mut running: Running) -> ExitCode {
    let core = std::sync::Arc::clone(running.core());
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let signals = match signals {
        Ok(runtime) => runtime,
        Err(error) => {
            log::emit(Level::Fatal, "cannot wait for signals", &[("error", Value::Text(error.to_string()))]);
            return ExitCode::FAILURE;
        }
    };
    signals.block_on(wait_for_end(&core));
    running.stop();
    match running.wait() {
        Ok(()) => {
            log::emit(Level::Info, "closed etcd server", &[]);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            log::emit(Level::Fatal, "the member stopped", &[("error", Value::Text(reason))]);
            ExitCode::FAILURE
        }
    }
}

async fn wait_for_end(core: &Core) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut stop = core.watch_stop();
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        log::emit(Level::Warn, "cannot wait for signals", &[]);
        return;
    };
    let name = tokio::select! {
        _ = terminate.recv() => "terminated",
        _ = interrupt.recv() => "interrupt",
        _ = stop.wait_for(|stopping| *stopping) => return,
    };
    let signal = [("signal", Value::text(name))];
    log::emit(Level::Info, "received signal; shutting down", &signal);
}

/// False when an output cannot be opened, which is then said on standard error.
fn start_log(log: &LogConfig) -> bool {
    match log::init(log) {
        Ok(()) => true,
        Err(error) => {
            log::emit(Level::Warn, "failed to verify flags", &[("error", Value::Text(error))]);
            false
        }
    }
}

fn announce(notices: &[Notice]) {
    for notice in notices {
        log::emit(notice.level, &notice.message, &notice.fields);
    }
}

/// A closed standard output is no reason to panic.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
