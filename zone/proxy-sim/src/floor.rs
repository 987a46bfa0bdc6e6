//! The floor: a server that computes nothing. It answers every subscription with bytes that were built at its start, of
//! the sizes that a control plane's have, over the same listeners, TLS, HTTP/2 and gRPC as `zone-cp`.
//!
//! What a control plane costs above this is its own; what this costs is the transport's. It has as much of the REST API as
//! the scenarios use, so that they run against it unchanged: a Dataplane that moves pushes one assignment to its clients, a
//! timeout pushes routes, a permission pushes the listeners of one service.
pub mod build;
mod prebuilt;
mod rest;
mod stream;

use crate::graph::Graph;
use anyhow::Result;
use clap::Args;
use prebuilt::Prebuilt;
use shared_node::serve;
use shared_node::tls::ServingCert;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use stream::Outbox;
use tokio_util::sync::CancellationToken;

/// The sizes of resources in bytes, as `zone-cp` gives them with Mesh.mtls, and the graph that they are made for.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct Shape {
    #[arg(long, default_value_t = 1000)]
    pub proxies: usize,
    #[arg(long, default_value_t = 100)]
    pub services: usize,
    /// How many services a service calls.
    #[arg(long, default_value_t = 20)]
    pub scope: usize,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[arg(long, default_value_t = 457)]
    pub cluster_bytes: usize,
    #[arg(long, default_value_t = 264)]
    pub assignment_bytes: usize,
    #[arg(long, default_value_t = 447)]
    pub listener_bytes: usize,
    #[arg(long, default_value_t = 107)]
    pub route_bytes: usize,
    #[arg(long, default_value_t = 936)]
    pub secret_bytes: usize,
}

impl Shape {
    /// The flags that make another process the same.
    pub fn arguments(&self) -> Vec<String> {
        let all = [
            ("proxies", self.proxies as u64),
            ("services", self.services as u64),
            ("scope", self.scope as u64),
            ("seed", self.seed),
            ("cluster-bytes", self.cluster_bytes as u64),
            ("assignment-bytes", self.assignment_bytes as u64),
            ("listener-bytes", self.listener_bytes as u64),
            ("route-bytes", self.route_bytes as u64),
            ("secret-bytes", self.secret_bytes as u64),
        ];
        all.into_iter().flat_map(|(name, value)| [format!("--{name}"), value.to_string()]).collect()
    }

    pub fn graph(&self) -> Graph {
        Graph::generate(self.seed, self.proxies, self.services, self.scope)
    }
}

#[derive(Clone, Debug, Args)]
pub struct Config {
    #[command(flatten)]
    pub shape: Shape,
    /// Where the certificate is kept.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Bootstrap and ADS, TLS.
    #[arg(long, default_value = "127.0.0.1:5678", value_name = "ADDRESS")]
    pub xds_bind: SocketAddr,
    /// The triggers, plain HTTP.
    #[arg(long, default_value = "127.0.0.1:5681", value_name = "ADDRESS")]
    pub api_bind: SocketAddr,
}

/// What the streams and the triggers share.
struct Floor {
    graph: Graph,
    shape: Shape,
    prebuilt: Prebuilt,
    /// The open stream of each proxy.
    outboxes: Mutex<Vec<Option<Outbox>>>,
    xds: SocketAddr,
}

impl Floor {
    fn attach(&self, proxy: usize, outbox: Outbox) {
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner)[proxy] = Some(outbox);
    }

    /// Hands something to the streams of these proxies; one that is not there misses it.
    fn push(&self, proxies: impl Iterator<Item = usize>, message: impl Fn(usize) -> stream::Push) {
        let outboxes = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        for proxy in proxies {
            if let Some(outbox) = &outboxes[proxy] {
                // A full outbox belongs to a proxy that does not read.
                let _ = outbox.try_send(message(proxy));
            }
        }
    }
}

/// A floor that serves.
pub struct Running {
    pub xds: SocketAddr,
    pub api: SocketAddr,
    pub ca_pem: String,
    tasks: tokio::task::JoinSet<Result<()>>,
}

impl Running {
    pub async fn wait(mut self) -> Result<()> {
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Starts the floor. Must be called inside a run time.
pub fn start(config: &Config, shutdown: &CancellationToken) -> Result<Running> {
    let xds_listener = serve::bind(config.xds_bind, "proxies")?;
    let api_listener = serve::bind(config.api_bind, "the triggers")?;
    let (xds, api) = (xds_listener.local_addr()?, api_listener.local_addr()?);
    let cert = ServingCert::load_or_make(&config.data_dir.join("tls"), &[])?;
    let graph = config.shape.graph();
    let prebuilt = Prebuilt::new(&graph, &config.shape);
    let outboxes = Mutex::new(vec![None; graph.proxies()]);
    let floor = Arc::new(Floor { graph, shape: config.shape.clone(), prebuilt, outboxes, xds });
    let mut tasks = tokio::task::JoinSet::new();
    let streams = stream::router(floor.clone()).merge(rest::bootstrap(floor.clone()));
    tasks.spawn(serve::https(xds_listener, cert.server_config()?, streams, shutdown.clone()));
    tasks.spawn(serve::http(api_listener, rest::triggers(floor), shutdown.clone()));
    Ok(Running { xds, api, ca_pem: cert.ca_pem, tasks })
}

/// Runs the floor until it is told to stop.
pub fn run(config: &Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        shared_node::tls::install_crypto();
        let running = start(config, &shared_node::shutdown::token()?)?;
        eprintln!(
            "the floor serves proxies at https://{} and triggers at http://{}",
            running.xds, running.api
        );
        running.wait().await
    })
}
