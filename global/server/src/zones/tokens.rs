//! The desk for tokens that users ask for at a zone.
//!
//! A zone that carries such a request has no say in it: the request goes through the same door as a call over TLS, where
//! the user's own token counts and nothing else. What a zone may cost here is bounded by an [`Allowance`].
use axum::{Router, body::Body};
use axum::{
    body::to_bytes,
    http::{Request, header},
};
use bytes::Bytes;
use proto::link::{TokenAnswer, TokenWanted};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};
use tonic::{Status, metadata::MetadataMap};
use tower::ServiceExt as _;

const KINDS: [&str; 3] = ["dataplane", "zone", "user"];
/// A request names a few tags, and an answer is a token or says why there is none.
const BODY_MAX: usize = 64 << 10;
/// So many requests of one zone at once: a script that makes the tokens of all its proxies.
const AT_ONCE: f64 = 500.0;
/// So many each second from then on.
const EACH_SECOND: f64 = 50.0;

pub struct Desk {
    /// The REST API as it is served over TLS.
    api: Router,
    /// By zone, of those that have used some of theirs.
    allowances: Mutex<BTreeMap<String, Allowance>>,
}

/// What a zone may ask for without waiting. Pure.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: f64,
    since: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Allowance {
        Allowance { left: AT_ONCE, since: now }
    }

    fn left(&self, now: Instant) -> f64 {
        let grown = now.saturating_duration_since(self.since).as_secs_f64() * EACH_SECOND;
        (self.left + grown).min(AT_ONCE)
    }

    fn take(&mut self, now: Instant) -> bool {
        let left = self.left(now);
        let is_enough = left >= 1.0;
        *self = Allowance { left: if is_enough { left - 1.0 } else { left }, since: now };
        is_enough
    }
}

impl Desk {
    pub fn new(api: Router) -> Desk {
        Desk { api, allowances: Mutex::default() }
    }

    pub async fn answer(
        &self,
        zone: &str,
        metadata: &MetadataMap,
        wanted: TokenWanted,
    ) -> Result<TokenAnswer, Status> {
        let TokenWanted { kind, body } = wanted;
        if !KINDS.contains(&kind.as_str()) {
            return Err(Status::invalid_argument(format!(
                "{kind:?} is no kind of token: {}",
                KINDS.join(", ")
            )));
        }
        if body.len() > BODY_MAX {
            let reason = format!("a request for a token has at most {BODY_MAX} bytes, not {}", body.len());
            return Err(Status::invalid_argument(reason));
        }
        if !self.take(zone, Instant::now()) {
            return Err(Status::resource_exhausted(format!(
                "zone {zone:?} asks for more than {EACH_SECOND} tokens a second: try again later"
            )));
        }
        let authorization = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let mut request =
            Request::post(format!("/tokens/{kind}")).header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request =
            request.body(Body::from(body)).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let answer = self.api.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let status = answer.status().as_u16();
        tracing::info!(zone, kind, status, "a user asked for a token through a zone");
        let content_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let body: Bytes = to_bytes(answer.into_body(), BODY_MAX)
            .await
            .map_err(|error| Status::internal(format!("the answer cannot be carried: {error}")))?;
        Ok(TokenAnswer { status: status.into(), content_type, body })
    }

    fn take(&self, zone: &str, now: Instant) -> bool {
        let mut allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        allowances.retain(|name, allowance| name == zone || allowance.left(now) < AT_ONCE);
        allowances.entry(zone.to_owned()).or_insert_with(|| Allowance::new(now)).take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_zone_has_so_many_at_once_and_some_more_each_second_and_others_have_theirs() {
        let desk = Desk::new(Router::new());
        let now = Instant::now();
        let taken = (0..2_000).filter(|_| desk.take("east", now)).count();
        assert_eq!(taken, AT_ONCE as usize);
        assert!(desk.take("west", now));
        let later = now + Duration::from_secs(2);
        let taken = (0..2_000).filter(|_| desk.take("east", later)).count();
        assert_eq!(taken, 2 * EACH_SECOND as usize);
        // What is whole again is not remembered.
        assert!(desk.take("west", later + Duration::from_secs(60)));
        assert_eq!(desk.allowances.lock().expect("a lock").len(), 1);
    }
}
