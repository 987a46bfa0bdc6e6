//! The steps of the demo, in order. Each says what it does in its first lines, and what it saw as facts.
use super::story::{Story, Witness};
use anyhow::{Result, bail};
use chaos_tests_process::{
    Load, Tally,
    app::{SLOW, SLOW_PATH},
    documents::{self, FAULT_STATUS},
    http::{self, Connection},
    proxy::{is_aborted, is_denied, is_handshake, is_plaintext_refusal, is_timeout},
    series, until,
};
use std::time::{Duration, Instant};

pub const NAMES: [&str; 11] = [
    "plaintext-refused",
    "denied-by-default",
    "permission",
    "route-split",
    "fault-injection",
    "timeout",
    "policy-deleted",
    "global-killed",
    "zone-restarted",
    "new-proxy-admitted",
    "global-back",
];

/// Requests that show a fact which allows no exception.
const FEW: u64 = 40;

/// How long a connection that is open may outlive its permission: the drain time of `weft-dp`, and the way to Envoy.
const DRAIN: Duration = Duration::from_secs(10);
const WAY: Duration = Duration::from_secs(2);

/// A request that was cut after 500 ms has taken that long, and much less than the application takes.
const CUT: (Duration, Duration) = (Duration::from_millis(480), Duration::from_millis(1_700));

/// Runs every step, also after one has failed: what comes later may still tell something.
pub async fn all(story: &mut Story) {
    for name in NAMES {
        let mut witness = Witness::default();
        let w = &mut witness;
        let result = match name {
            "plaintext-refused" => plaintext_refused(story, w).await,
            "denied-by-default" => denied_by_default(story, w).await,
            "permission" => permission(story, w).await,
            "route-split" => route_split(story, w).await,
            "fault-injection" => fault_injection(story, w).await,
            "timeout" => timeout(story, w).await,
            "policy-deleted" => policy_deleted(story, w).await,
            "global-killed" => global_killed(story, w).await,
            "zone-restarted" => zone_restarted(story, w).await,
            "new-proxy-admitted" => new_proxy_admitted(story, w).await,
            "global-back" => global_back(story, w).await,
            _ => unreachable!("every name has its step"),
        };
        story.tell(name, witness, result);
    }
}

fn v2(tally: &Tally) -> u64 {
    tally.version("v2")
}

fn aborted(tally: &Tally) -> u64 {
    tally.status(FAULT_STATUS)
}

/// A mesh without identities speaks plaintext. A MeshIdentity is applied: plaintext is refused, proxies speak mutual TLS.
async fn plaintext_refused(story: &mut Story, w: &mut Witness) -> Result<()> {
    let mut before = Vec::new();
    for zone in story.zones.clone() {
        let backend = story.cluster.proxy(&zone, "backend")?.inbound;
        let road = story.road(&zone)?;
        until(&format!("backend of {zone} to answer web in plaintext"), || async {
            http::get(road, "/").await?.good().map(|_| ())
        })
        .await?;
        let tally = series(backend, "/", FEW).await;
        w.check(
            tally.all_are(200),
            format!("{zone}: before, plaintext straight to backend's proxy: {tally}"),
        );
        let admin = story.admin(&zone, "backend")?;
        before.push((
            zone.clone(),
            backend,
            admin.sum(is_plaintext_refusal).await?,
            admin.sum(is_handshake).await?,
        ));
    }
    story.apply(w, &documents::identity()).await?;
    for (zone, backend, refused_before, handshakes_before) in before {
        until(&format!("{zone} to refuse plaintext"), || async {
            match http::get(backend, "/").await {
                Ok(answer) => bail!("it answered {}", answer.status),
                Err(_) => Ok(()),
            }
        })
        .await?;
        let tally = series(backend, "/", FEW).await;
        let admin = story.admin(&zone, "backend")?;
        let refused = admin.sum(is_plaintext_refusal).await?.saturating_sub(refused_before);
        w.check(
            tally.all_are(0),
            format!("{zone}: with MeshIdentity, plaintext straight to backend's proxy: {tally}"),
        );
        w.check(refused >= FEW, format!("{zone}: Envoy counts {refused} refused connections"));
        let road = story.road(&zone)?;
        until(&format!("web of {zone} to reach backend by TLS"), || async {
            let status = http::get(road, "/").await?.status;
            match admin.sum(is_handshake).await?.saturating_sub(handshakes_before) {
                0 => bail!("no handshake yet, status {status}"),
                _ => Ok(()),
            }
        })
        .await?;
        let handshakes = admin.sum(is_handshake).await?.saturating_sub(handshakes_before);
        w.check(
            handshakes > 0,
            format!("{zone}: web reaches backend by mutual TLS: {handshakes} handshakes"),
        );
    }
    Ok(())
}

/// Nothing is allowed yet: every request is refused by backend's proxy.
async fn denied_by_default(story: &mut Story, w: &mut Witness) -> Result<()> {
    for zone in story.zones.clone() {
        let road = story.road(&zone)?;
        // The certificates of the other side may come a moment after the own ones.
        until(&format!("{zone} to answer 403"), || async {
            match http::get(road, "/").await?.status {
                403 => Ok(()),
                status => bail!("it answered {status}"),
            }
        })
        .await?;
        denied(story, w, &zone, "no permission").await?;
    }
    Ok(())
}

/// Checks that requests are denied, by their status and by the counter of backend's Envoy.
async fn denied(story: &Story, w: &mut Witness, zone: &str, when: &str) -> Result<()> {
    let before = story.backends_sum(zone, is_denied).await?;
    let tally = series(story.road(zone)?, "/", FEW).await;
    let counted = story.backends_sum(zone, is_denied).await?.saturating_sub(before);
    w.check(tally.all_are(403), format!("{zone}: {when}: {tally}"));
    w.check(counted == FEW, format!("{zone}: Envoy counts {counted} denied"));
    Ok(())
}

async fn permission(story: &mut Story, w: &mut Witness) -> Result<()> {
    allow_web(story, w).await?;
    for zone in story.zones.clone() {
        let before = story.backends_sum(&zone, is_denied).await?;
        let tally = series(story.road(&zone)?, "/", FEW).await;
        let counted = story.backends_sum(&zone, is_denied).await?.saturating_sub(before);
        w.check(tally.all_are(200), format!("{zone}: with MeshTrafficPermission for web: {tally}"));
        w.check(counted == 0, format!("{zone}: Envoy counts {counted} denied"));
    }
    Ok(())
}

async fn allow_web(story: &mut Story, w: &mut Witness) -> Result<()> {
    let zones: Vec<&str> = story.cluster.zones.keys().map(String::as_str).collect();
    let document = documents::permission(&zones);
    story.apply(w, &document).await
}

async fn route_split(story: &mut Story, w: &mut Witness) -> Result<()> {
    for zone in story.zones.clone() {
        let tally = story.share(w, &zone, "before, v2 answered", 0.0, v2).await?;
        w.check(tally.all_are(200), format!("{zone}: before: {tally}"));
    }
    story.apply(w, &documents::route(&[("backend", 90), ("backend-v2", 10)])).await?;
    for zone in story.zones.clone() {
        let tally = story.share(w, &zone, "with MeshHTTPRoute 90/10, v2 answered", 0.1, v2).await?;
        w.check(tally.all_are(200), format!("{zone}: with the route: {tally}"));
    }
    Ok(())
}

async fn fault_injection(story: &mut Story, w: &mut Witness) -> Result<()> {
    for zone in story.zones.clone() {
        story.share(w, &zone, &format!("before, aborted with {FAULT_STATUS}"), 0.0, aborted).await?;
    }
    story.apply(w, &documents::fault(50)).await?;
    for zone in story.zones.clone() {
        let before = story.backends_sum(&zone, is_aborted).await?;
        let what = format!("with MeshFaultInjection 50 %, aborted with {FAULT_STATUS}");
        let tally = story.share(w, &zone, &what, 0.5, aborted).await?;
        let counted = story.backends_sum(&zone, is_aborted).await?.saturating_sub(before);
        let seen = aborted(&tally);
        w.check(counted == seen, format!("{zone}: Envoy counts {counted} aborts, {seen} were seen"));
        w.check(seen + tally.status(200) == tally.total, format!("{zone}: with the fault: {tally}"));
    }
    Ok(())
}

/// The route and the fault stay: half of the slow requests are aborted before they become slow.
async fn timeout(story: &mut Story, w: &mut Witness) -> Result<()> {
    for zone in story.zones.clone() {
        let tally = series(story.road(&zone)?, SLOW_PATH, 8).await;
        w.check(
            tally.status(504) == 0,
            format!("{zone}: before, a path that takes {} s: {tally}", SLOW.as_secs()),
        );
    }
    story.apply(w, &documents::timeout("500ms")).await?;
    for zone in story.zones.clone() {
        let before = story.admin(&zone, "web")?.sum(is_timeout).await?;
        let mut connection = Connection::open(story.road(&zone)?).await?;
        let mut tally = Tally::default();
        let (mut shortest, mut longest) = (Duration::MAX, Duration::ZERO);
        while tally.status(504) < 10 && tally.total < 200 {
            let start = Instant::now();
            let answer = connection.get(SLOW_PATH).await?;
            if answer.status == 504 {
                (shortest, longest) = (shortest.min(start.elapsed()), longest.max(start.elapsed()));
            }
            tally.count(answer.status, &answer.body);
        }
        let cut = tally.status(504);
        let counted = story.admin(&zone, "web")?.sum(is_timeout).await?.saturating_sub(before);
        let good = cut >= 10 && cut + aborted(&tally) == tally.total;
        w.check(good, format!("{zone}: with MeshTimeout 500 ms: {tally}"));
        let in_time = shortest >= CUT.0 && longest <= CUT.1;
        w.check(
            in_time,
            format!("{zone}: the 504 came after {} to {} ms", shortest.as_millis(), longest.as_millis()),
        );
        w.check(counted == cut, format!("{zone}: Envoy counts {counted} timeouts"));
    }
    Ok(())
}

/// Everything goes back to what it was; then a permission is withdrawn under an open connection.
async fn policy_deleted(story: &mut Story, w: &mut Witness) -> Result<()> {
    story.delete(w, "MeshTimeout", documents::TIMEOUT).await?;
    story.delete(w, "MeshFaultInjection", documents::FAULT).await?;
    story.delete(w, "MeshHTTPRoute", documents::ROUTE).await?;
    for zone in story.zones.clone() {
        let tally = story.share(w, &zone, "after the deletion of the route, v2 answered", 0.0, v2).await?;
        let faults = aborted(&tally);
        w.check(
            faults == 0,
            format!("{zone}: after the deletion of the fault, aborted: {faults} of {}", tally.total),
        );
        w.check(tally.all_are(200), format!("{zone}: after all deletions: {tally}"));
        let tally = series(story.road(&zone)?, SLOW_PATH, 8).await;
        w.check(
            tally.all_are(200),
            format!("{zone}: after the deletion of the timeout, the slow path: {tally}"),
        );
    }
    withdraw_permission(story, w).await
}

/// The connections are kept: those of the clients, and behind them those between the proxies.
async fn withdraw_permission(story: &mut Story, w: &mut Witness) -> Result<()> {
    let mut kept = Vec::new();
    for zone in story.zones.clone() {
        let mut connection = Connection::open(story.road(&zone)?).await?;
        let status = connection.get("/").await?.status;
        w.check(status == 200, format!("{zone}: on a kept connection, with permission: {status}"));
        kept.push((zone, connection));
    }
    let start = Instant::now();
    let revision = story.cluster.delete("MeshTrafficPermission", documents::PERMISSION).await?;
    for (zone, connection) in &mut kept {
        let mut status = connection.get("/").await?.status;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while status == 200 && start.elapsed() < DRAIN + WAY {
            look.tick().await;
            status = connection.get("/").await?.status;
        }
        let after = start.elapsed().as_millis();
        w.check(status == 403, format!("{zone}: permission withdrawn (revision {revision}), the kept connection: {status} after {after} ms"));
        let mut tally = Tally::default();
        for _ in 0..FEW {
            let answer = connection.get("/").await?;
            tally.count(answer.status, &answer.body);
        }
        w.check(tally.all_are(403), format!("{zone}: from then on, on the same connection: {tally}"));
    }
    story.until_drained().await?;
    for (zone, _) in &kept {
        denied(story, w, zone, "without the permission").await?;
    }
    // The step's revision is that of the deletion; the permission comes back for the steps that follow.
    let mut again = Witness::default();
    allow_web(story, &mut again).await?;
    for (zone, connection) in &mut kept {
        let status = connection.get("/").await?.status;
        w.check(status == 200, format!("{zone}: permission applied again: {status}"));
    }
    Ok(())
}

/// SIGKILL to global: the zones and their traffic do not notice.
async fn global_killed(story: &mut Story, w: &mut Witness) -> Result<()> {
    let loads = start_loads(story)?;
    let api = story.cluster.global.api;
    story.cluster.global.kill()?;
    w.check(
        http::get(api, "/").await.is_err(),
        format!("global-cp was killed with SIGKILL: {api} answers no more"),
    );
    for zone in story.zones.clone() {
        let tally = series(story.road(&zone)?, "/", 1_000).await;
        w.check(tally.all_are(200), format!("{zone}: without global: {tally}"));
    }
    stop_loads(w, loads, "from before the kill until now").await;
    Ok(())
}

fn start_loads(story: &Story) -> Result<Vec<(String, Load)>> {
    story.zones.iter().map(|zone| Ok((zone.clone(), Load::start(story.road(zone)?)))).collect()
}

async fn stop_loads(w: &mut Witness, loads: Vec<(String, Load)>, when: &str) {
    for (zone, load) in loads {
        let tally = load.stop().await;
        w.check(tally.all_are(200), format!("{zone}: steady traffic {when}: {tally}"));
    }
}

/// SIGKILL to the control plane of zone-1 too; it starts again from its disk.
async fn zone_restarted(story: &mut Story, w: &mut Witness) -> Result<()> {
    let zone = story.zones[0].clone();
    let loads = start_loads(story)?;
    let path = format!("/meshes/{}/meshtrafficpermissions/{}", documents::MESH, documents::PERMISSION);
    let before = story.cluster.zone(&zone)?.control_plane.get(&path).await?.text();
    story.cluster.zone_mut(&zone)?.control_plane.kill()?;
    let tally = series(story.road(&zone)?, "/", 500).await;
    w.check(tally.all_are(200), format!("{zone}: its zone-cp was killed with SIGKILL: {tally}"));
    for proxy in story.cluster.zone(&zone)?.proxies.values() {
        until(&format!("{} to notice", proxy.spec.name), || async {
            match proxy.admin.sum(is_control_connection).await? {
                0 => Ok(()),
                _ => bail!("it is still connected"),
            }
        })
        .await?;
    }
    let start = Instant::now();
    story.cluster.zone_mut(&zone)?.control_plane.start().await?;
    w.saw(format!(
        "{zone}: zone-cp was ready from its disk after {} ms, global still away",
        start.elapsed().as_millis()
    ));
    let after = story.cluster.zone(&zone)?.control_plane.get(&path).await?.text();
    w.check(after == before, format!("{zone}: it still has the permission that global gave it"));
    for proxy in story.cluster.zone(&zone)?.proxies.values() {
        until(&format!("{} to be connected again", proxy.spec.name), || async {
            match proxy.admin.sum(is_control_connection).await? {
                0 => bail!("it is not connected"),
                _ => Ok(()),
            }
        })
        .await?;
    }
    w.saw(format!("{zone}: its {} Envoys are connected again", story.cluster.zone(&zone)?.proxies.len()));
    story.until_drained().await?;
    for zone in story.zones.clone() {
        let tally = series(story.road(&zone)?, "/", 500).await;
        w.check(tally.all_are(200), format!("{zone}: after the restart: {tally}"));
    }
    stop_loads(w, loads, "from before the kill until now").await;
    Ok(())
}

/// The connections of an Envoy to its zone's control plane.
fn is_control_connection(name: &str) -> bool {
    name.starts_with("cluster.") && name.contains("ads") && name.ends_with(".upstream_cx_active")
}

/// Global is still away. A proxy that nobody has seen before joins zone-1, with a token that was made earlier.
async fn new_proxy_admitted(story: &mut Story, w: &mut Witness) -> Result<()> {
    let zone = story.zones[0].clone();
    if story.cluster.global.is_running() {
        bail!("global runs");
    }
    let before = story.admin(&zone, "backend")?.sum(is_handshake).await?;
    let start = Instant::now();
    story.cluster.join(&zone, "web-new", "web", "v1", Some("backend")).await?;
    w.saw(format!(
        "{zone}: a new proxy was live after {} ms, global still away",
        start.elapsed().as_millis()
    ));
    let road = story.cluster.road(&zone, "web-new")?;
    until("the new proxy to reach backend", || async { http::get(road, "/").await?.good().map(|_| ()) })
        .await?;
    let tally = series(road, "/", 200).await;
    let handshakes = story.admin(&zone, "backend")?.sum(is_handshake).await?.saturating_sub(before);
    let good = tally.all_are(200) && tally.version("v1") == tally.total && tally.zone(&zone) == tally.total;
    w.check(good, format!("{zone}: through the new proxy: {tally}"));
    w.check(handshakes > 0, format!("{zone}: backend's Envoy counts {handshakes} new handshakes, with the certificate that the zone issued"));
    Ok(())
}

/// Global starts again on its disk: a new policy reaches both zones, and the new proxy.
async fn global_back(story: &mut Story, w: &mut Witness) -> Result<()> {
    let before = story.in_force.0.unwrap_or(0);
    let start = Instant::now();
    story.cluster.global.start().await?;
    story.cluster.until_zones_are_online().await?;
    w.saw(format!("both zones were online {} ms after the start of global-cp", start.elapsed().as_millis()));
    story.apply(w, &documents::route(&[("backend-v2", 1)])).await?;
    let now = w.revision.unwrap_or(0);
    w.check(now > before, format!("the revisions go on: {now} after {before}"));
    let mut roads = Vec::new();
    for zone in &story.zones {
        roads.push((format!("{zone}: web"), story.road(zone)?));
    }
    roads.push((
        format!("{}: the new proxy", story.zones[0]),
        story.cluster.road(&story.zones[0], "web-new")?,
    ));
    for (who, road) in roads {
        let tally = series(road, "/", 200).await;
        w.check(tally.version("v2") == tally.total, format!("{who}, with MeshHTTPRoute to v2 only: {tally}"));
    }
    Ok(())
}
