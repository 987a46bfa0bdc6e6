//! The kinds of resources: their paths, scopes, shapes, and who may write them.

/// Whether a resource lives in a mesh or beside all meshes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Global,
    Mesh,
}

/// How a resource looks on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The fields of the spec stand at the top level (`Mesh`, `Dataplane`, secrets).
    Flat,
    /// The spec stands under `spec`, the status under `status`.
    Spec,
}

/// Where a resource of a kind may be written when zones follow a global.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrittenAt {
    Global,
    Zone,
    Both,
    /// The control plane computes it; nobody writes it.
    Nobody,
}

/// What is known of a kind without looking at a resource.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    pub singular: &'static str,
    pub plural: &'static str,
    /// The segment of the REST path.
    pub path: &'static str,
    /// Another spelling that Kuma's clients use; empty when there is none.
    pub alias: &'static str,
    /// The short name in a KRI.
    pub short: &'static str,
    pub scope: Scope,
    pub shape: Shape,
    pub written_at: WrittenAt,
    /// Only administrators may read or write it.
    pub admin_only: bool,
    pub policy: bool,
    /// This version can store and apply it. The others are known by name, to be refused with a reason.
    pub supported: bool,
}

impl Kind {
    pub fn is_mesh_scoped(&self) -> bool {
        self.scope == Scope::Mesh
    }

    /// The collection's path, without a leading slash: `meshes/default/dataplanes` or `zones`.
    pub fn collection(&self, mesh: &str) -> String {
        match self.scope {
            Scope::Mesh => format!("meshes/{mesh}/{}", self.path),
            Scope::Global => self.path.to_owned(),
        }
    }
}

pub const MESH: &str = "Mesh";
pub const DATAPLANE: &str = "Dataplane";
pub const ZONE: &str = "Zone";
pub const SECRET: &str = "Secret";
pub const GLOBAL_SECRET: &str = "GlobalSecret";
pub const MESH_SERVICE: &str = "MeshService";
pub const MESH_IDENTITY: &str = "MeshIdentity";
pub const MESH_TRUST: &str = "MeshTrust";

pub fn by_name(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

pub fn by_path(path: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.path == path || (!kind.alias.is_empty() && kind.alias == path))
}

/// Finds a kind by whatever a person types: name, path, singular or short form, in any case.
pub fn by_any_name(text: &str) -> Option<&'static Kind> {
    let squashed: String = text.to_ascii_lowercase().chars().filter(|c| *c != '-' && *c != '_').collect();
    KINDS.iter().find(|kind| {
        let name = kind.name.to_ascii_lowercase();
        squashed == name
            || squashed == kind.path.replace('-', "")
            || squashed == kind.short
            || squashed == format!("{name}s")
    })
}

/// The known kind whose name is nearest to a mistyped one, if any is near.
pub fn nearest(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    KINDS
        .iter()
        .map(|kind| (distance(&lower, &kind.name.to_ascii_lowercase()), kind.name))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, name)| name)
}

/// Levenshtein's edit distance, in characters.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = if x == *y { diagonal } else { 1 + diagonal.min(row[j]).min(row[j + 1]) };
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

const fn kind(
    name: &'static str,
    singular: &'static str,
    plural: &'static str,
    path: &'static str,
    short: &'static str,
) -> Kind {
    Kind {
        name,
        singular,
        plural,
        path,
        alias: "",
        short,
        scope: Scope::Mesh,
        shape: Shape::Spec,
        written_at: WrittenAt::Both,
        admin_only: false,
        policy: false,
        supported: true,
    }
}

const fn policy(
    name: &'static str,
    singular: &'static str,
    plural: &'static str,
    path: &'static str,
    short: &'static str,
) -> Kind {
    Kind { policy: true, ..kind(name, singular, plural, path, short) }
}

const fn later(kind: Kind) -> Kind {
    Kind { supported: false, ..kind }
}

/// Every kind that Weft knows, in the order in which lists show them.
pub static KINDS: &[Kind] = &[
    Kind {
        scope: Scope::Global,
        shape: Shape::Flat,
        written_at: WrittenAt::Global,
        ..kind(MESH, "Mesh", "Meshes", "meshes", "m")
    },
    Kind {
        shape: Shape::Flat,
        written_at: WrittenAt::Zone,
        ..kind(DATAPLANE, "Data plane proxy", "Data plane proxies", "dataplanes", "dp")
    },
    Kind {
        scope: Scope::Global,
        shape: Shape::Flat,
        written_at: WrittenAt::Global,
        ..kind(ZONE, "Zone", "Zones", "zones", "z")
    },
    Kind { shape: Shape::Flat, admin_only: true, ..kind(SECRET, "Secret", "Secrets", "secrets", "sec") },
    Kind {
        scope: Scope::Global,
        shape: Shape::Flat,
        admin_only: true,
        alias: "globalsecrets",
        ..kind(GLOBAL_SECRET, "Global secret", "Global secrets", "global-secrets", "gsec")
    },
    Kind {
        written_at: WrittenAt::Zone,
        ..kind(MESH_SERVICE, "Mesh service", "Mesh services", "meshservices", "msvc")
    },
    kind(MESH_IDENTITY, "Mesh identity", "Mesh identities", "meshidentities", "mid"),
    kind(MESH_TRUST, "Mesh trust", "Mesh trusts", "meshtrusts", "mtrust"),
    policy("MeshHTTPRoute", "Mesh HTTP route", "Mesh HTTP routes", "meshhttproutes", "mhttpr"),
    policy("MeshTLS", "Mesh TLS", "Mesh TLSes", "meshtlses", "mtls"),
    policy(
        "MeshFaultInjection",
        "Mesh fault injection",
        "Mesh fault injections",
        "meshfaultinjections",
        "mfi",
    ),
    policy("MeshTimeout", "Mesh timeout", "Mesh timeouts", "meshtimeouts", "mt"),
    policy(
        "MeshTrafficPermission",
        "Mesh traffic permission",
        "Mesh traffic permissions",
        "meshtrafficpermissions",
        "mtp",
    ),
    later(policy("MeshTCPRoute", "Mesh TCP route", "Mesh TCP routes", "meshtcproutes", "mtcpr")),
    later(policy(
        "MeshLoadBalancingStrategy",
        "Mesh load balancing strategy",
        "Mesh load balancing strategies",
        "meshloadbalancingstrategies",
        "mlbs",
    )),
    later(policy("MeshPassthrough", "Mesh passthrough", "Mesh passthroughs", "meshpassthroughs", "mp")),
    later(policy("MeshAccessLog", "Mesh access log", "Mesh access logs", "meshaccesslogs", "mal")),
    later(policy("MeshTrace", "Mesh trace", "Mesh traces", "meshtraces", "mtr")),
    later(policy("MeshRateLimit", "Mesh rate limit", "Mesh rate limits", "meshratelimits", "mrl")),
    later(policy("MeshHealthCheck", "Mesh health check", "Mesh health checks", "meshhealthchecks", "mhc")),
    later(policy(
        "MeshCircuitBreaker",
        "Mesh circuit breaker",
        "Mesh circuit breakers",
        "meshcircuitbreakers",
        "mcb",
    )),
    later(policy("MeshRetry", "Mesh retry", "Mesh retries", "meshretries", "mr")),
    later(policy("MeshMetric", "Mesh metric", "Mesh metrics", "meshmetrics", "mm")),
    later(policy("MeshProxyPatch", "Mesh proxy patch", "Mesh proxy patches", "meshproxypatches", "mpp")),
    later(Kind {
        written_at: WrittenAt::Global,
        ..kind(
            "MeshMultiZoneService",
            "Mesh multi-zone service",
            "Mesh multi-zone services",
            "meshmultizoneservices",
            "mzsvc",
        )
    }),
    later(kind(
        "MeshExternalService",
        "Mesh external service",
        "Mesh external services",
        "meshexternalservices",
        "extsvc",
    )),
    later(Kind {
        scope: Scope::Global,
        ..kind("HostnameGenerator", "Hostname generator", "Hostname generators", "hostnamegenerators", "hg")
    }),
    later(Kind {
        written_at: WrittenAt::Zone,
        ..kind("MeshZoneAddress", "Mesh zone address", "Mesh zone addresses", "meshzoneaddresses", "mza")
    }),
    later(kind(
        "MeshOpenTelemetryBackend",
        "Mesh OpenTelemetry backend",
        "Mesh OpenTelemetry backends",
        "meshopentelemetrybackends",
        "motb",
    )),
    later(Kind {
        written_at: WrittenAt::Nobody,
        ..kind("Workload", "Workload", "Workloads", "workloads", "wl")
    }),
];

/// Kinds of Kuma 2.x that its 3.0 dropped, with what to write instead.
pub static RETIRED: &[(&str, &str)] = &[
    ("CircuitBreaker", "write a MeshCircuitBreaker"),
    ("FaultInjection", "write a MeshFaultInjection"),
    ("HealthCheck", "write a MeshHealthCheck"),
    ("ProxyTemplate", "write a MeshProxyPatch"),
    ("RateLimit", "write a MeshRateLimit"),
    ("Retry", "write a MeshRetry"),
    ("Timeout", "write a MeshTimeout"),
    ("TrafficLog", "write a MeshAccessLog"),
    ("TrafficPermission", "write a MeshTrafficPermission"),
    ("TrafficRoute", "write a MeshHTTPRoute or a MeshTCPRoute"),
    ("TrafficTrace", "write a MeshTrace"),
    ("VirtualOutbound", "write a HostnameGenerator"),
    ("ExternalService", "write a MeshExternalService"),
    ("MeshGateway", "run a delegated gateway"),
    ("MeshGatewayRoute", "run a delegated gateway and write a MeshHTTPRoute"),
    ("ZoneIngress", "write a Dataplane with a listener of type ZoneIngress"),
    ("ZoneEgress", "write a Dataplane with a listener of type ZoneEgress"),
];

/// The advice for a kind that only Kuma 2.x had.
pub fn retired(name: &str) -> Option<&'static str> {
    RETIRED.iter().find(|(retired, _)| *retired == name).map(|(_, advice)| *advice)
}
