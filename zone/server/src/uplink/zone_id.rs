//! The id of the zone, in its store: global binds it to the zone's name, so that two zones do not take turns under one.
//! All replicas with one store have one id.
use anyhow::{Context as _, Result, ensure};
use zone_store::ZoneStore;

const NAME: &str = "zone-id";

/// Reads the id, or makes it at the first start: a random one, or `chosen`, for a replica with a store of its own beside
/// another.
pub async fn zone_id(store: &dyn ZoneStore, chosen: Option<&str>) -> Result<String> {
    if let Some(bytes) = store.secret(NAME).await? {
        let id = String::from_utf8(bytes).context("the zone's id in its store is not text")?;
        let same = chosen.is_none_or(|chosen| chosen == id);
        ensure!(same, "--zone-id {} is not the id of this zone's store, {id}", chosen.unwrap_or_default());
        return Ok(id);
    }
    let id = chosen.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    store.put_secret(NAME, id.as_bytes()).await?;
    tracing::info!(zone_id = id, "the zone's store is new");
    Ok(id)
}
