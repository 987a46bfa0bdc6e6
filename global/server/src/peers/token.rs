//! Join tokens: shown once to the operator, kept in the catalog only as a digest, gone with their first use. Pure.
use shared_identity::{digest, hex, seal::SealKey};
use shared_model::{Resource, ResourceKey, Timestamp, core::Secret, kind, strict};
use std::fmt;
use std::time::Duration;

const FORM: &str = "weft-join";
const PREFIX: &str = "cluster-join-token-";

/// A token: which record it matches, its secret, and the CA that whoever shows it must find.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: String,
    secret: String,
    /// SHA-256 of the CA's certificate, hexadecimal.
    pub ca: String,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FORM}.{}.{}.{}", self.id, self.secret, self.ca)
    }
}

impl JoinToken {
    /// From 40 random bytes and the CA's fingerprint.
    pub fn new(random: [u8; 40], ca: &str) -> JoinToken {
        JoinToken { id: hex(&random[..8]), secret: hex(&random[8..]), ca: ca.to_owned() }
    }

    pub fn parse(text: &str) -> Result<JoinToken, String> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [FORM, id, secret, ca] = parts[..] else {
            return Err(format!("it is not of the form {FORM}.<id>.<secret>.<fingerprint>"));
        };
        let is_hex = |text: &str, length: usize| {
            text.len() == length
                && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        if !is_hex(id, 16) || !is_hex(secret, 64) || !is_hex(ca, 64) {
            return Err("it is cut off or changed".to_owned());
        }
        Ok(JoinToken { id: id.to_owned(), secret: secret.to_owned(), ca: ca.to_owned() })
    }

    /// Where its record lies in the catalog.
    pub fn key(&self) -> ResourceKey {
        ResourceKey::new(kind::GLOBAL_SECRET, "", format!("{PREFIX}{}", self.id))
    }

    /// What the catalog keeps: enough to know the token again, not to make it.
    pub fn record(&self, now: Timestamp, valid_for: Duration) -> Resource {
        let text = format!("{} {}", self.digest(), (now + valid_for).timestamp_millis());
        let spec = serde_json::to_value(Secret::of(text.as_bytes())).expect("a secret is a string");
        let key = self.key();
        Resource::new(&key.kind, &key.mesh, &key.name, spec)
    }

    /// Whether the record is of this token and still holds.
    pub fn check(&self, record: &Resource, now: Timestamp) -> Result<(), String> {
        let (digest, ends) = read(record).ok_or("its record cannot be read")?;
        // Digests of random secrets: how long the comparison takes tells nothing of the secret.
        if digest != self.digest() {
            return Err("its secret is wrong".to_owned());
        }
        if ends <= now.timestamp_millis() {
            return Err("it has expired".to_owned());
        }
        Ok(())
    }

    /// Seals what only the holder of the token may read.
    pub fn wrapping_key(&self) -> SealKey {
        SealKey::from_bytes(digest(&[b"weft join token: seal key", self.secret.as_bytes()]))
    }

    fn digest(&self) -> String {
        hex(&digest(&[b"weft join token: record", self.secret.as_bytes()]))
    }
}

/// Whether a resource is the record of a token that holds no more.
pub fn is_spent(resource: &Resource, now: Timestamp) -> bool {
    let is_record = resource.kind == kind::GLOBAL_SECRET && resource.name.starts_with(PREFIX);
    is_record && read(resource).is_none_or(|(_, ends)| ends <= now.timestamp_millis())
}

fn read(record: &Resource) -> Option<(String, i64)> {
    let bytes = strict::read::<Secret>(&record.spec, "").ok()?.bytes().ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (digest, ends) = text.split_once(' ')?;
    Some((digest.to_owned(), ends.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_record_until_it_ends() {
        let now = Timestamp::from_timestamp(1_800_000_000, 0).expect("a time");
        let minute = Duration::from_secs(60);
        let token = JoinToken::new([7; 40], &"ab".repeat(32));
        assert_eq!(JoinToken::parse(&format!("{token}\n")), Ok(token.clone()));
        let record = token.record(now, minute);
        assert!(!format!("{record:?} {token:?}").contains(&token.secret));
        assert_eq!(token.check(&record, now), Ok(()));
        assert!(token.check(&record, now + minute).expect_err("late").contains("expired"));
        assert!(!is_spent(&record, now) && is_spent(&record, now + minute));
        let mut other = [7; 40];
        other[39] = 8;
        assert!(JoinToken::new(other, &token.ca).check(&record, now).expect_err("other").contains("secret"));
        for bad in ["", "weft-join.1.2.3", &token.to_string()[1..], &token.to_string().replace('0', "g")] {
            assert!(JoinToken::parse(bad).is_err(), "{bad}");
        }
    }
}
