//! Another seal key for the whole cluster.
//!
//! ```text
//! 1 make a key; keep it beside the present one          whoever is asked to rotate
//! 2 offer it to every node, which fetches it             a majority of the voters must have it
//! 3 record in the catalog that it is the one             from here on every node that reads the record seals with it
//! 4 seal everything anew
//! ```
//!
//! A node that was away reads the record when it is back, and fetches the key from whoever has it. The key travels between
//! nodes only, over mutual TLS, and sealed for the one node that asks. The catalog holds its name, never the key: who has
//! stolen the old key and reads the log learns nothing. The key before stays readable until the next rotation, for what a
//! slower node may still have sealed with it.
use crate::{
    api::refused,
    seal::{self, SealKeys},
    secrets::Secrets,
};
use anyhow::{Context as _, Result, anyhow, bail};
use futures::future::join_all;
use global_consensus::{Consensus, Error};
use proto::peer::{SealKeys as Asked, SealKeysReply, reply, request, seal_keys::Kind};
use ring::{
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
    rand::SystemRandom,
};
use shared_api::{Keyring, Refused, SealKeyStatus};
use shared_catalog::{Command, Expected, Outcome};
use shared_identity::{digest, seal::SealKey};
use shared_model::{Resource, ResourceKey, Revision, core::Secret, kind, strict};
use shared_node::time;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Where the name of the present key is recorded.
const RECORD: &str = "cluster-seal-key";
/// How soon a key that nobody gave is asked for again.
const RETRY: Duration = Duration::from_secs(2);
/// Passes over what is sealed: a writer may be faster than one.
const PASSES: usize = 5;

pub struct Rotation {
    consensus: Consensus,
    keys: SealKeys,
    dir: PathBuf,
    /// One at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Rotation {
    pub fn new(consensus: Consensus, keys: SealKeys, dir: &Path) -> Rotation {
        Rotation { consensus, keys, dir: dir.to_owned(), changing: tokio::sync::Mutex::default() }
    }

    pub fn keys(&self) -> &Keyring {
        &self.keys.ring
    }

    /// What another node asks.
    pub async fn answer(&self, from: u64, asked: Asked) -> Result<reply::Kind, Error> {
        let failed = |error: anyhow::Error| Error::Unknown(format!("{error:#}"));
        let reply = match asked.kind {
            Some(Kind::Offered(id)) => {
                if self.keys().find(&id).is_none() {
                    let _one = self.changing.lock().await;
                    self.fetch(from, &id).await.map_err(failed)?;
                }
                SealKeysReply::default()
            }
            Some(Kind::Public(public)) => {
                let keys: Vec<u8> = self.keys().keys().iter().flat_map(|key| *key.bytes()).collect();
                let (public, sealed) = wrap(&public, from, &keys).map_err(failed)?;
                SealKeysReply { public: public.into(), sealed: sealed.into() }
            }
            None => return Err(Error::Membership("the question for seal keys is empty".to_owned())),
        };
        Ok(reply::Kind::SealKeys(reply))
    }

    /// Takes over a key of this id from a node that has it. It does not seal yet.
    async fn fetch(&self, node_id: u64, id: &str) -> Result<()> {
        let random = SystemRandom::new();
        let own = EphemeralPrivateKey::generate(&X25519, &random).map_err(|_| anyhow!("no key was made"))?;
        let public = own.compute_public_key().map_err(|_| anyhow!("no key was made"))?;
        let asked = Asked { kind: Some(Kind::Public(public.as_ref().to_vec().into())) };
        let answer = self.consensus.ask(node_id, request::Kind::SealKeys(asked)).await?;
        let reply::Kind::SealKeys(reply) = answer else {
            bail!("node {node_id:016x} answered another question")
        };
        let wrapping = agree(own, &reply.public, public.as_ref(), &reply.public)?;
        let plain = wrapping.open(&context(self.consensus.node_id()), &reply.sealed);
        let plain = plain.context("the seal keys cannot be opened")?;
        let found =
            plain.as_chunks::<32>().0.iter().map(|key| SealKey::from_bytes(*key)).find(|key| key.id() == id);
        let found = found.with_context(|| format!("node {node_id:016x} does not have seal key {id}"))?;
        let mut others = self.keys().keys();
        let current = others.remove(0);
        others.insert(0, found);
        self.set(current, others)?;
        tracing::info!(key_id = id, node_id = format!("{node_id:016x}"), "a seal key was fetched");
        Ok(())
    }

    fn set(&self, current: SealKey, former: Vec<SealKey>) -> Result<()> {
        let next = Keyring::new(current.clone(), former.clone());
        if !self.keys.is_given {
            seal::keep(&self.dir, &next)?;
        }
        self.keys().replace(current, former);
        Ok(())
    }

    /// The id of the present key, and at which revision that was said.
    fn record(&self) -> Option<(String, Revision)> {
        let catalog = self.consensus.catalog().borrow().clone();
        let record = catalog.get(&ResourceKey::new(kind::GLOBAL_SECRET, "", RECORD))?;
        let bytes = strict::read::<Secret>(&record.spec, "").ok()?.bytes().ok()?;
        Some((String::from_utf8(bytes).ok()?, record.revision))
    }

    /// Seals with the key that the catalog names, fetched from others if it is not here. True when there is nothing to do.
    pub async fn settle(&self) -> bool {
        let _one = self.changing.lock().await;
        let Some((id, _)) = self.record() else { return true };
        if self.keys().find(&id).is_none() {
            for node_id in self.consensus.members().into_keys().filter(|id| *id != self.consensus.node_id()) {
                match self.fetch(node_id, &id).await {
                    Ok(()) => break,
                    Err(error) => tracing::debug!(%error, "a seal key was not fetched"),
                }
            }
        }
        match self.adopt(&id) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(key_id = id, error = format!("{error:#}"), "the cluster has another seal key");
                false
            }
        }
    }

    fn adopt(&self, id: &str) -> Result<()> {
        let current = self.keys().current();
        if current.id() == id {
            return Ok(());
        }
        let next = self.keys().find(id).context("no node gives it: it is tried again")?;
        self.set(next, vec![current])?;
        tracing::info!(key_id = id, "secrets are sealed with another key");
        Ok(())
    }

    /// Follows the record until the shutdown.
    pub async fn watch(self: Arc<Self>, shutdown: CancellationToken) -> Result<()> {
        let mut catalog = self.consensus.catalog();
        let mut settled = None;
        loop {
            catalog.borrow_and_update();
            let record = self.record();
            let mut again = false;
            if record != settled {
                match self.settle().await {
                    true => settled = record,
                    false => again = true,
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(RETRY), if again => {}
                changed = catalog.changed() => if changed.is_err() {
                    shutdown.cancelled().await;
                    return Ok(());
                },
            }
        }
    }

    /// Makes a new key, hands it to the nodes, and seals everything with it.
    pub async fn rotate(&self, secrets: &Secrets) -> Result<SealKeyStatus, Refused> {
        let internal = |error: anyhow::Error| Refused::Internal(format!("{error:#}"));
        if self.keys.is_given {
            return self.reseal_given(secrets).await;
        }
        self.consensus.catch_up().await.map_err(refused)?;
        let before = self.record();
        let (old, new) = (self.keys().current(), SealKey::from_bytes(rand::random()));
        {
            let _one = self.changing.lock().await;
            self.set(old.clone(), vec![new.clone()]).map_err(internal)?;
        }
        let (nodes, missing) = self.offer(&new.id()).await?;
        self.announce(&new.id(), before.map_or(Expected::Absent, |(_, at)| Expected::At(at.0))).await?;
        {
            let _one = self.changing.lock().await;
            self.adopt(&new.id()).map_err(internal)?;
        }
        let resealed = self.reseal(secrets).await?;
        Ok(SealKeyStatus { key_id: new.id(), replaces: old.id(), resealed, nodes, missing })
    }

    /// An operator who brings a key brings the next one, too: what is left is to seal everything with it.
    async fn reseal_given(&self, secrets: &Secrets) -> Result<SealKeyStatus, Refused> {
        let keys = self.keys().keys();
        let [new, old, ..] = keys.as_slice() else {
            return Err(Refused::NotAllowed(
                "the seal key of this node is given by its operator (--seal-key-file or WEFT_SEAL_KEY): give all nodes the new key and the one before, the new one first, and ask again".into(),
            ));
        };
        let (key_id, replaces) = (new.id(), old.id());
        let resealed = self.reseal(secrets).await?;
        let nodes = self.consensus.members().into_values().map(|member| member.address).collect();
        Ok(SealKeyStatus { key_id, replaces, resealed, nodes, missing: Vec::new() })
    }

    /// The addresses of the nodes that have the key, and of those that did not answer. Refused without a majority: a key
    /// that few have could be lost with them.
    async fn offer(&self, id: &str) -> Result<(Vec<String>, Vec<String>), Refused> {
        let own = self.consensus.node_id();
        let offers = self.consensus.members().into_iter().map(|(node_id, member)| async move {
            let asked = Asked { kind: Some(Kind::Offered(id.to_owned())) };
            let has =
                node_id == own || self.consensus.ask(node_id, request::Kind::SealKeys(asked)).await.is_ok();
            (node_id, member.address, has)
        });
        let answers = join_all(offers).await;
        let voters = self.consensus.voters();
        let have = answers.iter().filter(|(node_id, _, has)| *has && voters.contains(node_id)).count();
        let (nodes, missing): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, _, has)| *has);
        let addresses =
            |nodes: Vec<(u64, String, bool)>| nodes.into_iter().map(|(_, address, _)| address).collect();
        let (nodes, missing): (Vec<String>, Vec<String>) = (addresses(nodes), addresses(missing));
        if have * 2 <= voters.len() {
            return Err(Refused::Unavailable(format!(
                "the seal key stays as it was: a majority of the voters must take the new one, no answer from {}",
                missing.join(", ")
            )));
        }
        Ok((nodes, missing))
    }

    async fn announce(&self, id: &str, expected: Expected) -> Result<(), Refused> {
        let spec = serde_json::to_value(Secret::of(id.as_bytes())).expect("a secret is a string");
        let record = Resource::new(kind::GLOBAL_SECRET, "", RECORD, spec);
        match self.consensus.propose(Command::put(&record, expected, time::now())).await.map_err(refused)? {
            Outcome::Refused(_) => {
                Err(Refused::Conflict("the seal key is being changed at another node".into()))
            }
            _ => Ok(()),
        }
    }

    async fn reseal(&self, secrets: &Secrets) -> Result<u64, Refused> {
        let mut resealed = 0;
        for _ in 0..PASSES {
            self.consensus.catch_up().await.map_err(refused)?;
            let catalog = self.consensus.catalog().borrow().clone();
            let due: Vec<Resource> = catalog.iter().filter_map(|stored| secrets.resealed(stored)).collect();
            if due.is_empty() {
                break;
            }
            for resource in due {
                // One that was written meanwhile is looked at in the next pass.
                let command = Command::put(&resource, Expected::At(resource.revision.0), time::now());
                let outcome = self.consensus.propose(command).await.map_err(refused)?;
                resealed += u64::from(matches!(outcome, Outcome::Stored { .. }));
            }
        }
        Ok(resealed)
    }
}

fn context(node_id: u64) -> Vec<u8> {
    format!("seal keys for node {node_id:016x}").into_bytes()
}

/// Seals for whoever made a public key. Gives the public half of this side, too.
fn wrap(public: &[u8], node_id: u64, plain: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let random = SystemRandom::new();
    let own = EphemeralPrivateKey::generate(&X25519, &random).map_err(|_| anyhow!("no key was made"))?;
    let half = own.compute_public_key().map_err(|_| anyhow!("no key was made"))?;
    let wrapping = agree(own, public, public, half.as_ref())?;
    Ok((half.as_ref().to_vec(), wrapping.seal(rand::random(), &context(node_id), plain)))
}

/// The key that both sides come to: the halves of the one who asks and of the one who answers belong to it.
fn agree(own: EphemeralPrivateKey, theirs: &[u8], asks: &[u8], answers: &[u8]) -> Result<SealKey> {
    let derive = |shared: &[u8]| digest(&[b"weft seal keys on their way", shared, asks, answers]);
    let key = agree_ephemeral(own, &UnparsedPublicKey::new(&X25519, theirs), derive);
    key.map(SealKey::from_bytes).map_err(|_| anyhow!("the public key of the other node is none"))
}
