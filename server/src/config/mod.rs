//! What an operator asked for: the command line and the `ETCD_*` variables, or a file, with etcd 3.7.1's flags, defaults, checks
//! and messages. A flag of etcd's that has no effect yet is accepted at its default and otherwise refused by name.
//!
//! Nothing here opens a file but the one of `--config-file`, or a socket, or starts anything; `Config::bootstrap` may
//! resolve host names.

mod arguments;
mod describe;
mod file;
mod flags;
mod gates;
pub mod go;
mod help;
mod tls;
mod yaml;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::limits::{ConnectionLimits, HeldLimits, ProposalLimits};
pub use gates::FeatureGates;
pub use help::{USAGE, flags_text, version_text};

use kvorum_node::lease_timers::CHECKPOINT_INTERVAL_MILLISECONDS;
use kvorum_store::Member;

use crate::cluster::addresses::SystemResolver;
use crate::cluster::forming;
use crate::ids;
use crate::log::{Level, LogConfig, LogFormat, LogOutput, Value as LogValue};
use crate::tls::TlsOptions;
use crate::urls::{self, Scheme, Url, quote};
use arguments::Values;
use flags::{FLAGS, Support};

/// The longest election timeout etcd takes.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(50_000);
const DEFAULT_NAME: &str = "default";
const DEFAULT_SNAPSHOT_COUNT: u64 = 10_000;
const DEFAULT_CATCHUP_ENTRIES: u64 = 5_000;
const DEFAULT_QUOTA_BYTES: u64 = 2 * 1024 * 1024 * 1024;
const WATCH_PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
const NOT_YET: &str = "is not supported by this version of Kvorum yet";

/// Everything a member is told at start. The fields are effective values: "0 means the default" is already resolved.
/// `Config::default()` is what etcd does without flags; a program that embeds a member changes fields, then calls
/// [`Config::validate`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub name: String,
    /// The folder of the member's data, `${name}.etcd` unless given.
    pub data_dir: PathBuf,
    /// A folder of its own for the write-ahead log; `None` puts it under `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// Checked, but nothing listens there while a cluster has one member.
    pub listen_peer_urls: Vec<Url>,
    /// Port 0 lets the system choose.
    pub listen_client_urls: Vec<Url>,
    /// Ports for what is not gRPC; if there are any, those of `listen_client_urls` are for gRPC alone.
    pub listen_client_http_urls: Vec<Url>,
    /// Further ports with the pages of metrics and health alone.
    pub listen_metrics_urls: Vec<Url>,
    /// For URLs with https of clients and metrics.
    pub client_tls: TlsOptions,
    /// For URLs with https of members, and for calls to other members.
    pub peer_tls: TlsOptions,
    /// Where `client_tls` names no certificate, the member makes one.
    pub client_auto_tls: bool,
    pub peer_auto_tls: bool,
    /// How long certificates are valid that the member makes.
    pub self_signed_cert_validity_years: u64,
    pub initial_advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    /// `name=url,...` as given; [`Config::bootstrap`] reads it.
    pub initial_cluster: String,
    pub initial_cluster_state: ClusterState,
    pub initial_cluster_token: String,
    /// One tick of raft.
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub initial_election_tick_advance: bool,
    pub pre_vote: bool,
    pub strict_reconfig_check: bool,
    /// Make a cluster of one from the data of a larger one. What only the others had is lost, and they must not come back.
    pub force_new_cluster: bool,
    /// Learners the cluster may have. A member does not start while there are more, or with a negative number, as in etcd.
    pub max_learners: i64,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    /// Log files to keep; 0 keeps all.
    pub max_wals: u64,
    /// Snapshot files to keep; 0 keeps all.
    pub max_snapshots: u64,
    /// `None`: no quota.
    pub quota_backend_bytes: Option<u64>,
    /// Kind of token and its options; looked at when the member starts.
    pub auth_token: String,
    pub auth_token_ttl_seconds: u64,
    /// As it was given.
    pub bcrypt_cost: u64,
    pub max_txn_ops: u64,
    pub max_request_bytes: u64,
    pub max_concurrent_streams: u32,
    /// These three as they were given; zeros stand for grpc-go's defaults.
    pub grpc_keepalive_min_time: Duration,
    pub grpc_keepalive_interval: Duration,
    pub grpc_keepalive_timeout: Duration,
    pub auto_compaction: AutoCompaction,
    pub compaction_batch_limit: u64,
    pub compaction_sleep_interval: Duration,
    pub backend_batch_interval: Duration,
    pub backend_batch_limit: u64,
    pub watch_progress_notify_interval: Duration,
    pub warning_apply_duration: Duration,
    pub warning_unary_request_duration: Duration,
    /// Time between checkpoints of one lease. No flag changes it, as in etcd.
    pub lease_checkpoint_interval: Duration,
    pub feature_gates: FeatureGates,
    /// Time between comparisons of all data with the other members; zero: never.
    pub corrupt_check_time: Duration,
    /// Time between comparisons of what members hashed while compacting.
    pub compact_hash_check_time: Duration,
    /// The store is shrunk at a start if that frees so many megabytes; 0: never.
    pub bootstrap_defrag_threshold_megabytes: u64,
    /// Time between looks at a running downgrade; zero: never.
    pub downgrade_check_time: Duration,
    pub log: LogConfig,
    pub unsafe_no_fsync: bool,
    pub socket_reuse_port: bool,
    pub socket_reuse_address: bool,
    pub enable_grpc_gateway: bool,
    /// Memory for current values; what does not fit is read from the backend. 0 keeps none.
    pub value_budget_bytes: u64,
    /// A segment of the write-ahead log that has grown to this is left for a new one.
    pub wal_segment_bytes: u64,
    /// 0: one for every core.
    pub connection_threads: usize,
    /// Origins of web pages that may read the plain pages; empty or `*`: all.
    pub cors: Vec<String>,
    /// Names by which the plain pages may be asked for without TLS; empty or `*`: all.
    pub host_whitelist: Vec<String>,
    /// No flag changes them.
    pub connection_limits: ConnectionLimits,
    /// No flag changes them.
    pub proposal_limits: ProposalLimits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

impl ClusterState {
    pub fn as_str(self) -> &'static str {
        match self {
            ClusterState::New => "new",
            ClusterState::Existing => "existing",
        }
    }
}

/// When history is compacted without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keep at least this much time.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(i64),
}

/// What a command line asks for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Start a member. The notices are to be logged first.
    Serve { config: Box<Config>, notices: Vec<Notice> },
    /// Print [`version_text`].
    Version,
    /// Print [`USAGE`] on standard error and [`flags_text`] on standard output, as etcd does.
    Help,
}

/// Something to log once logging is set up.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    pub level: Level,
    pub message: String,
    pub fields: Vec<(&'static str, LogValue)>,
}

impl Notice {
    pub(crate) fn new(level: Level, message: &str, fields: Vec<(&'static str, LogValue)>) -> Notice {
        Notice { level, message: message.to_owned(), fields }
    }
}

/// Why a command line cannot be followed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// A flag that cannot be read: text and usage on standard error, exit code 2.
    Usage { message: String },
    /// Flags that make no sense: logged as "failed to verify flags", exit code 1.
    Refused { message: String, notices: Vec<Notice>, log: LogConfig },
    /// A conflict between flag and variable: logged as fatal, exit code 1.
    Fatal { message: String, fields: Vec<(&'static str, LogValue)>, notices: Vec<Notice> },
}

impl Failure {
    pub(crate) fn refused(message: String, notices: Vec<Notice>) -> Failure {
        Failure::Refused { message, notices, log: LogConfig::default() }
    }
}

/// Why a configuration makes no sense. `Display` is etcd's message where etcd has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

fn error<T>(message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(message.into()))
}

/// Who founds the cluster: what a member needs before its first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    pub member_id: u64,
    pub cluster_id: u64,
    /// Sorted; these are what the member's record holds.
    pub peer_urls: Vec<String>,
}

/// Reads a command line without its program name, and the environment.
pub fn parse(arguments: &[String], environment: &[(String, String)]) -> Result<Command, Failure> {
    if let Some(subcommand @ ("gateway" | "grpc-proxy")) = arguments.first().map(String::as_str) {
        return Err(Failure::refused(format!("the subcommand {subcommand} {NOT_YET}"), Vec::new()));
    }
    let mut values = Values::defaults();
    match values.read_arguments(arguments) {
        Ok(()) => {}
        Err(None) => return Ok(Command::Help),
        Err(Some(message)) => return Err(Failure::Usage { message }),
    }
    let mut notices = Vec::new();
    if let Some(stray) = &values.stray {
        return Err(Failure::refused(format!("{} is not a valid flag", quote(stray)), notices));
    }
    if values.bool("version") {
        return Ok(Command::Version);
    }
    let variable = environment.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE").map(|(_, value)| value.clone());
    let config_file = Some(values.text("config-file")).filter(|path| !path.is_empty()).or(variable);
    if let Some(path) = config_file.filter(|path| !path.is_empty()) {
        return parse_file(&path, notices);
    }
    let mut environment = environment.to_vec();
    environment.retain(|(name, value)| {
        let special = name == "ETCD_VERSION";
        if special && !value.is_empty() {
            let fields = vec![("key", LogValue::text(name)), ("value", LogValue::text(value))];
            notices.push(Notice::new(Level::Warn, "cannot set special environment variable", fields));
        }
        !special
    });
    values.read_environment(&environment, &mut notices)?;
    finish(&values, file::Extras::default(), notices)
}

/// Follows a configuration file and nothing else.
fn parse_file(path: &str, notices: Vec<Notice>) -> Result<Command, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse_text(path, &text, notices),
        Err(error) => Err(Failure::refused(format!("{path}: {error}"), notices)),
    }
}

/// The same of a file's text; the path is for messages.
pub fn parse_text(path: &str, text: &str, mut notices: Vec<Notice>) -> Result<Command, Failure> {
    let mut values = Values::defaults();
    let extras = match file::read(text, &mut values, &mut notices) {
        Ok(extras) => extras,
        Err(reason) => return Err(Failure::refused(format!("{path}: {reason}"), notices)),
    };
    notices.push(Notice::new(
        Level::Info,
        "loaded server configuration, other configuration command line flags and environment variables will be ignored \
         if provided",
        vec![("path", LogValue::text(path))],
    ));
    finish(&values, extras, notices)
}

fn finish(values: &Values, extras: file::Extras, mut notices: Vec<Notice>) -> Result<Command, Failure> {
    let mut log = LogConfig::default();
    let checked = log_config(values).and_then(|configured| {
        log = configured;
        Config::from_values(values, extras, log.clone())
    });
    notices.extend(deprecations(values));
    match checked {
        Ok(config) => {
            notices.extend(config.notices(values));
            Ok(Command::Serve { config: Box::new(config), notices })
        }
        Err(failure) => Err(Failure::Refused { message: failure.0, notices, log }),
    }
}

fn deprecations(values: &Values) -> Vec<Notice> {
    [
        ("max-snapshots", "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
        (
            "v2-deprecation",
            "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, \
             ignoring user input.",
        ),
    ]
    .into_iter()
    .filter(|(name, _)| values.is_given(name))
    .map(|(_, message)| Notice::new(Level::Warn, message, Vec::new()))
    .collect()
}

fn log_config(values: &Values) -> Result<LogConfig, ConfigError> {
    let logger = values.text("logger");
    if logger != "zap" {
        return error(format!("unknown logger option {}", quote(&logger)));
    }
    let outputs = values.texts("log-outputs");
    if outputs.len() > 1 && outputs.iter().any(|output| output == "default") {
        return error(r#"multi logoutput for "default" is not supported yet"#);
    }
    let outputs = outputs
        .into_iter()
        .map(|output| match output.as_str() {
            "default" | "stderr" => Ok(LogOutput::Stderr),
            "stdout" => Ok(LogOutput::Stdout),
            "systemd/journal" => error(format!("--log-outputs systemd/journal {NOT_YET}")),
            "" => error(r#"open sink "": open : no such file or directory"#),
            path => Ok(LogOutput::File(PathBuf::from(path))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let level_text = values.text("log-level");
    let Some(level) = Level::parse(&level_text) else {
        return error(format!("unrecognized level: {}", quote(&level_text)));
    };
    let format = match values.text("log-format").as_str() {
        "json" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => return error(format!("unknown log format: {other}, supported values json, console")),
    };
    Ok(LogConfig { level, format, outputs })
}

/// A duration that must not be negative; `zero_means` replaces 0.
fn duration(values: &Values, name: &str, zero_means: Duration) -> Result<Duration, ConfigError> {
    match u64::try_from(values.signed(name)) {
        Ok(0) => Ok(zero_means),
        Ok(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
        Err(_) => error(format!("--{name} must not be negative")),
    }
}

/// A count that must not be negative; `zero_means` replaces 0.
fn count(values: &Values, name: &str, zero_means: u64) -> Result<u64, ConfigError> {
    match u64::try_from(values.signed(name)) {
        Ok(0) => Ok(zero_means),
        Ok(count) => Ok(count),
        Err(_) => error(format!("--{name} must not be negative")),
    }
}

/// etcd's reading: a bare number is hours in periodic mode and revisions in revision mode; anything else is a
/// duration, whose nanoseconds count as revisions in revision mode.
fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, ConfigError> {
    let is_periodic = match mode {
        "periodic" => true,
        "revision" => false,
        "" => return error("undefined auto-compaction-mode"),
        other => return error(format!("unknown auto-compaction-mode {}", quote(other))),
    };
    let retention = if retention.is_empty() { "0" } else { retention };
    let parsed = match retention.parse::<i64>() {
        Ok(hours) if is_periodic && hours >= 0 => hours.checked_mul(3_600_000_000_000),
        Ok(revisions) if revisions >= 0 => Some(revisions),
        _ => match go::parse_duration(retention) {
            Ok(nanoseconds) => Some(nanoseconds),
            Err(reason) => return error(format!("error parsing CompactionRetention: {reason}")),
        },
    };
    match parsed {
        Some(0) => Ok(AutoCompaction::Off),
        Some(number) if number > 0 && is_periodic => {
            Ok(AutoCompaction::Periodic(Duration::from_nanos(number.unsigned_abs())))
        }
        Some(number) if number > 0 => Ok(AutoCompaction::Revision(number)),
        _ => error(format!("--auto-compaction-retention {} is out of range", quote(retention))),
    }
}

/// Refuses what would be swallowed. `raft-*-timeout` below the default is raised to it by etcd, so it is no change.
fn refuse_unsupported(values: &Values) -> Result<(), ConfigError> {
    if values.text("discovery-fallback") == "proxy" {
        return error(r#"v2 proxy is deprecated, and --discovery-fallback can't be configured as "proxy""#);
    }
    let hash_check = values.signed("compact-hash-check-time");
    if hash_check == 0 {
        return error("--compact-hash-check-time must be >0 (set to 0s)");
    }
    for flag in FLAGS.iter().filter(|flag| flag.support == Support::DefaultOnly && !values.is_default(flag)) {
        let raised = matches!(flag.name, "raft-read-timeout" | "raft-write-timeout");
        if raised && values.signed(flag.name) < Duration::from_secs(5).as_nanos() as i64 {
            continue;
        }
        return error(format!("--{} {NOT_YET} (only its default '{}' is accepted)", flag.name, flag.default));
    }
    Ok(())
}

impl Default for Config {
    fn default() -> Config {
        Config::from_values(&Values::defaults(), file::Extras::default(), LogConfig::default())
            .expect("the defaults make sense; a test checks them")
    }
}

impl Config {
    fn from_values(values: &Values, extras: file::Extras, log: LogConfig) -> Result<Config, ConfigError> {
        let seconds = Duration::from_secs;
        let milliseconds = Duration::from_millis;
        let name = values.text("name");
        let data_dir = match values.text("data-dir") {
            given if given.is_empty() => format!("{name}.etcd"),
            given => given,
        };
        let wal_dir = values.text("wal-dir");
        let initial_advertise_peer_urls = values.urls("initial-advertise-peer-urls");
        let mut initial_cluster = values.text("initial-cluster");
        // Only the name was changed: the founding member takes it, with the URLs it advertises.
        if name != DEFAULT_NAME && initial_cluster == "default=http://localhost:2380" {
            let member = if name.is_empty() { DEFAULT_NAME } else { &name };
            let members: Vec<String> =
                initial_advertise_peer_urls.iter().map(|url| format!("{member}={url}")).collect();
            initial_cluster = members.join(",");
        }
        // etcd clears the default so that `validate` finds it missing.
        let advertises = values.is_given("advertise-client-urls") || !values.is_given("listen-client-urls");
        let quota = match values.signed("quota-backend-bytes") {
            0 => Some(DEFAULT_QUOTA_BYTES),
            negative if negative < 0 => None,
            bytes => Some(bytes.unsigned_abs()),
        };
        let mut client_tls = tls::options(values, "")?;
        extras.apply(&mut client_tls);
        let config = Config {
            data_dir: PathBuf::from(data_dir),
            wal_dir: (!wal_dir.is_empty()).then(|| PathBuf::from(wal_dir)),
            listen_peer_urls: values.urls("listen-peer-urls"),
            listen_client_urls: values.urls("listen-client-urls"),
            listen_client_http_urls: values.urls("listen-client-http-urls"),
            listen_metrics_urls: values.urls("listen-metrics-urls"),
            client_tls,
            peer_tls: tls::options(values, "peer-")?,
            client_auto_tls: values.bool("auto-tls"),
            peer_auto_tls: values.bool("peer-auto-tls"),
            self_signed_cert_validity_years: values.unsigned("self-signed-cert-validity"),
            initial_advertise_peer_urls,
            advertise_client_urls: if advertises { values.urls("advertise-client-urls") } else { Vec::new() },
            initial_cluster,
            initial_cluster_state: match values.text("initial-cluster-state").as_str() {
                "existing" => ClusterState::Existing,
                _ => ClusterState::New,
            },
            initial_cluster_token: values.text("initial-cluster-token"),
            heartbeat_interval: milliseconds(values.unsigned("heartbeat-interval")),
            election_timeout: milliseconds(values.unsigned("election-timeout")),
            initial_election_tick_advance: values.bool("initial-election-tick-advance"),
            pre_vote: values.bool("pre-vote"),
            strict_reconfig_check: values.bool("strict-reconfig-check"),
            force_new_cluster: values.bool("force-new-cluster"),
            max_learners: values.signed("max-learners"),
            snapshot_count: nonzero_or(values.unsigned("snapshot-count"), DEFAULT_SNAPSHOT_COUNT),
            snapshot_catchup_entries: nonzero_or(values.unsigned("snapshot-catchup-entries"), DEFAULT_CATCHUP_ENTRIES),
            max_wals: values.unsigned("max-wals"),
            max_snapshots: values.unsigned("max-snapshots"),
            quota_backend_bytes: quota,
            auth_token: values.text("auth-token"),
            auth_token_ttl_seconds: values.unsigned("auth-token-ttl"),
            bcrypt_cost: values.unsigned("bcrypt-cost"),
            max_txn_ops: values.unsigned("max-txn-ops"),
            max_request_bytes: values.unsigned("max-request-bytes"),
            max_concurrent_streams: u32::try_from(values.unsigned("max-concurrent-streams")).unwrap_or(u32::MAX),
            grpc_keepalive_min_time: duration(values, "grpc-keepalive-min-time", Duration::ZERO)?,
            grpc_keepalive_interval: duration(values, "grpc-keepalive-interval", Duration::ZERO)?,
            grpc_keepalive_timeout: duration(values, "grpc-keepalive-timeout", Duration::ZERO)?,
            auto_compaction: AutoCompaction::Off,
            compaction_batch_limit: count(values, "compaction-batch-limit", 1000)?,
            compaction_sleep_interval: duration(values, "compaction-sleep-interval", milliseconds(10))?,
            backend_batch_interval: duration(values, "backend-batch-interval", milliseconds(100))?,
            backend_batch_limit: count(values, "backend-batch-limit", 10_000)?,
            watch_progress_notify_interval: duration(values, "watch-progress-notify-interval", seconds(600))?
                .max(WATCH_PROGRESS_INTERVAL_MIN),
            warning_apply_duration: duration(values, "warning-apply-duration", Duration::ZERO)?,
            warning_unary_request_duration: duration(values, "warning-unary-request-duration", milliseconds(300))?,
            feature_gates: values.gates("feature-gates").resolve().map_err(ConfigError)?,
            corrupt_check_time: duration(values, "corrupt-check-time", Duration::ZERO)?,
            compact_hash_check_time: duration(values, "compact-hash-check-time", Duration::ZERO)?,
            bootstrap_defrag_threshold_megabytes: values.unsigned("bootstrap-defrag-threshold-megabytes"),
            downgrade_check_time: duration(values, "downgrade-check-time", Duration::ZERO)?,
            log,
            unsafe_no_fsync: values.bool("unsafe-no-fsync"),
            socket_reuse_port: values.bool("socket-reuse-port"),
            socket_reuse_address: values.bool("socket-reuse-address"),
            enable_grpc_gateway: values.bool("enable-grpc-gateway"),
            lease_checkpoint_interval: Duration::from_millis(CHECKPOINT_INTERVAL_MILLISECONDS),
            value_budget_bytes: values.unsigned("value-budget-bytes"),
            wal_segment_bytes: values.unsigned("wal-segment-bytes"),
            connection_threads: usize::try_from(values.unsigned("connection-threads")).unwrap_or(usize::MAX),
            cors: values.texts("cors"),
            host_whitelist: values.texts("host-whitelist"),
            connection_limits: ConnectionLimits::default(),
            proposal_limits: ProposalLimits::default(),
            name,
        };
        refuse_unsupported(values)?;
        // The checks of URLs and times come before that of the retention, as etcd reports them.
        config.validate()?;
        let auto_compaction =
            auto_compaction(&values.text("auto-compaction-mode"), &values.text("auto-compaction-retention"))?;
        Ok(Config { auto_compaction, ..config })
    }

    /// The checks etcd makes before it starts, in its order, with its messages. Reads no file.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let listeners =
            [("listen-peer-urls", &self.listen_peer_urls), ("listen-client-urls", &self.listen_client_urls)];
        for (flag, listen_urls) in listeners {
            if listen_urls.is_empty() {
                return error(format!("--{flag} must not be empty"));
            }
            check_listen_urls(flag, listen_urls)?;
        }
        check_listen_urls("listen-client-http-urls", &self.listen_client_http_urls)?;
        check_listen_urls("listen-metrics-urls", &self.listen_metrics_urls)?;
        let is_for_calls = |url: &&Url| {
            url.port() != Some(0) && self.listen_client_urls.iter().any(|other| other.host_port() == url.host_port())
        };
        if let Some(url) = self.listen_client_http_urls.iter().find(is_for_calls) {
            return error(format!(
                "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
            ));
        }
        if let Some(url) = self.initial_advertise_peer_urls.iter().find(|url| hostless(url)) {
            let all = quote(&urls::join(&self.initial_advertise_peer_urls));
            return error(format!(
                r#"--initial-advertise-peer-urls {all} must be "host:port" (unexpected empty host ({url}))"#
            ));
        }
        if let Some(url) = self.advertise_client_urls.iter().find(|url| hostless(url)) {
            let all = quote(&urls::join(&self.advertise_client_urls));
            return error(format!(
                r#"--advertise-client-urls {all} must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket" (unexpected empty host ({url}))"#
            ));
        }
        let heartbeat = self.heartbeat_interval.as_millis();
        let election = self.election_timeout.as_millis();
        if heartbeat == 0 {
            return error("--heartbeat-interval must be >0 (set to 0ms)");
        }
        if election == 0 {
            return error("--election-timeout must be >0 (set to 0ms)");
        }
        if 5 * heartbeat > election {
            return error(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if self.election_timeout > ELECTION_TIMEOUT_MAX {
            return error(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {}ms",
                ELECTION_TIMEOUT_MAX.as_millis()
            ));
        }
        if self.advertise_client_urls.is_empty() {
            return error("--advertise-client-urls is required when --listen-client-urls is set explicitly");
        }
        if self.feature_gates.lease_checkpoint_persist && !self.feature_gates.lease_checkpoint {
            return error(
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
            );
        }
        self.validate_tls()?;
        self.founding_members().map(|_| ())
    }

    /// The members named by `initial_cluster`, sorted by name, each with its sorted URLs.
    pub fn founding_members(&self) -> Result<Vec<(String, Vec<Url>)>, ConfigError> {
        let mut texts: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
        for pair in self.initial_cluster.split(',').filter(|pair| !pair.is_empty()) {
            let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
            texts.entry(name).or_default().push(url);
        }
        texts
            .into_iter()
            .map(|(name, urls)| {
                let mut parsed = urls
                    .into_iter()
                    .map(Url::parse)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|reason| ConfigError(format!("error setting up initial cluster: {reason}")))?;
                parsed.sort();
                Ok((name.to_owned(), parsed))
            })
            .collect()
    }

    /// The checks and identifiers of a first start as the only member. To be asked for only while the data folder is
    /// empty: afterwards the member goes by what it recorded then. May resolve host names.
    pub fn bootstrap(&self) -> Result<Bootstrap, ConfigError> {
        if self.initial_cluster_state == ClusterState::Existing {
            return error(format!("--initial-cluster-state existing {NOT_YET}"));
        }
        let founding = forming::founding(self, &SystemResolver)
            .and_then(|founding| forming::check_learners(0, self.max_learners).map(|()| founding));
        let mut members = founding.map_err(|error| ConfigError(error.to_string()))?.members;
        let count = members.len();
        match members.pop() {
            Some(Member { id, peer_urls, .. }) if count == 1 => {
                Ok(Bootstrap { member_id: id, cluster_id: ids::cluster_id(&[id]), peer_urls })
            }
            _ => error(format!("--initial-cluster names {count} members: a cluster of several {NOT_YET}")),
        }
    }

    /// How long a request may take before it is given up: 5 s, and two elections.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// The URLs told to clients: a port 0 becomes that of the socket listened on in its place.
    pub fn advertised_client_urls(&self, listening: &[Url]) -> Vec<Url> {
        let bound = |index: usize| listening.get(index).or(listening.first()).and_then(Url::port);
        self.advertise_client_urls
            .iter()
            .enumerate()
            .map(|(index, url)| match (url.port(), bound(index)) {
                (Some(0), Some(port)) => url.with_port(port),
                _ => url.clone(),
            })
            .collect()
    }

    /// `<data-dir>/member`, where etcd keeps everything.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// The folder of the store and of snapshot files.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.member_dir().join("snap")
    }

    /// The folder of the write-ahead log.
    pub fn effective_wal_dir(&self) -> PathBuf {
        self.wal_dir.as_deref().map_or_else(|| self.member_dir().join("wal"), Path::to_path_buf)
    }

    /// Ticks of raft without a leader before an election.
    pub fn election_ticks(&self) -> u64 {
        let heartbeat = self.heartbeat_interval.as_millis().max(1);
        u64::try_from(self.election_timeout.as_millis() / heartbeat).unwrap_or(u64::MAX)
    }

    fn notices(&self, values: &Values) -> Vec<Notice> {
        let mut notices = Vec::new();
        if self.feature_gates.lease_checkpoint && !self.feature_gates.lease_checkpoint_persist {
            notices.push(Notice::new(
                Level::Warn,
                "LeaseCheckpoint is on without LeaseCheckpointPersist: a restart forgets the checkpoints",
                Vec::new(),
            ));
        }
        if self.name == DEFAULT_NAME {
            notices.push(Notice::new(
                Level::Warn,
                "the default name is in use; set --name, since the members of a cluster must have different names",
                vec![("name", LogValue::text(&self.name))],
            ));
        }
        if values.text("data-dir").is_empty() {
            let folder = self.data_dir.display().to_string();
            let message = "'data-dir' was empty; using default";
            notices.push(Notice::new(Level::Warn, message, vec![("data-dir", LogValue::Text(folder))]));
        }
        notices.extend(self.tls_notices());
        notices
    }
}

fn nonzero_or(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

fn hostless(url: &Url) -> bool {
    matches!(url.scheme(), Scheme::Http | Scheme::Https) && url.host().is_empty()
}

fn check_listen_urls(flag: &str, listen_urls: &[Url]) -> Result<(), ConfigError> {
    for url in listen_urls {
        if matches!(url.scheme(), Scheme::Unix | Scheme::Unixs) {
            return error(format!("--{flag} {url}: the scheme {} {NOT_YET}", url.scheme().as_str()));
        }
        if !url.is_bindable() {
            return error(format!("expected IP in URL for binding ({url})"));
        }
        if url.port().is_none() && !url.port_text().is_empty() {
            return error(format!("listen tcp: address {}: invalid port", url.port_text()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
