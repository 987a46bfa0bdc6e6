//! Refusals and their translation to HTTP: the only place that knows status codes and Kuma's error body.
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde_json::{Value, json};
use shared_catalog::Refusal;
use shared_model::Problem;

/// Why a request is refused. The text is shown to the user as it is.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    NotFound(String),
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Problem>),
    #[error("{0}")]
    Conflict(String),
    /// Nobody may do this here.
    #[error("{0}")]
    NotAllowed(String),
    #[error("{0}")]
    Unauthenticated(String),
    /// This caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    MediaType(String),
    #[error("{0}")]
    Internal(String),
}

impl Refused {
    pub fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Refused::Invalid(vec![Problem::new(path, reason)])
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Refused::NotFound(_) => StatusCode::NOT_FOUND,
            Refused::Invalid(_) => StatusCode::BAD_REQUEST,
            Refused::Conflict(_) => StatusCode::CONFLICT,
            Refused::NotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Refused::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Refused::Forbidden(_) => StatusCode::FORBIDDEN,
            Refused::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refused::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Refused::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Refused::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Kuma's error body. `details` and `causes` repeat the rest for its older clients.
    pub fn body(&self) -> Value {
        let title = match self {
            Refused::NotFound(_) => "Could not find a resource",
            Refused::Unauthenticated(_) => "Could not authenticate",
            Refused::Forbidden(_) => "Access Denied",
            Refused::NotAllowed(_) => "Method not allowed",
            _ => "Could not process a resource",
        };
        let (detail, problems) = match self {
            Refused::Invalid(problems) => ("Resource is not valid".to_owned(), problems.as_slice()),
            Refused::NotFound(reason) => (format!("Not found: {reason}"), [].as_slice()),
            other => (other.to_string(), [].as_slice()),
        };
        let mut body = json!({
            "type": "/std-errors",
            "status": self.status().as_u16(),
            "title": title,
            "detail": detail,
            "details": detail,
        });
        if !problems.is_empty() {
            let field = |problem: &Problem, key: &str| json!({"field": problem.path, key: problem.reason});
            body["invalid_parameters"] = problems.iter().map(|p| field(p, "reason")).collect();
            body["causes"] = problems.iter().map(|p| field(p, "message")).collect();
        }
        body
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Conflict { .. } | Refusal::Exists { .. } | Refusal::OtherEpoch(_) => {
                Refused::Conflict(text)
            }
            Refusal::NotFound => Refused::NotFound(text),
            Refusal::UnknownMesh(_) => Refused::invalid("mesh", text),
            Refusal::MeshInUse { .. } => Refused::invalid("mesh", text),
            Refusal::Malformed(_) => Refused::Internal(text),
        }
    }
}

/// Travels with an answer to where it is logged.
#[derive(Clone)]
pub(crate) struct Reason(pub String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        response.extensions_mut().insert(Reason(self.to_string()));
        response
    }
}
