//! Tokens that were found good a moment ago. A client sends the same one with every request, and a signature costs more to
//! check than most requests cost to serve: each token's is checked once, as long as no key and no revocation changes.
//!
//! A token is known by its digest, so that how long a look-up takes tells nothing of another's token.
use crate::{
    digest,
    token::{self, TokenError, VerificationKeys},
};
use serde::de::DeserializeOwned;
use shared_model::Timestamp;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// More than this are not remembered; each weighs a few hundred bytes.
const KEPT: usize = 10_000;

/// The good tokens of one purpose.
#[derive(Debug)]
pub struct KnownTokens<C> {
    known: Mutex<Known<C>>,
}

#[derive(Debug)]
struct Known<C> {
    /// What all of them were checked with.
    keys: VerificationKeys,
    good: BTreeMap<[u8; 32], Good<C>>,
}

#[derive(Debug)]
struct Good<C> {
    claims: Arc<C>,
    since: Timestamp,
    expires: Timestamp,
}

impl<C> Default for KnownTokens<C> {
    fn default() -> Self {
        KnownTokens { known: Mutex::new(Known { keys: VerificationKeys::new(), good: BTreeMap::new() }) }
    }
}

impl<C: DeserializeOwned> KnownTokens<C> {
    /// As [`token::verify`]: the same token with the same keys, before it expires, costs a look-up.
    pub fn verify(&self, token: &str, keys: &VerificationKeys, now: Timestamp) -> Result<Arc<C>, TokenError> {
        let place = digest(&[token.trim().as_bytes()]);
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.keys != *keys {
                *known = Known { keys: keys.clone(), good: BTreeMap::new() };
            }
            // A clock that was set back may be before the token's beginning.
            let good = known.good.get(&place).filter(|good| good.since <= now && now < good.expires);
            if let Some(good) = good {
                return Ok(good.claims.clone());
            }
        }
        let verified = token::verify_whole::<C>(token, keys, now)?;
        let claims = Arc::new(verified.claims);
        let good = Good { claims: claims.clone(), since: now, expires: verified.expires };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.good.len() >= KEPT {
            known.good.retain(|_, good| now < good.expires);
        }
        if known.keys == *keys && known.good.len() < KEPT {
            known.good.insert(place, good);
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{SigningKey, UserClaims, issue};
    use std::{collections::BTreeSet, time::Duration};

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        Timestamp::from_timestamp(1_800_000_000, 0).expect("a time")
    }

    fn keys_of(key: &SigningKey) -> VerificationKeys {
        let mut keys = VerificationKeys::new();
        keys.insert(key.kid(), key.public_pem());
        keys
    }

    #[test]
    fn a_known_token_stands_until_it_expires_or_is_revoked_or_its_key_is_gone() {
        let key = SigningKey::generate("1").expect("a key");
        let claims = UserClaims { name: "ann".into(), groups: vec!["ops".into()] };
        let token = issue(&key, &claims, "id-1", now(), HOUR).expect("a token");
        let known = KnownTokens::<UserClaims>::default();
        let mut keys = keys_of(&key);
        let first = known.verify(&token, &keys, now()).expect("good");
        let second = known.verify(&token, &keys, now()).expect("known");
        assert!(Arc::ptr_eq(&first, &second));
        let late = now() + HOUR + Duration::from_secs(60);
        assert!(matches!(known.verify(&token, &keys, late), Err(TokenError::Expired(_))));
        keys.set_revoked(BTreeSet::from(["id-1".to_owned()]));
        assert_eq!(known.verify(&token, &keys, now()), Err(TokenError::Revoked));
        let other = SigningKey::generate("2").expect("a key");
        assert!(matches!(known.verify(&token, &keys_of(&other), now()), Err(TokenError::UnknownKey(_))));
        // Another key under the same name.
        let forged = SigningKey::generate("1").expect("a key");
        assert!(known.verify(&token, &keys_of(&forged), now()).is_err());
    }

    #[test]
    fn a_token_with_another_signature_is_not_known() {
        let key = SigningKey::generate("1").expect("a key");
        let keys = keys_of(&key);
        let claims = UserClaims { name: "ann".into(), groups: Vec::new() };
        let token = issue(&key, &claims, "id-1", now(), HOUR).expect("a token");
        let known = KnownTokens::<UserClaims>::default();
        known.verify(&token, &keys, now()).expect("good");
        let (body, _) = token.rsplit_once('.').expect("three parts");
        let theirs =
            issue(&SigningKey::generate("1").expect("a key"), &claims, "id-1", now(), HOUR).expect("a token");
        let (_, signature) = theirs.rsplit_once('.').expect("three parts");
        assert!(known.verify(&format!("{body}.{signature}"), &keys, now()).is_err());
    }
}
