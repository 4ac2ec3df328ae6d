use super::*;
use std::time::{Duration, UNIX_EPOCH};

/// 2026-11-22T07:35:52.299812Z, a moment in a log of etcd.
fn fixed_clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(1_795_332_952_299_812)
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic while locked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(level: Level, format: LogFormat, speak: impl FnOnce()) -> String {
    let captured = Captured::default();
    let logger = Logger::to_writer(level, format, Box::new(captured.clone()), fixed_clock);
    tracing::subscriber::with_default(logger.into_subscriber(), speak);
    let bytes = captured.0.lock().expect("no panic while locked").clone();
    String::from_utf8(bytes).expect("a log is text")
}

fn written(format: LogFormat, level: Level, message: &str, fields: &[(&str, Value)]) -> String {
    let captured = Captured::default();
    let logger = Logger::to_writer(Level::Debug, format, Box::new(captured.clone()), fixed_clock);
    logger.write(level, "server/src/main.rs", 41, message, fields);
    let bytes = captured.0.lock().expect("no panic while locked").clone();
    String::from_utf8(bytes).expect("a log is text")
}

#[test]
fn json_lines_have_the_shape_of_zap() {
    assert_eq!(
        written(LogFormat::Json, Level::Info, "ready to serve client requests", &[]),
        "{\"level\":\"info\",\"ts\":\"2026-11-22T07:35:52.299812Z\",\"caller\":\"server/main.rs:41\",\
         \"msg\":\"ready to serve client requests\"}\n"
    );
    let fields = [
        ("address", Value::text("127.0.0.1:2379")),
        ("max", Value::Unsigned(5)),
        ("took", Value::Duration(Duration::from_micros(1340))),
        ("ok", Value::Bool(true)),
        ("urls", Value::list(&["http://a:1", "http://b:2"])),
        ("ratio", Value::Float(0.5)),
    ];
    assert_eq!(
        written(LogFormat::Json, Level::Fatal, "x", &fields),
        "{\"level\":\"fatal\",\"ts\":\"2026-11-22T07:35:52.299812Z\",\"caller\":\"server/main.rs:41\",\"msg\":\"x\",\
         \"address\":\"127.0.0.1:2379\",\"max\":5,\"took\":\"1.34ms\",\"ok\":true,\
         \"urls\":[\"http://a:1\",\"http://b:2\"],\"ratio\":0.5}\n"
    );
}

#[test]
fn console_lines_have_the_shape_of_zap() {
    let fields = [("args", Value::list(&["a", "b"])), ("n", Value::Signed(-1))];
    assert_eq!(
        written(LogFormat::Console, Level::Info, "Running: ", &fields),
        "2026-11-22T07:35:52.299812Z\tinfo\tserver/main.rs:41\tRunning: \t{\"args\": [\"a\", \"b\"], \"n\": -1}\n"
    );
    assert_eq!(
        written(LogFormat::Console, Level::Warn, "two\nlines", &[]),
        "2026-11-22T07:35:52.299812Z\twarn\tserver/main.rs:41\ttwo\\nlines\n"
    );
}

/// Whatever a client puts into a field, the line stays one JSON object on one line.
#[test]
fn hostile_text_cannot_leave_its_field() {
    let hostile = "\"},\n{\"level\":\"fatal\u{0}\u{1f}\\\u{7f}ü\u{2028}";
    let line = written(LogFormat::Json, Level::Info, hostile, &[(hostile, Value::text(hostile))]);
    assert_eq!(line.matches('\n').count(), 1);
    let parsed: serde_json::Value = serde_json::from_str(&line).expect("valid JSON");
    assert_eq!(parsed["msg"], hostile);
    assert_eq!(parsed[hostile], hostile);
}

#[test]
fn tracing_events_become_lines() {
    let line = logged(Level::Info, LogFormat::Json, || {
        let error = io::Error::other("disk full");
        tracing::warn!(
            member_id = 7u64,
            "dashed-name" = "x",
            shown = %"displayed",
            error = &error as &dyn std::error::Error,
            signed = -1,
            "saved {}",
            3
        );
    });
    let parsed: serde_json::Value = serde_json::from_str(&line).expect("valid JSON");
    assert_eq!(parsed["level"], "warn");
    assert_eq!(parsed["msg"], "saved 3");
    assert_eq!(parsed["member-id"], 7);
    assert_eq!(parsed["dashed-name"], "x");
    assert_eq!(parsed["shown"], "displayed");
    assert_eq!(parsed["error"], "disk full");
    assert_eq!(parsed["signed"], -1);
    assert!(parsed["caller"].as_str().expect("text").starts_with("log/tests.rs:"), "{line}");
}

#[test]
fn levels_and_libraries_are_filtered() {
    let speak = || {
        tracing::trace!("kept back");
        tracing::debug!("d");
        tracing::info!("i");
        tracing::error!("e");
        tracing::info!(target: "h2::proto", "frame");
        tracing::warn!(target: "h2::proto", "odd");
    };
    let messages = |text: String| -> Vec<String> {
        text.lines()
            .map(|line| {
                let parsed: serde_json::Value = serde_json::from_str(line).expect("valid JSON");
                parsed["msg"].as_str().expect("text").to_owned()
            })
            .collect()
    };
    assert_eq!(messages(logged(Level::Debug, LogFormat::Json, speak)), ["d", "i", "e", "odd"]);
    assert_eq!(messages(logged(Level::Info, LogFormat::Json, speak)), ["i", "e", "odd"]);
    assert_eq!(messages(logged(Level::Error, LogFormat::Json, speak)), ["e"]);
    assert!(logged(Level::Fatal, LogFormat::Json, speak).is_empty());
}

#[test]
fn times() {
    for (micros, text) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
        (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
        (1_709_251_200_000_001, "2024-03-01T00:00:00.000001Z"),
        (4_102_444_800_000_000, "2100-01-01T00:00:00.000000Z"),
    ] {
        assert_eq!(format_time(UNIX_EPOCH + Duration::from_micros(micros)), text);
    }
}

#[test]
fn callers_are_short() {
    for (file, caller) in [
        ("server/src/main.rs", "server/main.rs:9"),
        ("server/src/config/env.rs", "config/env.rs:9"),
        ("main.rs", "main.rs:9"),
        ("/home/x/.cargo/registry/src/index/h2-0.4.1/src/lib.rs", "h2-0.4.1/lib.rs:9"),
    ] {
        assert_eq!(line::short_caller(file, 9), caller);
    }
}

#[test]
fn files_are_appended_to_and_missing_folders_are_reported() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("log");
    let config = LogConfig { outputs: vec![LogOutput::File(path.clone())], ..LogConfig::default() };
    for _ in 0..2 {
        Logger::open(&config).expect("can be made").write::<&str>(Level::Info, "a/b.rs", 1, "m", &[]);
    }
    assert_eq!(std::fs::read_to_string(&path).expect("it is there").lines().count(), 2);
    let missing = folder.path().join("none/log");
    let config = LogConfig { outputs: vec![LogOutput::File(missing)], ..LogConfig::default() };
    assert!(Logger::open(&config).err().expect("no folder").starts_with("open sink \""));
}
