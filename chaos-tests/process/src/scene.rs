//! What most tests begin with: two zones, a service in two versions in each, and a caller that may call it.
use crate::{Cluster, documents, series, until};
use anyhow::{Context as _, Result, ensure};
use std::net::SocketAddr;

pub const ZONES: [&str; 2] = ["zone-1", "zone-2"];

/// Services in every zone, with identities, and `web` allowed to call.
pub async fn with_services(cluster: &mut Cluster) -> Result<()> {
    cluster.join_services().await?;
    cluster.apply(&documents::identity()).await?;
    cluster.apply(&documents::permission(&ZONES)).await?;
    for zone in ZONES {
        let road = cluster.road(zone, "web")?;
        until_answered(road, "v1").await.with_context(|| format!("in {zone}"))?;
    }
    Ok(())
}

/// Waits until 20 requests in a row are answered by this version.
pub async fn until_answered(road: SocketAddr, version: &str) -> Result<()> {
    until(&format!("requests to be answered by {version}"), || async {
        let tally = series(road, "/", 20).await;
        ensure!(tally.version(version) == 20, "{tally}");
        Ok(())
    })
    .await
}

/// Waits until 20 requests in a row have this status.
pub async fn until_status(road: SocketAddr, status: u16) -> Result<()> {
    until(&format!("requests to be answered with {status}"), || async {
        let tally = series(road, "/", 20).await;
        ensure!(tally.all_are(status), "{tally}");
        Ok(())
    })
    .await
}
