//! The catalog as openraft's state machine. Its state is in memory; on disk are the snapshot and the log since.
use crate::{
    Entry, LogStore, TypeConfig,
    snapshot::{SnapshotBody, Snapshots, close_body, open_body},
    store::is_full,
    types::{LogId, SnapshotMeta, StorageError, StoredMembership},
};
use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError,
    storage::RaftStateMachine,
};
use shared_catalog::{Catalog, Outcome};
use std::{
    io::{self, Cursor},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// How soon a snapshot that found no room is tried again.
const NO_ROOM: Duration = Duration::from_secs(1);

pub struct StateMachine {
    applied: Option<LogId>,
    membership: StoredMembership,
    catalog: Catalog,
    published: watch::Sender<Arc<Catalog>>,
    snapshots: Arc<Snapshots>,
    log: LogStore,
}

impl StateMachine {
    pub(crate) fn new(
        snapshots: Snapshots,
        newest: Option<(SnapshotMeta, Catalog)>,
        log: LogStore,
    ) -> (StateMachine, watch::Receiver<Arc<Catalog>>) {
        let (meta, catalog) = newest.unwrap_or_default();
        let (published, catalogs) = watch::channel(Arc::new(catalog.clone()));
        let machine = StateMachine {
            applied: meta.last_log_id,
            membership: meta.last_membership,
            catalog,
            published,
            snapshots: Arc::new(snapshots),
            log,
        };
        (machine, catalogs)
    }

    /// A clone of the catalog shares its structure: publishing costs nothing that grows.
    fn publish(&self) {
        self.published.send_replace(Arc::new(self.catalog.clone()));
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Vec<Outcome>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let before = self.catalog.revision();
        let mut outcomes = Vec::new();
        for entry in entries {
            // A leader's own entry may be on the disks of a quorum before it is on this one.
            self.log
                .flushed(entry.log_id.index)
                .await
                .map_err(|error| StorageIOError::apply(entry.log_id, AnyError::new(&error)))?;
            self.applied = Some(entry.log_id);
            outcomes.push(match entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(batch) => {
                    batch.0.iter().map(|command| self.catalog.apply(command)).collect()
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Vec::new()
                }
            });
        }
        if self.catalog.revision() != before {
            self.publish();
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let snapshot_id = self.applied.map_or_else(|| "empty".to_owned(), |applied| applied.to_string());
        SnapshotBuilder {
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
                snapshot_id,
            },
            catalog: self.catalog.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotBody>, StorageError> {
        Ok(Box::new(SnapshotBody::empty()))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        body: Box<SnapshotBody>,
    ) -> Result<(), StorageError> {
        let snapshots = self.snapshots.clone();
        let kept = meta.clone();
        let install = move || {
            let bytes = body.bytes();
            let catalog =
                open_body(bytes).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
            snapshots.keep(&kept, &Arc::from(bytes))?;
            Ok(catalog)
        };
        let refused = |error: io::Error| {
            if is_full(&error) {
                self.log.fail(&error);
            }
            StorageIOError::write_snapshot(Some(meta.signature()), AnyError::new(&error))
        };
        self.catalog = blocking(install).await.map_err(refused)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        tracing::info!(
            revision = self.catalog.revision().0,
            "took a snapshot of the catalog from the leader"
        );
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let snapshots = self.snapshots.clone();
        let newest = blocking(move || snapshots.newest())
            .await
            .map_err(|error| StorageIOError::read_snapshot(None, AnyError::new(&error)))?;
        Ok(newest.map(|(meta, body)| sending(meta, body)))
    }
}

/// Holds the catalog as it was; later commands do not touch it.
pub struct SnapshotBuilder {
    meta: SnapshotMeta,
    catalog: Catalog,
    snapshots: Arc<Snapshots>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let (meta, catalog, snapshots) = (self.meta.clone(), self.catalog.clone(), self.snapshots.clone());
        let body = blocking(move || Ok(close_body(&catalog))).await;
        let kept = async {
            let body = body?;
            loop {
                let (snapshots, meta, kept) = (snapshots.clone(), meta.clone(), body.clone());
                match blocking(move || snapshots.keep(&meta, &kept)).await {
                    // The log is kept meanwhile, and the one before stands.
                    Err(error) if is_full(&error) => {
                        tracing::warn!(%error, "no room for a snapshot of the catalog: it is tried again");
                        tokio::time::sleep(NO_ROOM).await;
                    }
                    kept => break kept.map(|()| body),
                }
            }
        };
        let body = kept.await.map_err(|error| {
            StorageIOError::write_snapshot(Some(self.meta.signature()), AnyError::new(&error))
        })?;
        Ok(sending(self.meta.clone(), body))
    }
}

fn sending(meta: SnapshotMeta, body: Arc<[u8]>) -> Snapshot<TypeConfig> {
    Snapshot { meta, snapshot: Box::new(SnapshotBody::Sending(Cursor::new(body))) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
