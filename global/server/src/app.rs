//! What runs: the only file that spawns long-lived things.
//!
//! ```text
//! listeners: API (loopback), API (TLS), zone link (TLS), peers (mutual TLS), diagnostics
//! tasks:     one per listener; the catalog's watcher; the watcher of consensus
//! threads:   "raft" for consensus and the peers, "links" for the streams of zones, "zones", whose arbiter runs every
//!            ZoneActor; all else has those of the program
//! ```
//!
//! When the disk takes no more, consensus stops, and what is here stays to be looked at. Once there is room, all of this
//! ends and begins anew within the same program: what was acknowledged is on the disk.
use crate::{
    api::Core,
    backup::{Source, check_seal},
    config::Config,
    metrics::{Metrics, Raft},
    peers::{
        join,
        papers::{self, Papers},
        service::{PeerService, Porter},
        upkeep::{self, Upkeep},
        wire::Wire,
    },
    rotation::Rotation,
    seal,
    threads::{Apart, Threads},
    zones::{Inventory, Zones, diverged::Diverged, link},
};
use anyhow::{Context as _, Result, anyhow};
use global_consensus::{Consensus, Links, Setup, Timing};
use prometheus_client::registry::Registry;
use shared_api::{About, Author, Backend, Door, Mode, TokenRequest, access::ADMIN};
use shared_catalog::{Expected, Outcome};
use shared_identity::token::UserClaims;
use shared_model::{Resource, Revision, kind};
use shared_node::{
    diagnostics::{self, Ready},
    exit, file, serve,
    tls::{self, ServingCert, Shown},
};
use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// The administrator's token of the first start lasts as long as the installation's authority.
const ADMIN_TOKEN_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What `/readyz` waits for.
const CATALOG: &str = "catalog";
const DISK: &str = "room on the disk";

/// How often a full disk is looked at.
const FULL: Duration = Duration::from_secs(1);

/// How long a store that failed may hold its files.
const LET_GO: Duration = Duration::from_secs(8);
const RETRY: Duration = Duration::from_millis(200);

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

impl Addresses {
    fn keep_in(&self, config: &mut Config) {
        config.api_bind = self.api;
        config.api_https_bind = self.api_https;
        config.link_bind = self.link;
        config.peer_bind = self.peers;
        config.diagnostics_bind = self.diagnostics;
    }
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
    has_room_again: Arc<AtomicBool>,
    /// Dropped last.
    _threads: (Threads, Threads),
}

/// Why a control plane ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Shutdown,
    /// Its disk was full and has room again.
    Reopen,
}

/// Runs a control plane until the shutdown or a failure that does not pass by itself.
pub async fn run(mut config: Config, shutdown: CancellationToken) -> Result<()> {
    let mut app = App::start(config.clone(), shutdown.clone()).await?;
    loop {
        // It comes back where it was, also where the system chose the ports.
        app.addresses.keep_in(&mut config);
        if app.end().await? == Ended::Shutdown {
            return Ok(());
        }
        tracing::info!("the disk has room again: opening the log anew");
        app = match reopen(&config, &shutdown).await {
            Ok(app) => app,
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the program begins anew: it cannot open its log"
                );
                return Err(exit::again().into());
            }
        };
    }
}

/// The store may take a while to let go of its files, or never do so.
async fn reopen(config: &Config, shutdown: &CancellationToken) -> Result<App> {
    let deadline = Instant::now() + LET_GO;
    loop {
        match App::start(config.clone(), shutdown.clone()).await {
            Err(error) if Instant::now() < deadline => {
                tracing::warn!(error = format!("{error:#}"), "the log does not open yet");
                tokio::time::sleep(RETRY).await;
            }
            started => return started,
        }
    }
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
        let threads = (Threads::start("raft")?, Threads::start("links")?);
        let (own, raft) = (config.clone(), threads.0.handle().clone());
        let opened =
            threads.0.run(async move { open(&own, advertised(&own, &addresses), raft).await }).await?;
        let consensus = opened.0.clone();
        let app = App::serve(&config, listeners, addresses, opened, threads, shutdown.child_token()).await;
        if app.is_err() {
            consensus.shutdown().await;
        }
        app
    }

    async fn serve(
        config: &Config,
        listeners: Listeners,
        addresses: Addresses,
        (consensus, links, papers, shown): (Consensus, Links, Papers, Arc<Shown>),
        threads: (Threads, Threads),
        shutdown: CancellationToken,
    ) -> Result<App> {
        let dir = &config.data_dir;
        let Listeners { api, api_https, link, peers, diagnostics } = listeners;
        let ready = Ready::new(&[CATALOG]);
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);

        let mut tasks = JoinSet::new();
        let seal = seal::open_or_make(dir, config.seal_key_file.as_deref())?;
        let keys = seal.ring.clone();
        let rotation = Arc::new(Rotation::new(consensus.clone(), seal, dir));
        let porter = Arc::new(Porter::new(consensus.clone(), papers::authority(dir)?, rotation.clone()));
        let issuer =
            link::Issuer { authority: papers::authority(dir)?, lifetime: config.zone_certificate_lifetime.0 };
        let mutual = tls::mutual_server_config(&papers.ca_pem, shown.clone())?;
        let service = PeerService::new(porter.clone()).into_router();
        tasks.spawn_on(serve::https(peers, mutual, service, shutdown.clone()), threads.0.handle());
        // A disk that was lost may have left files of its former life behind.
        let is_blank = consensus.catalog().borrow().revision() == Revision(0);
        if consensus.status().role != "leader" && is_blank {
            wait_for_the_cluster(&consensus, &shutdown).await?;
        }
        let names = serving_names(config)?;
        let serving = ServingCert::load_or_make(&dir.join("tls"), &names)?.shown()?;
        rotation.settle().await;
        let sealed = || consensus.catalog().borrow().clone();
        if check_seal(&keys, "the seal key", &sealed()).is_err() {
            // What is here may be from before a change of the key, and this node may have missed the change.
            wait_for_the_cluster(&consensus, &shutdown).await?;
            rotation.settle().await;
            check_seal(&keys, "the seal key", &sealed())?;
        }
        tasks.spawn(rotation.clone().watch(shutdown.clone()));
        let diverged = Diverged::default();
        let backups =
            Source { consensus: consensus.clone(), authority: papers::authority(dir)?, keys: keys.clone() };
        registry.register_collector(Box::new(Raft(consensus.clone())));
        let instance = format!("global-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let newest = consensus.catalog().borrow().revision();
        let inventory = Inventory::open(&dir.join("inventory"));
        let zones = Zones::new(&instance, newest, metrics.clone(), inventory.clone());
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
            keys,
            backups,
            diverged.clone(),
            rotation,
            metrics.clone(),
            porter,
        );
        core.retain(config.history_versions, config.history_bytes).await?;
        first_start(&core, dir, consensus.is_alone() && newest == Revision(0)).await?;
        let core: Arc<dyn Backend> = Arc::new(core);

        let house = ZonesThread::start()?;
        let actors = link::House { consensus: consensus.clone(), metrics, diverged };
        let arbiter = house.arbiter.clone();
        let secured = shared_api::router(core.clone(), Door::Https);
        let service =
            link::LinkService::new(actors, links, zones.clone(), arbiter, &instance, issuer, secured.clone());
        tasks.spawn(serve::http(api, shared_api::router(core, Door::Loopback), shutdown.clone()));
        tasks.spawn(serve::https(api_https, tls::server_config(serving.clone()), secured, shutdown.clone()));
        let mutual = tls::mutual_server_config(&papers.ca_pem, serving.clone())?;
        let linked = serve::https(link, mutual, service.into_router(), shutdown.clone());
        tasks.spawn_on(linked, threads.1.handle());
        let diagnosed = diagnostics::router(Arc::new(registry), ready.clone());
        // Who asks how this node is gets an answer also when the API has none.
        tasks.spawn_on(serve::http(diagnostics, diagnosed, shutdown.clone()), threads.0.handle());
        let upkeep = Upkeep {
            data_dir: dir.clone(),
            cluster_id: consensus.cluster_id(),
            node_id: consensus.node_id(),
            names,
            peer: shown,
            serving,
        };
        tasks.spawn(upkeep.run(upkeep::EVERY, shutdown.clone()));
        tasks.spawn(watch_catalog(consensus.clone(), zones.clone(), shutdown.clone()));
        tasks.spawn(inventory.keep(consensus.clone(), shutdown.clone()));
        let has_room_again = Arc::new(AtomicBool::new(false));
        let watched =
            watch_consensus(consensus.clone(), ready.clone(), has_room_again.clone(), shutdown.clone());
        tasks.spawn(watched);
        ready.set(CATALOG, true);
        tracing::info!(
            api = %addresses.api,
            api_https = %addresses.api_https,
            link = %addresses.link,
            peers = %addresses.peers,
            diagnostics = %addresses.diagnostics,
            revision = %newest,
            "global-cp is up"
        );
        let _threads = threads;
        Ok(App { addresses, shutdown, tasks, zones, consensus, house, has_room_again, _threads })
    }

    /// Runs until the shutdown or the first failure, and ends everything in order.
    pub async fn wait(self) -> Result<()> {
        self.end().await.map(|_| ())
    }

    async fn end(mut self) -> Result<Ended> {
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
        let reopen = self.has_room_again.load(Ordering::Relaxed);
        tracing::info!(reopen, "global-cp has ended");
        ended.map(|()| if reopen { Ended::Reopen } else { Ended::Shutdown })
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
async fn open(
    config: &Config,
    (address, link): (String, String),
    threads: Handle,
) -> Result<(Consensus, Links, Papers, Arc<Shown>)> {
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
    if let (Some(cert), Some(key)) = (&config.ca_cert_file, &config.ca_key_file) {
        tls::bring_authority(&dir.join("tls"), cert, key)?;
    }
    // The CA of a new cluster is made here, unless it was brought; its key signs what peers show each other.
    ServingCert::load_or_make(&dir.join("tls"), &serving_names(config)?)?;
    if owner.is_some() && !seal::is_there(dir, config.seal_key_file.as_deref()) {
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
        transport: Arc::new(Apart { way: wire.clone(), threads }),
        joined,
        zone_absence: config.zone_absence.0,
        disk_reserve: config.disk_reserve,
        ..Setup::alone(&raft)
    };
    let (consensus, links) = Consensus::open(setup).await?;
    let papers = Papers::load_or_make(dir, &consensus.cluster_id(), consensus.node_id())?;
    let shown = wire.set(&papers)?;
    Ok((consensus, links, papers, shown))
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

/// The mesh `default` of a new cluster, and a token for its administrator.
async fn first_start(core: &Core, dir: &Path, is_new: bool) -> Result<()> {
    if is_new {
        let mesh = Resource::new(kind::MESH, "", "default", serde_json::json!({}));
        match core
            .put(mesh, Expected::Absent, &Author::own())
            .await
            .context("cannot make the mesh default")?
        {
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

/// A node whose disk fails must not go on as if it had one. One whose disk is full shows what it has until there is room.
async fn watch_consensus(
    consensus: Consensus,
    ready: Ready,
    has_room_again: Arc<AtomicBool>,
    shutdown: CancellationToken,
) -> Result<()> {
    let failed = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        failed = consensus.failed() => failed,
    };
    let global_consensus::Error::NoRoom(reason) = failed else { return Err(failed.into()) };
    tracing::error!(reason, "no writes until the disk has room again; what is here can be read as stale");
    ready.lack(DISK, reason);
    consensus.shutdown().await;
    loop {
        let space = consensus.space();
        if tokio::task::spawn_blocking(move || space.has_room_again()).await? {
            has_room_again.store(true, Ordering::Relaxed);
            return Ok(());
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(FULL) => {}
        }
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
