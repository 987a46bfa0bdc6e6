//! Signing keys as they lie among the resources: the private half sealed, the public half beside it for all who check.
//! A key is made when the first token of its purpose is asked for.
use crate::{
    backend::{Author, Backend, TokenRequest},
    error::Refused,
    keyring::Keyring,
};
use shared_catalog::{Expected, Outcome};
use shared_identity::{
    names::{self, Purpose},
    token::{self, SigningKey, VerificationKeys},
};
use shared_model::{Kind, Resource, ResourceKey, core::Secret, kind, strict};
use std::{collections::BTreeSet, sync::Arc};

/// The keys that tokens of a purpose are checked with, and the tokens that were revoked. `get` and `list` read the
/// state that holds the keys.
pub fn verification_keys(
    purpose: &Purpose,
    list: impl Fn(&'static Kind, &str) -> Vec<Arc<Resource>>,
    get: impl Fn(&ResourceKey) -> Option<Arc<Resource>>,
) -> VerificationKeys {
    let mut keys = VerificationKeys::new();
    for resource in secrets(purpose, &list) {
        let key = resource.key();
        if let (Some(kid), Some(pem)) = (purpose.public_kid(&key), text(&resource)) {
            keys.insert(kid, &pem);
        }
    }
    // Kuma's checker of dataplane tokens reads the list among the global secrets, its manual says the mesh's: both.
    let own = purpose.revocations();
    let global = ResourceKey::new(kind::GLOBAL_SECRET, "", own.name.clone());
    let lists = BTreeSet::from([own, global]);
    let revoked =
        lists.iter().filter_map(|key| text(&*get(key)?)).flat_map(|list| token::parse_revocations(&list));
    keys.set_revoked(revoked.collect());
    keys
}

/// Signs tokens with the newest key of their purpose. One maker at a time, so that two first requests share a key.
pub struct Signer {
    keys: Keyring,
    making: tokio::sync::Mutex<()>,
}

impl Signer {
    pub fn new(keys: impl Into<Keyring>) -> Self {
        Signer { keys: keys.into(), making: tokio::sync::Mutex::new(()) }
    }

    pub async fn issue(&self, backend: &dyn Backend, request: TokenRequest) -> Result<String, Refused> {
        let now = shared_node::time::now();
        let jti = uuid::Uuid::new_v4().to_string();
        let internal = |error: shared_identity::Error| Refused::Internal(error.to_string());
        match request {
            TokenRequest::Dataplane { claims, valid_for } => {
                let mesh = claims.mesh.clone();
                if backend.get(&ResourceKey::new(kind::MESH, "", &mesh)).is_none() {
                    return Err(Refused::invalid(
                        "mesh",
                        format!("Mesh is not found: there is no mesh {mesh:?}"),
                    ));
                }
                let key = self.newest(backend, &Purpose::Dataplane { mesh }).await?;
                token::issue(&key, &claims, &jti, now, valid_for).map_err(internal)
            }
            TokenRequest::Zone { claims, valid_for } => {
                let key = self.newest(backend, &Purpose::Zone).await?;
                token::issue(&key, &claims, &jti, now, valid_for).map_err(internal)
            }
            TokenRequest::User { claims, valid_for } => {
                let key = self.newest(backend, &Purpose::User).await?;
                token::issue(&key, &claims, &jti, now, valid_for).map_err(internal)
            }
        }
    }

    /// The newest key of a purpose; makes the first one.
    async fn newest(&self, backend: &dyn Backend, purpose: &Purpose) -> Result<SigningKey, Refused> {
        let _one = self.making.lock().await;
        let list = |kind: &'static Kind, mesh: &str| backend.list(kind, (!mesh.is_empty()).then_some(mesh));
        let (mut newest, mut highest) = (None, 0);
        for resource in secrets(purpose, &list) {
            let key = resource.key();
            let number = |kid: &str| kid.parse::<u64>().ok();
            if let Some(kid) = purpose.private_kid(&key).and_then(number) {
                highest = highest.max(kid);
                newest = newest.max(Some(kid));
            }
            highest = purpose.public_kid(&key).and_then(number).map_or(highest, |kid| highest.max(kid));
        }
        let Some(kid) = newest.map(|kid| kid.to_string()) else {
            return self.make(backend, purpose, &(highest + 1).to_string()).await;
        };
        let stored = backend.get(&purpose.private_key(&kid));
        let stored = stored.ok_or_else(|| Refused::NotFound("Signing Key not found".into()))?;
        let key = open(&self.keys, &stored).map_err(Refused::Internal)?;
        // A crash between the two writes of a new key leaves the private half alone.
        if backend.get(&purpose.public_key(&kid)).is_none() {
            store(backend, purpose.public_key(&kid), key.public_pem().as_bytes()).await?;
        }
        Ok(key)
    }

    async fn make(&self, backend: &dyn Backend, purpose: &Purpose, kid: &str) -> Result<SigningKey, Refused> {
        let key = SigningKey::generate(kid).map_err(|error| Refused::Internal(error.to_string()))?;
        let name = purpose.private_key(kid);
        let sealed = self.keys.seal(rand::random(), context(&name).as_bytes(), key.private_pem().as_bytes());
        store(backend, name, &sealed).await?;
        store(backend, purpose.public_key(kid), key.public_pem().as_bytes()).await?;
        tracing::info!(?purpose, kid, "a signing key was made");
        Ok(key)
    }
}

/// The signing key that a stored private half holds.
pub fn open(keys: &Keyring, stored: &Resource) -> Result<SigningKey, String> {
    let key = stored.key();
    let purposes = [Purpose::User, Purpose::Zone, Purpose::Dataplane { mesh: key.mesh.clone() }];
    let kid = purposes.iter().find_map(|purpose| purpose.private_kid(&key));
    let kid = kid.ok_or_else(|| format!("{key} is not a signing key"))?;
    let bytes = strict::read::<Secret>(&stored.spec, "").map_err(|problem| problem.to_string())?.bytes()?;
    let plain = keys.open(context(&key).as_bytes(), &bytes).map_err(|error| format!("{key}: {error}"))?;
    let pem = String::from_utf8(plain).map_err(|_| format!("{key}: is not PEM"))?;
    SigningKey::from_pem(kid, &pem).map_err(|error| format!("{key}: {error}"))
}

/// A private half sealed with the key that seals now, when it is sealed with another.
pub fn resealed(keys: &Keyring, stored: &Resource) -> Option<Resource> {
    let key = stored.key();
    let sealed = strict::read::<Secret>(&stored.spec, "").ok()?.bytes().ok()?;
    let context = context(&key);
    if keys.current().open(context.as_bytes(), &sealed).is_ok() {
        return None;
    }
    let plain = keys.open(context.as_bytes(), &sealed).ok()?;
    let mut resealed = stored.clone();
    resealed.spec["data"] = Secret::of(&keys.seal(rand::random(), context.as_bytes(), &plain)).data.into();
    Some(resealed)
}

/// A sealed value is bound to its name.
fn context(key: &ResourceKey) -> String {
    debug_assert!(names::is_private_key(key));
    format!("signing key {key}")
}

fn secrets(
    purpose: &Purpose,
    list: &impl Fn(&'static Kind, &str) -> Vec<Arc<Resource>>,
) -> Vec<Arc<Resource>> {
    let first = purpose.public_key("");
    let kind = kind::by_name(&first.kind).expect("secrets are a kind of every version");
    list(kind, &first.mesh)
}

fn text(secret: &Resource) -> Option<String> {
    String::from_utf8(strict::read::<Secret>(&secret.spec, "").ok()?.bytes().ok()?).ok()
}

async fn store(backend: &dyn Backend, key: ResourceKey, bytes: &[u8]) -> Result<(), Refused> {
    let spec =
        serde_json::to_value(Secret::of(bytes)).map_err(|error| Refused::Internal(error.to_string()))?;
    let resource = Resource::new(&key.kind, &key.mesh, &key.name, spec);
    match backend.put(resource, Expected::Absent, &Author::own()).await? {
        Outcome::Refused(refusal) => Err(refusal.into()),
        _ => Ok(()),
    }
}
