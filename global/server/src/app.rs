//! What runs: the only file that spawns long-lived things.
//!
//! ```text
//! listeners: API (loopback), API (TLS), zone link (TLS), peers (mutual TLS), diagnostics
//! tasks:     one per listener; the catalog's watcher; the watcher of consensus
//! threads:   "zones", whose arbiter runs every ZoneActor
//! ```
use crate::{
    api::Core,
    config::Config,
    metrics::{Metrics, Raft},
    peers::{
        join,
        papers::{self, Papers},
        service::{PeerService, Porter},
        wire::Wire,
    },
    zones::{Zones, link},
};
use anyhow::{Context as _, Result, anyhow};
use global_consensus::{Consensus, Links, Setup, Timing};
use prometheus_client::registry::Registry;
use shared_api::{About, Backend, Door, Mode, TokenRequest, access::ADMIN, signing};
use shared_catalog::{Catalog, Expected, Outcome};
use shared_identity::{names, seal::SealKey, token::UserClaims};
use shared_model::{Resource, Revision, kind};
use shared_node::{
    diagnostics::{self, Ready},
    file, serve,
    tls::{self, ServingCert},
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
    pub peers: SocketAddr,
    pub diagnostics: SocketAddr,
}

struct Listeners {
    api: TcpListener,
    api_https: TcpListener,
    link: TcpListener,
    peers: TcpListener,
    diagnostics: TcpListener,
}

impl Listeners {
    fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses {
            api: self.api.local_addr()?,
            api_https: self.api_https.local_addr()?,
            link: self.link.local_addr()?,
            peers: self.peers.local_addr()?,
            diagnostics: self.diagnostics.local_addr()?,
        })
    }
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
            peers: serve::bind(config.peer_bind, "the other nodes of the cluster")?,
            diagnostics: serve::bind(config.diagnostics_bind, "the diagnostics")?,
        };
        let addresses = listeners.addresses()?;
        let opened = open(&config, advertised(&config, &addresses)).await?;
        let consensus = opened.0.clone();
        let app = App::serve(&config, listeners, addresses, opened, shutdown).await;
        if app.is_err() {
            consensus.shutdown().await;
        }
        app
    }

    async fn serve(
        config: &Config,
        listeners: Listeners,
        addresses: Addresses,
        (consensus, links, papers): (Consensus, Links, Papers),
        shutdown: CancellationToken,
    ) -> Result<App> {
        let dir = &config.data_dir;
        let Listeners { api, api_https, link, peers, diagnostics } = listeners;
        let ready = Ready::new(&["catalog"]);
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);

        let mut tasks = JoinSet::new();
        let seal = file::key_or_make(&dir.join("seal.key"), rand::random)?;
        let porter = Arc::new(Porter::new(consensus.clone(), papers::authority(dir)?, seal));
        let mutual = tls::mutual_server_config(&papers.ca_pem, &papers.chain_pem, &papers.key_pem)?;
        let service = PeerService::new(porter.clone()).into_router();
        tasks.spawn(serve::https(peers, mutual, service, shutdown.clone()));
        if consensus.status().role != "leader" && !dir.join("admin-token").exists() {
            wait_for_the_cluster(&consensus, &shutdown).await?;
        }
        let serving =
            ServingCert::load_or_make(&dir.join("tls"), &serving_names(config)?)?.server_config()?;
        let seal = SealKey::from_bytes(seal);
        check_seal(&seal, &dir.join("seal.key"), &consensus.catalog().borrow())?;
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
            porter,
        );
        first_start(&core, dir, consensus.is_alone() && newest == Revision(0)).await?;
        let core: Arc<dyn Backend> = Arc::new(core);

        let house = ZonesThread::start()?;
        let actors = link::House { consensus: consensus.clone(), metrics };
        let service = link::LinkService::new(actors, links, zones.clone(), house.arbiter.clone(), &instance);
        tasks.spawn(serve::http(api, shared_api::router(core.clone(), Door::Loopback), shutdown.clone()));
        tasks.spawn(serve::https(
            api_https,
            serving.clone(),
            shared_api::router(core, Door::Https),
            shutdown.clone(),
        ));
        tasks.spawn(serve::https(link, serving, service.into_router(), shutdown.clone()));
        let diagnosed = diagnostics::router(Arc::new(registry), ready.clone());
        tasks.spawn(serve::http(diagnostics, diagnosed, shutdown.clone()));
        tasks.spawn(watch_catalog(consensus.clone(), zones.clone(), shutdown.clone()));
        tasks.spawn(watch_consensus(consensus.clone(), shutdown.clone()));
        ready.set("catalog", true);
        tracing::info!(
            api = %addresses.api,
            api_https = %addresses.api_https,
            link = %addresses.link,
            peers = %addresses.peers,
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

/// Under which addresses others reach this node.
fn advertised(config: &Config, addresses: &Addresses) -> (String, String) {
    let at = |address: SocketAddr| match address.ip().is_unspecified() {
        true => format!("{}:{}", tls::host_name().unwrap_or_else(|| "localhost".to_owned()), address.port()),
        false => address.to_string(),
    };
    let peer = config.peer_advertise.clone().unwrap_or_else(|| at(addresses.peers));
    let link = config.link_advertise.clone().unwrap_or_else(|| format!("https://{}", at(addresses.link)));
    (peer, link)
}

/// Names that the serving certificate holds beside those of this host: zones dial what is advertised to them.
fn serving_names(config: &Config) -> Result<Vec<String>> {
    let mut names = config.tls_san.clone();
    if let Some(link) = &config.link_advertise {
        names.push(papers::host_and_port(link)?.0);
    }
    Ok(names)
}

/// Opens this node's log: as what it was, as a new member of the cluster that it is told to join, or as a new cluster.
async fn open(config: &Config, (address, link): (String, String)) -> Result<(Consensus, Links, Papers)> {
    let (dir, raft) = (&config.data_dir, config.data_dir.join("raft"));
    let owner = global_consensus::owner_of(&raft)?;
    let joined = match (&owner, &config.join_token_file) {
        (None, Some(token_file)) if !config.join.is_empty() => {
            let (peers, address, link) = (&config.join, address.clone(), link.clone());
            Some(join::run(join::Applicant { data_dir: dir, peers, token_file, address, link }).await?)
        }
        (None, _) => {
            if let Some(former) = papers::former_owner(dir) {
                return Err(anyhow!(
                    "the log of {former} is gone from {}: a cluster of several takes this node in again with --join and a new join token; to start a new cluster, use an empty --data-dir",
                    raft.display()
                ));
            }
            None
        }
        (Some(_), _) => None,
    };
    // The CA of a new cluster is made here; its key signs what peers show each other.
    ServingCert::load_or_make(&dir.join("tls"), &serving_names(config)?)?;
    if owner.is_some() && !dir.join("seal.key").exists() {
        return Err(anyhow!(
            "{} is missing: the signing keys in the log cannot be opened without it",
            dir.join("seal.key").display()
        ));
    }
    let wire = Arc::new(Wire::default());
    if let Some(known) = owner.as_ref().or(joined.as_ref()) {
        wire.set(&Papers::load_or_make(dir, &known.cluster_id, known.node_id)?)?;
    }
    let setup = Setup {
        timing: Timing::of_election(config.election_timeout.0),
        address,
        link,
        version: shared_node::VERSION.to_owned(),
        transport: wire.clone(),
        joined,
        ..Setup::alone(&raft)
    };
    let (consensus, links) = Consensus::open(setup).await?;
    let papers = Papers::load_or_make(dir, &consensus.cluster_id(), consensus.node_id())?;
    wire.set(&papers)?;
    Ok((consensus, links, papers))
}

/// A node that has never served has nothing to serve before it has all that the others have.
async fn wait_for_the_cluster(consensus: &Consensus, shutdown: &CancellationToken) -> Result<()> {
    tracing::info!("waiting for the state of the cluster");
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Err(anyhow!("stopped before the state of the cluster came")),
            caught_up = consensus.catch_up() => match caught_up {
                Ok(()) => return Ok(()),
                Err(global_consensus::Error::NoQuorum) => {}
                Err(error) => return Err(error.into()),
            },
        }
    }
}

/// Signing keys in the log are sealed. Another key than before would lock them up for ever.
fn check_seal(seal: &SealKey, path: &Path, catalog: &Catalog) -> Result<()> {
    for resource in catalog.iter().filter(|resource| names::is_private_key(&resource.key())) {
        signing::open(seal, resource)
            .map_err(|reason| anyhow!("{} is not the right key: {reason}", path.display()))?;
    }
    Ok(())
}

/// The mesh `default` of a new cluster, and a token for its administrator.
async fn first_start(core: &Core, dir: &Path, is_new: bool) -> Result<()> {
    if is_new {
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
