//! Calls by method, under the names of the usual Prometheus interceptor for gRPC. Every method and code is listed from
//! the start, with zeros, as etcd does: alerts compute rates from the first call on.

use super::instruments::{Counter, Page, labels};

macro_rules! methods {
    ($( $variant:ident = $service:literal / $method:literal $kind:literal ; )+) => {
        /// Every method etcd 3.7 serves on its client port.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GrpcMethod { $( $variant, )+ }

        const METHODS: &[(&str, &str, &str)] = &[ $( ($service, $method, $kind), )+ ];

        #[allow(unreachable_patterns)] // Services are listed once for each of their methods.
        impl GrpcMethod {
            /// All methods, in the order of the page.
            pub const ALL: &'static [GrpcMethod] = &[ $( GrpcMethod::$variant, )+ ];

            /// From the path of a request: `/etcdserverpb.KV/Put`.
            pub fn from_path(path: &str) -> Option<GrpcMethod> {
                match path {
                    $( concat!("/", $service, "/", $method) => Some(GrpcMethod::$variant), )+
                    _ => None,
                }
            }

            /// Whether any method belongs to this service.
            pub fn has_service(service: &str) -> bool {
                matches!(service, $( $service )|+)
            }

            /// The path of its requests.
            pub fn path(self) -> &'static str {
                match self {
                    $( GrpcMethod::$variant => concat!("/", $service, "/", $method), )+
                }
            }
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
    /// Whole unary calls by code. Counted once here instead of once in each of the others: they are the hot ones.
    unary: [Counter; CODE_NAMES.len()],
    received: Counter,
    sent: Counter,
}

impl MethodMetrics {
    fn handled_by_code(&self) -> impl Iterator<Item = u64> {
        self.handled.iter().zip(&self.unary).map(|(streams, unary)| streams.value() + unary.value())
    }

    fn unary_in_all(&self) -> u64 {
        self.unary.iter().map(Counter::value).sum()
    }

    fn started_in_all(&self) -> u64 {
        self.started.value() + self.unary_in_all()
    }

    fn received_in_all(&self) -> u64 {
        self.received.value() + self.unary_in_all()
    }

    fn sent_in_all(&self) -> u64 {
        self.sent.value() + self.unary[GrpcCode::OK.0].value()
    }
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

    /// A unary call from beginning to end: begun, one message in, ended, and one message out if it went well. One
    /// atomic operation; the call is on no page while it is under way.
    pub fn unary(&self, method: GrpcMethod, code: GrpcCode) {
        self.0[method as usize].unary[code.0].increment();
    }

    pub(super) fn render(&self, page: &mut Page) {
        page.family("grpc_server_handled_total", "counter", "Calls that ended, by code.");
        for (metrics, (service, method, kind)) in self.0.iter().zip(METHODS) {
            for (code, value) in CODE_NAMES.iter().zip(metrics.handled_by_code()) {
                let pairs =
                    [("grpc_code", *code), ("grpc_method", *method), ("grpc_service", *service), ("grpc_type", *kind)];
                page.sample("grpc_server_handled_total", &labels(&pairs), value as f64);
            }
        }
        let mut family = |name: &str, help: &str, value: fn(&MethodMetrics) -> u64| {
            page.family(name, "counter", help);
            for (metrics, (service, method, kind)) in self.0.iter().zip(METHODS) {
                let pairs = [("grpc_method", *method), ("grpc_service", *service), ("grpc_type", *kind)];
                page.sample(name, &labels(&pairs), value(metrics) as f64);
            }
        };
        family("grpc_server_msg_received_total", "Messages received.", MethodMetrics::received_in_all);
        family("grpc_server_msg_sent_total", "Messages sent.", MethodMetrics::sent_in_all);
        family("grpc_server_started_total", "Calls that began.", MethodMetrics::started_in_all);
    }
}
