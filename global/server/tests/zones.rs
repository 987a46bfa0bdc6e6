//! Real `zone-cp` processes that follow three real `global-cp` processes, and an operator with `weftctl`.
mod nodes;

use nodes::{House, Zone};
use serde_json::{Value, json};
use tempfile::TempDir;

const OVERVIEW: &str = "/zones/east/_overview?consistency=stale";

/// The word of the first node that is asked, of one revision in the only zone.
async fn told(house: &House, node: usize, revision: u64, wanted: impl Fn(&Value) -> bool) -> Value {
    house.until(node, &format!("/_revisions/{revision}"), |_, status| wanted(&status["zones"][0])).await
}

/// Writes a Mesh; gives its revision.
async fn written(house: &House, mesh: &str) -> u64 {
    let (status, body) = house.put(0, mesh, &[]).await;
    assert_eq!(status, 201, "{body}");
    body["revision"].as_u64().expect("a revision")
}

async fn bound_to(house: &House) -> String {
    let zone = house.until(0, "/zones/east", |status, _| status == 200).await;
    zone["status"]["zoneId"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_of_a_zone_are_one_and_a_third_with_another_id_is_refused_until_a_rebind() {
    let house = House::of_three(TempDir::new().expect("a directory")).await;
    let http = house.http.clone();
    let mut one = Zone::at(&house, "east", "east-1").await;
    one.start();
    let revision = written(&house, "first").await;
    one.has(&http, "first").await;
    let id = bound_to(&house).await;
    let mut two = Zone::at(&house, "east", "east-2").await;
    two.zone_id = Some(id.clone());
    two.start();
    two.has(&http, "first").await;
    for node in 0..3 {
        told(&house, node, revision, |zone| zone["done"] == true && zone["online"] == true).await;
    }

    // What the zone says is what both say: it is not done while one of them has not applied.
    two.signal("-STOP");
    let revision = written(&house, "second").await;
    one.has(&http, "second").await;
    told(&house, 0, revision, |zone| zone["applied"] == false && zone["online"] == true).await;
    two.signal("-CONT");
    told(&house, 0, revision, |zone| zone["done"] == true).await;

    // One is enough to go on.
    one.kill();
    let revision = written(&house, "third").await;
    two.has(&http, "third").await;
    let status = told(&house, 1, revision, |zone| zone["done"] == true).await;
    assert_eq!(status["zones"][0]["online"], true, "{status}");

    // Another store under the name stays outside, and both sides say what to do.
    let mut stranger = Zone::at(&house, "east", "stranger").await;
    stranger.start();
    let reason = "the name east belongs to another zone: this one has the id";
    stranger.says(reason).await;
    stranger.says("weftctl zone rebind east").await;
    assert!(house.nodes[0].log().contains(reason), "{}", house.nodes[0].log());
    assert!(!stranger.shows(&http, "first").await && stranger.runs());
    assert_eq!(bound_to(&house).await, id);

    stranger.kill();
    let (good, text) = house.weftctl(house.nodes[1].api, "zone rebind east").await;
    assert!(good && text.starts_with("the name east is for the next one to come (revision "), "{text}");
    two.says("the name east was taken from this zone").await;
    two.says(&format!("weftctl zone rebind east --to {id}")).await;
    stranger.start();
    stranger.has(&http, "first").await;
    let new = bound_to(&house).await;
    assert_ne!(new, id);
    assert!(two.shows(&http, "first").await, "it goes on with what it has");

    // And back, by the id that its log tells.
    let (good, text) = house.weftctl(house.nodes[2].api, &format!("zone rebind east --to {id}")).await;
    assert!(good && text.contains(&format!("for the zone with the id {id}")), "{text}");
    written(&house, "fourth").await;
    two.has(&http, "fourth").await;
    // What took the name is refused as the other was.
    stranger.says(&format!("this one has the id {new}, the name is bound to {id}")).await;
    assert_eq!(bound_to(&house).await, id);
    let (good, text) = house.weftctl(house.nodes[0].api, "zone rebind nowhere").await;
    assert!(!good && text.contains("nowhere"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_gets_tokens_at_a_zone_while_any_quorum_lives() {
    let mut house = House::of_three(TempDir::new().expect("a directory")).await;
    let http = house.http.clone();
    let mut zone = Zone::of(&house, "east").await;
    zone.start();
    written(&house, "shop").await;
    zone.has(&http, "shop").await;
    let ask = "generate dataplane-token --mesh shop --name web-1 --valid-for 1h";
    let (good, token) = house.weftctl(zone.api, ask).await;
    assert!(good && token.trim().split('.').count() == 3, "{token}");
    // Global knows nobody who calls from the zone's host.
    let url = format!("http://{}/tokens/dataplane", zone.api);
    let asked = json!({"mesh": "shop", "name": "web-1", "validFor": "1h"});
    let answer = http.post(&url).json(&asked).send().await.expect("an answer");
    assert_eq!(answer.status(), 401);

    let (leader, _) = house.leader().await;
    house.nodes[leader].kill();
    let other = (leader + 1) % 3;
    house.until(other, "/meshes/shop", |status, _| status == 200).await;
    let (good, token) = house.weftctl(zone.api, ask).await;
    assert!(good && token.trim().split('.').count() == 3, "{token}");

    house.nodes[other].kill();
    let last = (leader + 2) % 3;
    house.until(last, "/meshes/shop", |status, _| status == 503).await;
    let (good, why) = house.weftctl(zone.api, ask).await;
    assert!(!good && why.contains("global signs the tokens") && why.contains("quorum"), "{why}");
    house.nodes[last].kill();
    let (good, why) = house.weftctl(zone.api, ask).await;
    assert!(!good && why.contains("cannot reach global"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_is_deleted_through_any_node_and_by_none_while_it_is_linked_to_one() {
    let mut house = House::of_three(TempDir::new().expect("a directory")).await;
    let http = house.http.clone();
    // Zones do not find the third node.
    let nowhere = format!("https://{}", nodes::port());
    house.nodes[2].kill();
    house.nodes[2].args = vec!["--link-advertise".to_owned(), nowhere.clone()];
    house.nodes[2].start(None);
    house.nodes[2].ready(&http).await;
    house.until_status("its new address", |nodes| nodes.iter().any(|node| node["link"] == nowhere)).await;
    let mut zone = Zone::of(&house, "east").await;
    zone.start();
    written(&house, "shop").await;
    zone.has(&http, "shop").await;
    for node in [0, 1] {
        house.until(node, OVERVIEW, |_, zone| is_linked(zone)).await;
    }
    let (_, _, overview) = house.get(2, OVERVIEW).await;
    assert!(!is_linked(&overview), "{overview}");

    let delete = format!("http://{}/zones/east", house.nodes[2].api);
    let answer = http.delete(&delete).send().await.expect("an answer");
    assert_eq!(answer.status(), 409);
    assert!(answer.text().await.expect("a text").contains("is online"));
    zone.kill();
    for node in [0, 1] {
        house.until(node, OVERVIEW, |_, zone| !is_linked(zone)).await;
    }
    let answer = http.delete(&delete).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.text().await.expect("a text"));
    for node in 0..3 {
        house.until(node, "/zones/east", |status, _| status == 404).await;
    }

    // It does not come back by itself, at whichever node; an operator lets it in again.
    zone.start();
    zone.says("was deleted at global").await;
    assert_eq!(house.get(1, "/zones/east").await.0, 404);
    let url = format!("http://{}/zones/east", house.nodes[1].api);
    let answer =
        http.put(url).json(&json!({"type": "Zone", "name": "east"})).send().await.expect("an answer");
    assert_eq!(answer.status(), 201);
    written(&house, "again").await;
    zone.has(&http, "again").await;
}

fn is_linked(overview: &Value) -> bool {
    let subscriptions = overview["zoneInsight"]["subscriptions"].as_array();
    subscriptions.into_iter().flatten().any(|one| one["disconnectTime"].is_null())
}
