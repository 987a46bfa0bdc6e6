//! A backup of what is replicated, and a data directory made from one.
//!
//! A restore begins a new epoch. Its first revision, and the term and index of the log entry that it counts as, lie far
//! above those of the backup and above every earlier restore: they are made of the clock. So no revision ever has two
//! meanings, and every follower takes the restored catalog as something newer than all that it has, if it may follow.
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use global_consensus::{Consensus, new_node_id};
use shared_api::{
    Keyring,
    backup::{self, Backup, Head, ca_key_context},
    signing,
};
use shared_catalog::Catalog;
use shared_identity::{ca::Authority, hex, names, seal::SealKey};
use shared_model::Revision;
use shared_node::{file, time};
use shared_raft::Place;
use std::{fs, path::Path};

/// More than a cluster gives out of anything between a backup and its restore.
const GAP: u64 = 1_000_000_000;

/// What a backup is made with.
pub struct Source {
    pub consensus: Consensus,
    pub authority: Authority,
    pub keys: Keyring,
}

impl Source {
    /// The catalog as this node has it. Whoever wants the newest state waits for it before.
    pub async fn take(&self) -> Result<Bytes> {
        let catalog = self.consensus.catalog().borrow().clone();
        // Asked after the catalog was taken: not below what made it.
        let status = self.consensus.status();
        let (cluster_id, key) = (self.consensus.cluster_id(), self.keys.current());
        let context = ca_key_context(&cluster_id);
        let head = Head {
            sealed_ca_key: hex(&key.seal(rand::random(), &context, self.authority.key_pem().as_bytes())),
            cluster_id,
            epoch: String::new(),
            revision: 0,
            time: time::now(),
            version: shared_node::VERSION.to_owned(),
            term: status.term,
            index: status.last_index,
            resources: 0,
            size: 0,
            seal_key_id: key.id(),
            ca: self.authority.cert_pem().to_owned(),
        };
        let write = move || backup::write(head, &catalog);
        Ok(tokio::task::spawn_blocking(write).await.context("the backup was not written")?.into())
    }
}

/// What a restore has made.
#[derive(Debug)]
pub struct Restored {
    pub epoch: String,
    pub from: u64,
    pub first: u64,
}

/// Fills an empty data directory from a backup. Everything is verified before anything is written.
pub async fn restore(dir: &Path, file: &Path, keys: &Keyring) -> Result<Restored> {
    let bytes = fs::read(file).with_context(|| format!("cannot read the backup {}", file.display()))?;
    let Backup { head, mut catalog } =
        backup::read(&bytes).map_err(|error| anyhow!("cannot use the backup {}: {error}", file.display()))?;
    for used in ["raft", "tls/peer.crt"] {
        ensure!(
            !dir.join(used).exists(),
            "{} is not empty: a backup is restored into a new data directory",
            dir.display()
        );
    }
    let key = keys.find(&head.seal_key_id).ok_or_else(|| wrong_key(&head, keys))?;
    let ca_key = ca_key(&head, &key)?;
    check_seal(keys, "the seal key", &catalog)?;
    let clock = u64::try_from(time::now().timestamp_millis()).unwrap_or_default();
    let above = |number: u64| clock.max(number.saturating_add(GAP));
    let place = Place { term: above(head.term), index: above(head.index) };
    catalog.begin_epoch(rand::random(), Revision(above(head.revision)));
    let restored =
        Restored { epoch: catalog.epoch().to_string(), from: head.revision, first: catalog.revision().0 };

    file::private_dir(dir)?;
    let tls = dir.join("tls");
    file::private_dir(&tls)?;
    file::write_private(&tls.join("ca.key"), ca_key.as_bytes())?;
    file::write_public(&tls.join("ca.crt"), head.ca.as_bytes())?;
    // Of another CA, if one was there.
    let _ = fs::remove_file(tls.join("server.crt"));
    // The log comes last and at once: without it the directory is that of no node.
    let (new, raft) = (dir.join("raft.new"), dir.join("raft"));
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    shared_raft::seed(&new, new_node_id(), &head.cluster_id, place, &catalog).await?;
    fs::rename(&new, &raft)
        .with_context(|| format!("cannot rename {} to {}", new.display(), raft.display()))?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).context("cannot write the data directory")?;
    Ok(restored)
}

fn wrong_key(head: &Head, keys: &Keyring) -> anyhow::Error {
    let given: Vec<String> = keys.keys().iter().map(SealKey::id).collect();
    anyhow!(
        "the seal key is not the one of the backup: {} is needed, given is {}; it was seal.key in the data directory of every node of cluster {} when the backup was taken",
        head.seal_key_id,
        given.join(", "),
        head.cluster_id
    )
}

fn ca_key(head: &Head, key: &SealKey) -> Result<String> {
    let sealed = unhex(&head.sealed_ca_key).context("the CA's key in the backup cannot be read")?;
    let plain = key.open(&ca_key_context(&head.cluster_id), &sealed);
    let pem = String::from_utf8(plain.context("the CA's key in the backup cannot be opened")?)?;
    Authority::from_pem(&head.ca, &pem).context("the CA of the backup cannot be used")?;
    Ok(pem)
}

pub(crate) fn unhex(text: &str) -> Result<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("it is not hexadecimal");
    }
    let pairs = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    Ok(pairs.collect::<Result<_, _>>()?)
}

/// Signing keys in the log are sealed. Another key than before would lock them up for ever.
pub fn check_seal(keys: &Keyring, name: &str, catalog: &Catalog) -> Result<()> {
    for resource in catalog.iter().filter(|resource| names::is_private_key(&resource.key())) {
        signing::open(keys, resource).map_err(|reason| anyhow!("{name} is not the right key: {reason}"))?;
    }
    Ok(())
}
