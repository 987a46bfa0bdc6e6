//! How far a revision has come, with a long poll for those who wait.
use super::{
    Api,
    extract::{Path, Query},
};
use crate::{error::Refused, revision::RevisionStatus};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use serde::Deserialize;
use shared_model::{Duration, Revision};
use std::time::Duration as StdDuration;

/// The longest that an answer is held back.
const WAIT_MAX: StdDuration = StdDuration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// Holds the answer back until it differs from what the caller has seen (the `ETag` that it sends as
    /// `If-None-Match`, else what is so at the request), until the revision is done, or for this long.
    wait: Option<String>,
    /// Judged before the request came here.
    #[serde(rename = "consistency")]
    _consistency: Option<String>,
}

pub async fn status(
    State(api): State<Api>,
    Path(revision): Path<String>,
    Query(query): Query<Wait>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let number = revision
        .parse()
        .map_err(|_| Refused::invalid("revision", format!("{revision:?} is not a number")))?;
    let wait = match query.wait.as_deref() {
        None | Some("") => StdDuration::ZERO,
        Some(text) => Duration::parse(text).map_err(|reason| Refused::invalid("wait", reason))?.0,
    };
    let deadline = tokio::time::Instant::now() + wait.min(WAIT_MAX);
    let mut ticks = api.backend.ticks();
    let mut seen =
        headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).map(str::to_owned);
    loop {
        // Marked before it is read: a change in between ends the next wait at once.
        ticks.borrow_and_update();
        let status = read(&api, number)?;
        let tag = tag(&status);
        let changed = seen.get_or_insert_with(|| tag.clone()) != &tag;
        if changed || status.done || tokio::time::Instant::now() >= deadline {
            return Ok(([(header::ETAG, tag)], Json(status)).into_response());
        }
        // A control plane that is shutting down no longer ticks: what is so now is the answer.
        if let Ok(Err(_)) = tokio::time::timeout_at(deadline, ticks.changed()).await {
            return Ok(([(header::ETAG, tag)], Json(status)).into_response());
        }
    }
}

fn read(api: &Api, number: u64) -> Result<RevisionStatus, Refused> {
    api.backend.revision_status(Revision(number)).ok_or_else(|| {
        let newest = api.backend.revision();
        Refused::NotFound(format!("there is no revision {number}, the newest is {newest}"))
    })
}

/// Changes with what is said of this revision, not with newer revisions.
fn tag(status: &RevisionStatus) -> String {
    let zones = serde_json::to_string(&status.zones).unwrap_or_default();
    // FNV-1a: a fingerprint against needless answers, no protection.
    let hash = zones.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("\"{}-{hash:016x}\"", status.revision)
}
