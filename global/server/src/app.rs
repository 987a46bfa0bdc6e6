//! What runs: the only file that spawns long-lived things.
//!
//! ```text
//! listeners: API (loopback), API (TLS), zone link (TLS), diagnostics
//! tasks:     one per listener; the catalog's watcher; the watcher of consensus
//! threads:   "zones", whose arbiter runs every ZoneActor
//! ```
use crate::{
    api::Core,
    config::Config,
    metrics::{Metrics, Raft},
    zones::{Zones, link},
};
use anyhow::{Context as _, Result, anyhow};
use global_consensus::{Consensus, Links};
use prometheus_client::registry::Registry;
use shared_api::{About, Backend, Door, Mode, TokenRequest, access::ADMIN, signing};
use shared_catalog::{Catalog, Expected, Outcome};
use shared_identity::{names, seal::SealKey, token::UserClaims};
use shared_model::{Resource, Revision, kind};
use shared_node::{
    diagnostics::{self, Ready},
    file, serve,
    tls::ServingCert,
};
use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The administrator's token of the first start lasts as long as the installation's authority.
const ADMIN_TOKEN_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Where the listeners are; ports that were 0 are chosen by now.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub api: SocketAddr,
    pub api_https: SocketAddr,
    pub link: SocketAddr,
    pub diagnostics: SocketAddr,
}

struct Listeners {
    api: TcpListener,
    api_https: TcpListener,
    link: TcpListener,
    diagnostics: TcpListener,
}

/// A running control plane.
pub struct App {
    pub addresses: Addresses,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<()>>,
    zones: Arc<Zones>,
    consensus: Consensus,
    house: ZonesThread,
}

impl App {
    /// Starts everything; an error names the one thing that is wrong. Ends when `shutdown` is cancelled.
    pub async fn start(config: Config, shutdown: CancellationToken) -> Result<App> {
        let dir = &config.data_dir;
        file::private_dir(dir)?;
        // Everything that may be taken by another program comes before anything is written.
        let listeners = Listeners {
            api: serve::bind(config.api_bind, "the API")?,
            api_https: serve::bind(config.api_https_bind, "the API over TLS")?,
            link: serve::bind(config.link_bind, "the zone link")?,
            diagnostics: serve::bind(config.diagnostics_bind, "the diagnostics")?,
        };
        let (consensus, links) = Consensus::start(&dir.join("raft")).await?;
        let app = App::open(&config, listeners, consensus.clone(), links, shutdown).await;
        if app.is_err() {
            consensus.shutdown().await;
        }
        app
    }

    async fn open(
        config: &Config,
        listeners: Listeners,
        consensus: Consensus,
        links: Links,
        shutdown: CancellationToken,
    ) -> Result<App> {
        let dir = &config.data_dir;
        let Listeners { api, api_https, link, diagnostics } = listeners;
        let addresses = Addresses {
            api: api.local_addr()?,
            api_https: api_https.local_addr()?,
            link: link.local_addr()?,
            diagnostics: diagnostics.local_addr()?,
        };
        let ready = Ready::new(&["catalog"]);
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let tls = ServingCert::load_or_make(&dir.join("tls"), &config.tls_san)?.server_config()?;
        let seal = seal_key(&dir.join("seal.key"), &consensus.catalog().borrow())?;
        registry.register_collector(Box::new(Raft(consensus.clone())));
        let instance = format!("global-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let newest = consensus.catalog().borrow().revision();
        let zones = Zones::new(&instance, newest, metrics.clone());
        let about = About {
            product: "Kuma".to_owned(),
            version: shared_node::VERSION.to_owned(),
            instance_id: instance.clone(),
            cluster_id: consensus.cluster_id(),
            mode: Mode::Global,
            zone: None,
        };
        let effective = serde_json::to_value(config)?;
        let core = Core::new(
            about,
            effective,
            consensus.clone(),
            links.clone(),
            zones.clone(),
            seal,
            metrics.clone(),
        );
        first_start(&core, dir, newest).await?;
        let core: Arc<dyn Backend> = Arc::new(core);

        let house = ZonesThread::start()?;
        let actors = link::House { consensus: consensus.clone(), metrics };
        let service = link::LinkService::new(actors, links, zones.clone(), house.arbiter.clone(), &instance);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve::http(api, shared_api::router(core.clone(), Door::Loopback), shutdown.clone()));
        tasks.spawn(serve::https(
            api_https,
            tls.clone(),
            shared_api::router(core, Door::Https),
            shutdown.clone(),
        ));
        tasks.spawn(serve::https(link, tls, service.into_router(), shutdown.clone()));
        let diagnosed = diagnostics::router(Arc::new(registry), ready.clone());
        tasks.spawn(serve::http(diagnostics, diagnosed, shutdown.clone()));
        tasks.spawn(watch_catalog(consensus.clone(), zones.clone(), shutdown.clone()));
        tasks.spawn(watch_consensus(consensus.clone(), shutdown.clone()));
        ready.set("catalog", true);
        tracing::info!(
            api = %addresses.api,
            api_https = %addresses.api_https,
            link = %addresses.link,
            diagnostics = %addresses.diagnostics,
            revision = %newest,
            "global-cp is up"
        );
        Ok(App { addresses, shutdown, tasks, zones, consensus, house })
    }

    /// Runs until the shutdown or the first failure, and ends everything in order.
    pub async fn wait(mut self) -> Result<()> {
        let mut ended = Ok(());
        let first = tokio::select! {
            () = self.shutdown.cancelled() => None,
            first = self.tasks.join_next() => first,
        };
        if let Some(first) = first {
            ended = first.unwrap_or_else(|panic| Err(anyhow!("a part of the control plane failed: {panic}")));
            self.shutdown.cancel();
        }
        self.zones.end();
        self.zones.stop_all("global shuts down");
        while let Some(task) = self.tasks.join_next().await {
            if let Err(panic) = task {
                tracing::warn!(%panic, "a task did not end well");
            }
        }
        self.consensus.shutdown().await;
        self.house.stop();
        tracing::info!("global-cp has ended");
        ended
    }
}

/// The key that signing keys in the log are sealed with. Another one than before would lock them up for ever.
fn seal_key(path: &Path, catalog: &Catalog) -> Result<SealKey> {
    let sealed: Vec<_> = catalog.iter().filter(|resource| names::is_private_key(&resource.key())).collect();
    if !sealed.is_empty() && !path.exists() {
        return Err(anyhow!(
            "{} is missing: the signing keys in the log cannot be opened without it",
            path.display()
        ));
    }
    let seal = SealKey::from_bytes(file::key_or_make(path, rand::random)?);
    for resource in sealed {
        signing::open(&seal, resource)
            .map_err(|reason| anyhow!("{} is not the right key: {reason}", path.display()))?;
    }
    Ok(seal)
}

/// The mesh `default` of a new cluster, and a token for its administrator.
async fn first_start(core: &Core, dir: &Path, newest: Revision) -> Result<()> {
    if newest == Revision(0) {
        let mesh = Resource::new(kind::MESH, "", "default", serde_json::json!({}));
        match core.put(mesh, Expected::Absent).await.context("cannot make the mesh default")? {
            Outcome::Refused(refusal) => return Err(anyhow!("cannot make the mesh default: {refusal}")),
            _ => tracing::info!(mesh = "default", "the first mesh is made"),
        }
    }
    let path = dir.join("admin-token");
    if !path.exists() {
        let claims = UserClaims { name: ADMIN.to_owned(), groups: vec![ADMIN.to_owned()] };
        let request = TokenRequest::User { claims, valid_for: ADMIN_TOKEN_LIFETIME };
        let token = core.issue_token(request).await.context("cannot make the administrator's token")?;
        file::write_private(&path, token.as_bytes())?;
        tracing::info!(file = %path.display(), "the administrator's token is written");
    }
    Ok(())
}

/// Tells when each revision was committed, and wakes those who wait for one.
async fn watch_catalog(consensus: Consensus, zones: Arc<Zones>, shutdown: CancellationToken) -> Result<()> {
    let mut catalog = consensus.catalog();
    loop {
        let revision = catalog.borrow_and_update().revision();
        zones.committed(revision);
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = catalog.changed() => if changed.is_err() {
                // Consensus has ended; its own watcher says why.
                shutdown.cancelled().await;
                return Ok(());
            },
        }
    }
}

/// A node whose disk fails must not go on as if it had one.
async fn watch_consensus(consensus: Consensus, shutdown: CancellationToken) -> Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        error = consensus.failed() => Err(error.into()),
    }
}

/// The thread whose arbiter runs the zones' actors.
struct ZonesThread {
    arbiter: actix_rt::ArbiterHandle,
    system: actix_rt::System,
}

impl ZonesThread {
    fn start() -> Result<ZonesThread> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let run = move || {
            let runner = actix_rt::System::new();
            let system = actix_rt::System::current();
            // Whoever started this thread waits for exactly this.
            let _ = sender.send((system.arbiter().clone(), system));
            if let Err(error) = runner.run() {
                tracing::error!(%error, "the thread of the zones failed");
            }
        };
        std::thread::Builder::new()
            .name("zones".to_owned())
            .spawn(run)
            .context("cannot start the thread of the zones")?;
        let (arbiter, system) = receiver.recv().context("the thread of the zones did not start")?;
        Ok(ZonesThread { arbiter, system })
    }

    fn stop(&self) {
        self.system.stop();
    }
}
