//! Sessions with former versions, backups and several servers.
use super::{House, MESH, TIMEOUT, listen};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn written() -> House {
    let house = House::build().await;
    for text in [MESH, TIMEOUT, &TIMEOUT.replace("5s", "6s")] {
        let file = house.file("document.yaml", text);
        let ran = house.run(&format!("apply -f {file}")).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    house
}

#[tokio::test]
async fn a_resource_is_followed_back_and_brought_back() {
    let house = written().await;
    let ran = house.run("history meshtimeout slow -m shop").await;
    let lines: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["REVISION", "TIME", "USER", "OPERATION"], "{ran:?}");
    assert_eq!((lines[1][0], lines[1].last()), ("4", Some(&"updated")), "{ran:?}");
    assert!(lines[2].contains(&"mesh-system:admin") && lines[2].contains(&"created"), "{ran:?}");

    let ran = house.run("diff --from 3").await;
    assert!(
        ran.out.starts_with("--- MeshTimeout shop/slow revision 3\n+++ MeshTimeout shop/slow revision 4\n"),
        "{ran:?}"
    );
    assert!(ran.out.contains("requestTimeout: 5s\n+") && ran.out.contains("requestTimeout: 6s"), "{ran:?}");
    let none = house.run("diff --from 3 --to 4 mesh shop").await;
    assert_eq!((none.code, none.out.as_str()), (Some(0), ""), "{none:?}");

    let dry = house.run("rollback meshtimeout slow -m shop --to 3 --dry-run").await;
    assert!(
        dry.code == Some(0)
            && dry.out.contains("+")
            && house.stored("MeshTimeout", "shop", "slow") == Some(4)
    );
    let ran = house.run("rollback meshtimeout slow -m shop --to 3").await;
    assert_eq!(
        ran.out, "MeshTimeout shop/slow: is again what it was at revision 3 (revision 5)\n",
        "{ran:?}"
    );
    let again = house.run("rollback meshtimeout slow -m shop --to 3").await;
    assert_eq!(again.out, "MeshTimeout shop/slow: is as it was at revision 3\n", "{again:?}");
    let gone = house.run("rollback meshtimeout slow -m shop --to 2").await;
    assert_eq!(
        gone.out, "MeshTimeout shop/slow: is deleted, as it was at revision 2 (revision 6)\n",
        "{gone:?}"
    );
    let back = house.run("rollback meshtimeout slow -m shop --to 4").await;
    assert_eq!((back.code, house.stored("MeshTimeout", "shop", "slow")), (Some(0), Some(7)), "{back:?}");
}

#[tokio::test]
async fn what_is_no_longer_retained_is_told_with_the_oldest_that_is() {
    let house = written().await;
    let limits = shared_catalog::Retention { versions: 0, bytes: 0 };
    house.memory.catalog.lock().expect("a lock").apply(&shared_catalog::Command::Retain(limits));
    let ran = house.run("rollback meshtimeout slow -m shop --to 3").await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("revision 3 is no longer retained: the oldest is 4"), "{ran:?}");
}

#[tokio::test]
async fn a_backup_is_private_verified_and_never_replaced_unasked() {
    let house = written().await;
    let ran = house.run("backup weft.backup").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.out.contains("3 resources at revision 4 of epoch 1") && ran.out.contains("0123456789abcdef"),
        "{ran:?}"
    );
    let path = house.path("weft.backup");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let again = house.run("backup weft.backup").await;
    assert!(again.code == Some(1) && again.err.contains("--force"), "{again:?}");
    assert_eq!(house.run("backup weft.backup --force").await.code, Some(0));
    let checked = house.run("restore weft.backup --check").await;
    assert!(checked.code == Some(0) && checked.out.contains("the file is whole"), "{checked:?}");
    let mut bytes = fs::read(&path).expect("a backup");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("damaged");
    let damaged = house.run("restore weft.backup --data-dir d").await;
    assert!(damaged.code == Some(1) && damaged.err.contains("checksum"), "{damaged:?}");
    assert!(!house.path("d").exists());
}

#[tokio::test]
async fn a_zone_is_accepted_and_a_seal_key_rotated() {
    let house = written().await;
    let unknown = house.run("zone accept-restore east").await;
    assert!(unknown.code == Some(1) && unknown.err.contains("Zone east"), "{unknown:?}");
    house.memory.store(shared_model::Resource::new("Zone", "", "east", serde_json::json!({"enabled": true})));
    let ran = house.run("zone accept-restore --all").await;
    assert!(ran.code == Some(0) && ran.out.starts_with("zone east may follow"), "{ran:?}");
    assert!(house.memory.catalog().has_accepted("east"));
    let ran = house.run("cluster rotate-seal-key").await;
    assert!(
        ran.out.contains("4 secrets") && ran.out.contains("fetch it when they are back: cp-cccc:5683"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn without_a_quorum_the_message_names_the_other_kind_of_read() {
    let house = written().await;
    house.memory.lost.store(true, Ordering::Relaxed);
    let ran = house.run("get mesh shop").await;
    assert!(ran.code == Some(1) && ran.err.contains("?consistency=stale"), "{ran:?}");
}

#[tokio::test]
async fn a_write_goes_to_the_next_server_and_counts_once() {
    let house = House::build().await;
    // It takes the request and breaks off: whether it was done is unknown.
    let (broken, address) = listen();
    broken.set_nonblocking(true).expect("async");
    let broken = tokio::net::TcpListener::from_std(broken).expect("a listener");
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, real) = (asked.clone(), house.server.strip_prefix("http://").expect("http").to_owned());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = broken.accept().await {
            let mut request = vec![0; 64 << 10];
            let Ok(length) = client.read(&mut request).await else { continue };
            count.fetch_add(1, Ordering::Relaxed);
            // The write arrives, and its answer is lost.
            let mut server = tokio::net::TcpStream::connect(&real).await.expect("the real one");
            let text = String::from_utf8_lossy(&request[..length]).replace(&address.to_string(), &real);
            server.write_all(text.as_bytes()).await.expect("sent");
            let mut answer = [0; 16];
            let _ = server.read(&mut answer).await;
        }
    });
    let file = house.file("mesh.yaml", MESH);
    let ran = house.run(&format!("apply -f {file} --server http://{address},{}", house.server)).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(asked.load(Ordering::Relaxed) >= 1);
    let deletion = house.run(&format!("delete mesh shop --server http://{address},{}", house.server)).await;
    assert_eq!(deletion.out, "Mesh shop: deleted at revision 3\n", "{deletion:?}");
    let nobody = house.run("get meshes --server http://127.0.0.1:1,http://127.0.0.1:2").await;
    assert!(nobody.code == Some(1) && nobody.err.contains("no server could answer: "), "{nobody:?}");
}
