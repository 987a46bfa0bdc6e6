//! What runs: the only file that starts long-lived tasks and threads. Read it to know what a zone is made of.
use crate::ads::{self, Ads};
use crate::backend::ZoneBackend;
use crate::bootstrap::{self, Bootstrap};
use crate::catalogs::Catalogs;
use crate::certificates::Certificates;
use crate::config::Config;
use crate::duties::{self, Upkeep};
use crate::home::Home;
use crate::insights::Insights;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::proxies::admission::Tokens;
use crate::proxies::departures::Departures;
use crate::proxies::turns::Worker;
use crate::proxies::{Proxies, Shared};
use crate::uplink::{self, Feeds, LinkState, Replica, Target};
use crate::verify::Oracle;
use crate::world::{Indexer, World};
use actix::Arbiter;
use anyhow::{Context as _, Result, anyhow};
use axum::Router;
use serde_json::json;
use shared_api::signing::Signer;
use shared_api::{Backend as _, Door, TokenRequest, access};
use shared_catalog::{Expected, Meshes};
use shared_identity::token::UserClaims;
use shared_model::{Resource, Revision, kind};
use shared_node::diagnostics::{self, Ready};
use shared_node::telemetry;
use shared_node::tls::ServingCert;
use shared_node::{file, serve};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zone_store::{Embedded, ZoneStore};
use zone_xds::Manifests;

/// More arbiters than cores are slower; beyond a few, the encoding on the connections' threads is what is waited for.
const ARBITERS_MAX: usize = 4;

/// How long the administrator's first token is good.
const ADMIN_TOKEN: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What `/readyz` waits for.
const STATE: &str = "state";

/// Actors and servers share one multi-thread run time; actors live on arbiters of its system.
pub fn runtime() -> Result<actix_rt::SystemRunner> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    Ok(actix_rt::System::with_tokio_rt(|| runtime))
}

/// Runs the zone until it is told to stop.
pub fn run(config: Config, telemetry: &telemetry::Flags) -> Result<()> {
    runtime()?.block_on(async {
        shared_node::tls::install_crypto();
        let _telemetry = telemetry::init(telemetry, "zone-cp")?;
        let running = start(config, shared_node::shutdown::token()?).await?;
        running.wait().await
    })
}

/// A zone that serves.
pub struct Running {
    pub xds: SocketAddr,
    pub api: SocketAddr,
    pub diagnostics: SocketAddr,
    /// The authority of the serving certificate, PEM.
    pub ca_pem: String,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<()>>,
    arbiters: Vec<Arbiter>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    /// Waits for the end: everything has stopped, and the disks are free. The first failure ends everything.
    pub async fn wait(mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.unwrap_or_else(|error| Err(anyhow!("a part of the program failed: {error}")));
            if let Err(error) = ended {
                self.shutdown.cancel();
                result = result.and(Err(error));
            }
        }
        for arbiter in self.arbiters {
            arbiter.stop();
        }
        if let Some(thread) = self.thread {
            // It holds nothing but its disk by now, and panics are told by its end.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        result
    }
}

/// Starts the zone. Must be called inside [`runtime`].
pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Running> {
    config.check()?;
    // First what may be refused, before anything is touched.
    let xds_listener = serve::bind(config.xds_bind, "proxies")?;
    let api_listener = serve::bind(config.api_bind, "the API")?;
    let https_listener =
        config.api_https_bind.map(|address| serve::bind(address, "the API over TLS")).transpose()?;
    let diagnostics_listener = serve::bind(config.diagnostics_bind, "diagnostics")?;
    let (xds, api) = (xds_listener.local_addr()?, api_listener.local_addr()?);
    let diagnostics = diagnostics_listener.local_addr()?;

    let instance = uuid::Uuid::new_v4().to_string();
    let home = Home::open(&config.data_dir, &config.zone)?;
    let seal = home.seal_key()?;
    let cert = ServingCert::load_or_make(&home.tls(), &config.tls_san)?;
    let names = file::read(&home.tls().join("server.names"), "the names of the serving certificate")?;
    let (metrics, registry) = Metrics::new();
    let ready = Ready::new(&[STATE]);

    let replica = match target(&config, &instance) {
        Some(target) => {
            target.check()?;
            Some(uplink::start(&home, target, shutdown.clone()).await?)
        }
        None => None,
    };
    let meshes = if replica.is_some() { Meshes::Elsewhere } else { Meshes::Here };
    let store: Arc<dyn ZoneStore> = Arc::new(Embedded::open(&home.store(), seal.clone(), meshes).await?);
    let zone_id = uplink::zone_id(&*store, config.zone_id.as_deref()).await?;
    if replica.is_none() && store.catalog().borrow().revision() == Revision(0) {
        let mesh = Resource::new(kind::MESH, "", "default", json!({}));
        store.put(mesh, Expected::Absent).await?;
    }

    let followed = replica.as_ref().map(|replica| replica.catalog.clone());
    let catalogs = Catalogs::new(&config.zone, followed, store.catalog());
    let progress = Arc::new(Progress::new(metrics.clone()));
    let insights = Arc::new(Insights::new(&instance));
    let certificates = Arc::new(Certificates::new(&config.zone, store.clone(), metrics.clone()));
    certificates.load().await?;
    let (manifests, oracle) = (Arc::new(Manifests::default()), Oracle::new(config.verify, &metrics));
    let (proxies, departed) = Proxies::new(metrics.proxies.clone());
    let (indexer, world) = Indexer::new(
        &config.zone,
        catalogs.clone(),
        proxies.clone(),
        progress.clone(),
        manifests.clone(),
        oracle.clone(),
        metrics.clone(),
    );
    let link = replica
        .as_ref()
        .map_or_else(|| watch::channel(LinkState::default()).1, |replica| replica.link.clone());
    let issuer = replica.as_ref().map(|replica| replica.issuer.clone());
    let (loaded, is_loaded) = watch::channel(false);

    let backend = Arc::new(ZoneBackend {
        zone: config.zone.clone(),
        instance: instance.clone(),
        catalogs: catalogs.clone(),
        store: store.clone(),
        progress: progress.clone(),
        insights: insights.clone(),
        metrics: metrics.clone(),
        signer: Signer::new(seal),
        link: link.clone(),
        issuer,
        config: serde_json::to_value(&config)?,
    });
    if replica.is_none() && !home.admin_token().exists() {
        let claims = UserClaims { name: access::ADMIN.to_owned(), groups: vec![access::ADMIN.to_owned()] };
        let token = backend.issue_token(TokenRequest::User { claims, valid_for: ADMIN_TOKEN }).await?;
        file::write_private(&home.admin_token(), token.as_bytes())?;
    }

    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let arbiters: Vec<Arbiter> = (0..cores.min(ARBITERS_MAX)).map(|_| Arbiter::new()).collect();
    let shared = Arc::new(Shared {
        world: world.clone(),
        certificates: certificates.clone(),
        insights: insights.clone(),
        progress: progress.clone(),
        manifests,
        oracle,
        metrics: metrics.clone(),
    });
    let ads = Arc::new(Ads {
        zone: config.zone.clone(),
        catalogs: catalogs.clone(),
        tokens: Tokens::new(catalogs.clone()),
        store: store.clone(),
        proxies: proxies.clone(),
        shared,
        workers: arbiters.iter().map(|arbiter| Worker::start(arbiter.handle())).collect(),
        next_worker: AtomicUsize::new(0),
        starts: Arc::new(Semaphore::new(ads::STARTS)),
        loaded: is_loaded.clone(),
    });
    let bootstrap = Arc::new(Bootstrap {
        zone: config.zone.clone(),
        catalogs: catalogs.clone(),
        ca_pem: cert.ca_pem.clone(),
        names: names.lines().map(str::to_owned).collect(),
        xds_port: xds.port(),
        loaded: is_loaded.clone(),
        metrics: metrics.clone(),
    });

    let mut tasks = JoinSet::new();
    tasks.spawn(always(indexer.run(shutdown.clone())));
    let upkeep = Upkeep {
        store: store.clone(),
        catalogs: catalogs.clone(),
        certificates: certificates.clone(),
        world: world.clone(),
    };
    tasks.spawn(always(upkeep.run(shutdown.clone())));
    let (issued, stop) = (certificates.clone(), shutdown.clone());
    tasks.spawn(always(async move {
        stop.cancelled().await;
        issued.written().await;
    }));
    tasks.spawn(always(duties::renew(certificates, proxies.clone(), shutdown.clone())));
    tasks.spawn(always(duties::recheck(catalogs.clone(), proxies.clone(), shutdown.clone())));
    let departures = Departures {
        proxies: proxies.clone(),
        store: store.clone(),
        insights: insights.clone(),
        progress: progress.clone(),
        delay: config.deregistration_delay.0,
        departed,
        loaded: is_loaded.clone(),
    };
    tasks.spawn(always(departures.run(shutdown.clone())));
    let close = (shutdown.clone(), proxies);
    tasks.spawn(async move {
        close.0.cancelled().await;
        close.1.close();
        Ok(())
    });

    let mut thread = None;
    match replica {
        None => {
            loaded.send_replace(true);
            ready.set(STATE, true);
        }
        Some(Replica { link, feeds, failed, thread: handle, .. }) => {
            // The thread is gone only when its disk has failed, which it has told.
            let _ =
                feeds.send(Feeds { zone_id, catalogs, world: world.clone(), progress, insights, metrics });
            thread = Some(handle);
            tasks.spawn(load(home, world, link, loaded, ready.clone(), shutdown.clone()));
            let stop = shutdown.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    Ok(error) = failed => Err(error),
                    else => Ok(()),
                }
            });
        }
    }

    let xds_router: Router = ads::router(ads).merge(bootstrap::router(bootstrap));
    let xds_tls = ads::resumable(&*cert.server_config()?)?;
    tasks.spawn(serve::https(xds_listener, xds_tls, xds_router, shutdown.clone()));
    let loopback = shared_api::router(backend.clone(), Door::Loopback);
    tasks.spawn(serve::http(api_listener, loopback, shutdown.clone()));
    if let Some(listener) = https_listener {
        let router = shared_api::router(backend, Door::Https);
        tasks.spawn(serve::https(listener, cert.server_config()?, router, shutdown.clone()));
    }
    let router = diagnostics::router(Arc::new(registry), ready);
    tasks.spawn(serve::http(diagnostics_listener, router, shutdown.clone()));

    let mode = if config.is_federated() { "federated" } else { "standalone" };
    tracing::info!(zone = config.zone, mode, %xds, %api, %diagnostics, "zone control plane started");
    Ok(Running { xds, api, diagnostics, ca_pem: cert.ca_pem, shutdown, tasks, arbiters, thread })
}

/// Opens the gate to the proxies once the zone holds a whole state of global: at once when it has had one on disk, else
/// when it has caught up with what global had when it first answered. A part of the state would take from proxies what
/// they have.
async fn load(
    home: Home,
    mut world: watch::Receiver<World>,
    mut link: watch::Receiver<LinkState>,
    loaded: watch::Sender<bool>,
    ready: Ready,
    shutdown: CancellationToken,
) -> Result<()> {
    if !home.was_complete() {
        let caught_up = async {
            let global = link.wait_for(|link| link.global_revision.is_some()).await.ok()?.global_revision?;
            world.wait_for(|world| world.followed >= global).await.ok()?;
            Some(global)
        };
        let revision = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            revision = caught_up => revision,
        };
        let Some(revision) = revision else { return Ok(()) };
        home.set_complete()?;
        tracing::info!(revision = revision.0, "the zone holds the whole state of global");
    }
    loaded.send_replace(true);
    ready.set(STATE, true);
    // The gate stays as long as somebody may look at it.
    shutdown.cancelled().await;
    Ok(())
}

fn target(config: &Config, instance: &str) -> Option<Target> {
    config.global.as_ref()?;
    Some(Target {
        zone: config.zone.clone(),
        instance: instance.to_owned(),
        seeds: config.seeds(),
        members_file: config.data_dir.join("global-members.json"),
        certificate_file: config.data_dir.join("link-certificate.json"),
        ca_file: config.global_ca_file.clone()?,
        token_file: config.zone_token_file.clone()?,
    })
}

/// A task that ends only when it is told to.
async fn always(task: impl Future<Output = ()>) -> Result<()> {
    task.await;
    Ok(())
}
