//! Sessions with zones.
use super::House;
use serde_json::json;
use shared_model::{Resource, ResourceKey};

const ID: &str = "0b5a6c9e-50f1-4d0f-9c5e-6f1d3c9e2a77";

#[tokio::test]
async fn the_name_of_a_zone_is_taken_and_given() {
    let house = House::build().await;
    let ran = house.run("zone rebind east").await;
    assert!(ran.code == Some(1) && ran.out.is_empty() && ran.err.contains("Zone east"), "{ran:?}");

    let mut zone = Resource::new("Zone", "", "east", json!({"enabled": true}));
    zone.status = Some(json!({"zoneId": "11111111-1111-4111-8111-111111111111"}));
    house.memory.store(zone);
    let ran = house.run("zone rebind east").await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(ran.out, "the name east is for the next one to come (revision 3)\n");
    let ran = house.run(&format!("zone rebind east --to {ID}")).await;
    assert_eq!(ran.out, format!("the name east is for the zone with the id {ID} (revision 4)\n"));
    let catalog = house.memory.catalog();
    let stored = catalog.get(&ResourceKey::new("Zone", "", "east")).expect("a zone");
    assert_eq!((&stored.spec, &stored.status), (&json!({"enabled": true}), &Some(json!({"zoneId": ID}))));

    let ran = house.run("zone rebind").await;
    assert!(ran.code == Some(2) && ran.err.contains("<ZONE>"), "{ran:?}");
}
