//! Global is lost and restored from a backup that is older than what a zone has seen.
use anyhow::{Context, Result, bail, ensure};
use chaos_tests_process::{Cluster, documents, http, in_cluster, until};
use serde_json::{Value, json};
use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _};

fn path_of(name: &str) -> String {
    format!("/meshes/{}/meshtimeouts/{name}", documents::MESH)
}

/// Writes a policy; its revision.
async fn write(cluster: &Cluster, name: &str, timeout: &str) -> Result<u64> {
    let spec = json!({"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": timeout}}]});
    let document = json!({"type": "MeshTimeout", "mesh": documents::MESH, "name": name, "spec": spec});
    let reply: Value = cluster.global.put(&path_of(name), &document).await?.json()?;
    reply["revision"].as_u64().context("a write answers its revision")
}

/// Whether a control plane has a policy, read as it is there.
async fn has(api: SocketAddr, name: &str) -> Result<bool> {
    Ok(http::get(api, &format!("{}?consistency=stale", path_of(name))).await?.good().is_ok())
}

async fn until_it(api: SocketAddr, has_it: bool, name: &str) -> Result<()> {
    until(&format!("{api} to have {name}: {has_it}"), || async {
        ensure!(has(api, name).await? == has_it, "not yet");
        Ok(())
    })
    .await
}

async fn refused(cluster: &Cluster, args: &[&str]) -> Result<String> {
    match cluster.weftctl(args).await {
        Ok(out) => bail!("weftctl {args:?} was not refused: {out}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_saw_later_revisions_follows_a_restored_global_only_when_an_operator_says_so()
-> Result<()> {
    in_cluster(&["zone-1", "zone-2"], async |cluster: &mut Cluster| {
        let kept = write(cluster, "kept", "1h").await?;
        cluster.until_done(kept).await?;
        cluster.zone_mut("zone-2")?.control_plane.kill()?;
        let file = cluster.dir.join("weft.backup");
        let file = file.to_str().context("a path of text")?.to_owned();
        let said = cluster.weftctl(&["backup", &file]).await?;
        ensure!(said.contains("of epoch 1"), "{said}");
        ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "others may read the backup");
        let again = refused(cluster, &["backup", &file]).await?;
        ensure!(again.contains("--force"), "{again}");
        let later = write(cluster, "later", "2h").await?;
        write(cluster, "kept", "3h").await?;
        let first = cluster.zone("zone-1")?.control_plane.api;
        until_it(first, true, "later").await?;

        // Everything of global is gone but the backup and a copy of the seal key.
        let (dir, key) = (cluster.global.data_dir.clone(), cluster.dir.join("seal.key.copy"));
        fs::copy(dir.join("seal.key"), &key)?;
        cluster.global.kill()?;
        fs::remove_dir_all(&dir)?;
        let wrong = cluster.dir.join("wrong.key");
        fs::write(&wrong, [7; 32])?;
        let [dir, key, wrong] = [&dir, &key, &wrong].map(|path| path.to_string_lossy().into_owned());
        let restore = |key| ["restore", file.as_str(), "--data-dir", &dir, "--seal-key-file", key];
        let said = refused(cluster, &restore(&wrong)).await?;
        ensure!(said.contains("the seal key is not the one of the backup"), "{said}");
        ensure!(!fs::exists(&dir)?, "something was written before the key was verified");
        let said = cluster.weftctl(&restore(&key)).await?;
        ensure!(said.contains("epoch 2-"), "{said}");
        let said = refused(cluster, &restore(&key)).await?;
        ensure!(said.contains("is not empty"), "{said}");
        cluster.global.start().await?;
        let first_new = write(cluster, "after", "4h").await?;
        ensure!(first_new > later + 1_000, "revision {first_new} may have had another meaning before");

        // Who saw nothing later follows by itself.
        cluster.zone_mut("zone-2")?.control_plane.start().await?;
        let second = cluster.zone("zone-2")?.control_plane.api;
        until_it(second, true, "after").await?;
        // The other one keeps what it has, and both sides say why.
        until("global to say that zone-1 waits", || async {
            let zones = cluster.weftctl(&["get", "zones"]).await?;
            let waits = zones
                .lines()
                .any(|line| line.contains("zone-1") && line.contains("waits for accept-restore"));
            ensure!(waits && !zones.contains("zone-2   waits"), "{zones}");
            Ok(())
        })
        .await?;
        let log = fs::read_to_string(cluster.zone("zone-1")?.control_plane.log())?;
        ensure!(log.contains("weftctl zone accept-restore zone-1"), "the zone does not say what to do");
        ensure!(has(first, "later").await? && !has(first, "after").await?, "zone-1 has followed by itself");

        // Restarted, it still does not.
        cluster.zone_mut("zone-1")?.control_plane.kill()?;
        cluster.zone_mut("zone-1")?.control_plane.start().await?;
        ensure!(has(first, "later").await? && !has(first, "after").await?, "zone-1 has followed by itself");
        cluster.weftctl(&["zone", "accept-restore", "zone-1"]).await?;
        until_it(first, true, "after").await?;
        until_it(first, false, "later").await?;
        cluster.until_zones_are_online().await?;
        let last = write(cluster, "last", "5h").await?;
        cluster.until_done(last).await?;
        let status = cluster.weftctl(&["cluster", "status"]).await?;
        ensure!(status.contains("epoch 2-"), "{status}");
        Ok(())
    })
    .await
}
