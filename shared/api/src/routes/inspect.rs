//! Questions to a proxy itself: its configuration, counters and clusters, as Envoy tells them.
use super::{Api, extract::Path};
use crate::error::Refused;
use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use http::header;

pub async fn xds(
    api: State<Api>,
    path: Path<(String, String)>,
    query: RawQuery,
) -> Result<Response, Refused> {
    ask(api, path, "xds", query).await
}

pub async fn stats(
    api: State<Api>,
    path: Path<(String, String)>,
    query: RawQuery,
) -> Result<Response, Refused> {
    ask(api, path, "stats", query).await
}

pub async fn clusters(
    api: State<Api>,
    path: Path<(String, String)>,
    query: RawQuery,
) -> Result<Response, Refused> {
    ask(api, path, "clusters", query).await
}

async fn ask(
    State(api): State<Api>,
    Path((mesh, name)): Path<(String, String)>,
    what: &str,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let (content_type, body) = api.backend.inspect(&mesh, &name, what, &query.unwrap_or_default()).await?;
    Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
}
