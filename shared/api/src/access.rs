//! Who is calling. A user token names the caller; without one, a direct call from this host over the plain loopback
//! door is the administrator, under rules strict enough that neither a browser nor a proxy on the host can lend it out.
use crate::error::Refused;
use http::{HeaderMap, Uri, header};
use shared_identity::{
    known::KnownTokens,
    token::{UserClaims, VerificationKeys},
};
use shared_model::Timestamp;
use std::net::IpAddr;

/// Name and group of administrators.
pub const ADMIN: &str = "mesh-system:admin";
const ANONYMOUS: &str = "mesh-system:anonymous";
const UNAUTHENTICATED: &str = "mesh-system:unauthenticated";
const AUTHENTICATED: &str = "mesh-system:authenticated";

/// Which listener a request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Plain HTTP, bound to loopback: localhost is the administrator.
    Loopback,
    /// HTTPS: every caller shows a user token.
    Https,
}

impl Door {
    pub fn scheme(self) -> &'static str {
        match self {
            Door::Loopback => "http",
            Door::Https => "https",
        }
    }
}

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    pub groups: Vec<String>,
}

impl Caller {
    fn of(name: &str, groups: &[&str]) -> Self {
        Caller { name: name.to_owned(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
    }

    pub fn anonymous() -> Self {
        Caller::of(ANONYMOUS, &[UNAUTHENTICATED])
    }

    pub fn is_admin(&self) -> bool {
        self.name == ADMIN || self.groups.iter().any(|group| group == ADMIN)
    }

    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }
}

/// Tells who calls, or refuses a token that does not hold.
pub fn identify(
    door: Door,
    peer: Option<IpAddr>,
    uri: &Uri,
    headers: &HeaderMap,
    known: &KnownTokens<UserClaims>,
    keys: impl FnOnce() -> VerificationKeys,
    now: Timestamp,
) -> Result<Caller, Refused> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let text = value.to_str().unwrap_or_default();
        let bearer = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = bearer.ok_or_else(|| {
            Refused::Unauthenticated("the authorization header is not of the form Bearer <user token>".into())
        })?;
        let claims = known
            .verify(token, &keys(), now)
            .map_err(|error| Refused::Unauthenticated(format!("the user token is refused: {error}")))?;
        // A zone's or a proxy's token is signed with other keys, so a missing name is a token of nobody.
        if claims.name.is_empty() || claims.name == ANONYMOUS {
            return Err(Refused::Unauthenticated("the user token is refused: it names no user".into()));
        }
        let mut caller = Caller { name: claims.name.clone(), groups: claims.groups.clone() };
        caller.groups.push(AUTHENTICATED.to_owned());
        return Ok(caller);
    }
    if door == Door::Loopback && is_direct_local(peer, uri, headers) {
        return Ok(Caller::of(ADMIN, &[ADMIN, AUTHENTICATED]));
    }
    Ok(Caller::anonymous())
}

/// A connection from this host that nobody relays: no forwarding headers, addressed to this host by its own name, and
/// not sent by a page of another site.
fn is_direct_local(peer: Option<IpAddr>, uri: &Uri, headers: &HeaderMap) -> bool {
    let local_peer = peer.is_some_and(|ip| ip.to_canonical().is_loopback());
    let relays =
        |name: &str| matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded-");
    let forwarded = headers.keys().any(|name| relays(name.as_str()));
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let authority = uri.authority().map(|authority| authority.as_str()).or_else(|| text("host"));
    let local_host = authority.is_some_and(is_local_authority);
    let same_site = matches!(text("sec-fetch-site"), None | Some("" | "same-origin" | "none"));
    let same_origin = text("origin")
        .is_none_or(|origin| origin.strip_prefix("http://").is_some_and(|origin| Some(origin) == authority));
    local_peer && !forwarded && local_host && same_site && same_origin
}

fn is_local_authority(authority: &str) -> bool {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or_default(),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    port && (host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(door: Door, peer: &str, headers: &[(&'static str, &str)]) -> Caller {
        let map = headers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).expect("a header"))
        });
        let peer = peer.parse().ok();
        let uri = Uri::from_static("/meshes");
        let known = KnownTokens::default();
        identify(door, peer, &uri, &map.collect(), &known, VerificationKeys::new, Timestamp::UNIX_EPOCH)
            .expect("a caller")
    }

    #[test]
    fn a_direct_call_from_this_host_is_the_administrator() {
        assert!(caller(Door::Loopback, "127.0.0.1", &[("host", "localhost:5681")]).is_admin());
        assert!(caller(Door::Loopback, "::1", &[("host", "[::1]:5681")]).is_admin());
        let same = [
            ("host", "127.0.0.1:5681"),
            ("origin", "http://127.0.0.1:5681"),
            ("sec-fetch-site", "same-origin"),
        ];
        assert!(caller(Door::Loopback, "127.0.0.1", &same).is_admin());
    }

    #[test]
    fn whatever_may_come_from_elsewhere_is_not() {
        let local = ("host", "localhost:5681");
        assert!(caller(Door::Https, "127.0.0.1", &[local]).is_anonymous());
        assert!(caller(Door::Loopback, "10.0.0.7", &[local]).is_anonymous());
        assert!(caller(Door::Loopback, "", &[local]).is_anonymous());
        assert!(caller(Door::Loopback, "127.0.0.1", &[]).is_anonymous());
        assert!(caller(Door::Loopback, "127.0.0.1", &[("host", "evil.example")]).is_anonymous());
        for host in ["127.0.0.1@evil.example", "127.0.0.1:80@evil.example", "[::1]evil", "localhost:"] {
            assert!(caller(Door::Loopback, "127.0.0.1", &[("host", host)]).is_anonymous(), "{host}");
        }
        for relayed in [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-host", "cp.example"),
            ("forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("via", "1.1 proxy"),
        ] {
            assert!(caller(Door::Loopback, "127.0.0.1", &[local, relayed]).is_anonymous());
        }
        assert!(
            caller(Door::Loopback, "127.0.0.1", &[local, ("sec-fetch-site", "cross-site")]).is_anonymous()
        );
        assert!(
            caller(Door::Loopback, "127.0.0.1", &[local, ("origin", "http://evil.example")]).is_anonymous()
        );
        assert!(caller(Door::Loopback, "127.0.0.1", &[local, ("origin", "null")]).is_anonymous());
    }
}
