//! The oracle, for tests and for hunting faults: with `WEFT_VERIFY=1` all that is carried from change to change is
//! compared with what it would be from scratch. It costs a whole zone per change.
use crate::metrics::Metrics;
use shared_catalog::Catalog;
use std::sync::Arc;
use zone_index::{Change, Epoch, Index, ProxyId, ProxyView, Source};
use zone_xds::{Identity, Snapshot, Type, assemble};

/// Compares, or does nothing.
#[derive(Clone)]
pub struct Oracle(Option<Metrics>);

impl Oracle {
    pub fn new(wanted: bool, metrics: &Metrics) -> Oracle {
        if wanted {
            tracing::warn!("everything is computed twice, as WEFT_VERIFY asks");
        }
        Oracle(wanted.then(|| metrics.clone()))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Compares what a proxy was offered with what its view gives.
    pub fn snapshot(&self, offered: &Snapshot, view: &ProxyView, identity: Option<&Identity>) {
        let Some(metrics) = &self.0 else { return };
        let (scratch, _) = assemble(view, identity);
        if *offered == scratch {
            return;
        }
        metrics.verify_mismatches.inc();
        let differs = |kind: &Type| !offered.iter(*kind).eq(scratch.iter(*kind));
        let kinds: Vec<&str> = Type::ALL.into_iter().filter(differs).map(Type::name).collect();
        tracing::error!(
            mesh = view.id.mesh,
            proxy = view.id.name,
            epoch = view.epoch,
            ?kinds,
            "the snapshot that was offered is not what it would be from scratch"
        );
    }

    /// Compares every view of an epoch with those of an index that reads the catalogs anew.
    pub fn epoch(
        &self,
        epoch: &Arc<Epoch>,
        catalogs: [(Source, &Catalog); 2],
        counts: impl Fn(&Change) -> bool,
    ) {
        let Some(metrics) = &self.0 else { return };
        let mut index = Index::new(epoch.zone());
        let put = |source| move |resource: &Arc<_>| Change::Put(source, Arc::clone(resource));
        let all = catalogs.into_iter().flat_map(|(source, catalog)| catalog.iter().map(put(source)));
        index.apply(all.filter(counts));
        let scratch = index.epoch();
        let said = |epoch: &Epoch, id: &ProxyId| {
            epoch.view_of(id).map(|view| format!("{:?}", ProxyView { epoch: 0, ..view }))
        };
        let mut ids: Vec<ProxyId> = epoch.proxies(None).chain(scratch.proxies(None)).collect();
        ids.sort();
        ids.dedup();
        for id in ids.iter().filter(|id| said(epoch, id) != said(&scratch, id)) {
            metrics.verify_mismatches.inc();
            tracing::error!(
                mesh = id.mesh,
                proxy = id.name,
                epoch = epoch.number(),
                "the view is not what it would be from scratch"
            );
        }
    }
}
