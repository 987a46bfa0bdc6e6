//! What proxies share, and what is carried from change to change, is what it would be from scratch: after any changes,
//! each session holds the snapshot that its view gives when it is assembled from nothing.
#[path = "../../../index/tests/laws/random.rs"]
mod random;

use proptest::prelude::*;
use random::{MESHES, change};
use serde_json::json;
use shared_model::Resource;
use std::{collections::BTreeMap, sync::Arc};
use zone_index::{Change, Index, ProxyId, ProxyView, Source};
use zone_xds::{Identity, Manifests, Session, assemble};

fn identity(view: &ProxyView) -> Option<Identity> {
    let spec = view.identity.as_ref()?;
    Some(Identity {
        chain_pem: spec.uris.join(" "),
        key_pem: format!("{:?}", spec.lifetime),
        version: spec.spiffe_id.clone(),
    })
}

fn mesh(name: &str) -> Change {
    Change::Put(Source::Followed, Arc::new(Resource::new("Mesh", "", name, json!({}))))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_snapshot_is_what_it_would_be_from_scratch(
        batches in prop::collection::vec(prop::collection::vec(prop::array::uniform32(any::<u8>()), 1..4), 1..24)
    ) {
        let mut index = Index::new("here");
        let manifests = Manifests::default();
        let mut sessions: BTreeMap<ProxyId, Session> = BTreeMap::new();
        index.apply(MESHES.iter().map(|name| mesh(name)));
        for batch in batches {
            let touched = index.apply(batch.iter().map(|choices| change(choices)));
            let epoch = index.epoch();
            for id in &touched.proxies {
                let Some(view) = epoch.view_of(id) else {
                    sessions.remove(id);
                    continue;
                };
                let session = sessions.entry(id.clone()).or_default();
                match touched.moved.get(id) {
                    Some(moved) => {
                        let moved: Vec<_> = moved.iter().map(|one| manifests.assignment(one)).collect();
                        session.offer_assignments(&moved, epoch.number());
                    }
                    None => {
                        let (snapshot, problems) = manifests.assemble(&view, identity(&view).as_ref());
                        prop_assert_eq!(problems, assemble(&view, identity(&view).as_ref()).1);
                        session.offer(Arc::new(snapshot), epoch.number());
                    }
                }
            }
            for (id, session) in &sessions {
                let view = epoch.view_of(id).expect("who has none has left");
                let (scratch, _) = assemble(&view, identity(&view).as_ref());
                prop_assert_eq!(&**session.snapshot().expect("it was offered"), &scratch, "{} {:#?}", id, batch);
            }
        }
    }
}
