//! Three real `global-cp` processes, over real sockets, mutual TLS and their own disks.
mod nodes;

use nodes::{House, Node, PATIENCE, Zone};
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_one_control_plane() {
    let mut house = House::of_three(TempDir::new().expect("a directory")).await;
    // Written anywhere, read everywhere, at the revision that the answer names.
    for writer in 0..3 {
        let (status, body) = house.put(writer, &format!("m{writer}"), &[]).await;
        assert_eq!(status, 201, "{body}");
        let revision = body["revision"].as_u64().expect("a revision");
        for reader in 0..3 {
            let (status, seen, _) = house.get(reader, &format!("/meshes/m{writer}")).await;
            assert_eq!(status, 200);
            assert!(seen.expect("a revision") >= revision);
        }
    }
    // The same write again, anywhere, counts once.
    let key = [("idempotency-key", "k1"), ("if-none-match", "*")];
    let first = house.put(1, "once", &key).await;
    assert_eq!(first.0, 201);
    assert_eq!(house.put(2, "once", &key).await, first);
    assert_eq!(house.put(2, "once", &[("if-none-match", "*")]).await.0, 409);
    // Tokens of one node are good at all: they share the keys.
    let url = format!("http://{}/tokens/user", house.nodes[2].api);
    let asked = json!({"name": "jane", "validFor": "1h"});
    let answer = house.http.post(url).json(&asked).send().await.expect("an answer");
    let user = answer.text().await.expect("a token");
    let url = format!("http://{}/who-am-i", house.nodes[0].api);
    let answer = house.http.get(url).bearer_auth(user).send().await.expect("an answer");
    assert_eq!(answer.json::<Value>().await.expect("JSON")["name"], "jane");

    // A token is good once, and only with the CA that it names.
    let mut fourth = Node::new(house.home.path(), "four");
    let token = house.join_token(&fourth).await;
    let text = std::fs::read_to_string(&token).expect("a token");
    let (head, fingerprint) = text.rsplit_once('.').expect("four parts");
    let other = fingerprint.chars().rev().collect::<String>();
    std::fs::write(&token, format!("{head}.{other}")).expect("written");
    fourth.start(Some((&house.nodes[0], &token)));
    let ended = fourth.process.as_mut().expect("a process").wait().expect("an end");
    assert!(!ended.success());
    assert!(fourth.log().contains("UnknownIssuer"), "{}", fourth.log());
    assert!(!fourth.dir.join("seal.key").exists());

    // The leader dies under writes.
    let (leader, _) = house.leader().await;
    house.nodes[leader].kill();
    let survivor = (leader + 1) % 3;
    let begin = Instant::now();
    let (status, body) = house.put(survivor, "after", &[]).await;
    println!("a write went on {:?} after the leader's death", begin.elapsed());
    assert_eq!(status, 201, "{body}");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    house.nodes[leader].start(None);
    let http = house.http.clone();
    house.nodes[leader].ready(&http).await;
    assert_eq!(house.get(leader, "/meshes/after").await.0, 200);

    // Handed over.
    let (old, _) = house.leader().await;
    let nodes = house.status(0).await;
    let target = nodes.iter().find(|node| node["role"] == "follower").expect("a follower");
    let path = format!("/_cluster/nodes/{}/transfer-leadership", target["node"].as_str().expect("an id"));
    let url = format!("http://{}{path}", house.nodes[old].api);
    let answer = house.http.post(url).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.text().await.expect("text"));
    assert_eq!(house.leader().await.1, target["node"]);

    // A node loses its disk: not under its old id, not as a new cluster; with a new token in its old place.
    let (leader, _) = house.leader().await;
    let lost = (leader + 1) % 3;
    house.nodes[lost].kill();
    std::fs::remove_dir_all(house.nodes[lost].dir.join("raft")).expect("removed");
    house.nodes[lost].start(None);
    let ended = house.nodes[lost].process.take().expect("a process").wait().expect("an end");
    assert!(!ended.success() && house.nodes[lost].log().contains("--join"), "{}", house.nodes[lost].log());
    house.nodes.swap(0, leader);
    let lost = if lost == 0 { leader } else { lost };
    let token = house.join_token(&house.nodes[lost]).await;
    let (head, tail) = house.nodes.split_at_mut(lost);
    tail[0].start(Some((&head[0], &token)));
    house.nodes[lost].ready(&http).await;
    house
        .until_status("three voters again", |nodes| {
            nodes.len() == 3 && nodes.iter().filter(|node| node["role"] == "follower").count() == 2
        })
        .await;
    assert_eq!(house.get(lost, "/meshes/after").await.0, 200);

    // Without a majority: nothing new, and what is there only for those who ask for it.
    house.nodes[1].kill();
    house.nodes[2].kill();
    let (status, _, body) = house.get(0, "/meshes/after").await;
    assert_eq!(status, 503);
    assert!(body["detail"].as_str().expect("a detail").contains("?consistency=stale"), "{body}");
    let (status, seen, _) = house.get(0, "/meshes/after?consistency=stale").await;
    assert!(status == 200 && seen.is_some());
    let (status, body) = house.put(0, "late", &[]).await;
    assert_eq!(status, 503, "{body}");
    for place in [1, 2] {
        house.nodes[place].start(None);
        house.nodes[place].ready(&http).await;
    }
    assert_eq!(house.put(2, "at-last", &[]).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_finds_all_nodes_and_follows_whoever_leads() {
    let mut house = House::of_three(TempDir::new().expect("a directory")).await;
    let http = house.http.clone();
    let mut zone = Zone::of(&house, "east").await;
    zone.start();
    let online = async |zone: &Zone, house: &House, node: usize| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, _, status) = house.get(node, "/_revisions/1?consistency=stale").await;
            if status["zones"][0]["online"] == true {
                return;
            }
            assert!(Instant::now() < deadline, "not linked to {node}: {status} {}", zone.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(house.put(1, "before", &[]).await.0, 201);
    zone.has(&http, "before").await;
    for node in 0..3 {
        online(&zone, &house, node).await;
    }
    // The zone is not in the way of an election, and the new leader has a link to it already.
    let (leader, _) = house.leader().await;
    house.nodes[leader].kill();
    assert_eq!(house.put((leader + 1) % 3, "after", &[]).await.0, 201);
    let begin = Instant::now();
    zone.has(&http, "after").await;
    println!("the zone had the first write of the new leader after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());

    // The one that was named stays dead; the zone finds the others again from its own disk.
    house.nodes[leader].start(None);
    house.nodes[leader].ready(&http).await;
    house.until_status("all are there", |nodes| nodes.iter().all(|node| node["lag"].is_u64())).await;
    zone.kill();
    house.nodes[0].kill();
    assert_eq!(house.put(1, "meanwhile", &[]).await.0, 201);
    zone.start();
    zone.has(&http, "meanwhile").await;
    online(&zone, &house, 1).await;
    online(&zone, &house, 2).await;
}
