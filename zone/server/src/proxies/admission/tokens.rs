//! Tokens that were found good a moment ago. The proxies of a service share one, and all of a zone come back at once: the
//! signature of each token is checked once, as long as no key and no revocation has changed.
//!
//! ```text
//! check(token): known, checked with the secrets of now, not yet expired --> its claims
//!               else --> signature, times and revocation in full; remembered only when it is good
//! ```
//!
//! A token is known by its digest, so that how long a look-up takes tells nothing of another's token.
use crate::catalogs::Catalogs;
use ring::digest::{Context, SHA256};
use shared_identity::names::Purpose;
use shared_identity::token::{self, DataplaneClaims, TokenError};
use shared_model::{Timestamp, kind};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// More than this are not remembered; each weighs a few hundred bytes.
const KEPT: usize = 10_000;

/// Which secrets there are, as a digest of their names, revisions and times. What keys and revocations say changes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secrets([u8; 32]);

impl Secrets {
    fn of(catalogs: &Catalogs) -> Secrets {
        let mut context = Context::new(&SHA256);
        for (source, catalog) in [catalogs.followed(), catalogs.owned()].into_iter().enumerate() {
            let kinds = [kind::SECRET, kind::GLOBAL_SECRET].into_iter();
            for secret in kinds.flat_map(|kind| catalog.list(kind, None)) {
                let written = secret.modification_time.timestamp_millis();
                context.update(&[u8::from(source > 0)]);
                feed(&mut context, [&secret.kind, &secret.mesh, &secret.name]);
                context.update(&secret.revision.0.to_be_bytes());
                context.update(&written.to_be_bytes());
            }
        }
        Secrets(finish(context))
    }
}

/// Each text behind its length, so that no two lists are alike.
fn feed<const N: usize>(context: &mut Context, texts: [&str; N]) {
    for text in texts {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
}

fn finish(context: Context) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// A token that was good.
struct Checked {
    claims: Arc<DataplaneClaims>,
    secrets: Secrets,
    since: Timestamp,
    expires: Timestamp,
}

/// Checks the tokens of proxies.
pub struct Tokens {
    catalogs: Catalogs,
    checked: Mutex<BTreeMap<[u8; 32], Checked>>,
}

impl Tokens {
    pub fn new(catalogs: Catalogs) -> Arc<Tokens> {
        Arc::new(Tokens { catalogs, checked: Mutex::default() })
    }

    /// What there is of secrets now.
    pub fn secrets(&self) -> Secrets {
        Secrets::of(&self.catalogs)
    }

    /// The claims of a token of this mesh, if keys and revocations let it in at this time; and the secrets that it was
    /// checked with.
    pub fn check(
        &self,
        token: &str,
        mesh: &str,
        now: Timestamp,
    ) -> Result<(Arc<DataplaneClaims>, Secrets), TokenError> {
        // Before the check: what changes meanwhile shows.
        let secrets = self.secrets();
        let place = digest(mesh, token);
        if let Some(claims) = self.known(&place, secrets, now) {
            return Ok((claims, secrets));
        }
        let keys = self.catalogs.keys(&Purpose::Dataplane { mesh: mesh.to_owned() });
        let verified = token::verify_whole::<DataplaneClaims>(token, &keys, now)?;
        let (claims, expires) = (Arc::new(verified.claims), verified.expires);
        let checked = Checked { claims: claims.clone(), secrets, since: now, expires };
        let mut known = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.retain(|_, one| one.secrets == secrets && one.expires > now);
        }
        if known.len() < KEPT {
            known.insert(place, checked);
        }
        Ok((claims, secrets))
    }

    fn known(&self, place: &[u8; 32], secrets: Secrets, now: Timestamp) -> Option<Arc<DataplaneClaims>> {
        let known = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let one = known.get(place)?;
        // A clock that was set back may be before the token's beginning.
        let is_good = one.secrets == secrets && one.since <= now && now < one.expires;
        is_good.then(|| one.claims.clone())
    }
}

fn digest(mesh: &str, token: &str) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    feed(&mut context, [mesh, token]);
    finish(context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use serde_json::json;
    use shared_catalog::{Catalog, Command, Expected, Meshes};
    use shared_identity::token::SigningKey;
    use shared_model::{Resource, ResourceKey};
    use std::time::Duration;
    use tokio::sync::watch;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        Timestamp::from_timestamp(1_800_000_000, 0).unwrap()
    }

    struct Zone {
        catalog: Catalog,
        feed: watch::Sender<Arc<Catalog>>,
        tokens: Arc<Tokens>,
    }

    impl Zone {
        fn new() -> Zone {
            let catalog = Catalog::with_meshes(Meshes::Elsewhere);
            let (feed, owned) = watch::channel(Arc::new(catalog.clone()));
            let tokens = Tokens::new(Catalogs::new("east", None, owned));
            Zone { catalog, feed, tokens }
        }

        fn put(&mut self, key: ResourceKey, data: &str) {
            let data = base64::engine::general_purpose::STANDARD.encode(data);
            let secret = Resource::new(&key.kind, &key.mesh, &key.name, json!({ "data": data }));
            self.catalog.apply(&Command::put(&secret, Expected::Any, now()));
            self.feed.send_replace(Arc::new(self.catalog.clone()));
        }

        fn remove(&mut self, key: ResourceKey) {
            self.catalog.apply(&Command::delete(key, Expected::Any, now()));
            self.feed.send_replace(Arc::new(self.catalog.clone()));
        }

        fn check(&self, token: &str, at: Timestamp) -> Result<String, TokenError> {
            self.tokens.check(token, "default", at).map(|(claims, _)| claims.name.clone())
        }

        fn kept(&self) -> usize {
            self.tokens.checked.lock().unwrap().len()
        }
    }

    /// A zone with a signing key, and a token of it that was checked.
    fn zone() -> (Zone, ResourceKey, String) {
        let mut zone = Zone::new();
        let purpose = Purpose::Dataplane { mesh: "default".into() };
        let signing = SigningKey::generate("1").unwrap();
        let key = purpose.public_key("1");
        zone.put(key.clone(), signing.public_pem());
        let claims = DataplaneClaims { name: "web-1".into(), mesh: "default".into(), ..Default::default() };
        let token = token::issue(&signing, &claims, "id-1", now(), HOUR).unwrap();
        assert_eq!(zone.check(&token, now()), Ok("web-1".into()));
        assert_eq!(zone.kept(), 1);
        (zone, key, token)
    }

    #[test]
    fn a_known_token_is_good_until_it_expires() {
        let (zone, _, token) = zone();
        assert_eq!(zone.check(&token, now() + HOUR / 2), Ok("web-1".into()));
        assert!(matches!(zone.check(&token, now() + 2 * HOUR), Err(TokenError::Expired(_))));
        assert!(
            matches!(zone.check(&token, now() - HOUR), Err(TokenError::Early(_))),
            "the clock was set back"
        );
        assert!(zone.tokens.check(&token, "other", now()).is_err(), "another mesh has other keys");
    }

    #[test]
    fn a_known_token_that_is_revoked_is_refused() {
        let (mut zone, _, token) = zone();
        let revocations = Purpose::Dataplane { mesh: "default".into() }.revocations();
        zone.put(revocations.clone(), "id-0");
        assert!(zone.check(&token, now()).is_ok());
        zone.put(revocations, "id-0,id-1");
        assert_eq!(zone.check(&token, now()), Err(TokenError::Revoked));
    }

    #[test]
    fn a_known_token_whose_key_is_gone_is_refused() {
        let (mut zone, key, token) = zone();
        zone.remove(key);
        assert_eq!(zone.check(&token, now()), Err(TokenError::UnknownKey("1".into())));
    }

    #[test]
    fn only_a_good_token_is_remembered() {
        let (zone, _, token) = zone();
        let forged = format!("{}AAAA", &token[..token.len() - 4]);
        for _ in 0..2 {
            assert_eq!(zone.check(&forged, now()), Err(TokenError::Forged));
        }
        assert_eq!(zone.kept(), 1);
    }
}
