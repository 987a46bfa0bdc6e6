//! Who a proxy is: which MeshIdentity gives it a certificate, or the `builtin` backend of a 2.x mesh, and under which id.
//!
//! A proxy that is meant to have an identity and whose template cannot be filled in stays without one, with a problem.
//! It does not fall back to a weaker identity or to plain text.
use crate::view::{AuthoritySpec, IdentitySpec, MtlsMode};
use shared_model::core::mesh::Mode;
use shared_model::core::mesh_identity::{MeshIdentity, render};
use shared_model::core::{Dataplane, Mesh};
use shared_model::{Duration, Problem, labels, labels::Labels};
use shared_policy::peer::tag_uri;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How long the certificates of a 2.x mesh live unless it says otherwise.
const MTLS_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The shortest life of a certificate that is renewed in time; a MeshIdentity cannot ask for less.
const LIFETIME_MIN: Duration = Duration::from_secs(60);

/// A proxy as far as its identity depends on it.
pub(crate) struct Subject<'a> {
    pub mesh: &'a str,
    pub zone: &'a str,
    pub name: &'a str,
    pub labels: &'a Labels,
    pub dataplane: &'a Dataplane,
}

/// What the identities of a mesh say of one proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identified {
    /// `None` with a mode other than off: it should have one.
    pub spec: Option<IdentitySpec>,
    pub mode: MtlsMode,
    /// The id comes from `Mesh.mtls`, where each service of a proxy has its own.
    pub by_service: bool,
    pub problems: Vec<Problem>,
}

impl Identified {
    pub fn is_intended(&self) -> bool {
        self.mode != MtlsMode::Off
    }

    /// Under which id the proxy answers for one of its inbounds.
    pub fn answers_as(&self, mesh: &str, service: Option<&str>) -> Option<String> {
        let spec = self.spec.as_ref()?;
        match service.filter(|service| self.by_service && is_path_segment(service)) {
            Some(service) => Some(service_id(mesh, service)),
            None => Some(spec.spiffe_id.clone()),
        }
    }
}

/// The id of a service in a mesh of 2.x.
pub(crate) fn service_id(mesh: &str, service: &str) -> String {
    format!("spiffe://{mesh}/{service}")
}

/// The identity of a proxy. `identities` are the mesh's, by resource name; the one with the most labels wins, then the
/// first by name.
pub(crate) fn identify<'a>(
    subject: &Subject,
    mesh: Option<&Mesh>,
    identities: impl Iterator<Item = (&'a str, &'a Arc<MeshIdentity>)>,
) -> Identified {
    let selecting = identities
        .filter_map(|(name, identity)| Some((identity.specificity(subject.labels)?, name, identity)));
    let best = selecting.min_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let (made, mode, by_service) = match (best, mesh.and_then(Mesh::enabled_backend)) {
        (Some((_, name, identity)), _) => (from_identity(subject, name, identity), MtlsMode::Strict, false),
        (None, Some(backend)) => {
            let mode = match backend.mode {
                Mode::Strict => MtlsMode::Strict,
                Mode::Permissive => MtlsMode::Permissive,
            };
            let lifetime = backend.dp_cert.as_ref().and_then(|cert| cert.rotation.as_ref());
            let lifetime = lifetime.and_then(|rotation| rotation.expiration).unwrap_or(MTLS_LIFETIME);
            let lifetime = lifetime.max(LIFETIME_MIN);
            (Ok(from_mtls(subject, &backend.name, lifetime)), mode, true)
        }
        (None, None) => return Identified::default(),
    };
    let mut problems = Vec::new();
    let spec = match made {
        Ok((mut spec, left_out)) => {
            problems.extend(left_out);
            problems.extend(add_tags(&mut spec.uris, subject));
            Some(spec)
        }
        Err(reason) => {
            problems.push(Problem::new("", reason));
            None
        }
    };
    Identified { spec, mode, by_service, problems }
}

/// The authority behind a MeshIdentity as far as it does not depend on the proxy.
pub(crate) fn authority_of(
    mesh: &str,
    zone: &str,
    name: &str,
    identity: &MeshIdentity,
) -> Option<AuthoritySpec> {
    identity.selector.as_ref()?.dataplane.as_ref()?;
    let field = |field: &str| field_of(mesh, zone, None, field);
    let trust_domain = render(identity.trust_domain(), &field, &|_| None).ok()?;
    is_trust_domain(&trust_domain).then(|| AuthoritySpec {
        mesh: mesh.to_owned(),
        identity: name.to_owned(),
        trust_domain,
    })
}

/// The authority behind `Mesh.mtls`.
pub(crate) fn authority_of_mtls(mesh: &str, backend: &str) -> AuthoritySpec {
    AuthoritySpec {
        mesh: mesh.to_owned(),
        identity: format!("mtls-{backend}"),
        trust_domain: mesh.to_owned(),
    }
}

fn field_of(mesh: &str, zone: &str, labels: Option<&Labels>, field: &str) -> Option<String> {
    match field {
        "Mesh" => Some(mesh.to_owned()),
        "Zone" => Some(zone.to_owned()),
        "Workload" => labels?.get(labels::WORKLOAD).cloned(),
        "Namespace" => labels?.get(labels::NAMESPACE).cloned(),
        "ServiceAccount" => labels?.get("k8s.kuma.io/service-account").cloned(),
        _ => None,
    }
}

type Made = (IdentitySpec, Vec<Problem>);

fn from_identity(subject: &Subject, name: &str, identity: &MeshIdentity) -> Result<Made, String> {
    let wrong = |reason: String| format!("MeshIdentity {name:?} gives no identity: {reason}");
    let fill = |template: &str| {
        let field = |field: &str| field_of(subject.mesh, subject.zone, Some(subject.labels), field);
        render(template, &field, &|key| subject.labels.get(key).cloned()).map_err(wrong)
    };
    let (trust_domain, path) = (fill(identity.trust_domain())?, fill(identity.path())?);
    if !is_trust_domain(&trust_domain) {
        return Err(wrong(format!("{trust_domain:?} is not a trust domain")));
    }
    if !path.strip_prefix('/').is_some_and(|path| path.split('/').all(is_path_segment)) {
        return Err(wrong(format!("{path:?} is not the path of a SPIFFE id")));
    }
    let spiffe_id = format!("spiffe://{trust_domain}{path}");
    let authority = AuthoritySpec { mesh: subject.mesh.to_owned(), identity: name.to_owned(), trust_domain };
    let uris = vec![spiffe_id.clone()];
    Ok((IdentitySpec { authority, spiffe_id, uris, lifetime: identity.expiry() }, Vec::new()))
}

/// In 2.x a proxy has one id for each of its services. Without any, its id lies where no service's can.
fn from_mtls(subject: &Subject, backend: &str, lifetime: Duration) -> Made {
    let tagged: BTreeSet<&str> =
        subject.dataplane.networking.inbound.iter().filter_map(|i| i.service()).collect();
    let (good, bad): (Vec<&str>, Vec<&str>) =
        tagged.into_iter().partition(|service| is_path_segment(service));
    let mut uris: Vec<String> = good.into_iter().map(|service| service_id(subject.mesh, service)).collect();
    if uris.is_empty() {
        let (what, name) = match subject.labels.get(labels::WORKLOAD).filter(|name| is_path_segment(name)) {
            Some(workload) => ("workload", workload.as_str()),
            None => ("dataplane", subject.name),
        };
        uris.push(format!("spiffe://{}/{what}/{name}", subject.mesh));
    }
    let reason =
        |service| format!("the service {service:?} gets no identity: its name cannot stand in a SPIFFE id");
    let left_out =
        bad.into_iter().map(|service| Problem::new("networking.inbound", reason(service))).collect();
    let authority = authority_of_mtls(subject.mesh, backend);
    (IdentitySpec { authority, spiffe_id: uris[0].clone(), uris, lifetime }, left_out)
}

/// Adds the tags of the inbounds as URIs, and the zone, which is a tag of every proxy whatever its document says. A value
/// with a `/` could pose as another tag, so it is left out and reported.
fn add_tags(uris: &mut Vec<String>, subject: &Subject) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    uris.push(tag_uri(labels::ZONE, subject.zone));
    for (i, inbound) in subject.dataplane.networking.inbound.iter().enumerate() {
        for (key, value) in inbound.tags.iter().filter(|(key, _)| *key != labels::ZONE) {
            let plain = |text: &str| {
                !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c))
            };
            if !key.split('/').all(plain) || !plain(value) {
                let reason = format!(
                    "{value:?} does not stand in the certificate: use letters, digits, '-', '.', '_' and ':'"
                );
                problems.push(Problem::new(format!("networking.inbound[{i}].tags[{key:?}]"), reason));
            } else if seen.insert((key, value)) {
                uris.push(tag_uri(key, value));
            }
        }
    }
    let tags = uris.iter().position(|uri| uri.starts_with("kuma://")).unwrap_or(uris.len());
    uris[tags..].sort();
    problems
}

/// <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>, 2.1
fn is_trust_domain(text: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
    !text.is_empty() && text.len() <= 255 && text.chars().all(good)
}

/// The same, 2.2
fn is_path_segment(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    !text.is_empty() && text != "." && text != ".." && text.chars().all(good)
}
