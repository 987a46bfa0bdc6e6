//! The one writer: takes changes, settles what depends on them, publishes the next epoch.
//!
//! ```text
//! apply:  1. each change replaces facts (documents, read strictly) and marks what depends on them
//!         2. contests (address and port), then per mesh: identities, selections of policies, services,
//!            lookups, reaches; each is computed anew only where marked, and a value that comes out the
//!            same stops the wave
//!         3. publish
//! ```
mod claims;
mod facts;
mod lookups;
mod mesh;
mod pairs;
mod routes;
mod selections;
mod services;
mod settle;
mod shared;

use crate::problems::{Found, Problems};
use crate::proxy::Body;
use crate::{Change, Epoch, ProxyId, Source, Touched};
use claims::Claims;
use mesh::MeshIndex;
use shared::Shared;
use shared_model::core::Dataplane;
use shared_model::core::dataplane::Outbound;
use shared_model::{Problem, Resource, ResourceKey, kind, strict};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// All that a zone knows, kept up to date change by change.
pub struct Index {
    zone: String,
    /// Every resource that counts, to tell a change from a repetition.
    resources: BTreeMap<(Source, ResourceKey), Arc<Resource>>,
    meshes: BTreeMap<String, MeshIndex>,
    claims: Claims,
    outbounds: Shared<Vec<Outbound>>,
    problems: Problems,
    epoch: Arc<Epoch>,
}

impl Index {
    pub fn new(zone: &str) -> Index {
        Index {
            zone: zone.to_owned(),
            resources: BTreeMap::new(),
            meshes: BTreeMap::new(),
            claims: Claims::default(),
            outbounds: Shared::default(),
            problems: Problems::default(),
            epoch: Arc::new(Epoch { zone: zone.to_owned(), ..Epoch::default() }),
        }
    }

    /// What was published last.
    pub fn epoch(&self) -> Arc<Epoch> {
        self.epoch.clone()
    }

    /// Applies changes together: readers see all of them or none. Answers whose view may differ now.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Touched {
        let mut affected = BTreeSet::new();
        for change in changes {
            let (source, key, resource) = match change {
                Change::Put(source, resource) => (source, resource.key(), Some(resource)),
                Change::Delete(source, key) => (source, key, None),
            };
            // What comes back from global of what this zone wrote is older news than the zone's own.
            let is_echo =
                |resource: &Arc<Resource>| source == Source::Followed && resource.zone() == Some(&self.zone);
            let resource = resource.filter(|resource| !is_echo(resource));
            // A proxy belongs to the zone that it is in; others' are not this zone's to configure.
            let is_foreign = source == Source::Followed && key.kind == kind::DATAPLANE;
            if !is_foreign {
                affected.extend(self.replace(source, key, resource));
            }
        }
        if affected.is_empty() {
            return Touched::default();
        }
        for (id, contest) in self.claims.settle(|id| Some(self.meshes.get(&id.mesh)?.body(&id.name)?.clone()))
        {
            if let Some(mesh) = self.meshes.get_mut(&id.mesh) {
                mesh.contest(&id.name, contest);
                affected.insert(id.mesh);
            }
        }
        self.publish(affected)
    }

    /// Takes in one resource, or its absence. Answers the mesh that it concerns, if anything is different.
    fn replace(
        &mut self,
        source: Source,
        key: ResourceKey,
        resource: Option<Arc<Resource>>,
    ) -> Option<String> {
        let mesh_name = if key.kind == kind::MESH { &key.name } else { &key.mesh };
        let concerns = key.kind == kind::MESH || (!key.mesh.is_empty() && facts::is_indexed(&key.kind));
        if !concerns {
            return None;
        }
        let mesh_name = mesh_name.clone();
        let place = (source, key.clone());
        let before = match &resource {
            Some(resource) => self.resources.insert(place, resource.clone()),
            None => self.resources.remove(&place),
        };
        let repeated = match (&before, &resource) {
            (None, None) => return None,
            (Some(before), Some(resource)) => {
                // When a Dataplane was made decides who holds an address.
                let same_age = before.creation_time == resource.creation_time || key.kind != kind::DATAPLANE;
                before.labels == resource.labels && before.spec == resource.spec && same_age
            }
            _ => false,
        };
        let zone = &self.zone;
        let mesh = self.meshes.entry(mesh_name.clone()).or_insert_with(|| MeshIndex::new(&mesh_name, zone));
        if repeated {
            // Times and the revision are still shown; nothing follows from them.
            if let (kind::DATAPLANE, Some(resource)) = (key.kind.as_str(), &resource) {
                mesh.reword(resource.clone());
                return Some(mesh_name);
            }
            return None;
        }
        if key.kind == kind::MESH_SERVICE {
            self.problems.set(&key, Found::Relating(source), Vec::new());
        }
        let problems = if key.kind == kind::DATAPLANE {
            let (body, problems) =
                read_dataplane(zone, &key, resource, mesh.body(&key.name), &mut self.outbounds);
            self.claims.replace(mesh.body(&key.name).map(|body| &**body), body.as_deref());
            mesh.put_dataplane(&key.name, body);
            problems
        } else {
            mesh.put(source, &key, resource.as_deref())
        };
        self.problems.set(&key, Found::Reading(source), problems);
        Some(mesh_name)
    }

    fn publish(&mut self, affected: BTreeSet<String>) -> Touched {
        let mut touched = Touched::default();
        let mut next = Epoch::clone(&self.epoch);
        next.number += 1;
        for name in affected {
            let Some(mesh) = self.meshes.get_mut(&name) else { continue };
            let settled = mesh.settle(&mut self.problems);
            let before = self.epoch.meshes.get(&name);
            let had_view = |proxy: &str| before.is_some_and(|room| room.shows(proxy));
            let concerned = settled.touched.iter().filter(|proxy| had_view(proxy) || mesh.room.shows(proxy));
            touched.proxies.extend(concerned.map(|proxy| ProxyId::new(&name, &**proxy)));
            for (proxy, destinations) in settled.moved.iter().filter(|(proxy, _)| mesh.room.shows(proxy)) {
                let id = ProxyId::new(&name, &**proxy);
                touched.proxies.insert(id.clone());
                touched.moved.insert(id, destinations.clone());
            }
            if settled.services {
                next.services_changed_at = next.number;
            }
            if settled.authorities {
                next.authorities_changed_at = next.number;
            }
            if mesh.is_empty() {
                self.meshes.remove(&name);
                next.meshes.remove(&name);
            } else {
                next.meshes.insert(name, mesh.room.clone());
            }
        }
        next.problems = self.problems.all().clone();
        self.epoch = Arc::new(next);
        touched
    }
}

fn read_dataplane(
    zone: &str,
    key: &ResourceKey,
    resource: Option<Arc<Resource>>,
    before: Option<&Arc<Body>>,
    shared: &mut Shared<Vec<Outbound>>,
) -> (Option<Arc<Body>>, Vec<Problem>) {
    let Some(resource) = resource else { return (None, Vec::new()) };
    let read = strict::read::<Dataplane>(&resource.spec, "").map_err(|problem| vec![problem]);
    let checked = read.and_then(|dataplane| match dataplane.check() {
        problems if problems.is_empty() => Ok(dataplane),
        problems => Err(problems),
    });
    match checked {
        Ok(mut dataplane) => {
            let outbounds = std::mem::take(&mut dataplane.networking.outbound);
            let outbounds = match before.filter(|before| *before.outbounds == outbounds) {
                Some(before) => before.outbounds.clone(),
                None => shared.of(hash(&outbounds), outbounds),
            };
            let id = ProxyId::new(&key.mesh, &key.name);
            (Some(Arc::new(Body::new(id, zone, resource, dataplane, outbounds))), Vec::new())
        }
        Err(problems) => (None, problems),
    }
}

fn hash(outbounds: &[Outbound]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for Outbound { address, port, tags, backend_ref } in outbounds {
        (address, port, tags, backend_ref.as_ref().map(|backend| &backend.name)).hash(&mut hasher);
    }
    hasher.finish()
}
