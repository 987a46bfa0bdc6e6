//! What axum takes out of a request, with refusals in the form of every other answer.
use crate::error::Refused;
use axum::extract::{FromRequestParts, rejection};
use http::request::Parts;
use serde::de::DeserializeOwned;

/// Segments of the path.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let bad = |rejection: rejection::PathRejection| {
            Refused::invalid("", format!("the path cannot be read: {}", rejection.body_text()))
        };
        axum::extract::Path::from_request_parts(parts, state).await.map(|path| Path(path.0)).map_err(bad)
    }
}

/// The query, read into a form that may refuse keys that it does not know.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let bad = |rejection: rejection::QueryRejection| Refused::invalid("", rejection.body_text());
        axum::extract::Query::from_request_parts(parts, state).await.map(|query| Query(query.0)).map_err(bad)
    }
}
