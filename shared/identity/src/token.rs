//! Tokens: JWTs with Kuma's claims. Weft signs with ES256 and also accepts RS256, which Kuma's offline tools make.
use crate::Error;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use shared_model::{Timestamp, labels, labels::Labels};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// Clocks of issuer and checker may differ by this much.
const SKEW: Duration = Duration::from_secs(5);

/// The private half of a P-256 key that signs tokens. `Debug` hides it.
#[derive(Clone)]
pub struct SigningKey {
    kid: String,
    private_pem: String,
    public_pem: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.kid)
    }
}

impl SigningKey {
    pub fn generate(kid: &str) -> Result<Self, Error> {
        let pair = KeyPair::generate()?;
        Self::from_pem(kid, &pair.serialize_pem())
    }

    pub fn from_pem(kid: &str, private_pem: &str) -> Result<Self, Error> {
        let pair = KeyPair::from_pem(private_pem).map_err(|error| Error::Key(error.to_string()))?;
        let (private_pem, public_pem) = (private_pem.to_owned(), pair.public_key_pem());
        Ok(SigningKey { kid: kid.to_owned(), private_pem, public_pem })
    }

    pub fn kid(&self) -> &str {
        &self.kid
    }

    pub fn private_pem(&self) -> &str {
        &self.private_pem
    }

    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }
}

/// The public halves by key id, and the ids of tokens that were revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerificationKeys {
    keys: BTreeMap<String, String>,
    revoked: BTreeSet<String>,
}

impl VerificationKeys {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn from_public_pems(pems: impl IntoIterator<Item = (String, String)>) -> Self {
        VerificationKeys { keys: pems.into_iter().collect(), revoked: BTreeSet::new() }
    }

    pub fn insert(&mut self, kid: &str, public_pem: &str) {
        self.keys.insert(kid.to_owned(), public_pem.to_owned());
    }

    pub fn set_revoked(&mut self, revoked: BTreeSet<String>) {
        self.revoked = revoked;
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a token that was checked once still stands: its key is known and nobody has revoked it.
    pub fn stands(&self, kid: &str, jti: &str) -> Result<(), TokenError> {
        if !self.keys.contains_key(kid) {
            return Err(TokenError::UnknownKey(kid.to_owned()));
        }
        match !jti.is_empty() && self.revoked.contains(jti) {
            true => Err(TokenError::Revoked),
            false => Ok(()),
        }
    }
}

/// Reads a revocation list: token ids separated by commas or white space.
pub fn parse_revocations(text: &str) -> BTreeSet<String> {
    let ids = text.split(|c: char| c == ',' || c.is_whitespace());
    ids.filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

/// Claims of a proxy's token. Empty ones bind nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DataplaneClaims {
    #[serde(default, alias = "name")]
    pub name: String,
    #[serde(default, alias = "mesh")]
    pub mesh: String,
    #[serde(default, alias = "tags", deserialize_with = "null_is_empty")]
    pub tags: BTreeMap<String, Vec<String>>,
    #[serde(default, alias = "workload")]
    pub workload: String,
}

/// Claims of a zone's token. Scope `cp` opens a zone link; `ingress` and `egress` are for zone proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ZoneClaims {
    #[serde(default, alias = "zone")]
    pub zone: String,
    #[serde(default, alias = "scope", deserialize_with = "null_is_empty")]
    pub scope: Vec<String>,
}

/// Claims of a user's token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserClaims {
    #[serde(default, alias = "name")]
    pub name: String,
    #[serde(default, alias = "groups", deserialize_with = "null_is_empty")]
    pub groups: Vec<String>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("it is missing")]
    Missing,
    #[error("it is not a token: {0}")]
    Malformed(String),
    #[error("it is signed with {0}, which is not accepted")]
    Algorithm(String),
    #[error("it was signed with the unknown key {0:?}")]
    UnknownKey(String),
    #[error("its signature is wrong")]
    Forged,
    #[error("it expired at {0}")]
    Expired(String),
    #[error("it is not valid before {0}")]
    Early(String),
    #[error("it was revoked")]
    Revoked,
}

/// Signs `claims`. The claims must serialise as an object.
pub fn issue<C: Serialize>(
    key: &SigningKey,
    claims: &C,
    jti: &str,
    now: Timestamp,
    valid_for: Duration,
) -> Result<String, Error> {
    let bad = |error: &dyn fmt::Display| Error::Token(error.to_string());
    let Value::Object(mut body) = serde_json::to_value(claims).map_err(|error| bad(&error))? else {
        return Err(Error::Token("claims are an object".into()));
    };
    body.insert("jti".into(), jti.into());
    body.insert("iat".into(), now.timestamp().into());
    body.insert("nbf".into(), (now - SKEW).timestamp().into());
    body.insert("exp".into(), (now + valid_for).timestamp().into());
    let header = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::ES256) };
    let encoding = EncodingKey::from_ec_pem(key.private_pem.as_bytes()).map_err(|error| bad(&error))?;
    jsonwebtoken::encode(&header, &body, &encoding).map_err(|error| bad(&error))
}

/// A token that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<C> {
    pub claims: C,
    pub expires: Timestamp,
    /// The key that signed it.
    pub kid: String,
    /// Under which it can be revoked; empty for a token without.
    pub jti: String,
}

/// Checks signature, times and revocation, and reads the claims.
pub fn verify<C: DeserializeOwned>(
    token: &str,
    keys: &VerificationKeys,
    now: Timestamp,
) -> Result<C, TokenError> {
    verify_whole(token, keys, now).map(|verified| verified.claims)
}

/// As [`verify`], and tells what the token is beside its claims.
pub fn verify_whole<C: DeserializeOwned>(
    token: &str,
    keys: &VerificationKeys,
    now: Timestamp,
) -> Result<Verified<C>, TokenError> {
    let token = token.trim();
    if token.is_empty() {
        return Err(TokenError::Missing);
    }
    let malformed = |error: &dyn fmt::Display| TokenError::Malformed(error.to_string());
    let header = jsonwebtoken::decode_header(token).map_err(|error| malformed(&error))?;
    let kid = header.kid.unwrap_or_else(|| "0".to_owned());
    if !matches!(header.alg, Algorithm::ES256 | Algorithm::RS256) {
        return Err(TokenError::Algorithm(format!("{:?}", header.alg)));
    }
    let pem = keys.keys.get(&kid).ok_or_else(|| TokenError::UnknownKey(kid.clone()))?;
    // The key, not the token, says which algorithm counts.
    let (algorithm, key) = match DecodingKey::from_ec_pem(pem.as_bytes()) {
        Ok(key) => (Algorithm::ES256, key),
        Err(_) => {
            let key =
                DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| TokenError::UnknownKey(kid.clone()))?;
            (Algorithm::RS256, key)
        }
    };
    if header.alg != algorithm {
        return Err(TokenError::Forged);
    }
    let mut validation = Validation::new(algorithm);
    // Times are checked below, against the time that was handed in.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let body: Map<String, Value> =
        jsonwebtoken::decode(token, &key, &validation).map_err(|_| TokenError::Forged)?.claims;
    let time = |claim: &str| {
        let seconds =
            body.get(claim).and_then(|value| value.as_i64().or_else(|| value.as_f64().map(|f| f as i64)));
        seconds.and_then(|seconds| Timestamp::from_timestamp(seconds, 0))
    };
    let expires = time("exp").ok_or_else(|| TokenError::Malformed("it has no expiry".into()))?;
    // A signed time may be any time: only `now` is known to have room for the skew.
    if expires <= now - SKEW {
        return Err(TokenError::Expired(expires.to_rfc3339()));
    }
    if let Some(start) = time("nbf").filter(|start| *start > now + SKEW) {
        return Err(TokenError::Early(start.to_rfc3339()));
    }
    let jti = body.get("jti").and_then(Value::as_str).unwrap_or_default().to_owned();
    keys.stands(&kid, &jti)?;
    let claims = serde_json::from_value(Value::Object(body)).map_err(|error| malformed(&error))?;
    Ok(Verified { claims, expires, kid, jti })
}

/// Whether a proxy may use a token with these claims. `tags` holds every value of each tag of the proxy.
pub fn check_dataplane(
    claims: &DataplaneClaims,
    mesh: &str,
    name: &str,
    tags: &BTreeMap<String, Vec<String>>,
    proxy_labels: &Labels,
) -> Result<(), String> {
    if !claims.mesh.is_empty() && claims.mesh != mesh {
        return Err(format!("the token is for mesh {:?}, not for {mesh:?}", claims.mesh));
    }
    if !claims.name.is_empty() && claims.name != name {
        return Err(format!("the token is for the proxy {:?}, not for {name:?}", claims.name));
    }
    for (tag, allowed) in &claims.tags {
        let values = tags
            .get(tag)
            .ok_or_else(|| format!("the token asks for the tag {tag}, which the proxy lacks"))?;
        if let Some(value) = values.iter().find(|value| !allowed.contains(value)) {
            return Err(format!("the token does not allow {value:?} for the tag {tag}"));
        }
    }
    if !claims.workload.is_empty() && proxy_labels.get(labels::WORKLOAD) != Some(&claims.workload) {
        return Err(format!("the token is for the workload {:?}", claims.workload));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        Timestamp::from_timestamp(1_800_000_000, 0).expect("a time")
    }

    fn setup() -> (SigningKey, VerificationKeys, String) {
        let key = SigningKey::generate("1").expect("a key");
        let mut keys = VerificationKeys::new();
        keys.insert("1", key.public_pem());
        let claims = DataplaneClaims { name: "web-1".into(), mesh: "default".into(), ..Default::default() };
        let token = issue(&key, &claims, "id-1", now(), HOUR).expect("a token");
        (key, keys, token)
    }

    #[test]
    fn a_good_token_gives_its_claims() {
        let (_, keys, token) = setup();
        let verified: Verified<DataplaneClaims> = verify_whole(&token, &keys, now()).expect("claims");
        assert_eq!(verified.expires, now() + HOUR);
        assert_eq!((verified.kid.as_str(), verified.jti.as_str()), ("1", "id-1"));
        let claims = verified.claims;
        assert_eq!((claims.name.as_str(), claims.mesh.as_str()), ("web-1", "default"));
    }

    #[test]
    fn every_bad_token_is_refused_with_its_reason() {
        let (_, mut keys, token) = setup();
        let refused = |token: &str, keys: &VerificationKeys, at| {
            verify::<DataplaneClaims>(token, keys, at).expect_err("refused").to_string()
        };
        assert!(refused(&token, &keys, now() + 2 * HOUR).contains("expired"));
        assert!(refused(&token, &keys, now() - HOUR).contains("not valid before"));
        assert!(refused("", &keys, now()).contains("missing"));
        assert!(refused("rubbish", &keys, now()).contains("not a token"));
        let (head, tail) = token.rsplit_once('.').expect("three parts");
        let flipped = if tail.starts_with('A') { 'B' } else { 'A' };
        assert!(refused(&format!("{head}.{flipped}{}", &tail[1..]), &keys, now()).contains("signature"));
        let other = SigningKey::generate("2").expect("a key");
        let foreign = issue(&other, &DataplaneClaims::default(), "x", now(), HOUR).expect("a token");
        assert!(refused(&foreign, &keys, now()).contains("unknown key"));
        let same_kid = SigningKey::generate("1").expect("a key");
        let forged = issue(&same_kid, &DataplaneClaims::default(), "x", now(), HOUR).expect("a token");
        assert!(refused(&forged, &keys, now()).contains("signature"));
        // alg=none, with a well-formed body.
        assert!(verify::<DataplaneClaims>("eyJhbGciOiJub25lIiwia2lkIjoiMSJ9.e30.", &keys, now()).is_err());
        keys.set_revoked(parse_revocations("id-0,id-1\n"));
        assert!(refused(&token, &keys, now()).contains("revoked"));
    }

    #[test]
    fn a_proxy_acts_only_as_what_its_token_says() {
        let tags = BTreeMap::from([(labels::SERVICE.to_owned(), vec!["web".to_owned()])]);
        let check = |claims: DataplaneClaims| check_dataplane(&claims, "m", "p", &tags, &Labels::new());
        assert_eq!(check(DataplaneClaims::default()), Ok(()));
        assert!(check(DataplaneClaims { mesh: "x".into(), ..Default::default() }).is_err());
        assert!(check(DataplaneClaims { name: "x".into(), ..Default::default() }).is_err());
        assert!(check(DataplaneClaims { workload: "x".into(), ..Default::default() }).is_err());
        let of = |value: &str| BTreeMap::from([(labels::SERVICE.to_owned(), vec![value.to_owned()])]);
        assert!(check(DataplaneClaims { tags: of("db"), ..Default::default() }).is_err());
        assert_eq!(check(DataplaneClaims { tags: of("web"), ..Default::default() }), Ok(()));
    }
}
