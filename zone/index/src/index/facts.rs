//! The documents of a mesh besides Dataplanes: read strictly, kept in typed form, and what depends on them marked.
use super::lookups::Watcher;
use super::mesh::MeshIndex;
use super::services::Stored;
use crate::lookup::{Lookup, Ports};
use crate::outlook::{Held, Scope};
use crate::{Source, trust};
use serde::de::DeserializeOwned;
use shared_model::core::{Mesh, MeshIdentity, MeshService, MeshTrust};
use shared_model::{Problem, Resource, ResourceKey, kind, strict};
use shared_policy::Policy;
use std::sync::Arc;

/// Kinds of which the index takes notice.
pub(super) fn is_indexed(name: &str) -> bool {
    matches!(name, kind::DATAPLANE | kind::MESH_SERVICE | kind::MESH_IDENTITY | kind::MESH_TRUST)
        || kind::by_name(name).is_some_and(|kind| kind.policy)
}

impl MeshIndex {
    /// Takes in a document or its absence. What cannot be read is left out; its problems are the answer.
    pub fn put(&mut self, source: Source, key: &ResourceKey, resource: Option<&Resource>) -> Vec<Problem> {
        let place = (key.name.clone(), source);
        match key.kind.as_str() {
            kind::MESH => {
                let (mesh, problems) = read::<Mesh>(resource, "", Mesh::check);
                match resource {
                    Some(_) => self.meshes.insert(source, mesh),
                    None => self.meshes.remove(&source),
                };
                self.marks.mesh = true;
                problems
            }
            kind::MESH_IDENTITY => {
                let (identity, problems) = read::<MeshIdentity>(resource, "spec", MeshIdentity::check);
                match identity {
                    Some(identity) => self.identities.insert(place, identity),
                    None => self.identities.remove(&place),
                };
                self.marks.identities = true;
                problems
            }
            kind::MESH_TRUST => {
                let (trust, mut problems) = read::<MeshTrust>(resource, "spec", MeshTrust::check);
                let readable = trust.map(|trust| {
                    let mut trust = Arc::unwrap_or_clone(trust);
                    let bad = trust::leave_out_bad(&mut trust);
                    problems.extend(bad.into_iter().map(|problem| problem.under("spec")));
                    trust
                });
                match readable.filter(|trust| !trust.ca_bundles.is_empty()) {
                    Some(trust) => self.trusts.insert(place, Arc::new(trust)),
                    None => self.trusts.remove(&place),
                };
                self.marks.trusts = true;
                problems
            }
            kind::MESH_SERVICE => {
                let (service, problems) = read::<MeshService>(resource, "spec", MeshService::check);
                let stored = resource
                    .zip(service)
                    .map(|(resource, service)| Stored::of(source, &self.zone, resource, service));
                let concerned = self.services.put(place, stored);
                self.marks.services.extend(concerned);
                problems
            }
            _ => self.put_policy(source, key, resource),
        }
    }

    fn put_policy(&mut self, source: Source, key: &ResourceKey, resource: Option<&Resource>) -> Vec<Problem> {
        let place = (key.clone(), source);
        let problems = match resource.map(Policy::compile) {
            Some(Ok(policy)) => {
                let backends = policy.backends();
                let services = backends.iter().filter(|backend| backend.kind == kind::MESH_SERVICE);
                let lookups = services.map(|backend| Lookup::of(backend, Ports::All)).collect();
                let (number, scope) = (self.number(), Scope::of(&policy));
                let held = Held { number, id: key.clone(), policy: Arc::new(policy), lookups, scope };
                self.policies.insert(place, Arc::new(held));
                Vec::new()
            }
            other => {
                self.policies.remove(&place);
                other.and_then(Result::err).unwrap_or_default()
            }
        };
        let in_place = |source| self.policies.get(&(key.clone(), source)).cloned();
        let counts = in_place(Source::Followed).or_else(|| in_place(Source::Owned));
        let before = self.room.policies.get(key).cloned();
        self.marks.problems_of_policies.insert(key.clone());
        let said = |held: &Option<Arc<Held>>| held.as_ref().map(|held| held.policy.clone());
        if said(&before) == said(&counts) {
            return problems;
        }
        match &counts {
            Some(held) => self.room.policies.insert(key.clone(), held.clone()),
            None => self.room.policies.remove(key),
        };
        if let Some(before) = &before {
            self.speaking_of_some.remove(&before.number);
        }
        if let Some(held) = counts.as_ref().filter(|held| held.scope == Scope::Some) {
            self.speaking_of_some.insert(held.number, held.clone());
        }
        self.marks.policies.entry(key.clone()).or_insert_with(|| before.clone());
        let watcher = Watcher::Policy(key.clone());
        for lookup in before.iter().flat_map(|held| &held.lookups) {
            self.lookups.unwatch(lookup, &watcher);
        }
        for lookup in counts.iter().flat_map(|held| &held.lookups) {
            self.lookups.watch(lookup, watcher.clone(), |lookup| self.services.resolve(lookup));
        }
        problems
    }
}

fn read<T: DeserializeOwned>(
    resource: Option<&Resource>,
    prefix: &str,
    check: impl Fn(&T) -> Vec<Problem>,
) -> (Option<Arc<T>>, Vec<Problem>) {
    let Some(resource) = resource else { return (None, Vec::new()) };
    match strict::read::<T>(&resource.spec, prefix) {
        Err(problem) => (None, vec![problem]),
        Ok(spec) => match check(&spec) {
            problems if problems.is_empty() => (Some(Arc::new(spec)), problems),
            problems => (None, problems.into_iter().map(|problem| problem.under(prefix)).collect()),
        },
    }
}
