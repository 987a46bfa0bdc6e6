//! The zones' part of a write's trace: one span per zone that was connected when the revision was committed, from the
//! commit to the report that no proxy is pending. Nothing is kept while no traces are sent.
use shared_api::ZoneStatus;
use shared_model::Revision;
use shared_node::telemetry::Cause;
use std::collections::BTreeMap;
use tracing::{Span, field::Empty};

/// Spans that are open at once. A zone that never reports must not hold more than that.
const OPEN_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct Traces {
    open: BTreeMap<(Revision, String), Span>,
}

impl Traces {
    pub fn begin(&mut self, revision: Revision, zone: &str, cause: &Cause) {
        let span = tracing::debug_span!(
            "zone",
            zone,
            revision = revision.0,
            touched = Empty,
            acknowledged = Empty,
            refused = Empty
        );
        cause.lead_to(&span);
        self.open.insert((revision, zone.to_owned()), span);
        while self.open.len() > OPEN_MAX {
            self.open.pop_first();
        }
    }

    /// Tells what a zone has said, and ends the spans of what is done there.
    pub fn heard(&mut self, zone: &str, progress: impl Fn(Revision) -> ZoneStatus) {
        if self.open.is_empty() {
            return;
        }
        self.open.retain(|(revision, of), span| {
            if of != zone {
                return true;
            }
            let status = progress(*revision);
            if status.applied {
                let _entered = span.enter();
                let (touched, acknowledged, pending) = (status.touched, status.acknowledged, status.pending);
                tracing::debug!(touched, acknowledged, pending, "the zone has reported");
            }
            if status.done {
                span.record("touched", status.touched);
                span.record("acknowledged", status.acknowledged);
                span.record("refused", status.refused.len());
            }
            !status.done
        });
    }

    /// Ends all, as they are.
    pub fn end(&mut self) {
        self.open.clear();
    }
}
