//! The one place that asks for the time of day.
use shared_model::Timestamp;

pub fn now() -> Timestamp {
    chrono::Utc::now()
}
