//! The log, in the line format of etcd's logger (zap): `level`, `ts`, `caller`, `msg`, then the fields. Code says
//! `tracing::info!(member_id = 7, "ready to serve client requests")`; a subscriber of ours writes the line.
//! Underscores in field names become dashes, since etcd's fields have dashes.
//!
//! A line is written at once and whole, under a lock of its output only; nothing is buffered, so nothing is lost when
//! the process dies. A failing output is not an error: there is nowhere to report it.

mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::Location;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber, span};

pub use line::{Value, escape_json_into, format_time};

/// Of a file that is new: whoever ships logs may read it, and whatever the process's mask, nobody else may write. zap
/// leaves that to the mask.
const FILE_MODE: u32 = 0o644;

/// zap's levels, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

impl Level {
    /// The level of this name, as `--log-level` takes it.
    pub fn parse(text: &str) -> Option<Level> {
        Some(match text.to_ascii_lowercase().as_str() {
            "debug" => Level::Debug,
            "info" | "" => Level::Info,
            "warn" | "warning" => Level::Warn,
            "error" => Level::Error,
            "panic" | "dpanic" => Level::Panic,
            "fatal" => Level::Fatal,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Panic => "panic",
            Level::Fatal => "fatal",
        }
    }

    fn of(level: &tracing::Level) -> Level {
        match *level {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Console,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    Stderr,
    Stdout,
    /// Appended to; made if missing.
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub level: Level,
    pub format: LogFormat,
    pub outputs: Vec<LogOutput>,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { level: Level::Info, format: LogFormat::Json, outputs: vec![LogOutput::Stderr] }
    }
}

/// Where `ts` comes from; tests bring their own.
pub type Clock = fn() -> SystemTime;

/// Writes lines.
pub struct Logger {
    level: Level,
    format: LogFormat,
    sinks: Vec<Sink>,
    clock: Clock,
}

enum Sink {
    Stderr,
    Stdout,
    Writer(Mutex<Box<dyn Write + Send>>),
}

static GLOBAL: OnceLock<Arc<Logger>> = OnceLock::new();

/// Opens the outputs and makes this the logger of the process. A second call changes nothing: the first logger stays,
/// so that a program that embeds a member and logs by itself is left alone. The error is zap's text.
pub fn init(config: &LogConfig) -> Result<(), String> {
    let logger = Arc::new(Logger::open(config)?);
    if GLOBAL.set(Arc::clone(&logger)).is_ok() {
        let dispatch = tracing::Dispatch::new(Writer(logger));
        // An error means that the surrounding program already chose a subscriber; its choice stands.
        if tracing::dispatcher::set_global_default(dispatch).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Logs a line whose fields are only known at run time, or of a level that `tracing` does not have. Before [`init`]
/// it goes to standard error.
#[track_caller]
pub fn emit(level: Level, message: &str, fields: &[(&str, Value)]) {
    let caller = Location::caller();
    match GLOBAL.get() {
        Some(logger) => logger.write(level, caller.file(), caller.line(), message, fields),
        None => Logger::to_stderr().write(level, caller.file(), caller.line(), message, fields),
    }
}

impl Logger {
    /// Opens every output. The error is zap's text.
    pub fn open(config: &LogConfig) -> Result<Logger, String> {
        let mut sinks = Vec::with_capacity(config.outputs.len());
        for output in &config.outputs {
            sinks.push(match output {
                LogOutput::Stderr => Sink::Stderr,
                LogOutput::Stdout => Sink::Stdout,
                LogOutput::File(path) => {
                    let opened: io::Result<File> =
                        OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path);
                    let file = opened.map_err(|error| {
                        let path = path.display().to_string();
                        format!("open sink {}: open {path}: {}", crate::urls::quote(&path), go_text(&error))
                    })?;
                    Sink::Writer(Mutex::new(Box::new(file)))
                }
            });
        }
        Ok(Logger { level: config.level, format: config.format, sinks, clock: SystemTime::now })
    }

    /// A logger into any writer, with any clock.
    pub fn to_writer(level: Level, format: LogFormat, writer: Box<dyn Write + Send>, clock: Clock) -> Logger {
        Logger { level, format, sinks: vec![Sink::Writer(Mutex::new(writer))], clock }
    }

    fn to_stderr() -> Logger {
        Logger { level: Level::Info, format: LogFormat::Json, sinks: vec![Sink::Stderr], clock: SystemTime::now }
    }

    /// Writes one line, if its level is high enough.
    pub fn write<N: AsRef<str>>(&self, level: Level, file: &str, line: u32, message: &str, fields: &[(N, Value)]) {
        if level < self.level {
            return;
        }
        let caller = line::short_caller(file, line);
        let time = format_time((self.clock)());
        let text = match self.format {
            LogFormat::Json => line::json(level, &time, &caller, message, fields),
            LogFormat::Console => line::console(level, &time, &caller, message, fields),
        };
        for sink in &self.sinks {
            // A log that cannot be written has nowhere to say so.
            let _unreportable = match sink {
                Sink::Stderr => io::stderr().lock().write_all(text.as_bytes()),
                Sink::Stdout => {
                    let mut stdout = io::stdout().lock();
                    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
                }
                Sink::Writer(writer) => {
                    let mut writer = writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    writer.write_all(text.as_bytes())
                }
            };
        }
    }

    /// A `tracing` subscriber that writes to this logger.
    pub fn into_subscriber(self) -> impl Subscriber + Send + Sync {
        Writer(Arc::new(self))
    }

    /// Libraries beneath us speak at debug level about every frame: only their warnings are wanted.
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let level = Level::of(metadata.level());
        let own = metadata.target().starts_with("kvorum");
        let traced = *metadata.level() == tracing::Level::TRACE;
        metadata.is_event() && !traced && level >= self.level && (own || level >= Level::Warn)
    }
}

/// The texts of the usual errors as Go gives them.
fn go_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// The subscriber. Spans are not used: a line carries its own fields.
struct Writer(Arc<Logger>);

impl Subscriber for Writer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.0.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        use tracing::level_filters::LevelFilter;
        Some(match self.0.level {
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warn => LevelFilter::WARN,
            Level::Error => LevelFilter::ERROR,
            Level::Panic | Level::Fatal => LevelFilter::OFF,
        })
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut collected = Collected::default();
        event.record(&mut collected);
        let metadata = event.metadata();
        let file = metadata.file().unwrap_or(metadata.target());
        self.0.write(
            Level::of(metadata.level()),
            file,
            metadata.line().unwrap_or(0),
            &collected.message,
            &collected.fields,
        );
    }
}

#[derive(Default)]
struct Collected {
    message: String,
    fields: Vec<(String, Value)>,
}

impl Collected {
    fn push(&mut self, field: &Field, value: Value) {
        self.fields.push((field.name().replace('_', "-"), value));
    }
}

impl Visit for Collected {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            _ => self.push(field, Value::Text(text)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.push(field, Value::text(value)),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Unsigned(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Bool(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, Value::Float(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, Value::Text(value.to_string()));
    }
}

#[cfg(test)]
mod tests;
