//! The token of the proxy. Only the zone can verify it; what can be seen without a key is looked at here, because Envoy
//! reports a refused token in its own words, again and again.
use crate::dataplane::Proxy;
use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use shared_model::Timestamp;
use std::path::Path;

/// Reads the token from its file.
pub fn read(path: &Path) -> Result<String> {
    let text = shared_node::file::read(path, "the dataplane token")?;
    match text.trim() {
        "" => bail!("the dataplane token file {} is empty", path.display()),
        token if token.contains(char::is_whitespace) => bail!("{} holds more than one token", path.display()),
        token => Ok(token.to_owned()),
    }
}

/// Refuses a token that cannot be this proxy's.
pub fn check(token: &str, proxy: &Proxy, now: Timestamp) -> Result<()> {
    let claims = claims(token).context("the dataplane token is damaged: it is not a JWT")?;
    // Kuma writes its claims capitalised and reads them in either form.
    let claim = |key: &str| {
        let found = claims.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.and_then(|(_, value)| value.as_str()).filter(|text| !text.is_empty())
    };
    for (what, is) in [("name", &proxy.name), ("mesh", &proxy.mesh)] {
        if let Some(bound) = claim(what).filter(|bound| bound != is) {
            bail!("the dataplane token is for the {what} {bound:?}, and this proxy's is {is:?}");
        }
    }
    let ends = claims.get("exp").and_then(Value::as_i64).and_then(|secs| Timestamp::from_timestamp(secs, 0));
    if let Some(end) = ends.filter(|end| *end <= now) {
        bail!("the dataplane token expired at {end}");
    }
    Ok(())
}

fn claims(token: &str) -> Option<Map<String, Value>> {
    let parts: Vec<&str> = token.split('.').collect();
    let [_, claims, _] = parts.as_slice() else { return None };
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane;
    use serde_json::json;

    #[test]
    fn a_token_is_one_word() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("t");
        let token_of = |text: &str| {
            std::fs::write(&path, text).expect("written");
            read(&path).map_err(|error| error.to_string())
        };
        assert_eq!(token_of("abc\n").as_deref(), Ok("abc"));
        assert!(token_of(" \n").expect_err("empty").ends_with("is empty"));
        assert!(token_of("a\nb\n").expect_err("two").ends_with("more than one token"));
    }

    #[test]
    fn a_token_of_another_is_seen_before_it_is_sent() {
        let now = Timestamp::from_timestamp(1_000_000, 0).expect("a time");
        let checked = |claims: Value| {
            let token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
            check(&token, &dataplane::named(None, "web-1"), now).map_err(|error| error.to_string())
        };
        assert_eq!(checked(json!({"Name": "web-1", "Mesh": "default", "exp": 1_000_001})), Ok(()));
        assert_eq!(checked(json!({"Name": "", "Mesh": "default"})), Ok(()));
        let other = checked(json!({"Name": "web-2"})).expect_err("another name");
        assert_eq!(other, "the dataplane token is for the name \"web-2\", and this proxy's is \"web-1\"");
        assert!(checked(json!({"mesh": "other"})).is_err());
        let late = checked(json!({"exp": 999_999})).expect_err("too late");
        assert_eq!(late, "the dataplane token expired at 1970-01-12 13:46:39 UTC");
        let damaged = check("abc", &dataplane::named(None, "web-1"), now).expect_err("no token").to_string();
        assert_eq!(damaged, "the dataplane token is damaged: it is not a JWT");
    }
}
