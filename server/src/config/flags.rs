//! The table of every flag etcd 3.7 defines, and ours: its kind, its default, what this version does with it. One
//! row per flag; parsing, refusing, environment variables and the help text all read this table and nothing else.

/// What a value of a flag may look like. The names of the Go types are in the comments where they matter for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bool,
    /// `uint` and `uint64`
    Unsigned,
    /// `int` and `int64`
    Signed,
    /// etcd's own 32-bit value, whose errors are those of the number parser
    Unsigned32,
    Duration,
    Urls,
    /// a comma list, kept sorted and unique
    TextSet,
    OneOf(&'static [&'static str]),
    SomeOf(&'static [&'static str]),
    Gates,
    /// Takes anything and keeps nothing.
    Ignored,
}

/// What this version does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    /// The value has its effect.
    Real,
    /// Only the default is accepted: anything else would be swallowed.
    DefaultOnly,
    /// Accepted and without effect, as in etcd itself.
    NoEffect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Member,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Tracing,
    Features,
    Unsafe,
    Own,
    /// Not shown in the help.
    Hidden,
}

pub(super) struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub support: Support,
    pub group: Group,
    pub help: &'static str,
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    support: Support,
    group: Group,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, support, group, help }
}

const fn ignored(name: &'static str) -> Flag {
    flag(name, Kind::Ignored, "", Support::NoEffect, Group::Hidden, "")
}

/// The flag of this name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

use Group as G;
use Kind as K;
use Support::{DefaultOnly, NoEffect, Real};

#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = &[
    flag("name", K::Text, "default", Real, G::Member, "Name of this member, for people."),
    flag("data-dir", K::Text, "", Real, G::Member, "Folder of this member's data; '${name}.etcd' when empty."),
    flag("wal-dir", K::Text, "", Real, G::Member, "Folder of the write-ahead log, if it is not to be in the data folder."),
    flag("snapshot-count", K::Unsigned, "10000", Real, G::Member, "Applied entries after which a snapshot is recorded."),
    flag("heartbeat-interval", K::Unsigned, "100", Real, G::Member, "Time between heartbeats, in milliseconds."),
    flag("election-timeout", K::Unsigned, "1000", Real, G::Member, "Time without a leader after which an election begins, in milliseconds."),
    flag("initial-election-tick-advance", K::Bool, "true", Real, G::Member, "Shorten the wait for the first election after a start."),
    flag("listen-peer-urls", K::Urls, "http://localhost:2380", Real, G::Member, "URLs to listen on for other members."),
    flag("listen-client-urls", K::Urls, "http://localhost:2379", Real, G::Member, "URLs to listen on for clients."),
    flag("listen-client-http-urls", K::Urls, "", Real, G::Member, "URLs for plain HTTP only; those of --listen-client-urls are for gRPC alone then."),
    flag("max-snapshots", K::Unsigned, "5", Real, G::Member, "Snapshot files to keep (0: all). Deprecated, as in etcd."),
    flag("max-wals", K::Unsigned, "5", Real, G::Member, "Log files to keep (0: all)."),
    flag("memory-mlock", K::Bool, "false", DefaultOnly, G::Member, "Keep the pages of the store in memory."),
    flag("quota-backend-bytes", K::Signed, "0", Real, G::Member, "Size of the store that raises the NOSPACE alarm (0: 2 GiB, negative: none)."),
    flag("backend-bbolt-freelist-type", K::Text, "map", DefaultOnly, G::Member, "Kind of free list of etcd's store."),
    flag("backend-batch-interval", K::Duration, "0", Real, G::Member, "Longest time before the store commits (0: 100ms)."),
    flag("backend-batch-limit", K::Signed, "0", Real, G::Member, "Operations after which the store commits (0: 10000)."),
    flag("max-txn-ops", K::Unsigned, "128", Real, G::Member, "Most operations in a transaction."),
    flag("max-request-bytes", K::Unsigned, "1572864", Real, G::Member, "Largest request of a client, in bytes."),
    flag("max-concurrent-streams", K::Unsigned32, "4294967295", Real, G::Member, "Most streams a client may have open on a connection."),
    flag("grpc-keepalive-min-time", K::Duration, "5s", Real, G::Member, "Shortest time a client must leave between two pings (0: 5m)."),
    flag("grpc-keepalive-interval", K::Duration, "2h", Real, G::Member, "Silence of a client before the server pings it (0: 2h)."),
    flag("grpc-keepalive-timeout", K::Duration, "20s", Real, G::Member, "Silence after a ping before the connection is closed (0: 20s)."),
    flag("socket-reuse-port", K::Bool, "false", Real, G::Member, "Set SO_REUSEPORT on listeners."),
    flag("socket-reuse-address", K::Bool, "false", Real, G::Member, "Set SO_REUSEADDR on listeners."),
    flag("enable-grpc-gateway", K::Bool, "true", Real, G::Member, "Serve the JSON gateway, where it is built in."),
    flag("raft-read-timeout", K::Duration, "5s", DefaultOnly, G::Member, "Read timeout of connections between members."),
    flag("raft-write-timeout", K::Duration, "5s", DefaultOnly, G::Member, "Write timeout of connections between members."),
    flag("feature-gates", K::Gates, "", Real, G::Member, "Pairs of name=true|false; CompactHashCheck (on here), InitialCorruptCheck, LeaseCheckpoint and LeaseCheckpointPersist can be changed."),

    flag("initial-advertise-peer-urls", K::Urls, "http://localhost:2380", Real, G::Clustering, "URLs other members are told to use for this one."),
    flag("initial-cluster", K::Text, "default=http://localhost:2380", Real, G::Clustering, "Members of a new cluster, as name=url pairs."),
    flag("initial-cluster-state", K::OneOf(&["new", "existing"]), "new", Real, G::Clustering, "'new' to found a cluster, 'existing' to join one; read only before the first start."),
    flag("initial-cluster-token", K::Text, "etcd-cluster", Real, G::Clustering, "Text that tells clusters with equal URLs apart."),
    flag("advertise-client-urls", K::Urls, "http://localhost:2379", Real, G::Clustering, "URLs clients are told to use; needed when --listen-client-urls is given."),
    flag("discovery-token", K::Text, "", DefaultOnly, G::Clustering, "Discovery service: token."),
    flag("discovery-endpoints", K::TextSet, "", DefaultOnly, G::Clustering, "Discovery service: endpoints."),
    flag("discovery-dial-timeout", K::Duration, "2s", DefaultOnly, G::Clustering, "Discovery service: dial timeout."),
    flag("discovery-request-timeout", K::Duration, "5s", DefaultOnly, G::Clustering, "Discovery service: request timeout."),
    flag("discovery-keepalive-time", K::Duration, "2s", DefaultOnly, G::Clustering, "Discovery service: keepalive time."),
    flag("discovery-keepalive-timeout", K::Duration, "6s", DefaultOnly, G::Clustering, "Discovery service: keepalive timeout."),
    flag("discovery-insecure-transport", K::Bool, "true", DefaultOnly, G::Clustering, "Discovery service: no TLS."),
    flag("discovery-insecure-skip-tls-verify", K::Bool, "false", DefaultOnly, G::Clustering, "Discovery service: do not verify certificates."),
    flag("discovery-cert", K::Text, "", DefaultOnly, G::Clustering, "Discovery service: certificate file."),
    flag("discovery-key", K::Text, "", DefaultOnly, G::Clustering, "Discovery service: key file."),
    flag("discovery-cacert", K::Text, "", DefaultOnly, G::Clustering, "Discovery service: CA file."),
    flag("discovery-user", K::Text, "", DefaultOnly, G::Clustering, "Discovery service: user."),
    flag("discovery-password", K::Text, "", DefaultOnly, G::Clustering, "Discovery service: password."),
    flag("discovery-fallback", K::OneOf(&["exit", "proxy"]), "exit", DefaultOnly, G::Clustering, "What to do when discovery fails."),
    flag("discovery-srv", K::Text, "", DefaultOnly, G::Clustering, "Domain whose SRV records name the members."),
    flag("discovery-srv-name", K::Text, "", DefaultOnly, G::Clustering, "Suffix of the SRV names."),
    flag("strict-reconfig-check", K::Bool, "true", Real, G::Clustering, "Refuse changes of members that would lose the quorum."),
    flag("pre-vote", K::Bool, "true", Real, G::Clustering, "Ask for a promise before an election, so that a returning member does not disturb."),
    flag("auto-compaction-retention", K::Text, "0", Real, G::Clustering, "History to keep (0: all): a duration or hours, or revisions."),
    flag("auto-compaction-mode", K::Text, "periodic", Real, G::Clustering, "How to read the retention: 'periodic' or 'revision'."),
    flag("v2-deprecation", K::SomeOf(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "", NoEffect, G::Clustering, "Deprecated; the value has no effect, as in etcd."),

    flag("cert-file", K::Text, "", Real, G::Security, "TLS certificate for clients."),
    flag("key-file", K::Text, "", Real, G::Security, "TLS key for clients."),
    flag("client-cert-auth", K::Bool, "false", Real, G::Security, "Demand certificates from clients."),
    flag("client-cert-file", K::Text, "", Real, G::Security, "Certificate for calls to its own client port."),
    flag("client-key-file", K::Text, "", Real, G::Security, "Key for calls to its own client port."),
    flag("client-crl-file", K::Text, "", Real, G::Security, "Revoked certificates of clients."),
    flag("client-cert-allowed-hostname", K::TextSet, "", Real, G::Security, "Names allowed in certificates of clients."),
    flag("trusted-ca-file", K::Text, "", Real, G::Security, "CA that signs certificates of clients."),
    flag("auto-tls", K::Bool, "false", Real, G::Security, "TLS for clients with a certificate made at start."),
    flag("peer-cert-file", K::Text, "", Real, G::Security, "TLS certificate for members."),
    flag("peer-key-file", K::Text, "", Real, G::Security, "TLS key for members."),
    flag("peer-client-cert-auth", K::Bool, "false", Real, G::Security, "Demand certificates from members."),
    flag("peer-client-cert-file", K::Text, "", Real, G::Security, "Certificate for calls to members."),
    flag("peer-client-key-file", K::Text, "", Real, G::Security, "Key for calls to members."),
    flag("peer-trusted-ca-file", K::Text, "", Real, G::Security, "CA that signs certificates of members."),
    flag("peer-cert-allowed-cn", K::TextSet, "", Real, G::Security, "Common names allowed in certificates of members."),
    flag("peer-cert-allowed-hostname", K::TextSet, "", Real, G::Security, "Names allowed in certificates of members."),
    flag("peer-auto-tls", K::Bool, "false", Real, G::Security, "TLS between members with certificates made at start."),
    flag("self-signed-cert-validity", K::Unsigned, "1", Real, G::Security, "Years a certificate made at start is valid."),
    flag("peer-crl-file", K::Text, "", Real, G::Security, "Revoked certificates of members."),
    flag("peer-skip-client-san-verification", K::Bool, "false", Real, G::Security, "Do not check names in certificates of members."),
    flag("cipher-suites", K::TextSet, "", Real, G::Security, "TLS cipher suites to offer."),
    flag("cors", K::TextSet, "*", Real, G::Security, "Origins allowed to call from a browser."),
    flag("host-whitelist", K::TextSet, "*", Real, G::Security, "Host names allowed in plain HTTP requests."),
    flag("tls-min-version", K::Text, "TLS1.2", Real, G::Security, "Oldest TLS version: TLS1.2 or TLS1.3."),
    flag("tls-max-version", K::Text, "", Real, G::Security, "Newest TLS version: TLS1.2, TLS1.3, or empty for the newest there is."),

    flag("auth-token", K::Text, "simple", Real, G::Auth, "Kind of token and its options."),
    flag("bcrypt-cost", K::Unsigned, "10", Real, G::Auth, "Cost of hashing a password."),
    flag("auth-token-ttl", K::Unsigned, "300", Real, G::Auth, "Seconds a simple token lives."),

    flag("enable-pprof", K::Bool, "false", DefaultOnly, G::Monitoring, "Serve profiles over HTTP."),
    flag("metrics", K::Text, "basic", DefaultOnly, G::Monitoring, "Detail of metrics."),
    flag("listen-metrics-urls", K::Urls, "", Real, G::Monitoring, "Further URLs for metrics and health."),

    flag("logger", K::Text, "zap", Real, G::Logging, "Only 'zap', the line format of etcd."),
    flag("log-outputs", K::TextSet, "default", Real, G::Logging, "Where lines go: default, stderr, stdout or files."),
    flag("log-level", K::Text, "info", Real, G::Logging, "debug, info, warn, error, panic or fatal."),
    flag("log-format", K::Text, "json", Real, G::Logging, "json or console."),
    flag("enable-log-rotation", K::Bool, "false", DefaultOnly, G::Logging, "Rotate a log file."),
    flag("log-rotation-config-json", K::Text, r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#, DefaultOnly, G::Logging, "How to rotate it."),
    flag("warning-unary-request-duration", K::Duration, "300ms", Real, G::Logging, "Warn about unary requests that take longer."),

    flag("enable-distributed-tracing", K::Bool, "false", DefaultOnly, G::Tracing, "Send traces."),
    flag("distributed-tracing-address", K::Text, "localhost:4317", DefaultOnly, G::Tracing, "Where traces go."),
    flag("distributed-tracing-service-name", K::Text, "etcd", DefaultOnly, G::Tracing, "Service name in traces."),
    flag("distributed-tracing-instance-id", K::Text, "", DefaultOnly, G::Tracing, "Instance in traces."),
    flag("distributed-tracing-sampling-rate", K::Signed, "0", DefaultOnly, G::Tracing, "Traces per million."),

    flag("corrupt-check-time", K::Duration, "0s", Real, G::Features, "Time between comparisons of all data with members (0: never)."),
    flag("compact-hash-check-time", K::Duration, "1m", Real, G::Features, "Time between comparisons of hashes of compactions."),
    flag("compaction-batch-limit", K::Signed, "0", Real, G::Features, "Revisions removed in one step of a compaction (0: 1000)."),
    flag("compaction-sleep-interval", K::Duration, "0", Real, G::Features, "Pause between the steps of a compaction (0: 10ms)."),
    flag("watch-progress-notify-interval", K::Duration, "0", Real, G::Features, "Time between progress notices of a watch (0: 10m)."),
    flag("warning-apply-duration", K::Duration, "100ms", Real, G::Features, "Warn about entries that take longer to apply."),
    flag("bootstrap-defrag-threshold-megabytes", K::Unsigned, "0", Real, G::Features, "Shrink the store at start if that frees so much (0: never)."),
    flag("max-learners", K::Signed, "1", Real, G::Features, "Most learners in the cluster."),
    flag("downgrade-check-time", K::Duration, "5s", Real, G::Features, "Time between looks at a running downgrade."),
    flag("snapshot-catchup-entries", K::Unsigned, "5000", Real, G::Features, "Entries kept in memory for slow members; older ones are read from the log."),

    flag("force-new-cluster", K::Bool, "false", Real, G::Unsafe, "Make a cluster of one from the data of a larger one."),
    flag("unsafe-no-fsync", K::Bool, "false", Real, G::Unsafe, "Do not wait for the disk. Loses data when the machine stops."),

    flag("value-budget-bytes", K::Unsigned, "2147483648", Real, G::Own, "Memory for current values, in bytes; the others are read from the store."),
    flag("wal-segment-bytes", K::Unsigned, "64000000", Real, G::Own, "Size at which a file of the write-ahead log is left for the next one."),
    flag("connection-threads", K::Unsigned, "0", Real, G::Own, "Threads that serve connections (0: one for every core)."),

    flag("config-file", K::Text, "", Real, G::Hidden, "Configuration file."),
    flag("version", K::Bool, "false", Real, G::Hidden, "Print the version and stop."),
    ignored("cluster-active-size"),
    ignored("cluster-remove-delay"),
    ignored("cluster-sync-interval"),
    ignored("config"),
    ignored("force"),
    ignored("max-result-buffer"),
    ignored("max-retry-attempts"),
    ignored("peer-heartbeat-interval"),
    ignored("peer-election-timeout"),
    ignored("retry-interval"),
    ignored("snapshot"),
    ignored("v"),
    ignored("vv"),
    ignored("test.coverprofile"),
    ignored("test.outputdir"),
];
