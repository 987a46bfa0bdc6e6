//! What a collector gets from `--otlp-endpoint`: a write, its commit, and the zone's report, as one trace.
mod house;

use house::{House, Zone, within};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use proto::link::{Progress, RevisionProgress, from_zone::Kind as Up};
use shared_node::telemetry;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().expect("a lock").extend(spans.flat_map(|scope| scope.spans));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn field(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_its_commit_and_the_zones_report_are_one_trace() {
    let collector = Collector::default();
    let listener = shared_node::serve::bind(([127, 0, 0, 1], 0).into(), "the collector").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let service = TraceServiceServer::new(collector.clone());
    let router = tonic::service::Routes::new(service).prepare().into_axum_router();
    tokio::spawn(shared_node::serve::http(listener, router, CancellationToken::new()));
    let flags = telemetry::Flags {
        log_level: "off".into(),
        log_format: telemetry::Format::Text,
        otlp_endpoint: Some(endpoint),
    };
    let telemetry = telemetry::init(&flags, "global-cp").expect("telemetry");

    let (dir, disk) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let house = House::start(dir.path()).await;
    let zone = Zone::follow(&house, disk.path(), "east", &house.zone_token("east", &["cp"]).await).await;
    let mesh = serde_json::json!({"type": "Mesh", "name": "traced"});
    let (_, reply) = house.put("/meshes/traced", mesh).await;
    let revision = reply["revision"].as_u64().expect("a revision");
    zone.holds(revision).await;
    let report = RevisionProgress { revision, touched: 2, acknowledged: 2, ..RevisionProgress::default() };
    zone.say(Up::Progress(Progress { revisions: vec![report] })).await;
    house.until(&format!("/_revisions/{revision}"), |status| status["done"] == true).await;
    zone.leave().await;
    house.stop().await;
    tokio::task::spawn_blocking(move || drop(telemetry)).await.expect("flushed");

    let collected = async {
        loop {
            let spans = collector.0.lock().expect("a lock").clone();
            let of = |name: &str| {
                let wanted = Some(revision.to_string());
                spans.iter().find(|span| span.name == name && field(span, "revision") == wanted).cloned()
            };
            if let (Some(write), Some(commit), Some(zone)) = (of("write"), of("commit"), of("zone")) {
                return (write, commit, zone, spans);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (write, commit, zone, spans) = within(collected).await;
    assert_eq!(
        (field(&write, "path").as_deref(), field(&write, "status").as_deref()),
        (Some("/meshes/traced"), Some("201"))
    );
    assert_eq!((&commit.trace_id, &commit.parent_span_id), (&write.trace_id, &write.span_id));
    assert_eq!((&zone.trace_id, &zone.parent_span_id), (&write.trace_id, &write.span_id));
    assert_eq!(
        (field(&zone, "zone").as_deref(), field(&zone, "acknowledged").as_deref()),
        (Some("east"), Some("2"))
    );
    assert!(zone.events.iter().any(|event| event.name == "the zone has reported"), "{:?}", zone.events);
    // Nothing of what carries the traces is in them.
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert!(names.iter().all(|name| ["write", "commit", "zone", "submission"].contains(name)), "{names:?}");
}
