//! The documents that the demo and the tests apply, as a user writes them.

pub const MESH: &str = "default";

/// What the clients' identities are called: each zone is a trust domain of its own.
pub fn spiffe_id(zone: &str, workload: &str) -> String {
    format!("spiffe://{MESH}.{zone}.mesh.local/workload/{workload}")
}

pub fn mesh() -> String {
    format!("type: Mesh\nname: {MESH}\n")
}

/// Certificates for every proxy, issued by its zone; from then on proxies speak mutual TLS.
pub fn identity() -> String {
    format!(
        "type: MeshIdentity
mesh: {MESH}
name: everyone
spec:
  selector:
    dataplane:
      matchLabels: {{}}
  provider:
    type: Bundled
    bundled:
      meshTrustCreation: Enabled
      insecureAllowSelfSigned: true
      autogenerate:
        enabled: true
"
    )
}

pub const PERMISSION: &str = "web-may-call";

/// `web` of these zones may call everything.
pub fn permission(zones: &[&str]) -> String {
    let allow: String = zones
        .iter()
        .map(|zone| {
            format!(
                "          - spiffeID:\n              type: Exact\n              value: {}\n",
                spiffe_id(zone, "web")
            )
        })
        .collect();
    format!(
        "type: MeshTrafficPermission
mesh: {MESH}
name: {PERMISSION}
spec:
  targetRef:
    kind: Mesh
  rules:
    - default:
        allow:
{allow}"
    )
}

pub const ROUTE: &str = "canary";

/// Requests to `backend` are split between services, by weight.
pub fn route(backends: &[(&str, u32)]) -> String {
    let refs: String = backends
        .iter()
        .map(|(name, weight)| {
            format!("              - {{kind: MeshService, name: {name}, weight: {weight}}}\n")
        })
        .collect();
    format!(
        "type: MeshHTTPRoute
mesh: {MESH}
name: {ROUTE}
spec:
  targetRef:
    kind: Mesh
  to:
    - targetRef:
        kind: MeshService
        name: backend
      rules:
        - matches:
            - path:
                type: PathPrefix
                value: /
          default:
            backendRefs:
{refs}"
    )
}

pub const FAULT: &str = "half-fail";
/// A status that nothing else in the demo gives.
pub const FAULT_STATUS: u16 = 418;

/// A part of the requests to every proxy is answered with [`FAULT_STATUS`] by the proxy itself.
pub fn fault(percentage: u32) -> String {
    format!(
        "type: MeshFaultInjection
mesh: {MESH}
name: {FAULT}
spec:
  targetRef:
    kind: Mesh
  rules:
    - default:
        http:
          - abort:
              httpStatus: {FAULT_STATUS}
              percentage: {percentage}
"
    )
}

pub const TIMEOUT: &str = "impatient";

/// A request to `backend` may take this long.
pub fn timeout(request: &str) -> String {
    format!(
        "type: MeshTimeout
mesh: {MESH}
name: {TIMEOUT}
spec:
  targetRef:
    kind: Mesh
  to:
    - targetRef:
        kind: MeshService
        name: backend
      default:
        http:
          requestTimeout: {request}
"
    )
}
