//! What holds after any sequence of changes: the index is what it would be from scratch, and exactly the proxies whose
//! view is another one were touched; those that are told of endpoints alone differ in just these.
mod random;

use proptest::prelude::*;
use random::{MESHES, change};
use serde_json::json;
use shared_model::{Resource, ResourceKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use zone_index::{Change, Destination, Destinations, Endpoint, Index, ProxyId, Source, Touched};

/// All that an index says, of which nothing depends on how it came to be.
#[derive(Debug, PartialEq)]
struct Said {
    views: BTreeMap<ProxyId, String>,
    /// The views without any endpoints.
    fronts: BTreeMap<ProxyId, String>,
    /// Where each view's destinations lead.
    endpoints: BTreeMap<ProxyId, BTreeMap<String, Vec<Endpoint>>>,
    services: String,
    authorities: String,
    problems: String,
    matched: BTreeMap<ResourceKey, usize>,
    destinations: String,
}

fn said(index: &Index, policies: &BTreeSet<ResourceKey>) -> Said {
    let epoch = index.epoch();
    let view = |id: ProxyId| {
        let mut view = epoch.view_of(&id)?;
        view.epoch = 0;
        Some((id, format!("{view:#?}")))
    };
    let front = |id: ProxyId| {
        let mut view = epoch.view_of(&id)?;
        let fronts: Vec<_> =
            view.destinations.iter().map(|destination| destination.front().clone()).collect();
        (view.epoch, view.destinations) = (0, Destinations::default());
        Some((id, format!("{view:#?} {fronts:#?}")))
    };
    let endpoints = |id: ProxyId| {
        let view = epoch.view_of(&id)?;
        let of =
            |destination: &Arc<Destination>| (destination.key.to_string(), destination.endpoints.to_vec());
        Some((id, view.destinations.iter().map(of).collect()))
    };
    let destinations: Vec<_> = MESHES.iter().flat_map(|mesh| epoch.destinations(mesh)).collect();
    Said {
        views: epoch.proxies(None).filter_map(view).collect(),
        fronts: epoch.proxies(None).filter_map(front).collect(),
        endpoints: epoch.proxies(None).filter_map(endpoints).collect(),
        services: format!("{:#?}", epoch.services_wanted()),
        authorities: format!("{:#?}", epoch.authorities_wanted()),
        problems: format!("{:#?}", epoch.problems()),
        matched: policies.iter().map(|key| (key.clone(), epoch.matched(key))).collect(),
        destinations: format!("{destinations:#?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_is_what_it_would_be_from_scratch_and_touches_whom_it_changes(
        batches in prop::collection::vec(prop::collection::vec(prop::array::uniform32(any::<u8>()), 1..4), 1..24)
    ) {
        let mut index = Index::new("here");
        index.apply(MESHES.iter().map(|name| Change::Put(Source::Followed, Arc::new(Resource::new("Mesh", "", name, json!({}))))));
        let mut model: BTreeMap<(Source, ResourceKey), Arc<Resource>> = MESHES
            .iter()
            .map(|name| Resource::new("Mesh", "", name, json!({})))
            .map(|mesh| ((Source::Followed, mesh.key()), Arc::new(mesh)))
            .collect();
        let mut policies = BTreeSet::new();
        for batch in batches {
            // One change to a resource in a batch: a change and its reverse together touch for nothing.
            let changes: BTreeMap<(Source, ResourceKey), Change> = batch
                .iter()
                .map(|choices| change(choices))
                .map(|change| match &change {
                    Change::Put(source, resource) => ((*source, resource.key()), change),
                    Change::Delete(source, key) => ((*source, key.clone()), change.clone()),
                })
                .collect();
            for (place, change) in &changes {
                policies.insert(place.1.clone());
                match change {
                    Change::Put(_, resource) => model.insert(place.clone(), resource.clone()),
                    Change::Delete(..) => model.remove(place),
                };
            }
            let before = said(&index, &policies);
            let Touched { proxies: touched, moved } = index.apply(changes.values().cloned());
            let after = said(&index, &policies);
            let ids: BTreeSet<&ProxyId> = before.views.keys().chain(after.views.keys()).collect();
            let changed: BTreeSet<ProxyId> =
                ids.into_iter().filter(|id| before.views.get(id) != after.views.get(id)).cloned().collect();
            prop_assert_eq!(&touched, &changed, "after {:#?}", changes);
            for id in &touched {
                let only_moved = before.fronts.get(id) == after.fronts.get(id);
                prop_assert_eq!(moved.contains_key(id), only_moved, "{} after {:#?}", id, changes);
                let Some(moved) = moved.get(id) else { continue };
                let (were, are) = (&before.endpoints[id], &after.endpoints[id]);
                let differ: BTreeSet<String> =
                    are.iter().filter(|(key, now)| were[*key] != **now).map(|(key, _)| key.clone()).collect();
                let told: BTreeMap<String, Vec<Endpoint>> =
                    moved.iter().map(|d| (d.key.to_string(), d.endpoints.to_vec())).collect();
                prop_assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), differ);
                prop_assert!(told.iter().all(|(key, now)| are[key] == *now));
            }
            let mut scratch = Index::new("here");
            scratch.apply(model.iter().rev().map(|((source, _), resource)| Change::Put(*source, resource.clone())));
            prop_assert_eq!(&after, &said(&scratch, &policies), "after {:#?}", changes);
        }
    }
}
