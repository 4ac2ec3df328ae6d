//! Calls by method, under the names of the usual Prometheus interceptor for gRPC. Every method and code is listed from
//! the start, with zeros, as etcd does: alerts compute rates from the first call on.

use super::instruments::{Counter, Page, labels};

macro_rules! methods {
    ($( $variant:ident = $service:literal / $method:literal $kind:literal ; )+) => {
        /// Every method etcd 3.7 serves on its client port.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GrpcMethod { $( $variant, )+ }

        const METHODS: &[(&str, &str, &str)] = &[ $( ($service, $method, $kind), )+ ];

        impl GrpcMethod {
            /// All methods, in the order of the page.
            pub const ALL: &'static [GrpcMethod] = &[ $( GrpcMethod::$variant, )+ ];
        }
    };
}

methods! {
    AuthDisable = "etcdserverpb.Auth" / "AuthDisable" "unary";
    AuthEnable = "etcdserverpb.Auth" / "AuthEnable" "unary";
    AuthStatus = "etcdserverpb.Auth" / "AuthStatus" "unary";
    Authenticate = "etcdserverpb.Auth" / "Authenticate" "unary";
    RoleAdd = "etcdserverpb.Auth" / "RoleAdd" "unary";
    RoleDelete = "etcdserverpb.Auth" / "RoleDelete" "unary";
    RoleGet = "etcdserverpb.Auth" / "RoleGet" "unary";
    RoleGrantPermission = "etcdserverpb.Auth" / "RoleGrantPermission" "unary";
    RoleList = "etcdserverpb.Auth" / "RoleList" "unary";
    RoleRevokePermission = "etcdserverpb.Auth" / "RoleRevokePermission" "unary";
    UserAdd = "etcdserverpb.Auth" / "UserAdd" "unary";
    UserChangePassword = "etcdserverpb.Auth" / "UserChangePassword" "unary";
    UserDelete = "etcdserverpb.Auth" / "UserDelete" "unary";
    UserGet = "etcdserverpb.Auth" / "UserGet" "unary";
    UserGrantRole = "etcdserverpb.Auth" / "UserGrantRole" "unary";
    UserList = "etcdserverpb.Auth" / "UserList" "unary";
    UserRevokeRole = "etcdserverpb.Auth" / "UserRevokeRole" "unary";
    MemberAdd = "etcdserverpb.Cluster" / "MemberAdd" "unary";
    MemberList = "etcdserverpb.Cluster" / "MemberList" "unary";
    MemberPromote = "etcdserverpb.Cluster" / "MemberPromote" "unary";
    MemberRemove = "etcdserverpb.Cluster" / "MemberRemove" "unary";
    MemberUpdate = "etcdserverpb.Cluster" / "MemberUpdate" "unary";
    Compact = "etcdserverpb.KV" / "Compact" "unary";
    DeleteRange = "etcdserverpb.KV" / "DeleteRange" "unary";
    Put = "etcdserverpb.KV" / "Put" "unary";
    Range = "etcdserverpb.KV" / "Range" "unary";
    RangeStream = "etcdserverpb.KV" / "RangeStream" "server_stream";
    Txn = "etcdserverpb.KV" / "Txn" "unary";
    LeaseGrant = "etcdserverpb.Lease" / "LeaseGrant" "unary";
    LeaseKeepAlive = "etcdserverpb.Lease" / "LeaseKeepAlive" "bidi_stream";
    LeaseLeases = "etcdserverpb.Lease" / "LeaseLeases" "unary";
    LeaseRevoke = "etcdserverpb.Lease" / "LeaseRevoke" "unary";
    LeaseTimeToLive = "etcdserverpb.Lease" / "LeaseTimeToLive" "unary";
    Alarm = "etcdserverpb.Maintenance" / "Alarm" "unary";
    Defragment = "etcdserverpb.Maintenance" / "Defragment" "unary";
    Downgrade = "etcdserverpb.Maintenance" / "Downgrade" "unary";
    Hash = "etcdserverpb.Maintenance" / "Hash" "unary";
    HashKv = "etcdserverpb.Maintenance" / "HashKV" "unary";
    MoveLeader = "etcdserverpb.Maintenance" / "MoveLeader" "unary";
    Snapshot = "etcdserverpb.Maintenance" / "Snapshot" "server_stream";
    Status = "etcdserverpb.Maintenance" / "Status" "unary";
    Watch = "etcdserverpb.Watch" / "Watch" "bidi_stream";
    HealthCheck = "grpc.health.v1.Health" / "Check" "unary";
    HealthList = "grpc.health.v1.Health" / "List" "unary";
    HealthWatch = "grpc.health.v1.Health" / "Watch" "server_stream";
}

impl GrpcMethod {
    /// From the path of a request: `/etcdserverpb.KV/Put`.
    pub fn from_path(path: &str) -> Option<GrpcMethod> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let index = METHODS.iter().position(|(s, m, _)| *s == service && *m == method)?;
        Some(GrpcMethod::ALL[index])
    }
}

/// gRPC's status codes, numbered as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcCode(usize);

const CODE_NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

impl GrpcCode {
    pub const OK: GrpcCode = GrpcCode(0);
    pub const CANCELED: GrpcCode = GrpcCode(1);

    /// From the number on the wire; numbers without a name count as Unknown.
    pub fn from_number(number: i32) -> GrpcCode {
        let index = usize::try_from(number).ok().filter(|index| *index < CODE_NAMES.len());
        GrpcCode(index.unwrap_or(2))
    }

    pub fn as_str(self) -> &'static str {
        CODE_NAMES[self.0]
    }
}

/// The counters of all methods.
pub struct GrpcMetrics(Vec<MethodMetrics>);

#[derive(Default)]
struct MethodMetrics {
    started: Counter,
    handled: [Counter; CODE_NAMES.len()],
    received: Counter,
    sent: Counter,
}

impl GrpcMetrics {
    pub(super) fn new() -> GrpcMetrics {
        GrpcMetrics(METHODS.iter().map(|_| MethodMetrics::default()).collect())
    }

    /// A call began.
    pub fn started(&self, method: GrpcMethod) {
        self.0[method as usize].started.increment();
    }

    /// A call ended with this code.
    pub fn handled(&self, method: GrpcMethod, code: GrpcCode) {
        self.0[method as usize].handled[code.0].increment();
    }

    /// A message came in.
    pub fn received(&self, method: GrpcMethod) {
        self.0[method as usize].received.increment();
    }

    /// A message went out.
    pub fn sent(&self, method: GrpcMethod) {
        self.0[method as usize].sent.increment();
    }

    /// A unary call from beginning to end: one message each way if it went well.
    pub fn unary(&self, method: GrpcMethod, code: GrpcCode) {
        let metrics = &self.0[method as usize];
        metrics.started.increment();
        metrics.received.increment();
        metrics.handled[code.0].increment();
        if code == GrpcCode::OK {
            metrics.sent.increment();
        }
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.family("grpc_server_handled_total", "counter", "Calls that ended, by code.");
        for (metrics, (service, method, kind)) in self.0.iter().zip(METHODS) {
            for (code, counter) in CODE_NAMES.iter().zip(&metrics.handled) {
                let pairs =
                    [("grpc_code", *code), ("grpc_method", *method), ("grpc_service", *service), ("grpc_type", *kind)];
                page.sample("grpc_server_handled_total", &labels(&pairs), counter.value() as f64);
            }
        }
        let mut family = |name: &str, help: &str, counter: fn(&MethodMetrics) -> &Counter| {
            page.family(name, "counter", help);
            for (metrics, (service, method, kind)) in self.0.iter().zip(METHODS) {
                let pairs = [("grpc_method", *method), ("grpc_service", *service), ("grpc_type", *kind)];
                page.sample(name, &labels(&pairs), counter(metrics).value() as f64);
            }
        };
        family("grpc_server_msg_received_total", "Messages received.", |metrics| &metrics.received);
        family("grpc_server_msg_sent_total", "Messages sent.", |metrics| &metrics.sent);
        family("grpc_server_started_total", "Calls that began.", |metrics| &metrics.started);
    }
}
