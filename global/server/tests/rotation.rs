//! The seal key is changed while a node is away.
mod nodes;

use nodes::{House, PATIENCE};
use serde_json::{Value, json};
use shared_model::core::Secret;
use std::{fs, path::Path};
use tokio::time::Instant;

const SECRET: &str = "/global-secrets/backup-password";

fn key_in(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("seal.key")).expect("a key")
}

async fn post(house: &House, node: usize, path: &str) -> (u16, Value) {
    let url = format!("http://{}{path}", house.nodes[node].api);
    let answer = house.http.post(url).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_seal_key_reaches_every_node_also_one_that_was_away() {
    let mut house = House::of_three(tempfile::tempdir().expect("a directory")).await;
    let data = Secret::of(b"hunter2").data;
    let document = json!({"type": "GlobalSecret", "name": "backup-password", "data": data});
    let url = format!("http://{}{SECRET}", house.nodes[0].api);
    assert_eq!(house.http.put(url).json(&document).send().await.expect("an answer").status(), 201);
    let (status, _, stored) = house.get(1, SECRET).await;
    assert_eq!((status, &stored["data"]), (200, &json!(data)));
    let old = key_in(&house.nodes[0].dir);
    assert!(house.nodes.iter().all(|node| key_in(&node.dir) == old));

    house.nodes[2].kill();
    let (status, said) = post(&house, 0, "/_cluster/seal-key/rotate").await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(said["missing"], json!([house.nodes[2].peers.to_string()]), "{said}");
    assert!(said["resealed"].as_u64().is_some_and(|count| count >= 2), "{said}");
    let new = key_in(&house.nodes[0].dir);
    assert_ne!(new, old);
    let deadline = Instant::now() + PATIENCE;
    while key_in(&house.nodes[1].dir) != new {
        assert!(Instant::now() < deadline, "{}", house.nodes[1].log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // Nothing needs the old key any more: one that never had it reads all.
    for node in [0, 1] {
        fs::remove_file(house.nodes[node].dir.join("seal.key.former")).expect("one generation is kept");
    }
    // Back again, it fetches the key, also when it is restarted with what it has learned since.
    for _ in 0..2 {
        house.nodes[2].start(None);
        house.nodes[2].ready(&house.http).await;
        let deadline = Instant::now() + PATIENCE;
        while key_in(&house.nodes[2].dir) != new {
            assert!(Instant::now() < deadline, "{}", house.nodes[2].log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        house.nodes[2].kill();
    }
    house.nodes[0].kill();
    house.nodes[0].start(None);
    house.nodes[2].start(None);
    for node in [0, 2] {
        house.nodes[node].ready(&house.http).await;
        let (status, _, stored) = house.get(node, SECRET).await;
        assert_eq!((status, &stored["data"]), (200, &json!(data)), "{}", house.nodes[node].log());
    }
    // Signing keys were sealed anew, too: tokens are made with them.
    let url = format!("http://{}/tokens/user", house.nodes[2].api);
    let asked = json!({"name": "jane", "validFor": "1h"});
    assert_eq!(house.http.post(url).json(&asked).send().await.expect("an answer").status(), 200);
}
