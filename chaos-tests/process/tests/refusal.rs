//! An Envoy refuses what a revision gives it: only that is held back, and everybody can see it.
use anyhow::{Result, ensure};
use chaos_tests_process::{
    Cluster, documents, in_cluster,
    scene::{ZONES, until_answered, until_status, with_services},
};

/// A route that the control plane cannot know to be bad: Envoy's regular expressions repeat at most 1,000 times.
const BAD_ROUTE: &str = "type: MeshHTTPRoute
mesh: default
name: canary
spec:
  targetRef: {kind: Mesh}
  to:
    - targetRef: {kind: MeshService, name: backend}
      rules:
        - matches:
            - path: {type: RegularExpression, value: \"/a{1001}\"}
          default:
            backendRefs:
              - {kind: MeshService, name: backend-v2}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_route_is_held_back_alone_and_shown_with_envoys_reason() -> Result<()> {
    in_cluster(&ZONES, async |cluster: &mut Cluster| {
        with_services(cluster).await?;

        let refused = cluster.apply(BAD_ROUTE).await;
        let said = format!("{:#}", refused.err().map_or_else(String::new, |error| error.to_string()));
        ensure!(
            said.contains("exit status: 3"),
            "weftctl does not tell the refusal by its exit code: {said}"
        );
        ensure!(said.contains("repetition"), "Envoy's reason is not told: {said}");
        let status = cluster.weftctl(&["status", "latest"]).await;
        let shown = format!("{status:?}");
        ensure!(
            shown.contains("repetition") && shown.contains("zone-1-web"),
            "the status shows no refusal: {shown}"
        );

        for zone in ZONES {
            until_answered(cluster.road(zone, "web")?, "v1").await?;
        }
        cluster.delete("meshtrafficpermission", documents::PERMISSION).await?;
        for zone in ZONES {
            until_status(cluster.road(zone, "web")?, 403).await?;
        }
        cluster.apply(&documents::permission(&ZONES)).await?;
        cluster.apply(&documents::route(&[("backend-v2", 1)])).await?;
        for zone in ZONES {
            until_answered(cluster.road(zone, "web")?, "v2").await?;
        }
        Ok(())
    })
    .await
}
