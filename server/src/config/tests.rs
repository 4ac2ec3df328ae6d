use super::*;
use crate::tls::{TlsVersion, Versions};

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn pairs(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The configuration of a line whose words hold no blanks.
fn config(line: &str) -> Config {
    match parse(&words(line), &[]) {
        Ok(Command::Serve { config, .. }) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

/// What goes wrong, as `2: text` for a usage error, `1: text` for refused flags, `fatal: text` for a conflict.
fn failure_of(arguments: &[String], environment: &[(&str, &str)]) -> String {
    match parse(arguments, &pairs(environment)) {
        Err(Failure::Usage { message }) => format!("2: {message}"),
        Err(Failure::Refused { message, .. }) => format!("1: {message}"),
        Err(Failure::Fatal { message, fields, .. }) => format!("fatal: {message} {fields:?}"),
        Ok(command) => panic!("{arguments:?} {environment:?}: {command:?}"),
    }
}

#[test]
fn the_defaults_are_those_of_etcd() {
    let defaults = config("");
    assert_eq!(defaults, Config::default());
    assert_eq!(defaults.validate(), Ok(()));
    assert_eq!(defaults.name, "default");
    assert_eq!(defaults.data_dir, Path::new("default.etcd"));
    assert_eq!(defaults.effective_wal_dir(), Path::new("default.etcd/member/wal"));
    assert_eq!(defaults.snapshot_dir(), Path::new("default.etcd/member/snap"));
    assert_eq!(urls::join(&defaults.listen_client_urls), "http://localhost:2379");
    assert_eq!(urls::join(&defaults.listen_peer_urls), "http://localhost:2380");
    assert_eq!(urls::join(&defaults.advertise_client_urls), "http://localhost:2379");
    assert_eq!(defaults.initial_cluster, "default=http://localhost:2380");
    assert_eq!((defaults.snapshot_count, defaults.snapshot_catchup_entries), (10_000, 5_000));
    assert_eq!((defaults.max_wals, defaults.max_snapshots), (5, 5));
    assert_eq!(defaults.quota_backend_bytes, Some(2_147_483_648));
    assert_eq!((defaults.max_txn_ops, defaults.max_request_bytes), (128, 1_572_864));
    assert_eq!(defaults.max_concurrent_streams, u32::MAX);
    assert_eq!(defaults.election_ticks(), 10);
    assert_eq!(defaults.backend_batch_interval, Duration::from_millis(100));
    assert_eq!((defaults.backend_batch_limit, defaults.compaction_batch_limit), (10_000, 1_000));
    assert_eq!(defaults.compaction_sleep_interval, Duration::from_millis(10));
    assert_eq!(defaults.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!(defaults.warning_unary_request_duration, Duration::from_millis(300));
    assert_eq!(defaults.grpc_keepalive_interval, Duration::from_secs(7200));
    assert_eq!(defaults.auto_compaction, AutoCompaction::Off);
    assert_eq!(defaults.feature_gates, FeatureGates { compact_hash_check: true, ..FeatureGates::default() });
    let bootstrap = defaults.bootstrap().expect("one member");
    assert_eq!((bootstrap.member_id, bootstrap.cluster_id), (10276657743932975437, 14841639068965178418));
    assert_eq!(bootstrap.peer_urls, ["http://localhost:2380"]);
}

/// etcd's default written out is etcd's default, for every flag.
#[test]
fn every_flag_is_accepted_at_its_default() {
    for flag in FLAGS.iter().filter(|flag| !matches!(flag.name, "version" | "listen-client-urls")) {
        let arguments = [format!("--{}={}", flag.name, flag.default)];
        let parsed = parse(&arguments, &[]);
        assert!(
            matches!(parsed, Ok(Command::Serve { .. })) || flag.name == "v2-deprecation",
            "{arguments:?}: {parsed:?}"
        );
    }
}

#[test]
fn ways_to_write_a_flag() {
    for line in
        ["--name x", "--name=x", "-name x", "-name=x", "--name y --name x", "-v --snapshot=3 --name x --vv=nonsense"]
    {
        assert_eq!(config(line).name, "x", "{line}");
    }
    for (line, expected) in [
        ("--pre-vote", true),
        ("--pre-vote=false", false),
        ("-pre-vote=F", false),
        ("--pre-vote=T", true),
        ("--pre-vote=0", false),
    ] {
        assert_eq!(config(line).pre_vote, expected, "{line}");
    }
    for line in ["--heartbeat-interval 200", "--heartbeat-interval=0xc8", "--heartbeat-interval 2_00"] {
        assert_eq!(config(line).heartbeat_interval, Duration::from_millis(200), "{line}");
    }
    let given = config(
        "--data-dir /d --wal-dir /w --election-timeout 3000 --quota-backend-bytes -1 --max-concurrent-streams 7 \
         --watch-progress-notify-interval 1ms --backend-batch-interval 1s --snapshot-count 0 --connection-threads 3 \
         --value-budget-bytes 0 --wal-segment-bytes 7 --socket-reuse-port --unsafe-no-fsync --initial-cluster-state existing \
         --grpc-keepalive-interval 0 --enable-grpc-gateway=false --raft-read-timeout 1s",
    );
    assert_eq!((given.data_dir.as_path(), given.effective_wal_dir().as_path()), (Path::new("/d"), Path::new("/w")));
    assert_eq!((given.quota_backend_bytes, given.max_concurrent_streams, given.election_ticks()), (None, 7, 30));
    assert_eq!(given.watch_progress_notify_interval, Duration::from_millis(100));
    assert_eq!((given.backend_batch_interval, given.snapshot_count), (Duration::from_secs(1), 10_000));
    assert_eq!((given.connection_threads, given.value_budget_bytes, given.wal_segment_bytes), (3, 0, 7));
    assert!(given.socket_reuse_port && given.unsafe_no_fsync && !given.enable_grpc_gateway);
    assert_eq!(given.initial_cluster_state, ClusterState::Existing);
    assert_eq!(given.grpc_keepalive_interval, Duration::ZERO);
}

/// Each text (after the code) was printed by etcd 3.7.1 for the same line.
#[test]
fn failures_have_the_texts_of_etcd() {
    for (line, text) in [
        ("--foo", "2: flag provided but not defined: -foo"),
        ("-foo=1", "2: flag provided but not defined: -foo"),
        ("--discovery x", "2: flag provided but not defined: -discovery"),
        ("--pre-vote=T --foo=1", "2: flag provided but not defined: -foo"),
        ("--cert-file", "2: flag needs an argument: -cert-file"),
        ("--heartbeat-interval=abc", r#"2: invalid value "abc" for flag -heartbeat-interval: parse error"#),
        ("--election-timeout -1", r#"2: invalid value "-1" for flag -election-timeout: parse error"#),
        ("--max-txn-ops -1", r#"2: invalid value "-1" for flag -max-txn-ops: parse error"#),
        ("--quota-backend-bytes 0x", r#"2: invalid value "0x" for flag -quota-backend-bytes: parse error"#),
        ("--grpc-keepalive-interval 5", r#"2: invalid value "5" for flag -grpc-keepalive-interval: parse error"#),
        (
            "--snapshot-count 99999999999999999999",
            r#"2: invalid value "99999999999999999999" for flag -snapshot-count: value out of range"#,
        ),
        (
            "--max-concurrent-streams 4294967296",
            r#"2: invalid value "4294967296" for flag -max-concurrent-streams: strconv.ParseUint: parsing "4294967296": value out of range"#,
        ),
        ("--pre-vote=maybe", r#"2: invalid boolean value "maybe" for -pre-vote: parse error"#),
        ("--name a --version=x", r#"2: invalid boolean value "x" for -version: parse error"#),
        ("--initial-cluster-state bar", r#"2: invalid value "bar" for flag -initial-cluster-state: invalid value"#),
        ("--v2-deprecation foo", r#"2: invalid value "foo" for flag -v2-deprecation: invalid value "foo""#),
        ("---foo", "2: bad flag syntax: ---foo"),
        ("--=foo", "2: bad flag syntax: --=foo"),
        ("pos", r#"1: "pos" is not a valid flag"#),
        ("--name x pos", r#"1: "pos" is not a valid flag"#),
        ("--pre-vote false", r#"1: "false" is not a valid flag"#),
        ("-", r#"1: "-" is not a valid flag"#),
        ("-- foo", r#"1: "foo" is not a valid flag"#),
        ("--version pos", r#"1: "pos" is not a valid flag"#),
        (
            "--heartbeat-interval 100 --election-timeout 200",
            "1: --election-timeout[200ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        ("--election-timeout 60000", "1: --election-timeout[60000ms] is too long, and should be set less than 50000ms"),
        ("--heartbeat-interval 0", "1: --heartbeat-interval must be >0 (set to 0ms)"),
        ("--election-timeout 0", "1: --election-timeout must be >0 (set to 0ms)"),
        (
            "--listen-client-urls 2379",
            r#"2: invalid value "2379" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: 2379"#,
        ),
        (
            "--listen-client-urls http://127.0.0.1:2379,",
            r#"2: invalid value "http://127.0.0.1:2379," for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: "#,
        ),
        (
            "--advertise-client-urls http://localhost",
            r#"2: invalid value "http://localhost" for flag -advertise-client-urls: URL address does not have the form "host:port": http://localhost"#,
        ),
        (
            "--listen-client-urls http://foo:2379 --advertise-client-urls http://foo:2379",
            "1: expected IP in URL for binding (http://foo:2379)",
        ),
        (
            "--listen-client-urls http://127.0.0.1:2379",
            "1: --advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            "--listen-client-urls http://1.2.3.4:99999 --advertise-client-urls http://a:1",
            "1: listen tcp: address 99999: invalid port",
        ),
        (
            "--advertise-client-urls http://:2379",
            r#"1: --advertise-client-urls "http://:2379" must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket" (unexpected empty host (http://:2379))"#,
        ),
        (
            "--initial-advertise-peer-urls http://:2380",
            r#"1: --initial-advertise-peer-urls "http://:2380" must be "host:port" (unexpected empty host (http://:2380))"#,
        ),
        (
            "--initial-cluster default",
            "1: error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
        ),
        (
            "--initial-cluster default=bad",
            "1: error setting up initial cluster: URL scheme must be http, https, unix, or unixs: bad",
        ),
        ("--auto-compaction-mode foo", r#"1: unknown auto-compaction-mode "foo""#),
        ("--auto-compaction-mode=", "1: undefined auto-compaction-mode"),
        ("--auto-compaction-retention foo", r#"1: error parsing CompactionRetention: time: invalid duration "foo""#),
        (
            "--auto-compaction-mode revision --auto-compaction-retention -5",
            r#"1: error parsing CompactionRetention: time: missing unit in duration "-5""#,
        ),
        (
            "--feature-gates Foo=true",
            r#"2: invalid value "Foo=true" for flag -feature-gates: unrecognized feature gate: Foo"#,
        ),
        (
            "--feature-gates LeaseCheckpoint",
            r#"2: invalid value "LeaseCheckpoint" for flag -feature-gates: missing bool value for LeaseCheckpoint"#,
        ),
        (
            "--feature-gates LeaseCheckpoint=x",
            r#"2: invalid value "LeaseCheckpoint=x" for flag -feature-gates: invalid value of LeaseCheckpoint=x, err: strconv.ParseBool: parsing "x": invalid syntax"#,
        ),
        (
            "--feature-gates LeaseCheckpointPersist=true",
            "1: enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        ("--log-level foo", r#"1: unrecognized level: "foo""#),
        ("--log-format foo", "1: unknown log format: foo, supported values json, console"),
        ("--logger foo", r#"1: unknown logger option "foo""#),
        ("--log-outputs=", r#"1: open sink "": open : no such file or directory"#),
        ("--log-outputs default,/x", r#"1: multi logoutput for "default" is not supported yet"#),
        ("--compact-hash-check-time 0", "1: --compact-hash-check-time must be >0 (set to 0s)"),
        (
            "--discovery-fallback proxy",
            r#"1: v2 proxy is deprecated, and --discovery-fallback can't be configured as "proxy""#,
        ),
    ] {
        assert_eq!(failure_of(&words(line), &[]), text, "{line}");
    }
}

/// A flag without effect is never swallowed.
#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    for (line, name) in [
        ("--metrics extensive", "--metrics"),
        ("--enable-pprof", "--enable-pprof"),
        ("--discovery-srv example.com", "--discovery-srv"),
        ("--raft-read-timeout 6s", "--raft-read-timeout"),
        ("--backend-bbolt-freelist-type array", "--backend-bbolt-freelist-type"),
        ("--memory-mlock", "--memory-mlock"),
        ("--log-outputs systemd/journal", "--log-outputs systemd/journal"),
        ("--feature-gates FastLeaseKeepAlive=false", "--feature-gates: FastLeaseKeepAlive=false"),
        ("--feature-gates AllAlpha=true", "--feature-gates: PriorityRequest=true"),
        ("--feature-gates AllBeta=false", "--feature-gates: FastLeaseKeepAlive=false"),
        (
            "--listen-client-urls unixs://127.0.0.1:1 --advertise-client-urls http://a:1",
            "--listen-client-urls unixs://127.0.0.1:1: the scheme unixs",
        ),
        ("--listen-peer-urls unix://a:1", "--listen-peer-urls unix://a:1: the scheme unix"),
        ("gateway start", "the subcommand gateway"),
        ("grpc-proxy start", "the subcommand grpc-proxy"),
    ] {
        let text = failure_of(&words(line), &[]);
        assert!(
            text.starts_with(&format!("1: {name} is not supported by this version of Kvorum yet")),
            "{line}: {text}"
        );
    }
    assert!(failure_of(&[], &[("ETCD_MEMORY_MLOCK", "true")]).contains("--memory-mlock"));
}

#[test]
fn negative_durations_and_counts_are_refused() {
    for flag in [
        "backend-batch-interval=-1s",
        "warning-apply-duration=-1s",
        "backend-batch-limit=-1",
        "compaction-batch-limit=-1",
    ] {
        let name = flag.split('=').next().expect("a name");
        assert_eq!(failure_of(&[format!("--{flag}")], &[]), format!("1: --{name} must not be negative"));
    }
}

#[test]
fn retentions() {
    for (mode, retention, expected) in [
        ("periodic", "0", AutoCompaction::Off),
        ("periodic", "1", AutoCompaction::Periodic(Duration::from_secs(3600))),
        ("periodic", "5m", AutoCompaction::Periodic(Duration::from_secs(300))),
        ("periodic", "", AutoCompaction::Off),
        ("revision", "0", AutoCompaction::Off),
        ("revision", "1000", AutoCompaction::Revision(1000)),
        // etcd reads a duration here too and takes its nanoseconds for revisions.
        ("revision", "1us", AutoCompaction::Revision(1000)),
    ] {
        assert_eq!(auto_compaction(mode, retention), Ok(expected), "{mode} {retention}");
    }
    assert!(auto_compaction("periodic", "9999999").is_err());
    assert!(auto_compaction("periodic", "-5m").is_err());
}

#[test]
fn gates() {
    for (text, checkpoint, persist, compactions, initial) in [
        ("", false, false, true, false),
        ("LeaseCheckpoint=true", true, false, true, false),
        (" LeaseCheckpoint = true ,LeaseCheckpointPersist=1,", true, true, true, false),
        ("LeaseCheckpoint=true,LeaseCheckpoint=false", false, false, true, false),
        ("FastLeaseKeepAlive=true,AllBeta=true,AllAlpha=false,LeaseCheckpoint=true", true, false, false, false),
        ("CompactHashCheck=false,InitialCorruptCheck=true", false, false, false, true),
        ("AllAlpha=false,CompactHashCheck=true", false, false, true, false),
    ] {
        let arguments = [format!("--feature-gates={text}")];
        let Ok(Command::Serve { config, .. }) = parse(&arguments, &[]) else { panic!("{text}") };
        let expected = FeatureGates {
            lease_checkpoint: checkpoint,
            lease_checkpoint_persist: persist,
            compact_hash_check: compactions,
            initial_corrupt_check: initial,
        };
        assert_eq!(config.feature_gates, expected, "{text}");
    }
    let gates =
        config("--feature-gates LeaseCheckpoint=true --feature-gates LeaseCheckpointPersist=true").feature_gates;
    assert!(gates.lease_checkpoint && gates.lease_checkpoint_persist, "a repeated flag adds");
    let listed: Vec<_> =
        gates.listed().filter(|(_, _, enabled)| *enabled).map(|(name, stage, _)| (name, stage)).collect();
    assert_eq!(
        listed,
        [
            ("CompactHashCheck", "ALPHA"),
            ("FastLeaseKeepAlive", "BETA"),
            ("LeaseCheckpoint", "ALPHA"),
            ("LeaseCheckpointPersist", "ALPHA"),
            ("TxnModeWriteWithSharedBuffer", "BETA"),
        ]
    );
}

#[test]
fn learners_are_limited_to_one_unless_told_otherwise() {
    assert_eq!((config("").max_learners, config("--max-learners 3").max_learners), (1, 3));
    // Found out at the start, as in etcd.
    assert_eq!(config("--max-learners -1").max_learners, -1);
}

#[test]
fn names_and_urls_follow_each_other() {
    let named = config("--name a");
    assert_eq!(
        (named.data_dir.as_path(), named.initial_cluster.as_str()),
        (Path::new("a.etcd"), "a=http://localhost:2380")
    );
    let moved = config("--name a --initial-advertise-peer-urls http://1.1.1.1:2,http://1.1.1.1:1");
    assert_eq!(moved.initial_cluster, "a=http://1.1.1.1:1,a=http://1.1.1.1:2");
    assert!(moved.bootstrap().is_ok());
    // An empty list of URLs is allowed and changes nothing, but counts as given.
    let empty = ["--listen-client-urls=", "--advertise-client-urls="].map(str::to_owned);
    assert!(matches!(parse(&empty, &[]), Ok(Command::Serve { .. })));
    assert!(failure_of(&empty[..1], &[]).contains("--advertise-client-urls is required"));
    let zero = config("--listen-client-urls http://127.0.0.1:0 --advertise-client-urls http://127.0.0.1:0");
    assert_eq!(zero.listen_client_urls[0].port(), Some(0));
    // Behind something that ends TLS, clients are told an https URL; nothing listens there.
    assert_eq!(config("--advertise-client-urls https://a:1").advertise_client_urls[0].scheme(), Scheme::Https);
}

/// Only a first start reads these flags; the texts are those of etcd 3.7.1 where it has them.
#[test]
fn founding() {
    for (line, text) in [
        (
            "--initial-cluster foo=http://localhost:2380",
            r#"couldn't find local name "default" in the initial cluster configuration"#,
        ),
        ("--initial-cluster=", r#"couldn't find local name "default" in the initial cluster configuration"#),
        ("--name=", r#"couldn't find local name "" in the initial cluster configuration"#),
        (
            "--initial-cluster default=http://localhost:2381",
            r#"--initial-cluster has default=http://localhost:2381 but missing from --initial-advertise-peer-urls=http://localhost:2380 (resolved urls: "http://localhost:2380" != "http://localhost:2381")"#,
        ),
        (
            "--initial-cluster default=http://127.0.0.1:2380",
            r#"--initial-cluster has default=http://127.0.0.1:2380 but missing from --initial-advertise-peer-urls=http://localhost:2380 (resolved urls: "http://localhost:2380" != "http://127.0.0.1:2380")"#,
        ),
        (
            "--initial-advertise-peer-urls http://localhost:2381",
            r#"--initial-cluster has default=http://localhost:2380 but missing from --initial-advertise-peer-urls=http://localhost:2381 (resolved urls: "http://localhost:2381" != "http://localhost:2380")"#,
        ),
        (
            "--initial-cluster default=http://localhost:2380,default=http://127.0.0.1:2381",
            r#"--initial-cluster has default=http://127.0.0.1:2381 but missing from --initial-advertise-peer-urls=http://localhost:2380 (len(["http://localhost:2380"]) != len(["http://127.0.0.1:2381" "http://localhost:2380"]))"#,
        ),
        (
            "--initial-cluster default=http://localhost:2380,b=http://localhost:2380",
            "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate url",
        ),
        (
            "--initial-cluster default=http://localhost:2380,b=http://localhost:2381",
            "--initial-cluster names 2 members: a cluster of several is not supported by this version of Kvorum yet",
        ),
        (
            "--initial-cluster-state existing",
            "--initial-cluster-state existing is not supported by this version of Kvorum yet",
        ),
    ] {
        assert_eq!(config(line).bootstrap().map_err(|error| error.to_string()), Err(text.to_owned()), "{line}");
    }
    let other = config("--initial-cluster-token t").bootstrap().expect("good");
    assert_ne!(other.cluster_id, 14841639068965178418);
}

#[test]
fn variables() {
    let environment =
        [("ETCD_NAME", "x"), ("ETCD_PRE_VOTE", "false"), ("ETCD_V", "1"), ("PATH", "/bin"), ("ETCD_DATA_DIR", "")];
    let Ok(Command::Serve { config, notices }) = parse(&[], &pairs(&environment)) else { panic!("good") };
    assert_eq!((config.name.as_str(), config.pre_vote), ("x", false));
    let said: Vec<(Level, &str, &LogValue)> =
        notices.iter().map(|notice| (notice.level, notice.message.as_str(), &notice.fields[0].1)).collect();
    let used = "recognized and used environment variable";
    assert_eq!(
        said,
        [
            (Level::Info, used, &LogValue::text("ETCD_NAME")),
            (Level::Info, used, &LogValue::text("ETCD_PRE_VOTE")),
            (Level::Info, used, &LogValue::text("ETCD_V")),
            (Level::Warn, "unrecognized environment variable", &LogValue::text("ETCD_DATA_DIR=")),
            (Level::Warn, "'data-dir' was empty; using default", &LogValue::text("x.etcd")),
        ]
    );
    for (line, environment, text) in [
        ("", ("ETCD_HEARTBEAT_INTERVAL", "abc"), r#"1: invalid value "abc" for ETCD_HEARTBEAT_INTERVAL: parse error"#),
        (
            "",
            ("ETCD_INITIAL_CLUSTER_STATE", "foo"),
            r#"1: invalid value "foo" for ETCD_INITIAL_CLUSTER_STATE: invalid value"#,
        ),
        (
            "",
            ("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:2379"),
            "1: --advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        // A variable that only shadows is fatal even when it is empty or says the same.
        (
            "--name bar",
            ("ETCD_NAME", "bar"),
            r#"fatal: conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag)) [("environment-variable", Text("ETCD_NAME"))]"#,
        ),
        (
            "--name bar",
            ("ETCD_NAME", ""),
            r#"fatal: conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag)) [("environment-variable", Text("ETCD_NAME"))]"#,
        ),
    ] {
        assert_eq!(failure_of(&words(line), &[environment]), text, "{line} {environment:?}");
    }
}

#[test]
fn notices_where_etcd_has_them() {
    let messages = |arguments: &str, environment: &[(&str, &str)]| -> Vec<String> {
        match parse(&words(arguments), &pairs(environment)) {
            Ok(Command::Serve { notices, .. }) => notices.into_iter().map(|notice| notice.message).collect(),
            other => panic!("{other:?}"),
        }
    };
    let quiet = "--name a --data-dir d";
    assert!(messages(quiet, &[]).is_empty());
    assert_eq!(messages(quiet, &[("ETCD_VERSION", "1")]), ["cannot set special environment variable"]);
    assert_eq!(messages(quiet, &[("ETCD_FOO", "bar")]), ["unrecognized environment variable"]);
    assert_eq!(
        messages(&format!("{quiet} --max-snapshots 3 --v2-deprecation gone"), &[]),
        [
            "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
            "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input."
        ]
    );
    assert!(
        messages(&format!("{quiet} --feature-gates LeaseCheckpoint=true"), &[])[0].starts_with("LeaseCheckpoint is on")
    );
    assert!(messages("--data-dir d", &[])[0].starts_with("the default name is in use"));
}

#[test]
fn log_settings() {
    let log = config("--log-level WARN --log-format console --log-outputs stdout,/tmp/x,stderr").log;
    assert_eq!((log.level, log.format), (Level::Warn, LogFormat::Console));
    assert_eq!(log.outputs, [LogOutput::File("/tmp/x".into()), LogOutput::Stderr, LogOutput::Stdout]);
    // A later mistake is reported in the format that was asked for.
    let Err(Failure::Refused { log, .. }) = parse(&words("--heartbeat-interval 0 --log-format console"), &[]) else {
        panic!("refused")
    };
    assert_eq!(log.format, LogFormat::Console);
}

#[test]
fn version_and_help() {
    assert!(matches!(parse(&words("--version --heartbeat-interval 0"), &[]), Ok(Command::Version)));
    for line in ["--help", "-h", "-h --foo"] {
        assert!(matches!(parse(&words(line), &[]), Ok(Command::Help)), "{line}");
    }
    let version = version_text();
    let lines: Vec<&str> = version.lines().collect();
    assert_eq!(lines[0], "etcd Version: 3.7.1");
    assert!(lines[1].starts_with("Kvorum Version: "));
    let help = flags_text();
    for flag in FLAGS.iter().filter(|flag| flag.group != flags::Group::Hidden) {
        assert!(help.contains(&format!("  --{} ", flag.name)), "{}", flag.name);
    }
}

/// Nothing on a command line may panic.
#[test]
fn arguments_from_anywhere() {
    let pieces = [
        "--",
        "-",
        "=",
        "name",
        "http://[::1",
        "]:1",
        "a=",
        ",",
        "\u{0}",
        "ü",
        "--initial-cluster",
        "%zz",
        "-1",
        "--feature-gates=",
    ];
    for first in pieces {
        for second in pieces {
            for prefix in ["", "--initial-cluster=", "--listen-client-urls="] {
                let _outcome = parse(&[format!("{prefix}{first}{second}"), second.to_owned()], &[]);
            }
        }
    }
}

/// Every flag of TLS by its variable.
#[test]
fn tls_comes_from_the_environment_too() {
    let environment = [
        ("ETCD_CERT_FILE", "c"),
        ("ETCD_KEY_FILE", "k"),
        ("ETCD_CLIENT_CERT_FILE", "cc"),
        ("ETCD_CLIENT_KEY_FILE", "ck"),
        ("ETCD_CLIENT_CERT_AUTH", "true"),
        ("ETCD_TRUSTED_CA_FILE", "ca"),
        ("ETCD_CLIENT_CRL_FILE", "crl"),
        ("ETCD_CLIENT_CERT_ALLOWED_HOSTNAME", "b,a"),
        ("ETCD_PEER_CERT_FILE", "pc"),
        ("ETCD_PEER_KEY_FILE", "pk"),
        ("ETCD_PEER_CLIENT_CERT_FILE", "pcc"),
        ("ETCD_PEER_CLIENT_KEY_FILE", "pck"),
        ("ETCD_PEER_CLIENT_CERT_AUTH", "true"),
        ("ETCD_PEER_TRUSTED_CA_FILE", "pca"),
        ("ETCD_PEER_CRL_FILE", "pcrl"),
        ("ETCD_PEER_CERT_ALLOWED_CN", "x"),
        ("ETCD_PEER_SKIP_CLIENT_SAN_VERIFICATION", "true"),
        ("ETCD_AUTO_TLS", "true"),
        ("ETCD_PEER_AUTO_TLS", "true"),
        ("ETCD_SELF_SIGNED_CERT_VALIDITY", "3"),
        ("ETCD_CIPHER_SUITES", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        ("ETCD_TLS_MIN_VERSION", "TLS1.2"),
        ("ETCD_TLS_MAX_VERSION", "TLS1.3"),
        ("ETCD_LISTEN_METRICS_URLS", "https://127.0.0.1:1"),
    ];
    let Ok(Command::Serve { config, .. }) = parse(&[], &pairs(&environment)) else { panic!("refused") };
    let file = |name: &str| Some(PathBuf::from(name));
    let versions = Versions {
        min: Some(TlsVersion::Tls12),
        max: Some(TlsVersion::Tls13),
        cipher_suites: vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()],
    };
    let clients = TlsOptions {
        cert_file: file("c"),
        key_file: file("k"),
        client_cert_file: file("cc"),
        client_key_file: file("ck"),
        trusted_ca_file: file("ca"),
        client_cert_auth: true,
        crl_file: file("crl"),
        allowed_hostnames: vec!["a".to_owned(), "b".to_owned()],
        versions: versions.clone(),
        ..TlsOptions::default()
    };
    let peers = TlsOptions {
        cert_file: file("pc"),
        key_file: file("pk"),
        client_cert_file: file("pcc"),
        client_key_file: file("pck"),
        trusted_ca_file: file("pca"),
        client_cert_auth: true,
        crl_file: file("pcrl"),
        allowed_cns: vec!["x".to_owned()],
        skip_client_san_verification: true,
        versions,
        ..TlsOptions::default()
    };
    assert_eq!((config.client_tls, config.peer_tls), (clients, peers));
    assert!(config.client_auto_tls && config.peer_auto_tls && config.self_signed_cert_validity_years == 3);
    assert_eq!(config.listen_metrics_urls[0].as_str(), "https://127.0.0.1:1");
}

/// What a file with this text comes to.
fn from_file(text: &str) -> Result<(Config, Vec<Notice>), String> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let path = file.path().display().to_string();
    // Flags and variables beside it do not count.
    let arguments = words(&format!("--name ignored --config-file {path}"));
    match parse(&arguments, &pairs(&[("ETCD_DATA_DIR", "ignored")])) {
        Ok(Command::Serve { config, notices }) => Ok((*config, notices)),
        Err(Failure::Refused { message, .. }) => Err(message.replace(&path, "FILE")),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_file_stands_in_for_flags() {
    let text = "
name: 'm1'
data-dir: /d
wal-dir:
snapshot-count: 5
listen-client-urls: https://127.0.0.1:1,https://127.0.0.1:2
advertise-client-urls: https://127.0.0.1:1
listen-peer-urls: https://127.0.0.1:3
initial-advertise-peer-urls: https://127.0.0.1:3
initial-cluster: m1=https://127.0.0.1:3
listen-metrics-urls: http://127.0.0.1:4
strict-reconfig-check: no
backend-batch-interval: 200000000 # nanoseconds
log-outputs: [stderr]
quota-backend-bytes: -1
proxy: 'off'
client-transport-security:
  cert-file: c
  key-file: k
  client-cert-file:
  client-cert-auth: true
  trusted-ca-file: ca
  allowed-cn:
  - first
  - second
peer-transport-security:
  cert-file: pc
  key-file: pk
  trusted-ca-file: pca
  client-cert-file: pcc
  client-key-file: pck
  allowed-hostname: [a, b]
  skip-client-san-verification: true
cipher-suites: [
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
]
tls-max-version: 'TLS1.2'
socket-options: {reuse-port: true}
";
    let (config, notices) = from_file(text).expect("good");
    let by_flags = "--name m1 --data-dir /d --snapshot-count 5 --listen-client-urls https://127.0.0.1:1,https://127.0.0.1:2 \
        --advertise-client-urls https://127.0.0.1:1 --listen-peer-urls https://127.0.0.1:3 --initial-advertise-peer-urls \
        https://127.0.0.1:3 --initial-cluster m1=https://127.0.0.1:3 --listen-metrics-urls http://127.0.0.1:4 \
        --strict-reconfig-check=false --backend-batch-interval 200ms --log-outputs stderr --quota-backend-bytes -1 \
        --cert-file c --key-file k --client-cert-auth --trusted-ca-file ca --peer-cert-file pc --peer-key-file pk \
        --peer-trusted-ca-file pca --peer-client-cert-file pcc --peer-client-key-file pck --peer-cert-allowed-hostname a,b \
        --peer-skip-client-san-verification --cipher-suites \
        TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 --tls-max-version TLS1.2 \
        --socket-reuse-port";
    let mut expected = self::config(by_flags);
    expected.client_tls.allowed_cns = vec!["first".to_owned(), "second".to_owned()];
    assert_eq!(config, expected);
    let messages: Vec<&str> = notices.iter().map(|notice| notice.message.as_str()).collect();
    assert!(messages.contains(&"unrecognized name in the configuration file"), "{messages:?}");
    assert!(messages[1].starts_with("loaded server configuration, other configuration"), "{messages:?}");
    // Beside a file the default of the advertised URLs stays.
    let (config, _) = from_file("listen-client-urls: http://127.0.0.1:1").expect("good");
    assert_eq!(config.advertise_client_urls[0].as_str(), "http://localhost:2379");
    let (json, _) = from_file(r#"{"name": "j", "peer-transport-security": {"auto-tls": true}}"#).expect("good");
    assert!(json.name == "j" && json.peer_auto_tls);
}

#[test]
fn a_file_that_makes_no_sense_is_refused_by_line() {
    for (text, expected) in [
        ("name: a\nname: b", "line 2: name is there twice"),
        ("snapshot-count: '5'", "line 1: snapshot-count must be a whole number"),
        ("backend-batch-interval: 100ms", "line 1: backend-batch-interval must be a whole number"),
        ("pre-vote: 1", "line 1: pre-vote must be true or false"),
        ("cipher-suites: a", "line 1: cipher-suites must be a list"),
        (
            "listen-client-urls: a",
            "line 1: invalid value of listen-client-urls: URL scheme must be http, https, unix, or unixs: a",
        ),
        ("cert-file: a", "line 1: cert-file belongs into client-transport-security or peer-transport-security"),
        ("peer-crl-file: a", "line 1: peer-crl-file belongs into client-transport-security or peer-transport-security"),
        ("peer-transport-security: a", "line 1: invalid peer-transport-security"),
        ("peer-transport-security:\n  crl-file: a", "line 2: peer-transport-security has no crl-file"),
        ("discovery-config: {token: a}", "line 1: discovery-config is not supported by this version of Kvorum yet"),
    ] {
        assert_eq!(from_file(text).err().as_deref(), Some(format!("FILE: {expected}").as_str()), "{text}");
    }
    // What is in it is checked like flags.
    let refused = from_file("tls-min-version: TLS1.3\ncipher-suites: [TLS_AES_128_GCM_SHA256]").err();
    assert_eq!(refused.as_deref(), Some("cipher suites cannot be configured when only TLS1.3 is enabled"));
    let missing = parse(&words("--config-file /none/file"), &[]).err();
    assert!(format!("{missing:?}").contains("/none/file: No such file"), "{missing:?}");
}
