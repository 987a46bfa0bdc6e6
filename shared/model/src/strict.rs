//! Strict reading of JSON values into typed structs, with the path of the first thing that does not fit.
use crate::problem::{Problem, join};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads `value` as a `T`; `prefix` is put in front of the path of a problem.
pub fn read<T: DeserializeOwned>(value: &Value, prefix: &str) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match error.path().to_string() {
            path if path == "." => String::new(),
            path => path.replace(".[", "["),
        };
        Problem::new(join(prefix, &path), error.into_inner().to_string())
    })
}
