//! A global control plane and its zones, as an operator would start them on one machine.
use crate::{
    documents,
    http::{self, Answer},
    ports,
    process::{Launch, Process, last_lines},
    programs::Programs,
    proxy::{Proxy, ProxySpec, ZoneDoor},
    status::RevisionStatus,
    wait::{Hopeless, until},
};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use hyper::Method;
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::process::Command;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    pub programs: Programs,
    /// Where data, logs, tokens and documents of this run lie.
    pub dir: PathBuf,
    pub zones: Vec<String>,
}

/// A control plane: it can be killed and started again on its own disk, at the same ports.
pub struct ControlPlane {
    launch: Launch,
    process: Option<Process>,
    pub api: SocketAddr,
    pub diagnostics: SocketAddr,
    pub data_dir: PathBuf,
}

pub struct Zone {
    pub control_plane: ControlPlane,
    pub xds: SocketAddr,
    pub proxies: BTreeMap<String, Proxy>,
    /// The second last number of the addresses of its hosts.
    subnet: u8,
}

pub struct Cluster {
    pub global: ControlPlane,
    pub zones: BTreeMap<String, Zone>,
    pub dir: PathBuf,
    programs: Programs,
    link: SocketAddr,
    /// The port at which every proxy serves its application: one number on all hosts, as in a real deployment.
    service_port: u16,
}

impl ControlPlane {
    pub fn new(launch: Launch, api: SocketAddr, diagnostics: SocketAddr, data_dir: PathBuf) -> ControlPlane {
        ControlPlane { launch, process: None, api, diagnostics, data_dir }
    }

    /// Starts the process; returns when it says that it is ready.
    pub async fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.until_ready().await
    }

    /// Starts the process, and does not wait for it.
    pub fn spawn(&mut self) -> Result<()> {
        self.process = Some(self.launch.start()?);
        Ok(())
    }

    pub async fn until_ready(&mut self) -> Result<()> {
        let what = format!("{} to be ready", self.launch.name);
        let diagnostics = self.diagnostics;
        let process = self.process.as_mut().with_context(|| format!("{} does not run", self.launch.name))?;
        let process = std::cell::RefCell::new(process);
        until(&what, || async {
            process.borrow_mut().check_running()?;
            http::get(diagnostics, "/readyz").await?.good().map(|_| ())
        })
        .await
    }

    /// What it is started with, for the next start.
    pub fn launch_mut(&mut self) -> &mut Launch {
        &mut self.launch
    }

    /// SIGSTOP: it holds all that it holds, and does nothing.
    pub fn pause(&mut self) -> Result<()> {
        self.running()?.pause()
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.running()?.resume()
    }

    /// How it has ended; `None` while it runs, and when it was never started or has been killed.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    fn running(&mut self) -> Result<&mut Process> {
        self.process.as_mut().with_context(|| format!("{} does not run", self.launch.name))
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let mut process =
            self.process.take().with_context(|| format!("{} does not run", self.launch.name))?;
        process.kill()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// An error, and one that no waiting heals, when it was started and has ended by itself.
    pub fn check_not_gone(&self) -> Result<()> {
        match self.process.as_ref().filter(|process| process.is_gone()) {
            None => Ok(()),
            Some(process) => {
                let said = last_lines(&process.launch.log, 1);
                Err(Hopeless(format!("{} has ended: {said}", self.launch.name)).into())
            }
        }
    }

    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// A GET of its REST API.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        http::get(self.api, path).await?.good().with_context(|| format!("GET {path}"))
    }

    pub async fn put(&self, path: &str, body: &serde_json::Value) -> Result<Answer> {
        let body = Bytes::from(serde_json::to_vec(body)?);
        http::call(self.api, Method::PUT, path, body).await?.good().with_context(|| format!("PUT {path}"))
    }
}

impl Cluster {
    /// Starts global and the zones, applies the Mesh, and returns when every zone has it.
    pub async fn start(settings: Settings) -> Result<Cluster> {
        let Settings { programs, dir, zones } = settings;
        for part in ["", "tokens", "documents"] {
            let dir = dir.join(part);
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let (mut global, link) = global_of(&programs, &dir);
        global.start().await?;
        let hosts: Vec<IpAddr> = (1..=zones.len() as u8)
            .flat_map(|subnet| (1..=9).map(move |host| host_of(subnet, host).into()))
            .collect();
        let service_port = ports::free(&hosts);
        let mut cluster = Cluster { global, zones: BTreeMap::new(), dir, programs, link, service_port };
        for (i, name) in zones.iter().enumerate() {
            let zone = cluster.zone_of(name, i as u8 + 1).await?;
            cluster.zones.insert(name.clone(), zone);
        }
        for zone in cluster.zones.values_mut() {
            zone.control_plane.start().await?;
        }
        cluster.until_zones_are_online().await?;
        cluster.apply(&documents::mesh()).await?;
        Ok(cluster)
    }

    async fn zone_of(&self, name: &str, subnet: u8) -> Result<Zone> {
        let token = self.weftctl(&["generate", "zone-token", "--zone", name, "--scope", "cp"]).await?;
        let token_file = self.token_file(name);
        fs::write(&token_file, token).with_context(|| format!("cannot write {}", token_file.display()))?;
        let data_dir = self.dir.join(name);
        let [xds, api, diagnostics] = [(); 3].map(|()| SocketAddr::from((HERE, ports::free(&[HERE.into()]))));
        let launch = Launch::new(name, &self.programs.zone_cp, &self.dir)
            .arg("run")
            .flag("--zone", name)
            .flag("--data-dir", &data_dir)
            .flag("--global", format!("https://{}", self.link))
            .flag("--global-ca-file", self.global.data_dir.join("tls").join("ca.crt"))
            .flag("--zone-token-file", &token_file)
            .flag("--xds-bind", xds.to_string())
            .flag("--api-bind", api.to_string())
            .flag("--diagnostics-bind", diagnostics.to_string());
        let control_plane = ControlPlane { launch, process: None, api, diagnostics, data_dir };
        Ok(Zone { control_plane, xds, proxies: BTreeMap::new(), subnet })
    }

    fn token_file(&self, owner: &str) -> PathBuf {
        self.dir.join("tokens").join(owner)
    }

    /// The address to give to `weftctl --server`.
    pub fn server(&self) -> String {
        format!("http://{}", self.global.api)
    }

    /// Runs `weftctl` against global; its standard output, if it ended well.
    pub async fn weftctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.programs.weftctl);
        command
            .args(args)
            .env("WEFT_SERVER", self.server())
            .env("WEFTCTL_CONFIG", self.dir.join("weftctl.yaml"));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let said = format!("weftctl {}", args.join(" "));
        let output = tokio::time::timeout(Duration::from_secs(120), command.output()).await;
        let output = output
            .map_err(|_| anyhow!("{said} did not end"))?
            .with_context(|| format!("cannot run {said}"))?;
        let [out, err] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if !output.status.success() {
            bail!("{said} ended with {}: {}", output.status, format!("{out}\n{err}").trim());
        }
        Ok(out)
    }

    /// Applies documents at global and waits until every proxy of every zone has acknowledged them; the revision.
    pub async fn apply(&self, documents: &str) -> Result<u64> {
        let folder = self.dir.join("documents");
        let number = fs::read_dir(&folder)?.count() + 1;
        let file = folder.join(format!("{number:02}.yaml"));
        fs::write(&file, documents).with_context(|| format!("cannot write {}", file.display()))?;
        let path = file.to_string_lossy();
        revision_in(&self.weftctl(&["apply", "-f", &path, "--wait", "--timeout", "60s"]).await?)
    }

    /// Deletes a resource at global and waits as [`Cluster::apply`] does; the revision.
    pub async fn delete(&self, kind: &str, name: &str) -> Result<u64> {
        let mesh = documents::MESH;
        revision_in(
            &self.weftctl(&["delete", kind, name, "--mesh", mesh, "--wait", "--timeout", "60s"]).await?,
        )
    }

    pub async fn status(&self, revision: u64) -> Result<RevisionStatus> {
        self.global.get(&format!("/_revisions/{revision}")).await?.json()
    }

    /// The status of a revision once every zone is done with it.
    pub async fn until_done(&self, revision: u64) -> Result<RevisionStatus> {
        until(&format!("revision {revision} to be done everywhere"), || async {
            let status = self.status(revision).await?;
            if !status.done || status.zones.len() < self.zones.len() {
                bail!("{status:?}");
            }
            Ok(status)
        })
        .await
    }

    pub async fn until_zones_are_online(&self) -> Result<()> {
        until("the zones to be online", || async {
            let overview: serde_json::Value = self.global.get("/zones/_overview").await?.json()?;
            for zone in self.zones.keys() {
                if !is_online(&overview, zone) {
                    bail!("{zone} is not online: {overview}");
                }
            }
            Ok(())
        })
        .await
    }

    pub fn zone(&self, name: &str) -> Result<&Zone> {
        self.zones.get(name).with_context(|| format!("there is no zone {name}"))
    }

    pub fn zone_mut(&mut self, name: &str) -> Result<&mut Zone> {
        self.zones.get_mut(name).with_context(|| format!("there is no zone {name}"))
    }

    pub fn proxy(&self, zone: &str, name: &str) -> Result<&Proxy> {
        let proxies = &self.zone(zone)?.proxies;
        proxies.get(name).with_context(|| format!("{zone} has no proxy {name}"))
    }

    /// Makes the token with which a proxy of this name may join, whether or not global lives by then.
    pub async fn make_token(&self, proxy: &str) -> Result<()> {
        let args = ["generate", "dataplane-token", "--mesh", documents::MESH, "--name", proxy];
        let token = self.weftctl(&args).await?;
        fs::write(self.token_file(proxy), token).with_context(|| format!("cannot write the token of {proxy}"))
    }

    /// Starts an application with its proxy in a zone. Its token has been made before. Returns when its Envoy serves.
    /// Proxies are named `<zone>-<name>`: names are unique in a mesh.
    pub async fn join(
        &mut self,
        zone: &str,
        name: &str,
        workload: &str,
        version: &str,
        calls: Option<&str>,
    ) -> Result<()> {
        let (programs, dir, service_port) = (self.programs.clone(), self.dir.clone(), self.service_port);
        let full_name = format!("{zone}-{name}");
        let token = self.token_file(&full_name);
        let place = self.zone_mut(zone)?;
        let door = ZoneDoor {
            zone: zone.to_owned(),
            address: format!("https://{}", place.xds),
            ca_file: place.control_plane.data_dir.join("tls").join("ca.crt"),
        };
        let spec = ProxySpec {
            name: full_name,
            workload: workload.to_owned(),
            version: version.to_owned(),
            address: host_of(place.subnet, place.proxies.len() as u8 + 1),
            inbound_port: service_port,
            calls: calls.map(|service| (service.to_owned(), service_port)),
        };
        let proxy = Proxy::start(spec, &door, &token, &dir, &programs).await?;
        place.proxies.insert(name.to_owned(), proxy);
        Ok(())
    }

    /// In every zone: `web`, which calls `backend`, and two versions of that.
    pub async fn join_services(&mut self) -> Result<()> {
        let zones: Vec<String> = self.zones.keys().cloned().collect();
        for zone in &zones {
            for name in ["backend", "backend-v2", "web"] {
                self.make_token(&format!("{zone}-{name}")).await?;
            }
            self.join(zone, "backend", "backend", "v1", None).await?;
            self.join(zone, "backend-v2", "backend-v2", "v2", None).await?;
            self.join(zone, "web", "web", "v1", Some("backend")).await?;
        }
        Ok(())
    }

    /// The address at which `web` of a zone reaches `backend`.
    pub fn road(&self, zone: &str, proxy: &str) -> Result<SocketAddr> {
        self.proxy(zone, proxy)?.outbound.with_context(|| format!("{proxy} of {zone} calls nothing"))
    }

    /// The logs of this run with their last lines, for a failure.
    pub fn last_words(&self, lines: usize) -> String {
        last_words(&self.dir, lines)
    }
}

/// The logs that lie in a run's directory, each with its last lines.
pub fn last_words(dir: &Path, lines: usize) -> String {
    let mut logs: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    logs.iter().map(|log| format!("--- {}\n{}\n", log.display(), last_lines(log, lines))).collect()
}

/// An address of the loopback network that stands for a host of a zone.
fn host_of(subnet: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, subnet, host)
}

fn global_of(programs: &Programs, dir: &Path) -> (ControlPlane, SocketAddr) {
    let data_dir = dir.join("global");
    let [api, https, link, peers, diagnostics] =
        [(); 5].map(|()| SocketAddr::from((HERE, ports::free(&[HERE.into()]))));
    let launch = Launch::new("global", &programs.global_cp, dir)
        .arg("run")
        .flag("--data-dir", &data_dir)
        .flag("--api-bind", api.to_string())
        .flag("--api-https-bind", https.to_string())
        .flag("--link-bind", link.to_string())
        .flag("--peer-bind", peers.to_string())
        .flag("--diagnostics-bind", diagnostics.to_string());
    (ControlPlane { launch, process: None, api, diagnostics, data_dir }, link)
}

/// The revision that `weftctl` told of: the last number that follows the word.
fn revision_in(text: &str) -> Result<u64> {
    let words: Vec<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let numbers = words.windows(2).filter(|pair| pair[0].eq_ignore_ascii_case("revision"));
    let last = numbers.filter_map(|pair| pair[1].parse().ok()).next_back();
    last.with_context(|| format!("weftctl told no revision: {text:?}"))
}

/// Kuma's rule: a zone is online while one of its subscriptions has begun and not ended.
fn is_online(overview: &serde_json::Value, zone: &str) -> bool {
    let items = overview["items"].as_array().into_iter().flatten();
    let mine = items.filter(|item| item["name"] == zone);
    let mut subscriptions =
        mine.flat_map(|item| item["zoneInsight"]["subscriptions"].as_array().into_iter().flatten());
    subscriptions.any(|one| one["connectTime"].is_string() && !one["disconnectTime"].is_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_revision_of_a_text_counts() {
        let text = "Mesh default: created, revision 7\nMeshTimeout default/a: unchanged (revision 12)\n";
        assert_eq!(revision_in(text).expect("a revision"), 12);
        assert!(revision_in("nothing").is_err());
    }

    #[test]
    fn a_zone_is_online_while_a_subscription_is_open() {
        let open = json!({"items": [{"name": "z", "zoneInsight": {"subscriptions": [
            {"connectTime": "2026-01-01T00:00:00Z", "disconnectTime": "2026-01-01T00:00:01Z"},
            {"connectTime": "2026-01-01T00:00:02Z"}]}}]});
        assert!(is_online(&open, "z"));
        assert!(!is_online(&open, "y"));
        assert!(!is_online(&json!({"items": [{"name": "z"}]}), "z"));
    }
}
