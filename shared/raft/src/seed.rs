//! A data directory that begins in the middle of a history: what a restore leaves for a voter to start from.
use crate::{
    Error, Member, SnapshotBody, Storage,
    snapshot::close_body,
    storage::GLOBAL,
    types::{LogId, SnapshotMeta, StoredMembership, Vote},
};
use openraft::{
    CommittedLeaderId, Membership,
    storage::{RaftLogStorage as _, RaftStateMachine as _},
};
use shared_catalog::Catalog;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    path::Path,
};

/// Where the history begins: the log entry that the catalog counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub term: u64,
    pub index: u64,
}

/// Fills an empty directory with a catalog, as the only voter of a cluster that others know by its id. A replica that
/// follows takes the catalog as a snapshot, which the place must make newer than all that it has.
pub async fn seed(
    dir: &Path,
    node_id: u64,
    cluster_id: &str,
    place: Place,
    catalog: &Catalog,
) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Stopped(error.to_string());
    let (own, cluster) = (dir.to_owned(), cluster_id.to_owned());
    let open = move || {
        let mut storage = Storage::open(&own, GLOBAL, || node_id)?;
        storage.set_cluster_id(&cluster)?;
        Ok(storage)
    };
    let opened: Result<Storage, Error> =
        tokio::task::spawn_blocking(open).await.map_err(|error| failed(&error))?;
    let Storage { mut log, mut machine, .. } = opened?;
    let log_id = LogId::new(CommittedLeaderId::new(place.term, node_id), place.index);
    let nodes = BTreeMap::from([(node_id, Member::default())]);
    let membership = Membership::new(vec![BTreeSet::from([node_id])], nodes);
    let meta = SnapshotMeta {
        last_log_id: Some(log_id),
        last_membership: StoredMembership::new(Some(log_id), membership),
        snapshot_id: log_id.to_string(),
    };
    let body = SnapshotBody::Receiving(Cursor::new(close_body(catalog).to_vec()));
    machine.install_snapshot(&meta, Box::new(body)).await.map_err(|error| failed(&error))?;
    log.save_vote(&Vote::new(place.term, node_id)).await.map_err(|error| failed(&error))?;
    log.purge(log_id).await.map_err(|error| failed(&error))
}
