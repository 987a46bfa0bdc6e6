//! Logs to stderr, and traces over OTLP when asked for.
use anyhow::{Context as _, Result, anyhow};
use opentelemetry::{
    Context as TraceContext,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::{Level, Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::FilterFn, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// The flags that every program has.
#[derive(Clone, Debug, clap::Args)]
pub struct Flags {
    /// What to log: error, warn, info, debug, trace, or a filter such as `info,zone_server=debug`.
    #[arg(long, env = "WEFT_LOG_LEVEL", default_value = "info", value_name = "LEVEL", global = true)]
    pub log_level: String,
    /// How to log.
    #[arg(long, env = "WEFT_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT", global = true)]
    pub log_format: Format,
    /// Where to send traces over OTLP (gRPC), for example http://127.0.0.1:4317; off when absent.
    #[arg(long, env = "WEFT_OTLP_ENDPOINT", value_name = "URL", global = true)]
    pub otlp_endpoint: Option<String>,
}

/// Where in a trace something happened, for what follows from it elsewhere and later.
#[derive(Clone, Debug)]
pub struct Cause(TraceContext);

impl Cause {
    /// The current span; none while no traces are sent.
    pub fn current() -> Option<Cause> {
        let context = Span::current().context();
        let place = context.span().span_context().clone();
        place.is_valid().then(|| Cause(TraceContext::new().with_remote_span_context(place)))
    }

    /// Makes `span` a part of the trace. For a span that was not entered yet.
    pub fn lead_to(&self, span: &Span) {
        // It fails for a span that nobody records.
        let _ = span.set_parent(self.0.clone());
    }
}

/// Flushes what is left of the traces when it goes.
pub struct Guard(Option<SdkTracerProvider>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = &self.0 {
            // There is nobody left to tell when the last flush fails.
            let _ = provider.shutdown();
        }
    }
}

/// Sets up logging, once per process. With an OTLP endpoint it must be called inside a run time.
pub fn init(flags: &Flags, service: &'static str) -> Result<Guard> {
    let filter = EnvFilter::try_new(&flags.log_level)
        .map_err(|_| {
            anyhow!(
                "--log-level {:?} is not a filter: write info, or info,zone_server=debug",
                flags.log_level
            )
        })?
        // These speak of their own inner life; ours is told by our own events.
        .add_directive("opentelemetry=warn".parse()?)
        // openraft warns of what is usual: a zone that is away, a vote that is new. What ends a node comes as its error.
        .add_directive("openraft=error".parse()?)
        .add_directive("openraft::replication=off".parse()?)
        .add_directive("openraft::engine::handler::replication_handler=off".parse()?)
        .add_directive("sled=warn".parse()?)
        .add_directive("h2=warn".parse()?);
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let format = match flags.log_format {
        Format::Text => format.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        Format::Json => format.json().boxed(),
    };
    let provider = match &flags.otlp_endpoint {
        None => None,
        Some(endpoint) => {
            let exporter = opentelemetry_otlp::SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .build()
                .with_context(|| format!("cannot send traces to {endpoint}"))?;
            let resource = Resource::builder().with_service_name(service).build();
            Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
        }
    };
    // Ours alone: a trace of how a trace is sent would make the next one.
    let ours = FilterFn::new(|metadata| {
        let room = metadata.target().split("::").next().unwrap_or_default();
        ["shared_", "global_", "zone_"].iter().any(|prefix| room.starts_with(prefix))
            && *metadata.level() <= Level::DEBUG
    });
    let ours = ours.with_max_level_hint(LevelFilter::DEBUG);
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer(service)).with_filter(ours)
    });
    tracing_subscriber::registry()
        .with(traces)
        .with(format.with_filter(filter))
        .try_init()
        .context("logging")?;
    Ok(Guard(provider))
}
