//! An application, its Envoy, and the `weft-dp` that runs it.
use crate::{
    app::App,
    documents::MESH,
    http::{self, Answer},
    ports,
    process::{Launch, Process},
    programs::Programs,
    wait::until,
};
use anyhow::{Context, Result};
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// What the application behind a proxy is, and what it calls.
#[derive(Clone, Debug)]
pub struct ProxySpec {
    pub name: String,
    /// The service that it is an instance of.
    pub workload: String,
    pub version: String,
    /// The host of the proxy: an address of 127.0.0.0/8.
    pub address: Ipv4Addr,
    /// The port at which the proxy serves the application to the mesh.
    pub inbound_port: u16,
    /// The service that it calls, and that one's port.
    pub calls: Option<(String, u16)>,
}

/// How a proxy reaches its zone: the flags of `weft-dp` that are the same for all of a zone.
#[derive(Clone, Debug)]
pub struct ZoneDoor {
    pub zone: String,
    pub address: String,
    pub ca_file: PathBuf,
}

pub struct Proxy {
    pub spec: ProxySpec,
    pub app: App,
    /// Where the mesh reaches the application.
    pub inbound: SocketAddr,
    /// Where the application reaches the service that it calls.
    pub outbound: Option<SocketAddr>,
    pub admin: Admin,
    pub process: Process,
}

/// Envoy's own view of itself.
#[derive(Clone, Debug)]
pub struct Admin {
    address: SocketAddr,
}

impl Admin {
    async fn get(&self, path: &str) -> Result<Answer> {
        http::get(self.address, path).await
    }

    pub async fn is_live(&self) -> Result<()> {
        self.get("/ready").await?.good().map(|_| ())
    }

    /// Counters by name.
    pub async fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let text = self.get("/stats").await?.good()?.text();
        let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
        Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// The sum of the counters that `wanted` picks by name.
    pub async fn sum(&self, wanted: impl Fn(&str) -> bool) -> Result<u64> {
        Ok(self.counters().await?.iter().filter(|(name, _)| wanted(name)).map(|(_, value)| value).sum())
    }

    pub async fn config_dump(&self) -> Result<serde_json::Value> {
        self.get("/config_dump?include_eds").await?.good()?.json()
    }
}

/// Counters of refusals by missing permission.
pub fn is_denied(name: &str) -> bool {
    name.ends_with("rbac.denied")
}

/// Counters of connections to a listener that spoke no TLS where TLS was due.
pub fn is_plaintext_refusal(name: &str) -> bool {
    name.starts_with("listener.")
        && (name.ends_with(".ssl.connection_error") || name.ends_with(".no_filter_chain_match"))
}

/// Counters of completed TLS handshakes, by the side that accepts.
pub fn is_handshake(name: &str) -> bool {
    name.starts_with("listener.") && name.ends_with(".ssl.handshake")
}

/// Counters of requests that the fault filter answered.
pub fn is_aborted(name: &str) -> bool {
    name.ends_with(".fault.aborts_injected")
}

/// Counters of requests that took longer than their route allows.
pub fn is_timeout(name: &str) -> bool {
    name.starts_with("cluster.") && name.ends_with(".upstream_rq_timeout")
}

impl Proxy {
    /// Starts the application and its proxy; returns when Envoy has its configuration and serves.
    pub async fn start(
        spec: ProxySpec,
        door: &ZoneDoor,
        token: &Path,
        dir: &Path,
        programs: &Programs,
    ) -> Result<Proxy> {
        let app = App::start(&spec.workload, &spec.version, &door.zone).await?;
        let host = IpAddr::V4(spec.address);
        let outbound = spec.calls.as_ref().map(|_| SocketAddr::new(host, ports::free(&[host])));
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free(&[Ipv4Addr::LOCALHOST.into()])));
        let name = format!("{}-{}", door.zone, spec.name);
        let workdir = dir.join(format!("{name}.d"));
        fs::create_dir_all(&workdir).with_context(|| format!("cannot make {}", workdir.display()))?;
        let file = dir.join(format!("{name}.yaml"));
        fs::write(&file, dataplane(&spec, &app, outbound, admin.port()))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let launch = Launch::new(&name, &programs.weft_dp, dir)
            .arg("run")
            .flag("--cp-address", &door.address)
            .flag("--ca-cert-file", &door.ca_file)
            .flag("--dataplane-file", &file)
            .flag("--dataplane-token-file", token)
            .flag("--envoy-path", &programs.envoy)
            .flag("--concurrency", "1")
            .flag("--workdir", &workdir);
        let process = launch.start()?;
        let inbound = SocketAddr::new(host, spec.inbound_port);
        let admin = Admin { address: admin };
        let mut proxy = Proxy { spec, app, inbound, outbound, admin, process };
        proxy.until_live().await?;
        Ok(proxy)
    }

    async fn until_live(&mut self) -> Result<()> {
        let admin = self.admin.clone();
        let process = std::cell::RefCell::new(&mut self.process);
        let what = format!("the Envoy of {} to be live", self.spec.name);
        until(&what, || async {
            process.borrow_mut().check_running()?;
            admin.is_live().await
        })
        .await
    }
}

fn dataplane(spec: &ProxySpec, app: &App, outbound: Option<SocketAddr>, admin_port: u16) -> String {
    let ProxySpec { name, workload, version, address, inbound_port, calls } = spec;
    let service_port = app.address.port();
    let mut text = format!(
        "type: Dataplane
mesh: {MESH}
name: {name}
labels:
  kuma.io/workload: {workload}
  version: {version}
networking:
  address: {address}
  admin:
    port: {admin_port}
  inbound:
    - name: http
      port: {inbound_port}
      servicePort: {service_port}
      serviceAddress: 127.0.0.1
      protocol: http
"
    );
    if let (Some((service, port)), Some(here)) = (calls, outbound) {
        text += &format!(
            "  outbound:
    - address: {}
      port: {}
      backendRef:
        kind: MeshService
        name: {service}
        port: {port}
",
            here.ip(),
            here.port()
        );
    }
    text
}
