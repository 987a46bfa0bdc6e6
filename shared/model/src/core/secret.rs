//! `Secret` (in a mesh) and `GlobalSecret`.
use crate::problem::Problem;
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes that only administrators may read, base64 on the wire.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Secret {
    pub data: String,
}

impl Secret {
    pub fn of(bytes: &[u8]) -> Self {
        Secret { data: base64::engine::general_purpose::STANDARD.encode(bytes) }
    }

    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        base64::engine::general_purpose::STANDARD
            .decode(self.data.trim())
            .map_err(|error| format!("is not base64: {error}"))
    }

    pub fn check(&self) -> Vec<Problem> {
        self.bytes().err().map(|reason| Problem::new("data", reason)).into_iter().collect()
    }
}

/// Never prints the content.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
